//! Places where imgforge may make no containers: every command that needs them says so in one
//! sentence, with what helps there, and exit code 3, before anything starts.
//!
//! The places are made with seccomp filters, dropped capabilities and the limits of namespaces of
//! the test's own. Only root can make them; a plain user is played by a number.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

mod common;

use common::needs::{NotHere, is_root, not_here};

/// A user that no test machine knows.
const NOBODY: u32 = 61_234;

/// A directory that everybody may use, with a program in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let program = dir.path().join("imgforge");
    std::fs::copy(env!("CARGO_BIN_EXE_imgforge"), &program).unwrap();
    (dir, program)
}

fn imgforge(dir: &Path, program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["--engine", "embedded"]).args(args).current_dir(dir).stdin(Stdio::null());
    command.env("IMGFORGE_STATE_DIR", dir.join("state")).env_remove("KUBERNETES_SERVICE_HOST");
    command.env("HOME", dir).env_remove("XDG_RUNTIME_DIR");
    command
}

/// Makes a filter that answers these calls with an error number.
fn filter(calls: &[i64], errno: i32) -> BpfProgram {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let errno = SeccompAction::Errno(errno.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    SeccompFilter::new(rules, SeccompAction::Allow, errno, arch).unwrap().try_into().unwrap()
}

/// Runs a command as a plain user without ids of its own, under a filter of system calls.
fn filtered(mut command: Command, program: BpfProgram) -> Output {
    let prepare = move || {
        let install =
            || seccompiler::apply_filter(&program).map_err(|_| io::Error::last_os_error());
        install()?;
        let none: &[rustix::process::Gid] = &[];
        rustix::thread::set_thread_groups(none)?;
        let gid = rustix::process::Gid::from_raw(NOBODY);
        let uid = rustix::process::Uid::from_raw(NOBODY);
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
    };
    // SAFETY: it makes system calls alone.
    unsafe { command.pre_exec(prepare) };
    command.output().unwrap()
}

/// Runs a command as root without some capabilities.
fn without(mut command: Command, dropped: CapabilitySet) -> Output {
    let prepare = move || {
        for one in dropped.iter() {
            match rustix::thread::remove_capability_from_bounding_set(one) {
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let sets = rustix::thread::capabilities(None)?;
        let permitted = sets.permitted - dropped;
        Ok(rustix::thread::set_capabilities(
            None,
            CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() },
        )?)
    };
    // SAFETY: it makes system calls alone.
    unsafe { command.pre_exec(prepare) };
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// What a filter of Docker's kind refuses, and what AppArmor refuses in a namespace.
const UNSHARE: &[i64] = &[libc::SYS_unshare];
const MOUNTS: &[i64] = &[libc::SYS_mount, libc::SYS_move_mount, libc::SYS_fsopen];

#[test]
#[ignore = "needs root"]
fn every_command_says_what_stands_in_the_way_before_anything_starts() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let commands: [&[&str]; 5] = [
        &["doctor", "--offline"],
        &["build", "-d", "demo"],
        &["eval", "-d", "demo", "-p", "gold"],
        &["cache", "ls"],
        &["base", "bootstrap", "python:3.11-slim-bookworm"],
    ];
    for args in commands {
        let (dir, program) = place();
        let output = filtered(imgforge(dir.path(), &program, args), filter(UNSHARE, libc::EPERM));
        let text = said(&output);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {text}");
        assert!(text.contains("make a user namespace: Operation not permitted"), "{text}");
        // The machine that tests may be a container of Docker itself.
        assert!(text.contains("seccomp"), "{args:?}: {text}");
        let left = dir.path().join("state/embedded");
        let left: Vec<_> = std::fs::read_dir(left).unwrap().flatten().collect();
        assert!(
            !left.iter().any(|entry| entry.file_name().to_string_lossy().starts_with("probe-")),
            "{args:?}: {left:?}"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn a_plan_needs_no_containers() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let (dir, program) = place();
    let command = imgforge(dir.path(), &program, &["plan", "-d", "demo"]);
    let output = filtered(command, filter(UNSHARE, libc::EPERM));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

#[test]
#[ignore = "needs root"]
fn a_namespace_in_which_nothing_may_be_mounted_is_told_as_on_ubuntu() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let (dir, program) = place();
    let command = imgforge(dir.path(), &program, &["doctor", "--offline"]);
    let text = said(&filtered(command, filter(MOUNTS, libc::EACCES)));
    assert!(text.contains("kernel.apparmor_restrict_unprivileged_userns"), "{text}");
    assert!(text.contains("doctor --apparmor-profile"), "{text}");
}

#[test]
#[ignore = "needs root"]
fn what_was_found_before_is_not_believed_by_the_doctor_nor_after_a_refusal() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let (dir, program) = place();
    let nothing = || filter(&[libc::SYS_kexec_load], libc::EPERM);
    let doctor = || imgforge(dir.path(), &program, &["doctor", "--offline"]);
    let found = dir.path().join("state/embedded/machine.json");
    let text = said(&filtered(doctor(), nothing()));
    assert!(text.contains("with one id"), "{text}");
    assert!(found.exists());
    let output = filtered(doctor(), filter(UNSHARE, libc::EPERM));
    assert!(said(&output).contains("fail  engine"), "{}", said(&output));
    assert_eq!(output.status.code(), Some(3));
    assert!(!found.exists());
}

#[test]
#[ignore = "needs root"]
fn a_limit_of_no_namespaces_is_named() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let (dir, program) = place();
    let script = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$0\" --engine embedded doctor \
                  --offline";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", script])
        .arg(&program)
        .env("IMGFORGE_STATE_DIR", dir.path().join("state"))
        .output()
        .unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("`user.max_user_namespaces` is 0"), "{text}");
    assert!(text.contains("sysctl user.max_user_namespaces"), "{text}");
}

#[test]
#[ignore = "needs root"]
fn root_without_the_capabilities_of_root_is_a_plain_user() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    for dropped in [CapabilitySet::SYS_ADMIN, CapabilitySet::NET_ADMIN] {
        let (dir, program) = place();
        let output = without(imgforge(dir.path(), &program, &["doctor", "--offline"]), dropped);
        let text = said(&output);
        assert!(text.contains("ok  engine        embedded"), "{dropped:?}: {text}");
        assert!(text.contains("as a plain user with one id"), "{dropped:?}: {text}");
    }
}

