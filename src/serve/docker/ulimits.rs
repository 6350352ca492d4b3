//! Limits of processes that a client asks for.

use bollard_stubs::models::ResourcesUlimits;
use rustix::process::{Resource, getrlimit};

use crate::engine::{ProcessLimit, ProcessResource};

use super::answer::Refusal;

/// Reads limits of processes. Those above what this process may have become that, with a warning.
pub(super) fn read(
    list: &[ResourcesUlimits],
    warnings: &mut Vec<String>,
) -> Result<Vec<ProcessLimit>, Refusal> {
    let mut limits = Vec::new();
    for limit in list {
        let name = limit.name.as_deref().unwrap_or_default();
        let known = RESOURCES.iter().find(|(known, ..)| *known == name);
        let (_, resource, of_kernel) =
            known.ok_or_else(|| Refusal::bad(format!("invalid ulimit type: {name}")))?;
        // -1 is no limit.
        let value = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        let (soft, hard) = (value(limit.soft), value(limit.hard));
        let is_more = |most: u64| hard.is_none_or(|hard| hard > most);
        if let Some(most) = getrlimit(*of_kernel).maximum.filter(|most| is_more(*most)) {
            warnings
                .push(format!("Ulimits {name}: {most}, which is the most that imgforge may give"));
        }
        limits.push(ProcessLimit { resource: *resource, soft, hard });
    }
    Ok(limits)
}

const RESOURCES: [(&str, ProcessResource, Resource); 15] = [
    ("core", ProcessResource::Core, Resource::Core),
    ("cpu", ProcessResource::Cpu, Resource::Cpu),
    ("data", ProcessResource::Data, Resource::Data),
    ("fsize", ProcessResource::Fsize, Resource::Fsize),
    ("locks", ProcessResource::Locks, Resource::Locks),
    ("memlock", ProcessResource::Memlock, Resource::Memlock),
    ("msgqueue", ProcessResource::Msgqueue, Resource::Msgqueue),
    ("nice", ProcessResource::Nice, Resource::Nice),
    ("nofile", ProcessResource::Nofile, Resource::Nofile),
    ("nproc", ProcessResource::Nproc, Resource::Nproc),
    ("rss", ProcessResource::Rss, Resource::Rss),
    ("rtprio", ProcessResource::Rtprio, Resource::Rtprio),
    ("rttime", ProcessResource::Rttime, Resource::Rttime),
    ("sigpending", ProcessResource::Sigpending, Resource::Sigpending),
    ("stack", ProcessResource::Stack, Resource::Stack),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_one_is_no_limit_and_what_is_too_much_is_said() {
        let limit = |hard| ResourcesUlimits {
            name: Some("nofile".to_owned()),
            soft: Some(1024),
            hard: Some(hard),
        };
        let mut warnings = Vec::new();
        let found = read(&[limit(-1)], &mut warnings).unwrap();
        assert_eq!((found[0].soft, found[0].hard), (Some(1024), None));
        let most = getrlimit(Resource::Nofile).maximum;
        assert_eq!(warnings.len(), usize::from(most.is_some()));
        read(&[limit(1024)], &mut warnings).unwrap();
        assert_eq!(warnings.len(), usize::from(most.is_some()), "that is given");
        let wrong = ResourcesUlimits { name: Some("nosuch".to_owned()), ..limit(1) };
        assert!(read(&[wrong], &mut warnings).is_err());
    }
}
