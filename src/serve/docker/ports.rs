//! Published ports: a listener on the host, and a connection within the container for each that comes.
//!
//! The container needs no route out for that: the engine connects from inside.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use bollard_stubs::models::ContainerCreateBody;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::engine::SandboxSession;
use crate::session::ports;

use super::answer::Refusal;

/// A port that is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    /// The port in the container.
    inner: u16,
    address: IpAddr,
    /// The ports of the host of which one is taken; 0 is any.
    outer: std::ops::RangeInclusive<u16>,
}

/// A port that is published.
#[derive(Debug)]
struct Published {
    inner: u16,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Published {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The ports of a container.
pub(super) struct Ports {
    wanted: Vec<Wanted>,
    /// Such as `80/tcp`: what may be published.
    exposed: Vec<String>,
    published: Mutex<Vec<Published>>,
}

impl Ports {
    /// Reads which ports are to be published, and says which cannot be.
    ///
    /// # Errors
    /// Where an address or a port is none.
    pub(super) fn of(
        body: &ContainerCreateBody,
        warnings: &mut Vec<String>,
    ) -> Result<Ports, Refusal> {
        let host = body.host_config.clone().unwrap_or_default();
        let mut exposed = body.exposed_ports.clone().unwrap_or_default();
        let mut bindings: Vec<_> = host.port_bindings.unwrap_or_default().into_iter().collect();
        if host.publish_all_ports == Some(true) {
            let others = exposed.iter().filter(|port| bindings.iter().all(|(own, _)| own != *port));
            let others: Vec<_> = others.map(|port| (port.clone(), None)).collect();
            bindings.extend(others);
        }
        let mut wanted = Vec::new();
        for (port, places) in bindings {
            if !exposed.contains(&port) {
                exposed.push(port.clone());
            }
            let (number, protocol) = port.split_once('/').unwrap_or((&port, "tcp"));
            if protocol != "tcp" {
                warnings.push(format!("port {port} is not published: imgforge publishes tcp only"));
                continue;
            }
            let inner = number.parse().map_err(|_| Refusal::bad(format!("invalid port {port}")))?;
            let mut places = places.unwrap_or_default();
            if places.is_empty() {
                places.push(bollard_stubs::models::PortBinding::default());
            }
            for place in places {
                let address = address(place.host_ip.as_deref().unwrap_or_default())?;
                let outer = range(place.host_port.as_deref().unwrap_or_default())?;
                wanted.push(Wanted { inner, address, outer });
            }
        }
        exposed.sort();
        Ok(Ports { wanted, exposed, published: Mutex::default() })
    }

    /// Publishes them.
    ///
    /// # Errors
    /// Where a port of the host is taken: none is published then.
    pub(super) async fn publish(&self, session: &Arc<dyn SandboxSession>) -> Result<(), Refusal> {
        let mut published = Vec::new();
        for wanted in &self.wanted {
            let listener = listen(wanted).await?;
            let failed = |error| Refusal::failed(format!("cannot publish a port: {error}"));
            let address = listener.local_addr().map_err(failed)?;
            let session = Arc::downgrade(session);
            let task =
                tokio::spawn(ports::serve(listener, wanted.inner, move || session.upgrade()));
            published.push(Published { inner: wanted.inner, address, task });
        }
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = published;
        Ok(())
    }

    /// Withdraws them, and ends their connections.
    pub(super) fn withdraw(&self) {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Returns them as `NetworkSettings.Ports` has them.
    pub(super) fn settings(&self) -> Value {
        let mut ports: BTreeMap<String, Value> =
            self.exposed.iter().map(|port| (port.clone(), Value::Null)).collect();
        for one in self.published.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let place = json!({
                "HostIp": one.address.ip().to_string(),
                "HostPort": one.address.port().to_string(),
            });
            match ports.entry(format!("{}/tcp", one.inner)).or_default() {
                Value::Array(places) => places.push(place),
                other => *other = json!([place]),
            }
        }
        json!(ports)
    }

    /// Returns them as the list of containers has them.
    pub(super) fn listed(&self) -> Value {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = published.iter().map(|one| {
            json!({
                "IP": one.address.ip().to_string(),
                "PrivatePort": one.inner,
                "PublicPort": one.address.port(),
                "Type": "tcp",
            })
        });
        Value::Array(rows.collect())
    }
}

/// Reads the address to listen on. Without one it is loopback: a container is not for the network
/// unless that is asked for.
fn address(text: &str) -> Result<IpAddr, Refusal> {
    if text.is_empty() {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    text.parse().map_err(|_| Refusal::bad(format!("invalid HostIp: {text}")))
}

/// Reads a port or a range of ports of the host.
fn range(text: &str) -> Result<std::ops::RangeInclusive<u16>, Refusal> {
    let wrong = |_| Refusal::bad(format!("invalid HostPort: {text}"));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match text.is_empty() {
        true => Ok(0..=0),
        false => Ok(first.parse().map_err(wrong)?..=last.parse().map_err(wrong)?),
    }
}

async fn listen(wanted: &Wanted) -> Result<TcpListener, Refusal> {
    let mut last = None;
    for port in wanted.outer.clone() {
        match TcpListener::bind((wanted.address, port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some((port, error)),
        }
    }
    let (port, error) = last.map_or((0, "no port".to_owned()), |(port, error)| {
        let taken = error.kind() == std::io::ErrorKind::AddrInUse;
        (port, if taken { "port is already allocated".to_owned() } else { error.to_string() })
    });
    Err(Refusal::failed(format!(
        "driver failed programming external connectivity: Bind for {}:{port} failed: {error}",
        wanted.address
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_without_an_address_is_published_on_loopback() {
        assert_eq!(address(""), Ok(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(address("0.0.0.0"), Ok(Ipv4Addr::UNSPECIFIED.into()));
        assert!(address("here").is_err());
        assert_eq!(range(""), Ok(0..=0));
        assert_eq!(range("80"), Ok(80..=80));
        assert_eq!(range("80-82"), Ok(80..=82));
        assert!(range("http").is_err());
    }
}
