//! `commit`: an image of what a container changed.

use std::io;
use std::sync::Arc;

use hyper::StatusCode;
use serde_json::json;

use crate::engine::{Image, ImageConfig, LayerFile, LayerRequest};

use super::answer::{Answer, Refusal, document};
use super::call::Call;
use super::container::Container;
use super::id::new_id;
use super::images;
use super::layer_file;
use super::server::Server;
use super::state::Status;

/// Makes an image of a container. Unless the client says otherwise, what runs is held meanwhile.
pub(super) async fn commit(server: &Arc<Server>, call: &mut Call) -> Answer {
    let called = call.parameter("container").unwrap_or_default();
    let container = server.find(called)?;
    let changes = call.all("changes").collect::<Vec<_>>().join("\n");
    let tags = match (call.parameter("repo"), call.parameter("tag")) {
        (Some(repo), Some(tag)) => vec![format!("{repo}:{tag}")],
        (Some(repo), None) => vec![format!("{repo}:latest")],
        // An image without a name is collected.
        (None, _) => vec![format!("imgforge/commit:{}", &new_id()[..12])],
    };
    for tag in &tags {
        images::reference_of(tag)?;
    }
    let mut config = config(&container);
    config.disown();
    if !changes.is_empty() {
        config = server
            .engine
            .change_config(&config, &changes)
            .await
            .map_err(|error| Refusal::bad(crate::causes::in_one_line(&error)))?;
    }
    let holds = call.parameter("pause").is_none() || call.is_set("pause");
    let _turn = container.turn.lock().await;
    let holds = holds && container.state.now().status == Status::Running;
    if holds {
        container.session.signal_all(libc::SIGSTOP).await?;
    }
    let written = write(server, &container).await;
    if holds {
        container.session.signal_all(libc::SIGCONT).await?;
    }
    let (_file, layer) = written?;
    let request =
        LayerRequest { parent: container.image.clone(), layers: vec![layer], config, tags };
    let image: Image = server.engine.load(&request).await?;
    let tag = request.tags.first().map_or("", String::as_str);
    container.tell("commit", &[("imageID", image.id.as_str()), ("imageRef", tag)]);
    Ok(document(StatusCode::CREATED, &json!({ "Id": image.id.to_string() })))
}

/// Writes the layer to a file, which goes with the first value.
async fn write(
    server: &Server,
    container: &Container,
) -> Result<(tempfile::TempPath, LayerFile), Refusal> {
    let failed = |error: io::Error| Refusal::failed(format!("cannot write a layer: {error}"));
    let file = tempfile::NamedTempFile::new_in(&server.settings.scratch_dir).map_err(failed)?;
    let (file, path) = file.into_parts();
    let mut file = tokio::fs::File::from_std(file);
    container.session.layer(&mut file).await?;
    tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(failed)?;
    let place = path.to_path_buf();
    let hashed = tokio::task::spawn_blocking(move || layer_file::of(&place)).await;
    let layer = hashed.map_err(|error| Refusal::failed(error.to_string()))?.map_err(failed)?;
    Ok((path, layer))
}

/// Returns what the image says of itself: as the container was started.
fn config(container: &Container) -> ImageConfig {
    let (image, body) = (&container.image.config, &container.body);
    let text = |asked: &Option<String>, own: &str| {
        asked.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| own.to_owned())
    };
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let asked = body.env.clone().unwrap_or_default();
    let mut env: Vec<String> = image
        .env
        .iter()
        .filter(|own| !asked.iter().any(|other| name(other) == name(own)))
        .cloned()
        .collect();
    env.extend(asked.iter().filter(|variable| variable.contains('=')).cloned());
    let has_own = body.entrypoint.as_ref().is_some_and(|words| !words.is_empty());
    let cmd = body.cmd.clone().filter(|words| !words.is_empty() || has_own);
    ImageConfig {
        env,
        cmd: cmd.unwrap_or_else(|| image.cmd.clone()),
        entrypoint: match &body.entrypoint {
            Some(words) if has_own => words.iter().filter(|_| *words != [""]).cloned().collect(),
            _ => image.entrypoint.clone(),
        },
        working_dir: text(&body.working_dir, &image.working_dir),
        user: text(&body.user, &image.user),
        shell: image.shell.clone(),
        labels: container.labels(),
        service: image.service.clone(),
    }
}
