//! Pushing and pulling: what travels, what a registry that misbehaves costs, and who wins.

use std::sync::atomic::Ordering;

use imgforge::cache::destination::{Destination, FetchOutcome};
use imgforge::cache::image_source::ImageSource as _;
use imgforge::cache::registry::{Pushed, RegistryCache, ToPush};
use imgforge::key::{Key, Kind};
use imgforge::platform::Platform;

use crate::common::{Machine, Made, files, text};
use crate::registry::{Fault, Proxy, Registry};

fn cache(name: &str) -> RegistryCache {
    RegistryCache::new(name, &Platform::written("linux/amd64"), None).unwrap()
}

fn to_push(made: &[Made]) -> Vec<ToPush> {
    made.iter().map(|one| ToPush { kind: one.kind, key: one.key }).collect()
}

fn keys(made: &[Made]) -> Vec<(Kind, Key)> {
    made.iter().map(|one| (one.kind, one.key)).collect()
}

async fn push(machine: &Machine, name: &str, made: &[Made]) -> (Vec<Pushed>, u64) {
    let checker = machine.checker();
    let pushed = cache(name).push(&checker, &to_push(made), &|_| {}).await.unwrap();
    let bytes = pushed.iter().map(|one| one.bytes).sum();
    (pushed.into_iter().map(|one| one.outcome).collect(), bytes)
}

async fn pull(machine: &Machine, name: &str, made: &[Made]) -> Vec<FetchOutcome> {
    let target = Destination {
        engine: &*machine.engine,
        identity: &machine.identity,
        store: &machine.store,
    };
    let brought = target.fetch(&cache(name), &keys(made), &|_| {}).await.unwrap();
    brought.into_iter().map(|one| one.outcome).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn only_what_is_missing_travels_and_a_second_machine_gets_the_same() {
    let registry = Registry::start();
    let counted = Proxy::start(registry.port, "nothing", Fault::Half, 0);
    let machine = Machine::new().await;
    let made = machine.tree(2, 300_000).await;
    let (pushed, bytes) = push(&machine, &counted.name(), &made).await;
    assert!(pushed.iter().all(|one| *one == Pushed::Pushed), "{pushed:?}");
    let blobs = files(machine.path(), "oci/blobs").into_iter();
    let layers: u64 = blobs.map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes.abs_diff(layers) < 20_000, "each layer travels once: {bytes} {layers}");
    let wire = counted.sent.load(Ordering::SeqCst);
    assert!(wire.abs_diff(bytes) < 60_000, "what is told is what travelled: {wire} {bytes}");
    let (pushed, bytes) = push(&machine, &counted.name(), &made).await;
    assert!(pushed.iter().all(|one| *one == Pushed::There));
    assert_eq!(bytes, 0);
    let more = machine.make(Kind::Checkout, 77, Some(&made[1]), 10_000).await;
    let (_, bytes) = push(&machine, &counted.name(), std::slice::from_ref(&more)).await;
    assert!((10_000..11_000).contains(&bytes), "{bytes}");

    let second = Machine::new().await;
    let brought = pull(&second, &registry.name(), &made).await;
    assert!(brought.iter().all(|one| *one == FetchOutcome::Fetched), "{brought:?}");
    for one in &made {
        let image = second.engine.inspect(&one.name()).await.unwrap().unwrap();
        assert_eq!(image.id, one.image.id);
        assert_eq!(image.tags, [one.name()], "no name of the registry stays");
    }
    let brought = pull(&second, &registry.name(), &made).await;
    assert!(brought.iter().all(|one| *one == FetchOutcome::There));
    let listed = cache(&registry.name()).list().await.unwrap();
    assert_eq!(listed.len(), made.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn what_passes_is_tried_again_and_what_comes_broken_is_never_kept() {
    let registry = Registry::start();
    let machine = Machine::new().await;
    let made = machine.tree(1, 300_000).await;
    push(&machine, &registry.name(), &made).await;
    let faults = [
        ("/manifests/", Fault::Status("429 Too Many Requests"), 2),
        ("/blobs/", Fault::Status("500 Internal Server Error"), 2),
        ("/blobs/", Fault::Half, 3),
        ("/blobs/", Fault::Flipped, 3),
    ];
    for (part, fault, times) in faults {
        let proxy = Proxy::start(registry.port, part, fault, times);
        let second = Machine::new().await;
        let brought = pull(&second, &proxy.name(), &made).await;
        assert!(brought.iter().all(|one| *one == FetchOutcome::Fetched), "{fault:?}: {brought:?}");
        assert!(proxy.hit.load(Ordering::SeqCst) >= times);
        let output = second.run(&["cache", "verify"]);
        assert!(output.status.success(), "{fault:?}: {}", text(&output));
    }
    // Always broken: nothing is kept of it, and the others are had.
    let proxy = Proxy::start(registry.port, "/imgforge/env/blobs/", Fault::Flipped, usize::MAX);
    let second = Machine::new().await;
    let outcome =
        Destination { engine: &*second.engine, identity: &second.identity, store: &second.store };
    let brought = outcome.fetch(&cache(&proxy.name()), &keys(&made), &|_| {}).await;
    assert!(
        brought.is_err()
            || brought.is_ok_and(|all| {
                all.iter().any(|one| matches!(one.outcome, FetchOutcome::Failed(_)))
            })
    );
    assert!(!second.has(&made[1]).await);
    assert!(second.run(&["cache", "verify"]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn a_registry_that_refuses_is_named_with_what_it_said() {
    let registry = Registry::start();
    let machine = Machine::new().await;
    let made = machine.tree(1, 4096).await;
    let absent = pull(&machine, &registry.name(), &[fake()]).await;
    assert!(matches!(&absent[0], FetchOutcome::Failed(why) if why.contains("does not have it")));
    push(&machine, &registry.name(), &made).await;
    let data = registry.stop();

    let htpasswd = data.path().join("htpasswd");
    std::fs::write(&htpasswd, "me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n")
        .unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: r, path: {}}}}}", htpasswd.display());
    let closed = Registry::with(data, &auth);
    let output = machine.run(&["cache", "push", &closed.name()]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("docker login"), "{}", text(&output));
    let output = machine.run(&["cache", "pull", &closed.name()]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));

    let read_only = "  maintenance: {readonly: {enabled: true}}";
    let closed = Registry::with(closed.stop(), read_only);
    let more = machine.make(Kind::Checkout, 5, Some(&made[1]), 4096).await;
    let output = machine.run(&["cache", "push", &closed.name()]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("push"), "{}", text(&output));
    assert!(machine.has(&more).await);
    let image = machine.engine.inspect(&more.name()).await.unwrap().unwrap();
    assert_eq!(image.tags, [more.name()], "the name of the registry is taken away again");
    let second = Machine::new().await;
    let brought = pull(&second, &closed.name(), &made).await;
    assert!(brought.iter().all(|one| *one == FetchOutcome::Fetched), "{brought:?}");
}

