//! Ways out of this machine, for whoever may not go by itself: directly, or by the proxy that the
//! environment of this process names.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service as _;

use crate::proxy::Proxies;

/// How hosts are reached.
pub(super) struct Way {
    proxies: Matcher,
}

/// Why a host is not reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoWay {
    /// Its name leads to this machine, or to a network that is not everybody's.
    #[error("`{0}` leads to a private address")]
    Private(String),
    /// It, or the proxy before it, is not there.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Way {
    /// Goes as the environment says.
    pub(super) fn new(proxies: &Proxies) -> Way {
        Way { proxies: proxies.matcher() }
    }

    /// Connects to a port of a host, by its name, for bytes of any kind.
    pub(super) async fn connect(
        &self,
        host: &str,
        port: u16,
        reach: Reach,
    ) -> Result<TcpStream, NoWay> {
        let target = uri("https", host, port)?;
        match self.proxies.intercept(&target) {
            None => directly(host, port, reach).await,
            Some(proxy) => Ok(through(&proxy, target).await?),
        }
    }

    /// Connects for requests of HTTP to a host. Where a proxy takes such, it is connected to, and is to be
    /// asked by the whole address: what it wants to be told of us, if anything, comes along.
    pub(super) async fn connect_for_requests(
        &self,
        host: &str,
        port: u16,
        reach: Reach,
    ) -> Result<(TcpStream, Option<Asked>), NoWay> {
        let target = uri("http", host, port)?;
        let Some(proxy) = self.proxies.intercept(&target) else {
            return Ok((directly(host, port, reach).await?, None));
        };
        if proxy.uri().scheme_str() != Some("http") {
            return Ok((through(&proxy, target).await?, None));
        }
        let address = proxy.uri();
        let host = address.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, address.port_u16().unwrap_or(80))).await?;
        Ok((stream, Some(Asked { password: proxy.basic_auth().cloned() })))
    }
}

/// A proxy that takes requests.
pub(super) struct Asked {
    /// For `Proxy-Authorization`.
    pub password: Option<HeaderValue>,
}

fn uri(scheme: &str, host: &str, port: u16) -> io::Result<Uri> {
    let text = format!("{scheme}://{host}:{port}/");
    text.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Connects through a proxy, which looks the name up.
async fn through(proxy: &Intercept, target: Uri) -> io::Result<TcpStream> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| io::Error::other(error);
    let connected = match proxy.uri().scheme_str() {
        Some("http") => {
            let mut tunnel = Tunnel::new(proxy.uri().clone(), connector);
            if let Some(password) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(password.clone());
            }
            tunnel.call(target).await.map_err(|error| failed(error.into()))
        }
        Some("socks5h" | "socks5") => {
            let mut socks = SocksV5::new(proxy.uri().clone(), connector);
            if let Some((user, password)) = proxy.raw_auth() {
                socks = socks.with_auth(user.to_owned(), password.to_owned());
            }
            socks.call(target).await.map_err(|error| failed(error.into()))
        }
        other => {
            let other = other.unwrap_or_default();
            let why = format!("a proxy that speaks {other} is not used for sessions");
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
    };
    connected.map(TokioIo::into_inner)
}

/// Connects to an address that a name has and that may be reached.
async fn directly(host: &str, port: u16, reach: Reach) -> Result<TcpStream, NoWay> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    let open: Vec<SocketAddr> =
        found.iter().copied().filter(|address| reach.has(address.ip())).collect();
    if open.is_empty() && !found.is_empty() {
        return Err(NoWay::Private(host.to_owned()));
    }
    Ok(TcpStream::connect(&open[..]).await?)
}

/// Which addresses a name may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Those of the internet.
    Internet,
    /// Those of private networks as well, such as a mirror has.
    Networks,
}

impl Reach {
    fn has(self, address: IpAddr) -> bool {
        is_everybodys(address) || self == Reach::Networks && is_of_a_network(address)
    }
}

/// Tells whether an address is one of a private network: neither of this machine nor of what only it sees.
fn is_of_a_network(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            address.is_private() || a == 100 && (64..128).contains(&b)
        }
        IpAddr::V6(address) => address.segments()[0] & 0xfe00 == 0xfc00,
    }
}

/// Tells whether an address is one of the internet: a name that leads elsewhere would open this machine
/// and its networks, the services of a cloud that know its keys among them.
fn is_everybodys(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_everybodys_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped().or(embedded(address)) {
            Some(address) => is_everybodys_v4(address),
            // 2000::/3 is what was given out, and 2001::/32 stands for addresses of IPv4, in a code.
            None => {
                let [first, second, ..] = address.segments();
                first & 0xe000 == 0x2000 && (first, second) != (0x2001, 0)
            }
        },
    }
}

fn is_everybodys_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_multicast()
        || a == 0
        || a >= 240
        // Of providers, of tests, of protocols.
        || a == 100 && (64..128).contains(&b)
        || a == 198 && (b == 18 || b == 19)
        || a == 192 && b == 0 && c == 0)
}

/// Returns the address of IPv4 that one of IPv6 stands for: NAT64 and 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = address.octets();
    match octets {
        [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] => {
            Some(Ipv4Addr::new(a, b, c, d))
        }
        [0x20, 0x02, a, b, c, d, ..] => Some(Ipv4Addr::new(a, b, c, d)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_and_of_private_networks_are_nobodys_elses() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "fe80::1",
            "fd00::1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2001::1",
        ] {
            assert!(!is_everybodys(address.parse().unwrap()), "{address}");
        }
        for (address, has) in [
            ("10.1.2.3", true),
            ("192.168.1.1", true),
            ("100.64.0.1", true),
            ("fd00::1", true),
            ("::ffff:10.0.0.1", true),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("::ffff:169.254.169.254", false),
            ("0.0.0.0", false),
            ("::1", false),
            ("fe80::1", false),
            ("64:ff9b::a00:1", false),
        ] {
            assert_eq!(Reach::Networks.has(address.parse().unwrap()), has, "{address}");
        }
        for address in ["151.101.0.223", "2a04:4e42::223", "64:ff9b::9765:df"] {
            assert!(is_everybodys(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_leads_nowhere() {
        let way = Way::new(&Proxies::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for reach in [Reach::Internet, Reach::Networks] {
            let led = way.connect("localhost", port, reach).await;
            assert!(matches!(led, Err(NoWay::Private(_))), "{led:?}");
        }
    }
}
