//! The connections of a server.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixListener;

use super::routes;
use super::server::Server;
use super::stream::{Apart, Stream};

/// Answers the clients of a socket, for ever.
pub async fn serve(server: &Arc<Server>, listener: &UnixListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Such as no descriptor left: not for ever.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let server = server.clone();
        tokio::spawn(async move {
            let apart = Apart::default();
            let stream = Stream::new(stream, apart.clone());
            let answer = service_fn(move |request| {
                apart.look(&request);
                let server = server.clone();
                async move { Ok::<_, Infallible>(routes::answer(&server, request).await) }
            });
            let mut connection = http1::Builder::new();
            // A client that closed its half waits for its answer all the same.
            connection.half_close(true).timer(TokioTimer::new());
            let served = connection.serve_connection(TokioIo::new(stream), answer);
            // Whoever breaks off is not told.
            let _ = served.with_upgrades().await;
        });
    }
}
