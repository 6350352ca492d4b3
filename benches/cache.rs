//! `cache ls` on 10,000 images of the embedded engine: reading them, and adding up what they take.
//!
//! With `IMGFORGE_BENCH_STATE` the state directory is made there and stays, for measuring the whole
//! command: `IMGFORGE_BENCH_STATE=/tmp/many cargo bench --bench cache`, then
//! `imgforge --engine embedded --state-dir /tmp/many cache ls`.

use std::collections::BTreeMap;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use imgforge::cache::CacheInventory;
use imgforge::engine::embedded::{EmbeddedEngine, Settings};
use imgforge::engine::{Runner as _, label};
use imgforge::key::{Digest, Key, KeyDocument, Kind, SCHEMA};
use imgforge::plan::name;
use imgforge::store::{ImageRecord, Store};
use serde_json::{Value, json};

/// How many images there are.
const IMAGES: usize = 10_000;

/// How many of them stand on one environment.
const PER_ENV: usize = 100;

/// Writes images as the engine keeps them, all at once.
struct Writer<'a> {
    state: &'a Path,
    manifests: Vec<Value>,
    records: Vec<ImageRecord>,
    identity: String,
}

impl Writer<'_> {
    fn blob(&self, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes);
        let blobs = self.state.join("embedded/oci/blobs/sha256");
        std::fs::write(blobs.join(digest.to_string()), bytes).unwrap();
        digest.oci()
    }

    fn layer(&self, name: &str) -> (String, Value) {
        let bytes = name.repeat(50).into_bytes();
        let digest = self.blob(&bytes);
        let diff_id = Digest::of(format!("tar of {name}"));
        let layer = json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest,
            "size": bytes.len(),
        });
        let record = self.state.join("embedded/layers").join(diff_id.to_string());
        std::fs::write(record, layer.to_string()).unwrap();
        (diff_id.oci(), layer)
    }

    fn image(
        &mut self,
        kind: Kind,
        number: usize,
        parent: Option<Key>,
        layers: &[(String, Value)],
    ) -> Key {
        let document = KeyDocument::new(kind)
            .with("n", number)
            .with("parent", parent)
            .with("platform", "linux/amd64")
            .with("repo", format!("owner/repo-{}", number % 12));
        let key = document.key();
        let mut labels = BTreeMap::from([
            (label::KEY, key.to_string()),
            (label::KIND, kind.to_string()),
            (label::SCHEMA, SCHEMA.to_string()),
            (label::INPUTS, document.canonical()),
        ]);
        labels.extend(parent.map(|parent| (label::PARENT, parent.to_string())));
        let diff_ids: Vec<&String> = layers.iter().map(|(diff_id, _)| diff_id).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Labels": labels },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
        .to_string();
        let id = self.blob(config.as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": id,
                "size": config.len(),
            },
            "layers": layers.iter().map(|(_, layer)| layer).collect::<Vec<_>>(),
        })
        .to_string();
        let digest = self.blob(manifest.as_bytes());
        self.manifests.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": manifest.len(),
            "annotations": {
                "org.opencontainers.image.ref.name": name::image(kind, &key),
                "dev.imgforge.id": id,
            },
        }));
        self.records.push(ImageRecord {
            key,
            kind,
            node: format!("{kind}:owner/repo-{}@{number}", number % 12),
            engine: self.identity.clone(),
            image_id: id.into(),
            diff_ids: diff_ids.into_iter().map(|id| id.as_str().into()).collect(),
            parent,
            document: document.canonical(),
            bytes: 0,
            seconds: 0.0,
        });
        key
    }
}

async fn open(state: &Path) -> EmbeddedEngine {
    EmbeddedEngine::open(Settings {
        state_dir: state.to_owned(),
        helper: env!("CARGO_BIN_EXE_imgforge").into(),
        owner: imgforge::owner::name().to_owned(),
        client_config: None,
        storage: None,
        probe: false,
    })
    .await
    .unwrap()
}

/// Makes the images; returns the engine with its state, and its name in the index.
async fn fill(state: &Path) -> (EmbeddedEngine, Store, String) {
    let engine = open(state).await;
    let store = Store::open(state).unwrap();
    let info = engine.info().await.unwrap();
    let identity = format!("{} {} {}", info.kind, info.store, info.root.unwrap().display());
    let mut writer =
        Writer { state, manifests: Vec::new(), records: Vec::new(), identity: identity.clone() };
    let base_layer = writer.layer("base");
    let base = writer.image(Kind::Base, 0, None, std::slice::from_ref(&base_layer));
    let (mut env, mut env_layer) = (base, base_layer.clone());
    for number in 1..IMAGES {
        if number % PER_ENV == 1 {
            env_layer = writer.layer(&format!("env {number}"));
            let layers = [base_layer.clone(), env_layer.clone()];
            env = writer.image(Kind::Env, number, Some(base), &layers);
        } else {
            let own = writer.layer(&format!("checkout {number}"));
            let layers = [base_layer.clone(), env_layer.clone(), own];
            writer.image(Kind::Checkout, number, Some(env), &layers);
        }
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": writer.manifests,
    });
    std::fs::write(state.join("embedded/oci/index.json"), index.to_string()).unwrap();
    store.record_images(&writer.records).unwrap();
    (engine, store, identity)
}

fn cache(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let own = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("IMGFORGE_BENCH_STATE").map(std::path::PathBuf::from);
    let state = kept.as_deref().unwrap_or(own.path());
    let (_, store, identity) = runtime.block_on(fill(state));
    let mut group = criterion.benchmark_group("cache of 10,000 images");
    group.sample_size(10);
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                // As a command does: nothing is known yet of what is on the disk.
                let engine = open(state).await;
                CacheInventory::read(&engine, &identity, &store).await.unwrap()
            })
        });
    });
    let contents = runtime.block_on(async {
        let engine = open(state).await;
        CacheInventory::read(&engine, &identity, &store).await.unwrap()
    });
    assert_eq!(contents.images.len(), IMAGES);
    group.bench_function("bytes by repository", |bencher| {
        bencher.iter(|| contents.grouped(|image| image.repo.iter().cloned().collect()));
    });
    group.bench_function("what would go", |bencher| {
        let limits = imgforge::cache::Limits { keep_bytes: Some(0), keep_for: None };
        bencher.iter(|| imgforge::cache::eviction::plan_eviction(&contents, &limits, 0, |_| false));
    });
    group.finish();
}

criterion_group!(benches, cache);
criterion_main!(benches);
