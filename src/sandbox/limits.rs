//! What a sandbox may use.

/// The least that something of a sandbox may have, in bytes.
const LEAST: u64 = 16 << 20;

/// What is divided where the memory has no limit, in bytes.
const USUAL: u64 = 2 << 30;

/// What a sandbox may use, of memory, time and processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub(super) memory: Option<u64>,
    pub(super) milli_cpus: Option<u64>,
    pub(super) pids: Option<u64>,
    /// Bytes of `/workspace`, of `/tmp`, and of the sandbox's own directory.
    pub(super) workspace: u64,
    pub(super) scratch: u64,
    pub(super) own: u64,
}

/// Why limits make no sense together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLimits {
    /// Nothing can be done with so little.
    #[error("{bytes} bytes are too few for {of}: give it 16 MiB or more")]
    TooLittle {
        /// What it is for: the memory, `/workspace` or `/tmp`.
        of: &'static str,
        /// What was given.
        bytes: u64,
    },
    /// Full directories would take the sandbox along.
    #[error(
        "/workspace ({workspace} bytes), /tmp ({tmp} bytes) and {own} bytes for results are not less than \
         the memory, {memory} bytes"
    )]
    Together {
        /// Bytes of `/workspace`.
        workspace: u64,
        /// Bytes of `/tmp`.
        tmp: u64,
        /// Bytes of the sandbox's own directory.
        own: u64,
        /// Bytes of memory.
        memory: u64,
    },
}

impl Limits {
    /// Limits all that runs in a sandbox: bytes of memory, thousandths of a processor, processes. `None` is
    /// no limit. The files of `/workspace` and `/tmp` are in memory and count: without a size, `/workspace`
    /// has half of it, and `/tmp` an eighth, at most 256 MiB.
    pub fn new(
        memory: Option<u64>,
        milli_cpus: Option<u64>,
        pids: Option<u64>,
        workspace: Option<u64>,
        tmp: Option<u64>,
    ) -> Result<Limits, BadLimits> {
        let whole = memory.unwrap_or(USUAL);
        for (of, given) in [("the memory", memory), ("/workspace", workspace), ("/tmp", tmp)] {
            if let Some(bytes) = given.filter(|bytes| *bytes < LEAST) {
                return Err(BadLimits::TooLittle { of, bytes });
            }
        }
        let workspace = workspace.unwrap_or(whole / 2);
        let scratch = tmp.unwrap_or((whole / 8).min(256 << 20));
        let own = (whole / 8).min(128 << 20);
        let together = workspace.saturating_add(scratch).saturating_add(own);
        match memory {
            Some(memory) if together >= memory => {
                Err(BadLimits::Together { workspace, tmp: scratch, own, memory })
            }
            _ => Ok(Limits { memory, milli_cpus, pids, workspace, scratch, own }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_have_their_parts_of_the_memory() {
        let limits = Limits::new(Some(2 << 30), Some(2000), Some(512), None, None).unwrap();
        let sizes = (limits.workspace, limits.scratch, limits.own);
        assert_eq!(sizes, (1 << 30, 256 << 20, 128 << 20));
        let limits = Limits::new(Some(256 << 20), None, None, None, None).unwrap();
        let sizes = (limits.workspace, limits.scratch, limits.own);
        assert_eq!(sizes, (128 << 20, 32 << 20, 32 << 20));
        let unlimited = Limits::new(None, None, None, None, None).unwrap();
        assert_eq!((unlimited.memory, unlimited.workspace), (None, 1 << 30));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let together = Limits::new(Some(512 << 20), None, None, Some(400 << 20), None);
        assert!(matches!(together, Err(BadLimits::Together { .. })), "{together:?}");
        let endless = Limits::new(Some(512 << 20), None, None, Some(u64::MAX), None);
        assert!(matches!(endless, Err(BadLimits::Together { .. })), "{endless:?}");
        let little = Limits::new(Some(2), None, None, None, None);
        assert_eq!(little, Err(BadLimits::TooLittle { of: "the memory", bytes: 2 }));
        let little = Limits::new(None, None, None, None, Some(1 << 20));
        assert_eq!(little, Err(BadLimits::TooLittle { of: "/tmp", bytes: 1 << 20 }));
    }
}
