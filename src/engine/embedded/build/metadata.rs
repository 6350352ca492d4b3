//! Instructions that only say something of an image: labels, ports, volumes, signals, health checks.

use jiff::SignedDuration;
use parse_dockerfile::{Command, Flag, HealthcheckArguments, HealthcheckInstruction};

use crate::engine::{HealthCheck, ImageConfig};

use super::shell_lexer::{expand, pairs, words};

/// What such an instruction says, with variables in it. It is looked at where it has an effect.
pub(super) enum Metadata {
    /// Labels and their values.
    Label(String),
    /// Ports.
    Expose(Vec<String>),
    /// Directories.
    Volume(Vec<String>),
    /// A signal.
    StopSignal(String),
    /// A check, or why it is none.
    HealthCheck(Result<HealthCheck, String>),
}

impl Metadata {
    /// Writes it to a config.
    pub(super) fn apply(
        &self,
        value: &dyn Fn(&str) -> Option<String>,
        config: &mut ImageConfig,
    ) -> Result<(), String> {
        let service = &mut config.service;
        match self {
            Metadata::Label(text) => config.labels.extend(pairs(text, value)?),
            Metadata::Expose(ports) => {
                for port in ports {
                    for port in words(port, value)? {
                        let named = if port.contains('/') { port } else { format!("{port}/tcp") };
                        add(&mut service.exposed_ports, named);
                    }
                }
            }
            Metadata::Volume(paths) => {
                for path in paths {
                    add(&mut service.volumes, expand(path, value)?);
                }
            }
            Metadata::StopSignal(signal) => service.stop_signal = expand(signal, value)?,
            Metadata::HealthCheck(check) => service.health_check = Some(check.clone()?),
        }
        Ok(())
    }
}

fn add(list: &mut Vec<String>, name: String) {
    if !list.contains(&name) {
        list.push(name);
        list.sort();
    }
}

/// Reads a `HEALTHCHECK`.
pub(super) fn health_check(
    instruction: &HealthcheckInstruction<'_>,
) -> Result<HealthCheck, String> {
    let mut check = HealthCheck::default();
    for flag in &instruction.options {
        read_flag(flag, &mut check)?;
    }
    check.test = match &instruction.arguments {
        HealthcheckArguments::Cmd { arguments, .. } => match arguments {
            Command::Exec(words) => {
                let words = words.value.iter().map(|word| word.value.to_string());
                std::iter::once("CMD".to_owned()).chain(words).collect()
            }
            Command::Shell(text) => {
                vec!["CMD-SHELL".to_owned(), text.value.replace("\\\n", "").trim().to_owned()]
            }
            _ => return Err("this form of `HEALTHCHECK` is not known".to_owned()),
        },
        _ => vec!["NONE".to_owned()],
    };
    Ok(check)
}

fn read_flag(flag: &Flag<'_>, check: &mut HealthCheck) -> Result<(), String> {
    let text = flag.value.as_ref().map_or("", |value| value.value.as_ref());
    let name = flag.name.value.as_ref();
    let wrong = || format!("`--{name}={text}` of a HEALTHCHECK cannot be read");
    let time = || {
        let time: SignedDuration = text.parse().map_err(|_| wrong())?;
        i64::try_from(time.as_nanos()).map_err(|_| wrong())
    };
    match name {
        "interval" => check.interval = time()?,
        "timeout" => check.timeout = time()?,
        "start-period" => check.start_period = time()?,
        "start-interval" => check.start_interval = time()?,
        "retries" => check.retries = text.parse().map_err(|_| wrong())?,
        _ => return Err(format!("`--{name}` of a HEALTHCHECK is not known")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Built;
    use super::super::parse::stages;

    #[test]
    fn what_is_said_of_an_image_is_in_its_config() {
        let text = "FROM a\nARG P=80\nLABEL a=1 \"b c\"=$P\nEXPOSE $P 53/udp\nVOLUME [\"/d\", \"/$P\"]\n\
                    VOLUME /e /f\nSTOPSIGNAL SIGINT\nHEALTHCHECK --interval=1m30s --retries=2 CMD a || b\n";
        let stages = stages(text, &BTreeMap::new()).unwrap();
        let mut built = Built::default();
        let mut variables = stages[0].variables(&[]);
        for step in &stages[0].steps {
            step.action(&mut variables, &mut built).unwrap();
        }
        let config = built.config;
        assert_eq!(config.labels["a"], "1");
        assert_eq!(config.labels["b c"], "80");
        assert_eq!(config.service.exposed_ports, ["53/udp", "80/tcp"]);
        assert_eq!(config.service.volumes, ["/80", "/d", "/e", "/f"]);
        assert_eq!(config.service.stop_signal, "SIGINT");
        let check = config.service.health_check.unwrap();
        assert_eq!(check.test, ["CMD-SHELL", "a || b"]);
        assert_eq!((check.interval, check.retries), (90_000_000_000, 2));
    }
}
