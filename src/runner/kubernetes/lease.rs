//! The Lease of a run: the owner of its pods and Secrets. While the process lives it renews the Lease; when
//! the Lease goes, the cluster takes away all that it owns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use tokio::task::JoinHandle;

use super::client::{Failure, Server, create, delete, request};
use super::label;
use super::pod::{Owner, short};

/// How often a Lease is renewed.
const RENEWED: Duration = Duration::from_secs(20);

/// How long it counts after that, as it says itself.
const DURATION: i32 = 60;

/// From which age on a Lease is nobody's any more, in seconds.
const STALE: i64 = 300;

/// The selector of everything that imgforge made.
pub(super) fn ours() -> String {
    format!("{}={}", label::MANAGED_BY, label::IMGFORGE)
}

/// The Lease of this run, renewed until it is dropped.
pub(super) struct RunLease {
    pub owner: Owner,
    /// The time of the server, when it made the Lease.
    pub server_time: Option<Timestamp>,
    gone: Arc<AtomicBool>,
    renewal: JoinHandle<()>,
}

impl Drop for RunLease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

impl RunLease {
    /// Makes the Lease of a run. Two runs of one name have two.
    pub(super) async fn take(server: &Server, run_id: &str) -> Result<RunLease, Failure> {
        let leases = server.leases();
        let name = format!("imgforge-{}-{:08x}", short(run_id), rand::random::<u32>());
        let now = Timestamp::now();
        let holder = format!("{} pid {}", host(), std::process::id());
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(BTreeMap::from([(
                    label::MANAGED_BY.to_owned(),
                    label::IMGFORGE.to_owned(),
                )])),
                annotations: Some(BTreeMap::from([(label::RUN.to_owned(), run_id.to_owned())])),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                acquire_time: Some(MicroTime(now)),
                renew_time: Some(MicroTime(now)),
                holder_identity: Some(holder),
                lease_duration_seconds: Some(DURATION),
                ..LeaseSpec::default()
            }),
        };
        // The name has a random part: what is there by it is what an answer that was lost told of.
        create(&leases, &lease, &|_| {}).await?;
        let made = request(&|_| {}, || leases.get(&name)).await?;
        let owner = Owner { name, uid: made.uid().unwrap_or_default() };
        let gone = Arc::new(AtomicBool::new(false));
        let renewal = tokio::spawn(renew(leases, owner.clone(), gone.clone()));
        let server_time = made.metadata.creation_timestamp.map(|time| time.0);
        Ok(RunLease { owner, server_time, gone, renewal })
    }

    /// Tells whether somebody took the Lease away: what stands on it is gone, or will be.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Leaves the Lease and what belongs to it until somebody removes this very run.
    pub(super) async fn keep(&self, server: &Server) -> Result<(), Failure> {
        self.renewal.abort();
        let leases = server.leases();
        let mut kept = request(&|_| {}, || leases.get(&self.owner.name)).await?;
        kept.annotations_mut().insert(label::KEPT.to_owned(), "true".to_owned());
        let params = PostParams::default();
        request(&|_| {}, || leases.replace(&self.owner.name, &params, &kept)).await.map(drop)
    }

    /// Deletes the Lease, and with it what is left of the run.
    pub(super) async fn end(&self, server: &Server) -> Result<(), Failure> {
        self.renewal.abort();
        remove_owned(server, &self.owner).await?;
        delete(&server.leases(), &self.owner.name, &DeleteParams::background()).await
    }
}

/// Deletes the pods and Secrets of an owner: the cluster would do so as well, some seconds later.
pub(super) async fn remove_owned(server: &Server, owner: &Owner) -> Result<(), Failure> {
    let of_owner = ListParams::default().labels(&format!("{}={}", label::OWNER, owner.uid));
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    let pods = server.pods();
    request(&|_| {}, || pods.delete_collection(&at_once, &of_owner)).await?;
    let secrets = server.secrets();
    request(&|_| {}, || secrets.delete_collection(&at_once, &of_owner)).await?;
    Ok(())
}

