//! Whether the limits of a sandbox are enforced: read from what the kernel says in it.
//!
//! The engine's warnings are looked at too, but their absence proves nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::EngineKind;

use super::limits::Limits;

/// Prints what [`unenforced`] reads. It is run as root, before anything else.
pub(super) const PROBE: &str = r#"
printf 'groups\n'; cat /proc/self/cgroup
printf 'uids\n'; cat /proc/self/uid_map
for file in memory.max cpu.max pids.max memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us \
cpu/cpu.cfs_period_us pids/pids.max; do
    [ -r "/sys/fs/cgroup/$file" ] && printf 'limit %s %s\n' "$file" "$(cat "/sys/fs/cgroup/$file")"
done
:
"#;

/// What is said where the tests could be root.
pub(super) const ONE_USER: &str =
    "the user 1000 is the same as root: there is one user id in the sandbox";

/// Names what is not enforced, in sentences, of the limits that were asked for. `printed` is what [`PROBE`]
/// printed. What cannot be told apart from a limit that is missing counts as missing.
pub(super) fn unenforced(
    engine: EngineKind,
    printed: &str,
    warnings: &[String],
    limits: &Limits,
) -> Vec<String> {
    let kernel = Kernel::read(printed);
    let asked = [
        ("memory", limits.memory.is_some()),
        ("cpu", limits.milli_cpus.is_some()),
        ("pids", limits.pids.is_some()),
    ];
    let within = kernel.within(limits);
    let is_enforced = |name: &str| match engine {
        EngineKind::Embedded => kernel.has_group(name),
        EngineKind::Docker | EngineKind::Fake | EngineKind::Kubernetes => within.contains(name),
    };
    let missing = asked.iter().filter(|(name, is_asked)| *is_asked && !is_enforced(name));
    let mut wrong: Vec<String> =
        missing.map(|(name, _)| format!("the limit of {name} is not enforced")).collect();
    if kernel.uids < 1001 {
        wrong.push(ONE_USER.to_owned());
    }
    wrong.extend_from_slice(warnings);
    wrong
}

/// What the kernel says of a process.
#[derive(Debug, Default)]
struct Kernel<'a> {
    /// The path of the control group, by controller; that of version 2 has no name.
    groups: BTreeMap<&'a str, &'a str>,
    /// The files of limits, by name.
    limits: BTreeMap<&'a str, &'a str>,
    /// How many user ids there are.
    uids: u64,
}

impl<'a> Kernel<'a> {
    fn read(printed: &'a str) -> Kernel<'a> {
        let mut kernel = Kernel::default();
        let mut part = "";
        for line in printed.lines() {
            let limit = line.strip_prefix("limit ").and_then(|rest| rest.split_once(' '));
            if line == "groups" || line == "uids" {
                part = line;
            } else if let Some((name, value)) = limit {
                kernel.limits.insert(name, value);
            } else if part == "groups" {
                let mut fields = line.splitn(3, ':').skip(1);
                if let (Some(controllers), Some(path)) = (fields.next(), fields.next()) {
                    kernel.groups.extend(controllers.split(',').map(|name| (name, path)));
                }
            } else if part == "uids" {
                let numbers: Vec<&str> = line.split_whitespace().collect();
                if let [_, _, count] = numbers[..] {
                    kernel.uids = kernel.uids.saturating_add(count.parse().unwrap_or(0));
                }
            }
        }
        kernel
    }

    /// Tells whether the processes are in a group that imgforge made. It makes one only with its limits:
    /// where a limit cannot be set there is no group.
    fn has_group(&self, controller: &str) -> bool {
        // Of version 1 the controller's own, else that of version 2.
        let path = self.groups.get(controller).or_else(|| self.groups.get(""));
        let name = path.and_then(|path| path.rsplit_once("/imgforge/")).map(|(_, name)| name);
        // The id of the container, and its owner.
        name.and_then(|name| name.split_once('.')).is_some_and(|(id, owner)| {
            let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            id.len() == 12 && id.bytes().all(is_digit) && !owner.is_empty() && !owner.contains('/')
        })
    }

    /// Names the limits of Docker's container that are not above those asked for.
    fn within(&self, wanted: &Limits) -> BTreeSet<&'static str> {
        let number = |names: [&str; 2]| {
            let values = names.iter().filter_map(|name| self.limits.get(name));
            values.filter_map(|value| value.parse::<u64>().ok()).next()
        };
        let is_within = |most: Option<u64>, wanted: Option<u64>| {
            most.zip(wanted).is_some_and(|(most, wanted)| most <= wanted)
        };
        let mut within = BTreeSet::new();
        if is_within(number(["memory.max", "memory/memory.limit_in_bytes"]), wanted.memory) {
            within.insert("memory");
        }
        if is_within(number(["pids.max", "pids/pids.max"]), wanted.pids) {
            within.insert("pids");
        }
        // The engine counts in thousandths of a processor.
        let cpus = self.milli_cpus().map(|most| most.saturating_sub(1));
        if is_within(cpus, wanted.milli_cpus) {
            within.insert("cpu");
        }
        within
    }

