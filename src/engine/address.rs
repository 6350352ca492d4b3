//! Addresses of engines as the `docker` command writes them. Knows nothing of sockets.

use std::fmt;
use std::path::PathBuf;

use reqwest::Url;

/// Where `docker` looks on a host that names no port, as it does itself also with TLS.
const PORT: u16 = 2375;
/// Where `https://` looks.
const TLS_PORT: u16 = 2376;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket on this host.
    Unix(PathBuf),
    /// A port.
    Tcp(Authority),
    /// A port, with TLS whatever the environment says.
    Https(Authority),
    /// A login on another host, where `docker` passes a connection on.
    Ssh(Destination),
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// A name or an address, an IPv6 one without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A login on another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Whom to log in as.
    pub user: Option<String>,
    /// The host, or its alias in the configuration of ssh.
    pub host: String,
    /// The port of its ssh server.
    pub port: Option<u16>,
    /// The engine's socket there.
    pub socket: Option<String>,
}

/// What is wrong with an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongAddress {
    /// The scheme belongs to another system, to daemons, or to nobody.
    #[error("has the scheme `{0}`; those of an engine are unix, tcp, https and ssh")]
    Scheme(String),
    /// A scheme without `//`, or a path without a scheme.
    #[error("is written `{0}`")]
    Slashes(String),
    /// Something lacks, or is not what it has to be.
    #[error("{0}")]
    Form(&'static str),
}

impl Address {
    /// Reads an address; one without a scheme is a host, as in `docker`.
    pub fn parse(text: &str) -> Result<Address, WrongAddress> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Address::without_slashes(text);
        };
        match scheme {
            "unix" if rest.is_empty() => Err(WrongAddress::Form("names no socket")),
            "unix" => Ok(Address::Unix(rest.into())),
            "tcp" | "http" => Ok(Address::Tcp(Authority::parse(rest, PORT)?)),
            "https" => Ok(Address::Https(Authority::parse(rest, TLS_PORT)?)),
            "ssh" => Ok(Address::Ssh(Destination::parse(text)?)),
            other => Err(WrongAddress::Scheme(other.to_owned())),
        }
    }

    fn without_slashes(text: &str) -> Result<Address, WrongAddress> {
        if text.starts_with('/') {
            return Err(WrongAddress::Slashes(format!("unix://{text}")));
        }
        match text.split_once(':') {
            Some(("unix", path)) if path.starts_with('/') => Ok(Address::Unix(path.into())),
            Some((scheme @ ("unix" | "tcp" | "http" | "https" | "ssh"), rest)) => {
                let rest = rest.trim_start_matches('/');
                Err(WrongAddress::Slashes(format!("{scheme}://{rest}")))
            }
            Some((scheme @ ("npipe" | "fd"), _)) => Err(WrongAddress::Scheme(scheme.to_owned())),
            _ => Ok(Address::Tcp(Authority::parse(text, PORT)?)),
        }
    }

    /// Tells whether it is a socket on this host.
    pub fn is_socket(&self) -> bool {
        matches!(self, Address::Unix(_))
    }

    /// Tells whether the engine is on this host, as far as its address says.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Unix(_) => true,
            Address::Tcp(to) | Address::Https(to) => {
                let loopback = to.host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
                loopback || to.host == "localhost"
            }
            Address::Ssh(_) => false,
        }
    }
}

