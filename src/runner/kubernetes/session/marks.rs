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

/// Parts what a command writes from the marks in it, however it is cut into pieces.
pub(super) struct Marks {
    word: Vec<u8>,
    held: Vec<u8>,
}

impl Marks {
    pub(super) fn new(word: &str) -> Marks {
        Marks { word: word.as_bytes().to_vec(), held: Vec::new() }
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
                    written.extend_from_slice(&self.held[..at]);
                    marks.push(mark);
                    self.held.drain(..at + self.word.len() + end + 1);
                }
                None if behind.len() < LONGEST => {
                    // The rest of it is on its way.
                    written.extend(self.held.drain(..at));
                    return (written, marks);
                }
                // The command itself wrote it.
                Some((_, None)) | None => {
                    written.extend(self.held.drain(..at + self.word.len()));
                }
            }
        }
        let most = self.held.len().min(self.word.len() - 1);
        let waits = (0..=most).rev().find(|count| {
            let begins = &self.held[self.held.len() - count..];
            self.word.starts_with(begins)
        });
        let passed = self.held.len() - waits.unwrap_or(0);
        written.extend(self.held.drain(..passed));
        (written, marks)
    }

    /// Returns what is held, when nothing more comes.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
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
    fn a_reason_is_told_in_a_word_and_a_cut_mark_is_none() {
        let mut marks = Marks::new("WORD");
        let (written, said) = marks.take(b"WORD!program.WORD12");
        assert_eq!((written.len(), said), (0, vec![Mark::Refused("program".to_owned())]));
        assert_eq!(marks.finish(), b"WORD12");
    }
}
