//! Directories of the host and in memory that a container asks for.

use std::path::{Path, PathBuf};

use bollard_stubs::models::{HostConfig, Mount, MountType};

use crate::engine::{HostBind, Tmpfs};

use super::answer::Refusal;

/// The directories below which containers may have files of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedBinds(Vec<PathBuf>);

impl AllowedBinds {
    /// Allows what is below these directories, and themselves; links in them are followed. Those that
    /// are not there allow nothing.
    pub fn below(directories: &[PathBuf]) -> AllowedBinds {
        AllowedBinds(directories.iter().filter_map(|path| path.canonicalize().ok()).collect())
    }

    /// Finds what a container asks for. A directory that is not there is made where `make` is set, as
    /// Docker does.
    fn find(&self, source: &str, make: bool) -> Result<PathBuf, Refusal> {
        let path = Path::new(source);
        if !path.is_absolute() {
            return Err(Refusal::unserved(format!(
                "named volumes are not served: `{source}` is no absolute path"
            )));
        }
        // What is not there is judged by the last directory above it that is.
        let there = path.ancestors().find_map(|path| path.canonicalize().ok());
        let there = there.unwrap_or_default();
        if !self.0.iter().any(|allowed| there.starts_with(allowed)) {
            return Err(Refusal::bad(format!(
                "bind of `{source}` is not allowed: `imgforge serve --allow-bind DIR` names what \
                 containers may have"
            )));
        }
        let failed = |error| Refusal::bad(format!("invalid mount: `{source}`: {error}"));
        if make && !path.exists() {
            std::fs::create_dir_all(path).map_err(failed)?;
        }
        let found = path.canonicalize().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Refusal::bad(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {source}"
            )),
            _ => failed(error),
        })?;
        match self.0.iter().any(|allowed| found.starts_with(allowed)) {
            true => Ok(found),
            false => Err(Refusal::bad(format!("bind of `{source}` leads out of what is allowed"))),
        }
    }
}

/// What is mounted in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mounts {
    /// Of the host.
    pub(super) binds: Vec<HostBind>,
    /// In memory.
    pub(super) tmpfs: Vec<Tmpfs>,
    /// Made where they are not there: volumes without a name are files of the container here.
    pub(super) directories: Vec<String>,
}

/// Reads what a container asks for.
///
/// # Errors
/// Where it is not allowed, not there, or no mount.
pub(super) fn read(
    host: &HostConfig,
    allowed: &AllowedBinds,
    warnings: &mut Vec<String>,
) -> Result<Mounts, Refusal> {
    let mut mounts = Mounts::default();
    for text in host.binds.iter().flatten() {
        let (source, target, options) = split(text)?;
        let mut read_only = false;
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" => read_only = true,
                // Labels of SELinux, propagation, and what is so anyway.
                "rw" | "z" | "Z" | "rprivate" | "private" | "rslave" | "slave" | "rshared"
                | "shared" | "nocopy" | "cached" | "delegated" | "consistent" => {}
                other => return Err(Refusal::bad(format!("invalid mode of `{text}`: {other}"))),
            }
        }
        let source = allowed.find(source, true)?;
        mounts.binds.push(HostBind { source, target: target_of(target)?, read_only });
    }
    for (target, options) in host.tmpfs.iter().flatten() {
        mounts.tmpfs.push(tmpfs(target, options, warnings)?);
    }
    mounts.tmpfs.sort_by(|one, other| one.target.cmp(&other.target));
    for mount in host.mounts.iter().flatten() {
        add(mount, allowed, &mut mounts)?;
    }
    if let Some(size) = host.shm_size.and_then(|size| u64::try_from(size).ok()).filter(|n| *n > 0) {
        let target = "/dev/shm".to_owned();
        let (size, mode) = (Some(size), 0o1777);
        mounts.tmpfs.push(Tmpfs { target, size, mode, executable: false, read_only: false });
    }
    Ok(mounts)
}

/// Splits `SOURCE:TARGET[:OPTIONS]`.
fn split(text: &str) -> Result<(&str, &str, &str), Refusal> {
    let mut parts = text.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(source), Some(target), options) if !source.is_empty() => {
            Ok((source, target, options.unwrap_or_default()))
        }
        _ => Err(Refusal::bad(format!("invalid volume specification: '{text}'"))),
    }
}

/// Checks a path of a container that something is mounted on.
///
/// # Errors
/// Where it is not absolute, climbs, or is `/`.
pub(super) fn target_of(text: &str) -> Result<String, Refusal> {
    let path = Path::new(text);
    let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
    match path.is_absolute() && path.parent().is_some() && !climbs && !text.contains('\0') {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err(Refusal::bad(format!(
            "invalid mount path: '{text}': it has to be absolute, and not `/`"
        ))),
    }
}

