//! A container as `inspect` describes it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::engine::{HostBind, Tmpfs};

use super::answer::{Answer, found};
use super::container::Container;
use super::mounts::VolumeMount;
use super::networks::Networks;
use super::server::Server;
use super::state::{State, Status};

/// A time that did not come yet.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Describes a container.
pub(super) fn inspect(server: &Server, container: &Container) -> Answer {
    let state = container.state.now();
    let (program, arguments) =
        container.command.split_first().map_or(("", &[][..]), |split| (split.0.as_str(), split.1));
    let mut host = json!(container.host_config());
    fill_host(&mut host);
    if let Value::Object(host) = &mut host {
        host.extend(container.updates());
    }
    found(&json!({
        "Id": container.id,
        "Created": container.created_at.to_string(),
        "Path": program,
        "Args": arguments,
        "State": state_of(container, &state),
        "Image": container.image.id.to_string(),
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": "",
        "Name": format!("/{}", container.name()),
        "RestartCount": container.restarts(),
        "Driver": "imgforge",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": Value::Null,
        "HostConfig": host,
        "GraphDriver": { "Name": "imgforge", "Data": {} },
        "Mounts": mount_points(server, container),
        "Config": config(container),
        "NetworkSettings": network_settings(&server.networks, container),
    }))
}

/// Fills what clients read of the host's part whether or not it was sent.
fn fill_host(host: &mut Value) {
    let Value::Object(fields) = host else { return };
    let defaults = [
        ("NetworkMode", json!("default")),
        ("AutoRemove", json!(false)),
        ("Privileged", json!(false)),
        ("ReadonlyRootfs", json!(false)),
        ("Memory", json!(0)),
        ("NanoCpus", json!(0)),
        ("Binds", Value::Null),
        ("PortBindings", json!({})),
        ("RestartPolicy", json!({ "Name": "no", "MaximumRetryCount": 0 })),
        ("LogConfig", json!({ "Type": "json-file", "Config": {} })),
    ];
    for (name, value) in defaults {
        fields.entry(name).or_insert(value);
    }
    if let Some(config) = fields.get_mut("LogConfig")
        && config.get("Type").is_none_or(|name| name == "")
    {
        config["Type"] = json!("json-file");
    }
    if fields.get("Runtime").is_none_or(|name| name == "") {
        fields.insert("Runtime".to_owned(), json!("runc"));
    }
}

fn state_of(container: &Container, state: &State) -> Value {
    let time = |time: Option<Timestamp>| time.map_or(NEVER.to_owned(), |time| time.to_string());
    let mut value = json!({
        "Status": state.status.name(),
        "Running": state.status.is_alive(),
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.out_of_memory,
        "Dead": false,
        "Pid": state.process,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": time(state.started_at),
        "FinishedAt": time(state.finished_at),
    });
    if let Some(health) = container.health.as_ref().filter(|_| state.started_at.is_some()) {
        value["Health"] = health.described();
    }
    value
}

fn config(container: &Container) -> Value {
    let (body, image) = (&container.body, &container.image.config);
    let asked = body.env.clone().unwrap_or_default();
    let name = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
    let is_replaced = |own: &&String| asked.iter().any(|other| name(other) == name(own));
    let mut env: Vec<String> = image.env.iter().filter(|own| !is_replaced(own)).cloned().collect();
    env.extend(asked.iter().cloned());
    let or_image = |text: &Option<String>, own: &str| {
        text.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| own.to_owned())
    };
    let exposed: BTreeMap<_, _> = image
        .service
        .exposed_ports
        .iter()
        .chain(body.exposed_ports.iter().flatten())
        .map(|port| (port.clone(), json!({})))
        .collect();
    let volumes: BTreeMap<_, _> = image
        .service
        .volumes
        .iter()
        .chain(body.volumes.iter().flatten())
        .map(|path| (path.clone(), json!({})))
        .collect();
    let is_own = body.entrypoint.as_ref().is_none_or(Vec::is_empty);
    let entrypoint = body
        .entrypoint
        .clone()
        .filter(|_| !is_own)
        .or_else(|| Some(image.entrypoint.clone()).filter(|words| !words.is_empty()));
    let asked_command = body.cmd.clone().filter(|words| !words.is_empty());
    let command = asked_command.or_else(|| Some(image.cmd.clone()).filter(|_| is_own));
    let mut value = json!({
        "Hostname": or_image(&body.hostname, &container.id[..12]),
        "Domainname": body.domainname.clone().unwrap_or_default(),
        "User": or_image(&body.user, &image.user),
        "AttachStdin": body.attach_stdin == Some(true),
        "AttachStdout": body.attach_stdout == Some(true),
        "AttachStderr": body.attach_stderr == Some(true),
        "ExposedPorts": exposed,
        "Tty": container.has_terminal(),
        "OpenStdin": container.has_input(),
        "StdinOnce": container.closes_input(),
        "Env": env,
        "Cmd": command,
        "Image": body.image,
        "Volumes": volumes,
        "WorkingDir": or_image(&body.working_dir, &image.working_dir),
        "Entrypoint": entrypoint,
        "OnBuild": Value::Null,
        "Labels": container.labels(),
        "StopSignal": or_image(&body.stop_signal, &image.service.stop_signal),
        "StopTimeout": body.stop_timeout,
    });
    let own = image.service.health_check.as_ref().map(|check| json!(check));
    if let Some(check) = body.healthcheck.as_ref().map(|check| json!(check)).or(own) {
        value["Healthcheck"] = check;
    }
    value
}

/// Returns what is mounted.
pub(super) fn mount_points(server: &Server, container: &Container) -> Value {
    let mounts = &container.mounts;
    let volume = |volume: &VolumeMount| {
        json!({
            "Type": "volume",
            "Name": volume.name,
            "Source": server.volumes.files(&volume.name),
            "Destination": volume.target,
            "Driver": "local",
            "Mode": if volume.read_only { "ro" } else { "z" },
            "RW": !volume.read_only,
            "Propagation": "",
        })
    };
    let bind = |bind: &HostBind| {
        json!({
            "Type": "bind",
            "Source": bind.source,
            "Destination": bind.target,
            "Mode": if bind.read_only { "ro" } else { "" },
            "RW": !bind.read_only,
            "Propagation": "rprivate",
        })
    };
    let tmpfs = |tmpfs: &Tmpfs| {
        json!({
            "Type": "tmpfs",
            "Source": "",
            "Destination": tmpfs.target,
            "Mode": "",
            "RW": !tmpfs.read_only,
            "Propagation": "",
        })
    };
    let all = mounts.binds.iter().map(bind).chain(mounts.tmpfs.iter().map(tmpfs));
    let all = all.chain(mounts.volumes.iter().map(volume));
    Value::Array(all.collect())
}

fn network_settings(networks: &Networks, container: &Container) -> Value {
    json!({
        "Bridge": "",
        "SandboxID": container.id,
        "SandboxKey": "",
        "Ports": container.ports.settings(),
        "IPAddress": "",
        "IPPrefixLen": 0,
        "Gateway": "",
        "MacAddress": "",
        "EndpointID": "",
        "Networks": networks.endpoints(&container.id),
    })
}
