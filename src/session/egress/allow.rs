//! Which hosts may be reached: names and patterns of names, with their ports.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use glob::Pattern;
use serde::{Deserialize, Serialize};

/// The ports of a host that is named without one: HTTP and HTTPS.
const PORTS: [u16; 2] = [80, 443];

/// Hosts that may be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AllowList(Vec<Allowed>);

/// A host that may be reached, or a pattern of such: `pypi.org`, `*.pythonhosted.org`, `host:8080`. A
/// `*` stands for any letters, dots as well; `*.a` is not `a`. Without a port it is for 80 and 443.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Allowed {
    host: Pattern,
    port: Option<u16>,
}

/// Why something names no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoHost {
    /// An address. What a name leads to is looked up outside, and an address says nothing of who is
    /// meant.
    #[error("`{0}` is an address: name the host")]
    Address(String),
    /// Something else.
    #[error("`{0}` is no host: write pypi.org, *.pythonhosted.org or host:8080")]
    Other(String),
}

impl FromStr for Allowed {
    type Err = NoHost;

    fn from_str(text: &str) -> Result<Allowed, NoHost> {
        let other = || NoHost::Other(text.to_owned());
        if text.parse::<IpAddr>().is_ok() {
            return Err(NoHost::Address(text.to_owned()));
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port.parse::<u16>().map_err(|_| other())?)),
            None => (text, None),
        };
        if host.parse::<IpAddr>().is_ok() {
            return Err(NoHost::Address(text.to_owned()));
        }
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*?".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_fine) || port == Some(0) {
            return Err(other());
        }
        let host = Pattern::new(&host.to_ascii_lowercase()).map_err(|_| other())?;
        Ok(Allowed { host, port })
    }
}

impl TryFrom<String> for Allowed {
    type Error = NoHost;

    fn try_from(text: String) -> Result<Allowed, NoHost> {
        text.parse()
    }
}

impl From<Allowed> for String {
    fn from(allowed: Allowed) -> String {
        allowed.to_string()
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.host.as_str())?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl From<Vec<Allowed>> for AllowList {
    fn from(hosts: Vec<Allowed>) -> AllowList {
        AllowList(hosts)
    }
}

impl AllowList {
    /// Returns the hosts.
    pub fn iter(&self) -> impl Iterator<Item = &Allowed> {
        self.0.iter()
    }

    /// Tells whether a port of a host, by its name, may be reached.
    pub fn permits(&self, host: &str, port: u16) -> bool {
        self.of(host, port).next().is_some()
    }

    /// Tells whether a port of a host is permitted by its name, and not by a pattern only: whoever wrote
    /// the list knows where that leads.
    pub(super) fn names(&self, host: &str, port: u16) -> bool {
        self.of(host, port).any(|allowed| !allowed.host.as_str().contains(['*', '?']))
    }

    /// Returns what permits a port of a host.
    fn of(&self, host: &str, port: u16) -> impl Iterator<Item = &Allowed> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let is_address = is_address(&host);
        self.0.iter().filter(move |allowed| {
            let has_port = allowed.port.map_or(PORTS.contains(&port), |own| own == port);
            has_port && !is_address && allowed.host.matches(&host)
        })
    }
}

/// Tells whether a host is an address in any form that a program may take for one, such as `127.1`,
/// `2130706433` and `0x7f000001`: no pattern is meant for such.
fn is_address(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    host.contains(':')
        || last.starts_with("0x")
        || !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(hosts: &[&str]) -> AllowList {
        hosts.iter().map(|host| host.parse().unwrap()).collect::<Vec<Allowed>>().into()
    }

    #[test]
    fn a_name_is_for_the_ports_of_the_web_and_a_port_for_itself() {
        let list = list(&["PyPI.org", "*.pythonhosted.org", "mirror:8080"]);
        for (host, port, permitted) in [
            ("pypi.org", 443, true),
            ("PYPI.ORG.", 80, true),
            ("pypi.org", 22, false),
            ("a.pypi.org", 443, false),
            ("files.pythonhosted.org", 443, true),
            ("a.b.pythonhosted.org", 443, true),
            ("pythonhosted.org", 443, false),
            ("evilpythonhosted.org", 443, false),
            ("files.pythonhosted.org.evil.com", 443, false),
            ("mirror", 8080, true),
            ("mirror", 443, false),
        ] {
            assert_eq!(list.permits(host, port), permitted, "{host}:{port}");
        }
        assert!(!AllowList::default().permits("pypi.org", 443));
        let all = super::AllowList::from(vec!["*".parse().unwrap()]);
        assert!(all.permits("pypi.org", 443) && all.permits("mirror3", 80));
        let addresses = ["10.0.0.1", "127.1", "2130706433", "0x7f000001", "[::1]", "10.0.0.1."];
        assert!(addresses.iter().all(|address| !all.permits(address, 80)));
        assert!(list.names("pypi.org", 443) && list.names("MIRROR", 8080));
        assert!(!list.names("files.pythonhosted.org", 443) && !list.names("mirror", 443));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in
            ["", "https://pypi.org", "pypi.org/simple", "a:b", "a:0", "[a]", "a b", "a:70000"]
        {
            assert_eq!(text.parse::<Allowed>(), Err(NoHost::Other(text.to_owned())), "{text}");
        }
        for text in ["10.0.0.1", "127.0.0.1:80", "::1"] {
            assert_eq!(text.parse::<Allowed>(), Err(NoHost::Address(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_list_is_written_as_it_is_read() {
        let text = r#"["pypi.org","*.a","b:1"]"#;
        let list: AllowList = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&list).unwrap(), text);
        assert!(serde_json::from_str::<AllowList>(r#"["10.0.0.1"]"#).is_err());
    }
}
