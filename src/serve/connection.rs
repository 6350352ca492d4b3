//! One connection of a client of a server.

use std::convert::Infallible;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::Body;

/// Answers the requests of a connection, one after another, until it ends.
pub(super) async fn answer<F>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    answer: impl Fn(Request<Incoming>) -> F,
) where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = http1::Builder::new();
    // A client that closed its half waits for its answer all the same.
    connection.half_close(true).timer(TokioTimer::new());
    // Whoever breaks off is not told.
    let _ = connection.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

/// Waits before the next connection is taken where one could not be: there may be no descriptor left.
pub(super) async fn pause() {
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}