/// Evaluates an instance of the demo in an image of `namespace`, which is nowhere.
fn evaluate_published(namespace: &str, more: &[&str]) -> Output {
    let (dir, program) = place();
    let rows = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/demo/test.jsonl"));
    let rows = rows.unwrap();
    std::fs::write(dir.path().join("rows.jsonl"), rows.lines().next().unwrap()).unwrap();
    let args = ["eval", "-d", "rows.jsonl", "-p", "gold", "--namespace", namespace];
    imgforge(dir.path(), &program, &[&args[..], more].concat()).output().unwrap()
}

#[test]
fn a_network_that_the_engine_has_not_is_refused_before_anything_starts() {
    let output = evaluate_published("registry.invalid/x", &["--network", "bridge"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("has no bridged network"), "{text}");
    assert!(!text.contains("failed instance"), "{text}");
}

#[test]
fn images_whose_registry_is_not_reached_are_a_fault_of_the_place() {
    let output = evaluate_published("registry.invalid/x", &[]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("registry.invalid"), "{}", said(&output));
}

#[test]
fn a_profile_for_the_program_is_printed() {
    let output = Command::new(env!("CARGO_BIN_EXE_imgforge"))
        .args(["doctor", "--apparmor-profile"])
        .output()
        .unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let program = std::fs::canonicalize(env!("CARGO_BIN_EXE_imgforge")).unwrap();
    let line = format!("profile imgforge \"{}\" flags=(unconfined) {{", program.display());
    assert!(text.contains(&line), "{text}");
    assert!(text.contains("\n  userns,\n"), "{text}");
}
