//! Sessions of the embedded engine on bad days: processes that are killed, images that go, many at once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use imgforge::engine::embedded::EmbeddedEngine;
use imgforge::engine::{
    Checkpoint, EngineError, ExecEnd, ExecRequest, Images as _, LayerStorage as _, Runner as _,
    SandboxSession,
};
use imgforge::owner::Liveness;
use imgforge::session::{Keep, run};
use rustix::process::{Pid, Signal, kill_process};

use crate::checkpoints::{IMAGE, containers, engine, layers, prints, start};
use crate::common::{is_running, is_under_test};
use crate::embedded::{live, on_its_own};
use crate::needs::{NotHere, not_here};

/// Returns the parent of a process, as `/proc` has it.
fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Lists the processes whose parent is this one.
fn children(pid: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|number| parent(*number) == Some(pid)).collect()
}

/// Returns the number of the process that has a word among its arguments.
fn with_argument(word: &str) -> Option<i32> {
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let words = std::fs::read(entry.path().join("cmdline")).ok()?;
        let has = words.split(|byte| *byte == 0).any(|one| one == word.as_bytes());
        has.then_some(pid)
    })
}

/// Returns the processes from a command up to the helper that is a child of this one.
fn chain(command: i32) -> Vec<i32> {
    let us = std::process::id().cast_signed();
    let mut chain = vec![command];
    while let Some(above) = parent(*chain.last().unwrap()).filter(|above| *above != us) {
        assert!(above > 1, "the chain ends elsewhere: {chain:?}");
        chain.push(above);
    }
    chain
}

/// Returns a process and all that came of it.
fn family(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    all.extend(children(pid).into_iter().flat_map(family));
    all
}

/// Returns the processes that keep a command and its container: from the command up to the helper, and the
/// first of the container.
fn keepers(command: i32) -> Vec<i32> {
    let mut chain = chain(command);
    let helper = *chain.last().unwrap();
    let others = children(helper).into_iter().filter(|child| !chain.contains(child));
    chain.extend(others.collect::<Vec<_>>());
    chain
}

/// Tells whether a process runs. One that has ended has no memory any more, and so no arguments, even
/// while nobody has waited for it or for what was in its container.
fn runs(pid: &i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|arguments| !arguments.is_empty())
}

/// As long as it lives, orphans come to this process, which waits for none of them: so does the first
/// process of many a container.
struct Careless;

impl Careless {
    fn new() -> Careless {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        Careless
    }
}

impl Drop for Careless {
    fn drop(&mut self) {
        let _ = rustix::process::set_child_subreaper(None);
    }
}

