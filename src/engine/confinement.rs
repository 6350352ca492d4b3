//! What lets this process make no containers, in words.

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

impl Confinement {
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
