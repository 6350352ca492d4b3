//! `imgforge session start`.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;

use crate::cli::out::outln;
use crate::engine::{
    EngineKind, HostBind, Quotas, SandboxNetwork, SessionRequest, SessionSettings, Tmpfs, label,
};
use crate::forge::Needed;
use crate::runner::POD_SESSION;
use crate::serve::swerex::{LoopbackAddress, Serving};
use crate::session::Publish;
use crate::session::checkpoints::CheckpointRecord;
use crate::session::directory::SessionRecord;
use crate::session::egress::Allowed;
use crate::session::order::{InstanceName, SessionOrder};

use super::super::checkout::image_of;
use super::super::execute::ExecArgs;
use super::super::help::heading;
use super::super::look::variable;
use super::super::runner::RunnerArgs;
use super::super::{CommandResult, Error, Exit, Global, Sources};
use super::checkpoint;
use super::launch::launch;
use super::{directory, not_found};

/// Arguments of `session start`.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::RUN)]
pub(in crate::cli) struct StartArgs {
    /// The dataset of the instance: lite, verified, full, multilingual, multimodal, demo, bundle, a
    /// Hugging Face id, or a path
    #[arg(short, long, value_name = "NAME", requires = "instance_id", env = "IMGFORGE_DATASET",
        help_heading = heading::DATASET)]
    dataset: Option<String>,
    /// The split
    #[arg(long, default_value = "test", env = "IMGFORGE_SPLIT", help_heading = heading::DATASET)]
    split: String,
    /// The instance; its tests are not in the session
    #[arg(short, long, value_name = "ID", conflicts_with = "image",
        help_heading = heading::DATASET)]
    instance_id: Option<String>,
    /// An image of the engine
    #[arg(long, value_name = "REF")]
    image: Option<String>,
    /// A checkpoint: its id or the beginning of that
    #[arg(long, value_name = "CHECKPOINT", conflicts_with_all = ["image", "instance_id"])]
    from: Option<String>,
    /// A name to find it by
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// An environment variable; without a value it is that of this process
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Where commands start [default: the image's directory]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Whom commands run as: a user, or user:group, by name or number [default: the image's]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// What it can reach [default: none, or proxy where there is an --allow]
    #[arg(long, value_enum)]
    network: Option<SessionNetwork>,
    /// A host that it may reach over HTTP and HTTPS, such as pypi.org, *.pythonhosted.org or host:8080
    #[arg(long, value_name = "HOST")]
    allow: Vec<Allowed>,
    /// A port of it to reach from this machine, as PORT, HOST_PORT:PORT or ADDRESS:HOST_PORT:PORT; on
    /// loopback, and at a free port, unless said otherwise
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<Publish>,
    /// A directory or file of this machine, as SRC:DST or SRC:DST:ro
    #[arg(long, value_name = "SRC:DST")]
    bind: Vec<HostBind>,
    /// A directory in memory, as PATH or PATH:OPTIONS, such as /scratch:size=64m,exec
    #[arg(long, value_name = "PATH")]
    tmpfs: Vec<Tmpfs>,
    /// Serve it to SWE-ReX on this address of loopback, and print what a RemoteDeployment needs; a server is
    /// started where none serves yet [default: 127.0.0.1, at a free port]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1)]
    swerex: Option<Option<LoopbackAddress>>,
    /// Let nothing be written but what is bound or in memory
    #[arg(long)]
    read_only: bool,
    /// End it after this time, such as 2h [default with pods: 24h]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    ttl: Option<Duration>,
    /// End it when nobody has used it for this time, such as 30m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle: Option<Duration>,
    /// Its memory, such as 4g
    #[arg(short, long, value_name = "BYTES", value_parser = crate::size::memory,
        help_heading = heading::LIMITS)]
    memory: Option<u64>,
    /// Its processors, such as 1.5
    #[arg(long, value_name = "N", value_parser = crate::size::milli_cpus,
        help_heading = heading::LIMITS)]
    cpus: Option<u64>,
    /// Its processes and threads
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(16..),
        help_heading = heading::LIMITS)]
    pids_limit: Option<u64>,
    #[command(flatten)]
    runner: RunnerArgs,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    exec: ExecArgs,
}

/// What a session can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum SessionNetwork {
    /// Itself
    None,
    /// The hosts of --allow, by a proxy on its loopback; `session network` changes them
    Proxy,
    /// What this machine can
    Host,
    /// What Docker's default network can
    Bridge,
}

impl SessionNetwork {
    /// Returns the network of the container: a way out is no network.
    pub(in crate::cli) fn of_container(asked: Option<SessionNetwork>) -> SandboxNetwork {
        match asked {
            Some(SessionNetwork::Host) => SandboxNetwork::Host,
            Some(SessionNetwork::Bridge) => SandboxNetwork::Bridge,
            Some(SessionNetwork::None | SessionNetwork::Proxy) | None => SandboxNetwork::None,
        }
    }
}

/// Reads a time, such as `90s`, `30m` or `1h 30m`.
pub(in crate::cli) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: write it as 90s, 30m or 2h");
    let parsed = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let parsed = text.parse::<jiff::SignedDuration>().map_err(|_| wrong())?;
            Duration::try_from(parsed).map_err(|_| wrong())?
        }
    };
    if parsed.is_zero() { Err(wrong()) } else { Ok(parsed) }
}