fn fake() -> Made {
    let key = imgforge::key::KeyDocument::new(Kind::Env).with("n", "nowhere").key();
    Made { kind: Kind::Env, key, image: imgforge::engine::Image::default() }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn two_runners_that_push_one_key_leave_a_registry_that_fits_together() {
    let registry = Registry::start();
    let (one, two) = (Machine::new().await, Machine::new().await);
    let base_one = one.make(Kind::Base, 0, None, 4096).await;
    let base_two = two.make(Kind::Base, 0, None, 4096).await;
    assert_eq!(base_one.image.id, base_two.image.id);
    // The same key from other bytes: builds of environments differ.
    let env_one = one.make(Kind::Env, 1, Some(&base_one), 5000).await;
    let env_two = two.make(Kind::Env, 1, Some(&base_two), 6000).await;
    assert_eq!(env_one.key, env_two.key);
    let leaf_one = one.make(Kind::Checkout, 1, Some(&env_one), 4096).await;
    let leaf_two = two.make(Kind::Checkout, 2, Some(&env_two), 4096).await;
    let (first, second) = ([base_one, env_one.clone(), leaf_one], [base_two, env_two, leaf_two]);
    let (pushed, _) = push(&one, &registry.name(), &first).await;
    assert!(pushed.iter().all(|one| *one == Pushed::Pushed));
    let (pushed, _) = push(&two, &registry.name(), &second).await;
    assert_eq!(pushed, [Pushed::There, Pushed::Differs, Pushed::OnOther]);
    let third = Machine::new().await;
    let brought = pull(&third, &registry.name(), &first).await;
    assert!(brought.iter().all(|one| *one == FetchOutcome::Fetched));
    let env = third.engine.inspect(&env_one.name()).await.unwrap().unwrap();
    assert_eq!(env.diff_ids, env_one.image.diff_ids, "the first stays");

    // At the very same time, of the same bytes.
    let registry = Registry::start();
    let name = registry.name();
    let (pushed_one, pushed_two) =
        tokio::join!(push(&one, &name, &first), push(&third, &name, &first));
    let fine = |one: &Pushed| matches!(one, Pushed::Pushed | Pushed::There);
    assert!(pushed_one.0.iter().chain(&pushed_two.0).all(fine));
    let fourth = Machine::new().await;
    let brought = pull(&fourth, &name, &first).await;
    assert!(brought.iter().all(|one| *one == FetchOutcome::Fetched));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn an_image_on_another_build_of_its_parent_is_not_taken() {
    let registry = Registry::start();
    let (one, two) = (Machine::new().await, Machine::new().await);
    let base = one.make(Kind::Base, 0, None, 4096).await;
    let env = one.make(Kind::Env, 1, Some(&base), 5000).await;
    let leaf = one.make(Kind::Checkout, 1, Some(&env), 4096).await;
    push(&one, &registry.name(), &[base, env, leaf.clone()]).await;
    let base = two.make(Kind::Base, 0, None, 4096).await;
    two.make(Kind::Env, 1, Some(&base), 7000).await;
    let brought = pull(&two, &registry.name(), std::slice::from_ref(&leaf)).await;
    assert!(
        matches!(&brought[0], FetchOutcome::Failed(why) if why.contains("other layers than its parent"))
    );
    assert!(!two.has(&leaf).await);
    let offers = cache(&registry.name()).lookup(&[(leaf.kind, leaf.key)]).await.unwrap();
    let offers = offers.images;
    assert_eq!(offers[&leaf.key].diff_ids, leaf.image.diff_ids);
}
