//! Network namespaces that several containers have: made, given away, and entered.

use std::fs;
use std::os::fd::AsFd as _;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::super::passing;
use super::super::protocol::{Identity, Network, Response, Step};
use super::failure::{Context as _, During as _, Failure};
use super::{Requester, identity, network};

/// Makes a network namespace for others, and gives it to the engine.
pub(super) fn share(requester: &Requester) -> Result<Response, Failure> {
    // SAFETY: the helper has one thread, and shares no file descriptor table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .because("make a network namespace")
        .during(Step::Namespaces)?;
    network::make(Network::None).during(Step::Network)?;
    give(requester)?;
    Ok(Response::Done)
}

/// Gives the engine the network namespace of this process, after the user namespace that it belongs to.
pub(super) fn give(requester: &Requester) -> Result<(), Failure> {
    for path in ["/proc/self/ns/user", "/proc/self/ns/net"] {
        let namespace = fs::File::open(path).at("open", path)?;
        passing::send(&requester.0, namespace.as_fd()).because("give a network away")?;
    }
    Ok(())
}

/// Enters a network that the engine gives, and the user namespace that it belongs to: it is that of a
/// helper of the same identity.
pub(super) fn join(identity: &Identity, requester: &Requester) -> Result<(), Failure> {
    let action = "enter a network";
    let user = requester.descriptor().because(action)?;
    let namespace = requester.descriptor().because(action)?;
    if *identity != Identity::Root {
        move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))
            .because(action)
            .during(Step::UserNamespace)?;
        identity::drop_groups(identity)?;
    }
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .because(action)
        .during(Step::Network)
}
