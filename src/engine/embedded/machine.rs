//! What this machine allows: who containers run as, and how layers are put together.
//!
//! It is found out by running a program in containers as evaluations and builds have them, and
//! remembered for this kernel and version, until the kernel refuses a container after all.

use std::path::{Path, PathBuf};

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use crate::engine::{Confinement, EngineError, NoLog, Quotas, Result};
use crate::key::DiffId;

use super::capabilities;
use super::helper_client::HelperClient;
use super::layout::file_error;
use super::protocol::{Container, Ends, Identity, Limits, Network, Operation, Storage};
use super::snapshots::Snapshots;
use super::trial;

/// What was found out, in the engine's directory.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Findings {
    /// Kernel and version of imgforge.
    machine: String,
    /// Who was tried first.
    preferred: Identity,
    identity: Identity,
    storage: Storage,
}

/// What is known before anything is tried.
pub(super) struct Wish<'a> {
    /// The engine's directory.
    pub dir: &'a Path,
    /// The program that becomes a helper.
    pub program: PathBuf,
    /// Who owns what is made.
    pub owner: &'a str,
    /// How layers must be put together.
    pub storage: Option<Storage>,
    /// Whether what was found before is not believed.
    pub anew: bool,
}

/// Returns what asks helpers, before it is known whether they can make containers.
pub(super) fn helper_client(dir: &Path, program: PathBuf) -> HelperClient {
    HelperClient { program, identity: identity(), findings: dir.join("machine.json") }
}

/// Finds who containers run as here, and how layers are put together. Blocks; within a runtime.
///
/// # Errors
/// [`EngineError::Confined`] where this process may make no containers.
pub(super) fn find(wish: Wish<'_>) -> Result<(HelperClient, Storage)> {
    let helper_client = helper_client(wish.dir, wish.program.clone());
    if let (Some(storage), false) = (wish.storage, wish.anew) {
        return Ok((helper_client, storage));
    }
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let machine = format!("{kernel}, imgforge {}", env!("CARGO_PKG_VERSION"));
    let preferred = helper_client.identity.clone();
    if !wish.anew
        && let Ok(text) = std::fs::read(&helper_client.findings)
        && let Ok(known) = serde_json::from_slice::<Findings>(&text)
        && (&known.machine, &known.preferred) == (&machine, &preferred)
    {
        return Ok((HelperClient { identity: known.identity, ..helper_client }, known.storage));
    }
    // The first refusal is of what a user would expect to work.
    let mut refusal = None;
    for identity in candidates(&preferred) {
        let helper_client = HelperClient { identity, ..helper_client.clone() };
        for storage in [Storage::Overlay, Storage::Copy] {
            if wish.storage.is_some_and(|wanted| wanted != storage) {
                continue;
            }
            match try_out(&wish, &helper_client, storage) {
                Ok(()) => {
                    let identity = helper_client.identity.clone();
                    let found = Findings { machine, preferred, identity, storage };
                    let text = serde_json::to_vec(&found).expect("names are valid JSON");
                    crate::atomic::write(&helper_client.findings, &text, false).map_err(
                        file_error("remember what this machine allows", &helper_client.findings),
                    )?;
                    return Ok((helper_client, storage));
                }
                Err(error @ EngineError::NoSpace { .. }) => return Err(error),
                // Without overlayfs there are copies: of these two the last refusal tells.
                Err(error) if storage == Storage::Copy || wish.storage.is_some() => {
                    // Whoever gets no ids may be refused for what a single user meets as well.
                    let of_ids = Some(Confinement::Ids);
                    if refusal.is_none() || refusal.as_ref().and_then(confinement) == of_ids {
                        refusal = Some(error);
                    }
                }
                Err(_) => {}
            }
        }
    }
    Err(refusal.expect("one way was tried"))
}

/// Returns what lets this process make no containers, where that is the error.
fn confinement(error: &EngineError) -> Option<Confinement> {
    match error {
        EngineError::Confined { confinement, .. } => Some(confinement.clone()),
        _ => None,
    }
}

/// Whoever has a range of ids that the system does not give can still be one user.
fn candidates(preferred: &Identity) -> Vec<Identity> {
    let mut candidates = vec![preferred.clone()];
    if let Identity::Range { uid, gid, .. } = *preferred {
        candidates.push(Identity::Single { uid, gid });
    }
    candidates
}

