//! A terminal that shows `^C` where it is typed moves what is drawn by a line, and the line stays
//! behind. While something is drawn, it does not.

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Keeps the terminal of stderr from showing control characters, until it is dropped.
pub(super) struct QuietControls(Termios);

impl QuietControls {
    /// Begins; `None` where stderr is no terminal, or does not show them.
    pub(super) fn begin() -> Option<QuietControls> {
        let before = tcgetattr(std::io::stderr()).ok()?;
        if !before.local_modes.contains(LocalModes::ECHOCTL) {
            return None;
        }
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHOCTL);
        set(&quiet)?;
        Some(QuietControls(before))
    }
}

/// Sets the modes, where this process is in the foreground: a terminal stops the others for it.
fn set(modes: &Termios) -> Option<()> {
    let foreground = rustix::termios::tcgetpgrp(std::io::stderr()).ok()?;
    if foreground != rustix::process::getpgrp() {
        return None;
    }
    tcsetattr(std::io::stderr(), OptionalActions::Now, modes).ok()
}

impl Drop for QuietControls {
    fn drop(&mut self) {
        let _ = set(&self.0);
    }
}
