//! The state of a container: created, running, paused, exited; and who waits for a change.

use jiff::Timestamp;
use tokio::sync::watch;

/// What a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// Its main command was not started yet.
    Created,
    /// Its main command runs.
    Running,
    /// All its processes are held.
    Paused,
    /// Its main command has ended, and is started again soon.
    Restarting,
    /// Its main command has ended, or could not be started.
    Exited,
}

impl Status {
    /// Returns its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Restarting => "restarting",
            Status::Exited => "exited",
        }
    }

    /// Tells whether the main command is there, or is about to be.
    pub(super) fn is_alive(self) -> bool {
        matches!(self, Status::Running | Status::Paused | Status::Restarting)
    }
}

/// The state of a container.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// What it is.
    pub(super) status: Status,
    /// The main command's process, as the container sees it; 0 where it does not run.
    pub(super) process: i32,
    /// The last exit code.
    pub(super) exit_code: i32,
    /// Why the main command could not be started.
    pub(super) error: String,
    /// Whether the kernel killed a process at the memory limit.
    pub(super) out_of_memory: bool,
    /// When the main command was last started.
    pub(super) started_at: Option<Timestamp>,
    /// When it last ended.
    pub(super) finished_at: Option<Timestamp>,
    /// How often it has ended.
    pub(super) ends: u64,
    /// Whether the container is gone.
    pub(super) is_removed: bool,
}

/// What happens to a container.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// Its main command runs, as this process.
    Started(i32),
    /// All its processes are held.
    Paused,
    /// They go on.
    Resumed,
    /// Its main command has ended.
    Ended {
        /// Its exit code.
        code: i32,
        /// Whether memory was the reason.
        out_of_memory: bool,
        /// Whether it is started again soon.
        starts_again: bool,
    },
    /// It is not started again after all.
    StaysEnded,
    /// Its main command could not be started.
    NotStarted {
        /// The code that a shell has for it.
        code: i32,
        /// Why.
        error: String,
    },
    /// It is gone.
    Removed,
}

/// A state that can be waited for.
pub(super) struct Watched(watch::Sender<State>);

impl Watched {
    /// The state of a container that was just created.
    pub(super) fn new() -> Watched {
        Watched(watch::Sender::new(State {
            status: Status::Created,
            process: 0,
            exit_code: 0,
            error: String::new(),
            out_of_memory: false,
            started_at: None,
            finished_at: None,
            ends: 0,
            is_removed: false,
        }))
    }

    /// Returns the state now.
    pub(super) fn now(&self) -> State {
        self.0.borrow().clone()
    }

    /// Changes the state: the only way.
    pub(super) fn set(&self, change: Change) {
        let now = Timestamp::now();
        self.0.send_modify(|state| match change {
            Change::Started(process) => {
                (state.status, state.process) = (Status::Running, process);
                (state.exit_code, state.out_of_memory) = (0, false);
                state.error.clear();
                state.started_at = Some(now);
                state.finished_at = None;
            }
            Change::Paused if state.status == Status::Running => state.status = Status::Paused,
            Change::Resumed if state.status == Status::Paused => state.status = Status::Running,
            Change::Paused | Change::Resumed => {}
            Change::StaysEnded if state.status == Status::Restarting => {
                state.status = Status::Exited;
            }
            Change::StaysEnded => {}
            Change::Ended { code, out_of_memory, starts_again } => {
                let status = if starts_again { Status::Restarting } else { Status::Exited };
                (state.status, state.process) = (status, 0);
                (state.exit_code, state.out_of_memory) = (code, out_of_memory);
                state.finished_at = Some(now);
                state.ends += 1;
            }
            // As in Docker a container that never ran stays created.
            Change::NotStarted { code, error } => {
                (state.exit_code, state.error) = (code, error);
                state.process = 0;
            }
            Change::Removed => state.is_removed = true,
        });
    }

    /// Waits for a state, and returns it.
    pub(super) async fn until(&self, mut is_it: impl FnMut(&State) -> bool) -> State {
        let mut receiver = self.0.subscribe();
        let found = receiver.wait_for(|state| is_it(state)).await.map(|state| state.clone());
        // The sender lives as long as this value.
        found.unwrap_or_else(|_| self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_created_runs_is_paused_and_ends() {
        let state = Watched::new();
        assert_eq!(state.now().status, Status::Created);
        state.set(Change::Paused);
        assert_eq!(state.now().status, Status::Created, "what does not run is not paused");
        state.set(Change::Started(7));
        assert_eq!((state.now().status, state.now().process), (Status::Running, 7));
        state.set(Change::Paused);
        assert_eq!(state.now().status, Status::Paused);
        state.set(Change::Resumed);
        state.set(Change::Ended { code: 3, out_of_memory: false, starts_again: false });
        let now = state.now();
        assert_eq!((now.status, now.exit_code, now.process, now.ends), (Status::Exited, 3, 0, 1));
        state.set(Change::Started(9));
        assert_eq!(state.now().finished_at, None);
    }
}
