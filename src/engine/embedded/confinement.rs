//! Why this machine lets this process make no containers, and what helps.
//!
//! A helper says at which [`Step`] the kernel refused, and with which error number. What stands in
//! the way is then read from where the process is: `/proc/self/status`, the kernel's switches, the
//! marks of containers.

use std::fs;
use std::path::Path;

use super::protocol::Step;
use crate::engine::{Confinement, ContainerKind};

/// Where this process is, as far as it matters for containers.
#[derive(Debug, Clone, Default)]
struct Place {
    container: Option<ContainerKind>,
    seccomp: bool,
    profile: Option<String>,
    restricted: bool,
    switched_off: bool,
    /// `user.max_…_namespaces` by kind.
    most_namespaces: Vec<(&'static str, u64)>,
    root: bool,
}

impl Confinement {
    /// Finds out what stands in the way, after the kernel refused a step; `None` when the error says
    /// nothing about what this process may do.
    pub(super) fn find(step: Step, errno: Option<i32>) -> Option<Confinement> {
        Self::at(step, errno, &Place::here())
    }

    fn at(step: Step, errno: Option<i32>, place: &Place) -> Option<Confinement> {
        let denied = matches!(errno, Some(libc::EPERM | libc::EACCES));
        let makes_namespaces = matches!(step, Step::UserNamespace | Step::Namespaces);
        let Some(errno) = errno else {
            return (step == Step::MapIds).then_some(Confinement::Ids);
        };
        if makes_namespaces && matches!(errno, libc::ENOSPC | libc::EUSERS) {
            return Some(place.limit(step));
        }
        // A kernel without them.
        if makes_namespaces && matches!(errno, libc::ENOSYS | libc::EINVAL) {
            return Some(Confinement::Kernel);
        }
        if !denied {
            return None;
        }
        let of_container = place.profile.as_deref().is_some_and(is_of_containers);
        // Capabilities and filters of containers are refused with the other number.
        let by_module = errno == libc::EACCES || place.restricted || place.profile.is_some();
        Some(if let Some(kind) = place.container.filter(|_| of_container || !by_module) {
            Confinement::Container(kind)
        } else if by_module {
            Confinement::SecurityModule {
                profile: place.profile.clone(),
                restricted: place.restricted,
            }
        } else if place.seccomp {
            Confinement::Seccomp
        } else if step == Step::UserNamespace && place.switched_off {
            Confinement::Switch
        } else if place.root {
            Confinement::Capabilities
        } else {
            Confinement::Kernel
        })
    }
}

/// The kinds of namespaces that containers have, by the names of their limits.
const KINDS: [&str; 6] = ["user", "mnt", "pid", "net", "ipc", "uts"];

impl Place {
    /// Returns the limit that a step met: of those that it may have been, the lowest.
    fn limit(&self, step: Step) -> Confinement {
        let of_user = step == Step::UserNamespace;
        let known = self.most_namespaces.iter().filter(|(kind, _)| (*kind == "user") == of_user);
        let lowest = known.min_by_key(|(_, most)| *most);
        let kind = lowest.map_or(if of_user { "user" } else { "*" }, |(kind, _)| *kind);
        Confinement::Limit {
            name: format!("user.max_{kind}_namespaces"),
            most: lowest.map(|(_, most)| *most),
        }
    }

    fn here() -> Place {
        let number = |name: &str| {
            fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse::<u64>().ok()
        };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let profile = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"];
        let profile = profile.iter().find_map(|path| fs::read_to_string(path).ok());
        let kubernetes = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        let exists = |path: &str| Path::new(path).exists();
        Place {
            container: if kubernetes {
                Some(ContainerKind::Kubernetes)
            } else if exists("/run/.containerenv") {
                Some(ContainerKind::Podman)
            } else {
                exists("/.dockerenv").then_some(ContainerKind::Docker)
            },
            seccomp: filtered(&status),
            profile: profile.as_deref().and_then(confining),
            restricted: number("kernel/apparmor_restrict_unprivileged_userns")
                .is_some_and(|value| value != 0),
            switched_off: number("kernel/unprivileged_userns_clone") == Some(0),
            most_namespaces: KINDS
                .iter()
                .filter_map(|kind| Some((*kind, number(&format!("user/max_{kind}_namespaces"))?)))
                .collect(),
            root: rustix::process::geteuid().is_root(),
        }
    }
}

/// Tells whether this process is in a container.
pub(super) fn in_container() -> bool {
    Place::here().container.is_some()
}

/// Tells whether programs that this process starts can gain no privileges.
pub(super) fn has_no_new_privileges() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("NoNewPrivs:").is_some_and(|set| set.trim() == "1"))
}

