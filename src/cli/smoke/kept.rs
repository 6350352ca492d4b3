//! Sandboxes that outlive their run: sessions of the state directory, as `session start` starts them.

use std::sync::Arc;

use async_trait::async_trait;

use crate::engine::{EngineError, EngineKind, LogSink};
use crate::session::order::SessionOrder;
use crate::session::rpc::RemoteSession;
use crate::session::{Kept, StartError};
use crate::smoke::{Sandbox, Sandboxes};

use super::super::session::{directory, launch};
use super::super::{Error, Global};

/// Starts sandboxes that stay.
pub(super) struct Launched {
    pub global: Global,
    /// The engine that has the image.
    pub engine: EngineKind,
}

#[async_trait]
impl Sandboxes for Launched {
    async fn start(&self, order: &SessionOrder, _: &dyn LogSink) -> Result<Sandbox, StartError> {
        let (global, engine, order) = (self.global.clone(), self.engine, order.clone());
        let launched =
            tokio::task::spawn_blocking(move || launch(&global, Some(engine), &order, &[]));
        let record = launched.await.expect("starting a process does not panic").map_err(refused)?;
        let connected = directory(&self.global).connect(&record).await;
        let stream = connected.map_err(|error| refused(Error::environment(error)))?;
        let session = RemoteSession::connect(stream).await?;
        Ok(Sandbox { kept: Arc::new(Kept::of(Arc::new(session))), stays: Some(record.id) })
    }
}

fn refused(error: Error) -> StartError {
    let action = "start a session that stays".to_owned();
    let reason = crate::causes::in_one_line(&error);
    StartError::Engine(EngineError::Refused { action, reason })
}
