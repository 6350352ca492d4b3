//! Keys of sessions: who shows the key of a session may use it from outside this user's files.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use subtle::ConstantTimeEq as _;

/// The key of one session: 64 hexadecimal digits that nobody can guess.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey(String);

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessKey(…)")
    }
}

impl AccessKey {
    /// Makes a key.
    pub(super) fn new() -> AccessKey {
        AccessKey(hex::encode(rand::random::<[u8; 32]>()))
    }

    /// Returns its text, for whoever may have it.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Tells whether somebody showed this key. How long that takes says nothing about the key.
    pub fn is(&self, shown: &str) -> bool {
        self.0.as_bytes().ct_eq(shown.as_bytes()).into()
    }

    /// Reads the key of a file; `None` where there is no file.
    pub(super) fn read(path: &Path) -> io::Result<Option<AccessKey>> {
        match fs::read_to_string(path) {
            // An empty one would be a key that anybody has.
            Ok(text) if text.len() < 32 => Err(io::Error::other("it is no key")),
            Ok(text) => Ok(Some(AccessKey(text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it to a new file that only its owner can read.
    pub(super) fn write_new(&self, path: &Path) -> io::Result<()> {
        // Whole or not there: a reader never finds half a key.
        let aside = path.with_extension(format!("{}", std::process::id()));
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(self.0.as_bytes())?;
        let linked = fs::hard_link(&aside, path);
        fs::remove_file(&aside)?;
        linked
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_read_back_by_its_owner_alone_and_no_other_text_is_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert!(AccessKey::read(&path).unwrap().is_none());
        let key = AccessKey::new();
        key.write_new(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(AccessKey::read(&path).unwrap().as_ref(), Some(&key));
        assert!(key.is(key.text()) && key != AccessKey::new());
        for other in ["", &key.text()[1..], &format!("{}0", key.text())] {
            assert!(!key.is(other), "{other}");
        }
        assert!(!format!("{key:?}").contains(key.text()));
        // A second one does not replace the first.
        assert!(AccessKey::new().write_new(&path).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        fs::write(&path, "").unwrap();
        assert!(AccessKey::read(&path).is_err());
    }
}
