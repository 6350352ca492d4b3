//! Becoming root of a user namespace.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use rustix::thread::UnshareFlags;

use super::super::protocol::{Identity, Step};
use super::failure::{Context as _, During as _, Failure};
use super::init::{Forked, fork};

/// Becomes who the task says. For a range of ids another process, outside the namespace, asks
/// `newuidmap` and `newgidmap` to give it.
pub(super) fn assume(identity: &Identity) -> Result<(), Failure> {
    match identity {
        Identity::Root => Ok(()),
        Identity::Single { uid, gid } => {
            unshare_user()?;
            let write = |file: &str, text: String| {
                std::fs::write(format!("/proc/self/{file}"), text)
                    .because("map the user into a user namespace")
                    .during(Step::MapIds)
            };
            write("setgroups", "deny".to_owned())?;
            write("uid_map", format!("0 {uid} 1\n"))?;
            write("gid_map", format!("0 {gid} 1\n"))
        }
        Identity::Range { uid, gid, sub_uids, sub_gids } => {
            let me = rustix::process::getpid().as_raw_nonzero().get();
            let pipe = || std::io::pipe().because("map ids");
            let ((ready, set_ready), (mut mapped, set_mapped)) = (pipe()?, pipe()?);
            match fork().because("map ids")? {
                Forked::Child => {
                    drop((set_ready, mapped));
                    let (mut ready, mut set_mapped) = (ready, set_mapped);
                    let mut go = [0];
                    if ready.read_exact(&mut go).is_ok() {
                        let text = match map(me, (*uid, *sub_uids), (*gid, *sub_gids)) {
                            Ok(()) => String::from("ok"),
                            Err(text) => text,
                        };
                        let _ = set_mapped.write_all(text.as_bytes());
                    }
                    std::process::exit(0);
                }
                Forked::Parent(child) => {
                    drop((ready, set_mapped));
                    let mut set_ready = set_ready;
                    unshare_user()?;
                    set_ready.write_all(&[1]).because("map ids")?;
                    let mut text = String::new();
                    mapped.read_to_string(&mut text).because("map ids")?;
                    let _ = rustix::process::waitpid(
                        Some(child),
                        rustix::process::WaitOptions::empty(),
                    );
                    if text != "ok" {
                        return Err(Failure::new("map subordinate ids", text)).during(Step::MapIds);
                    }
                    drop_groups(identity)
                }
            }
        }
    }
}

/// Drops the groups of the user, which have no place in the namespace. Where it has one user, they
/// cannot be dropped.
pub(super) fn drop_groups(identity: &Identity) -> Result<(), Failure> {
    if identity.one_owner() {
        return Ok(());
    }
    let none: &[rustix::process::Gid] = &[];
    rustix::thread::set_thread_groups(none).because("drop the user's groups").during(Step::Groups)
}

fn unshare_user() -> Result<(), Failure> {
    // SAFETY: the helper has one thread, and holds no file descriptor table that another shares.
    let made = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) };
    made.because("make a user namespace").during(Step::UserNamespace)
}

fn map(process: i32, users: (u32, (u32, u32)), groups: (u32, (u32, u32))) -> Result<(), String> {
    for (program, (own, (first, count))) in [("newuidmap", users), ("newgidmap", groups)] {
        let numbers = [0, own, 1, 1, first, count].map(|number| number.to_string());
        let output = Command::new(program)
            .arg(process.to_string())
            .args(numbers)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot start `{program}`: {error}"))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(format!("`{program}` failed: {}", text.trim()));
        }
    }
    Ok(())
}
