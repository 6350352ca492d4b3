//! What the engine is, which images it has, and their names.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::reference::Reference;
use crate::engine::{EngineError, EngineInfo, EngineKind, Image, Limitation, ListedImage, Result};
use crate::key::ImageId;
use crate::platform::Platform;

use super::layout::{Stored, familiar, matches};
use super::protocol::{Identity, Storage};
use super::{EmbeddedEngine, delegation};

impl EmbeddedEngine {
    pub(super) fn read_info(&self) -> Result<EngineInfo> {
        Ok(EngineInfo {
            kind: EngineKind::Embedded,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_version: String::new(),
            platform: Platform::host(),
            store: self.describe(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory(),
            root: Some(self.dir.clone()),
            limitations: if self.probed { self.limitations() } else { Vec::new() },
        })
    }

    /// Lists what cannot be had of containers here.
    fn limitations(&self) -> Vec<Limitation> {
        let mut found = Vec::new();
        let container = super::confinement::in_container();
        let mut add = |what: &str, fix| found.push(Limitation { what: what.to_owned(), fix });
        if self.snapshots.storage() == Storage::Copy {
            let fix = match container {
                true => "name a state directory on a volume, not in the container (--state-dir)",
                false => {
                    "name a state directory on ext4, xfs or btrfs (--state-dir); plain users need \
                     Linux 5.11 or newer"
                }
            };
            add("every container begins with a copy of its files: there is no overlayfs here", fix);
        }
        if self.helper_client.identity.one_owner() {
            let fix = if rustix::process::geteuid().is_root() {
                "run as root with all capabilities, in a container with `--privileged`"
            } else if super::confinement::has_no_new_privileges() {
                "start imgforge where new privileges may be had: `no_new_privs` keeps `newuidmap` \
                 from working"
            } else if matches!(super::machine::identity(), Identity::Range { .. }) {
                "`newuidmap` may not give the range of /etc/subuid here: in a container, start that \
                 with `--cap-add SYS_ADMIN`"
            } else {
                "install `uidmap`, and give yourself a range of ids: \
                 `sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER`"
            };
            add("containers have one user: other owners of files are kept, and not enforced", fix);
        }
        let ends_with_login = delegation::ends_with_login();
        delegation::prepare(&self.helper_client, &self.dir);
        if let Err(why) = super::helper::limits_groups(&self.helper_client.identity, &self.owner) {
            let fix = match container || rustix::process::geteuid().is_root() {
                true => "start the container with `--privileged`, or use the engine's socket",
                false => {
                    "run as root, or with delegated control groups: `systemd-run --user --scope -p \
                     Delegate=yes imgforge …`; `sudo loginctl enable-linger $USER` lets that stay after the \
                     last login"
                }
            };
            let what = format!("memory is measured, and processes are limited one by one ({why})");
            add(&what, fix);
        } else if ends_with_login {
            add("what runs ends with your last login", delegation::LINGER);
        }
        found
    }

    pub(super) fn list_images(&self) -> Result<Vec<ListedImage>> {
        let mut listed: BTreeMap<ImageId, ListedImage> = BTreeMap::new();
        for named in self.layout.names()? {
            if let Some(image) = listed.get_mut(&named.id) {
                image.tags.extend(named.tag);
                continue;
            }
            let Some(stored) = self.layout.stored(&named.manifest)? else { continue };
            let image = ListedImage {
                id: named.id.clone(),
                tags: named.tag.into_iter().collect(),
                labels: stored.config.labels.clone(),
                size: stored.size(),
            };
            listed.insert(named.id, image);
        }
        Ok(listed.into_values().collect())
    }

    pub(super) fn inspect_image(&self, reference: &str) -> Result<Option<Image>> {
        let mut names = self.layout.names()?;
        if !names.iter().any(|known| matches(known, reference))
            && tokio::task::block_in_place(|| self.seal(reference))?.is_some()
        {
            names = self.layout.names()?;
        }
        let Some(found) = names.iter().find(|known| matches(known, reference)) else {
            return Ok(None);
        };
        let Some(stored) = self.layout.stored(&found.manifest)? else { return Ok(None) };
        let mine = || names.iter().filter(|known| known.id == stored.id);
        Ok(Some(Image {
            id: stored.id.clone(),
            tags: mine().filter_map(|known| known.tag.clone()).collect(),
            repo_digests: mine().filter_map(|known| known.repo_digest.clone()).collect(),
            diff_ids: stored.diff_ids.clone(),
            platform: stored.platform.clone(),
            size: stored.size(),
            config: stored.config.clone(),
        }))
    }

    /// Finds an image, which has to be there, for an operation that has begun.
    pub(super) fn needed(&self, reference: &str) -> Result<Arc<Stored>> {
        if let Some(found) = self.layout.find(reference)? {
            return Ok(found);
        }
        let missing = || EngineError::NoSuchImage { reference: reference.to_owned() };
        tokio::task::block_in_place(|| self.seal(reference))?.ok_or_else(missing)
    }

    pub(super) fn tag_image(&self, image: &str, name: &Reference) -> Result<()> {
        let stored = self.needed(image)?;
        self.layout.name(&stored, &familiar(name.as_str()))
    }

    /// Takes a name away, or an image with all of its names. Layers that no image needs stay until
    /// the cache is collected.
    pub(super) fn remove_image(&self, reference: &str) -> Result<()> {
        if reference.starts_with("sha256:") {
            return self.layout.forget(reference);
        }
        self.remove_checkpoint(reference)?;
        self.layout.unname(&familiar(reference))
    }
}

/// Returns the bytes of memory of this machine.
fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit)
}
