//! What the command of a container may do: user, capabilities, limits of its own.

use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::super::protocol::{Container, Identity};
use super::failure::{Context as _, Failure};
use super::users::User;
use crate::engine::{ProcessLimit, ProcessResource};

/// Files that a process may have open, where the system allows as many.
const OPEN_FILES: u64 = 1 << 16;

/// Drops what the command does not need, capabilities last: the filter of system calls is installed
/// with them, so that it does not take away the privileges of set-user-id programs where they may
/// be had.
pub(super) fn limit(
    request: &Container,
    identity: &Identity,
    user: &User,
    grouped: bool,
) -> Result<(), Failure> {
    limit_resources(request, grouped)?;
    if request.no_new_privileges {
        rustix::thread::set_no_new_privs(true).because("give up new privileges")?;
    }
    let kept = request.capabilities & !request.settings.dropped_capabilities;
    let kept = CapabilitySet::from_bits_retain(kept);
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Beyond the last one that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error).because("bound the capabilities"),
        }
    }
    rustix::thread::clear_ambient_capability_set().because("clear ambient capabilities")?;
    super::seccomp::install(identity)?;
    if !identity.one_owner() {
        let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        rustix::thread::set_thread_groups(&groups).because("set the groups")?;
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid).because("set the group")?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).because("set the user")?;
    }
    let effective = if user.uid == 0 { kept } else { CapabilitySet::empty() };
    let sets =
        CapabilitySets { effective, permitted: effective, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).because("drop capabilities")
}

fn limit_resources(request: &Container, grouped: bool) -> Result<(), Failure> {
    let set = |resource: Resource, wanted: u64| {
        let limit = rustix::process::getrlimit(resource);
        let value = limit.maximum.map_or(wanted, |most| most.min(wanted));
        let new = Rlimit { current: Some(value), maximum: Some(value) };
        rustix::process::setrlimit(resource, new).because("limit resources")
    };
    set(Resource::Nofile, OPEN_FILES)?;
    set(Resource::Core, 0)?;
    for limit in &request.settings.process_limits {
        limit_process(limit)?;
    }
    if let Some(file) = request.quotas.file {
        set(Resource::Fsize, file)?;
    }
    if !grouped {
        // Without a control group, each process for itself; memory is measured.
        if let Some(pids) = request.limits.pids {
            set(Resource::Nproc, pids)?;
        }
    }
    Ok(())
}

/// Sets a limit as far as this process may: nothing above its own hard limit.
fn limit_process(wanted: &ProcessLimit) -> Result<(), Failure> {
    let resource = resource(wanted.resource);
    let most = rustix::process::getrlimit(resource).maximum;
    let within = |value: Option<u64>, most: Option<u64>| match (value, most) {
        (Some(value), Some(most)) => Some(value.min(most)),
        (value, most) => value.or(most),
    };
    let maximum = within(wanted.hard, most);
    let new = Rlimit { current: within(wanted.soft, maximum), maximum };
    rustix::process::setrlimit(resource, new).because("limit resources")
}

fn resource(of: ProcessResource) -> Resource {
    match of {
        ProcessResource::Core => Resource::Core,
        ProcessResource::Cpu => Resource::Cpu,
        ProcessResource::Data => Resource::Data,
        ProcessResource::Fsize => Resource::Fsize,
        ProcessResource::Locks => Resource::Locks,
        ProcessResource::Memlock => Resource::Memlock,
        ProcessResource::Msgqueue => Resource::Msgqueue,
        ProcessResource::Nice => Resource::Nice,
        ProcessResource::Nofile => Resource::Nofile,
        ProcessResource::Nproc => Resource::Nproc,
        ProcessResource::Rss => Resource::Rss,
        ProcessResource::Rtprio => Resource::Rtprio,
        ProcessResource::Rttime => Resource::Rttime,
        ProcessResource::Sigpending => Resource::Sigpending,
        ProcessResource::Stack => Resource::Stack,
    }
}
