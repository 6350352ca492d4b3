//! Sessions of the embedded engine on bad days: processes that are killed, images that go, many at once.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imgforge::engine::{ExecRequest, Images as _, LayerStorage as _, Runner as _, SandboxSession};
use imgforge::owner::Liveness;
use imgforge::session::{Keep, run};
use rustix::process::{Pid, Signal, kill_process};

use crate::checkpoints::{IMAGE, containers, engine, prints, start};
use crate::common::is_running;
use crate::embedded::on_its_own;

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

/// Returns the processes that keep a command and its container: from the command up to the helper, and the
/// first of the container.
fn keepers(command: i32) -> Vec<i32> {
    let us = std::process::id().cast_signed();
    let mut chain = vec![command];
    while let Some(above) = parent(*chain.last().unwrap()).filter(|above| *above != us) {
        assert!(above > 1, "the chain ends elsewhere: {chain:?}");
        chain.push(above);
    }
    let helper = *chain.last().unwrap();
    let others = children(helper).into_iter().filter(|child| !chain.contains(child));
    chain.extend(others.collect::<Vec<_>>());
    chain
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
            let lives = |pid: &i32| Path::new(&format!("/proc/{pid}")).exists();
            assert!(wait_for(|| !keepers.iter().any(lives)).await, "{keepers:?} without {victim}");
        }
    });
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
