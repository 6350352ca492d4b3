//! Where tests are run: on this machine, or as pods of a cluster.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

#[cfg(not(feature = "kubernetes"))]
use anyhow::anyhow;
use clap::{Args, ValueEnum};

use crate::forge::RunnerChoice;
#[cfg(feature = "kubernetes")]
use crate::runner::kubernetes::config::Settings;
#[cfg(feature = "kubernetes")]
use crate::runner::kubernetes::template::Template;

use super::help::heading;
#[cfg(feature = "kubernetes")]
use super::open;
use super::{Error, Global};

/// Where tests and sessions are run, and of what.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::RUN)]
pub(super) struct RunnerArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// A partial Pod with what the cluster asks for: queue, scheduler, tolerations
    #[arg(long, value_name = "FILE", env = "IMGFORGE_POD_TEMPLATE")]
    pod_template: Option<PathBuf>,
}

/// Where tests are run.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::RUN)]
pub(super) struct ClusterArgs {
    /// Where tests and sessions are run
    #[arg(long, value_enum, default_value_t, env = "IMGFORGE_RUNNER")]
    runner: Where,
    /// The context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", env = "IMGFORGE_KUBE_CONTEXT")]
    kube_context: Option<String>,
    /// The namespace of the pods [default: that of the context]
    #[arg(long, value_name = "NS", env = "IMGFORGE_KUBE_NAMESPACE")]
    kube_namespace: Option<String>,
}

/// Where tests are run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Where {
    /// On the engine
    #[default]
    Local,
    /// As pods of a cluster, with images from --cache-registry
    Kubernetes,
}

impl RunnerArgs {
    /// Returns the choice as the library takes it.
    ///
    /// # Errors
    /// A template that is refused; pods, in a program without them.
    pub(super) fn choice(&self, global: &Global) -> Result<RunnerChoice, Error> {
        self.cluster.choice(global, self.pod_template.as_deref())
    }

    /// Returns the options that choose the same in another process.
    pub(super) fn words(&self) -> Vec<OsString> {
        let ClusterArgs { runner, kube_context, kube_namespace } = &self.cluster;
        let runner = match runner {
            Where::Local => "local",
            Where::Kubernetes => "kubernetes",
        };
        let mut words: Vec<OsString> = vec!["--runner".into(), runner.into()];
        for (option, value) in
            [("--kube-context", kube_context), ("--kube-namespace", kube_namespace)]
        {
            words.extend(value.iter().flat_map(|value| [option.into(), value.into()]));
        }
        let template = self.pod_template.iter();
        words.extend(template.flat_map(|path| ["--pod-template".into(), path.into()]));
        words
    }
}

impl ClusterArgs {
    /// Returns the choice as the library takes it, with a template of pods.
    ///
    /// # Errors
    /// A template that is refused; pods, in a program without them.
    pub(super) fn choice(
        &self,
        global: &Global,
        template: Option<&Path>,
    ) -> Result<RunnerChoice, Error> {
        match self.runner {
            Where::Local => Ok(RunnerChoice::Local),
            Where::Kubernetes => self.kubernetes(global, template),
        }
    }

    #[cfg(feature = "kubernetes")]
    fn kubernetes(&self, global: &Global, template: Option<&Path>) -> Result<RunnerChoice, Error> {
        let catalog = open::catalog(global)?;
        let defaults = catalog.kubernetes();
        let template = template.or(defaults.pod_template.as_deref()).map(Template::read);
        let template = template.transpose().map_err(|error| {
            let hint = error.hint();
            Error::input(error).with_hint(hint)
        })?;
        let built_in = Settings::default();
        Ok(RunnerChoice::Kubernetes(Box::new(Settings {
            context: self.kube_context.clone().or(defaults.context.clone()),
            namespace: self.kube_namespace.clone().or(defaults.namespace.clone()),
            template: template.unwrap_or_default(),
            pull_secret: defaults.pull_secret.clone(),
            start_limit: defaults.start_limit.unwrap_or(built_in.start_limit),
            request_memory: defaults.request_memory.unwrap_or(built_in.request_memory),
            request_milli_cpus: defaults.request_milli_cpus.unwrap_or(built_in.request_milli_cpus),
            keep_failed: defaults.keep_failed.unwrap_or(built_in.keep_failed),
        })))
    }

    #[cfg(not(feature = "kubernetes"))]
    fn kubernetes(&self, _: &Global, _: Option<&Path>) -> Result<RunnerChoice, Error> {
        let error = anyhow!("this imgforge was built without Kubernetes");
        Err(Error::input(error).with_hint(Some(
            "build it with that: `cargo install --path . --features kubernetes`".to_owned(),
        )))
    }
}
