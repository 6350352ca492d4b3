//! Layers that are loaded without a build step.

use imgforge::engine::EngineError;
use imgforge::key::Digest;

use crate::common::{layer, on_every_engine};
use crate::scratch::Scratch;

#[test]
#[ignore = "needs an engine"]
fn a_loaded_layer_is_one_more_on_its_parent_and_its_files_are_there() {
    on_every_engine(|bench| async move {
        let dir = Scratch::new();
        let file = layer(dir.path(), &[("testbed/a.txt", "hello\n"), ("usr/.wh.games", "")]);
        let request = bench.layer(&bench.base, Some(file.clone()), "one");
        let image = bench.engine.load(&request).await.unwrap();
        let (last, below) = image.diff_ids.split_last().unwrap();
        assert_eq!(*last, file.diff_id);
        assert_eq!(below, bench.base.diff_ids);
        assert_eq!(image.config.labels, request.config.labels);
        let looked = bench.engine.inspect(&bench.name("one")).await.unwrap().unwrap();
        assert_eq!(looked.id, image.id);
        assert_eq!(looked.config.env, bench.base.config.env);
        let (code, output) =
            bench.shell(&bench.name("one"), "cat /testbed/a.txt; ls /usr/games; python3 -V").await;
        assert_eq!(code, 0);
        assert!(output.starts_with("hello\n"), "{output}");
        assert!(output.contains("No such file"), "the whiteout works: {output}");
        assert!(output.contains("Python 3"), "the layers below are there: {output}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn equal_requests_give_one_image_and_layers_stack() {
    on_every_engine(|bench| async move {
        let dir = Scratch::new();
        let lower = layer(dir.path(), &[("a", "1"), ("b", "1")]);
        let upper = layer(dir.path(), &[("b", "2")]);
        let lower = bench.layer(&bench.base, Some(lower), "lower");
        let one = bench.engine.load(&lower).await.unwrap();
        let again = bench.engine.load(&lower).await.unwrap();
        assert_eq!(one, again);
        let two = bench.engine.load(&bench.layer(&one, Some(upper), "upper")).await.unwrap();
        assert_eq!(two.diff_ids.len(), bench.base.diff_ids.len() + 2);
        let (_, output) = bench.shell(&bench.name("upper"), "cat /a /b").await;
        assert_eq!(output, "12");
        // The same from an image that this process has not loaded itself.
        let other = bench.another_engine().await;
        assert_eq!(other.load(&lower).await.unwrap().id, one.id);
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_name_moves_to_the_image_that_was_loaded_last() {
    on_every_engine(|bench| async move {
        let dir = Scratch::new();
        let first = bench.layer(&bench.base, Some(layer(dir.path(), &[("a", "1")])), "name");
        let second = bench.layer(&bench.base, Some(layer(dir.path(), &[("a", "2")])), "name");
        let first = bench.engine.load(&first).await.unwrap();
        let second = bench.engine.load(&second).await.unwrap();
        assert_ne!(first.id, second.id);
        let named = bench.engine.inspect(&bench.name("name")).await.unwrap().unwrap();
        assert_eq!(named.id, second.id);
        bench.engine.remove(first.id.as_str()).await.unwrap();
        bench.engine.remove(&bench.name("name")).await.unwrap();
        assert_eq!(bench.engine.inspect(second.id.as_str()).await.unwrap(), None);
    });
}

#[test]
#[ignore = "needs an engine"]
fn an_image_that_several_remove_at_once_is_gone_and_nobody_fails() {
    on_every_engine(|bench| async move {
        let dir = Scratch::new();
        for round in ["1", "2", "3", "4", "5"] {
            let file = layer(dir.path(), &[("round", round)]);
            let request = bench.layer(&bench.base, Some(file), "at-once");
            let image = bench.engine.load(&request).await.unwrap();
            let mut removals = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let (engine, id) = (bench.engine.clone(), image.id.clone());
                removals.spawn(async move { engine.remove(id.as_str()).await });
            }
            for removed in removals.join_all().await {
                removed.unwrap();
            }
            assert_eq!(bench.engine.inspect(image.id.as_str()).await.unwrap(), None);
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn images_are_listed_while_others_go() {
    on_every_engine(|bench| async move {
        let dir = Scratch::new();
        let mut ids = Vec::new();
        for number in 0..12 {
            let file = layer(dir.path(), &[("number", &number.to_string())]);
            let name = format!("goes{number}");
            let request = bench.layer(&bench.base, Some(file), &name);
            ids.push(bench.engine.load(&request).await.unwrap().id);
        }
        let mut removals = tokio::task::JoinSet::new();
        for id in ids {
            let engine = bench.engine.clone();
            removals.spawn(async move { engine.remove(id.as_str()).await });
        }
        while !removals.is_empty() {
            bench.engine.images().await.unwrap();
            while let Some(removed) = removals.try_join_next() {
                removed.unwrap().unwrap();
            }
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_parent_that_the_engine_does_not_have_is_named_and_nothing_is_left() {
    on_every_engine(|bench| async move {
        let dir = Scratch::new();
        let mut parent = bench.base.clone();
        parent.id = Digest::of("no image").into();
        parent.tags = vec!["imgforge/env:gone".to_owned()];
        parent.diff_ids[0] = Digest::of("no layer").into();
        let request = bench.layer(&parent, Some(layer(dir.path(), &[("a", "1")])), "orphan");
        let error = bench.engine.load(&request).await.unwrap_err();
        let EngineError::NoSuchImage { reference } = &error else { panic!("{error:?}") };
        assert_eq!(reference, "imgforge/env:gone");
        assert_eq!(bench.left().await, Vec::<String>::new());
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_layer_that_is_not_what_it_says_is_refused_and_nothing_is_left() {
    on_every_engine(|bench| async move {
        let dir = Scratch::new();
        let mut file = layer(dir.path(), &[("a", "1")]);
        file.diff_id = Digest::of("something else");
        let request = bench.layer(&bench.base, Some(file), "wrong");
        let error = bench.engine.load(&request).await.unwrap_err();
        assert!(!error.is_transient(), "{error:?}");
        assert_eq!(bench.left().await, Vec::<String>::new());
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_layer_file_that_is_gone_is_named() {
    on_every_engine(|bench| async move {
        let dir = Scratch::new();
        let file = layer(dir.path(), &[("a", "1")]);
        std::fs::remove_file(&file.path).unwrap();
        let request = bench.layer(&bench.base, Some(file.clone()), "none");
        let error = bench.engine.load(&request).await.unwrap_err();
        let EngineError::File { path, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*path, file.path);
    });
}

#[test]
#[ignore = "needs an engine"]
fn loads_at_once_do_not_disturb_each_other() {
    on_every_engine(|bench| async move {
        let dir = Scratch::new();
        let loads = (0..6).map(|number| {
            let text = (number / 2).to_string();
            let file = layer(dir.path(), &[("a", &text)]);
            let request = bench.layer(&bench.base, Some(file), &format!("n{}", number / 2));
            let bench = bench.clone();
            async move { bench.engine.load(&request).await.unwrap().id }
        });
        let ids = futures_util::future::join_all(loads).await;
        assert_eq!(ids[0], ids[1]);
        assert_ne!(ids[0], ids[2]);
        assert_eq!(bench.left().await.len(), 3);
    });
}

#[test]
#[ignore = "needs an engine"]
fn the_listing_has_names_and_labels() {
    on_every_engine(|bench| async move {
        let request = bench.layer(&bench.base, None, "listed");
        let image = bench.engine.load(&request).await.unwrap();
        assert_eq!(image.diff_ids, bench.base.diff_ids);
        let listed = bench.engine.images().await.unwrap();
        let found = listed.iter().find(|listed| listed.id == image.id).unwrap();
        assert_eq!(found.tags, request.tags);
        assert_eq!(found.labels, request.config.labels);
        assert_eq!(bench.engine.inspect(&bench.name("absent")).await.unwrap(), None);
        bench.engine.remove(&bench.name("absent")).await.unwrap();
        let error = bench
            .engine
            .tag(&bench.name("absent"), &bench.name("b").parse().unwrap())
            .await
            .unwrap_err();
        assert!(matches!(error, EngineError::NoSuchImage { .. }), "{error:?}");
    });
}
