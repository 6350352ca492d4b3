//! The way out of a session that has no network: a proxy on its loopback that reaches the hosts of a list
//! and no other.
//!
//! There is no route out of the container, so that whatever does not ask the proxy reaches nothing. Names
//! are looked up outside. A connection with TLS has to name the host that the proxy was asked for: the
//! bytes are passed on as they are. The list may change at any time; connections that it does not permit
//! any more end.

mod allow;
mod hello;
mod proxy;
mod way;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::proxy::Proxies;

pub use allow::{AllowList, Allowed, NoHost};
use way::Way;

/// The port of the proxy on the loopback of the container.
pub const PORT: u16 = 3128;

/// How many hosts are remembered that were denied.
const REMEMBERED: usize = 1000;

/// The proxy of a session.
pub struct Egress {
    allowed: watch::Sender<AllowList>,
    denied: Mutex<BTreeMap<String, u64>>,
    way: Way,
}

/// What a session may reach, and what it tried beside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressReport {
    /// The hosts that may be reached.
    pub allowed: AllowList,
    /// The hosts that were denied, with their ports, and how often; a thousand of them are remembered.
    pub denied: BTreeMap<String, u64>,
}

impl Egress {
    /// Reaches these hosts, by the proxies that lead out of this process.
    pub(crate) fn new(allowed: AllowList, proxies: &Proxies) -> Arc<Egress> {
        Arc::new(Egress {
            allowed: watch::channel(allowed).0,
            denied: Mutex::default(),
            way: Way::new(proxies),
        })
    }

    /// Lets these hosts be reached, and no others from now on.
    pub fn allow(&self, allowed: AllowList) {
        self.allowed.send_replace(allowed);
    }

    /// Tells what may be reached, and what was denied.
    pub fn report(&self) -> EgressReport {
        let denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner).clone();
        EgressReport { allowed: self.allowed.borrow().clone(), denied }
    }

    fn deny(&self, host: &str, port: u16) {
        let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("{host}:{port}");
        if denied.len() < REMEMBERED || denied.contains_key(&name) {
            *denied.entry(name).or_default() += 1;
        }
    }

    /// The variables that lead programs to the proxy.
    pub fn variables() -> BTreeMap<String, String> {
        let proxy = format!("http://127.0.0.1:{PORT}");
        let mut variables = BTreeMap::new();
        for (name, value) in [
            ("http_proxy", proxy.as_str()),
            ("https_proxy", &proxy),
            ("no_proxy", "localhost,127.0.0.1,::1"),
        ] {
            variables.insert(name.to_owned(), value.to_owned());
            variables.insert(name.to_ascii_uppercase(), value.to_owned());
        }
        variables
    }
}
