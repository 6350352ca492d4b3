//! Images that are not what their names say, by archive, by registry and by hand: none is taken, none
//! is handed on, and everybody is told which and why.

use std::collections::BTreeMap;

use imgforge::cache::archive::{self, Archive};
use imgforge::cache::destination::{Destination, FetchOutcome};
use imgforge::cache::from_image::content_identity;
use imgforge::cache::registry::{Pushed, RegistryCache, ToPush};
use imgforge::engine::{Image, ImageConfig, LayerRequest, NoLog, label};
use imgforge::key::{Key, KeyDocument, Kind, SCHEMA};
use imgforge::plan::name;
use imgforge::platform::Platform;

use crate::common::{Machine, Made, layer, text};
use crate::registry::Registry;

const PLATFORM: &str = "linux/amd64";

/// An image that somebody made by hand.
struct Forged {
    kind: Kind,
    key: Key,
    parent: Option<Image>,
    layers: Vec<&'static str>,
    platform: &'static str,
    config: ImageConfig,
}

impl Forged {
    /// What a build would have made of `document` on `parent`.
    fn like(document: &KeyDocument, parent: Option<&Made>) -> Forged {
        let (kind, key) = (document.kind, document.key());
        let mut labels = BTreeMap::from([
            (label::KEY.to_owned(), key.to_string()),
            (label::KIND.to_owned(), kind.to_string()),
            (label::SCHEMA.to_owned(), SCHEMA.to_string()),
            (label::INPUTS.to_owned(), document.canonical()),
        ]);
        let mut config = ImageConfig::default();
        if let Some(parent) = parent {
            labels.insert(label::PARENT.to_owned(), parent.key.to_string());
            config = parent.image.config.clone();
        }
        config.labels = labels;
        if kind == Kind::Checkout {
            "/testbed".clone_into(&mut config.working_dir);
        }
        let parent = parent.map(|parent| parent.image.clone());
        Forged { kind, key, parent, layers: vec!["own"], platform: PLATFORM, config }
    }

    fn label(mut self, name: &str, value: &str) -> Forged {
        self.config.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    fn without(mut self, name: &str) -> Forged {
        self.config.labels.remove(name);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Forged)) -> Forged {
        change(&mut self);
        self
    }

    async fn put(&self, machine: &Machine) -> Image {
        let scratch = tempfile::tempdir().unwrap();
        let layers = self.layers.iter().enumerate().map(|(at, name)| {
            let dir = scratch.path().join(at.to_string());
            std::fs::create_dir(&dir).unwrap();
            layer(&dir, name, 3000)
        });
        let parent = self.parent.clone().unwrap_or_default();
        let request = LayerRequest {
            parent: Image { platform: Platform::written(self.platform), ..parent },
            layers: layers.collect(),
            config: self.config.clone(),
            tags: vec![name::image(self.kind, &self.key)],
        };
        machine.engine.load(&request).await.unwrap()
    }
}

fn env(parent: &Made) -> KeyDocument {
    KeyDocument::new(Kind::Env)
        .with("parent", parent.key)
        .with("platform", PLATFORM)
        .with("variables", BTreeMap::from([("LANG", "C.UTF-8")]))
}

