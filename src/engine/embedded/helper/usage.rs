//! What a container uses: by its control group, else by its processes.

use std::fs;
use std::path::Path;

use super::super::protocol::{Root, Storage};
use super::failure::{Context as _, Failure};
use super::{cgroup, root};
use crate::engine::Usage;

/// Measures what differs from the image on the disk. The directory of snapshots is the current one.
pub(super) fn written(of: &Root) -> u64 {
    match of.storage {
        Storage::Overlay => crate::disk::usage(&of.scratch.join(root::UPPER)).unwrap_or(0),
        // All of it is a copy.
        Storage::Copy => 0,
    }
}

/// Reads the control group; `None` where there is none.
pub(super) fn of_group(group: &cgroup::Group) -> Option<Usage> {
    let (directories, is_unified) = group.directories()?;
    let text = |name: &str| {
        directories.iter().find_map(|directory| fs::read_to_string(directory.join(name)).ok())
    };
    let number = |name: &str| text(name)?.trim().parse::<u64>().ok();
    let field = |name: &str, key: &str| {
        let text = text(name)?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line?.trim().parse::<u64>().ok()
    };
    let zero = |number: Option<u64>| number.unwrap_or(0);
    Some(match is_unified {
        true => Usage {
            cpu_nanos: zero(field("cpu.stat", "usage_usec")) * 1000,
            system_nanos: zero(field("cpu.stat", "system_usec")) * 1000,
            memory: zero(number("memory.current")),
            most_memory: number("memory.peak"),
            processes: zero(number("pids.current")),
            written: 0,
        },
        false => Usage {
            cpu_nanos: zero(number("cpuacct.usage")),
            system_nanos: zero(number("cpuacct.usage_sys")),
            memory: zero(number("memory.usage_in_bytes")),
            most_memory: number("memory.max_usage_in_bytes"),
            processes: zero(number("pids.current")),
            written: 0,
        },
    })
}

/// Adds up what the processes of a process namespace use, by `/proc`, which is the container's own.
pub(super) fn of_processes(namespace: &str) -> Result<Usage, Failure> {
    let ticks = rustix::param::clock_ticks_per_second();
    let page = rustix::param::page_size() as u64;
    let mut usage = Usage::default();
    for entry in fs::read_dir("/proc").at("read", "/proc")?.flatten() {
        let directory = entry.path();
        let is_of_it =
            fs::read_link(directory.join("ns/pid")).is_ok_and(|link| link.as_os_str() == namespace);
        if is_of_it {
            add(&directory, &mut usage, 1_000_000_000 / ticks.max(1), page);
        }
    }
    Ok(usage)
}

/// Adds what a process uses, and those that it waited for; one that has ended adds nothing.
fn add(directory: &Path, usage: &mut Usage, tick_nanos: u64, page: u64) {
    let Ok(stat) = fs::read_to_string(directory.join("stat")) else { return };
    let Some((_, fields)) = stat.rsplit_once(") ") else { return };
    let fields: Vec<&str> = fields.split(' ').collect();
    let number = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let (user, system) = (number(11) + number(13), number(12) + number(14));
    usage.cpu_nanos += (user + system) * tick_nanos;
    usage.system_nanos += system * tick_nanos;
    usage.processes += number(17);
    usage.memory += number(21) * page;
}
