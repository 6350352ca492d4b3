//! The beginning of a connection with TLS, which names the host that is meant.

use std::io;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The most bytes that a beginning may have.
const LONGEST: usize = 64 << 10;

/// What a client says first.
pub(super) struct Hello {
    /// The host that it means, where it names one.
    pub name: Option<String>,
    /// What was read.
    pub bytes: Vec<u8>,
}

/// Reads what a client says first.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] where that is not TLS.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Hello> {
    let mut acceptor = Acceptor::default();
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 4096];
    while bytes.len() < LONGEST {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..count]);
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            acceptor.read_tls(&mut rest)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_owned);
                    return Ok(Hello { name, bytes });
                }
                Ok(None) => {}
                Err((error, _)) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "it begins with no TLS"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::Arc;

    pub(in super::super) fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn the_host_is_read_however_the_beginning_is_cut() {
        let bytes = hello("pypi.org");
        for cut in [1, 5, 6, 100, bytes.len()] {
            let mut from = tokio_util::io::StreamReader::new(futures_util::stream::iter(
                bytes
                    .chunks(cut)
                    .map(|piece| Ok::<_, io::Error>(bytes::Bytes::copy_from_slice(piece))),
            ));
            let read = read(&mut from).await.unwrap();
            assert_eq!(read.name.as_deref(), Some("pypi.org"), "{cut}");
            assert_eq!(read.bytes, bytes);
        }
        assert_eq!(read(&mut &hello("127.0.0.1")[..]).await.unwrap().name, None);
    }

    #[tokio::test]
    async fn what_is_no_tls_is_refused() {
        let other = read(&mut &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..]).await;
        assert_eq!(other.err().map(|error| error.kind()), Some(io::ErrorKind::InvalidData));
        assert!(read(&mut &hello("a")[..20]).await.is_err());
    }
}
