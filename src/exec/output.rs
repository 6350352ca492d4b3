//! What a node prints, line by line, on its way to the reporters.
//!
//! A program may print faster than anybody reads. So what waits is bounded: where one line is
//! wanted it is the last one, and where all are wanted what is too much is counted. The log in the
//! file has all of it.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::engine::LogSink;

/// The most lines that wait.
const MOST_WAITING: usize = 2_000;

/// The most bytes of a line; the log has the rest.
const LONGEST: usize = 2_000;

/// Which lines of a node are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Lines {
    /// No line is told.
    #[default]
    None,
    /// The last one, now and then.
    Last,
    /// Every line is told, up to a bound on those that wait.
    All,
}

/// Which lines are told of nodes that make images, and of nodes that run tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// The lines of nodes that make images.
    pub images: Lines,
    /// The lines of evaluations.
    pub tests: Lines,
}

/// Takes the output of one node and calls when there is something new.
pub(super) struct NodeOutput {
    all: bool,
    state: Mutex<State>,
    call: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    partial: Vec<u8>,
    lines: VecDeque<String>,
    left_out: usize,
    /// Whether somebody was called who has not come yet.
    called: bool,
}

impl NodeOutput {
    /// Takes output, all of it or the last line.
    pub(super) fn new(all: bool, call: impl Fn() + Send + Sync + 'static) -> NodeOutput {
        NodeOutput { all, state: Mutex::default(), call: Box::new(call) }
    }

    /// Hands over the lines that wait, and how many before them were too much.
    pub(super) fn take(&self) -> (Vec<String>, usize) {
        let mut state = self.state.lock().expect("no writer panics");
        state.called = false;
        (state.lines.drain(..).collect(), std::mem::take(&mut state.left_out))
    }
}

impl LogSink for NodeOutput {
    fn write(&self, bytes: &[u8]) {
        let mut state = self.state.lock().expect("no writer panics");
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LONGEST.saturating_sub(state.partial.len());
            let (text, ends) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            state.partial.extend_from_slice(&text[..text.len().min(room)]);
            if !ends {
                continue;
            }
            let line = std::mem::take(&mut state.partial);
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            state.lines.push_back(String::from_utf8_lossy(&line).into_owned());
            let most = if self.all { MOST_WAITING } else { 1 };
            if state.lines.len() > most {
                state.lines.pop_front();
                state.left_out += usize::from(self.all);
            }
        }
        if !state.lines.is_empty() && !std::mem::replace(&mut state.called, true) {
            drop(state);
            (self.call)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn output(all: bool) -> (NodeOutput, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let call = move || {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        (NodeOutput::new(all, call), calls)
    }

    #[test]
    fn the_last_whole_line_waits_and_one_call_is_made_for_it() {
        let (output, calls) = output(false);
        output.write(b"one\ntw");
        output.write(b"o\n\n  \nthr");
        assert_eq!(output.take(), (vec!["two".to_owned()], 0));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        output.write(b"ee\n");
        assert_eq!(output.take(), (vec!["three".to_owned()], 0));
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn of_too_many_lines_the_last_wait_and_the_others_are_counted() {
        let (output, _) = output(true);
        for number in 0..MOST_WAITING + 3 {
            output.write(format!("{number}\n").as_bytes());
        }
        let (lines, left_out) = output.take();
        assert_eq!((lines.len(), lines[0].as_str(), left_out), (MOST_WAITING, "3", 3));
        output.write(&[b'x'; 5 * LONGEST]);
        output.write(b"\n");
        assert_eq!(output.take().0[0].len(), LONGEST);
    }
}
