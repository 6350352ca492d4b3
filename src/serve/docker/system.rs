//! What the server is.

use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::engine::{EngineError, SandboxNetwork};

use super::answer::{Answer, empty, found, whole};
use super::call::Call;
use super::server::Server;
use super::state::Status;

/// The newest version of the API that is served.
pub(super) const API: &str = "1.47";

/// The oldest one.
pub(super) const OLDEST_API: &str = "1.24";

/// The version of Docker whose behaviour is served; clients refuse old ones.
const ENGINE: &str = "28.0.0";

/// Answers a ping, which tells what is served.
pub(super) fn ping(call: &Call) -> Answer {
    let mut response = empty(StatusCode::OK);
    if call.method != Method::HEAD {
        *response.body_mut() = whole("OK".into());
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    Ok(response)
}

/// Returns the machine's kernel and name.
fn kernel() -> (String, String) {
    let name = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    (text(name.release()), text(name.nodename()))
}

/// Returns how many images there are, or were a moment ago.
async fn count_images(server: &Server) -> Result<usize, EngineError> {
    if let Some(number) = server.image_count.fresh() {
        return Ok(number);
    }
    let number = server.engine.images().await?.len();
    server.image_count.set(number);
    Ok(number)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Says which versions there are.
pub(super) fn version(server: &Server) -> Answer {
    let (kernel, _) = kernel();
    let own = env!("CARGO_PKG_VERSION");
    found(&json!({
        "Platform": { "Name": "imgforge" },
        "Components": [
            {
                "Name": "Engine",
                "Version": ENGINE,
                "Details": {
                    "ApiVersion": API,
                    "MinAPIVersion": OLDEST_API,
                    "Os": "linux",
                    "Arch": architecture(),
                    "KernelVersion": kernel,
                    "GitCommit": format!("imgforge-{own}"),
                },
            },
            { "Name": "imgforge", "Version": own, "Details": { "Engine": server.info.kind.name() } },
        ],
        "Version": ENGINE,
        "ApiVersion": API,
        "MinAPIVersion": OLDEST_API,
        "GitCommit": format!("imgforge-{own}"),
        "GoVersion": "none",
        "Os": "linux",
        "Arch": architecture(),
        "KernelVersion": kernel,
        "BuildTime": "1970-01-01T00:00:00.000000000+00:00",
        "Experimental": false,
    }))
}

/// Says what the server is. Some clients want to know it at every step: the number of images may be a
/// second old.
pub(super) async fn info(server: &Server) -> Answer {
    let images = count_images(server).await?;
    let (kernel, name) = kernel();
    let states: Vec<Status> =
        server.all().iter().map(|container| container.state.now().status).collect();
    let count = |status| states.iter().filter(|one| **one == status).count();
    let info = &server.info;
    let network = match server.settings.default_network {
        SandboxNetwork::Host => "host",
        _ => "none",
    };
    let root = info.root.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let mut facts = facts();
    let own = json!({
        "ID": "imgforge",
        "Images": images,
        "Containers": states.len(),
        "ContainersRunning": count(Status::Running),
        "ContainersPaused": count(Status::Paused),
        "ContainersStopped": count(Status::Exited) + count(Status::Created),
        "Driver": "imgforge",
        "DriverStatus": [["Storage", info.store.clone()], ["Default network", network.to_owned()]],
        "KernelVersion": kernel,
        "OperatingSystem": "imgforge",
        "OSVersion": "",
        "OSType": "linux",
        "Architecture": std::env::consts::ARCH,
        "SystemTime": jiff::Timestamp::now().to_string(),
        "NCPU": info.cpus,
        "MemTotal": info.memory,
        "GenericResources": Value::Null,
        "DockerRootDir": root,
        "Name": name,
        "Labels": [],
    });
    if let (Value::Object(facts), Value::Object(own)) = (&mut facts, own) {
        facts.extend(own);
    }
    found(&facts)
}

/// What is the same of every server.
fn facts() -> Value {
    json!({
        "Plugins": {
            "Volume": [],
            "Network": ["bridge", "host", "null"],
            "Authorization": Value::Null,
            "Log": ["json-file"],
        },
        "MemoryLimit": true,
        "SwapLimit": true,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": false,
        "CPUSet": false,
        "PidsLimit": true,
        "OomKillDisable": false,
        "IPv4Forwarding": false,
        "Debug": false,
        "NFd": 0,
        "NGoroutines": 0,
        "LoggingDriver": "json-file",
        "CgroupDriver": "none",
        "CgroupVersion": "1",
        "NEventsListener": 0,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": Value::Null,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "ExperimentalBuild": false,
        "ServerVersion": ENGINE,
        "Runtimes": { "imgforge": { "path": "imgforge" } },
        "DefaultRuntime": "imgforge",
        "Swarm": { "LocalNodeState": "inactive" },
        "LiveRestoreEnabled": false,
        "Isolation": "",
        "InitBinary": "imgforge",
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "Warnings": [],
    })
}
