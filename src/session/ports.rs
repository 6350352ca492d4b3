//! Published ports: a listener on this machine, and a connection within the container for each that
//! comes. The container needs no route out for that.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::engine::SandboxSession;

/// A port of a container, and where it is to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// On this machine; port 0 is any that is free.
    pub address: SocketAddr,
    /// In the container.
    pub port: u16,
}

/// Something that says of no port where it is to be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no port: write 8000, 9000:8000 or 127.0.0.1:9000:8000")]
pub struct NoPort(String);

impl FromStr for Publish {
    type Err = NoPort;

    /// Reads `PORT`, `HOST_PORT:PORT` or `ADDRESS:HOST_PORT:PORT`. Without an address it is loopback.
    fn from_str(text: &str) -> Result<Publish, NoPort> {
        let wrong = || NoPort(text.to_owned());
        let number = |text: &str| text.parse::<u16>().map_err(|_| wrong());
        let loopback = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into();
        let (address, port) = match text.rsplit_once(':') {
            None => (loopback(0), number(text)?),
            Some((outer, port)) => {
                let address = match outer.parse::<u16>() {
                    Ok(outer) => loopback(outer),
                    Err(_) => outer.parse().map_err(|_| wrong())?,
                };
                (address, number(port)?)
            }
        };
        if port == 0 { Err(wrong()) } else { Ok(Publish { address, port }) }
    }
}

/// Takes connections and leads them to a port of a container, as long as there is one.
pub(crate) async fn serve(
    listener: TcpListener,
    port: u16,
    session: impl Fn() -> Option<Arc<dyn SandboxSession>>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((outer, _)) = accepted else {
                    // Such as no descriptor left: not for ever.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let Some(session) = session() else { return };
                connections.spawn(lead(outer, session, port));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Leads one connection; where nothing listens in the container, it ends.
async fn lead(mut outer: TcpStream, session: Arc<dyn SandboxSession>, port: u16) {
    let connected = session.connect(port).await;
    drop(session);
    if let Ok(mut inner) = connected {
        let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_published_on_loopback_unless_an_address_is_named() {
        for (text, address, port) in [
            ("8000", "127.0.0.1:0", 8000),
            ("9000:8000", "127.0.0.1:9000", 8000),
            ("0.0.0.0:9000:8000", "0.0.0.0:9000", 8000),
            ("[::1]:0:80", "[::1]:0", 80),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(text.parse(), Ok(Publish { address, port }), "{text}");
        }
        for text in ["", "x", "0", "1:0", "a:1:2", "70000", "1:2:3", ":80", "80:"] {
            assert_eq!(text.parse::<Publish>(), Err(NoPort(text.to_owned())), "{text}");
        }
    }
}
