//! Networks that several sessions share.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// A network of its own: loopback, and whoever is in it. It lives as long as this value and the sessions
/// in it do; no process keeps it.
#[derive(Debug)]
pub struct SharedNetwork {
    user: OwnedFd,
    network: OwnedFd,
}

impl SharedNetwork {
    /// A network by its Linux namespaces: that of users which it belongs to, and its own.
    pub(super) fn of(user: OwnedFd, network: OwnedFd) -> SharedNetwork {
        SharedNetwork { user, network }
    }

    /// Returns its namespaces, in the order in which they are entered.
    pub(super) fn namespaces(&self) -> [BorrowedFd<'_>; 2] {
        [self.user.as_fd(), self.network.as_fd()]
    }

    /// Tells whether another value is the same network.
    pub fn is(&self, other: &SharedNetwork) -> bool {
        let id = |network: &OwnedFd| {
            rustix::fs::fstat(network).map(|found| (found.st_dev, found.st_ino))
        };
        matches!((id(&self.network), id(&other.network)), (Ok(one), Ok(two)) if one == two)
    }
}
