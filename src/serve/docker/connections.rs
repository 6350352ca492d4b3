//! The connections of a server.

use std::sync::Arc;

use tokio::net::UnixListener;

use crate::serve::connection;

use super::routes;
use super::server::Server;
use super::stream::{Apart, Stream};

/// Answers the clients of a socket, for ever.
pub async fn serve(server: &Arc<Server>, listener: &UnixListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            connection::pause().await;
            continue;
        };
        let server = server.clone();
        tokio::spawn(async move {
            let apart = Apart::default();
            let stream = Stream::new(stream, apart.clone());
            let answer = move |request| {
                apart.look(&request);
                let server = server.clone();
                async move { routes::answer(&server, request).await }
            };
            connection::answer(stream, answer).await;
        });
    }
}
