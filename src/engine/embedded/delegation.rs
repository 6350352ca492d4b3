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
use super::helper_client::HelperClient;

/// How long the move may take.
const WAIT: Duration = Duration::from_secs(5);

/// The directory of the engine that names where groups were made.
const RECORDS: &str = "groups";

/// What lets a run stay after the last login.
pub const LINGER: &str = "`sudo loginctl enable-linger $USER` lets it go on";

/// Makes ready where the groups of containers are made, once in a process. Blocks.
pub(super) fn prepare(helper_client: &HelperClient, dir: &Path) {
    let identity = &helper_client.identity;
    static PREPARED: OnceLock<()> = OnceLock::new();
    PREPARED.get_or_init(|| {
        if !helper::is_unified() {
            return;
        }
        if in_login() && helper::groups_parent(identity).is_err() {
            // Without a scope the limits are those of single processes, and a warning says so.
            let _ = move_to_scope(helper_client);
        }
        if let Ok(parent) = helper::groups_parent(identity) {
            record(dir, &parent);
        }
    });
}

/// Tells whether what runs here ends with the user's last login: its systemd does not stay, and
/// the login leaves no process behind.
pub fn ends_with_login() -> bool {
    helper::is_unified() && in_login() && bus().is_some() && !stays() && logins_end_processes()
}

/// Tells whether this process is where a login of its own user put it. Whoever was put elsewhere,
/// with limits of its own, stays there; so does who became another user in a login.
fn in_login() -> bool {
    let user = rustix::process::geteuid().as_raw();
    user != 0 && helper::own_group().is_ok_and(|own| is_of_login(&own, user))
}

fn is_of_login(group: &Path, user: u32) -> bool {
    let name = group.file_name().unwrap_or_default().to_string_lossy();
    let slice = group.parent().and_then(Path::file_name).unwrap_or_default();
    name.starts_with("session-")
        && name.ends_with(".scope")
        && slice == format!("user-{user}.slice").as_str()
}

/// Tells whether the end of a login is the end of its processes (`KillUserProcesses=` of logind).
fn logins_end_processes() -> bool {
    let asked = Command::new("busctl")
        .args(["--system", "get-property", "org.freedesktop.login1", "/org/freedesktop/login1"])
        .args(["org.freedesktop.login1.Manager", "KillUserProcesses"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    asked.is_ok_and(|output| output.stdout.starts_with(b"b true"))
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
///
/// A helper stays behind where the login put it, until this process ends: a login with a process is
/// not over, and so the user's systemd stays, as it would without the move.
fn move_to_scope(helper_client: &HelperClient) -> Option<()> {
    let bus = bus()?;
    std::mem::forget(helper_client.wait_with_us().ok()?);
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
    fn only_a_login_of_the_user_itself_is_left() {
        let of_login = |path: &str, user| is_of_login(Path::new(path), user);
        assert!(of_login("/sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope", 1000));
        assert!(!of_login("/sys/fs/cgroup/user.slice/user-0.slice/session-3.scope", 1000));
        assert!(!of_login("/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service", 1000));
        assert!(!of_login("/sys/fs/cgroup/system.slice/session-3.scope", 1000));
        assert!(!of_login("/sys/fs/cgroup", 1000));
    }

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
