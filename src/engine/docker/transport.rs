//! The way to an engine: a socket, a port, TLS or ssh, under one client for HTTP.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::upgrade::Upgraded;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::net::sockopt;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::ssh;
use super::tls::Tls;
use crate::engine::address::{Authority, Destination};

/// How long a connection may take to come to be.
const CONNECT: Duration = Duration::from_secs(20);

/// After how long without a word the other side is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long a login over ssh is kept for the next request.
const KEEP_LOGIN: Duration = Duration::from_secs(60);

/// How an engine is reached.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// A socket on this host.
    Unix(PathBuf),
    /// A port.
    Tcp(Authority),
    /// A port, with TLS.
    Tls(Authority, Tls),
    /// The ssh program.
    Ssh(Destination),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoConnection {
    /// The socket or the port did not answer.
    #[error(transparent)]
    Io(io::Error),
    /// TLS did not come to be.
    #[error(transparent)]
    Tls(rustls::Error),
    /// The ssh program could not be started.
    #[error(transparent)]
    NoSsh(io::Error),
}

/// An answer of the engine that is no success.
#[derive(Debug, thiserror::Error)]
#[error("{status}: {body}")]
pub(super) struct NoSuccess {
    /// What it answered with.
    pub status: StatusCode,
    /// What it says.
    pub body: String,
}

impl Way {
    /// Returns the client of the API; nothing is asked yet.
    pub(super) fn docker(&self, timeout: Duration) -> Result<Docker, bollard::errors::Error> {
        let client = self.client();
        let transport = move |request: BollardRequest| {
            let answer = client.request(request);
            async move { Ok(answer.await?) }
        };
        let host = Some(format!("http://{}", self.host()));
        let docker =
            Docker::connect_with_custom_transport(transport, host, 0, API_DEFAULT_VERSION)?;
        Ok(docker.with_timeout(timeout))
    }

    /// Asks for what the API's client does not read, and returns the body of a success; another
    /// answer is a [`NoSuccess`].
    pub(super) async fn get(
        &self,
        path: &str,
    ) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
        let url = format!("http://{}{path}", self.host()).parse()?;
        let answer = self.client::<Empty<Bytes>>().get(url).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        match status.is_success() {
            true => Ok(body),
            false => {
                let body = String::from_utf8_lossy(&body).into_owned();
                Err(NoSuccess { status, body }.into())
            }
        }
    }

    /// Posts a request, with a JSON document or nothing, after which the connection is the caller's.
    pub(super) async fn take_over(
        &self,
        path: &str,
        document: Bytes,
    ) -> Result<TokioIo<Upgraded>, Box<dyn std::error::Error + Send + Sync>> {
        let request = Request::post(format!("http://{}{path}", self.host()))
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "tcp")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(document))?;
        let answer = self.client::<Full<Bytes>>().request(request).await?;
        let status = answer.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let body = answer.into_body().collect().await?.to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            return Err(NoSuccess { status, body }.into());
        }
        Ok(TokioIo::new(hyper::upgrade::on(answer).await?))
    }

    /// Returns the host that requests name.
    fn host(&self) -> String {
        match self {
            Way::Unix(_) | Way::Ssh(_) => "docker".to_owned(),
            Way::Tcp(to) | Way::Tls(to, _) => to.to_string(),
        }
    }

    fn client<B>(&self) -> Client<Connector, B>
    where
        B: hyper::body::Body + Send,
        B::Data: Send,
    {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(KEEP_LOGIN);
        if !matches!(self, Way::Ssh(_)) {
            builder.pool_max_idle_per_host(0);
        }
        builder.build(Connector(Arc::new(self.clone())))
    }

    async fn connect(&self) -> Result<Stream, NoConnection> {
        let stream: Box<dyn Duplex> = match self {
            Way::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(NoConnection::Io)?),
            Way::Tcp(to) => Box::new(dial(to).await?),
            Way::Tls(to, tls) => Box::new(dial_tls(to, tls.config.clone()).await?),
            Way::Ssh(to) => Box::new(ssh::connect(to).map_err(NoConnection::NoSsh)?),
        };
        Ok(Stream(TokioIo::new(stream)))
    }
}

/// Says that nothing came in time.
pub(super) fn late(limit: Duration) -> io::Error {
    let text = format!("no answer within {} s", limit.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

async fn dial(to: &Authority) -> Result<TcpStream, NoConnection> {
    let connect = TcpStream::connect((to.host.as_str(), to.port));
    let connected = tokio::time::timeout(CONNECT, connect).await.map_err(|_| late(CONNECT));
    let stream = connected.and_then(|connected| connected).map_err(NoConnection::Io)?;
    // An engine that is gone without a word is noticed: a build is one request.
    let kept = || -> io::Result<()> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, KEEP_ALIVE)?;
        Ok(sockopt::set_tcp_keepintvl(&stream, KEEP_ALIVE)?)
    };
    kept().map_err(NoConnection::Io)?;
    Ok(stream)
}

/// Opens a connection with TLS.
pub(super) async fn dial_tls(
    to: &Authority,
    config: Arc<ClientConfig>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, NoConnection> {
    let name = ServerName::try_from(to.host.clone())
        .map_err(|error| NoConnection::Io(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let stream = dial(to).await?;
    let connect = TlsConnector::from(config).connect(name, stream);
    let connected = tokio::time::timeout(CONNECT, connect).await.map_err(|_| late(CONNECT));
    connected.and_then(|connected| connected).map_err(|error| {
        match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
            Some(of_tls) => NoConnection::Tls(of_tls.clone()),
            None => NoConnection::Io(error),
        }
    })
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Makes connections for the client.
#[derive(Clone)]
struct Connector(Arc<Way>);

impl tower_service::Service<hyper::Uri> for Connector {
    type Response = Stream;
    type Error = NoConnection;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, NoConnection>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoConnection>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: hyper::Uri) -> Self::Future {
        let way = self.0.clone();
        Box::pin(async move { way.connect().await })
    }
}

/// A connection, of whichever kind.
struct Stream(TokioIo<Box<dyn Duplex>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
