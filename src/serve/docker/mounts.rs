//! Directories that a container asks for: of the host, in memory, and in volumes.

use std::collections::{BTreeMap, BTreeSet};

use bollard_stubs::models::{HostConfig, Mount, MountType};

use crate::engine::{HostBind, Tmpfs, mount_target};

use super::allowed_binds::AllowedBinds;
use super::answer::Refusal;
use super::volumes;

/// What is mounted in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mounts {
    /// Of the host.
    pub(super) binds: Vec<HostBind>,
    /// In memory.
    pub(super) tmpfs: Vec<Tmpfs>,
    /// Kept in volumes.
    pub(super) volumes: Vec<VolumeMount>,
}

/// A volume in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct VolumeMount {
    /// Its name; empty until an anonymous one has got it.
    pub(super) name: String,
    /// Where it is mounted.
    pub(super) target: String,
    /// Whether it cannot be written.
    pub(super) read_only: bool,
    /// Whether an empty one is filled with what the image has there.
    pub(super) copies: bool,
    /// Whether it goes with its container.
    pub(super) is_anonymous: bool,
    /// What a new one gets.
    pub(super) labels: BTreeMap<String, String>,
    /// What a new one is made with.
    pub(super) options: BTreeMap<String, String>,
}

impl Mounts {
    fn targets(&self) -> impl Iterator<Item = &str> {
        let binds = self.binds.iter().map(|one| one.target.as_str());
        let tmpfs = self.tmpfs.iter().map(|one| one.target.as_str());
        binds.chain(tmpfs).chain(self.volumes.iter().map(|one| one.target.as_str()))
    }

    /// Tells whether something is mounted at a path.
    pub(super) fn has(&self, target: &str) -> bool {
        self.targets().any(|known| known == target)
    }

    /// Adds an anonymous volume where nothing is mounted yet.
    pub(super) fn add_anonymous(&mut self, path: &str) -> Result<(), Refusal> {
        let target = target_of(path)?;
        if !self.has(&target) {
            self.volumes.push(anonymous(target, false));
        }
        Ok(())
    }

    /// Takes what another container has, as `VolumesFrom` does.
    pub(super) fn take_from(&mut self, other: &Mounts, read_only: bool) {
        for bind in &other.binds {
            if !self.has(&bind.target) {
                let read_only = read_only || bind.read_only;
                self.binds.push(HostBind { read_only, ..bind.clone() });
            }
        }
        for volume in &other.volumes {
            if !self.has(&volume.target) {
                let read_only = read_only || volume.read_only;
                // It stays with whoever had it first.
                let taken = VolumeMount { read_only, is_anonymous: false, ..volume.clone() };
                self.volumes.push(taken);
            }
        }
    }
}

fn anonymous(target: String, read_only: bool) -> VolumeMount {
    VolumeMount { target, read_only, copies: true, is_anonymous: true, ..VolumeMount::default() }
}

/// Reads what a container asks for, beside the volumes that need no name.
///
/// # Errors
/// Where it is not allowed, not there, no mount, or two are at one path.
pub(super) fn read(
    host: &HostConfig,
    allowed: &AllowedBinds,
    warnings: &mut Vec<String>,
) -> Result<Mounts, Refusal> {
    let mut mounts = Mounts::default();
    for text in host.binds.iter().flatten() {
        add_text(text, allowed, &mut mounts)?;
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
    let mut seen = BTreeSet::new();
    if let Some(twice) = mounts.targets().find(|target| !seen.insert(*target)) {
        return Err(Refusal::bad(format!("Duplicate mount point: {twice}")));
    }
    Ok(mounts)
}

/// Adds `SOURCE:TARGET[:OPTIONS]`, where the source is a path or the name of a volume; or a target alone.
fn add_text(text: &str, allowed: &AllowedBinds, mounts: &mut Mounts) -> Result<(), Refusal> {
    if text.starts_with('/') && !text.contains(':') {
        return mounts.add_anonymous(text);
    }
    let (source, target, options) = split(text)?;
    let (mut read_only, mut copies) = (false, true);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "nocopy" => copies = false,
            // Labels of SELinux, propagation, and what is so anyway.
            "rw" | "z" | "Z" | "rprivate" | "private" | "rslave" | "slave" | "rshared"
            | "shared" | "cached" | "delegated" | "consistent" => {}
            other => return Err(Refusal::bad(format!("invalid mode of `{text}`: {other}"))),
        }
    }
    let target = target_of(target)?;
    if source.starts_with('/') {
        let source = allowed.find(source, true)?;
        mounts.binds.push(HostBind { source, target, read_only });
    } else {
        let name = volumes::check_name(source)?.to_owned();
        mounts.volumes.push(VolumeMount {
            name,
            target,
            read_only,
            copies,
            ..VolumeMount::default()
        });
    }
    Ok(())
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
    mount_target(text).map_err(Refusal::bad)
}

