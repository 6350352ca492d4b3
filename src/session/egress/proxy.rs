//! The proxy: `CONNECT` for TLS, and requests of HTTP by their whole address.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderName, PROXY_AUTHORIZATION, TE, TRAILER, UPGRADE};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::way::{Asked, NoWay, Reach};
use super::{Egress, hello};

type Body = BoxBody<Bytes, hyper::Error>;

/// Headers that are meant for the proxy.
const OF_PROXY: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
];

impl Egress {
    /// Serves the connections that come, for ever.
    pub(in crate::session) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(self.clone().connection(stream))),
                    // Of descriptors, for example; others go on.
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(move |request| {
            let egress = self.clone();
            async move { Ok::<_, Infallible>(egress.answer(request).await) }
        });
        let server = hyper::server::conn::http1::Builder::new();
        // A client that speaks something else, or goes, is not at fault.
        let _ = server.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let is_tunnel = request.method() == Method::CONNECT;
        let Some((host, port)) = target(request.uri(), is_tunnel) else {
            return refused(StatusCode::BAD_REQUEST, "this is a proxy: name the whole address");
        };
        let (permitted, named) = {
            let allowed = self.allowed.borrow();
            (allowed.permits(&host, port), allowed.names(&host, port))
        };
        if !permitted {
            self.deny(&host, port);
            let why = format!("{host}:{port} may not be reached from this session");
            return refused(StatusCode::FORBIDDEN, &why);
        }
        let reach = if named { Reach::Networks } else { Reach::Internet };
        let answered = match is_tunnel {
            true => self.tunnel(request, (host.clone(), port), reach).await,
            false => self.forward(request, (host.clone(), port), reach).await,
        };
        answered.unwrap_or_else(|error| match error {
            NoWay::Private(_) => {
                self.deny(&host, port);
                refused(StatusCode::FORBIDDEN, &error.to_string())
            }
            NoWay::Io(_) => refused(
                StatusCode::BAD_GATEWAY,
                &format!("cannot reach {host}:{port}: {}", crate::causes::in_one_line(&error)),
            ),
        })
    }

    /// Answers a `CONNECT`, and passes bytes on once the client has named the same host again.
    async fn tunnel(
        self: &Arc<Self>,
        request: Request<Incoming>,
        (host, port): (String, u16),
        reach: Reach,
    ) -> Result<Response<Body>, NoWay> {
        let outer = self.way.connect(&host, port, reach).await?;
        let egress = self.clone();
        tokio::spawn(async move {
            if let Ok(upgraded) = hyper::upgrade::on(request).await {
                // Whoever ends it first is not at fault.
                let _ = egress.pass(TokioIo::new(upgraded), outer, &host, port).await;
            }
        });
        Ok(Response::new(body("")))
    }

    async fn pass(
        &self,
        mut inner: TokioIo<hyper::upgrade::Upgraded>,
        mut outer: TcpStream,
        host: &str,
        port: u16,
    ) -> io::Result<()> {
        let hello = hello::read(&mut inner).await;
        let named = |hello: &hello::Hello| {
            let plain = host.strip_suffix('.').unwrap_or(host);
            hello.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(plain))
        };
        let hello = match hello {
            Ok(hello) if named(&hello) => hello,
            Ok(hello) => {
                self.deny(hello.name.as_deref().unwrap_or("(no name)"), port);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.deny(host, port);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        outer.write_all(&hello.bytes).await?;
        tokio::select! {
            copied = tokio::io::copy_bidirectional(&mut inner, &mut outer) => copied.map(drop),
            () = self.forbidden(host, port) => Ok(()),
        }
    }

    /// Waits until a host may not be reached any more.
    async fn forbidden(&self, host: &str, port: u16) {
        let mut allowed = self.allowed.subscribe();
        // The sender is this value's own.
        let _ = allowed.wait_for(|allowed| !allowed.permits(host, port)).await;
    }

    /// Passes a request on, and what is answered.
    async fn forward(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        (host, port): (String, u16),
        reach: Reach,
    ) -> Result<Response<Body>, NoWay> {
        if request.headers().contains_key(UPGRADE) {
            return Ok(refused(StatusCode::NOT_IMPLEMENTED, "upgrades are not passed on"));
        }
        remove_proxys(request.headers_mut());
        let authority = if port == 80 { host.clone() } else { format!("{host}:{port}") };
        let named = authority.parse().map_err(invalid)?;
        // Whatever the client says: what is asked for is what is permitted.
        request.headers_mut().insert(HOST, named);
        let (stream, asked) = self.way.connect_for_requests(&host, port, reach).await?;
        match asked {
            Some(Asked { password }) => {
                if let Some(password) = password {
                    request.headers_mut().insert(PROXY_AUTHORIZATION, password);
                }
            }
            None => {
                let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
                *request.uri_mut() = path.parse().map_err(invalid)?;
            }
        }
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let egress = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = connection => {}
                () = egress.forbidden(&host, port) => {}
            }
        });
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let (mut head, content) = response.into_parts();
        remove_proxys(&mut head.headers);
        Ok(Response::from_parts(head, content.boxed()))
    }
}

