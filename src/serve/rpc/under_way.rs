//! What is under way in a session, and the ends of it that others hold.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::engine::ExecHandle;
use crate::gym::Environment;

use super::lines::{Answer, Lines};
use super::params::ShellRun;

/// A command by its name.
pub(super) enum Slot {
    /// It waits for its turn.
    Waiting,
    /// It was killed before its turn.
    Cancelled,
    /// It runs, or nobody has asked for its result yet.
    Running(Arc<Running>),
}

/// A command under way, or the result of one.
pub(super) struct Running {
    pub handle: Arc<dyn ExecHandle>,
    pub input: Option<mpsc::UnboundedSender<Typed>>,
    pub result: watch::Receiver<Option<Answer>>,
}

/// Input that comes, and who waits until it is written. Without bytes it is the end.
pub(super) struct Typed {
    pub bytes: Option<Vec<u8>>,
    pub tell: oneshot::Sender<()>,
}

/// The ends of a shell that others hold. The shell ends with it.
pub(super) struct ShellHandle {
    pub orders: mpsc::Sender<Order>,
    pub controls: mpsc::Sender<Control>,
    /// Ends the shell when it is dropped.
    pub _task: AbortOnDropHandle<()>,
}

/// A command for a shell.
pub(super) struct Order {
    pub params: ShellRun,
    pub lines: Lines,
    pub tell: oneshot::Sender<Answer>,
}

/// What is done to what a shell runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum ControlKind {
    Interrupt,
    Kill,
}

/// Something to do to what a shell runs, and who waits for it.
pub(super) struct Control {
    pub kind: ControlKind,
    pub tell: oneshot::Sender<Answer>,
}

/// A piece of an archive that comes, and who waits until it is taken. Without bytes it is the end.
pub(super) struct Piece {
    pub bytes: Option<Vec<u8>>,
    pub tell: oneshot::Sender<()>,
}

/// An environment of a session.
#[derive(Debug)]
pub(super) struct Opened {
    /// The environment.
    pub environment: Environment,
    /// How long an action may take where nothing is said of it.
    pub timeout: Duration,
}