/// Tries one way to put layers together, and to run what is in them, in a directory of its own.
fn try_out(wish: &Wish<'_>, helper_client: &HelperClient, storage: Storage) -> Result<()> {
    let action = "try what this machine allows";
    let directory = tempfile::Builder::new().prefix("probe-").tempdir_in(wish.dir);
    let directory = directory.map_err(file_error(action, wish.dir))?.keep();
    let tried = helper_client
        .call(Operation::Probe { directory: directory.clone(), storage }, None, None)
        .and_then(|()| run(wish.owner, helper_client, &directory, storage));
    let removed =
        helper_client.call(Operation::Remove { paths: vec![directory.clone()] }, None, None);
    if removed.is_err() {
        // Where no helper can work, nothing in it belongs to another user.
        let _ = std::fs::remove_dir_all(&directory);
    }
    tried
}

/// Runs a program in a sandbox as evaluations have it, and with the network of build steps.
fn run(
    owner: &str,
    helper_client: &HelperClient,
    directory: &Path,
    storage: Storage,
) -> Result<()> {
    let snapshots = Snapshots::open(directory, storage, helper_client.clone(), owner)?;
    let layer = DiffId::from("sha256:trial");
    trial::write(&snapshots.layers().join(Snapshots::name(&layer)))
        .map_err(file_error("try what this machine allows", directory))?;
    for network in [Network::SilentPeer, Network::Host] {
        let container = Container {
            root: snapshots.root(vec![Snapshots::name(&layer)], true)?,
            command: vec![trial::PROGRAM.to_owned()],
            env: Vec::new(),
            working_dir: String::new(),
            user: String::new(),
            network,
            loopback_names: Vec::new(),
            binds: Vec::new(),
            files: Vec::new(),
            capabilities: capabilities::SANDBOX,
            no_new_privileges: true,
            ends: Ends::Log,
            limits: Limits::default(),
            quotas: Quotas::default(),
            settings: crate::engine::SessionSettings::default(),
        };
        let ran = helper_client.run(container, &[], None, &NoLog, None);
        let ended = tokio::runtime::Handle::current().block_on(ran)?;
        if ended.code != 0 {
            return Err(EngineError::Refused {
                action: "run a program in a container".to_owned(),
                reason: format!("it ended with code {}", ended.code),
            });
        }
    }
    Ok(())
}

/// What root needs to make containers without a user namespace, as numbers of `capabilities(7)`:
/// to change owners, modes, groups and users, to bound capabilities, to make networks and mounts.
const OF_ROOT: [u32; 9] = [0, 1, 3, 6, 7, 8, 12, 18, 21];

/// Finds out who this process should be able to be towards the files of images. The system may still
/// refuse a range of ids that its files give.
pub(super) fn identity() -> Identity {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if uid == 0 {
        // Root of a user namespace alone, or without its capabilities, can do no more than a plain
        // user.
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let all = matches!(
            map.split_whitespace().collect::<Vec<_>>().as_slice(),
            ["0", "0", count] if *count == u32::MAX.to_string()
        );
        let held = rustix::thread::capabilities(None).map(|sets| sets.effective);
        let able = held.is_ok_and(|held| {
            OF_ROOT.iter().all(|bit| held.contains(CapabilitySet::from_bits_retain(1 << bit)))
        });
        return match all && able {
            true => Identity::Root,
            false => Identity::Single { uid, gid },
        };
    }
    let name = user_name(uid);
    let ids = |file: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        subordinate_ids(&text, uid, name.as_deref())
    };
    let here = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    };
    match (ids("/etc/subuid"), ids("/etc/subgid")) {
        (Some(sub_uids), Some(sub_gids)) if here("newuidmap") && here("newgidmap") => {
            Identity::Range { uid, gid, sub_uids, sub_gids }
        }
        _ => Identity::Single { uid, gid },
    }
}

pub(super) fn user_name(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Returns the first range of a user in `/etc/subuid` or `/etc/subgid` that is large enough for the
/// users of an image: first and number.
fn subordinate_ids(text: &str, uid: u32, name: Option<&str>) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let user = fields.next()?;
        let mine = user.parse() == Ok(uid) || Some(user) == name;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (mine && count >= 65536_u32).then_some((first, count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_belongs_to_a_user_by_name_or_number_and_is_large_enough() {
        let text = "root:100000:65536\nme:165536:10\nme:200000:65536\n1001:300000:131072\n";
        assert_eq!(subordinate_ids(text, 1000, Some("me")), Some((200_000, 65536)));
        assert_eq!(subordinate_ids(text, 1001, None), Some((300_000, 131_072)));
        assert_eq!(subordinate_ids(text, 1002, Some("you")), None);
    }
}
