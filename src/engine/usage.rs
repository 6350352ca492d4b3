//! What a session uses, and what it may use from now on.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What a session uses at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time since its beginning, in nanoseconds. Without a control group it is that of the
    /// processes that are there.
    pub cpu_nanos: u64,
    /// Of that, in the kernel.
    pub system_nanos: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// The most it was, where that is measured.
    pub most_memory: Option<u64>,
    /// Processes and threads.
    pub processes: u64,
    /// Bytes on the disk of what differs from the image.
    pub written: u64,
}

impl Usage {
    /// Returns it as programs get it: times in milliseconds, sizes in bytes.
    pub fn document(&self) -> Value {
        json!({
            "cpu_ms": self.cpu_nanos / 1_000_000,
            "system_cpu_ms": self.system_nanos / 1_000_000,
            "memory_bytes": self.memory,
            "most_memory_bytes": self.most_memory,
            "processes": self.processes,
            "written_bytes": self.written,
        })
    }
}

/// Limits of a session that runs. What is not set stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewLimits {
    /// Bytes of memory of all processes, swap included.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub milli_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}
