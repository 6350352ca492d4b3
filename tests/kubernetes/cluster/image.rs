//! Images of a registry, as layers for overlayfs: each is unpacked once.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::Value;

pub(crate) struct Images {
    dir: PathBuf,
    registry: u16,
    layers: Mutex<HashMap<String, Arc<tokio::sync::OnceCell<()>>>>,
    client: reqwest::Client,
}

/// An image that is unpacked.
pub(crate) struct Image {
    /// The directories of its layers, the lowest first.
    pub layers: Vec<PathBuf>,
    /// The variables of its config.
    pub variables: Vec<String>,
    /// Where its commands start.
    pub directory: String,
}

impl Images {
    pub(crate) fn new(dir: PathBuf, registry: u16) -> Images {
        std::fs::create_dir_all(&dir).unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_danger_accept_invalid_certs(true)
            .build()
            .unwrap();
        Images { dir, registry, layers: Mutex::default(), client }
    }

    /// Pulls an image by its reference; only references by digest are taken.
    pub(crate) async fn pull(&self, reference: &str) -> Result<Image, String> {
        let (name, digest) = reference.split_once('@').ok_or("not a reference by digest")?;
        let (host, path) = name.split_once('/').ok_or("no path")?;
        if host != format!("127.0.0.1:{}", self.registry) {
            return Err(format!("dial {host}: connection refused"));
        }
        let manifest = self.get(path, "manifests", digest).await?;
        let manifest: Value = serde_json::from_slice(&manifest).map_err(|e| e.to_string())?;
        let config = manifest["config"]["digest"].as_str().ok_or("no config")?;
        let config = self.get(path, "blobs", config).await?;
        let config: Value = serde_json::from_slice(&config).map_err(|e| e.to_string())?;
        let mut layers = Vec::new();
        for layer in manifest["layers"].as_array().ok_or("no layers")? {
            let digest = layer["digest"].as_str().ok_or("no digest")?;
            let cell = self.layers.lock().unwrap().entry(digest.to_owned()).or_default().clone();
            let dir = self.dir.join(digest.replace(':', "-"));
            let made = cell.get_or_try_init(|| self.unpack(path, digest, &dir));
            made.await?;
            layers.push(dir);
        }
        let variables = config["config"]["Env"].as_array().into_iter().flatten();
        let variables = variables.filter_map(Value::as_str).map(str::to_owned).collect();
        let directory = config["config"]["WorkingDir"].as_str().unwrap_or_default();
        let directory = if directory.is_empty() { "/" } else { directory }.to_owned();
        Ok(Image { layers, variables, directory })
    }

    async fn get(&self, path: &str, what: &str, digest: &str) -> Result<Vec<u8>, String> {
        let url = format!("http://127.0.0.1:{}/v2/{path}/{what}/{digest}", self.registry);
        let accepted = "application/vnd.oci.image.manifest.v1+json, \
            application/vnd.docker.distribution.manifest.v2+json, */*";
        let answer = self.client.get(&url).header("accept", accepted).send().await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status() == 404 {
            return Err(format!("{path}@{digest}: not found"));
        }
        let answer = answer.error_for_status().map_err(|error| error.to_string())?;
        Ok(answer.bytes().await.map_err(|error| error.to_string())?.to_vec())
    }

    async fn unpack(&self, path: &str, digest: &str, dir: &Path) -> Result<(), String> {
        if dir.exists() {
            return Ok(());
        }
        let blob = self.get(path, "blobs", digest).await?;
        let dir = dir.to_owned();
        // Whole or not at all: other clusters have the same directory.
        let work = move || {
            let scratch = tempfile::tempdir_in(dir.parent().unwrap())?;
            let new = scratch.path().join("layer");
            unpack(&blob, &new)?;
            std::fs::rename(&new, &dir).or_else(|error| match dir.exists() {
                true => Ok(()),
                false => Err(error),
            })
        };
        let work = move || work().map_err(|error: std::io::Error| error.to_string());
        tokio::task::spawn_blocking(work).await.unwrap()
    }
}

/// Unpacks a layer; what it removes is written as overlayfs has it.
fn unpack(blob: &[u8], dir: &Path) -> std::io::Result<()> {
    let reader: Box<dyn Read> = match blob {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::GzDecoder::new(blob)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::new(blob)?),
        _ => Box::new(blob),
    };
    std::fs::create_dir_all(dir)?;
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_unpack_xattrs(false);
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        if name == ".wh..wh..opq" {
            let parent = dir.join(path.parent().unwrap());
            std::fs::create_dir_all(&parent)?;
            let flag = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&parent, "trusted.overlay.opaque", b"y", flag)?;
        } else if let Some(gone) = name.strip_prefix(".wh.") {
            let parent = dir.join(path.parent().unwrap());
            std::fs::create_dir_all(&parent)?;
            let mode = rustix::fs::Mode::empty();
            let kind = rustix::fs::FileType::CharacterDevice;
            rustix::fs::mknodat(rustix::fs::CWD, parent.join(gone), kind, mode, 0)?;
        } else if entry.header().entry_type().is_dir() {
            // Its mode at last: files come into it before.
            entry.unpack_in(dir)?;
            directories.push((dir.join(&path), entry.header().mode()?));
        } else {
            entry.unpack_in(dir)?;
        }
    }
    for (path, mode) in directories {
        if std::fs::symlink_metadata(&path)?.mode() & 0o7777 != mode & 0o7777 {
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        }
    }
    Ok(())
}
