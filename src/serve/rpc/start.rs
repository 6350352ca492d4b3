//! Starting sessions.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};

use crate::engine::{LogSink, Quotas, SandboxNetwork, SessionRequest, SessionSettings, label};
use crate::session::egress::{AllowList, Allowed};
use crate::session::order::{InstanceName, SessionOrder};
use crate::session::{self, Started, Warnings};

use super::client::Client;
use super::events::{self, EventSink};
use super::fault::{Fault, Kind};
use super::lines::Answer;
use super::params::{self, Network};
use super::queue::Queue;
use super::served::{Served, Uses};

/// The fewest processes that something can be done with.
const FEWEST_PIDS: u64 = 16;

/// A session that is to be started.
pub(super) struct Startup {
    pub order: SessionOrder,
    pub labels: BTreeMap<String, String>,
    /// What keeps its image until it stands on it.
    pub kept: Option<Box<dyn Any + Send>>,
}

impl From<params::Instance> for InstanceName {
    fn from(instance: params::Instance) -> InstanceName {
        let params::Instance { dataset, instance_id, split } = instance;
        InstanceName { dataset, split, instance_id }
    }
}

/// Runs `session.start`.
pub(super) async fn start(client: Client, mut params: params::Start) -> Answer {
    let heard = params.events.take();
    let work = async |events: EventSink| startup(&client, params, &events).await;
    let startup = events::told(&client.lines, heard, work).await?;
    let (_, document) = client.start(startup).await?;
    Ok(document)
}

/// Finds what a session is started from, and writes down how.
async fn startup(
    client: &Client,
    params: params::Start,
    events: &EventSink,
) -> Result<Startup, Fault> {
    let sessions = &client.sessions;
    if !params.allow.is_empty() && !matches!(params.network, None | Some(Network::Proxy)) {
        return Err(Fault::bad_params("`allow` is for the network `proxy`"));
    }
    if params.pids.is_some_and(|pids| pids < FEWEST_PIDS) {
        return Err(Fault::bad_params(format!("`pids` is at least {FEWEST_PIDS}")));
    }
    let milli_cpus = match params.cpus {
        Some(cpus) if !(0.001..=1e6).contains(&cpus) => {
            return Err(Fault::bad_params("`cpus` is a number of processors, such as 1.5"));
        }
        cpus => cpus.map(|cpus| (cpus * 1000.0).round() as u64),
    };
    let (image, instance, repository, kept) =
        match (params.image, params.instance, &params.checkpoint) {
            (Some(image), None, None) => (image, None, None, None),
            (None, Some(instance), None) => {
                let instance = InstanceName::from(instance);
                let found = sessions.instances.image(&instance, events).await?;
                (found.image, Some(instance), None, Some(found.kept))
            }
            (None, None, Some(id)) => {
                let record = sessions.checkpoints.find(id)?;
                if record.engine != sessions.kind {
                    let message = format!("checkpoint `{id}` is of another engine");
                    return Err(Fault::new(Kind::Refused, message));
                }
                sessions.checkpoints.note_use(&record)?;
                (record.image, record.order.instance, record.order.repository, None)
            }
            _ => {
                let message = "one of `image`, `instance` and `checkpoint` is needed";
                return Err(Fault::bad_params(message));
            }
        };
    let network = match params.network {
        Some(Network::Host) => SandboxNetwork::Host,
        Some(Network::Bridge) => SandboxNetwork::Bridge,
        Some(Network::None | Network::Proxy) | None => SandboxNetwork::None,
    };
    let mut labels = BTreeMap::new();
    if let Some(InstanceName { instance_id, .. }) = &instance {
        labels.insert(label::INSTANCE.to_owned(), instance_id.clone());
    }
    let request = SessionRequest {
        image,
        user: params.user,
        memory: params.memory,
        milli_cpus,
        pids: params.pids,
        quotas: Quotas::default(),
        network,
        loopback_names: Vec::new(),
        variables: params.env,
        labels,
        settings: SessionSettings {
            working_dir: params.workdir,
            binds: params.bind.into_iter().map(|bind| bind.0).collect(),
            tmpfs: params.tmpfs.into_iter().map(|tmpfs| tmpfs.0).collect(),
            read_only: params.read_only,
            ..SessionSettings::default()
        },
    };
    let has_way_out = params.network == Some(Network::Proxy) || !params.allow.is_empty();
    let order = SessionOrder {
        name: None,
        instance,
        request,
        allowed: has_way_out.then(|| params.allow.into()),
        publish: params.publish.into_iter().map(|publish| publish.0).collect(),
        ttl_seconds: params.ttl.map(|ttl| ttl.0.as_secs_f64()),
        idle_seconds: params.idle.map(|idle| idle.0.as_secs_f64()),
        repository,
    };
    Ok(Startup { order, labels: params.labels, kept })
}

/// Tells what a session may reach and what it was denied, and changes it where there is a list.
pub(super) fn network(served: &Served, allow: Option<Vec<Allowed>>) -> Answer {
    let egress = served.kept.egress().ok_or_else(|| {
        Fault::new(Kind::Refused, "the session was started without a way out")
            .hint("start it with `allow`, or the network `proxy`")
    })?;
    if let Some(allow) = allow {
        egress.allow(AllowList::from(allow));
    }
    Ok(json!(egress.report()))
}

impl Client {
    /// Starts a session, and serves it. Returns what is told of it.
    pub(super) async fn start(&self, startup: Startup) -> Result<(Arc<Served>, Value), Fault> {
        let began = Instant::now();
        let Startup { mut order, labels, kept: image } = startup;
        let sessions = &self.sessions;
        let id = format!("{:012x}", rand::random::<u64>() & 0xffff_ffff_ffff);
        let warnings = Warnings::default();
        let directory = sessions.scratch_dir.join(&id);
        std::fs::create_dir_all(&directory).map_err(|error| {
            Fault::new(Kind::Infra, format!("cannot make `{}`: {error}", directory.display()))
        })?;
        let log: &dyn LogSink = &warnings;
        let started =
            session::start_on(sessions.host.clone(), &order, &sessions.of_host, &directory, log)
                .await;
        let Started { kept, ports, repository } = started.inspect_err(|_| {
            let _ = std::fs::remove_dir_all(&directory);
        })?;
        drop(image);
        order.repository = repository;
        let checkpoints = sessions.checkpoints.clone();
        kept.remember(checkpoints.remember(order.clone(), &id, sessions.kind));
        let served = Arc::new(Served {
            id,
            connection: self.number,
            kept,
            order,
            labels,
            created: jiff::Timestamp::now(),
            ports,
            queue: Queue::new(),
            execs: Default::default(),
            shells: Default::default(),
            transfers: Default::default(),
            environment: Default::default(),
            uses: Uses::default(),
            watch: Mutex::default(),
        });
        sessions.add(served.clone());
        if self.over.is_cancelled() {
            // Its client went meanwhile.
            sessions.stop(&served).await?;
        }
        let mut document = served.document();
        document["warnings"] = json!(warnings.list());
        document["start_ms"] = json!(began.elapsed().as_secs_f64() * 1e3);
        Ok((served, document))
    }
}
