//! Loading layers without a build step.

use bollard::query_parameters::ImportImageOptionsBuilder;
use futures_util::StreamExt as _;

use crate::engine::{EngineError, Image, LayerRequest, Result, check_platform, config};
use crate::key::DiffId;

use super::DockerEngine;
use super::archive::Thin;
use super::errors::{failed, lacks_layer, said};

const ACTION: &str = "load a layer";

impl DockerEngine {
    /// Loads layers on a parent, checks that the engine has what was meant, and names it.
    pub(super) async fn load_layer(&self, request: &LayerRequest) -> Result<Image> {
        let parent = &request.parent;
        // Whether it is there is found out when its layers are needed.
        if !parent.diff_ids.is_empty()
            && let Some(found) = self.inspect_image(parent.id.as_str()).await?
        {
            check_platform(parent.id.as_str(), &found.platform, &parent.platform)?;
        }
        let mut diff_ids = request.parent.diff_ids.clone();
        diff_ids.extend(request.layers.iter().map(|layer| DiffId::from(layer.diff_id)));
        let config = config::config_json(&request.config, &request.parent.platform, &diff_ids);
        let below = if self.facts().await?.containerd {
            Some(self.descriptors(&request.parent).await?)
        } else {
            None
        };
        let thin = Thin::new(&config, &diff_ids, &request.layers, below.as_deref())?;
        let image = match self.inspect_image(thin.id.as_str()).await? {
            Some(image) => image,
            None => self.load_and_look(request, &thin).await?,
        };
        let fits = image.platform.matches(&request.parent.platform);
        if !fits || image.diff_ids != diff_ids || image.config.labels != request.config.labels {
            self.remove_image(thin.id.as_str()).await?;
            return Err(EngineError::Refused {
                action: ACTION.to_owned(),
                reason:
                    "the image has another platform, or other layers or labels, than it was given"
                        .to_owned(),
            });
        }
        if below.is_some() {
            self.remember(&thin.id, thin.layers);
        }
        for tag in &request.tags {
            self.tag_image(thin.id.as_str(), &tag.parse()?).await?;
        }
        // A containerd store calls a name that a load gave a digest of a registry.
        Ok(Image { tags: request.tags.clone(), repo_digests: Vec::new(), ..image })
    }

    async fn load_and_look(&self, request: &LayerRequest, thin: &Thin<'_>) -> Result<Image> {
        if let Err(error) = self.send(request, thin).await {
            // A containerd store keeps the image of a load that failed. When it cannot be removed
            // either, the load is still what failed.
            let _ = self.remove_image(thin.id.as_str()).await;
            return Err(error);
        }
        let image = self.inspect_image(thin.id.as_str()).await?;
        image.ok_or_else(|| EngineError::Refused {
            action: ACTION.to_owned(),
            reason: format!("it does not have the image `{}` afterwards", thin.id),
        })
    }

    async fn send(&self, request: &LayerRequest, thin: &Thin<'_>) -> Result<()> {
        let archive = thin.stream().await?;
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
                Err(error) => return Err(failed(ACTION, error)),
            };
            if lacks_layer(&message) {
                let parent = &request.parent;
                let reference = parent.name().to_owned();
                return Err(EngineError::NoSuchImage { reference });
            }
            return Err(said(ACTION, &message));
        }
        Ok(())
    }
}