/// Reads a directory in memory with the options of `mount`.
fn tmpfs(target: &str, options: &str, warnings: &mut Vec<String>) -> Result<Tmpfs, Refusal> {
    let target = target_of(target)?;
    let mut tmpfs = Tmpfs { target, size: None, mode: 0o1777, executable: false, read_only: false };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let wrong = || Refusal::bad(format!("invalid tmpfs option: {option:?}"));
        match option.split_once('=') {
            Some(("size", size)) => tmpfs.size = Some(bytes(size).ok_or_else(wrong)?),
            Some(("mode", mode)) => {
                tmpfs.mode = u32::from_str_radix(mode, 8).map_err(|_| wrong())?;
            }
            None if option == "exec" => tmpfs.executable = true,
            None if option == "noexec" => tmpfs.executable = false,
            None if option == "ro" => tmpfs.read_only = true,
            None if matches!(option, "rw" | "nosuid" | "nodev" | "noatime" | "relatime") => {}
            _ => warnings.push(format!("option `{option}` of tmpfs `{}` is ignored", tmpfs.target)),
        }
    }
    Ok(tmpfs)
}

/// Reads a size such as `64m`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

fn add(mount: &Mount, allowed: &AllowedBinds, mounts: &mut Mounts) -> Result<(), Refusal> {
    let target = target_of(mount.target.as_deref().unwrap_or_default())?;
    let read_only = mount.read_only == Some(true);
    match mount.typ {
        Some(MountType::BIND) => {
            let source = allowed.find(mount.source.as_deref().unwrap_or_default(), false)?;
            mounts.binds.push(HostBind { source, target, read_only });
        }
        Some(MountType::TMPFS) => {
            let options = mount.tmpfs_options.as_ref();
            let size = options.and_then(|options| options.size_bytes);
            let mode = options.and_then(|options| options.mode);
            mounts.tmpfs.push(Tmpfs {
                target,
                size: size.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0),
                mode: mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o1777),
                executable: false,
                read_only,
            });
        }
        Some(MountType::VOLUME) if mount.source.as_ref().is_none_or(String::is_empty) => {
            mounts.directories.push(target);
        }
        _ => {
            return Err(Refusal::unserved(format!(
                "the mount at `{target}` is neither a bind nor a tmpfs: volumes are not served"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(binds: &[String]) -> HostConfig {
        HostConfig { binds: Some(binds.to_vec()), ..HostConfig::default() }
    }

    #[test]
    fn a_bind_may_end_in_labels_and_has_to_be_below_what_is_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().canonicalize().unwrap();
        let allowed = AllowedBinds::below(std::slice::from_ref(&source));
        let text = format!("{}/new:/run/vf:Z,ro", source.display());
        let mounts = read(&host(&[text]), &allowed, &mut Vec::new()).unwrap();
        let bind = &mounts.binds[0];
        assert_eq!((bind.target.as_str(), bind.read_only), ("/run/vf", true));
        assert!(bind.source.is_dir(), "it is made");
        for wrong in ["/etc:/x", "name:/x", "/etc", "/:/", ":/x"] {
            let refused = read(&host(&[wrong.to_owned()]), &allowed, &mut Vec::new());
            assert!(refused.is_err(), "{wrong}");
        }
        std::os::unix::fs::symlink("/etc", source.join("out")).unwrap();
        for out in ["out", "out/deeper", "../x"] {
            let text = format!("{}/{out}:/x", source.display());
            assert!(read(&host(&[text]), &allowed, &mut Vec::new()).is_err(), "{out}");
        }
        let nothing = AllowedBinds::below(&[]);
        let text = format!("{}:/x", source.display());
        assert!(read(&host(&[text]), &nothing, &mut Vec::new()).is_err());
    }

    #[test]
    fn options_of_a_tmpfs_are_those_of_mount() {
        let mut warnings = Vec::new();
        let found = tmpfs("/tmp/", "rw,exec,size=64m,mode=755,uid=3", &mut warnings).unwrap();
        let right = Tmpfs {
            target: "/tmp".to_owned(),
            size: Some(64 << 20),
            mode: 0o755,
            executable: true,
            read_only: false,
        };
        assert_eq!(found, right);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(tmpfs("/tmp", "size=much", &mut warnings).is_err());
        assert!(tmpfs("tmp", "", &mut warnings).is_err());
    }
}
