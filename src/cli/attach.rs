//! Standing between a command in a container and this process's own ends: input, outputs, terminal,
//! signals.
//!
//! Input is read and output is written by threads of their own: neither may keep a signal waiting,
//! nor this process from ending.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::engine::{
    Attached, AttachedCommand, EngineError, ExecHandle, Output, Result, SandboxEnd, WindowSize,
};

use super::out;

/// How long a command may take to end that this process was told to end with, and then its
/// container.
const GRACE: Duration = Duration::from_secs(5);
const KILL_GRACE: Duration = Duration::from_secs(20);

/// Signals that the command gets as they come.
const PASSED_ON: [i32; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// What an empty terminal is taken for.
const USUAL: WindowSize = WindowSize { rows: 24, columns: 80 };

/// Returns the size of the terminal, where input and output are one.
pub(super) fn terminal() -> Option<WindowSize> {
    use std::io::IsTerminal as _;
    (io::stdin().is_terminal() && io::stdout().is_terminal()).then(size)
}

fn size() -> WindowSize {
    match tcgetwinsize(rustix::stdio::stdin()) {
        Ok(found) if found.ws_row > 0 && found.ws_col > 0 => {
            WindowSize { rows: found.ws_row, columns: found.ws_col }
        }
        _ => USUAL,
    }
}

/// What came for this process.
pub(super) struct Signals(mpsc::UnboundedReceiver<i32>);

impl Signals {
    /// Takes signals from now on; within a runtime.
    pub(super) fn take() -> io::Result<Signals> {
        let (sender, receiver) = mpsc::unbounded_channel();
        for number in PASSED_ON.into_iter().chain([libc::SIGWINCH, libc::SIGCONT]) {
            let mut signals = signal(SignalKind::from_raw(number))?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() && sender.send(number).is_ok() {}
            });
        }
        Ok(Signals(receiver))
    }

    async fn next(&mut self) -> i32 {
        match self.0.recv().await {
            Some(number) => number,
            None => std::future::pending().await,
        }
    }
}

/// The ends of a command.
pub(super) struct Ends {
    pub input: Box<dyn AsyncWrite + Send + Unpin>,
    pub output: BoxStream<'static, Result<Output>>,
    /// Whether it gets the input of this process.
    pub reads: bool,
}

/// A command that gets signals, and sizes of its terminal.
pub(super) enum Steered {
    /// That of a container.
    Container(Arc<dyn AttachedCommand>),
    /// One of a session.
    Exec(Arc<dyn ExecHandle>),
}

impl Steered {
    async fn resize(&self, size: WindowSize) -> Result<()> {
        match self {
            Steered::Container(command) => command.resize(size).await,
            Steered::Exec(command) => command.resize(size).await,
        }
    }

    async fn signal(&self, number: i32) -> Result<()> {
        match self {
            Steered::Container(command) => command.signal(number).await,
            Steered::Exec(command) => command.signal(number).await,
        }
    }
}

/// Joins the ends of a container's command with those of this process until the container ended.
pub(super) async fn join_container(
    attached: Attached,
    has_terminal: bool,
    signals: Signals,
) -> Result<SandboxEnd> {
    let Attached { input, output, command } = attached;
    let ends = Ends { input, output, reads: true };
    let waited = command.clone();
    let end = async move { waited.end().await };
    join(ends, Steered::Container(command), end, has_terminal, signals).await
}

/// How long the rest of an output may take once a command has ended: what it left behind may hold it
/// open for ever.
const REST: Duration = Duration::from_secs(2);

/// How long an output is silent then before its rest is given up.
const SILENCE: Duration = Duration::from_millis(100);

