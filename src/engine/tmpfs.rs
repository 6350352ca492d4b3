//! Directories in memory, and where in a container something is mounted.

use std::path::{Component, Path};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A directory in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// An absolute path in the container; made when it is not there.
    pub target: String,
    /// The most that it holds, in bytes; without it half of the memory.
    pub size: Option<u64>,
    /// Its permissions, such as `0o1777`.
    pub mode: u32,
    /// Whether programs in it can be run.
    pub executable: bool,
    /// Whether it cannot be written.
    pub read_only: bool,
}

impl Tmpfs {
    /// Reads one with the options of `mount`, as `docker run --tmpfs` takes them: `size=64m,exec`.
    /// Returns the options as well that have no meaning here.
    ///
    /// # Errors
    /// What is wrong with the path or with an option.
    pub(crate) fn read<'a>(
        target: &str,
        options: &'a str,
    ) -> Result<(Tmpfs, Vec<&'a str>), String> {
        let target = mount_target(target)?;
        let mut tmpfs =
            Tmpfs { target, size: None, mode: 0o1777, executable: false, read_only: false };
        let mut ignored = Vec::new();
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("size", size)) => tmpfs.size = Some(crate::size::bytes(size)?),
                Some(("mode", mode)) => {
                    tmpfs.mode = u32::from_str_radix(mode, 8)
                        .ok()
                        .filter(|mode| *mode <= 0o7777)
                        .ok_or_else(|| {
                        format!("`{mode}` is no mode: write it as 755 or 1777")
                    })?;
                }
                None if option == "exec" => tmpfs.executable = true,
                None if option == "noexec" => tmpfs.executable = false,
                None if option == "ro" => tmpfs.read_only = true,
                None if matches!(option, "rw" | "nosuid" | "nodev" | "noatime" | "relatime") => {}
                _ => ignored.push(option),
            }
        }
        Ok((tmpfs, ignored))
    }
}

impl FromStr for Tmpfs {
    type Err = String;

    /// Reads `PATH` or `PATH:OPTIONS`, as `docker run --tmpfs` takes it. An option that has no meaning here
    /// is refused.
    fn from_str(text: &str) -> Result<Tmpfs, String> {
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        match Tmpfs::read(target, options)? {
            (tmpfs, ignored) if ignored.is_empty() => Ok(tmpfs),
            (_, ignored) => Err(format!("`{}` is no option of a directory in memory", ignored[0])),
        }
    }
}

/// Checks a path of a container that something is mounted on; returns it without slashes at its end.
///
/// # Errors
/// Where it is not absolute, climbs, or is `/`.
pub(crate) fn mount_target(text: &str) -> Result<String, String> {
    let path = Path::new(text);
    let climbs = path.components().any(|part| part == Component::ParentDir);
    match path.is_absolute() && path.parent().is_some() && !climbs && !text.contains('\0') {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err(format!(
            "invalid mount path: '{text}': it has to be absolute, without `..`, and not `/`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_those_of_mount() {
        let (found, ignored) = Tmpfs::read("/tmp/", "rw,exec,size=64m,mode=755,uid=3").unwrap();
        let right = Tmpfs {
            target: "/tmp".to_owned(),
            size: Some(64 << 20),
            mode: 0o755,
            executable: true,
            read_only: false,
        };
        assert_eq!((found, ignored), (right, vec!["uid=3"]));
        assert!(Tmpfs::read("/tmp", "size=much").is_err());
        assert!(Tmpfs::read("/tmp", "mode=99").is_err());
        assert!(Tmpfs::read("/tmp", "mode=77777").is_err());
    }

    #[test]
    fn nothing_is_mounted_where_it_cannot_be() {
        assert_eq!(mount_target("/a/b//").as_deref(), Ok("/a/b"));
        for wrong in ["", "tmp", "/", "//", "/a/../b", "/a\0"] {
            assert!(mount_target(wrong).is_err(), "{wrong:?}");
        }
    }
}
