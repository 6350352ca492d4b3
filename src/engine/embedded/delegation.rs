//! Control groups for a plain user: a scope of its own, from the user's systemd.
//!
//! A login by ssh or on a terminal gives its processes a group that they may not write to. The user's
//! own systemd moves a process that asks into a scope of its own, as it does for Podman; the groups
//! of containers are made below that, and systemd takes them away with it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::key::Digest;
use crate::owner::{Judge, Liveness};

use super::helper;
use super::task::Identity;

/// How long the move may take.
const WAIT: Duration = Duration::from_secs(5);

/// The directory of the engine that names where groups were made.
const RECORDS: &str = "groups";

/// What lets a run stay after the last login.
pub const LINGER: &str = "`loginctl enable-linger` lets it go on";

/// Makes ready where the groups of containers are made, once in a process. Blocks.
pub(super) fn prepare(identity: &Identity, dir: &Path) {
    static PREPARED: OnceLock<()> = OnceLock::new();
    PREPARED.get_or_init(|| {
        if !helper::is_unified() {
            return;
        }
        if in_login() && helper::groups_parent(identity).is_err() {
            // Without a scope the limits are those of single processes, and a warning says so.
            let _ = move_to_scope();
        }
        if let Ok(parent) = helper::groups_parent(identity) {
            record(dir, &parent);
        }
    });
}

/// Tells whether what runs here ends with the user's last login: it is in a scope of the user's
/// systemd, or will be, and that does not stay.
pub fn ends_with_login() -> bool {
    helper::is_unified() && in_login() && bus().is_some() && !stays()
}

/// Tells whether this process is where a login put it. Whoever was put elsewhere, with limits of its
/// own, stays there.
fn in_login() -> bool {
    let own = helper::own_group().unwrap_or_default();
    let name = own.file_name().unwrap_or_default().to_string_lossy();
    !rustix::process::geteuid().is_root()
        && name.starts_with("session-")
        && name.ends_with(".scope")
}

/// Returns the bus of this user's systemd, where there is one: never that of another user, whose
/// variables may have been inherited.
fn bus() -> Option<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let bus = PathBuf::from(format!("/run/user/{user}/bus"));
    fs::metadata(&bus).is_ok_and(|found| found.uid() == user).then_some(bus)
}

/// Tells whether the user's systemd stays after the last login, as `loginctl enable-linger` makes it.
fn stays() -> bool {
    let user = rustix::process::geteuid().as_raw();
    super::machine::user_name(user)
        .is_some_and(|name| Path::new("/var/lib/systemd/linger").join(name).exists())
}

/// Asks the user's systemd for a scope of this process, and waits until it is in it; then the
/// process goes to a leaf of it, since a group with processes passes nothing on.
fn move_to_scope() -> Option<()> {
    let bus = bus()?;
    let process = std::process::id().to_string();
    let scope = format!("imgforge-{process}.scope");
    let asked = Command::new("busctl")
        .args(["--user", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"])
        .args(["org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))"])
        .args([&scope, "fail", "2", "PIDs", "au", "1", &process, "Delegate", "b", "true", "0"])
        .env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", bus.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !asked.is_ok_and(|status| status.success()) {
        return None;
    }
    let began = Instant::now();
    let group = loop {
        let group = helper::own_group().ok()?;
        if group.ends_with(&scope) {
            break group;
        }
        if began.elapsed() > WAIT {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    helper::move_to_leaf(&group).ok()?;
    helper::pass_on(&group).ok()
}

/// Remembers where groups are made, for those who clean up.
fn record(dir: &Path, parent: &Path) {
    let text = parent.to_string_lossy();
    let records = dir.join(RECORDS);
    let name = Digest::of(text.as_bytes()).to_string();
    // Without a record an empty group may stay, until the machine starts anew.
    let _ = fs::create_dir_all(&records)
        .and_then(|()| crate::atomic::write(&records.join(name), text.as_bytes(), false));
}

/// Removes the groups that killed processes left, wherever they were made.
pub(super) fn remove_groups(dir: &Path, judge: &Judge<'_>) {
    let mount = Path::new("/sys/fs/cgroup");
    let mut parents = vec![mount.join(helper::GROUPS)];
    let hierarchies = fs::read_dir(mount).into_iter().flatten().flatten();
    parents.extend(hierarchies.map(|entry| entry.path().join(helper::GROUPS)));
    for record in fs::read_dir(dir.join(RECORDS)).into_iter().flatten().flatten() {
        let Ok(text) = fs::read_to_string(record.path()) else { continue };
        let parent = PathBuf::from(text);
        // A scope goes with its processes.
        if !parent.exists() {
            let _ = fs::remove_file(record.path());
        }
        parents.push(parent);
    }
    for parent in parents.iter().filter(|parent| parent.ends_with(helper::GROUPS)) {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let made = entry.metadata().and_then(|found| found.modified()).ok();
            let owner = name.rsplit_once('-').map(|(owner, _)| owner);
            if owner.is_some_and(|owner| judge(owner, made) == Liveness::Dead) {
                // One that is in use stays.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_the_dead_are_removed_wherever_they_were_made() {
        let dir = tempfile::tempdir().unwrap();
        let scope = dir.path().join("app.slice/imgforge");
        for name in ["1-2-gone-abc", "3-4-alive-abc"] {
            fs::create_dir_all(scope.join(name)).unwrap();
        }
        record(dir.path(), &scope);
        record(dir.path(), &dir.path().join("no.scope/imgforge"));
        let judge = |owner: &str, _| match owner {
            "1-2-gone" => Liveness::Dead,
            _ => Liveness::Alive,
        };
        remove_groups(dir.path(), &judge);
        let left: Vec<_> = fs::read_dir(&scope).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].file_name(), "3-4-alive-abc");
        assert_eq!(fs::read_dir(dir.path().join(RECORDS)).unwrap().count(), 1);
    }
}