async fn renew(leases: Api<Lease>, owner: Owner, gone: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(RENEWED).await;
        let found = match request(&|_| {}, || leases.get(&owner.name)).await {
            Ok(found) if found.uid().as_deref() == Some(&owner.uid) => found,
            Ok(_) => break,
            Err(failure) if failure.code() == Some(404) => break,
            Err(_) => continue,
        };
        let mut renewed = found;
        if let Some(spec) = renewed.spec.as_mut() {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let params = PostParams::default();
        // A renewal that fails is made again in time: a Lease lasts through many of them.
        let _ = request(&|_| {}, || leases.replace(&owner.name, &params, &renewed)).await;
    }
    gone.store(true, Ordering::Relaxed);
}

/// Deletes the Leases of runs whose process is dead, and those of a run that is named, with what they own.
/// Of a run that keeps pods only its name removes them. Returns their runs.
pub(super) async fn sweep(
    server: &Server,
    server_time: Option<Timestamp>,
    run_id: Option<&str>,
) -> Result<Vec<String>, Failure> {
    let leases = server.leases();
    let listed = request(&|_| {}, || {
        let leases = leases.clone();
        async move { leases.list(&ListParams::default().labels(&ours())).await }
    })
    .await?;
    let now = server_time.unwrap_or_else(Timestamp::now);
    let mut removed = Vec::new();
    for lease in listed.items {
        let run = lease.annotations().get(label::RUN).cloned();
        let is_meant = run_id.is_some() && run.as_deref() == run_id;
        let is_kept = lease.annotations().contains_key(label::KEPT);
        if !is_meant && (is_kept || !is_stale(&lease, now)) {
            continue;
        }
        let (name, uid) = (lease.name_any(), lease.uid().unwrap_or_default());
        // One that was renewed since it was listed stays.
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(uid.clone()),
            resource_version: lease.resource_version().filter(|_| !is_meant),
        });
        match delete(&leases, &name, &params).await {
            Ok(()) => {}
            Err(failure) if failure.code() == Some(409) => continue,
            Err(failure) => return Err(failure),
        }
        remove_owned(server, &Owner { name, uid }).await?;
        removed.push(run.unwrap_or_else(|| lease.name_any()));
    }
    Ok(removed)
}

/// Tells whether nobody renewed a Lease for long. The server's own record of its last change counts where
/// there is one: it needs no other machine's clock.
fn is_stale(lease: &Lease, now: Timestamp) -> bool {
    let changes = lease.metadata.managed_fields.iter().flatten();
    let changed = changes.filter_map(|change| change.time.as_ref().map(|time| time.0)).max();
    let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
    let Some(last) = changed.or(renewed) else { return false };
    now.as_second().saturating_sub(last.as_second()) > STALE
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, Time};

    use super::*;

    fn lease(renewed: i64, changed: Option<i64>) -> Lease {
        let at = |second| Timestamp::from_second(second).unwrap();
        let change = |second| ManagedFieldsEntry {
            time: Some(Time(at(second))),
            ..ManagedFieldsEntry::default()
        };
        Lease {
            metadata: ObjectMeta {
                managed_fields: changed.map(|second| vec![change(second - 50), change(second)]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                renew_time: Some(MicroTime(at(renewed))),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn a_lease_is_stale_by_the_servers_clock_where_that_is_known() {
        let now = Timestamp::from_second(10_000).unwrap();
        assert!(!is_stale(&lease(9_700, None), now));
        assert!(is_stale(&lease(9_699, None), now));
        // The clock of its holder goes wrong.
        assert!(!is_stale(&lease(0, Some(9_990)), now));
        assert!(is_stale(&lease(20_000, Some(9_000)), now));
        assert!(!is_stale(&lease(20_000, None), now));
        assert!(!is_stale(&Lease::default(), now), "what cannot be judged stays");
    }
}
