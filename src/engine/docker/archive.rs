//! The archive of a thin load: an image's config and its one new layer, the layers below left out.
//!
//! The engine has the lower layers already and looks them up by their digests. The image id of an
//! engine with a graph driver is the digest of the config, so it is known before the load.

use std::path::Path;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::{Map, Value, json};
use tokio_util::io::ReaderStream;

use crate::engine::{ImageConfig, LayerFile};
use crate::key::Digest;

/// The creation time of every image: equal layers must give an equal id.
const CREATED: &str = "2020-01-01T00:00:00Z";

/// Returns the bytes of an OCI image config.
pub(super) fn config_json(config: &ImageConfig, platform: &str, diff_ids: &[String]) -> Vec<u8> {
    let mut parts = platform.split('/');
    let (os, architecture) = (parts.next().unwrap_or("linux"), parts.next().unwrap_or("amd64"));
    let mut inner = Map::new();
    let mut set = |name: &str, value: Value| {
        let empty = match &value {
            Value::Array(items) => items.is_empty(),
            Value::String(text) => text.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !empty {
            inner.insert(name.to_owned(), value);
        }
    };
    set("Cmd", json!(config.cmd));
    set("Entrypoint", json!(config.entrypoint));
    set("Env", json!(config.env));
    set("Labels", json!(config.labels));
    set("User", json!(config.user));
    set("WorkingDir", json!(config.working_dir));
    let mut document = json!({
        "architecture": architecture,
        "config": inner,
        "created": CREATED,
        "os": os,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    if let Some(variant) = parts.next() {
        document["variant"] = json!(variant);
    }
    document.to_string().into_bytes()
}

/// One file of an archive in memory.
fn entry(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = header(name, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn header(name: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).expect("names in the archive are short");
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// Streams the archive of an image whose layers are `diff_ids`; the file of the last one is `layer`,
/// when it is new.
pub(super) async fn thin(
    config: &[u8],
    diff_ids: &[String],
    layer: Option<&LayerFile>,
) -> std::io::Result<impl Stream<Item = std::io::Result<Bytes>> + Send + use<>> {
    let config_name = format!("{}.json", Digest::of(config));
    let layer_name = |diff_id: &str| format!("{}/layer.tar", diff_id.trim_start_matches("sha256:"));
    let layers: Vec<String> = diff_ids.iter().map(|diff_id| layer_name(diff_id)).collect();
    let manifest = json!([{ "Config": config_name, "RepoTags": null, "Layers": layers }]);
    let mut head = entry("manifest.json", manifest.to_string().as_bytes());
    head.extend(entry(&config_name, config));
    let mut tail = vec![0; 1024];
    let mut file = None;
    if let Some(layer) = layer {
        head.extend(header(&layer_name(&layer.diff_id.oci()), layer.size));
        let padding = layer.size.next_multiple_of(512) - layer.size;
        tail.resize(tail.len() + padding as usize, 0);
        file = Some(open(&layer.path).await?);
    }
    let body = stream::iter(file).flat_map(|file| ReaderStream::with_capacity(file, 1 << 18));
    let one = |bytes: Vec<u8>| stream::once(async { Ok(Bytes::from(bytes)) });
    Ok(Box::pin(one(head).chain(body).chain(one(tail))))
}

async fn open(path: &Path) -> std::io::Result<tokio::fs::File> {
    tokio::fs::File::open(path).await
}