/// Joins the ends of a command with those of this process until the command ended.
pub(super) async fn join<T>(
    ends: Ends,
    command: Steered,
    end: impl Future<Output = Result<T>>,
    has_terminal: bool,
    mut signals: Signals,
) -> Result<T> {
    let Ends { input, mut output, reads } = ends;
    let mut raw = has_terminal.then(Raw::enter).flatten();
    let feeding = reads.then(|| tokio::spawn(feed(read_input(), input)));
    let (screen, nobody_reads, mut shown) = Screen::start();
    let lets_go = matches!(command, Steered::Exec(_));
    let work = async {
        tokio::pin!(end);
        let mut ended = None;
        let mut give_up = Instant::now();
        loop {
            let silence = give_up.min(Instant::now() + SILENCE);
            tokio::select! {
                biased;
                piece = output.next() => match piece {
                    Some(piece) => {
                        let shown = screen.show(piece?);
                        tokio::pin!(shown);
                        loop {
                            tokio::select! {
                                biased;
                                () = &mut shown => break,
                                // A reader that stands still keeps no limit of the command waiting.
                                how = &mut end, if lets_go && ended.is_none() => {
                                    ended = Some(how?);
                                    give_up = Instant::now() + REST;
                                }
                            }
                        }
                    }
                    None => break,
                },
                how = &mut end, if lets_go && ended.is_none() => {
                    ended = Some(how?);
                    give_up = Instant::now() + REST;
                }
                () = tokio::time::sleep_until(silence), if ended.is_some() => break,
            }
        }
        let ended = match ended {
            Some(ended) => Ok(ended),
            None => end.await,
        };
        drop(screen);
        ended
    };
    tokio::pin!(work);
    let mut stop: Option<Stop> = None;
    let ended = loop {
        let patience = async {
            match &stop {
                None => std::future::pending().await,
                Some(stop) => tokio::time::sleep_until(stop.at).await,
            }
        };
        // A command that ended at that very moment takes no signal and no size.
        tokio::select! {
            ended = &mut work => break ended,
            () = nobody_reads.notified() => drop(command.signal(libc::SIGPIPE).await),
            number = signals.next() => match number {
                libc::SIGWINCH | libc::SIGCONT if has_terminal => {
                    // Whoever stopped this process had the terminal for himself.
                    raw = raw.map(Raw::again);
                    let _ = command.resize(size()).await;
                }
                libc::SIGWINCH | libc::SIGCONT => {}
                libc::SIGTERM | libc::SIGHUP if stop.is_some() => {
                    let _ = command.signal(libc::SIGKILL).await;
                }
                number => {
                    let _ = command.signal(number).await;
                    if matches!(number, libc::SIGTERM | libc::SIGHUP) {
                        stop = Some(Stop { at: Instant::now() + GRACE, killed: false });
                    }
                }
            },
            () = patience => match stop {
                Some(Stop { killed: true, .. }) => break Err(EngineError::Transient {
                    action: "end a container".to_owned(),
                    source: "it was killed and did not end".into(),
                }),
                _ => {
                    let _ = command.signal(libc::SIGKILL).await;
                    stop = Some(Stop { at: Instant::now() + KILL_GRACE, killed: true });
                }
            },
        }
    };
    if let Some(feeding) = feeding {
        feeding.abort();
    }
    // What was printed is shown before this terminal is as it was, unless nobody waits for it.
    if ended.is_ok() {
        tokio::select! {
            _ = &mut shown => {}
            () = told_to_end(&mut signals) => {}
        }
    }
    drop(raw);
    ended
}

/// This process was told to end.
struct Stop {
    /// When it takes the next step.
    at: Instant,
    killed: bool,
}

async fn told_to_end(signals: &mut Signals) {
    while !matches!(signals.next().await, libc::SIGTERM | libc::SIGHUP | libc::SIGINT) {}
}

/// The terminal passes everything on as it is typed, as long as this lives.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> Option<Raw> {
        let before = tcgetattr(rustix::stdio::stdin()).ok()?;
        Some(Raw { before }.again())
    }

    fn again(self) -> Raw {
        let mut raw = self.before.clone();
        raw.make_raw();
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw);
        self
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Reads the input to its end, or as long as somebody wants it.
fn read_input() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 14];
        loop {
            match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    if sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                        return;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                // Others may have made it so.
                Err(rustix::io::Errno::AGAIN) => wait_for_input(),
                Err(_) => return,
            }
        }
    });
    receiver
}

fn wait_for_input() {
    use rustix::event::{PollFd, PollFlags, poll};
    let stdin = rustix::stdio::stdin();
    let _ = poll(&mut [PollFd::new(&stdin, PollFlags::IN)], None);
}

/// Gives the input to the command, and its end.
async fn feed(mut read: mpsc::Receiver<Bytes>, mut input: Box<dyn AsyncWrite + Send + Unpin>) {
    while let Some(bytes) = read.recv().await {
        let given = async {
            input.write_all(&bytes).await?;
            input.flush().await
        };
        if given.await.is_err() {
            // The command reads no more.
            return;
        }
    }
    let _ = input.shutdown().await;
}

/// Writes the outputs of the command to those of this process.
struct Screen(mpsc::Sender<Output>);

impl Screen {
    /// Starts it; what is returned beside it says that nobody reads the standard output any more, and
    /// that all was written.
    fn start() -> (Screen, Arc<Notify>, oneshot::Receiver<()>) {
        let (sender, mut receiver) = mpsc::channel(16);
        let nobody_reads = Arc::new(Notify::new());
        let (done, shown) = oneshot::channel();
        let broken = nobody_reads.clone();
        std::thread::spawn(move || {
            let mut is_read = true;
            while let Some(piece) = receiver.blocking_recv() {
                match piece {
                    Output::Out(bytes) if is_read => {
                        is_read = out::bytes(&bytes);
                        if !is_read {
                            broken.notify_one();
                        }
                    }
                    Output::Out(_) => {}
                    Output::Error(bytes) => out::error_bytes(&bytes),
                }
            }
            let _ = done.send(());
        });
        (Screen(sender), nobody_reads, shown)
    }

    async fn show(&self, piece: Output) {
        let _ = self.0.send(piece).await;
    }
}
