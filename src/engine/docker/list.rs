//! Lists of what the engine has.
//!
//! An engine looks at each image while it lists them. Where one goes meanwhile, some engines refuse the
//! whole list: Docker 26 with the store of containerd answers 404 ("content digest …: not found").
//! Nothing was asked for by name, so such an answer says nothing of what is there: the question is put
//! again.

use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{ContainerSummary, ImageSummary};
use bollard::query_parameters::{ListContainersOptionsBuilder, ListImagesOptionsBuilder};

use crate::engine::Result;
use crate::retry::{Passing, Tries, retried};

use super::DockerEngine;
use super::errors::failed;

/// Each answer is one of another moment; what goes at the same time are few.
const LIST: Tries = Tries { attempts: 6, first: Duration::from_millis(50) };

/// A list was refused.
struct NotListed(Error);

impl Passing for NotListed {
    fn may_pass(&self) -> bool {
        matches!(self.0, Error::DockerResponseServerError { status_code: 404 | 500, .. })
    }
}

impl DockerEngine {
    /// Lists images; `action` names what for.
    pub(super) async fn listed_images(
        &self,
        options: ListImagesOptionsBuilder,
        action: &str,
    ) -> Result<Vec<ImageSummary>> {
        let options = options.build();
        let list = async || self.docker.list_images(Some(options.clone())).await.map_err(NotListed);
        retried(LIST, |_, _| {}, list).await.map_err(|NotListed(error)| failed(action, error))
    }

    /// Lists containers, those included that ended; `action` names what for.
    pub(super) async fn listed_containers(
        &self,
        options: ListContainersOptionsBuilder,
        action: &str,
    ) -> Result<Vec<ContainerSummary>> {
        let options = options.all(true).build();
        let list =
            async || self.docker.list_containers(Some(options.clone())).await.map_err(NotListed);
        retried(LIST, |_, _| {}, list).await.map_err(|NotListed(error)| failed(action, error))
    }
}