async fn wait_for(what: impl Fn() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        if what() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[test]
#[ignore = "needs an engine"]
fn whichever_process_of_a_session_is_killed_nothing_is_left() {
    on_its_own(async |directory| {
        let _careless = Careless::new();
        let engine = engine(&directory).await;
        for number in 0.. {
            let session: Arc<dyn SandboxSession> = start(&engine, IMAGE).await.into();
            let marker = format!("7{:09}", rand::random::<u32>());
            let request = ExecRequest::of(&["sleep", &marker]);
            let held = session.clone();
            let command = tokio::spawn(async move { run(&*held, &request, Keep::default()).await });
            assert!(wait_for(|| is_running(&marker)).await);
            let keepers = keepers(with_argument(&marker).unwrap());
            assert!(keepers.len() >= 4, "{keepers:?}");
            let Some(victim) = keepers.get(number).copied() else {
                session.stop().await.unwrap();
                break;
            };
            kill_process(Pid::from_raw(victim).unwrap(), Signal::KILL).unwrap();
            let ended = tokio::time::timeout(Duration::from_secs(20), command).await;
            assert!(ended.is_ok(), "the command of {keepers:?} does not end without {victim}");
            assert!(wait_for(|| !is_running(&marker)).await, "{keepers:?} without {victim}");
            // However it ended, it is over.
            let _ = session.stop().await;
            drop(session);
            engine.remove_scratch(&|_, _| Liveness::Dead).await.unwrap();
            assert_eq!(containers(&directory), 0, "{keepers:?} without {victim}");
            assert!(wait_for(|| !keepers.iter().any(runs)).await, "{keepers:?} without {victim}");
        }
    });
}

/// Runs commands, puts files, makes checkpoints and forks until it is told to end, or the session fails.
/// Returns the checkpoints that it knows of.
async fn works(
    engine: &EmbeddedEngine,
    session: &dyn SandboxSession,
    ends: &AtomicBool,
) -> Vec<Checkpoint> {
    let mut all = Vec::new();
    let mut tar = tar::Builder::new(Vec::new());
    for number in 0..50 {
        let mut header = tar::Header::new_gnu();
        header.set_size(9);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("w/{number}"), &b"some text"[..]).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let request =
        ExecRequest::shell("for i in 1 2 3; do sh -c 'head -c 100000 /dev/zero >/b'; done");
    while !ends.load(Ordering::Relaxed) {
        let ran = run(session, &request, Keep::default()).await;
        let put = session.put("/tmp", true, &mut &tar[..]).await;
        let Ok(made) = session.checkpoint().await else { return all };
        start(engine, made.reference().as_str()).await.stop().await.unwrap();
        all.push(made);
        if ran.is_err() || put.is_err() {
            return all;
        }
    }
    all
}

#[test]
#[ignore = "needs an engine"]
fn whatever_is_killed_at_any_moment_nothing_is_left() {
    on_its_own(async |directory| {
        let _careless = Careless::new();
        let engine = engine(&directory).await;
        for _ in 0..20 {
            let session: Arc<dyn SandboxSession> = start(&engine, IMAGE).await.into();
            let marker = format!("7{:09}", rand::random::<u32>());
            let request = ExecRequest::of(&["sleep", &marker]);
            let held = session.clone();
            let command = tokio::spawn(async move { run(&*held, &request, Keep::default()).await });
            assert!(wait_for(|| is_running(&marker)).await);
            let helper = *chain(with_argument(&marker).unwrap()).last().unwrap();
            let ends = Arc::new(AtomicBool::new(false));
            let (busy, also, until) = (session.clone(), engine.clone(), ends.clone());
            let work = tokio::spawn(async move { works(&also, &*busy, &until).await });
            let moment = Duration::from_millis(rand::random_range(0..400));
            tokio::time::sleep(moment).await;
            let family = family(helper);
            let victim = family[rand::random_range(0..family.len())];
            let what = format!("{victim} of {family:?} after {moment:?}");
            // It may have ended meanwhile.
            let _ = kill_process(Pid::from_raw(victim).unwrap(), Signal::KILL);
            tokio::time::sleep(Duration::from_millis(100)).await;
            ends.store(true, Ordering::Relaxed);
            let worked = tokio::time::timeout(Duration::from_secs(20), work).await;
            let made = worked.unwrap_or_else(|_| panic!("the work goes on: {what}")).unwrap();
            let _ = session.stop().await;
            let ended = tokio::time::timeout(Duration::from_secs(20), command).await;
            assert!(ended.is_ok(), "the command does not end: {what}");
            assert!(wait_for(|| !is_running(&marker)).await, "{what}");
            drop(session);
            engine.remove_scratch(&|_, _| Liveness::Dead).await.unwrap();
            assert_eq!(containers(&directory), 0, "{what}");
            assert!(wait_for(|| !family.iter().any(runs)).await, "{what}");
            for made in made {
                engine.remove(made.reference().as_str()).await.unwrap();
            }
            engine.prune(false).await.unwrap();
            assert_eq!(layers(&directory), Vec::<String>::new(), "{what}");
            let operations = std::fs::read_dir(directory.join("state/embedded/operations"));
            assert_eq!(operations.unwrap().count(), 0, "{what}");
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!mounts.contains(directory.to_str().unwrap()), "{what}: {mounts}");
        }
    });
}

