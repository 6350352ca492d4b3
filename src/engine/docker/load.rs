//! Loading layers without a build step.

use bollard::query_parameters::ImportImageOptionsBuilder;
use futures_util::StreamExt as _;

use crate::engine::{Engine as _, EngineError, Image, LayerRequest, Result};
use crate::key::Digest;

use super::errors::{failed, said};
use super::{DockerEngine, archive};

impl DockerEngine {
    /// Loads one layer on a parent, checks that the engine has what was meant, and names it.
    pub(super) async fn load_layer(&self, request: &LayerRequest) -> Result<Image> {
        let mut diff_ids = request.parent.diff_ids.clone();
        diff_ids.extend(request.layer.iter().map(|layer| layer.diff_id.oci()));
        let config = archive::config_json(&request.config, &request.parent.platform, &diff_ids);
        let id = Digest::of(&config).oci();
        let image = match self.inspect(&id).await? {
            Some(image) => image,
            None => {
                self.load_thin(request, &config, &diff_ids).await?;
                self.inspect(&id).await?.ok_or_else(|| EngineError::Refused {
                    action: "load a layer".to_owned(),
                    reason: format!("it does not have the image `{id}` afterwards"),
                })?
            }
        };
        if image.diff_ids != diff_ids {
            let _ = self.remove(&id).await;
            return Err(EngineError::Refused {
                action: "load a layer".to_owned(),
                reason: "the image has other layers than it was given".to_owned(),
            });
        }
        for tag in &request.tags {
            self.tag(&id, tag).await?;
        }
        Ok(Image { tags: request.tags.clone(), ..image })
    }

    async fn load_thin(
        &self,
        request: &LayerRequest,
        config: &[u8],
        diff_ids: &[String],
    ) -> Result<()> {
        let action = "load a layer";
        let archive = archive::thin(config, diff_ids, request.layer.as_ref()).await;
        let archive = archive.map_err(|source| EngineError::File {
            path: request.layer.as_ref().map(|layer| layer.path.clone()).unwrap_or_default(),
            source,
        })?;
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let mut answers = self.docker.import_image_stream(options, archive, None);
        // The engine answers 200 before it looks at the archive: the stream says how it went.
        while let Some(answer) = answers.next().await {
            let message = match answer {
                Ok(answer) => match answer.error_detail.and_then(|detail| detail.message) {
                    Some(message) => message,
                    None => continue,
                },
                Err(bollard::errors::Error::DockerStreamError { error }) => error,
                Err(error) => return Err(failed(action, error)),
            };
            // What a lower layer that the engine does not have looks like.
            if message.contains("no such file") || message.contains("not found") {
                let parent = &request.parent;
                let reference = parent.tags.first().unwrap_or(&parent.id).clone();
                return Err(EngineError::NoSuchImage { reference });
            }
            return Err(said(action, &message));
        }
        Ok(())
    }
}
