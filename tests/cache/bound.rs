//! Collection: to bytes, beside processes that use images, and what it frees on the disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use imgforge::cache::Limits;
use imgforge::engine::{Quotas, SandboxNetwork, SandboxRequest};
use imgforge::key::{DiffId, KeyDocument, Kind};
use imgforge::store::{Pinned, Store};

use crate::common::{Machine, usage};
use crate::needs;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn half_of_the_cache_goes_and_frees_what_was_promised() {
    let machine = Machine::new().await;
    let made = machine.tree(4, MIB).await;
    let contents = machine.contents().await;
    let total = contents.total();
    let limits = Limits { keep_bytes: Some(total / 2), keep_for: None };
    let dry = machine.collector().collect(&limits, true).await.unwrap();
    assert_eq!(machine.count(&made).await, made.len(), "a dry run removes nothing");
    let before = usage(machine.path());
    let collected = machine.collector().collect(&limits, false).await.unwrap();
    let freed = before - usage(machine.path());
    assert_eq!(dry.reclaimable, collected.reclaimable);
    assert_eq!(dry.removed.len(), collected.removed.len());
    // Small records are not counted.
    assert!(freed.abs_diff(collected.reclaimable) < 256 << 10, "{freed} {}", collected.reclaimable);
    assert!(machine.contents().await.total() <= total / 2);
    // Children before parents: whatever is left stands on what is left.
    for image in &machine.contents().await.images {
        let parent = image.parent.map(|key| made.iter().find(|one| one.key == key).unwrap());
        if let Some(parent) = parent {
            assert!(machine.has(parent).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_du_says_is_what_the_disk_has_and_images_that_others_stand_on_count() {
    let machine = Machine::new().await;
    // A base stands on what was pulled or bootstrapped, which has no key.
    let from = machine.external("python:3.11-slim-bookworm", 8 * MIB).await;
    let alone = machine.external("debian:bookworm", MIB).await;
    let base = machine.make_on(&from, 2 * MIB).await;
    machine.make(Kind::Env, 1, Some(&base), 2 * MIB).await;
    let output = machine.run(&["cache", "du", "--json"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let others = document["others"].as_object().unwrap().values();
    let said = document["bytes"].as_u64().unwrap()
        + others.map(|bytes| bytes.as_u64().unwrap()).sum::<u64>();
    let disk = usage(machine.path());
    assert!(said.abs_diff(disk) * 50 < disk, "du says {said}, the disk has {disk}");
    assert_eq!(document["images"], 4);
    let rows = machine.run(&["cache", "ls", "--json"]);
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&rows.stdout).unwrap();
    let kinds: BTreeSet<&str> = rows.iter().map(|row| row["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, BTreeSet::from(["base", "env", "from"]));
    assert!(rows.iter().any(|row| row["image"] == "python:3.11-slim-bookworm"));

    // What a base stands on goes after it; while somebody works, nothing of the kind goes.
    let key = KeyDocument::new(Kind::Env).with("n", "another").key();
    let lease = machine.store.lease([key]).await.unwrap();
    machine.gc(0).await;
    for image in [&from, &alone] {
        assert!(machine.engine.inspect(image.id.as_str()).await.unwrap().is_some());
    }
    drop(lease);
    machine.gc(0).await;
    assert!(machine.contents().await.images.is_empty());
    for image in [&from, &alone] {
        assert!(machine.engine.inspect(image.id.as_str()).await.unwrap().is_none());
    }
    let left = usage(machine.path());
    assert!(left < MIB as u64, "{left} bytes are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_stays_whatever_the_limit_with_all_below_it() {
    let machine = Machine::new().await;
    let made = machine.tree(2, 4096).await;
    let pinned = made.iter().rfind(|one| one.kind == Kind::Checkout).unwrap();
    let pin = |pins: &mut imgforge::store::Pins| {
        pins.insert(Pinned::Key(pinned.key), BTreeSet::from([pinned.key]));
    };
    machine.store.change_pins(pin).unwrap();
    let collected = machine.gc(0).await;
    assert_eq!(collected.retained, 1);
    assert_eq!(machine.count(&made).await, 3, "the instance, its env, the base");
    assert!(machine.has(pinned).await);
    // The index is gone: the pin is not.
    std::fs::remove_file(machine.path().join("state.db")).unwrap();
    let again = Machine { store: Store::open(machine.path()).unwrap(), ..machine };
    again.gc(0).await;
    assert!(again.has(pinned).await);
    again.store.change_pins(|pins| pins.clear()).unwrap();
    again.gc(0).await;
    assert_eq!(again.count(&made).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_build_leased_stays_until_it_ends() {
    let machine = Machine::new().await;
    let made = machine.tree(2, 4096).await;
    let needed = made.last().unwrap();
    let lease = machine.store.lease([needed.key]).await.unwrap();
    machine.gc(0).await;
    assert_eq!(machine.count(&made).await, 3);
    drop(lease);
    machine.gc(0).await;
    assert_eq!(machine.count(&made).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_goes_on_beside_collections_loses_nothing() {
    let machine = Arc::new(Machine::new().await);
    let base = machine.make(Kind::Base, 0, None, 4096).await;
    let _lease = machine.store.lease([base.key]).await.unwrap();
    let collecting = {
        let machine = machine.clone();
        tokio::spawn(async move {
            for _ in 0..40 {
                machine.gc(0).await;
            }
        })
    };
    // As a build does it: the lease comes first, then the images.
    for number in 0..40 {
        let key = imgforge::key::KeyDocument::new(Kind::Env)
            .with("n", number)
            .with("parent", base.key)
            .with("platform", "linux/amd64")
            .key();
        let _lease = machine.store.lease([key]).await.unwrap();
        let env = machine.make(Kind::Env, number, Some(&base), 20_000).await;
        assert_eq!(env.key, key);
        let again = machine.make(Kind::Env, number, Some(&base), 20_000).await;
        assert!(machine.has(&again).await, "{number}");
        let fresh = crate::common::open_engine(machine.path()).await;
        let found = fresh.inspect(&env.name()).await.unwrap();
        assert!(found.is_some(), "{number}: it is whole for another process, too");
    }
    collecting.await.unwrap();
    machine.gc(0).await;
    assert_eq!(machine.contents().await.images.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a base image"]
async fn a_running_container_keeps_its_files_when_its_image_is_removed() {
    let (machine, image) = debian().await;
    let engine = machine.engine.clone();
    let running = tokio::spawn({
        let (engine, image) = (engine.clone(), image.clone());
        async move {
            let log = Log::default();
            let request = SandboxRequest {
                image,
                files: Vec::new(),
                command: "sleep 2; ls /usr/bin | wc -l; cat /etc/debian_version".to_owned(),
                time_limit: std::time::Duration::from_secs(30),
                memory: None,
                milli_cpus: None,
                pids: None,
                quotas: Quotas::default(),
                network: SandboxNetwork::None,
                loopback_names: Vec::new(),
                variables: Default::default(),
                labels: Default::default(),
            };
            let ended = engine.run_script(&request, &log, &Log::default()).await.unwrap();
            (ended, String::from_utf8(log.0.into_inner().unwrap()).unwrap())
        }
    });
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    engine.remove(&image).await.unwrap();
    let pruned = engine.prune(false).await.unwrap();
    assert_eq!(pruned.bytes, 0, "the container stands on the layers");
    let (ended, output) = running.await.unwrap();
    assert_eq!(ended, imgforge::engine::SandboxEnd::Exited(0), "{output}");
    assert_eq!(output.lines().count(), 2, "{output}");
    let pruned = engine.prune(false).await.unwrap();
    assert!(pruned.bytes > 50 << 20, "{pruned:?}");
}

/// A machine with a Debian of its own, from the one that the tests of engines stand on.
async fn debian() -> (Machine, String) {
    let source = crate::common::open_engine(&needs::base()).await;
    let image = source.inspect(needs::BASE).await.unwrap().expect("the base has its name");
    let machine = Machine::new().await;
    let consumer = Arc::new(Keep(machine.path().join("base.tar")));
    source.read_layers(std::slice::from_ref(&image), consumer.clone()).await.unwrap();
    let bytes = std::fs::read(&consumer.0).unwrap();
    let layer = imgforge::engine::LayerFile {
        path: consumer.0.clone(),
        diff_id: imgforge::key::Digest::of(&bytes),
        size: bytes.len() as u64,
    };
    let request = imgforge::engine::LayerRequest {
        parent: imgforge::engine::Image { platform: image.platform, ..Default::default() },
        layers: vec![layer],
        config: image.config,
        tags: vec!["debian:test".to_owned()],
    };
    machine.engine.load(&request).await.unwrap();
    std::fs::remove_file(&consumer.0).unwrap();
    (machine, "debian:test".to_owned())
}

struct Keep(std::path::PathBuf);

impl imgforge::engine::LayerConsumer for Keep {
    fn wants(&self, _: &DiffId) -> bool {
        true
    }

    fn consume(&self, _: Option<&DiffId>, tar: &mut dyn std::io::Read) -> std::io::Result<()> {
        std::io::copy(tar, &mut std::fs::File::create(&self.0)?).map(drop)
    }
}

#[derive(Default)]
struct Log(std::sync::Mutex<Vec<u8>>);

impl imgforge::engine::LogSink for Log {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_runs_and_mirrors_go_when_they_are_old_and_it_is_asked_for() {
    let machine = Machine::new().await;
    let log = machine.path().join("log");
    std::fs::write(&log, "all is well\n").unwrap();
    let (digest, log_bytes) = machine.store.put_log(&log).unwrap();
    let key = imgforge::key::KeyDocument::new(Kind::Evaluation).with("n", "1").key();
    let record = imgforge::store::RunRecord {
        instance_id: "a__b-1".to_owned(),
        image_id: "sha256:1".into(),
        exit_code: 0,
        seconds: 1.0,
        log: digest,
        log_bytes,
        finished_at: 1,
        notes: Default::default(),
    };
    machine.store.record_result(&key, &record).unwrap();
    let blob = machine.path().join("blobs").join(digest.to_string());
    let mirror = machine.path().join("mirrors/a__b.git");
    std::fs::create_dir_all(&mirror).unwrap();
    std::fs::write(mirror.join("HEAD"), "ref: refs/heads/main\n").unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(90 * 86400);
    for path in [&blob, &mirror.join("HEAD")] {
        std::fs::File::options().append(true).open(path).unwrap().set_modified(old).unwrap();
    }
    let gc = |args: &[&str]| {
        let output = machine.run(&[&["cache", "gc", "--json"], args].concat());
        assert!(output.status.success(), "{}", crate::common::text(&output));
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        document["records"].clone()
    };
    // Without an age nothing goes, whatever else is collected.
    let none = gc(&["--keep-bytes", "0"]);
    assert_eq!((&none["results"], &none["mirrors"]), (&0.into(), &serde_json::json!([])));
    assert!(blob.exists() && mirror.exists());
    let ages = ["--keep-results-days", "0", "--keep-mirrors-days", "30"];
    let told = gc(&[&ages[..], &["--dry-run"]].concat());
    assert_eq!((&told["results"], &told["blobs"]), (&1.into(), &1.into()));
    assert_eq!(told["mirrors"], serde_json::json!(["a/b"]));
    assert!(blob.exists() && mirror.exists(), "a dry run takes nothing away");
    let lease = machine.store.lease([key]).await.unwrap();
    let busy = gc(&ages);
    assert_eq!((&busy["results"], &busy["mirrors_in_use"]), (&0.into(), &1.into()));
    drop(lease);
    assert_eq!(gc(&ages), told);
    assert!(!blob.exists() && !mirror.exists());
    assert_eq!(machine.store.result(&key).unwrap(), None);
}