    /// Returns the limit of processor time, in thousandths of a processor, rounded up.
    fn milli_cpus(&self) -> Option<u64> {
        let of_version_1 = || {
            let file = |name| self.limits.get(name).copied();
            Some((file("cpu/cpu.cfs_quota_us")?, file("cpu/cpu.cfs_period_us")?))
        };
        let unified = self.limits.get("cpu.max").and_then(|text| text.split_once(' '));
        let (time, period) = unified.or_else(of_version_1)?;
        let (time, period) = (time.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
        (period > 0).then(|| time.saturating_mul(1000).div_ceil(period))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UIDS: &str = "uids\n         0          0 4294967295\n";
    const RANGE: &str =
        "uids\n         0       1001          1\n         1     100000      65536\n";
    const ONE: &str = "uids\n         0       1001          1\n";
    /// Root, control groups of version 1.
    const LIMITED: &str = "groups\n9:name=systemd:/\n\
         8:pids:/imgforge/54be8093a965.effffffc.14006-8073627-vaKjkR\n7:blkio:/\n\
         4:memory:/imgforge/54be8093a965.effffffc.14006-8073627-vaKjkR\n2:cpuacct:/\n\
         1:cpu:/imgforge/54be8093a965.effffffc.14006-8073627-vaKjkR\n0::/\n";
    /// A plain user on the same machine.
    const FREE: &str = "groups\n9:name=systemd:/\n8:pids:/\n\
         4:memory:/process_api/554bc479dbc098f9782b15a6396d76d3\n1:cpu:/\n0::/\n";
    const ALL: [&str; 3] = [
        "the limit of memory is not enforced",
        "the limit of cpu is not enforced",
        "the limit of pids is not enforced",
    ];

    fn limits(memory: Option<u64>, milli_cpus: Option<u64>, pids: Option<u64>) -> Limits {
        Limits { memory, milli_cpus, pids, workspace: 1, scratch: 1, own: 1 }
    }

    fn usual() -> Limits {
        limits(Some(512 << 20), Some(1500), Some(128))
    }

    fn embedded(printed: &[&str], limits: &Limits) -> Vec<String> {
        unenforced(EngineKind::Embedded, &printed.concat(), &[], limits)
    }

    fn docker(printed: &[&str], limits: &Limits) -> Vec<String> {
        unenforced(EngineKind::Docker, &printed.concat(), &[], limits)
    }

    #[test]
    fn limits_of_a_group_of_ours_are_enforced() {
        assert!(embedded(&[LIMITED, UIDS], &usual()).is_empty());
        let unified =
            "groups\n0::/user.slice/imgforge/54be8093a965.effffffc.14006-8073627-vaKjkR\n";
        assert!(embedded(&[unified, RANGE], &usual()).is_empty());
    }

    #[test]
    fn limits_without_such_a_group_are_not() {
        assert_eq!(embedded(&[FREE, RANGE], &usual()), ALL);
        assert_eq!(embedded(&[FREE, RANGE], &limits(None, Some(1500), None)), [ALL[1]]);
        assert!(embedded(&[FREE, RANGE], &limits(None, None, None)).is_empty());
        let no_pids = LIMITED.replace("8:pids:/imgforge/", "8:pids:/");
        assert_eq!(embedded(&[&no_pids, UIDS], &usual()), [ALL[2]]);
        // A group of somebody else, whose name only looks alike.
        assert_eq!(embedded(&["groups\n0::/imgforge/some\n", UIDS], &usual()), ALL);
        assert_eq!(embedded(&["groups\n0::/../54be8093a965.effffffc\n", UIDS], &usual()), ALL);
        let below = "groups\n0::/imgforge/54be8093a965.a/b\n";
        assert_eq!(embedded(&[below, UIDS], &usual()), ALL);
    }

    #[test]
    fn what_cannot_be_read_is_missing() {
        for text in ["".to_owned(), format!("groups\n{UIDS}"), format!("groups\nx\n::\n{UIDS}")] {
            assert_eq!(embedded(&[&text], &usual())[..3], ALL, "{text}");
        }
    }

    #[test]
    fn one_user_is_said() {
        assert_eq!(embedded(&[LIMITED, ONE], &usual()), [ONE_USER]);
        assert_eq!(embedded(&[LIMITED], &usual()), [ONE_USER]);
    }

    #[test]
    fn what_the_engine_says_counts() {
        let warnings = ["memory is measured".to_owned()];
        let printed = [LIMITED, UIDS].concat();
        let wrong = unenforced(EngineKind::Embedded, &printed, &warnings, &usual());
        assert_eq!(wrong, warnings);
    }

    #[test]
    fn the_files_of_limits_are_read_on_docker() {
        let first = "limit memory/memory.limit_in_bytes 536870912\n\
             limit cpu/cpu.cfs_quota_us 150000\nlimit cpu/cpu.cfs_period_us 100000\n\
             limit pids/pids.max 128\n";
        let second =
            "limit memory.max 536870912\nlimit cpu.max 150000 100000\nlimit pids.max 128\n";
        for version in [first, second] {
            assert!(docker(&[UIDS, version], &usual()).is_empty(), "{version}");
            let less = limits(Some(1), Some(500), Some(1));
            assert_eq!(docker(&[UIDS, version], &less), ALL, "{version}");
        }
        assert_eq!(docker(&[UIDS], &usual()), ALL);
        let none = "limit memory.max max\nlimit cpu.max max 100000\nlimit pids.max max\n";
        assert_eq!(docker(&[UIDS, none], &usual()), ALL);
        let none = "limit cpu/cpu.cfs_quota_us -1\nlimit cpu/cpu.cfs_period_us 100000\n";
        assert_eq!(docker(&[UIDS, none], &usual()), ALL);
    }
}
