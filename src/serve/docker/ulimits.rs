//! Limits of processes that a client asks for.

use bollard_stubs::models::ResourcesUlimits;

use crate::engine::{ProcessLimit, ProcessResource};

use super::answer::Refusal;

/// Reads limits of processes.
pub(super) fn read(list: &[ResourcesUlimits]) -> Result<Vec<ProcessLimit>, Refusal> {
    let read = |limit: &ResourcesUlimits| {
        let name = limit.name.as_deref().unwrap_or_default();
        let resource = RESOURCES.iter().find(|(known, _)| *known == name);
        let (_, resource) =
            resource.ok_or_else(|| Refusal::bad(format!("invalid ulimit type: {name}")))?;
        // -1 is no limit.
        let value = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        Ok(ProcessLimit { resource: *resource, soft: value(limit.soft), hard: value(limit.hard) })
    };
    list.iter().map(read).collect()
}

const RESOURCES: [(&str, ProcessResource); 15] = [
    ("core", ProcessResource::Core),
    ("cpu", ProcessResource::Cpu),
    ("data", ProcessResource::Data),
    ("fsize", ProcessResource::Fsize),
    ("locks", ProcessResource::Locks),
    ("memlock", ProcessResource::Memlock),
    ("msgqueue", ProcessResource::Msgqueue),
    ("nice", ProcessResource::Nice),
    ("nofile", ProcessResource::Nofile),
    ("nproc", ProcessResource::Nproc),
    ("rss", ProcessResource::Rss),
    ("rtprio", ProcessResource::Rtprio),
    ("rttime", ProcessResource::Rttime),
    ("sigpending", ProcessResource::Sigpending),
    ("stack", ProcessResource::Stack),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_one_is_no_limit() {
        let limit =
            ResourcesUlimits { name: Some("nofile".to_owned()), soft: Some(1024), hard: Some(-1) };
        let found = read(&[limit]).unwrap();
        assert_eq!((found[0].soft, found[0].hard), (Some(1024), None));
    }
}