/// Reads a directory in memory with the options of `mount`.
fn tmpfs(target: &str, options: &str, warnings: &mut Vec<String>) -> Result<Tmpfs, Refusal> {
    let (tmpfs, ignored) = Tmpfs::read(target, options).map_err(Refusal::bad)?;
    let warning = |option| format!("option `{option}` of tmpfs `{}` is ignored", tmpfs.target);
    warnings.extend(ignored.into_iter().map(warning));
    Ok(tmpfs)
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
        Some(MountType::VOLUME) => mounts.volumes.push(volume(mount, target, read_only)?),
        _ => {
            return Err(Refusal::unserved(format!(
                "the mount at `{target}` is neither a bind nor a tmpfs nor a volume"
            )));
        }
    }
    Ok(())
}

/// Reads a volume of the list of mounts.
fn volume(mount: &Mount, target: String, read_only: bool) -> Result<VolumeMount, Refusal> {
    let options = mount.volume_options.clone().unwrap_or_default();
    let driver = options.driver_config.unwrap_or_default();
    volumes::check_driver(driver.name.as_deref())?;
    if options.subpath.is_some_and(|path| !path.is_empty()) {
        return Err(Refusal::unserved(format!(
            "a part of a volume (`Subpath`) is not served: mount all of it at `{target}`"
        )));
    }
    let name = mount.source.clone().unwrap_or_default();
    if name.is_empty() {
        let labels = options.labels.unwrap_or_default().into_iter().collect();
        return Ok(VolumeMount { labels, ..anonymous(target, read_only) });
    }
    Ok(VolumeMount {
        name: volumes::check_name(&name)?.to_owned(),
        target,
        read_only,
        copies: options.no_copy != Some(true),
        is_anonymous: false,
        labels: options.labels.unwrap_or_default().into_iter().collect(),
        options: driver.options.unwrap_or_default().into_iter().collect(),
    })
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
        for wrong in ["/etc:/x", "-name:/x", "/", "/:/", ":/x", "a:/x:what"] {
            let refused = read(&host(&[wrong.to_owned()]), &allowed, &mut Vec::new());
            assert!(refused.is_err(), "{wrong}");
        }
        std::os::unix::fs::symlink("/etc", source.join("out")).unwrap();
        for out in ["out", "out/deeper", "../x"] {
            let text = format!("{}/{out}:/x", source.display());
            assert!(read(&host(&[text]), &allowed, &mut Vec::new()).is_err(), "{out}");
        }
        let named = ["data:/x:ro,nocopy".to_owned(), "/y".to_owned()];
        let found = read(&host(&named), &allowed, &mut Vec::new()).unwrap().volumes;
        assert_eq!(
            (found[0].name.as_str(), found[0].read_only, found[0].copies),
            ("data", true, false)
        );
        assert!(found[1].is_anonymous && found[1].copies);
        let twice = ["data:/x".to_owned(), "more:/x/".to_owned()];
        assert!(read(&host(&twice), &allowed, &mut Vec::new()).is_err());
        let nothing = AllowedBinds::below(&[]);
        let text = format!("{}:/x", source.display());
        assert!(read(&host(&[text]), &nothing, &mut Vec::new()).is_err());
    }
}
