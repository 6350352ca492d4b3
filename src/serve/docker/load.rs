//! `images/load`: images of an archive that `docker save` wrote; and files that become an image.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use tempfile::{TempDir, TempPath};
use tokio::sync::mpsc;

use crate::engine::{Image, ImageConfig, LayerFile, LayerRequest, read_config};
use crate::key::DiffId;

use super::answer::{Answer, Refusal, streamed};
use super::build_context::{decompressed, spool, unpack};
use super::call::Call;
use super::events::Kind;
use super::id::new_id;
use super::images::reference_of;
use super::layer_file;
use super::server::Server;
use super::told::{Failure, Told};

/// An image as the list of an archive has it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image that is on the disk, with files that go with it.
struct Prepared {
    request: LayerRequest,
    _files: Vec<TempPath>,
}

/// Takes the images of an archive in.
pub(super) async fn load(server: &Arc<Server>, call: &mut Call) -> Answer {
    let scratch = server.settings.scratch_dir.clone();
    let archive = spool(call, &scratch).await?;
    let (sender, lines) = mpsc::unbounded_channel();
    let server = server.clone();
    let work = tokio::spawn(async move {
        let read = tokio::task::spawn_blocking(move || {
            let directory = tempfile::tempdir_in(&scratch)?;
            unpack(archive, directory.path())?;
            prepare(&directory, &scratch)
        });
        let read = read.await.map_err(|error| Failure::of(&error))?;
        let images = read.map_err(|error| Failure::of(&error))?;
        for prepared in images {
            let loaded = server.engine.load(&prepared.request).await;
            let image = loaded.map_err(|error| Failure::of(&error))?;
            for tag in &prepared.request.tags {
                server.events.tell(Kind::Image, "load", image.id.as_str(), &[("name", tag)]);
                let _ = sender.send(json!({ "stream": format!("Loaded image: {tag}\n") }));
            }
        }
        Ok(())
    });
    Ok(streamed("application/json", Told { lines, work, first: None }.stream()))
}

/// Reads the list of an archive that is unpacked.
fn prepare(directory: &TempDir, scratch: &Path) -> io::Result<Vec<Prepared>> {
    let root = directory.path().canonicalize()?;
    let text = std::fs::read(inside(&root, "manifest.json")?)?;
    let listed: Vec<Listed> = serde_json::from_slice(&text)?;
    listed.iter().map(|one| prepare_one(one, &root, scratch)).collect()
}

fn prepare_one(listed: &Listed, root: &Path, scratch: &Path) -> io::Result<Prepared> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let read = read_config(&std::fs::read(inside(root, &listed.config)?)?)?;
    if read.diff_ids.len() != listed.layers.len() {
        return Err(invalid(format!("`{}` has other layers than the list", listed.config)));
    }
    let (mut files, mut layers) = (Vec::new(), Vec::<LayerFile>::new());
    for (name, diff_id) in listed.layers.iter().zip(&read.diff_ids) {
        let from = decompressed(File::open(inside(root, name)?)?)?;
        let (path, layer) = layer_file::write(from, scratch)?;
        let found = DiffId::from(layer.diff_id);
        if found != *diff_id {
            return Err(invalid(format!("`{name}` is not the layer {diff_id}")));
        }
        files.push(path);
        layers.push(layer);
    }
    let mut config = read.config;
    config.disown();
    let mut tags = listed.repo_tags.clone().unwrap_or_default();
    for tag in &tags {
        reference_of(tag).map_err(|_| invalid(format!("`{tag}` is no name of an image")))?;
    }
    if tags.is_empty() {
        // An image without a name is collected.
        tags.push(format!("imgforge/load:{}", &new_id()[..12]));
    }
    let parent = Image { platform: read.platform, ..Image::default() };
    Ok(Prepared { request: LayerRequest { parent, layers, config, tags }, _files: files })
}

/// Finds a file of an archive; no link leads out of it.
fn inside(root: &Path, name: &str) -> io::Result<PathBuf> {
    let path = root.join(name.trim_start_matches('/')).canonicalize();
    let path = path.map_err(|error| io::Error::new(error.kind(), format!("`{name}`: {error}")))?;
    match path.starts_with(root) {
        true => Ok(path),
        false => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("`{name}` leads out of it")))
        }
    }
}

/// Makes an image of the files in the body.
pub(super) async fn import(server: &Arc<Server>, call: &mut Call) -> Answer {
    if call.parameter("fromSrc") != Some("-") {
        return Err(Refusal::unserved(
            "files of an image are not fetched: send them (`fromSrc=-`)",
        ));
    }
    let tag = match (call.parameter("repo"), call.parameter("tag")) {
        (Some(repo), Some(tag)) => format!("{repo}:{tag}"),
        (Some(repo), None) => repo.to_owned(),
        (None, _) => format!("imgforge/import:{}", &new_id()[..12]),
    };
    reference_of(&tag)?;
    let changes = call.all("changes").collect::<Vec<_>>().join("\n");
    let changed = server.engine.change_config(&ImageConfig::default(), &changes).await;
    let config = changed.map_err(|error| Refusal::bad(crate::causes::in_one_line(&error)))?;
    let scratch = server.settings.scratch_dir.clone();
    let archive = spool(call, &scratch).await?;
    let written =
        tokio::task::spawn_blocking(move || layer_file::write(decompressed(archive)?, &scratch));
    let wrong = |error: io::Error| Refusal::bad(format!("cannot read the archive: {error}"));
    let (_path, layer) =
        written.await.map_err(|error| Refusal::failed(error.to_string()))?.map_err(wrong)?;
    let parent = Image { platform: server.info.platform.clone(), ..Image::default() };
    let request = LayerRequest { parent, layers: vec![layer], config, tags: vec![tag.clone()] };
    let image = server.engine.load(&request).await?;
    server.events.tell(Kind::Image, "import", image.id.as_str(), &[("name", &tag)]);
    let line = format!("{}\n", json!({ "status": image.id.to_string() }));
    let lines = futures_util::stream::once(async move { Ok(bytes::Bytes::from(line)) });
    Ok(streamed("application/json", lines))
}
