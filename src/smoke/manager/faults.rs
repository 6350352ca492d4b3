//! Which errors leave nothing known, and which are somebody's fault.

use crate::causes::in_one_line;
use crate::engine::EngineError;
use crate::session::StartError;
use crate::source::SourceError;

use super::super::repository::FilesError;
use super::super::verdict::Fault;

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Fault {
        Fault::Infra(in_one_line(&error))
    }
}

impl From<StartError> for Fault {
    fn from(error: StartError) -> Fault {
        Fault::Infra(in_one_line(&error))
    }
}

impl From<SourceError> for Fault {
    fn from(error: SourceError) -> Fault {
        match error.is_answer() {
            true => Fault::Failed(in_one_line(&error)),
            false => Fault::Infra(in_one_line(&error)),
        }
    }
}

impl From<FilesError> for Fault {
    fn from(error: FilesError) -> Fault {
        match error {
            FilesError::Source(error) => error.into(),
            FilesError::Patch { .. } => Fault::Failed(error.to_string()),
            FilesError::Io(_) => Fault::Infra(in_one_line(&error)),
        }
    }
}

/// Does work that blocks, in a thread that nobody waits for: a run that is ended meanwhile ends at once.
pub(super) async fn blocking<T: Send + 'static, E: Into<Fault> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Fault> {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Nobody may wait for it any more.
        let _ = tell.send(work());
    });
    told.await.expect("reading a repository does not panic").map_err(Into::into)
}
