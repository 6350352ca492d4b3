//! How a sandbox is started: the fixed part, and what may be chosen.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::{Quotas, SandboxNetwork, SessionRequest, SessionSettings, Tmpfs};
use crate::session::egress::AllowList;
use crate::session::order::{Repository, SessionOrder};

use super::limits::Limits;

/// Where repositories are.
pub(super) const WORKSPACE: &str = "/workspace";

/// The home of the user.
pub(super) const HOME: &str = "/workspace/.home";

/// What is the sandbox's own: only root writes to it.
pub(super) const OWN: &str = "/.imgforge";

/// Whom commands run as.
pub(super) const USER: &str = "1000:1000";

/// The same, as a number for the user and for the group.
pub(super) const OWNER: u32 = 1000;

/// The settings of git of all users: repositories of an image are root's.
pub(super) const GIT_CONFIG: &str =
    "[safe]\n\tdirectory = *\n[user]\n\tname = sandbox\n\temail = sandbox@localhost\n";

/// How a sandbox is started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The image.
    pub image: String,
    /// What it may use.
    pub limits: Limits,
    /// For each command; then the whole sandbox ends.
    pub time_limit: Duration,
    /// What it can reach.
    pub network: SandboxNetwork,
    /// The hosts that it may reach, where it has a way out.
    pub allowed: Option<AllowList>,
    /// Further environment variables; none come from this process. See [`Settings::check_variable`].
    pub variables: BTreeMap<String, String>,
    /// Whether a sandbox is taken whose limits are not enforced.
    pub unenforced: bool,
}

/// A variable that a sandbox does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the variable {0} is for the loader, and would count for root of the sandbox too")]
pub struct BadVariable(String);

impl Settings {
    /// Checks the name of a variable.
    pub fn check_variable(name: &str) -> Result<(), BadVariable> {
        match name.starts_with("LD_") {
            true => Err(BadVariable(name.to_owned())),
            false => Ok(()),
        }
    }

    /// Returns the session that the sandbox is.
    pub(super) fn order(&self) -> SessionOrder {
        let in_memory = |target: &str, size, mode, executable| Tmpfs {
            target: target.to_owned(),
            size: Some(size),
            mode,
            executable,
            read_only: false,
        };
        let mut variables = self.own_variables();
        variables.extend(self.variables.clone());
        let limits = &self.limits;
        let request = SessionRequest {
            image: self.image.clone(),
            user: Some(USER.to_owned()),
            memory: limits.memory,
            milli_cpus: limits.milli_cpus,
            pids: limits.pids,
            quotas: Quotas::default(),
            network: self.network,
            loopback_names: Vec::new(),
            variables,
            labels: BTreeMap::new(),
            settings: SessionSettings {
                working_dir: Some(WORKSPACE.to_owned()),
                tmpfs: vec![
                    in_memory(WORKSPACE, limits.workspace, 0o755, true),
                    in_memory("/tmp", limits.scratch, 0o1777, true),
                    in_memory(OWN, limits.own, 0o755, false),
                ],
                read_only: true,
                ..SessionSettings::default()
            },
        };
        SessionOrder {
            name: None,
            instance: None,
            request,
            allowed: self.allowed.clone(),
            publish: Vec::new(),
            ttl_seconds: None,
            idle_seconds: None,
            // Nothing of the image is asked for one.
            repository: Some(Repository { directory: WORKSPACE.to_owned(), base: None }),
        }
    }

    fn own_variables(&self) -> BTreeMap<String, String> {
        let mut variables: BTreeMap<String, String> = [
            ("HOME", HOME.to_owned()),
            ("GIT_CONFIG_SYSTEM", format!("{OWN}/gitconfig")),
            ("GIT_TERMINAL_PROMPT", "0".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if let Some(milli_cpus) = self.limits.milli_cpus {
            // The limit is one of time, so that all processors are seen: this is what programs read.
            let most = milli_cpus.div_ceil(1000).max(1).to_string();
            for name in ["OMP_NUM_THREADS", "PYTHON_CPU_COUNT", "PYTEST_XDIST_AUTO_NUM_WORKERS"] {
                variables.insert(name.to_owned(), most.clone());
            }
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_loader_are_refused() {
        assert!(Settings::check_variable("LD_PRELOAD").is_err());
        assert!(Settings::check_variable("STAGE").is_ok());
    }

    #[test]
    fn programs_are_told_how_many_processors_they_have() {
        let limits = Limits::new(Some(1 << 30), Some(1500), None, None, None).unwrap();
        let settings = Settings {
            image: "i".to_owned(),
            limits,
            time_limit: Duration::from_secs(60),
            network: SandboxNetwork::None,
            allowed: None,
            variables: [("HOME".to_owned(), "/tmp".to_owned())].into(),
            unenforced: false,
        };
        let variables = settings.order().request.variables;
        assert_eq!(variables["OMP_NUM_THREADS"], "2");
        // What the caller says wins.
        assert_eq!(variables["HOME"], "/tmp");
    }
}
