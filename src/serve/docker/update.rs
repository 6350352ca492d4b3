//! `update`: other limits, and another policy of restarts, of a container that is there.

use std::sync::PoisonError;

use serde_json::{Value, json};

use crate::engine::{EngineError, NewLimits};

use super::answer::{Answer, Refusal, found};
use super::call::Call;
use super::container::Container;
use super::create::LEAST_MEMORY;
use super::server::Server;

/// What has an effect.
const KNOWN: [&str; 6] =
    ["Memory", "NanoCpus", "CpuPeriod", "CpuQuota", "PidsLimit", "RestartPolicy"];

/// What of that is a limit.
const LIMITS: [&str; 5] = ["Memory", "NanoCpus", "CpuPeriod", "CpuQuota", "PidsLimit"];

/// Changes a container.
pub(super) async fn update(server: &Server, call: &mut Call, container: &Container) -> Answer {
    let Value::Object(asked) = call.value().await? else {
        return Err(Refusal::bad("invalid JSON: it is no object"));
    };
    let is_asked = |value: &Value| match value {
        Value::Null => false,
        Value::Number(number) => number.as_i64() != Some(0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => fields.get("Name").is_none_or(|name| name != ""),
        Value::Bool(is_set) => *is_set,
    };
    let asked: serde_json::Map<String, Value> =
        asked.into_iter().filter(|(_, value)| is_asked(value)).collect();
    let number = |name: &str| asked.get(name).and_then(Value::as_i64);
    if number("Memory").is_some_and(|memory| memory < LEAST_MEMORY) {
        return Err(Refusal::bad("Minimum memory limit allowed is 6MB"));
    }
    let positive = |name: &str| number(name).and_then(|number| u64::try_from(number).ok());
    let period = positive("CpuPeriod").unwrap_or(100_000);
    let quota = positive("CpuQuota").map(|quota| quota.saturating_mul(1000) / period);
    let limits = NewLimits {
        memory: positive("Memory"),
        milli_cpus: positive("NanoCpus").map(|nano| (nano / 1_000_000).max(1)).or(quota),
        pids: positive("PidsLimit"),
    };
    if let Some(policy) = asked.get("RestartPolicy") {
        serde_json::from_value::<bollard_stubs::models::RestartPolicy>(policy.clone())
            .map_err(|error| Refusal::bad(format!("invalid RestartPolicy: {error}")))?;
    }
    let warnings: Vec<String> = asked
        .keys()
        .filter(|name| !KNOWN.contains(&name.as_str()))
        .map(|name| format!("{name}: not given, imgforge runs sandboxes"))
        .collect();
    server.settings.check(&warnings)?;
    let (mut asked, mut warnings) = (asked, warnings);
    if limits != NewLimits::default() {
        match container.session.set_limits(&limits).await {
            Ok(()) => {}
            // It has no control group: what is not limited is not told as a limit.
            Err(EngineError::Refused { action, reason }) => {
                warnings.push(format!("cannot {action}: {reason}"));
                server.settings.check(&warnings)?;
                asked.retain(|name, _| !LIMITS.contains(&name.as_str()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    container.updated.lock().unwrap_or_else(PoisonError::into_inner).extend(asked);
    container.tell("update", &[]);
    found(&json!({ "Warnings": warnings }))
}
