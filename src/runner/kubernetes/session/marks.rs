//! What the script around a command says on its outputs, beside what the command writes: a word that nobody
//! else knows, and a short text that ends with a full stop. An output without the last of them was cut.

/// The longest text behind a word.
const LONGEST: usize = 16;

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// The command is about to run.
    Started,
    /// It ended with this code, as a shell has it.
    Code(i32),
    /// It cannot be run, for a reason in one word.
    Refused(String),
}

impl Mark {
    fn read(text: &[u8]) -> Option<Mark> {
        let text = std::str::from_utf8(text).ok()?;
        match text.as_bytes().first()? {
            b'+' if text.len() == 1 => Some(Mark::Started),
            b'!' => Some(Mark::Refused(text[1..].to_owned())),
            _ => text.parse().ok().map(Mark::Code),
        }
    }
}

/// How a word begins: with a byte that few programs write, the record separator of ASCII. What a command
/// wrote last is held back where a word may begin with it.
const FIRST: char = '\u{1e}';

/// Makes a word that nobody else knows.
pub(super) fn word() -> String {
    format!("{FIRST}{:032x}", rand::random::<u128>())
}

/// Parts what a command writes from the marks in it, however it is cut into pieces.
pub(super) struct Marks {
    word: Vec<u8>,
    held: Vec<u8>,
    /// How many bytes of what is held were passed on: see [`Marks::pass`].
    passed: usize,
}

impl Marks {
    pub(super) fn new(word: &str) -> Marks {
        Marks { word: word.as_bytes().to_vec(), held: Vec::new(), passed: 0 }
    }

    /// Takes a piece; returns what the command wrote, and the marks.
    pub(super) fn take(&mut self, piece: &[u8]) -> (Vec<u8>, Vec<Mark>) {
        self.held.extend_from_slice(piece);
        let (mut written, mut marks) = (Vec::new(), Vec::new());
        while let Some(at) = memchr::memmem::find(&self.held, &self.word) {
            let behind = &self.held[at + self.word.len()..];
            let text = behind.iter().take(LONGEST).position(|byte| *byte == b'.');
            match text.map(|end| (end, Mark::read(&behind[..end]))) {
                Some((end, Some(mark))) => {
                    written.extend(self.release(at));
                    // A mark whose beginning was passed on as what the command wrote is none: then more
                    // was passed on than that.
                    if self.passed == 0 {
                        marks.push(mark);
                    }
                    self.drop(self.word.len() + end + 1);
                }
                None if behind.len() < LONGEST => {
                    // The rest of it is on its way.
                    written.extend(self.release(at));
                    return (written, marks);
                }
                // The command itself wrote it.
                Some((_, None)) | None => written.extend(self.release(at + self.word.len())),
            }
        }
        let most = self.held.len().min(self.word.len() - 1);
        let waits = (0..=most).rev().find(|count| {
            let begins = &self.held[self.held.len() - count..];
            self.word.starts_with(begins)
        });
        written.extend(self.release(self.held.len() - waits.unwrap_or(0)));
        (written, marks)
    }

    /// Tells whether something is held back that was not passed on.
    pub(super) fn holds(&self) -> bool {
        self.held.len() > self.passed
    }

    /// Returns what is held back, as nothing came for long: somebody may wait for it.
    pub(super) fn pass(&mut self) -> Vec<u8> {
        let more = self.held[self.passed..].to_vec();
        self.passed = self.held.len();
        more
    }

    /// Returns what is held, when nothing more comes.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        self.release(self.held.len())
    }

    /// Takes bytes from the front of what is held; returns those that were not passed on.
    fn release(&mut self, count: usize) -> Vec<u8> {
        let known = self.passed.min(count);
        self.passed -= known;
        self.held.drain(..count).skip(known).collect()
    }

    fn drop(&mut self, count: usize) {
        self.passed = self.passed.saturating_sub(count);
        self.held.drain(..count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_parted_from_output_however_it_is_cut() {
        let text = b"WORD+.one\nWORWORWORD, WORD3 WORD is thereWORD-1.two";
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let mut marks = Marks::new("WORD");
                let (mut written, mut said) = (Vec::new(), Vec::new());
                for piece in [&text[..first], &text[first..second], &text[second..]] {
                    let (more, marked) = marks.take(piece);
                    written.extend(more);
                    said.extend(marked);
                }
                written.extend(marks.finish());
                assert_eq!(
                    String::from_utf8_lossy(&written),
                    "one\nWORWORWORD, WORD3 WORD is theretwo",
                    "{first} {second}"
                );
                assert_eq!(said, [Mark::Started, Mark::Code(-1)]);
            }
        }
    }

    #[test]
    fn what_cannot_begin_a_word_is_passed_on_at_once() {
        let mut marks = Marks::new(&word());
        // A shell says a number and a nonce, and waits for the next command.
        for last in ('0'..='9').chain('a'..='z').chain('A'..='Z').chain(['\n', '$', ' ']) {
            let text = format!("0{last}");
            assert_eq!(marks.take(text.as_bytes()), (text.into_bytes(), Vec::new()));
            assert!(!marks.holds());
        }
    }

    #[test]
    fn what_is_held_for_long_is_passed_on_once_and_what_it_began_is_no_mark() {
        let mut marks = Marks::new("WORD");
        assert_eq!(marks.take(b"one W"), (b"one ".to_vec(), Vec::new()));
        assert!(marks.holds());
        assert_eq!(marks.pass(), b"W");
        assert!(!marks.holds());
        assert_eq!(marks.take(b"ait").0, b"ait");
        assert_eq!(marks.take(b"W").0, b"");
        assert_eq!(marks.pass(), b"W");
        // The output has a byte of the mark: nobody may take it for whole.
        assert_eq!(marks.take(b"ORD0.more"), (b"more".to_vec(), Vec::new()));
        assert_eq!(marks.take(b"WORD1."), (Vec::new(), vec![Mark::Code(1)]));
        assert_eq!(marks.finish(), b"");
    }

    #[test]
    fn a_reason_is_told_in_a_word_and_a_cut_mark_is_none() {
        let mut marks = Marks::new("WORD");
        let (written, said) = marks.take(b"WORD!program.WORD12");
        assert_eq!((written.len(), said), (0, vec![Mark::Refused("program".to_owned())]));
        assert_eq!(marks.finish(), b"WORD12");
    }
}
