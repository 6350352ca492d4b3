//! Engines behind TLS, with certificates as the `docker` command lays them out, and engines that
//! are refused for what they are.

use std::path::Path;
use std::sync::Arc;

use imgforge::engine::Refusal;
use imgforge::engine::docker::DockerEngine;
use imgforge::engine::{Builder as _, EngineError, LayerStorage as _, Runner as _, SandboxEnd};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use crate::common::{Log, on_every_engine};
use crate::needs::{NotHere, not_here};
use crate::sandbox::sandbox;
use crate::scratch::Scratch;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key, both as PEM.
struct Pair {
    cert: rcgen::Certificate,
    key: KeyPair,
}

/// Makes the certificate of a server for `name`, or of a client.
fn signed(by: &Authority, name: Option<&str>) -> Pair {
    let mut params = CertificateParams::new(name.map(str::to_owned).as_slice()).unwrap();
    params.extended_key_usages = vec![match name {
        Some(_) => ExtendedKeyUsagePurpose::ServerAuth,
        None => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    let key = KeyPair::generate().unwrap();
    Pair { cert: params.signed_by(&key, by).unwrap(), key }
}

/// A certificate for loopback that signed itself, as `openssl req -x509` makes it.
fn signed_itself(last_year: i32) -> Pair {
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
    let key = KeyPair::generate().unwrap();
    Pair { cert: params.self_signed(&key).unwrap(), key }
}

/// Listens with TLS in front of an engine's socket; clients are asked for a certificate of `clients`.
async fn listen(socket: &str, server: &Pair, clients: Option<&Authority>) -> String {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::try_from(server.key.serialize_der()).unwrap();
    let config = builder.with_single_cert(vec![server.cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = socket.to_owned();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (acceptor, socket) = (acceptor.clone(), socket.clone());
            tokio::spawn(async move {
                let Ok(mut near) = acceptor.accept(near).await else { return };
                let mut far = UnixStream::connect(&socket).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    format!("tcp://{address}")
}

fn write(directory: &Path, ca: &str, client: Option<&Pair>) {
    std::fs::write(directory.join("ca.pem"), ca).unwrap();
    for file in ["cert.pem", "key.pem"] {
        let _ = std::fs::remove_file(directory.join(file));
    }
    if let Some(pair) = client {
        std::fs::write(directory.join("cert.pem"), pair.cert.pem()).unwrap();
        std::fs::write(directory.join("key.pem"), pair.key.serialize_pem()).unwrap();
    }
}

async fn connect(
    address: &str,
    certificates: &Path,
    owner: &str,
) -> Result<DockerEngine, EngineError> {
    let variable = |name: &str| match name {
        "DOCKER_HOST" => Some(address.to_owned()),
        "DOCKER_TLS_VERIFY" => Some("1".to_owned()),
        "DOCKER_CERT_PATH" => Some(certificates.display().to_string()),
        _ => None,
    };
    DockerEngine::connect(variable, owner).await
}

async fn refusal(address: &str, certificates: &Path) -> Refusal {
    match connect(address, certificates, "test").await {
        Err(EngineError::Unusable(refusal)) => refusal,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("connected"),
    }
}

#[test]
#[ignore = "needs an engine"]
fn an_engine_behind_tls_is_used_with_the_certificates_of_the_docker_command() {
    on_every_engine(|bench| async move {
        let Some(socket) = bench.socket() else {
            return not_here(NotHere::OtherEngine);
        };
        let authority = authority();
        let server = signed(&authority, Some("127.0.0.1"));
        let address = listen(socket, &server, Some(&authority)).await;
        let directory = Scratch::new();
        write(directory.path(), &authority.pem(), Some(&signed(&authority, None)));
        let engine = connect(&address, directory.path(), &bench.owner).await.unwrap();
        // A build holds a session beside its request.
        let dockerfile = format!("FROM {}\nRUN echo built > /built\n", bench.from());
        let log = Log::default();
        engine.build(&bench.build(&dockerfile, "tls"), &log).await.unwrap();
        let command = ["cat", "/built"].map(str::to_owned);
        assert_eq!(engine.run(&bench.name("tls"), &command, &log).await.unwrap(), 0);
        assert!(log.text().ends_with("built\n"), "{}", log.text());
        // The input of a sandbox ends while its output goes on.
        let (log, control) = (Log::default(), Log::default());
        let request = sandbox(&bench, "cat; echo out; sleep 1; echo control >&4; exit 3");
        let end = engine.run_script(&request, &log, &control).await.unwrap();
        assert_eq!(end, SandboxEnd::Exited(3));
        assert_eq!(log.text(), "out\n");
        assert!(control.text().starts_with("control\n"), "{}", control.text());
        engine.prune(true).await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn what_is_wrong_with_the_certificates_is_told_by_its_kind() {
    on_every_engine(|bench| async move {
        let Some(socket) = bench.socket() else {
            return not_here(NotHere::OtherEngine);
        };
        let (authority, stranger) = (authority(), authority());
        let (client, foreign) = (signed(&authority, None), signed(&stranger, None));
        let server = signed(&authority, Some("127.0.0.1"));
        let address = listen(socket, &server, Some(&authority)).await;
        let directory = Scratch::new();
        let path = directory.path();

        let error = refusal(&address, path).await;
        assert!(error.to_string().contains("ca.pem"), "{error}");
        write(path, &authority.pem(), None);
        let error = refusal(&address, path).await;
        assert!(matches!(error, Refusal::Unknown { sent: false, .. }), "{error:?}");
        write(path, &authority.pem(), Some(&foreign));
        let error = refusal(&address, path).await;
        assert!(matches!(error, Refusal::Unknown { sent: true, .. }), "{error:?}");
        write(path, &stranger.pem(), Some(&client));
        let error = refusal(&address, path).await;
        assert!(matches!(error, Refusal::Untrusted { .. }), "{error:?}");

        write(path, &authority.pem(), Some(&client));
        std::fs::remove_file(path.join("key.pem")).unwrap();
        let error = refusal(&address, path).await;
        assert!(error.to_string().contains("key.pem"), "{error}");
        std::fs::write(path.join("key.pem"), foreign.key.serialize_pem()).unwrap();
        let error = refusal(&address, path).await;
        assert!(matches!(error, Refusal::Key { .. }), "{error:?}");
        std::fs::write(path.join("key.pem"), "no key").unwrap();
        let error = refusal(&address, path).await;
        assert!(matches!(error, Refusal::Empty { .. }), "{error:?}");

        let elsewhere = listen(socket, &signed(&authority, Some("10.9.8.7")), None).await;
        write(path, &authority.pem(), None);
        let error = refusal(&elsewhere, path).await;
        assert!(matches!(error, Refusal::Untrusted { .. }), "{error:?}");

        // Without the question for TLS, and the question where nobody speaks it.
        let plain = |name: &str| (name == "DOCKER_HOST").then(|| address.clone());
        let error = DockerEngine::connect(plain, "test").await.err();
        assert!(error.is_some(), "connected without TLS");
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let deaf = format!("tcp://{}", port.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = port.accept().await {
                use tokio::io::AsyncWriteExt as _;
                let _ = near.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            }
        });
        let error = refusal(&deaf, path).await;
        assert!(matches!(error, Refusal::NoTls { .. }), "{error:?}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_certificate_that_signed_itself_is_trusted_where_it_is_named_and_until_it_ends() {
    on_every_engine(|bench| async move {
        let Some(socket) = bench.socket() else {
            return not_here(NotHere::OtherEngine);
        };
        let directory = Scratch::new();
        let server = signed_itself(4000);
        let address = listen(socket, &server, None).await;
        write(directory.path(), &server.cert.pem(), None);
        connect(&address, directory.path(), "test").await.unwrap();
        write(directory.path(), &signed_itself(4000).cert.pem(), None);
        let error = refusal(&address, directory.path()).await;
        assert!(matches!(error, Refusal::Untrusted { .. }), "{error:?}");
        let server = signed_itself(2020);
        let address = listen(socket, &server, None).await;
        write(directory.path(), &server.cert.pem(), None);
        let error = refusal(&address, directory.path()).await;
        assert!(matches!(error, Refusal::Untrusted { .. }), "{error:?}");
    });
}
