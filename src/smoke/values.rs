//! How single values of a configuration are written: times, sizes, numbers of processors, commands.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, SeqAccess, Visitor};

use crate::session::egress::Allowed;

use super::config::{CommandLine, Network};

/// The longest time that is taken: some thirty years. A clock has an end.
const MOST_SECONDS: f64 = 1e9;

/// The fewest processes that something can be done with.
const FEWEST_PIDS: u64 = 16;

/// Reads a value that is a number or a text.
struct Amount<T> {
    expecting: &'static str,
    of_number: fn(f64) -> Result<T, String>,
    of_text: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Amount<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.of_number)(number as f64).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.of_number)(number as f64).map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        (self.of_number)(number).map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.of_text)(text).map_err(E::custom)
    }
}

/// Reads a time: seconds, or a text such as `90s`, `30m` or `1h 30m`.
pub(super) fn duration<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    fn seconds(number: f64) -> Result<Duration, String> {
        match number > 0.0 && number <= MOST_SECONDS {
            true => Ok(Duration::from_secs_f64(number)),
            false => Err(format!("`{number}` is no time: it is more than 0 seconds")),
        }
    }
    let of_text = |text: &str| {
        if let Ok(number) = text.trim().parse::<f64>() {
            return seconds(number);
        }
        let parsed = text.trim().parse::<jiff::SignedDuration>();
        let parsed = parsed.map_err(|_| format!("`{text}` is no time: write it as 90s, 30m or 2h"));
        seconds(parsed?.as_secs_f64())
    };
    value.deserialize_any(Amount { expecting: "a time", of_number: seconds, of_text })
}

/// Reads an amount of memory: bytes, or a text such as `512m` or `4g`.
pub(super) fn memory<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    let of_number = |number: f64| match number >= 0.0 && number.fract() == 0.0 {
        true => crate::size::memory(&format!("{number}")).map(Some),
        false => Err(format!("`{number}` is not an amount of bytes")),
    };
    let of_text = |text: &str| crate::size::memory(text).map(Some);
    let expecting = "an amount of memory, such as 4g";
    value.deserialize_any(Amount { expecting, of_number, of_text })
}

/// Reads a number of processors, in thousandths.
pub(super) fn milli_cpus<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    let of_number = |number: f64| crate::size::milli_cpus(&format!("{number}")).map(Some);
    let of_text = |text: &str| crate::size::milli_cpus(text).map(Some);
    let expecting = "a number of processors, such as 1.5";
    value.deserialize_any(Amount { expecting, of_number, of_text })
}

/// Reads a number of processes.
pub(super) fn pids<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    let of_number = |number: f64| match number >= FEWEST_PIDS as f64 && number.fract() == 0.0 {
        true => Ok(Some(number as u64)),
        false => Err(format!("`{number}` is too few: at least {FEWEST_PIDS} are needed")),
    };
    let of_text = |text: &str| Err(format!("`{text}` is no number"));
    let expecting = "a number of processes";
    value.deserialize_any(Amount { expecting, of_number, of_text })
}

/// Reads a text or a list of texts.
struct OneOrMany {
    expecting: &'static str,
}

/// A text or a list of them.
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl<'de> Visitor<'de> for OneOrMany {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Texts, E> {
        Ok(Texts::One(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
        let mut words = Vec::new();
        while let Some(word) = list.next_element()? {
            words.push(word);
        }
        Ok(Texts::Many(words))
    }
}

impl<'de> de::Deserialize<'de> for CommandLine {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<CommandLine, D::Error> {
        let expecting = "a command: a text for the shell, or a list of program and arguments";
        let command = match value.deserialize_any(OneOrMany { expecting })? {
            Texts::One(line) => CommandLine::Shell(line),
            Texts::Many(words) => CommandLine::Argv(words),
        };
        let (is_empty, has_zero) = match &command {
            CommandLine::Shell(line) => (line.trim().is_empty(), line.contains('\0')),
            CommandLine::Argv(words) => (
                words.first().is_none_or(|program| program.is_empty()),
                words.iter().any(|word| word.contains('\0')),
            ),
        };
        match (is_empty, has_zero) {
            (true, _) => Err(de::Error::custom(
                "it names no program: write a text for the shell, or a list of a program and its arguments",
            )),
            (_, true) => Err(de::Error::custom("a command has no zero byte")),
            _ => Ok(command),
        }
    }
}

/// Reads what a sandbox can reach: `none`, `host`, `bridge`, or a list of hosts.
pub(super) fn network<'de, D: Deserializer<'de>>(value: D) -> Result<Network, D::Error> {
    let expecting = "`none`, `host`, `bridge`, or a list of hosts";
    match value.deserialize_any(OneOrMany { expecting })? {
        Texts::One(text) => match text.as_str() {
            "none" => Ok(Network::None),
            "host" => Ok(Network::Host),
            "bridge" => Ok(Network::Bridge),
            other => {
                let near = crate::nearest::nearest(other, ["none", "host", "bridge"]);
                let near = near.map_or(String::new(), |near| format!("; the nearest is `{near}`"));
                let message = format!("`{other}` is no network: write {expecting}{near}");
                Err(de::Error::custom(message))
            }
        },
        Texts::Many(hosts) if hosts.is_empty() => {
            Err(de::Error::custom("the list of hosts is empty: write `none`"))
        }
        Texts::Many(hosts) => {
            let hosts = hosts.iter().map(|host| Allowed::from_str(host));
            let hosts = hosts.collect::<Result<Vec<_>, _>>().map_err(de::Error::custom)?;
            Ok(Network::Hosts(hosts))
        }
    }
}

/// Reads a list that has something in it.
pub(super) fn filled<'de, D, T>(value: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: de::Deserialize<'de>,
{
    let list = <Vec<T> as de::Deserialize>::deserialize(value)?;
    match list.is_empty() {
        true => Err(de::Error::custom("the list is empty: leave it out, or put something in")),
        false => Ok(Some(list)),
    }
}