/// Tells from `/proc/PID/status` whether a seccomp filter is installed.
fn filtered(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

/// Tells whether a profile of AppArmor is one that container engines give their containers.
fn is_of_containers(profile: &str) -> bool {
    ["docker-default", "cri-containerd.apparmor.d", "crio-default", "nerdctl-default"]
        .contains(&profile)
        || profile.starts_with("containers-default-")
}

/// Returns the name of a profile of AppArmor that confines, of a text such as `name (enforce)`.
fn confining(text: &str) -> Option<String> {
    let text = text.trim_matches(['\0', '\n', ' ']);
    text.strip_suffix(" (enforce)").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPERM: Option<i32> = Some(libc::EPERM);
    const EACCES: Option<i32> = Some(libc::EACCES);
    const FULL: Option<i32> = Some(libc::ENOSPC);

    fn limit(name: &str, most: Option<u64>) -> Confinement {
        Confinement::Limit { name: name.to_owned(), most }
    }

    fn module(profile: Option<&str>, restricted: bool) -> Confinement {
        Confinement::SecurityModule { profile: profile.map(str::to_owned), restricted }
    }

    #[test]
    fn what_stands_in_the_way_is_told_by_step_number_and_place() {
        let plain = Place::default;
        let docker = Place { container: Some(ContainerKind::Docker), seccomp: true, ..plain() };
        let full = Place {
            most_namespaces: vec![("user", 0), ("net", 9), ("pid", 0)],
            container: docker.container,
            ..plain()
        };
        let filter = Place { seccomp: true, ..plain() };
        let profile = Some("imgforge".to_owned());
        let cases = [
            (
                Step::UserNamespace,
                EPERM,
                Place { switched_off: true, ..plain() },
                Confinement::Switch,
            ),
            (Step::UserNamespace, FULL, full.clone(), limit("user.max_user_namespaces", Some(0))),
            (Step::Namespaces, FULL, full.clone(), limit("user.max_pid_namespaces", Some(0))),
            (Step::Namespaces, Some(libc::EUSERS), plain(), limit("user.max_*_namespaces", None)),
            (
                Step::UserNamespace,
                EPERM,
                docker.clone(),
                Confinement::Container(ContainerKind::Docker),
            ),
            // The namespace was made: it is no filter of Docker's.
            (Step::Mount, EACCES, docker.clone(), module(None, false)),
            (
                Step::Mount,
                EACCES,
                Place { profile: Some("docker-default".to_owned()), seccomp: false, ..docker },
                Confinement::Container(ContainerKind::Docker),
            ),
            (Step::UserNamespace, EPERM, filter.clone(), Confinement::Seccomp),
            // As on Ubuntu 24.04: the namespace is there, and nothing may be done in it.
            (Step::Mount, EACCES, filter, module(None, false)),
            (Step::Groups, EPERM, Place { restricted: true, ..plain() }, module(None, true)),
            (Step::MapIds, EACCES, Place { restricted: true, ..plain() }, module(None, true)),
            (
                Step::UserNamespace,
                EPERM,
                Place { profile, ..plain() },
                module(Some("imgforge"), false),
            ),
            (Step::MapIds, None, plain(), Confinement::Ids),
            (Step::MapIds, EPERM, Place { root: true, ..plain() }, Confinement::Capabilities),
            (Step::UserNamespace, EPERM, plain(), Confinement::Kernel),
            (Step::UserNamespace, Some(libc::EINVAL), plain(), Confinement::Kernel),
        ];
        for (step, errno, place, right) in cases {
            assert_eq!(Confinement::at(step, errno, &place), Some(right), "{step:?} {errno:?}");
        }
    }

    #[test]
    fn a_full_disk_or_a_missing_file_says_nothing_of_what_is_allowed() {
        let place = Place { seccomp: true, ..Place::default() };
        assert_eq!(Confinement::at(Step::Mount, FULL, &place), None);
        assert_eq!(Confinement::at(Step::Mount, Some(libc::ENOENT), &place), None);
        assert_eq!(Confinement::at(Step::Mount, None, &place), None);
    }

    #[test]
    fn a_filter_and_a_profile_are_read_as_the_kernel_writes_them() {
        assert!(filtered("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!filtered("Seccomp:\t0\n"));
        assert_eq!(confining("docker-default (enforce)\n").as_deref(), Some("docker-default"));
        assert_eq!(confining("unconfined\n"), None);
        assert_eq!(confining("imgforge (unconfined)\0"), None);
        assert_eq!(confining("kernel (complain)\n"), None);
    }
}
