//! Images of another platform: no engine builds, runs or pulls one for what it is not.

use imgforge::engine::{EngineError, Image, ImageConfig, LayerRequest};
use imgforge::platform::Platform;

use crate::common::{Bench, Log, layer, on_every_engine};
use crate::scratch::Scratch;
use crate::transfer::Registry;

/// The platform that the engines under test are not.
fn other(bench: &Bench) -> Platform {
    let is_arm = bench.base.platform == "linux/arm64";
    Platform::written(if is_arm { "linux/amd64" } else { "linux/arm64" })
}

/// Makes an image of one file for a platform.
async fn make(bench: &Bench, platform: &Platform, tag: &str) -> Image {
    let dir = Scratch::new();
    let request = LayerRequest {
        parent: Image { platform: platform.to_owned(), ..Image::default() },
        layers: vec![layer(dir.path(), &[("file", tag)])],
        config: ImageConfig::default(),
        tags: vec![bench.name(tag)],
    };
    bench.engine.load(&request).await.unwrap()
}

fn is_other(error: &EngineError, found: &Platform, wanted: &Platform) -> bool {
    matches!(error, EngineError::OtherPlatform { found: one, wanted: two, .. }
        if one == found && two == wanted)
}

#[test]
#[ignore = "needs an engine"]
fn an_image_keeps_its_platform() {
    on_every_engine(|bench| async move {
        // As it is asked for, and as it is.
        let cases = [
            ("linux/arm64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/amd64", "linux/amd64"),
            ("linux/arm/v7", "linux/arm/v7"),
        ];
        for (at, (asked, platform)) in cases.into_iter().enumerate() {
            let made = make(&bench, &Platform::written(asked), &format!("p{at}")).await;
            let found = bench.engine.inspect(made.id.as_str()).await.unwrap().unwrap();
            assert_eq!(found.platform, platform);
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_build_for_a_platform_does_not_stand_on_another() {
    on_every_engine(|bench| async move {
        let (native, other) = (bench.base.platform.clone(), other(&bench));
        let foreign = make(&bench, &other, "foreign").await;
        // The parent is foreign, or what is asked for is.
        let text = format!("FROM {}\nCOPY --from={0} /file /copy\n", bench.name("foreign"));
        let error =
            bench.engine.build(&bench.build(&text, "x"), &Log::default()).await.unwrap_err();
        assert!(is_other(&error, &other, &native), "{error:?}");
        let text = format!("FROM {}\nRUN true\n", bench.from());
        let mut request = bench.build(&text, "x");
        request.platform = other.clone();
        let error = bench.engine.build(&request, &Log::default()).await.unwrap_err();
        assert!(is_other(&error, &native, &other), "{error:?}");
        // A stage that copies from one is no better.
        let text =
            format!("FROM {}\nCOPY --from={} /file /copy\n", bench.from(), bench.name("foreign"));
        let error =
            bench.engine.build(&bench.build(&text, "x"), &Log::default()).await.unwrap_err();
        assert!(is_other(&error, &other, &native), "{error:?}");
        // Nor are layers under a platform that is not theirs.
        let dir = Scratch::new();
        let parent = Image { platform: native.clone(), ..foreign };
        let request = bench.layer(&parent, Some(layer(dir.path(), &[("more", "")])), "x");
        let error = bench.engine.load(&request).await.unwrap_err();
        assert!(is_other(&error, &other, &native), "{error:?}");
        assert_eq!(bench.engine.inspect(&bench.name("x")).await.unwrap(), None);
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_step_that_was_done_for_another_platform_is_done_again() {
    on_every_engine(|bench| async move {
        let mut request = bench.build("FROM scratch\nCOPY a.txt /\n", "one");
        request.context.push(crate::common::file("a.txt", &bench.owner));
        let one = bench.engine.build(&request, &Log::default()).await.unwrap();
        request.platform = other(&bench);
        request.tags = vec![bench.name("two")];
        let log = Log::default();
        let two = bench.engine.build(&request, &log).await.unwrap();
        assert_ne!(one.id, two.id);
        assert_eq!(two.platform, other(&bench));
        assert!(!log.text().contains("---> Using cache"), "{}", log.text());
    });
}

#[test]
#[ignore = "needs an engine and docker-registry"]
fn an_image_that_a_registry_has_for_another_platform_is_not_pulled() {
    on_every_engine(|bench| async move {
        let registry = Registry::start(None).await;
        let (native, other) = (bench.base.platform.clone(), other(&bench));
        // Not in a list: the registry gives it whatever is asked for.
        let name = registry.name("some/image:1");
        let made = make(&bench, &other, "published").await;
        bench.engine.tag(made.id.as_str(), &name.parse().unwrap()).await.unwrap();
        bench.engine.push(&name.parse().unwrap(), &[], &Log::default()).await.unwrap();
        bench.engine.remove(made.id.as_str()).await.unwrap();
        let error =
            bench.engine.pull(&name.parse().unwrap(), &native, &Log::default()).await.unwrap_err();
        assert!(is_other(&error, &other, &native), "{error:?}");
        assert_eq!(bench.engine.inspect(&name).await.unwrap(), None, "and the name is not taken");
        let image =
            bench.engine.pull(&name.parse().unwrap(), &other, &Log::default()).await.unwrap();
        assert_eq!(image.diff_ids, made.diff_ids);
        bench.engine.remove(image.id.as_str()).await.unwrap();
    });
}
