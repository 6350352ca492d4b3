//! Building over BuildKit's own interface: with secrets, and on containerd stores before Docker 28.
//!
//! There the build API does not find the context that comes with its request
//! (<https://github.com/moby/moby/issues/47717>), while BuildKit behind it takes one from a session.
//! `bollard` does not hand out the progress of such a build: the log has its end only.

use bollard::grpc::build::{
    ImageBuildFrontendOptions, ImageBuildLoadInput, ImageBuildNetworkMode, ImageBuildPlatform,
    SecretSource,
};
use bollard::grpc::driver::Build as _;
use bollard::grpc::driver::moby::Moby;
use bollard::grpc::error::GrpcError;
use tokio_util::sync::CancellationToken;

use crate::engine::{BuildRequest, EngineError, Result};

use super::DockerEngine;
use super::errors::failed;
use super::output::Output;

const ACTION: &str = "build a Dockerfile";

impl DockerEngine {
    /// Builds a context and returns the name of the scratch image.
    pub(super) async fn solve(
        &self,
        request: &BuildRequest,
        context: Vec<u8>,
        output: &mut Output<'_>,
    ) -> Result<String> {
        output.text("this engine does not report the output of steps\n");
        let name = format!("imgforge-scratch:{:016x}", rand::random::<u64>());
        let [os, architecture, variant] =
            request.platform.parts().map(|part| part.map(str::to_owned));
        let platform = ImageBuildPlatform {
            os: os.unwrap_or_default(),
            architecture: architecture.unwrap_or_default(),
            variant,
        };
        let network = match request.host.network.as_deref() {
            Some("host") => ImageBuildNetworkMode::Host,
            Some("none") => ImageBuildNetworkMode::None,
            _ => ImageBuildNetworkMode::Bridge,
        };
        let mut options = ImageBuildFrontendOptions::builder()
            .platforms(&platform)
            .force_network_mode(&network)
            .nocache(request.no_cache);
        for (name, value) in &self.scratch_labels() {
            options = options.label(name, value);
        }
        for (name, value) in &request.args {
            options = options.buildarg(name, value);
        }
        for (id, path) in &request.host.secrets {
            options = options.set_secret(id, &SecretSource::File(path.clone()));
        }
        let options = options.build();
        let driver = Moby::new(&self.docker);
        // The future of `bollard` cannot change threads, so it gets one; when this one is dropped,
        // it is cancelled.
        let cancel = CancellationToken::new();
        let guard = cancel.clone().drop_guard();
        let handle = tokio::runtime::Handle::current();
        let reference = name.clone();
        let solved = tokio::task::spawn_blocking(move || {
            let input = ImageBuildLoadInput::Upload(context.into());
            let build = driver.docker_build(&reference, options, input, None, None);
            handle.block_on(cancel.run_until_cancelled(build))
        });
        let solved = solved.await.expect("a build does not panic");
        drop(guard);
        match solved.expect("it is cancelled only when nobody waits") {
            Ok(()) => Ok(name),
            Err(GrpcError::TonicStatus { err }) => {
                output.text(&format!("{}\n", err.message()));
                Err(output.failure(err.message()))
            }
            Err(GrpcError::DockerError { err }) => Err(failed(ACTION, err)),
            Err(error) => {
                let source = error.into();
                Err(EngineError::Transient { action: ACTION.to_owned(), source })
            }
        }
    }
}
