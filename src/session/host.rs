//! The process that keeps a session for others.

use std::future::pending;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::engine::SessionEnd;

use super::directory::Why;
use super::kept::Kept;
use super::rpc;

/// How long a session is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lifetime {
    /// From now on, whatever happens; the time that the machine sleeps counts.
    pub at_most: Option<Duration>,
    /// Without a client.
    pub idle: Option<Duration>,
}

/// Serves the clients of a session until it ends, one way or another; then nothing of it is left.
/// `None` says that a client stopped it.
pub async fn keep(session: Arc<Kept>, listener: UnixListener, lifetime: Lifetime) -> Option<Why> {
    let clients = Arc::new(Clients::default());
    let (stopped, mut stops) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    let why = {
        let over = sleep(lifetime.at_most);
        let unused = clients.unused(lifetime.idle);
        let told = told_to_end();
        let ended = session.ended();
        tokio::pin!(over, unused, told, ended);
        loop {
            tokio::select! {
                _ = stops.recv() => break None,
                end = &mut ended => break match end {
                    // Its client is about to be told.
                    Ok(SessionEnd::Stopped) => None,
                    Ok(end) => Some(Why::Session(end)),
                    Err(error) => Some(Why::Failed(crate::causes::in_one_line(&error))),
                },
                () = &mut over => break Some(Why::Expired),
                () = &mut unused => break Some(Why::Idle),
                () = &mut told => break Some(Why::HostEnded),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let client = clients.clone().enter();
                        let (session, stopped) = (session.clone(), stopped.clone());
                        tasks.spawn(async move {
                            rpc::serve(session, stream, stopped).await;
                            drop(client);
                        });
                    }
                    // Of descriptors, for example; others go on.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
            }
            while tasks.try_join_next().is_some() {}
        }
    };
    // Whoever waits for a command learns how it ended.
    let _ = session.now().stop().await;
    let _ = tokio::time::timeout(Duration::from_secs(1), clients.gone()).await;
    tasks.shutdown().await;
    why
}

/// The clients that are connected.
#[derive(Default)]
struct Clients {
    count: AtomicUsize,
    changed: Notify,
}

struct Client(Arc<Clients>);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }
}

impl Clients {
    fn enter(self: Arc<Self>) -> Client {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
        Client(self)
    }

    async fn gone(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Waits until nobody was there for so long.
    async fn unused(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return pending().await };
        loop {
            self.gone().await;
            let changed = self.changed.notified();
            tokio::select! {
                () = sleep(Some(limit)) => {
                    if self.count.load(Ordering::Acquire) == 0 {
                        return;
                    }
                }
                () = changed => {}
            }
        }
    }
}

/// Waits for so long, or for ever.
async fn sleep(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep_for(limit).await,
        None => pending().await,
    }
}

/// Waits for so long by the clock that goes on while the machine sleeps.
pub(crate) async fn sleep_for(limit: Duration) {
    match timer(limit) {
        Ok(timer) => drop(timer.readable().await),
        Err(_) => tokio::time::sleep(limit).await,
    }
}

fn timer(limit: Duration) -> std::io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let tv_sec = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    // Zero would be never.
    let tv_nsec = i64::from(limit.subsec_nanos()).max(i64::from(tv_sec == 0));
    let at = Itimerspec { it_interval: zero, it_value: Timespec { tv_sec, tv_nsec } };
    timerfd_settime(timer.as_fd(), TimerfdTimerFlags::empty(), &at)?;
    // SAFETY: it owns the timer from here on, and nobody else has it.
    Ok(unsafe { AsyncFd::register(timer) }?)
}

async fn told_to_end() {
    let caught = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let mut tasks = JoinSet::new();
    for kind in caught {
        tasks.spawn(async move {
            match signal(kind) {
                Ok(mut signals) => drop(signals.recv().await),
                Err(_) => pending().await,
            }
        });
    }
    tasks.join_next().await;
}
