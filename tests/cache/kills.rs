//! A process that is killed at any moment leaves a cache that is whole, and the next call goes on.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Machine, text};
use crate::registry::Registry;

/// Starts a command and kills it after a while; tells whether it had done its work by then.
fn kill_after(command: &mut Command, time: Duration) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while start.elapsed() < time {
        if let Some(status) = child.try_wait().unwrap() {
            let output = child.wait_with_output().unwrap();
            assert!(status.success(), "{}", text(&output));
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

/// Kills a command later and later until it ends by itself; after each kill the cache is checked.
fn kill_again_and_again(machine: &Machine, args: &[&str], after: impl Fn()) -> usize {
    for kills in 0.. {
        let time = Duration::from_millis(15 + kills as u64 * 35);
        let ended = kill_after(&mut machine.command(args), time);
        let output = machine.run(&["cache", "verify"]);
        let found = text(&output);
        // A kill between an image and its record leaves one that is not indexed, or one too many.
        assert!(found.contains("0 images broken"), "after {time:?}: {found}");
        after();
        if ended {
            return kills;
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection() {
    let machine = Machine::new().await;
    let made = machine.tree(12, 200_000).await;
    let kills = kill_again_and_again(&machine, &["cache", "gc", "--keep-bytes", "0"], || {});
    assert!(kills > 0);
    assert_eq!(machine.count(&made).await, 0);
    assert!(machine.run(&["clean"]).status.success());
    let pruned = machine.engine.prune(true).await.unwrap();
    assert_eq!(pruned.objects, 0, "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_and_an_import() {
    let machine = Machine::new().await;
    let made = machine.tree(4, 2 << 20).await;
    let kills = kill_again_and_again(&machine, &["cache", "export", "cache.tar"], || {});
    assert!(kills > 0);
    let file = machine.path().join("cache.tar");
    let second = Machine::new().await;
    let import = ["cache", "import", file.to_str().unwrap()];
    let kills = kill_again_and_again(&second, &import, || {});
    assert!(kills > 0);
    assert_eq!(second.count(&made).await, made.len());
    assert!(second.run(&["clean"]).status.success());
    assert!(second.run(&["cache", "gc"]).status.success());
    assert_eq!(second.engine.prune(true).await.unwrap().objects, 0, "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn a_push_and_a_pull() {
    let registry = Registry::start();
    let machine = Machine::new().await;
    let made = machine.tree(4, 2 << 20).await;
    let name = registry.name();
    let kills = kill_again_and_again(&machine, &["cache", "push", &name], || {});
    assert!(kills > 0);
    let second = Machine::new().await;
    let kills = kill_again_and_again(&second, &["cache", "pull", &name], || {});
    assert!(kills > 0);
    assert_eq!(second.count(&made).await, made.len());
    for one in &made {
        let image = second.engine.inspect(&one.name()).await.unwrap().unwrap();
        assert_eq!(image.id, one.image.id);
    }
    // Names of the registry that a kill left do not hold images.
    second.gc(0).await;
    assert_eq!(second.contents().await.images.len(), 0);
    assert!(second.run(&["clean"]).status.success());
}
