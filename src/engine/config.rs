//! The config of an image as imgforge writes it: the same bytes for every engine, so that the ids of
//! equal images are equal.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::{HealthCheck, ImageConfig, Service};
use crate::key::DiffId;
use crate::platform::Platform;

/// The creation time of every image: equal layers must give an equal id.
const CREATED: &str = "2020-01-01T00:00:00Z";

/// Returns the bytes of an OCI image config.
pub(crate) fn config_json(
    config: &ImageConfig,
    platform: &Platform,
    diff_ids: &[DiffId],
) -> Vec<u8> {
    // What is not said stays empty: an image of no known platform is taken for none.
    let [os, architecture, variant] = platform.parts();
    let (os, architecture) = (os.unwrap_or(""), architecture.unwrap_or(""));
    let mut inner = Map::new();
    let mut set = |name: &str, value: Value| {
        let empty = match &value {
            Value::Array(items) => items.is_empty(),
            Value::String(text) => text.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !empty {
            inner.insert(name.to_owned(), value);
        }
    };
    set("Cmd", json!(config.cmd));
    set("Entrypoint", json!(config.entrypoint));
    set("Env", json!(config.env));
    set("Labels", json!(config.labels));
    set("Shell", json!(config.shell));
    set("User", json!(config.user));
    set("WorkingDir", json!(config.working_dir));
    let service = &config.service;
    let names = |list: &[String]| -> Map<String, Value> {
        list.iter().map(|name| (name.clone(), json!({}))).collect()
    };
    set("ExposedPorts", Value::Object(names(&service.exposed_ports)));
    set("Volumes", Value::Object(names(&service.volumes)));
    set("StopSignal", json!(service.stop_signal));
    if let Some(check) = &service.health_check {
        set("Healthcheck", json!(check));
    }
    let mut document = json!({
        "architecture": architecture,
        "config": inner,
        "created": CREATED,
        "os": os,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    if let Some(variant) = variant {
        document["variant"] = json!(variant);
    }
    document.to_string().into_bytes()
}

/// What a config says.
pub(crate) struct ReadConfig {
    /// Such as `linux/amd64`.
    pub platform: Platform,
    /// The sha256 of every uncompressed layer, lowest first.
    pub diff_ids: Vec<DiffId>,
    /// What containers run with.
    pub config: ImageConfig,
}

/// Reads a config, of whatever origin. Docker's `Shell` is not in the specification.
pub(crate) fn read(text: &[u8]) -> serde_json::Result<ReadConfig> {
    #[derive(Deserialize)]
    struct Document {
        architecture: String,
        os: String,
        variant: Option<String>,
        config: Option<Runtime>,
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        diff_ids: Vec<DiffId>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Runtime {
        env: Option<Vec<String>>,
        cmd: Option<Vec<String>>,
        entrypoint: Option<Vec<String>>,
        working_dir: Option<String>,
        user: Option<String>,
        shell: Option<Vec<String>>,
        labels: Option<BTreeMap<String, String>>,
        healthcheck: Option<HealthCheck>,
        volumes: Option<BTreeMap<String, IgnoredAny>>,
        exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
        stop_signal: Option<String>,
    }
    let document: Document = serde_json::from_slice(text)?;
    let runtime = document.config.unwrap_or_default();
    let variant = document.variant.unwrap_or_default();
    Ok(ReadConfig {
        platform: Platform::of(&document.os, &document.architecture, &variant),
        diff_ids: document.rootfs.diff_ids,
        config: ImageConfig {
            env: runtime.env.unwrap_or_default(),
            cmd: runtime.cmd.unwrap_or_default(),
            entrypoint: runtime.entrypoint.unwrap_or_default(),
            working_dir: runtime.working_dir.unwrap_or_default(),
            user: runtime.user.unwrap_or_default(),
            shell: runtime.shell.unwrap_or_default(),
            labels: runtime.labels.unwrap_or_default(),
            service: Service {
                health_check: runtime.healthcheck,
                volumes: runtime.volumes.unwrap_or_default().into_keys().collect(),
                exposed_ports: runtime.exposed_ports.unwrap_or_default().into_keys().collect(),
                stop_signal: runtime.stop_signal.unwrap_or_default(),
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_says_of_its_service_is_read_as_it_was_written() {
        let config = ImageConfig {
            service: Service {
                health_check: Some(HealthCheck {
                    test: vec!["CMD-SHELL".to_owned(), "true".to_owned()],
                    interval: 1_000_000_000,
                    ..HealthCheck::default()
                }),
                volumes: vec!["/data".to_owned()],
                exposed_ports: vec!["80/tcp".to_owned()],
                stop_signal: "SIGINT".to_owned(),
            },
            ..ImageConfig::default()
        };
        let text = config_json(&config, &Platform::written("linux/amd64"), &[]);
        let found = read(&text).unwrap().config;
        assert_eq!(found, config);
        assert_eq!(found.sealed(), ImageConfig::default());
    }

    #[test]
    fn a_config_depends_on_what_it_was_made_from_and_nothing_else() {
        let config = ImageConfig { user: "me".to_owned(), ..ImageConfig::default() };
        let text = config_json(&config, &Platform::written("linux/arm/v7"), &["sha256:00".into()]);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            r#"{"architecture":"arm","config":{"User":"me"},"created":"2020-01-01T00:00:00Z","os":"linux","rootfs":{"diff_ids":["sha256:00"],"type":"layers"},"variant":"v7"}"#
        );
    }
}
