//! `imgforge doctor`: can this machine do it, and what to do where not.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use console::style;
use serde::Serialize;

use crate::cli::out::outln;
use crate::config;
use crate::engine::{EngineError, EngineInfo, EngineKind};
#[cfg(feature = "kubernetes")]
use crate::forge::SourceOptions;
use crate::platform::Platform;
use crate::proxy::Proxies;
#[cfg(feature = "kubernetes")]
use crate::runner::kubernetes::doctor::Finding;
use crate::words;
use crate::{disk, store};

use super::help::heading;
use super::open;
use super::runner::ClusterArgs;
use super::{CommandResult, Error, Exit, Global};

/// Bytes of disk that are advised for a whole benchmark.
const ADVISED_DISK: u64 = 120 << 30;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print a profile of AppArmor that lets this program make containers, and do nothing else
    #[arg(long)]
    apparmor_profile: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The registry and path that pods get their images from, such as ghcr.io/me
    /// [default: that of images.toml]
    #[arg(long, value_name = "REGISTRY", env = "IMGFORGE_CACHE_REGISTRY",
        help_heading = heading::SHARING)]
    cache_registry: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    detail: String,
    fix: Option<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    checks: &'a [Check],
}

fn ok(name: &'static str, detail: impl Into<String>) -> Check {
    Check { name, status: Status::Ok, detail: detail.into(), fix: None }
}

fn not_ok(
    status: Status,
    name: &'static str,
    detail: impl Into<String>,
    fix: impl Into<String>,
) -> Check {
    Check { name, status, detail: detail.into(), fix: Some(fix.into()) }
}

/// Runs `doctor`: 0 when nothing fails, 3 otherwise.
pub(super) async fn run(global: &Global, args: DoctorArgs) -> CommandResult {
    if args.apparmor_profile {
        return print_profile(global);
    }
    let mut checks = cluster_checks(global, &args).await?;
    let state = open::state_dir(global);
    let info = match open::connect_to(global, true).await {
        Err(error @ EngineError::NotBuilt { .. }) => return Err(open::engine_failure(error).into()),
        Err(error) => Err(error),
        Ok(engine) => engine.info().await,
    };
    checks.push(engine_check(&info));
    let info = info.ok();
    for limitation in info.iter().flat_map(|info| &info.limitations) {
        checks.push(not_ok(Status::Warn, "containers", &limitation.what, limitation.fix));
    }
    checks.push(architecture_check(info.as_ref()));
    checks.push(state_check(global, &state));
    checks.push(disk_check("state disk", &state));
    if let Some(root) = info.as_ref().and_then(|info| info.root.as_deref()) {
        checks.push(disk_check("engine disk", root));
    }
    if let Some(info) = &info {
        checks.push(memory_check(info.memory));
        let workers = config::default_workers(info.cpus);
        let workers = words::count(workers, "worker");
        let detail = format!("{}, so {workers}; -j sets another number", info.cpus);
        checks.push(ok("processors", detail));
    }
    checks.push(program_check("git", &["--version"], Status::Fail, "install git"));
    checks.push(program_check(
        "patch",
        &["--version"],
        Status::Warn,
        "install patch: patches that need fuzz are refused without it",
    ));
    checks.push(program_check(
        "uv",
        &["--version"],
        Status::Warn,
        "install uv; only `imgforge lock` needs it",
    ));
    checks.push(program_check(
        "mmdebstrap",
        &["--version"],
        Status::Warn,
        "install mmdebstrap; only `--bootstrap` and `imgforge base bootstrap` need it",
    ));
    checks.push(certificates_check());
    checks.extend(credentials_check());
    checks.push(proxy_check(info.as_ref()));
    if global.offline {
        checks.push(ok("network", "not asked"));
    } else {
        for (name, url) in [
            ("docker hub", "https://registry-1.docker.io/v2/"),
            ("hugging face", "https://huggingface.co/"),
            ("github", "https://github.com/"),
        ] {
            checks.push(reach_check(name, url).await);
        }
    }
    if global.json {
        super::render::json(&Document { checks: &checks });
    } else {
        for check in &checks {
            let mark = match check.status {
                Status::Ok => style("  ok").green(),
                Status::Warn => style("warn").yellow(),
                Status::Fail => style("fail").red().bold(),
            };
            outln!("{mark}  {:<13} {}", check.name, check.detail);
            if let Some(fix) = &check.fix {
                outln!("      {:<13} -> {fix}", "");
            }
        }
    }
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    Ok(if failed { Exit::Environment } else { Exit::Success })
}

