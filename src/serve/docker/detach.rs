//! The keys by which a client at a terminal leaves: what runs goes on.

use super::answer::Refusal;

/// What is usual: ctrl-p, ctrl-q.
const USUAL: [u8; 2] = [16, 17];

/// Looks for keys in what a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them came last.
    matched: usize,
}

impl DetachKeys {
    /// Reads keys such as `ctrl-p,ctrl-q` or `a,ctrl-]`; without any they are the usual ones.
    ///
    /// # Errors
    /// Where one is no key.
    pub(super) fn read(text: Option<&str>) -> Result<DetachKeys, Refusal> {
        let wrong = || Refusal::bad(format!("invalid detach keys: {}", text.unwrap_or_default()));
        let keys = match text.filter(|text| !text.is_empty()) {
            None => USUAL.to_vec(),
            Some(text) => {
                text.split(',').map(key).collect::<Option<Vec<u8>>>().ok_or_else(wrong)?
            }
        };
        Ok(DetachKeys { keys, matched: 0 })
    }

    /// Takes what a client sends: returns what of it is meant for the command, and whether the client
    /// leaves. Keys that may be the beginning of the sequence are held back.
    pub(super) fn take(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(self.keys.first() == Some(&byte));
            if self.matched == 0 {
                passed.push(byte);
            }
        }
        (passed, false)
    }
}

/// Reads one key.
fn key(text: &str) -> Option<u8> {
    let single = |text: &str| match text.as_bytes() {
        [byte] => Some(*byte),
        _ => None,
    };
    match text.strip_prefix("ctrl-") {
        None => single(text),
        Some("@") => Some(0),
        Some(other) => match single(other)?.to_ascii_lowercase() {
            letter @ b'a'..=b'z' => Some(letter - b'a' + 1),
            sign @ b'['..=b'_' => Some(sign - b'[' + 27),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_letters_and_those_with_ctrl() {
        let keys = |text| DetachKeys::read(Some(text)).map(|keys| keys.keys);
        assert_eq!(keys("ctrl-p,ctrl-q"), Ok(vec![16, 17]));
        assert_eq!(keys(""), Ok(vec![16, 17]));
        assert_eq!(keys("a,ctrl-@,ctrl-[,ctrl-_"), Ok(vec![b'a', 0, 27, 31]));
        for wrong in ["ab", "ctrl-1", "ctrl-", "a,,b"] {
            assert!(keys(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_keys_are_taken_off_and_their_beginnings_are_not_lost() {
        let mut keys = DetachKeys::read(Some("x,y")).unwrap();
        assert_eq!(keys.take(b"ax"), (b"a".to_vec(), false));
        assert_eq!(keys.take(b"b"), (b"xb".to_vec(), false));
        assert_eq!(keys.take(b"xx"), (b"x".to_vec(), false));
        assert_eq!(keys.take(b"y rest"), (Vec::new(), true));
    }
}