impl Authority {
    fn parse(text: &str, default_port: u16) -> Result<Authority, WrongAddress> {
        let text = text.strip_suffix('/').unwrap_or(text);
        // As in `docker`: no host is this one.
        let text = match text {
            "" => "127.0.0.1".to_owned(),
            text if text.starts_with(':') => format!("127.0.0.1{text}"),
            text => text.to_owned(),
        };
        let wrong = WrongAddress::Form("names no host and port");
        // A scheme of no default port, so that `:80` is told from none.
        let url = Url::parse(&format!("tcp://{text}")).map_err(|_| wrong.clone())?;
        if !url.path().is_empty() || url.query().is_some() || url.fragment().is_some() {
            return Err(WrongAddress::Form("has more than a host and a port"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(WrongAddress::Form("has a user, which `docker` does not know on `tcp://`"));
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Authority { host, port: url.port().unwrap_or(default_port) })
    }
}

impl Destination {
    fn parse(text: &str) -> Result<Destination, WrongAddress> {
        let url = Url::parse(text).map_err(|_| WrongAddress::Form("names no host"))?;
        if url.password().is_some() {
            return Err(WrongAddress::Form("has a password, which ssh does not take"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(WrongAddress::Form("has more than a user, a host, a port and a path"));
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or(WrongAddress::Form("names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let some = |text: &str| (!matches!(text, "" | "/")).then(|| text.to_owned());
        let (user, socket) = (some(url.username()), some(url.path()));
        Ok(Destination { user, host, port: url.port(), socket })
    }

    /// Returns the arguments of `ssh` that connect to the engine, those of the `docker` command.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["-o", "ConnectTimeout=30", "-T"].map(str::to_owned).into();
        if let Some(user) = &self.user {
            arguments.extend(["-l".to_owned(), user.clone()]);
        }
        if let Some(port) = self.port {
            arguments.extend(["-p".to_owned(), port.to_string()]);
        }
        arguments.extend(["--".to_owned(), self.host.clone(), "docker".to_owned()]);
        if let Some(socket) = &self.socket {
            arguments.extend(["--host".to_owned(), format!("unix://{socket}")]);
        }
        arguments.extend(["system".to_owned(), "dial-stdio".to_owned()]);
        arguments
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(to) => write!(f, "tcp://{to}"),
            Address::Https(to) => write!(f, "https://{to}"),
            Address::Ssh(to) => write!(f, "ssh://{to}"),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(self.socket.as_deref().unwrap_or(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match Address::parse(text) {
            Ok(address) => address.to_string(),
            Err(wrong) => format!("`{text}` {wrong}"),
        }
    }

    #[test]
    fn addresses_are_read_as_the_docker_command_reads_them() {
        for (text, address) in [
            ("unix:///var/run/docker.sock", "unix:///var/run/docker.sock"),
            ("unix:/var/run/docker.sock", "unix:///var/run/docker.sock"),
            ("tcp://docker:2376", "tcp://docker:2376"),
            ("tcp://docker:80/", "tcp://docker:80"),
            ("docker:2375", "tcp://docker:2375"),
            ("docker", "tcp://docker:2375"),
            ("10.0.0.3:2375", "tcp://10.0.0.3:2375"),
            ("tcp://:2377", "tcp://127.0.0.1:2377"),
            ("tcp://[::1]:2375", "tcp://[::1]:2375"),
            ("http://docker:2375", "tcp://docker:2375"),
            ("https://docker", "https://docker:2376"),
            (
                "ssh://me@host.example:22/run/docker.sock",
                "ssh://me@host.example:22/run/docker.sock",
            ),
            ("ssh://alias", "ssh://alias"),
        ] {
            assert_eq!(read(text), address);
        }
    }

    #[test]
    fn what_is_no_address_is_told_with_what_is_wrong() {
        let schemes = "those of an engine are unix, tcp, https and ssh";
        for (text, wrong) in [
            ("npipe:////./pipe/docker_engine", format!("has the scheme `npipe`; {schemes}")),
            ("fd://", format!("has the scheme `fd`; {schemes}")),
            ("unix://", "names no socket".to_owned()),
            ("/var/run/docker.sock", "is written `unix:///var/run/docker.sock`".to_owned()),
            ("tcp:/docker:2375", "is written `tcp://docker:2375`".to_owned()),
            ("tcp://docker:port", "names no host and port".to_owned()),
            ("tcp://docker:2375/path", "has more than a host and a port".to_owned()),
            ("ssh://me:secret@host", "has a password, which ssh does not take".to_owned()),
            ("ssh://", "names no host".to_owned()),
        ] {
            assert_eq!(read(text), format!("`{text}` {wrong}"));
        }
    }

    #[test]
    fn ssh_is_started_as_the_docker_command_does() {
        let arguments = |text: &str| match Address::parse(text).unwrap() {
            Address::Ssh(to) => to.arguments().join(" "),
            other => panic!("{other}"),
        };
        assert_eq!(
            arguments("ssh://host"),
            "-o ConnectTimeout=30 -T -- host docker system dial-stdio"
        );
        assert_eq!(
            arguments("ssh://me@host:2222/run/d.sock"),
            "-o ConnectTimeout=30 -T -l me -p 2222 -- host docker --host unix:///run/d.sock system \
             dial-stdio"
        );
    }
}