/// Looks at the cluster that is chosen.
#[cfg(feature = "kubernetes")]
async fn cluster_checks(global: &Global, args: &DoctorArgs) -> Result<Vec<Check>, Error> {
    let runner = args.cluster.choice(global, None)?;
    let sources =
        SourceOptions { cache_registry: args.cache_registry.clone(), ..SourceOptions::default() };
    let findings = runner.look(&global.forge_options(), &sources).await;
    let check = |found: Finding| match found.trouble {
        None => ok(found.name, found.detail),
        Some(trouble) => {
            let status = if trouble.is_fatal { Status::Fail } else { Status::Warn };
            not_ok(status, found.name, found.detail, trouble.fix)
        }
    };
    Ok(findings.into_iter().map(check).collect())
}

/// Looks at the cluster that is chosen: this program has none.
#[cfg(not(feature = "kubernetes"))]
async fn cluster_checks(global: &Global, args: &DoctorArgs) -> Result<Vec<Check>, Error> {
    args.cluster.choice(global, None).map(|_| Vec::new())
}

fn engine_check(info: &Result<EngineInfo, EngineError>) -> Check {
    match info {
        Ok(info) => ok(
            "engine",
            match info.api_version.as_str() {
                "" => format!("{} {} ({})", info.kind, info.version, info.store),
                api => {
                    format!("{} {} (API {api}, {}, BuildKit)", info.kind, info.version, info.store)
                }
            },
        ),
        Err(error) => {
            let fix = error.hint().unwrap_or("look at the engine's own log".to_owned());
            let mut detail = error.to_string();
            if let Some(cause) = std::error::Error::source(error) {
                detail = format!("{detail}: {cause}");
            }
            not_ok(Status::Fail, "engine", detail, fix)
        }
    }
}

/// Prints a profile that allows this program user namespaces, as Ubuntu 23.10 and newer want them.
fn print_profile(global: &Global) -> CommandResult {
    let program = std::env::current_exe().map_err(Error::environment)?;
    let program = program.to_str().filter(|path| !path.contains(['"', '\\', '*', '?', '[', '{']));
    let Some(program) = program else {
        let error = anyhow::anyhow!("the path of this program cannot stand in a profile");
        return Err(Error::environment(error)
            .with_hint(Some("move it to a path of letters and digits".to_owned()))
            .into());
    };
    let profile = format!(
        "# Lets imgforge make user namespaces, and confines nothing.\n\
         abi <abi/4.0>,\n\
         include <tunables/global>\n\n\
         profile imgforge \"{program}\" flags=(unconfined) {{\n  \
           userns,\n\n  \
           include if exists <local/imgforge>\n\
         }}"
    );
    match global.json {
        true => super::render::json(&serde_json::json!({ "apparmor_profile": profile })),
        false => outln!("{profile}"),
    }
    Ok(Exit::Success)
}

fn architecture_check(info: Option<&EngineInfo>) -> Check {
    let host = Platform::host().to_string();
    let engine = info.map_or(host.as_str(), |info| info.platform.as_str());
    match engine {
        "linux/amd64" => ok("architecture", engine),
        other => not_ok(
            Status::Warn,
            "architecture",
            other,
            "published images are for linux/amd64; images are built here, natively",
        ),
    }
}

fn state_check(global: &Global, dir: &Path) -> Check {
    match store::Store::open_on(dir, global.forge_options().on_network()) {
        Ok(store) => match store.on_network() {
            None => ok("state", dir.display().to_string()),
            Some(kind) => {
                let detail = format!("{} ({kind}, a network file system)", dir.display());
                not_ok(Status::Warn, "state", detail, store::NETWORK_HINT)
            }
        },
        Err(error) => not_ok(Status::Fail, "state", error.to_string(), error.hint()),
    }
}

fn disk_check(name: &'static str, dir: &Path) -> Check {
    match disk::free(dir) {
        Err(_) => ok(name, format!("`{}` cannot be seen from here", dir.display())),
        Ok(free) => {
            let detail = format!("{} free at `{}`", disk::bytes_text(free), dir.display());
            if free >= ADVISED_DISK {
                ok(name, detail)
            } else {
                let fix =
                    "120 GiB are advised for a whole benchmark; builds stop before it is full";
                not_ok(Status::Warn, name, detail, fix)
            }
        }
    }
}