/// A command, files from outside and a checkpoint meet a full disk; then there is room again.
pub(crate) async fn fills_the_disk(engine: &EmbeddedEngine, name: &str, state: &Path) {
    let session = start(engine, name).await;
    let fills = ExecRequest::shell("head -c 2G /dev/zero >/big");
    let filled = run(&*session, &fills, Keep::default()).await.unwrap();
    let said = String::from_utf8(filled.error.bytes).unwrap();
    assert_eq!(filled.summary.end, ExecEnd::Exited(1), "{said}");
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(prints(&*session, "echo lives").await, "lives\n");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1 << 20);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", &[b'x'; 1 << 20][..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let put = session.put("/", false, &mut &tar[..]).await.unwrap_err();
    assert!(matches!(put, EngineError::NoSpace { .. }), "{put:?}");
    assert_eq!(prints(&*session, "echo lives").await, "lives\n");
    let refused = session.checkpoint().await.unwrap_err();
    assert!(matches!(refused, EngineError::NoSpace { .. }), "{refused:?}");
    let mut find = std::process::Command::new("find");
    find.arg(state).args(["-path", "*/s/k*", "-o", "-path", "*/checkpoints/*"]);
    assert_eq!(String::from_utf8(find.output().unwrap().stdout).unwrap(), "");
    assert_eq!(prints(&*session, "rm /big /file; echo kept >/kept; echo lives").await, "lives\n");
    let made = session.checkpoint().await.unwrap();
    session.stop().await.unwrap();
    let again = start(engine, made.reference().as_str()).await;
    assert_eq!(prints(&*again, "cat /kept").await, "kept\n");
    again.stop().await.unwrap();
}

#[test]
#[ignore = "needs an engine"]
fn a_session_on_a_full_disk_lives_on() {
    if !is_under_test("embedded") {
        return not_here(NotHere::OtherEngine);
    }
    let text = live("mount -t tmpfs -o size=600m none state", "session");
    assert!(text.contains("went on"), "{text}");
}

#[test]
#[ignore = "needs an engine"]
fn a_session_whose_image_goes_lives_on() {
    on_its_own(async |directory| {
        let engine = engine(&directory).await;
        let session = start(&engine, IMAGE).await;
        engine.remove(IMAGE).await.unwrap();
        engine.prune(false).await.unwrap();
        assert_eq!(
            prints(&*session, "ls -d /bin/sh && cat /etc/passwd | head -c 4").await,
            "/bin/sh\nroot"
        );
        session.stop().await.unwrap();
        engine.prune(false).await.unwrap();
        assert!(engine.images().await.unwrap().is_empty());
        assert_eq!(containers(&directory), 0);
    });
}

/// How many are tried in all: `IMGFORGE_TEST_SESSIONS`.
fn wanted() -> usize {
    std::env::var("IMGFORGE_TEST_SESSIONS").map_or(60, |text| text.parse().expect("a number"))
}

#[test]
#[ignore = "needs an engine"]
fn sessions_one_after_another_and_at_once_leave_nothing() {
    on_its_own(async |directory| {
        let engine = engine(&directory).await;
        // What the first leaves open for all that follow is not counted.
        start(&engine, IMAGE).await.stop().await.unwrap();
        let helpers = || children(std::process::id().cast_signed()).len();
        let operations =
            || std::fs::read_dir(directory.join("state/embedded/operations")).unwrap().count();
        let before = (operations(), containers(&directory));
        for _ in 0..wanted() / 2 {
            let session = start(&engine, IMAGE).await;
            assert_eq!(prints(&*session, "echo x").await, "x\n");
            session.stop().await.unwrap();
        }
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..wanted() / 2 {
            let engine = engine.clone();
            all.spawn(async move {
                let session = start(&engine, IMAGE).await;
                assert_eq!(prints(&*session, "echo x").await, "x\n");
                session
            });
        }
        let sessions: Vec<_> = all.join_all().await;
        assert!(helpers() >= sessions.len());
        for session in &sessions {
            session.stop().await.unwrap();
        }
        drop(sessions);
        assert!(wait_for(|| (operations(), containers(&directory)) == before).await);
    });
}
