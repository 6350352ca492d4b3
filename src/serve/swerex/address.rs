//! Where the server may listen: on this machine alone.

use std::net::SocketAddr;
use std::str::FromStr;

/// An address that only this machine reaches; port 0 takes a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopbackAddress(SocketAddr);

/// What is no such address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLoopback {
    /// It is no address at all.
    #[error("`{0}` is no address: write it as 127.0.0.1:8000, or with port 0 for a free one")]
    NoAddress(String),
    /// Others can reach it.
    #[error(
        "`{0}` can be reached from other machines: whoever has a key could run commands over it, and keys \
         travel in the clear; take 127.0.0.1"
    )]
    Reachable(SocketAddr),
}

impl LoopbackAddress {
    /// Returns it as an address to listen on.
    pub fn socket(self) -> SocketAddr {
        self.0
    }
}

impl Default for LoopbackAddress {
    /// A free port.
    fn default() -> LoopbackAddress {
        LoopbackAddress(SocketAddr::from(([127, 0, 0, 1], 0)))
    }
}

impl std::fmt::Display for LoopbackAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for LoopbackAddress {
    type Err = NotLoopback;

    fn from_str(text: &str) -> Result<LoopbackAddress, NotLoopback> {
        let address: SocketAddr =
            text.parse().map_err(|_| NotLoopback::NoAddress(text.to_owned()))?;
        match address.ip().is_loopback() {
            true => Ok(LoopbackAddress(address)),
            false => Err(NotLoopback::Reachable(address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine_are_taken() {
        for text in ["127.0.0.1:0", "127.9.9.9:8000", "[::1]:8000"] {
            assert_eq!(text.parse::<LoopbackAddress>().unwrap().to_string(), text);
        }
        for text in ["0.0.0.0:8000", "192.168.1.2:1", "[::]:1", "[::ffff:127.0.0.1]:1"] {
            let refused = text.parse::<LoopbackAddress>().unwrap_err();
            assert!(matches!(refused, NotLoopback::Reachable(_)), "{text}");
        }
        for text in ["", "8000", "localhost:8000", "127.0.0.1", "http://127.0.0.1:1"] {
            let refused = text.parse::<LoopbackAddress>().unwrap_err();
            assert_eq!(refused, NotLoopback::NoAddress(text.to_owned()));
        }
    }
}
