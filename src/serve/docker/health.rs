//! Health checks: a command that says again and again whether the service of a container works.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bollard_stubs::models::{ContainerCreateBody, HealthConfig};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

use crate::engine::{
    ExecEnd, ExecRequest, HealthCheck, Image, LogSink, Outputs, Result as EngineResult,
    SandboxSession,
};

use super::answer::Refusal;
use super::command;
use super::state::{Status, Watched};

/// What is usual where neither the image nor the request says it.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u64 = 3;

/// The shortest time that may be asked for, in nanoseconds.
const LEAST: i64 = 1_000_000;

/// How many checks are remembered, and how much of what they print.
const REMEMBERED: usize = 5;
const MOST_OUTPUT: usize = 4096;

/// What is known of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Too little: it was just started.
    Starting,
    /// It works.
    Healthy,
    /// It does not.
    Unhealthy,
}

impl Verdict {
    /// Returns its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Verdict::Starting => "starting",
            Verdict::Healthy => "healthy",
            Verdict::Unhealthy => "unhealthy",
        }
    }
}

/// A check of a container, and what came of it.
pub(super) struct Health {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u64,
    record: Mutex<Record>,
}

struct Record {
    verdict: Verdict,
    failing_streak: u64,
    probes: VecDeque<Probe>,
}

/// One check.
struct Probe {
    start: Timestamp,
    end: Timestamp,
    code: i32,
    output: String,
}

