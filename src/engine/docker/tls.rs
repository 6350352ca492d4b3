//! TLS to an engine: certificates as the `docker` command lays them out in a directory.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, InconsistentKeys, RootCertStore,
    SignatureScheme,
};
use x509_cert::der::Decode as _;

use super::super::client_config::FileFault;
use crate::engine::refusal::Refusal;

/// Whom to believe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// The authorities of `ca.pem`, which has to be there.
    Named,
    /// Those of `ca.pem`, or this host's where it is not there.
    NamedOrHosts,
    /// Everybody, as with `docker --tls` and contexts that skip the verification.
    Everybody,
}

/// How to speak TLS with an engine.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    /// The client's side.
    pub config: Arc<ClientConfig>,
    /// Where the files are.
    pub directory: PathBuf,
    /// Whether there is a certificate to show.
    pub shows_certificate: bool,
}

impl Tls {
    /// Reads `ca.pem`, `cert.pem` and `key.pem`. Without the latter two no certificate is shown.
    pub(super) fn read(directory: &Path, trust: Trust) -> Result<Tls, Refusal> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = verifier(directory, trust, &provider)?;
        let key = client_key(directory, &provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let shows_certificate = key.is_some();
        let config = match key {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        Ok(Tls { config: Arc::new(config), directory: directory.to_owned(), shows_certificate })
    }

    /// Believes everybody and shows nothing: to find out whether TLS is spoken.
    pub(super) fn blind() -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Everybody(provider)))
            .with_no_client_auth();
        Arc::new(config)
    }
}

/// Reads a file; `None` where there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Refusal> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileFault::Unreadable { path: path.to_owned(), source }.into()),
    }
}

fn missing(path: PathBuf) -> Refusal {
    FileFault::Unreadable { path, source: rustix::io::Errno::NOENT.into() }.into()
}

/// Reads the certificates of a file; there is at least one.
fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Refusal> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| Refusal::Empty { path: path.to_owned(), what: "certificate" })
}

fn verifier(
    directory: &Path,
    trust: Trust,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Refusal> {
    if trust == Trust::Everybody {
        return Ok(Arc::new(Everybody(provider.clone())));
    }
    let path = directory.join("ca.pem");
    let named = match read(&path)? {
        Some(bytes) => certificates(&path, &bytes)?,
        None if trust == Trust::Named => return Err(missing(path)),
        None => Vec::new(),
    };
    let mut roots = RootCertStore::empty();
    if named.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    } else {
        roots.add_parsable_certificates(named.iter().cloned());
    }
    let built = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build();
    let Ok(authorities) = built else {
        return Err(Refusal::Empty { path, what: "certificate of an authority" });
    };
    Ok(Arc::new(Named { authorities, named }))
}

/// Reads the certificate that is shown, and its key.
fn client_key(
    directory: &Path,
    provider: &CryptoProvider,
) -> Result<Option<CertifiedKey>, Refusal> {
    let (cert_path, key_path) = (directory.join("cert.pem"), directory.join("key.pem"));
    let (cert, key) = match (read(&cert_path)?, read(&key_path)?) {
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(missing(cert_path)),
        (Some(_), None) => return Err(missing(key_path)),
        (Some(cert), Some(key)) => (cert, key),
    };
    let chain = certificates(&cert_path, &cert)?;
    let Ok(key) = PrivateKeyDer::from_pem_slice(&key) else {
        return Err(Refusal::Empty { path: key_path, what: "private key without a passphrase" });
    };
    let unusable = |source| Refusal::Key { path: key_path.clone(), source };
    let key = provider.key_provider.load_private_key(key).map_err(unusable)?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        Err(error @ rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(unusable(error))
        }
        // What this side does not understand of its own certificate, the engine may.
        _ => Ok(Some(pair)),
    }
}

/// Believes authorities, and a server's own certificate where it is among them.
#[derive(Debug)]
struct Named {
    authorities: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |by: &WebPkiServerVerifier| {
            by.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        // A certificate that signed itself is no authority's for `webpki`; for OpenSSL and Go it is.
        if !self.named.contains(end_entity) {
            return verify(&self.authorities);
        }
        rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        check_time(end_entity, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

fn check_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let parsed = x509_cert::Certificate::from_der(certificate);
    let parsed = parsed.map_err(|_| CertificateError::BadEncoding)?;
    let validity = parsed.tbs_certificate().validity();
    let now = now.as_secs();
    if now < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet);
    }
    if now > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired);
    }
    Ok(())
}

/// Believes everybody who has the key of the certificate that is shown.
#[derive(Debug)]
struct Everybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Everybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