fn memory_check(bytes: u64) -> Check {
    let detail = disk::bytes_text(bytes);
    if bytes >= 8 << 30 {
        ok("memory", detail)
    } else {
        not_ok(Status::Warn, "memory", detail, "8 GiB are advised; lower --max-workers")
    }
}

fn program_check(name: &'static str, args: &[&str], status: Status, fix: &str) -> Check {
    match Command::new(name).args(args).output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            ok(name, text.lines().next().unwrap_or("").to_owned())
        }
        _ => not_ok(status, name, "not found", fix),
    }
}

fn certificates_check() -> Check {
    match config::host_access(open::variable, None, None) {
        Ok(host) => match host.ca_bundle {
            Some(bundle) => {
                let count = String::from_utf8_lossy(&bundle).matches("BEGIN CERTIFICATE").count();
                ok("certificates", format!("{count} authorities reach build steps"))
            }
            None => ok("certificates", "build steps use the image's own"),
        },
        Err(error) => not_ok(
            Status::Fail,
            "certificates",
            format!("SSL_CERT_FILE cannot be read: {error}"),
            "correct or unset it",
        ),
    }
}

/// Reads the files with credentials for registries.
fn credentials_check() -> Option<Check> {
    let directory = crate::engine::client_config::config_directory(open::variable)?;
    Some(match crate::engine::check_credentials(&directory, open::variable) {
        Ok(files) if files.is_empty() => ok("credentials", "none"),
        Ok(files) => {
            let files = files.iter().map(|path| path.display().to_string());
            ok("credentials", files.collect::<Vec<_>>().join(", "))
        }
        Err(error) => {
            let cause = std::error::Error::source(&error);
            let detail = cause.map_or(error.to_string(), |cause| format!("{error}: {cause}"));
            not_ok(Status::Fail, "credentials", detail, error.hint().unwrap_or_default())
        }
    })
}

fn proxy_check(info: Option<&EngineInfo>) -> Check {
    let proxies = match Proxies::of_process() {
        Ok(proxies) => proxies,
        Err(error) => {
            return not_ok(Status::Fail, "proxy", error.to_string(), "correct or unset it");
        }
    };
    if proxies.is_none() {
        return ok("proxy", "none");
    }
    // Steps of the embedded engine share the host's network.
    if proxies.on_loopback() && info.is_none_or(|info| info.kind != EngineKind::Embedded) {
        return not_ok(
            Status::Warn,
            "proxy",
            "it is on this host's loopback, which build steps do not see",
            "build with --build-network host",
        );
    }
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];
    let names = names.map(|name| [name.to_owned(), name.to_ascii_lowercase()]).concat();
    let set: Vec<String> =
        names.into_iter().filter(|name| open::variable(name).is_some()).collect();
    let detail = format!("{} reach build steps", set.join(", "));
    match proxies.speaks_socks() {
        true => not_ok(
            Status::Warn,
            "proxy",
            format!("{detail}; pip speaks SOCKS only where the image has PySocks"),
            "where pip installs, name a proxy that speaks HTTP in HTTPS_PROXY",
        ),
        false => ok("proxy", detail),
    }
}

async fn reach_check(name: &'static str, url: &str) -> Check {
    let client = crate::http::client();
    let client = client.map(|builder| builder.timeout(Duration::from_secs(5)).build());
    let Ok(Ok(client)) = client else {
        let detail = "no client can be made";
        return not_ok(Status::Warn, name, detail, "look at SSL_CERT_FILE and the proxies");
    };
    match client.head(url).send().await {
        // Any answer shows that it can be reached; the registry's is 401.
        Ok(response) => match clock_skew(&response) {
            Some(skew) if skew > 300 => not_ok(
                Status::Warn,
                name,
                format!("reached; its clock differs by {skew} s"),
                "set the clock: tokens and certificates depend on it",
            ),
            _ => ok(name, "reached"),
        },
        Err(error) => {
            let detail = if error.is_timeout() { "no answer within 5 s" } else { "not reached" };
            not_ok(
                Status::Warn,
                name,
                detail,
                "only needed to fetch from it; HTTPS_PROXY helps behind a proxy",
            )
        }
    }
}

fn clock_skew(response: &reqwest::Response) -> Option<u64> {
    let date = response.headers().get("date")?.to_str().ok()?;
    let date = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    Some(date.duration_since(jiff::Timestamp::now()).as_secs().unsigned_abs())
}
