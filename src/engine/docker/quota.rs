//! What a sandbox writes, as far as it can be known: measured where this process may read the
//! directories of the engine, else asked of the engine, which tells bytes and no files.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bollard::query_parameters::InspectContainerOptionsBuilder;

use crate::engine::meter::{Meter, Reading};
use crate::engine::{LogSink, Quota, Quotas};

use super::DockerEngine;

/// The least time between two questions to the engine, which walks the files for each.
const REST: Duration = Duration::from_secs(5);

impl DockerEngine {
    /// Waits until a container wrote more than it may; forever where nothing is bounded, or it is
    /// not there any more.
    pub(super) async fn measure(&self, id: &str, quotas: Quotas, log: &dyn LogSink) -> Quota {
        if quotas.disk.is_some() || quotas.files.is_some() {
            let quota = match self.written_to(id).await {
                Some((roots, first)) => match Meter::new(quotas, roots, first) {
                    Some(meter) => read(meter).await,
                    None => None,
                },
                None => self.ask_size(id, quotas, log).await,
            };
            if let Some(quota) = quota {
                return quota;
            }
        }
        std::future::pending().await
    }

    /// Returns the directories that take what a container writes, where this process may read them,
    /// and its first process.
    async fn written_to(&self, id: &str) -> Option<(Vec<PathBuf>, Option<u32>)> {
        if !self.address.starts_with("unix://") {
            return None;
        }
        let options = InspectContainerOptionsBuilder::new().build();
        let found = self.docker.inspect_container(id, Some(options)).await.ok()?;
        let upper = found.graph_driver?.data.get("UpperDir").map(PathBuf::from)?;
        std::fs::read_dir(&upper).ok()?;
        let volumes = found.mounts.into_iter().flatten().filter_map(|mount| mount.source);
        let mut roots = vec![upper];
        roots.extend(volumes.filter(|source| !source.is_empty()).map(PathBuf::from));
        let first = found.state.and_then(|state| u32::try_from(state.pid?).ok());
        Some((roots, first.filter(|pid| *pid > 0)))
    }

    async fn ask_size(&self, id: &str, quotas: Quotas, log: &dyn LogSink) -> Option<Quota> {
        if quotas.files.is_some() {
            log.write(
                b"warning: the number of files is not limited: the engine does not tell it\n",
            );
        }
        let most = quotas.disk?;
        loop {
            let began = Instant::now();
            let options = InspectContainerOptionsBuilder::new().size(true).build();
            let found = self.docker.inspect_container(id, Some(options)).await.ok()?;
            if u64::try_from(found.size_rw?).is_ok_and(|size| size >= most) {
                return Some(Quota::Disk);
            }
            tokio::time::sleep((began.elapsed() * 20).max(REST)).await;
        }
    }
}

async fn read(mut meter: Meter) -> Option<Quota> {
    loop {
        let read = move || {
            let reading = meter.read();
            (meter, reading)
        };
        let (same, reading) = tokio::task::spawn_blocking(read).await.ok()?;
        meter = same;
        match reading {
            Reading::Over(quota) => return Some(quota),
            Reading::Again(wait) => tokio::time::sleep(wait).await,
        }
    }
}