/// Removes the headers that are about one connection, those that `Connection` names as well.
fn remove_proxys(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&OF_PROXY) {
        headers.remove(name);
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> NoWay {
    io::Error::new(io::ErrorKind::InvalidInput, error).into()
}

/// Returns the host and port that a request is for.
fn target(uri: &Uri, is_tunnel: bool) -> Option<(String, u16)> {
    let host = uri.host()?.to_owned();
    let port = match (uri.port_u16(), is_tunnel, uri.scheme_str()) {
        (Some(port), ..) => port,
        (None, false, Some("http")) => 80,
        _ => return None,
    };
    let is_request = is_tunnel || uri.scheme_str() == Some("http");
    is_request.then_some((host, port))
}

fn body(text: &str) -> Body {
    Full::new(Bytes::from(text.to_owned())).map_err(|never| match never {}).boxed()
}

fn refused(status: StatusCode, why: &str) -> Response<Body> {
    let mut response = Response::new(body(&format!("imgforge: {why}\n")));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::super::hello::tests::hello;
    use super::super::{AllowList, Allowed};
    use super::*;
    use crate::proxy::Proxies;
    use std::collections::BTreeMap;
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
    use tokio::sync::mpsc;

    fn list(hosts: &[&str]) -> AllowList {
        hosts.iter().map(|host| host.parse().unwrap()).collect::<Vec<Allowed>>().into()
    }

    /// A proxy outside: tells the head of each request, says yes, and echoes.
    async fn outside() -> (String, mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let tell = tell.clone();
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        stream.read_line(&mut head).await.unwrap();
                    }
                    let is_tunnel = head.starts_with("CONNECT");
                    tell.send(head).unwrap();
                    let answer = match is_tunnel {
                        true => "HTTP/1.1 200 OK\r\n\r\n",
                        false => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                    };
                    stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
                    let (mut read, mut write) = tokio::io::split(stream);
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        (format!("http://user:word@{address}"), told)
    }

    /// A proxy of a session whose way out is another proxy.
    async fn proxy(allowed: &[&str]) -> (Arc<Egress>, TcpStream, mpsc::UnboundedReceiver<String>) {
        let (outside, told) = outside().await;
        let proxies = Proxies::read(|name| match name {
            "HTTP_PROXY" | "HTTPS_PROXY" => Some(outside.clone()),
            _ => None,
        });
        let egress = Egress::new(list(allowed), &proxies.unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(egress.clone().serve(listener));
        (egress, TcpStream::connect(address).await.unwrap(), told)
    }

    /// Sends a request, and returns the head of the answer.
    async fn ask(stream: &mut TcpStream, request: &str) -> String {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(char::from(stream.read_u8().await.unwrap()));
        }
        head
    }

    #[tokio::test]
    async fn a_request_for_a_permitted_host_is_passed_on_for_that_host() {
        let (egress, mut stream, mut told) = proxy(&["a.test"]).await;
        let request = "GET http://a.test/x?y HTTP/1.1\r\nHost: b.test\r\nX-Own: 1\r\n\
                       Connection: x-hop\r\nX-Hop: 1\r\nProxy-Authorization: Basic eA==\r\n\r\n";
        let head = ask(&mut stream, request).await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        let mut content = [0; 2];
        stream.read_exact(&mut content).await.unwrap();
        assert_eq!(&content, b"ok");
        let head = told.recv().await.unwrap().to_ascii_lowercase();
        assert!(head.starts_with("get http://a.test/x?y http/1.1\r\n"), "{head}");
        assert!(
            head.contains("\r\nhost: a.test\r\n") && head.contains("\r\nx-own: 1\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nproxy-authorization: basic dxnlcjp3b3jk\r\n"), "{head}");
        assert!(!head.contains("b.test") && !head.contains("x-hop"), "{head}");
        assert_eq!(egress.report().denied, BTreeMap::new());
    }

    #[tokio::test]
    async fn another_host_is_denied_and_told() {
        let (egress, mut stream, mut told) = proxy(&["a.test"]).await;
        for (request, status) in [
            ("GET http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "403"),
            ("GET http://a.test:81/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "403"),
            ("GET http://127.0.0.1/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "403"),
            ("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "400"),
            ("CONNECT b.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", "403"),
        ] {
            let mut other = TcpStream::connect(stream.peer_addr().unwrap()).await.unwrap();
            let head = ask(&mut other, request).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{request}{head}");
        }
        let denied = egress.report().denied;
        let names: Vec<&str> = denied.keys().map(String::as_str).collect();
        assert_eq!(names, ["127.0.0.1:80", "a.test:81", "b.test:443", "b.test:80"]);
        assert!(told.try_recv().is_err());
        egress.allow(list(&["b.test"]));
        let head = ask(&mut stream, "GET http://b.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    }

    #[tokio::test]
    async fn a_tunnel_leads_to_the_host_that_tls_names_as_well() {
        let (egress, mut stream, mut told) = proxy(&["a.test", "c.test"]).await;
        let connect = "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n";
        assert!(ask(&mut stream, connect).await.starts_with("HTTP/1.1 200"));
        let bytes = hello("a.test");
        stream.write_all(&bytes).await.unwrap();
        let mut echoed = vec![0; bytes.len()];
        stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(echoed, bytes);
        assert!(told.recv().await.unwrap().starts_with("CONNECT a.test:443 HTTP/1.1\r\n"));
        // It ends when the host is not permitted any more.
        egress.allow(list(&["c.test"]));
        assert_eq!(stream.read(&mut echoed).await.unwrap_or(0), 0);

        egress.allow(list(&["a.test", "c.test"]));
        for (first, denied) in
            [(hello("c.test"), "c.test:443"), (b"GET / HTTP/1.1".to_vec(), "a.test:443")]
        {
            let mut other = TcpStream::connect(stream.peer_addr().unwrap()).await.unwrap();
            assert!(ask(&mut other, connect).await.starts_with("HTTP/1.1 200"));
            other.write_all(&first).await.unwrap();
            let _ = other.shutdown().await;
            assert_eq!(other.read(&mut echoed).await.unwrap_or(0), 0, "{denied}");
            assert!(egress.report().denied.contains_key(denied), "{:?}", egress.report());
        }
    }
}
