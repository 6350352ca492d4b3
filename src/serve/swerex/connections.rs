//! The connections of a server.

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::serve::connection;

use super::routes;
use super::server::Server;

/// Answers the clients of a socket, for ever.
pub async fn serve(server: &Arc<Server>, listener: &TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            connection::pause().await;
            continue;
        };
        // Answers are small, and somebody waits for each.
        let _ = stream.set_nodelay(true);
        let server = server.clone();
        let answer = move |request| {
            let server = server.clone();
            async move { routes::answer(&server, request).await }
        };
        tokio::spawn(connection::answer(stream, answer));
    }
}
