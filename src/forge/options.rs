//! What a forge is opened with, and what is loaded into it.

use std::path::PathBuf;
use std::sync::Arc;

use regex::Regex;

use crate::catalog::RegistryMode;
use crate::exec::Interrupt;
use crate::plan::EvaluateOptions;
use crate::plan::check::Purpose;

use super::password::{self, Password};
use super::{Notices, ShardOptions};

/// The choice of a container engine.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum, PartialEq, Eq)]
pub enum EngineChoice {
    /// Docker where one is chosen or answers, else embedded; Podman's socket is passed by
    #[default]
    Auto,
    /// Docker's API: DOCKER_HOST, a context, or its sockets
    Docker,
    /// Without a daemon: containers from Linux namespaces
    Embedded,
}

/// What a [`Forge`](super::Forge) is opened with. The default is what the command line does without options,
/// silently.
#[derive(Clone)]
pub struct ForgeOptions {
    /// The catalog; without it `images.toml` of the current directory, else the built-in one.
    pub catalog: Option<PathBuf>,
    /// Files layered over the catalog.
    pub overlays: Vec<PathBuf>,
    /// Where mirrors and the record of images are kept; without it `imgforge` in the XDG cache.
    pub state_dir: Option<PathBuf>,
    /// Whether the state directory may be on a network file system.
    pub state_on_network: bool,
    /// Where `logs/` and the results of runs go; empty is the current directory.
    pub output_dir: PathBuf,
    /// The container engine. The embedded one starts this very program as its helper: its `main` begins
    /// with [`helper::main`](crate::engine::embedded::helper::main).
    pub engine: EngineChoice,
    /// Who hears warnings and remarks.
    pub notices: Notices,
    /// Gives what ends work early. It is called when work begins that can be ended.
    pub interrupts: Arc<dyn Fn() -> Interrupt + Send + Sync>,
    /// Gives the password of a private key that is to sign.
    pub password: Arc<Password>,
}

impl Default for ForgeOptions {
    fn default() -> Self {
        ForgeOptions {
            catalog: None,
            overlays: Vec::new(),
            state_dir: None,
            state_on_network: false,
            output_dir: PathBuf::new(),
            engine: EngineChoice::Auto,
            notices: Notices::silent(),
            interrupts: Arc::new(Interrupt::default),
            password: Arc::new(password::of_environment),
        }
    }
}

/// Which instances of a dataset.
#[derive(Debug, Clone)]
pub struct Selection {
    /// `lite`, `verified`, `full`, `multilingual`, `multimodal`, `demo`, `bundle`, a Hugging Face id, or a
    /// path.
    pub dataset: String,
    /// The split of the dataset, such as `test`.
    pub split: String,
    /// These instances, else all: ids, with commas or white space between them; `@FILE` is a file of them,
    /// `@-` the standard input.
    pub instance_ids: Vec<String>,
    /// Not these; written in the same way.
    pub exclude: Vec<String>,
    /// Instances whose id matches.
    pub filter: Option<Regex>,
    /// Instances of this repository, `owner/name`.
    pub repo: Option<String>,
    /// The most instances that are chosen: the first ones.
    pub limit: Option<usize>,
}

impl Selection {
    /// Selects all instances of a dataset's split `test`.
    pub fn all(dataset: impl Into<String>) -> Selection {
        Selection {
            dataset: dataset.into(),
            split: "test".to_owned(),
            instance_ids: Vec::new(),
            exclude: Vec::new(),
            filter: None,
            repo: None,
            limit: None,
        }
    }
}

/// Where things come from and how they are called.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// Where repositories come from: URLs or directories with `{owner}`, `{name}` or `{repo}`; without any
    /// those of the catalog, else GitHub.
    pub git_mirrors: Vec<String>,
    /// The registry namespace of published images; `row` takes what rows name alone, empty or `none`
    /// builds everything. Without it that of the catalog.
    pub namespace: Option<String>,
    /// Whether published images are named by the namespace even where rows name their own.
    pub derive_images: bool,
    /// The tag of published images that are named by the namespace, where that is not `latest`.
    pub image_tag: Option<String>,
    /// `linux/amd64` or `linux/arm64`; without it that of the catalog, else the engine's own.
    pub platform: Option<String>,
    /// Whether a platform that is not the engine's own is run under a registered emulator.
    pub emulate: bool,
    /// Whether base images are made from Debian's packages where they cannot be pulled.
    pub bootstrap: bool,
    /// A registry and path that images are shared through by their keys; without it that of the catalog.
    pub cache_registry: Option<String>,
    /// Whether images come from it, those that are built go to it, or both.
    pub cache_mode: Option<RegistryMode>,
    /// Public keys: images of the registry, and of archives, count only where one of these signed them.
    /// Without any those of the catalog.
    pub verify: Vec<String>,
    /// The private key that signs what is pushed.
    pub sign: Option<PathBuf>,
}

/// What is loaded: instances with their predictions, and how their images are had.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The instances that are chosen.
    pub selection: Selection,
    /// The places that repositories and images come from.
    pub sources: SourceOptions,
    /// Files of predictions, `gold` or `empty`; without any, every instance is wanted once.
    pub predictions: Vec<String>,
    /// Whether predictions without a patch are left out.
    pub skip_empty: bool,
    /// How many images and evaluations are done at once; without it that of the catalog, else three
    /// quarters of the processors, at most 24.
    pub workers: Option<usize>,
    /// Whether something is to be built: an engine must answer, and missing `FROM` images are pulled.
    pub build: bool,
    /// A registry or an archive that images come from, instead of that of sources and catalog.
    pub remote: Option<String>,
    /// Whether what cannot be had from there is built.
    pub fallback_to_build: bool,
    /// What the instances must be good for.
    pub purpose: Purpose,
    /// The options of the tests; `None` where no tests are run.
    pub evaluate: Option<EvaluateOptions>,
    /// Bytes that must stay free on the disk.
    pub min_free: u64,
    /// Which part of the work is done; `None` is all.
    pub shard: Option<ShardOptions>,
}

impl LoadOptions {
    /// Loads what is known of the images of instances; nothing is to be built.
    pub fn of_images(selection: Selection, sources: SourceOptions) -> LoadOptions {
        LoadOptions {
            selection,
            sources,
            predictions: Vec::new(),
            skip_empty: false,
            workers: None,
            build: false,
            remote: None,
            fallback_to_build: true,
            purpose: Purpose::Images,
            evaluate: None,
            min_free: 0,
            shard: None,
        }
    }

    /// Loads instances whose images are to be built, with 2 GiB of the disk left free.
    pub fn of_build(selection: Selection, sources: SourceOptions) -> LoadOptions {
        LoadOptions { build: true, min_free: 2 << 30, ..LoadOptions::of_images(selection, sources) }
    }
}
