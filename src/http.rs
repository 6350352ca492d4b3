//! The client for HTTP that everything here asks with.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::ClientBuilder;

/// Begins a client that trusts the host's authorities and those of `SSL_CERT_FILE`.
///
/// # Errors
/// That file, where it cannot be read.
pub(crate) fn client() -> Result<ClientBuilder, (PathBuf, std::io::Error)> {
    // An error says that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("imgforge/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(20))
        .read_timeout(Duration::from_secs(60));
    if let Some(path) = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from) {
        let bytes = std::fs::read(&path).map_err(|error| (path, error))?;
        for certificate in reqwest::Certificate::from_pem_bundle(&bytes).unwrap_or_default() {
            builder = builder.add_root_certificate(certificate);
        }
    }
    Ok(builder)
}