impl Health {
    /// Reads the check of a container: what was asked for, and for the rest what the image says.
    ///
    /// # Errors
    /// Where a time or a number is none.
    pub(super) fn of(body: &ContainerCreateBody, image: &Image) -> Result<Option<Health>, Refusal> {
        let asked = body.healthcheck.as_ref().map(wanted).transpose()?.unwrap_or_default();
        let own = image.config.service.health_check.clone().unwrap_or_default();
        let test = if asked.test.is_empty() { own.test } else { asked.test };
        let command: Vec<String> = match test.split_first() {
            None => return Ok(None),
            Some((kind, _)) if kind == "NONE" => return Ok(None),
            Some((kind, words)) if kind == "CMD" => words.to_vec(),
            Some((kind, words)) if kind == "CMD-SHELL" => {
                let shell = match image.config.shell.as_slice() {
                    [] => vec!["/bin/sh".to_owned(), "-c".to_owned()],
                    shell => shell.to_vec(),
                };
                shell.into_iter().chain(words.first().cloned()).collect()
            }
            Some((kind, _)) => {
                return Err(Refusal::bad(format!("Unknown healthcheck type {kind:?}")));
            }
        };
        if command.is_empty() {
            return Ok(None);
        }
        let time = |asked: i64, own: i64, usual: Duration| {
            let nanos = u64::try_from(if asked == 0 { own } else { asked }).unwrap_or(0);
            if nanos == 0 { usual } else { Duration::from_nanos(nanos) }
        };
        let retries = if asked.retries == 0 { own.retries } else { asked.retries };
        Ok(Some(Health {
            command,
            interval: time(asked.interval, own.interval, INTERVAL),
            timeout: time(asked.timeout, own.timeout, TIMEOUT),
            start_period: time(asked.start_period, own.start_period, Duration::ZERO),
            start_interval: time(asked.start_interval, own.start_interval, START_INTERVAL),
            retries: u64::try_from(retries).ok().filter(|number| *number > 0).unwrap_or(RETRIES),
            record: Mutex::new(Record {
                verdict: Verdict::Starting,
                failing_streak: 0,
                probes: VecDeque::new(),
            }),
        }))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Record) -> T) -> T {
        work(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns what is known.
    pub(super) fn verdict(&self) -> Verdict {
        self.with(|record| record.verdict)
    }

    /// Returns it as `State.Health` has it.
    pub(super) fn described(&self) -> Value {
        self.with(|record| {
            let probes = record.probes.iter().map(|probe| {
                json!({
                    "Start": probe.start.to_string(),
                    "End": probe.end.to_string(),
                    "ExitCode": probe.code,
                    "Output": probe.output,
                })
            });
            json!({
                "Status": record.verdict.name(),
                "FailingStreak": record.failing_streak,
                "Log": probes.collect::<Vec<_>>(),
            })
        })
    }

    /// Begins anew: the service was just started.
    pub(super) fn reset(&self) {
        self.with(|record| {
            (record.verdict, record.failing_streak) = (Verdict::Starting, 0);
        });
    }

    /// Takes a check into account; `is_young` says that the start period is not over. Returns the new
    /// verdict where it changed.
    fn take(&self, probe: Probe, is_young: bool) -> Option<Verdict> {
        self.with(|record| {
            let before = record.verdict;
            match probe.code {
                0 => (record.verdict, record.failing_streak) = (Verdict::Healthy, 0),
                _ if before == Verdict::Starting && is_young => {}
                _ => {
                    record.failing_streak += 1;
                    if record.failing_streak >= self.retries {
                        record.verdict = Verdict::Unhealthy;
                    }
                }
            }
            record.probes.push_back(probe);
            while record.probes.len() > REMEMBERED {
                record.probes.pop_front();
            }
            (record.verdict != before).then_some(record.verdict)
        })
    }

    /// Checks the service until its main command has ended; what is paused is not checked. Tells each
    /// change of the verdict.
    pub(super) async fn watch(
        &self,
        session: &Arc<dyn SandboxSession>,
        state: &Watched,
        tell: impl Fn(Verdict),
    ) {
        let began = Timestamp::now();
        let ends = state.now().ends;
        let is_young = || {
            let age = Timestamp::now().duration_since(began);
            Duration::try_from(age).is_ok_and(|age| age < self.start_period)
        };
        let work = async {
            loop {
                let is_starting = self.verdict() == Verdict::Starting && is_young();
                sleep(if is_starting { self.start_interval } else { self.interval }).await;
                state.until(|state| state.status != Status::Paused).await;
                let start = Timestamp::now();
                let (code, output) = self.check(session).await;
                let probe = Probe { start, end: Timestamp::now(), code, output };
                if let Some(verdict) = self.take(probe, is_young()) {
                    tell(verdict);
                }
            }
        };
        tokio::select! {
            _ = state.until(|state| state.ends > ends || state.is_removed) => {}
            () = work => {}
        }
    }

    /// Runs the check once.
    async fn check(&self, session: &Arc<dyn SandboxSession>) -> (i32, String) {
        let request = ExecRequest {
            command: self.command.clone(),
            outputs: Outputs::Merged,
            time_limit: Some(self.timeout),
            ..ExecRequest::default()
        };
        let printed = Printed::default();
        let ended: EngineResult<_> = session.exec(&request, &printed, &printed).await;
        match ended.map(|summary| summary.end) {
            Ok(ExecEnd::TimedOut) => {
                let seconds = self.timeout.as_secs_f64();
                (-1, format!("Health check exceeded timeout ({seconds}s)"))
            }
            Ok(ExecEnd::NotStarted(why)) => {
                let program = self.command.first().map_or("", String::as_str);
                (-1, command::not_started(&why, program, None))
            }
            Ok(end) => (command::exit_code(&end).0, printed.text()),
            Err(error) => (-1, crate::causes::in_one_line(&error)),
        }
    }
}

/// Reads what a request says of a check.
fn wanted(config: &HealthConfig) -> Result<HealthCheck, Refusal> {
    let time = |name: &str, nanos: Option<i64>| match nanos.unwrap_or(0) {
        0 => Ok(0),
        nanos if nanos >= LEAST => Ok(nanos),
        _ => Err(Refusal::bad(format!("{name} in Healthcheck cannot be less than 1ms"))),
    };
    let retries = config.retries.unwrap_or(0);
    if retries < 0 {
        return Err(Refusal::bad("Retries in Healthcheck cannot be negative"));
    }
    Ok(HealthCheck {
        test: config.test.clone().unwrap_or_default(),
        interval: time("Interval", config.interval)?,
        timeout: time("Timeout", config.timeout)?,
        start_period: time("StartPeriod", config.start_period)?,
        start_interval: time("StartInterval", config.start_interval)?,
        retries,
    })
}

/// The beginning of what a check prints.
#[derive(Default)]
struct Printed(Mutex<Vec<u8>>);

impl Printed {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl LogSink for Printed {
    fn write(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = MOST_OUTPUT.saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(left)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(config: &HealthConfig) -> Health {
        let body = ContainerCreateBody {
            healthcheck: Some(config.clone()),
            ..ContainerCreateBody::default()
        };
        Health::of(&body, &Image::default()).unwrap().unwrap()
    }

    fn probe(code: i32) -> Probe {
        Probe { start: Timestamp::now(), end: Timestamp::now(), code, output: String::new() }
    }

    #[test]
    fn failures_count_after_the_start_period_and_one_success_forgets_them() {
        let test = Some(vec!["CMD".to_owned(), "x".to_owned()]);
        let health = health(&HealthConfig { test, retries: Some(2), ..HealthConfig::default() });
        assert_eq!(health.take(probe(1), true), None);
        assert_eq!(health.take(probe(1), false), None);
        assert_eq!(health.take(probe(-1), false), Some(Verdict::Unhealthy));
        assert_eq!(health.take(probe(0), false), Some(Verdict::Healthy));
        assert_eq!(health.take(probe(1), true), None, "it had begun to work");
        assert_eq!(health.take(probe(1), true), Some(Verdict::Unhealthy));
        assert_eq!(health.described()["Log"].as_array().unwrap().len(), REMEMBERED);
        health.reset();
        assert_eq!(health.verdict(), Verdict::Starting);
    }

    #[test]
    fn a_request_takes_the_place_of_what_the_image_says() {
        let mut image = Image::default();
        image.config.service.health_check = Some(HealthCheck {
            test: vec!["CMD-SHELL".to_owned(), "a && b".to_owned()],
            interval: 5_000_000_000,
            ..HealthCheck::default()
        });
        let of = |config: Option<HealthConfig>| {
            let body =
                ContainerCreateBody { healthcheck: config, ..ContainerCreateBody::default() };
            Health::of(&body, &image)
        };
        let found = of(None).unwrap().unwrap();
        assert_eq!(found.command, ["/bin/sh", "-c", "a && b"]);
        assert_eq!((found.interval, found.retries), (Duration::from_secs(5), RETRIES));
        let timeout = Some(2_000_000_000);
        let found = of(Some(HealthConfig { timeout, ..HealthConfig::default() })).unwrap().unwrap();
        assert_eq!((found.command.len(), found.timeout), (3, Duration::from_secs(2)));
        let test = Some(vec!["NONE".to_owned()]);
        assert!(of(Some(HealthConfig { test, ..HealthConfig::default() })).unwrap().is_none());
        let test = Some(vec!["what".to_owned()]);
        assert!(of(Some(HealthConfig { test, ..HealthConfig::default() })).is_err());
        assert!(of(Some(HealthConfig { interval: Some(5), ..HealthConfig::default() })).is_err());
    }
}