/// Runs `session start`.
pub(super) async fn run(global: &Global, mut args: StartArgs) -> CommandResult {
    let network = SessionNetwork::of_container(args.network);
    let in_pods = args.runner.choice(global)?.in_pods();
    if in_pods {
        args.ttl = Some(life_in_pod(args.ttl)?);
    }
    if !args.allow.is_empty() && !matches!(args.network, None | Some(SessionNetwork::Proxy)) {
        let error = anyhow!("--allow is for `--network proxy`");
        return Err(Error::input(error).into());
    }
    if let Some(text) = &args.from {
        let checkpoint = checkpoint::order_of(global, text)?;
        let image = checkpoint.image.clone();
        return start(global, &args, image, Origin::Checkpoint(Box::new(checkpoint)), network);
    }
    let (Some(id), None) = (&args.instance_id, &args.image) else {
        let image = args.image.clone().ok_or_else(|| {
            let hint =
                "name an instance by -d and -i, an image by --image, or a checkpoint by --from";
            Error::input(anyhow!("there is nothing to start a session from"))
                .with_hint(Some(hint.to_owned()))
        })?;
        return start(global, &args, image, Origin::Image, network);
    };
    let dataset = args.dataset.clone().ok_or_else(|| {
        let error = anyhow!("`{id}` is in no dataset that was named");
        Error::input(error).with_hint(Some("name it: -d lite, or a path".to_owned()))
    })?;
    let named =
        |dataset| InstanceName { dataset, split: args.split.clone(), instance_id: id.clone() };
    // The lease keeps the image until the session stands on it.
    let (image, _lease) = image_of(
        global,
        &args.exec,
        &args.sources,
        &named(dataset.clone()),
        Needed::by_session(in_pods),
    )
    .await?;
    // It is read again elsewhere, to grade.
    let path = std::path::Path::new(&dataset);
    let dataset = match path.exists().then(|| std::path::absolute(path)) {
        Some(Ok(path)) => path.display().to_string(),
        _ => dataset,
    };
    start(global, &args, image, Origin::Instance(named(dataset)), network)
}

/// Returns how long a session in a pod is kept.
fn life_in_pod(asked: Option<Duration>) -> Result<Duration, Error> {
    let life = asked.unwrap_or(POD_SESSION);
    if life > POD_SESSION {
        let error = anyhow!("a session in a pod is kept for 24 hours at most");
        return Err(Error::input(error).with_hint(Some("give a shorter --ttl".to_owned())));
    }
    Ok(life)
}

/// What a session is started from.
enum Origin {
    Image,
    Instance(InstanceName),
    Checkpoint(Box<CheckpointRecord>),
}

/// Writes down how the session is started, and on which engine where that is given.
fn order_of(
    args: &StartArgs,
    image: String,
    origin: Origin,
    network: SandboxNetwork,
) -> (Option<EngineKind>, SessionOrder) {
    let (instance, repository, engine) = match origin {
        Origin::Image => (None, None, None),
        Origin::Instance(instance) => (Some(instance), None, None),
        Origin::Checkpoint(record) => {
            (record.order.instance, record.order.repository, Some(record.engine))
        }
    };
    let mut labels = std::collections::BTreeMap::new();
    if let Some(InstanceName { instance_id, .. }) = &instance {
        labels.insert(label::INSTANCE.to_owned(), instance_id.clone());
    }
    let request = SessionRequest {
        image,
        user: args.user.clone(),
        memory: args.memory,
        milli_cpus: args.cpus,
        pids: args.pids_limit,
        quotas: Quotas::default(),
        network,
        loopback_names: Vec::new(),
        variables: args.env.iter().filter_map(|text| variable(text)).collect(),
        labels,
        settings: SessionSettings {
            working_dir: args.workdir.clone(),
            binds: args.bind.clone(),
            tmpfs: args.tmpfs.clone(),
            read_only: args.read_only,
            ..SessionSettings::default()
        },
    };
    let has_way_out = args.network == Some(SessionNetwork::Proxy) || !args.allow.is_empty();
    let allowed = has_way_out.then(|| args.allow.clone().into());
    let order = SessionOrder {
        name: args.name.clone(),
        instance,
        request,
        allowed,
        publish: args.publish.clone(),
        ttl_seconds: args.ttl.map(|ttl| ttl.as_secs_f64()),
        idle_seconds: args.idle.map(|idle| idle.as_secs_f64()),
        repository,
    };
    (engine, order)
}

/// Starts the process that keeps the session, and waits until it does.
fn start(
    global: &Global,
    args: &StartArgs,
    image: String,
    origin: Origin,
    network: SandboxNetwork,
) -> CommandResult {
    let (engine, order) = order_of(args, image, origin, network);
    let serving = args
        .swerex
        .map(|address| super::super::serve::ensure_swerex(global, address))
        .transpose()?;
    let began = Instant::now();
    let mut words = args.runner.words();
    words.extend(args.sources.sharing.words());
    let record = launch(global, engine, &order, &words)?;
    let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
    let deployment = serving.map(|serving| deployment(global, &record, &serving)).transpose()?;
    if global.json {
        let mut document = json!(record);
        document["start_ms"] = json!(milliseconds);
        if let Some(deployment) = &deployment {
            document["swerex"] = json!(deployment);
        }
        outln!("{document:#}");
    } else {
        outln!("{}", record.id);
        if let Some(Deployment { host, auth_token, .. }) = &deployment {
            outln!("host: {host}\nport: null\nauth_token: {auth_token}");
        }
    }
    Ok(Exit::Success)
}

/// What a `RemoteDeployment` of SWE-ReX is made with, by its names.
#[derive(Serialize)]
struct Deployment {
    host: String,
    port: Option<u16>,
    auth_token: String,
}

/// Gives a session its key.
fn deployment(
    global: &Global,
    record: &SessionRecord,
    serving: &Serving,
) -> Result<Deployment, Error> {
    let key = directory(global).key_made(record).map_err(not_found)?;
    let (host, auth_token) = (serving.host_of(&record.id), key.text().to_owned());
    Ok(Deployment { host, port: None, auth_token })
}
