//! Checking and repairing: what is damaged, gone, or not what it says.

use imgforge::cache::verify::{Problem, repair, verify};
use imgforge::key::Kind;
use imgforge::store::Store;

use crate::common::{Machine, files, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_index_is_made_anew_from_the_labels() {
    let machine = Machine::new().await;
    let made = machine.tree(2, 4096).await;
    let whole = verify(&*machine.engine, &machine.identity, &machine.store, true).await.unwrap();
    assert!(whole.findings.is_empty(), "{:?}", whole.findings);
    for file in files(machine.path(), "state.db") {
        std::fs::remove_file(file).unwrap();
    }
    let machine = Machine { store: Store::open(machine.path()).unwrap(), ..machine };
    let found = verify(&*machine.engine, &machine.identity, &machine.store, true).await.unwrap();
    assert_eq!(found.findings.len(), made.len());
    assert!(found.findings.iter().all(|finding| finding.problem == Problem::NotIndexed));
    repair(&*machine.engine, &machine.identity, &machine.store, &found).await.unwrap();
    let indexed = machine.store.indexed(&machine.identity).unwrap();
    for one in &made {
        assert_eq!(indexed[&one.key].diff_ids, one.image.diff_ids);
        assert!(machine.has(one).await);
    }
    let found = verify(&*machine.engine, &machine.identity, &machine.store, true).await.unwrap();
    assert!(found.findings.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_were_removed_behind_our_back_leave_the_index() {
    let machine = Machine::new().await;
    let made = machine.tree(2, 4096).await;
    machine.engine.remove(&made[3].name()).await.unwrap();
    let output = machine.run(&["cache", "verify"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("the index has it, the engine does not"));
    let output = machine.run(&["cache", "verify", "--repair", "--quick"]);
    assert!(output.status.success());
    assert_eq!(machine.store.indexed(&machine.identity).unwrap().len(), made.len() - 1);
    assert_eq!(machine.run(&["cache", "verify"]).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_costs_the_image_and_what_stands_on_it_and_nothing_else() {
    let machine = Machine::new().await;
    let made = machine.tree(2, 300_000).await;
    // The layer of the first env, which two instances stand on.
    let layer = made[1].image.diff_ids[1].hex().to_owned();
    let record = machine.path().join("embedded/layers").join(layer);
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    let digest = record["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let blob = machine.path().join("embedded/oci/blobs/sha256").join(digest);
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[150_000] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let found = verify(&*machine.engine, &machine.identity, &machine.store, true).await.unwrap();
    let broken: Vec<_> = found.findings.iter().filter(|one| one.problem.is_broken()).collect();
    assert_eq!(broken.len(), 3, "{:?}", found.findings);
    repair(&*machine.engine, &machine.identity, &machine.store, &found).await.unwrap();
    assert_eq!(machine.count(&made).await, made.len() - 3);
    assert!(machine.has(&made[0]).await);
    assert!(!blob.exists(), "nothing needs it any more");
    // It is made again from the same inputs, and is whole.
    let env = machine.make(Kind::Env, 1, Some(&made[0]), 300_000).await;
    assert!(machine.has(&env).await);
    let found = verify(&*machine.engine, &machine.identity, &machine.store, true).await.unwrap();
    assert!(found.findings.is_empty(), "{:?}", found.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_under_the_wrong_key_is_found_and_removed() {
    let machine = Machine::new().await;
    let made = machine.tree(1, 4096).await;
    let other = imgforge::key::KeyDocument::new(Kind::Env).with("n", "other").key();
    let name = imgforge::plan::name::image(Kind::Env, &other);
    machine.engine.tag(made[1].image.id.as_str(), &name.parse().unwrap()).await.unwrap();
    let found = verify(&*machine.engine, &machine.identity, &machine.store, false).await.unwrap();
    assert_eq!(found.findings.len(), 1);
    assert!(matches!(&found.findings[0].problem, Problem::Labels(_)));
    repair(&*machine.engine, &machine.identity, &machine.store, &found).await.unwrap();
    assert!(machine.engine.inspect(&name).await.unwrap().is_none());
    assert_eq!(machine.count(&made).await, made.len(), "the image keeps its own name");
}