/// Every forgery of an env on `base`, with words of the refusal.
fn forgeries(base: &Made, other: &Made) -> Vec<(Forged, &'static str)> {
    let document = env(base);
    let good = || {
        Forged::like(&document, Some(base)).with(|one| one.config.env.push("LANG=C.UTF-8".into()))
    };
    let stranger = Forged::like(&env(other), Some(other));
    vec![
        (
            good().label(label::INPUTS, "{}").without(label::PARENT),
            "`dev.imgforge.inputs` does not",
        ),
        (
            good().label(label::INPUTS, &format!(" {}", document.canonical())),
            "does not give its key",
        ),
        (good().without(label::PARENT), "`dev.imgforge.parent` is not the parent"),
        (good().label(label::PARENT, &other.key.to_string()), "is not the parent"),
        (good().label(label::KIND, "checkout"), "`dev.imgforge.kind` is not its kind"),
        (good().label(label::SCHEMA, "0"), "is not the schema"),
        (good().label("Dev.Imgforge.Key", "x"), "which imgforge does not set"),
        (good().label(label::SCRATCH, "1.2-3"), "not of a finished build"),
        (good().with(|one| one.parent = None), "other layers than its parent"),
        (good().with(|one| one.parent = Some(other.image.clone())), "other layers than its parent"),
        (good().with(|one| one.layers = vec!["a", "b", "c"]), "adds 3 layers"),
        (good().with(|one| one.layers = vec![]), "adds 0 layers"),
        (good().with(|one| one.config.env = vec!["LANG=C".into()]), "its environment is not"),
        (good().with(|one| one.config.env.insert(0, "PATH=/evil:/bin".into())), "its environment"),
        (good().with(|one| one.config.entrypoint = vec!["/evil".into()]), "its entrypoint is not"),
        (good().with(|one| one.config.cmd = vec!["/evil".into()]), "its command is not"),
        (good().with(|one| one.config.user = "evil".into()), "its user is not"),
        (good().with(|one| one.config.shell = vec!["/evil".into()]), "its shell is not"),
        (
            good().with(|one| one.config.working_dir = "/evil".into()),
            "its working directory is not",
        ),
        // A good image of another node under this name.
        (stranger.with(|one| one.key = document.key()), "`dev.imgforge.key` is not its key"),
    ]
}

