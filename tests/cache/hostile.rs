//! Archives and registries that mean harm: what they hold is refused, by name, and nothing stays.

use std::path::Path;

use imgforge::cache::archive::Archive;
use imgforge::cache::image_source::ImageSource as _;
use imgforge::cache::registry::RegistryCache;
use imgforge::engine::{ImageConfig, LayerRequest, NoLog, label};
use imgforge::key::{Digest, Key, KeyDocument, Kind, SCHEMA};
use imgforge::plan::name;
use imgforge::platform::Platform;
use serde_json::{Value, json};

use crate::common::{Machine, files, layer, text};
use crate::registry::Registry;

type Entries = Vec<(String, Vec<u8>)>;

fn header(kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header
}

fn base() -> (Key, KeyDocument) {
    let document = KeyDocument::new(Kind::Base).with("platform", "linux/amd64");
    (document.key(), document)
}

/// The entries of an archive with one base of one layer, whose labels are right.
fn entries(tar: &[u8], annotations: &Value) -> Entries {
    let (key, document) = base();
    let mut entries = vec![("imgforge.json".to_owned(), br#"{"version":1}"#.to_vec())];
    let mut blob = |media_type: &str, bytes: Vec<u8>| {
        let digest = Digest::of(&bytes);
        let descriptor =
            json!({"mediaType": media_type, "digest": digest.oci(), "size": bytes.len()});
        entries.push((format!("blobs/sha256/{digest}"), bytes));
        descriptor
    };
    let packed = zstd::encode_all(tar, 3).unwrap();
    let layer = blob("application/vnd.oci.image.layer.v1.tar+zstd", packed);
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {
            label::KEY: key.to_string(),
            label::KIND: "base",
            label::SCHEMA: SCHEMA.to_string(),
            label::INPUTS: document.canonical(),
        }},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(tar).oci()]},
    });
    let config = blob("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer],
    });
    let mut manifest = blob(manifest_type, manifest.to_string().into_bytes());
    manifest["annotations"] = annotations.clone();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    entries.push(("index.json".to_owned(), index.to_string().into_bytes()));
    entries
}

fn named() -> Value {
    json!({"org.opencontainers.image.ref.name": name::image(Kind::Base, &base().0)})
}

fn write(path: &Path, entries: &Entries) {
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in entries {
        let mut header = header(tar::EntryType::Regular, bytes.len() as u64);
        archive.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    archive.finish().unwrap();
}

/// A tar of one entry whose header is as it is given.
fn tar_of(name: &str, mut header: tar::Header, bytes: &[u8]) -> Vec<u8> {
    // The library refuses some of these names.
    let field = &mut header.as_old_mut().name;
    field[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    let mut tar = header.as_bytes().to_vec();
    tar.extend(bytes);
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_no_layers_are_refused_and_nothing_of_them_stays() {
    let machine = Machine::new().await;
    let file = machine.path().join("cache.tar");
    let plain = |size| header(tar::EntryType::Regular, size);
    let mut link = header(tar::EntryType::Link, 0);
    link.as_old_mut().linkname[..13].copy_from_slice(b"../../../root");
    for (tar, why) in [
        (tar_of("bomb", plain(1 << 40), b""), "unpacks to more than"),
        (tar_of("../out", plain(1), b"x"), "leads out of it"),
        (tar_of("a/../../out", plain(1), b"x"), "leads out of it"),
        (tar_of("a/.wh...", plain(0), b""), "leads out of it"),
        (tar_of("link", link, b""), "leads out of it"),
        (b"no tar at all".repeat(200), "no header of an entry"),
    ] {
        write(&file, &entries(&tar, &named()));
        let output = machine.run(&["cache", "import", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{why}: {}", text(&output));
        assert!(text(&output).contains(why), "{why}: {}", text(&output));
        let name = name::image(Kind::Base, &base().0);
        assert!(text(&output).contains(&name), "{}", text(&output));
        assert!(machine.engine.inspect(&name).await.unwrap().is_none());
        assert!(files(machine.path(), "/layers-").is_empty(), "{why}");
    }
    // The same archive with a layer that is one.
    write(&file, &entries(&tar_of("a", plain(1), b"x"), &named()));
    let output = machine.run(&["cache", "import", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_with_an_entry_twice_or_a_link_is_bad_input() {
    let machine = Machine::new().await;
    let file = machine.path().join("cache.tar");
    let good = entries(&tar_of("a", header(tar::EntryType::Regular, 1), b"x"), &named());
    for (change, why) in [
        (good.last().unwrap().clone(), "`index.json` is in it twice"),
        (good[1].clone(), "is in it twice"),
    ] {
        let mut twice = good.clone();
        twice.push(change);
        write(&file, &twice);
        let output = machine.run(&["cache", "import", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(why), "{}", text(&output));
    }
    write(&file, &good);
    let whole = std::fs::read(&file).unwrap();
    let mut link = header(tar::EntryType::Symlink, 0);
    link.set_link_name("/etc/passwd").unwrap();
    let mut bytes = whole[..whole.len() - 1024].to_vec();
    bytes.extend(tar_of("blobs/sha256/x", link, b""));
    std::fs::write(&file, bytes).unwrap();
    let output = machine.run(&["cache", "import", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("is not a plain file"), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_brings_no_image_under_a_name_that_its_bases_do_not_stand_on() {
    let machine = Machine::new().await;
    let file = machine.path().join("cache.tar");
    let tar = tar_of("a", header(tar::EntryType::Regular, 1), b"x");
    let env = name::image(Kind::Env, &KeyDocument::new(Kind::Env).key());
    for reference in [env.as_str(), "sweb.eval.x86_64.a__b-1:latest", "python:3.11"] {
        write(&file, &entries(&tar, &json!({"dev.imgforge.reference": reference})));
        let archive = Archive::open(&file, machine.path()).unwrap();
        assert!(archive.external_images(reference).await.unwrap().is_empty(), "{reference}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn what_was_looked_at_is_pulled_though_the_registry_has_another_by_then() {
    let registry = Registry::start();
    let other = Machine::new().await;
    let base = other.make(Kind::Base, 0, None, 4000).await;
    let reference = format!("{}/{}", registry.name(), base.name());
    let push = async |id: &str| {
        other.engine.tag(id, &reference.parse().unwrap()).await.unwrap();
        other.engine.push(&reference.parse().unwrap(), &[], &NoLog).await.unwrap();
    };
    push(base.image.id.as_str()).await;
    let cache =
        RegistryCache::new(&registry.name(), &Platform::written("linux/amd64"), None).unwrap();
    let offers = cache.lookup(&[(Kind::Base, base.key)]).await.unwrap().images;
    assert_eq!(offers[&base.key].diff_ids, base.image.diff_ids);
    let scratch = tempfile::tempdir().unwrap();
    let swapped = other
        .engine
        .load(&LayerRequest {
            parent: imgforge::engine::Image {
                platform: Platform::written("linux/amd64"),
                ..Default::default()
            },
            layers: vec![layer(scratch.path(), "evil", 3000)],
            config: ImageConfig { ..base.image.config.clone() },
            tags: vec!["evil:1".to_owned()],
        })
        .await
        .unwrap();
    push(swapped.id.as_str()).await;
    let machine = Machine::new().await;
    cache.fetch(&*machine.engine, Kind::Base, &base.key, None, &NoLog).await.unwrap();
    let found = machine.engine.inspect(&base.name()).await.unwrap().unwrap();
    assert_eq!(found.id, base.image.id);
}
