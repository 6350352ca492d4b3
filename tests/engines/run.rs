//! Commands in containers, and what interrupted ones leave.

use std::time::{Duration, SystemTime};

use imgforge::engine::{EngineError, Removed};
use imgforge::owner::Liveness;

use crate::common::{Log, dead, is_running, on_every_engine};

#[test]
#[ignore = "needs an engine"]
fn output_comes_in_order_from_both_pipes_with_the_exit_code() {
    on_every_engine(|bench| async move {
        let script = "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done; exit 7";
        let (code, output) = bench.shell(bench.from(), script).await;
        assert_eq!(code, 7);
        let expected: String = (1..=5).map(|i| format!("out {i}\nerr {i}\n")).collect();
        assert_eq!(output, expected);
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_container_has_no_network() {
    on_every_engine(|bench| async move {
        let (_, output) = bench.shell(bench.from(), "cat /proc/net/dev").await;
        let interfaces: Vec<&str> =
            output.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
        let outside = interfaces.iter().any(|name| name.trim().starts_with("eth"));
        assert!(!outside, "{interfaces:?}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_command_that_is_not_there_has_the_code_of_a_shell() {
    on_every_engine(|bench| async move {
        let log = Log::default();
        let command = ["no-such-command".to_owned()];
        assert_eq!(bench.engine.run(bench.from(), &command, &log).await.unwrap(), 127);
        assert!(log.text().contains("no-such-command"), "{}", log.text());
        let error = bench.engine.run(&bench.name("none"), &command, &log).await.unwrap_err();
        assert!(matches!(error, EngineError::NoSuchImage { .. }), "{error:?}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn an_interrupted_run_is_found_and_removed_and_a_live_one_is_not() {
    on_every_engine(|bench| async move {
        let log = Log::default();
        let marker = format!("31{}", rand::random::<u32>());
        let script = format!("echo up; sleep {marker}");
        let command = ["sh".to_owned(), "-c".to_owned(), script];
        {
            let mut run = std::pin::pin!(bench.engine.run(bench.from(), &command, &log));
            while !log.text().contains("up") {
                let step = tokio::time::timeout(Duration::from_millis(50), &mut run).await;
                assert!(step.is_err(), "the command is still running");
            }
        }
        let alive = |_: &str, _: Option<SystemTime>| Liveness::Alive;
        assert_eq!(bench.engine.remove_scratch(&alive).await.unwrap(), Removed::default());
        let dead = dead(&bench.owner);
        // The embedded engine's container may have ended by itself meanwhile.
        let removed = bench.engine.remove_scratch(&dead).await.unwrap().removed;
        assert!(removed.len() <= 1, "{removed:?}");
        assert!(removed.iter().all(|name| name.starts_with("container ")), "{removed:?}");
        assert_eq!(bench.engine.remove_scratch(&dead).await.unwrap(), Removed::default());
        let gone = async {
            while is_running(&marker) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the command ends");
    });
}
