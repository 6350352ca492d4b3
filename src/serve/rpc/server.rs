//! Who is connected to a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::connection::Connection;
use super::sessions::{Sessions, Settings};

/// A server. Its sessions end with it.
pub struct Server {
    sessions: Arc<Sessions>,
    connections: AtomicU64,
}

impl Server {
    /// Makes a server that has no session yet.
    pub fn new(settings: Settings) -> Arc<Server> {
        let sessions = Sessions::new(settings);
        Arc::new(Server { sessions, connections: AtomicU64::new(0) })
    }

    /// Serves one client until it goes. Then all that it started has ended.
    pub async fn serve(
        self: &Arc<Self>,
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        Connection::serve(self.sessions.clone(), number, reader, writer).await;
    }

    /// Serves clients of a socket, for ever.
    pub async fn listen(self: &Arc<Self>, listener: &UnixListener) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (reader, writer) = stream.into_split();
                        let server = self.clone();
                        clients.spawn(async move { server.serve(reader, writer).await });
                    }
                    // Of descriptors, for example.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
                Some(_) = clients.join_next() => {}
            }
        }
    }

    /// Ends all sessions.
    pub async fn close(&self) {
        self.sessions.close().await;
    }
}
