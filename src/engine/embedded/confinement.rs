//! Why this machine lets this process make no containers, and what helps.
//!
//! A helper says at which [`Step`] the kernel refused, and with which error number. What stands in
//! the way is then read from where the process is: `/proc/self/status`, the kernel's switches, the
//! marks of containers.

use std::fs;
use std::path::Path;

use super::protocol::Step;

/// What lets this process make no containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confinement {
    /// Debian's switch `kernel.unprivileged_userns_clone` is off.
    Switch,
    /// A limit of namespaces is zero, or reached.
    Limit {
        /// The name of the limit, as `user.max_user_namespaces`.
        name: String,
        /// Its value, where it can be read.
        most: Option<u64>,
    },
    /// AppArmor, or another security module, refuses what is done in a user namespace.
    SecurityModule {
        /// The profile of AppArmor that this process runs under, where it is one.
        profile: Option<String>,
        /// Whether `kernel.apparmor_restrict_unprivileged_userns` is on.
        restricted: bool,
    },
    /// A seccomp filter that was there when imgforge started.
    Seccomp,
    /// It runs in a container that may not make others.
    Container(ContainerKind),
    /// A range of ids that the system's files give, and that `newuidmap` or `newgidmap` does not.
    Ids,
    /// This process lacks capabilities that root has.
    Capabilities,
    /// Nothing of these: the kernel does not have it, or refuses it.
    Kernel,
}

/// What the container is that imgforge runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerKind {
    /// One of Docker.
    Docker,
    /// One of Podman.
    Podman,
    /// One of a pod.
    Kubernetes,
}

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

    /// Says it in a sentence.
    pub fn text(&self) -> String {
        match self {
            Confinement::Switch => "the kernel allows plain users no user namespaces \
                 (`kernel.unprivileged_userns_clone` is 0)"
                .to_owned(),
            Confinement::Limit { name, most: Some(0) } => {
                format!("the kernel allows no such namespaces (`{name}` is 0)")
            }
            Confinement::Limit { name, most: Some(most) } => {
                format!("the kernel's limit of namespaces is reached (`{name}` is {most})")
            }
            Confinement::Limit { name, most: None } => {
                format!("the kernel's limit of namespaces is reached (`{name}`)")
            }
            Confinement::SecurityModule { profile: Some(profile), .. } => {
                format!("AppArmor's profile `{profile}` allows no containers")
            }
            Confinement::SecurityModule { profile: None, restricted: true } => {
                "AppArmor restricts the user namespaces of plain users".to_owned()
            }
            Confinement::SecurityModule { .. } => {
                "a security module, as AppArmor or SELinux, allows no containers".to_owned()
            }
            Confinement::Seccomp => {
                "a seccomp filter of what started imgforge allows no containers".to_owned()
            }
            Confinement::Container(kind) => {
                let what = match kind {
                    ContainerKind::Docker => "a container of Docker",
                    ContainerKind::Podman => "a container of Podman",
                    ContainerKind::Kubernetes => "a container of Kubernetes",
                };
                format!("this is {what}, which may not make containers")
            }
            Confinement::Ids => "the system gives this user no range of ids".to_owned(),
            Confinement::Capabilities => {
                "this root lacks capabilities that containers need".to_owned()
            }
            Confinement::Kernel => "the kernel allows plain users no containers".to_owned(),
        }
    }

    /// Says what helps here.
    pub fn fix(&self) -> String {
        let or_else = "run as root, or use Docker";
        match self {
            Confinement::Switch => {
                format!("`sudo sysctl kernel.unprivileged_userns_clone=1`, {or_else}")
            }
            Confinement::Limit { name, .. } => {
                format!("`sudo sysctl {name}=15000` (in a container: on its host), or use Docker")
            }
            Confinement::SecurityModule { profile, .. } => {
                let other = match profile {
                    Some(_) => String::new(),
                    None => "; for all programs: `sudo sysctl \
                             kernel.apparmor_restrict_unprivileged_userns=0`"
                        .to_owned(),
                };
                format!(
                    "with AppArmor, give this program a profile: `imgforge doctor \
                     --apparmor-profile | sudo tee /etc/apparmor.d/imgforge && sudo \
                     apparmor_parser -r /etc/apparmor.d/imgforge`{other}; else {or_else}"
                )
            }
            Confinement::Seccomp => {
                "start imgforge without that filter (of systemd: `SystemCallFilter=` and \
                 `RestrictNamespaces=`), or use Docker"
                    .to_owned()
            }
            Confinement::Container(ContainerKind::Kubernetes) => {
                "set `securityContext.privileged: true` and mount a volume as the state directory \
                 (IMGFORGE_STATE_DIR), or let DOCKER_HOST name an engine"
                    .to_owned()
            }
            Confinement::Container(kind) => {
                let program = match kind {
                    ContainerKind::Podman => "podman",
                    _ => "docker",
                };
                format!(
                    "start it with `{program} run --privileged` and a volume for the state \
                     directory, with `--security-opt seccomp=unconfined --security-opt \
                     apparmor=unconfined` for containers with one user, or with the engine's \
                     socket mounted"
                )
            }
            Confinement::Ids => {
                "correct the lines of this user in /etc/subuid and /etc/subgid, or remove them: \
                 containers then have one user"
                    .to_owned()
            }
            Confinement::Capabilities => {
                "run as a plain user, or as root with all capabilities, or use Docker".to_owned()
            }
            Confinement::Kernel => {
                format!("use a kernel with user namespaces (`CONFIG_USER_NS`), {or_else}")
            }
        }
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
