//! The filter of system calls, after Docker's default profile
//! (<https://github.com/moby/profiles/blob/main/seccomp/default.json>).
//!
//! What the profile allows is allowed, what it needs a capability for that no container here has is
//! refused, and what neither knows is not there: programs then do without it, as on an older
//! kernel. So is `clone3`, whose flags a filter cannot see. Programs of 32 bits have a filter of
//! their own, [`compat`].

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Compare,
    SeccompCondition as Condition, SeccompFilter, SeccompRule,
};

use super::super::protocol::Identity;
use super::compat;
use super::failure::{Context as _, Failure};
use super::system_calls::{
    ALLOWED, ALLOWED_HERE, Call, FAMILIES, NAMESPACES, OWNERS, OWNERS_HERE, PERSONALITIES, REFUSED,
    REFUSED_HERE,
};

/// Installs the filters for this process and what it starts.
pub(super) fn install(identity: &Identity) -> Result<(), Failure> {
    let action = "filter system calls";
    let programs = programs(identity).map_err(|error| Failure::new(action, error.to_string()))?;
    for program in &programs {
        apply(program).because(action)?;
    }
    Ok(())
}

/// Makes the filters. Of their answers the kernel takes the strictest.
fn programs(identity: &Identity) -> Result<Vec<BpfProgram>, seccompiler::Error> {
    let any = |calls: &[&[Call]]| -> BTreeMap<i64, Vec<SeccompRule>> {
        calls.iter().flat_map(|calls| calls.iter()).map(|(_, call)| (*call, Vec::new())).collect()
    };
    let errno = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    let known = any(&[ALLOWED, ALLOWED_HERE, REFUSED, REFUSED_HERE]);
    let mut refused = any(&[REFUSED, REFUSED_HERE]);
    let mut rules = Vec::new();
    for flag in NAMESPACES {
        let flag = u64::from(flag.unsigned_abs());
        let set = Condition::new(0, Length::Qword, Compare::MaskedEq(flag), flag)?;
        rules.push(SeccompRule::new(vec![set])?);
    }
    refused.insert(libc::SYS_clone, rules);
    let others: Result<Vec<_>, _> = PERSONALITIES
        .iter()
        .map(|value| Condition::new(0, Length::Dword, Compare::Ne, *value))
        .collect();
    refused.insert(libc::SYS_personality, vec![SeccompRule::new(others?)?]);
    // The kernel reads a family as an `int`.
    let foreign: Result<Vec<_>, _> = FAMILIES
        .iter()
        .map(|family| {
            Condition::new(0, Length::Dword, Compare::Ne, u64::from(family.unsigned_abs()))
        })
        .collect();
    let foreign = vec![SeccompRule::new(foreign?)?];
    let sockets =
        BTreeMap::from([(libc::SYS_socket, foreign.clone()), (libc::SYS_socketpair, foreign)]);
    let arch = std::env::consts::ARCH.try_into()?;
    let mut filters = vec![
        SeccompFilter::new(sockets, SeccompAction::Allow, errno(libc::EAFNOSUPPORT), arch)?,
        SeccompFilter::new(known, errno(libc::ENOSYS), SeccompAction::Allow, arch)?,
        SeccompFilter::new(refused, SeccompAction::Allow, errno(libc::EPERM), arch)?,
    ];
    if identity.one_owner() {
        let owners = any(&[OWNERS, OWNERS_HERE]);
        filters.push(SeccompFilter::new(owners, SeccompAction::Allow, errno(0), arch)?);
    }
    let program = |filter: SeccompFilter| Ok(filter.try_into()?);
    let programs: Result<Vec<BpfProgram>, seccompiler::Error> =
        filters.into_iter().map(program).collect();
    let mut programs = programs?;
    programs.iter_mut().for_each(compat::leave_to_others);
    programs.push(compat::filter(identity.one_owner()));
    Ok(programs)
}

/// Installs one filter. Unlike [`seccompiler::apply_filter`] it leaves it to the container whether
/// new privileges can be had.
fn apply(program: &BpfProgram) -> io::Result<()> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).expect("a filter has at most 4096 instructions"),
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `sock_filter` of the crate is the kernel's structure, and both live through the call,
    // which only reads them.
    let set = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter)
    };
    if set == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_both_allowed_and_refused_and_the_filters_are_small_enough() {
        let allowed: Vec<_> = [ALLOWED, ALLOWED_HERE].concat();
        for call in [REFUSED, REFUSED_HERE].concat() {
            assert!(!allowed.contains(&call), "{call:?}");
        }
        let programs = programs(&Identity::Single { uid: 1, gid: 1 }).unwrap();
        assert_eq!(programs.len(), 5);
        assert!(programs.iter().all(|program| program.len() <= 4096));
    }
}
