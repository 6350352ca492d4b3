//! Entering the namespaces of a container.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

use super::failure::{Context as _, Failure};

/// The namespaces of a process.
pub(super) struct Namespaces {
    process: Pid,
    pidfd: OwnedFd,
}

impl Namespaces {
    /// Those of a process that lives.
    pub(super) fn of(process: Pid) -> Result<Namespaces, Failure> {
        let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty());
        Ok(Namespaces { process, pidfd: pidfd.because("find the container")? })
    }

    /// Returns what becomes readable when the process ends.
    pub(super) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Moves this process into some of the namespaces; into that of processes, its children.
    pub(super) fn enter(&self, wanted: ThreadNameSpaceType) -> Result<(), Failure> {
        let action = "enter the container";
        match rustix::thread::move_into_thread_name_spaces(self.pidfd.as_fd(), wanted) {
            // Before Linux 5.8 it is one at a time, by its file.
            Err(rustix::io::Errno::INVAL) => {}
            entered => return entered.because(action),
        }
        for (one, name, kind) in [
            (ThreadNameSpaceType::PROCESS_ID, "pid", LinkNameSpaceType::ProcessID),
            (ThreadNameSpaceType::NETWORK, "net", LinkNameSpaceType::Network),
            (
                ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
                "ipc",
                LinkNameSpaceType::InterProcessCommunication,
            ),
            (
                ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
                "uts",
                LinkNameSpaceType::HostNameAndNISDomainName,
            ),
            // The last: the files of the host's `/proc` are gone then.
            (ThreadNameSpaceType::MOUNT, "mnt", LinkNameSpaceType::Mount),
        ] {
            if wanted.contains(one) {
                let path = format!("/proc/{}/ns/{name}", self.process.as_raw_nonzero());
                let file = fs::File::open(&path).at("open", &path)?;
                rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind))
                    .because(action)?;
            }
        }
        Ok(())
    }
}
