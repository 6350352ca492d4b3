//! `[kubernetes]`: where pods run, and what they ask for.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::amounts::{cpus, memory};

/// What `[kubernetes]` says. What is not said is absent.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct KubernetesSettings {
    /// The context of the kubeconfig.
    pub context: Option<String>,
    /// The namespace of the pods.
    pub namespace: Option<String>,
    /// The file of a pod template; a relative path is relative to the catalog file.
    pub pod_template: Option<PathBuf>,
    /// The Secret with the credentials that the nodes pull images with.
    pub pull_secret: Option<String>,
    /// How long a pod may take until its tests run, such as `30m`.
    #[serde(deserialize_with = "time")]
    pub start_limit: Option<Duration>,
    /// Bytes of memory that a pod asks for, such as `2g`.
    #[serde(deserialize_with = "memory")]
    pub request_memory: Option<u64>,
    /// Processors that a pod asks for, in thousandths.
    #[serde(rename = "request-cpus", deserialize_with = "cpus")]
    pub request_milli_cpus: Option<u64>,
    /// Whether pods stay whose tests did not come to their end.
    pub keep_failed: Option<bool>,
}

impl KubernetesSettings {
    /// Takes every setting that `upper` has.
    pub(super) fn apply(&mut self, upper: KubernetesSettings) {
        macro_rules! take {
            ($($field:ident),*) => { $( if upper.$field.is_some() { self.$field = upper.$field; } )* };
        }
        take!(context, namespace, pod_template, pull_secret);
        take!(start_limit, request_memory, request_milli_cpus, keep_failed);
    }
}

/// Reads a time: a number of seconds, or a text such as `30m`.
fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a number of seconds, or a text such as \"30m\"")]
    enum Form {
        Number(u64),
        Text(String),
    }
    let wrong = |text: &str| serde::de::Error::custom(format!("`{text}` is no time such as 30m"));
    let time = match Form::deserialize(deserializer)? {
        Form::Number(seconds) => Duration::from_secs(seconds),
        Form::Text(text) => {
            let span: jiff::SignedDuration = text.parse().map_err(|_| wrong(&text))?;
            Duration::try_from(span).map_err(|_| wrong(&text))?
        }
    };
    match time.as_secs() {
        0 => Err(serde::de::Error::custom("0 is too little: at least 1 second")),
        seconds => Ok(Some(Duration::from_secs(seconds))),
    }
}
