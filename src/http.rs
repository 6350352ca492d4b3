//! The client for HTTP that everything here asks with.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::ClientBuilder;

use crate::proxy::{Proxies, WrongProxy};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum NoClient {
    /// `SSL_CERT_FILE` cannot be read.
    #[error("cannot read `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A variable names no proxy.
    #[error(transparent)]
    Proxy(WrongProxy),
    /// The process keeps from the network.
    #[error("{}", crate::offline::WHY)]
    Offline,
}

/// Begins a client that trusts the host's authorities and those of `SSL_CERT_FILE`, and goes by the
/// proxies of the environment.
pub(crate) fn client() -> Result<ClientBuilder, NoClient> {
    if crate::offline::is_on() {
        return Err(NoClient::Offline);
    }
    // An error says that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("imgforge/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(20))
        .read_timeout(Duration::from_secs(60));
    let named = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty());
    if let Some(path) = named.map(PathBuf::from) {
        let bytes = std::fs::read(&path).map_err(|source| NoClient::File { path, source })?;
        for certificate in reqwest::Certificate::from_pem_bundle(&bytes).unwrap_or_default() {
            builder = builder.add_root_certificate(certificate);
        }
    }
    Ok(Proxies::of_process().map_err(NoClient::Proxy)?.apply(builder))
}