async fn target_bring(machine: &Machine, remote: &RegistryCache, of: (Kind, Key)) -> FetchOutcome {
    let target = Destination {
        engine: &*machine.engine,
        identity: &machine.identity,
        store: &machine.store,
    };
    target.fetch(remote, &[of], &|_| {}).await.unwrap().remove(0).outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn no_forged_image_of_an_archive_is_imported_and_the_good_ones_beside_it_are() {
    let evil = Machine::new().await;
    let base = evil.make(Kind::Base, 0, None, 4000).await;
    let other = evil.make(Kind::Base, 1, None, 4000).await;
    let file = evil.path().join("cache.tar");
    let machine = Machine::new().await;
    for (number, (forged, why)) in forgeries(&base, &other).into_iter().enumerate() {
        let image = forged.put(&evil).await;
        let images = [(Kind::Base, base.key), (Kind::Base, other.key), (forged.kind, forged.key)];
        archive::export(&*evil.engine, &file, images.into_iter(), None).await.unwrap();
        let output = machine.run(&["cache", "import", file.to_str().unwrap()]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{number}: {said}");
        assert!(said.contains(why), "{number}: {why}: {said}");
        assert!(said.contains(&name::image(forged.kind, &forged.key)), "{number}: {said}");
        assert!(machine.has(&base).await, "what is good is taken");
        let name = name::image(forged.kind, &forged.key);
        assert!(machine.engine.inspect(&name).await.unwrap().is_none(), "{number}");
        assert!(!machine.store.indexed(&machine.identity).unwrap().contains_key(&forged.key));
        // And by hand it is no better: it is not handed on.
        let output = evil.run(&["cache", "export", "again.tar"]);
        assert!(output.status.code() < Some(2), "{number}: {}", text(&output));
        let again = Archive::open(&evil.path().join("again.tar"), evil.path()).unwrap();
        let bases = again.images().into_iter().filter(|(kind, _)| *kind == Kind::Base);
        assert_eq!(bases.count(), again.images().len(), "{number}: {}", text(&output));
        evil.engine.remove(image.id.as_str()).await.unwrap();
    }
    let output = machine.run(&["cache", "verify"]);
    assert!(output.status.success(), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_parent_is_nowhere_is_not_taken() {
    let evil = Machine::new().await;
    let base = evil.make(Kind::Base, 0, None, 4000).await;
    let env = evil.make(Kind::Env, 1, Some(&base), 4000).await;
    let file = evil.path().join("cache.tar");
    archive::export(&*evil.engine, &file, [(Kind::Env, env.key)].into_iter(), None).await.unwrap();
    let machine = Machine::new().await;
    let import = ["cache", "import", file.to_str().unwrap()];
    let output = machine.run(&import);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains(&format!("its parent `{}` is not here", base.name())));
    assert!(!machine.has(&env).await);
    machine.make(Kind::Base, 0, None, 4000).await;
    assert!(machine.run(&import).status.success());
}

const FROM: &str = "python:3.11.10-slim-bookworm";

/// Puts an image that bases begin from onto a machine, of one layer that is named by its content.
async fn put_from(machine: &Machine, layer_name: &str, config: ImageConfig) -> Image {
    let scratch = tempfile::tempdir().unwrap();
    let request = LayerRequest {
        parent: Image { platform: Platform::written(PLATFORM), ..Image::default() },
        layers: vec![layer(scratch.path(), layer_name, 5000)],
        config,
        tags: vec![FROM.to_owned()],
    };
    machine.engine.load(&request).await.unwrap()
}

fn base_from(identity: &str) -> KeyDocument {
    KeyDocument::new(Kind::Base)
        .with("from", BTreeMap::from([(FROM, identity)]))
        .with("platform", PLATFORM)
}

/// Checks that a `FROM` image came along under a name of ours and no other: what somebody sends must not
/// become what `FROM` means in other builds.
async fn only_kept(machine: &Machine, from: &Image) {
    assert!(machine.engine.inspect(FROM).await.unwrap().is_none());
    let kept = name::kept_from_image(FROM, &Platform::written(PLATFORM), &content_identity(from));
    let kept = machine.engine.inspect(&kept).await.unwrap().expect("it came along");
    assert_eq!(kept.diff_ids, from.diff_ids);
    assert!(kept.tags.iter().all(|tag| name::is_kept_from_image(tag)), "{:?}", kept.tags);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_is_taken_only_where_it_is_seen_to_stand_on_its_from_image() {
    let evil = Machine::new().await;
    let from = put_from(&evil, "debian", ImageConfig::default()).await;
    let document = base_from(&content_identity(&from));
    let (key, name) = (document.key(), name::image(Kind::Base, &document.key()));
    let good = || Forged::like(&document, None).with(|one| one.parent = Some(from.clone()));
    let foreign = good().with(|one| one.parent = None);
    let (file, without) = (evil.path().join("with.tar"), evil.path().join("without.tar"));
    let export = async |file| {
        archive::export(&*evil.engine, file, [(Kind::Base, key)].into_iter(), None).await.unwrap();
    };
    let import = |machine: &Machine, file: &std::path::Path| {
        let output = machine.run(&["cache", "import", file.to_str().unwrap()]);
        (output.status.code(), text(&output))
    };
    let not_on = format!("it does not begin with the layers of its FROM image `{FROM}`");
    let unseen = format!("its FROM image `{FROM}` is not here");
    let (nothing, with_from) = (Machine::new().await, Machine::new().await);
    put_from(&with_from, "debian", ImageConfig::default()).await;

    let image = foreign.put(&evil).await;
    export(&file).await;
    evil.engine.remove(FROM).await.unwrap();
    export(&without).await;
    for (machine, file, why) in [
        (&nothing, &file, &not_on),
        (&nothing, &without, &unseen),
        (&with_from, &file, &not_on),
        (&with_from, &without, &not_on),
    ] {
        let (code, said) = import(machine, file);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(why.as_str()), "{why}: {said}");
        assert!(machine.engine.inspect(&name).await.unwrap().is_none(), "{said}");
    }
    // One that got here by hand is no better, whether its FROM image is here or not.
    assert!(text(&evil.run(&["cache", "verify"])).contains(&unseen));
    put_from(&evil, "debian", ImageConfig::default()).await;
    assert!(text(&evil.run(&["cache", "verify"])).contains(&not_on));
    evil.engine.remove(image.id.as_str()).await.unwrap();

    // What a build makes is taken, where its FROM image is here or comes beside it.
    good().put(&evil).await;
    export(&file).await;
    evil.engine.remove(FROM).await.unwrap();
    export(&without).await;
    let (code, said) = import(&nothing, &without);
    assert!(code == Some(1) && said.contains(&unseen), "{said}");
    assert_eq!(import(&with_from, &without).0, Some(0));
    assert_eq!(import(&nothing, &file).0, Some(0));
    only_kept(&nothing, &from).await;
    // Whoever took it can hand it on: the FROM image came with it.
    let output = nothing.run(&["cache", "export", "again.tar"]);
    assert!(output.status.success(), "{}", text(&output));
    let (code, said) = import(&Machine::new().await, &nothing.path().join("again.tar"));
    assert_eq!(code, Some(0), "{said}");
    let verified = nothing.run(&["cache", "verify"]);
    assert!(verified.status.success(), "{}", text(&verified));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_from_images_that_were_made_of_the_same_packages_one_is_enough() {
    let made = |machine| {
        let label = (imgforge::bootstrap::LABEL.to_owned(), "debian bookworm: sha256:0".to_owned());
        let labels = BTreeMap::from([label]);
        put_from(machine, "made", ImageConfig { labels, ..ImageConfig::default() })
    };
    let (theirs, ours) = (Machine::new().await, Machine::new().await);
    let from = made(&theirs).await;
    let labels = from.config.labels.clone();
    let other = put_from(&ours, "other", ImageConfig { labels, ..ImageConfig::default() }).await;
    assert_eq!(content_identity(&from), content_identity(&other));
    assert_ne!(from.diff_ids, other.diff_ids);
    let document = base_from(&content_identity(&from));
    Forged::like(&document, None).with(|one| one.parent = Some(from.clone())).put(&theirs).await;
    let file = theirs.path().join("cache.tar");
    let bases = [(Kind::Base, document.key())].into_iter();
    archive::export(&*theirs.engine, &file, bases, None).await.unwrap();
    let output = ours.run(&["cache", "import", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
    // The one that the base stands on is handed on with it.
    let output = ours.run(&["cache", "export", "again.tar"]);
    assert!(output.status.success(), "{}", text(&output));
    let third = Machine::new().await;
    let output = third.run(&["cache", "import", ours.path().join("again.tar").to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn bases_of_an_archive_share_a_from_image_or_have_one_of_another_day_each() {
    let theirs = Machine::new().await;
    let mut bases = Vec::new();
    for (day, number) in [("monday", 1), ("monday", 2), ("tuesday", 3)] {
        let from = put_from(&theirs, day, ImageConfig::default()).await;
        let document = base_from(&content_identity(&from)).with("number", number);
        Forged::like(&document, None)
            .with(|one| one.parent = Some(from.clone()))
            .put(&theirs)
            .await;
        // As it is where it came with a base.
        let kept =
            name::kept_from_image(FROM, &Platform::written(PLATFORM), &content_identity(&from));
        theirs.engine.tag(from.id.as_str(), &kept.parse().unwrap()).await.unwrap();
        bases.push((Kind::Base, document.key()));
    }
    let file = theirs.path().join("cache.tar");
    archive::export(&*theirs.engine, &file, bases.iter().copied(), None).await.unwrap();
    let machine = Machine::new().await;
    let output = machine.run(&["cache", "import", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
    for (kind, key) in bases {
        assert!(machine.engine.inspect(&name::image(kind, &key)).await.unwrap().is_some());
    }
    let output = machine.run(&["cache", "verify"]);
    assert!(output.status.success(), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn a_base_is_built_on_the_from_image_of_a_registry_which_takes_no_name_but_ours() {
    let registry = Registry::start();
    let theirs = Machine::new().await;
    let catalog = theirs.catalog().await.display().to_string();
    let base = |machine: &Machine, catalog: &str, more: &[&str]| {
        let build = ["--config", catalog, "build", "-d", "demo", "--layers", "base"];
        let output = machine.run(&[&build, more].concat());
        assert!(output.status.success(), "{}", text(&output));
    };
    base(&theirs, &catalog, &[]);
    let output = theirs.run(&["cache", "push", &registry.name()]);
    assert!(output.status.success(), "{}", text(&output));
    let from = theirs.engine.inspect("imgforge-test/from:1").await.unwrap().unwrap();

    // The same image below another base, which the registry does not have.
    let ours = Machine::new().await;
    let catalog = ours.catalog().await;
    ours.engine.remove("imgforge-test/from:1").await.unwrap();
    let dockerfile = "ARG V=1\nFROM imgforge-test/from:$V AS one\nENV A=b\n";
    std::fs::write(catalog.with_file_name("Dockerfile"), dockerfile).unwrap();
    let catalog = catalog.display().to_string();
    base(&ours, &catalog, &["--cache-registry", &registry.name()]);
    let built = node(&ours, &catalog, "base:");
    assert_eq!(built["status"], "fresh");
    let image = ours.engine.inspect(built["image"].as_str().unwrap()).await.unwrap().unwrap();
    assert!(image.diff_ids.starts_with(&from.diff_ids));
    assert!(image.config.env.contains(&"A=b".to_owned()));
    assert!(ours.engine.inspect("imgforge-test/from:1").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn a_base_of_a_registry_that_does_not_stand_on_its_from_image_is_not_taken() {
    let registry = Registry::start();
    let evil = Machine::new().await;
    let from = put_from(&evil, "debian", ImageConfig::default()).await;
    let document = base_from(&content_identity(&from));
    let of = (Kind::Base, document.key());
    let name = name::image(of.0, &of.1);
    let good = Forged::like(&document, None).with(|one| one.parent = Some(from.clone()));
    good.put(&evil).await;
    let cache = RegistryCache::new(&registry.name(), &Platform::written(PLATFORM), None).unwrap();
    let to_push = [ToPush { kind: of.0, key: of.1 }];
    let pushed = cache.push(&evil.checker(), &to_push, &|_| {}).await.unwrap();
    assert!(matches!(pushed[0].outcome, Pushed::Pushed), "{pushed:?}");
    let taker = Machine::new().await;
    assert_eq!(target_bring(&taker, &cache, of).await, FetchOutcome::Fetched);
    only_kept(&taker, &from).await;
    // Somebody replaces the base, and leaves the FROM image.
    let image = good.with(|one| one.parent = None).put(&evil).await;
    let pushed = cache.push(&evil.checker(), &to_push, &|_| {}).await.unwrap();
    assert!(matches!(&pushed[0].outcome, Pushed::Failed(_)), "{pushed:?}");
    let reference = format!("{}/{name}", registry.name());
    evil.engine.tag(image.id.as_str(), &reference.parse().unwrap()).await.unwrap();
    evil.engine.push(&reference.parse().unwrap(), &[], &NoLog).await.unwrap();
    let cache = RegistryCache::new(&registry.name(), &Platform::written(PLATFORM), None).unwrap();
    let machine = Machine::new().await;
    let FetchOutcome::Failed(said) = target_bring(&machine, &cache, of).await else {
        panic!("taken")
    };
    assert!(said.contains("does not begin with the layers"), "{said}");
    assert!(machine.engine.inspect(&name).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn no_forged_image_of_a_registry_is_taken_or_pushed_on() {
    let registry = Registry::start();
    let evil = Machine::new().await;
    let base = evil.make(Kind::Base, 0, None, 4000).await;
    let other = evil.make(Kind::Base, 1, None, 4000).await;
    let cache = RegistryCache::new(&registry.name(), &Platform::written(PLATFORM), None).unwrap();
    let machine = Machine::new().await;
    machine.make(Kind::Base, 0, None, 4000).await;
    let forged = forgeries(&base, &other);
    for (number, (forged, why)) in forged.into_iter().enumerate().step_by(3) {
        let image = forged.put(&evil).await;
        let name = name::image(forged.kind, &forged.key);
        let to_push = [ToPush { kind: forged.kind, key: forged.key }];
        let pushed = cache.push(&evil.checker(), &to_push, &|_| {}).await.unwrap();
        let Pushed::Failed(said) = &pushed[0].outcome else { panic!("{number}: {pushed:?}") };
        assert!(said.contains(why), "{number}: {said}");
        // Somebody pushes it all the same.
        let reference = format!("{}/{name}", registry.name());
        evil.engine.tag(image.id.as_str(), &reference.parse().unwrap()).await.unwrap();
        evil.engine.push(&reference.parse().unwrap(), &[], &NoLog).await.unwrap();
        let cache =
            RegistryCache::new(&registry.name(), &Platform::written(PLATFORM), None).unwrap();
        let outcome = target_bring(&machine, &cache, (forged.kind, forged.key)).await;
        let FetchOutcome::Failed(said) = &outcome else { panic!("{number}: {outcome:?}") };
        assert!(said.contains(why), "{number}: {said}");
        assert!(machine.engine.inspect(&name).await.unwrap().is_none(), "{number}");
        evil.engine.remove(image.id.as_str()).await.unwrap();
    }
}

/// The node of a plan whose id begins so.
fn node(machine: &Machine, catalog: &str, id: &str) -> serde_json::Value {
    let args = ["--config", catalog, "plan", "-d", "demo", "--json", "-i", "imgforge__abacus-1"];
    let output = machine.run(&args);
    assert!(output.status.success(), "{}", text(&output));
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let nodes = plan["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["id"].as_str().unwrap().starts_with(id)).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_image_that_is_here_is_stale_and_the_plan_says_why() {
    let machine = Machine::new().await;
    let catalog = machine.catalog().await.display().to_string();
    let build = ["--config", &catalog, "build", "-d", "demo", "--layers", "base"];
    let output = machine.run(&build);
    assert!(output.status.success(), "{}", text(&output));
    let base = node(&machine, &catalog, "base:");
    assert_eq!(base["status"], "fresh");
    let planned = node(&machine, &catalog, "env:");
    assert_eq!(planned["status"], "stale");
    let key: Key = planned["key"].as_str().unwrap().parse().unwrap();
    let document = KeyDocument::new(Kind::Env);
    let forged = Forged { key, ..Forged::like(&document, None) };
    let forged = forged.label(label::KEY, &key.to_string());
    forged.put(&machine).await;
    for _ in 0..2 {
        let planned = node(&machine, &catalog, "env:");
        assert_eq!(planned["status"], "stale");
        let reasons = planned["reasons"].to_string();
        assert!(reasons.contains("`dev.imgforge.inputs` does not give its key"), "{reasons}");
    }
    // Nor does what an older imgforge put into the index change that.
    let database = rusqlite::Connection::open(machine.path().join("state.db")).unwrap();
    let id = machine.engine.inspect(&name::image(Kind::Env, &key)).await.unwrap().unwrap().id;
    database
        .execute(
            "INSERT INTO images (engine, key, kind, image_id, diff_ids, bytes, seconds, looked)
             VALUES (?1, ?2, 'env', ?3, '', 0, 0, ?3)",
            [machine.identity.as_str(), &key.to_string(), id.as_str()],
        )
        .unwrap();
    assert_eq!(node(&machine, &catalog, "env:")["status"], "stale");
}
