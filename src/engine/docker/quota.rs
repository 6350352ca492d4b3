//! What a sandbox writes, as far as it can be known: measured where this process may read the
//! directories of the engine, else asked of the engine, which tells bytes and no files.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::InspectContainerOptionsBuilder;

use crate::engine::meter::{Meter, Reading};
use crate::engine::{LogSink, Quota, Quotas};

use super::DockerEngine;

/// The least time between two questions to the engine, which walks the files for each.
const REST: Duration = Duration::from_secs(5);

/// Where the files of a container are, for this process.
struct Written {
    /// The directories that take what it writes.
    roots: Vec<PathBuf>,
    /// Its first process.
    first: Option<u32>,
}

/// Measures what containers write.
#[derive(Clone)]
pub(super) struct Gauge {
    docker: Docker,
    /// The files of the engine may be those of this machine.
    is_local: bool,
}

impl DockerEngine {
    pub(super) fn gauge(&self) -> Gauge {
        Gauge { docker: self.docker.clone(), is_local: self.endpoint.is_local }
    }
}

impl Gauge {
    /// Waits until a container wrote more than it may; forever where nothing is bounded, or it is
    /// not there any more. `log` takes what cannot be measured.
    pub(super) async fn measure(&self, id: &str, quotas: Quotas, log: &dyn LogSink) -> Quota {
        if quotas.disk.is_some() || quotas.files.is_some() {
            let quota = match self.written_to(id, log).await {
                Some(Written { roots, first }) => match Meter::new(quotas, roots, first) {
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

    /// Returns where a container's files are, where this process may read them.
    async fn written_to(&self, id: &str, log: &dyn LogSink) -> Option<Written> {
        if !self.is_local {
            return None;
        }
        let options = InspectContainerOptionsBuilder::new().build();
        let found = self.docker.inspect_container(id, Some(options)).await.ok()?;
        let first = first_process(id, &found);
        let (first, mounts) = first.map_or((None, None), |(pid, mounts)| (Some(pid), Some(mounts)));
        let driver = found.graph_driver.and_then(|mut driver| driver.data.remove("UpperDir"));
        let upper = match driver {
            Some(upper) => PathBuf::from(upper),
            // A containerd store does not tell, and the kernel does. The name is no more than a
            // number: the daemon's files have to be those that this process sees.
            None => {
                let own = found.hostname_path.filter(|path| path.contains(id))?;
                Path::new(&own).symlink_metadata().ok()?;
                upper_directory(mounts.as_deref()?)?
            }
        };
        std::fs::read_dir(&upper).ok()?;
        if first.is_none() && found.state.is_some_and(|state| state.running == Some(true)) {
            log.write(
                b"warning: files without a name do not count: the engine's processes are not seen\n",
            );
        }
        let volumes = found.mounts.into_iter().flatten().filter_map(|mount| mount.source);
        let mut roots = vec![upper];
        roots.extend(volumes.filter(|source| !source.is_empty()).map(PathBuf::from));
        Some(Written { roots, first })
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

/// Returns the first process of a container and its mounts. A daemon in another process namespace
/// gives a number that is another process here: the mounts of the right one name the container.
fn first_process(id: &str, found: &ContainerInspectResponse) -> Option<(u32, String)> {
    let pid = u32::try_from(found.state.as_ref()?.pid?).ok().filter(|pid| *pid > 0)?;
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    mounts.contains(&format!("containers/{id}/")).then_some((pid, mounts))
}

/// Reads from `mountinfo` which directory takes the changes of an overlay that is the root.
fn upper_directory(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, options) = line.split_once(" - overlay ")?;
        (mount.split(' ').nth(4)? == "/").then_some(())?;
        let options = options.rsplit(' ').next()?.split(',');
        let upper = options.filter_map(|option| option.strip_prefix("upperdir=")).next()?;
        upper.starts_with('/').then(|| upper.into())
    })
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

#[cfg(test)]
mod tests {
    use bollard::models::ContainerState;

    use super::*;

    /// Of a container of Docker 26 with a containerd store.
    const MOUNTS: &str = "\
        412 411 0:57 / /testbed/x rw - overlay overlay rw,lowerdir=/x,upperdir=/other,workdir=/w\n\
        411 366 0:56 / / rw,relatime master:91 - overlay overlay rw,\
        lowerdir=/d/snapshots/7/fs:/d/snapshots/1/fs,upperdir=/d/snapshots/12/fs,\
        workdir=/d/snapshots/12/work,nouserxattr\n\
        413 411 0:60 / /proc rw,nosuid - proc proc rw\n";

    #[test]
    fn the_directory_of_a_containers_changes_is_read_from_its_mounts() {
        assert_eq!(upper_directory(MOUNTS), Some("/d/snapshots/12/fs".into()));
        let relative = MOUNTS.replace("upperdir=/d/", "upperdir=d/");
        assert_eq!(upper_directory(&relative), None);
    }

    #[test]
    fn a_process_that_is_another_containers_is_not_taken_for_the_first_one() {
        let pid = Some(i64::from(std::process::id()));
        let state = Some(ContainerState { pid, ..ContainerState::default() });
        let found = ContainerInspectResponse { state, ..ContainerInspectResponse::default() };
        assert!(first_process(&"5".repeat(64), &found).is_none());
    }
}
