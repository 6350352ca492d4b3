//! From instances to a graph of keyed nodes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use petgraph::graph::{DiGraph, NodeIndex};

use crate::catalog::{Catalog, CatalogError, Environment, Network};
use crate::dataset::{Instance, Patch};
use crate::dockerfile;
use crate::grade::Family;
use crate::key::{Key, Kind};
use crate::patch::touched;
use crate::recipe::base::BOOTSTRAPPED;
use crate::recipe::script::{
    Place, enter, eval_script, reset_tests, restore_tests, test_patch_file,
};
use crate::recipe::strict;
use crate::recipe::{
    BaseRecipe, CheckoutRecipe, EnvRecipe, EvaluationRecipe, InstanceRecipe, PublishedRecipe,
    Recipe, RunLimits, RunNetwork, TESTBED,
};
use crate::size::Bound;

use super::{Node, Plan, Status, Target, name};

/// One image to be had: an instance, with a model patch or without.
#[derive(Debug, Clone)]
pub struct Work {
    /// The instance.
    pub instance: Arc<Instance>,
    /// The prediction's patch and model.
    pub prediction: Option<ModelPatch>,
}

/// The part of a prediction that an image is made of.
#[derive(Debug, Clone)]
pub struct ModelPatch {
    /// `model_name_or_path`: for the node's id, not for the key.
    pub model: String,
    /// The patch.
    pub patch: Patch,
}

/// How a plan is made.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// Such as `linux/amd64`.
    pub platform: String,
    /// Where published images come from; `None` builds everything.
    pub namespace: Option<String>,
    /// Whether published images are named by the namespace even where rows name their own.
    pub derive_images: bool,
    /// The tag of images that are named by the namespace, where that is not `latest`; then they are
    /// named by it even where rows name their own.
    pub image_tag: Option<String>,
    /// The last layer that is wanted: nodes above it are left out.
    pub up_to: Kind,
    /// How instances are evaluated; `None` stops at their images.
    pub evaluate: Option<EvaluateOptions>,
}

/// How instances are evaluated.
#[derive(Debug, Clone, Default)]
pub struct EvaluateOptions {
    /// Seconds, instead of the catalog's.
    pub timeout: Option<u64>,
    /// Bytes of memory, instead of the catalog's.
    pub memory: Option<u64>,
    /// Thousandths of a processor, instead of the catalog's.
    pub milli_cpus: Option<u64>,
    /// Processes, instead of the catalog's.
    pub pids: Option<u64>,
    /// Bytes of files, instead of what is built in.
    pub disk: Option<Bound>,
    /// Files, instead of what is built in.
    pub files: Option<Bound>,
    /// Bytes of the log, instead of what is built in.
    pub log_size: Option<Bound>,
    /// The network, instead of the catalog's.
    pub network: Option<RunNetwork>,
    /// See [`EvaluationRecipe::strict`].
    pub strict: bool,
    /// How often every instance is run, at least once.
    pub repeat: u32,
    /// Whose rules the tests are prepared for.
    pub family: Family,
    /// See [`EvaluationRecipe::emulator`].
    pub emulator: Option<String>,
    /// The ids of published images that are here, by reference.
    pub image_ids: BTreeMap<String, String>,
}

/// An instance that cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The catalog does not say how it is built.
    #[error("instance `{instance_id}` cannot be planned")]
    Catalog {
        /// The instance.
        instance_id: String,
        /// Why.
        #[source]
        source: Box<CatalogError>,
    },
    /// Images come from the rows alone, and this one names none.
    #[error("instance `{instance_id}` names no image for this platform")]
    NoImage {
        /// The instance.
        instance_id: String,
    },
    /// The published name is not one that an engine takes.
    #[error("instance `{instance_id}`: `{reference}` is not a valid image name")]
    Name {
        /// The instance.
        instance_id: String,
        /// The name.
        reference: String,
    },
    /// The strict rules need the parts of its script.
    #[error("instance `{instance_id}` cannot be evaluated under `--strict`")]
    Script {
        /// The instance.
        instance_id: String,
        /// What is not read.
        #[source]
        source: strict::UnreadableScript,
    },
}

/// Makes plans.
pub struct Planner<'a> {
    catalog: &'a Catalog,
    options: PlanOptions,
    from: &'a BTreeMap<String, String>,
    graph: DiGraph<Node, ()>,
    by_key: HashMap<Key, NodeIndex>,
    ids: HashMap<String, NodeIndex>,
    environments: HashMap<(String, String, String), (Arc<Environment>, NodeIndex)>,
    targets: Vec<Target>,
}

impl<'a> Planner<'a> {
    /// Starts a plan. `from` gives the identity of the content of every `FROM` image that is known.
    pub fn new(
        catalog: &'a Catalog,
        options: PlanOptions,
        from: &'a BTreeMap<String, String>,
    ) -> Self {
        Planner {
            catalog,
            options,
            from,
            graph: DiGraph::new(),
            by_key: HashMap::new(),
            ids: HashMap::new(),
            environments: HashMap::new(),
            targets: Vec::new(),
        }
    }

    /// Plans `work`, in its order. All nodes are stale until [`Plan::assess`] looks at them.
    ///
    /// # Errors
    /// All instances that cannot be planned.
    pub fn plan(mut self, work: &[Work]) -> Result<Plan, Vec<PlanError>> {
        let mut errors = Vec::new();
        for (number, item) in work.iter().enumerate() {
            if let Err(error) = self.add(number, item) {
                errors.push(error);
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Plan { graph: self.graph, platform: self.options.platform, targets: self.targets })
    }

    /// Lists what cannot be planned, by its position in `work`.
    pub fn unplannable(mut self, work: &[Work]) -> Vec<(usize, PlanError)> {
        let added = work.iter().enumerate().map(|(number, item)| (number, self.add(number, item)));
        added.filter_map(|(number, added)| Some((number, added.err()?))).collect()
    }

    fn add(&mut self, number: usize, work: &Work) -> Result<(), PlanError> {
        let image = if self.options.namespace.is_some() {
            self.add_published(&work.instance)?
        } else {
            self.add_built(work)?
        };
        let Some(options) = self.options.evaluate.clone() else {
            self.add_target(number, work, 0, image);
            return Ok(());
        };
        for repeat in 0..options.repeat.max(1) {
            let run = self.add_evaluation(work, image, &options, repeat)?;
            self.add_target(number, work, repeat, run);
        }
        Ok(())
    }

    fn add_target(&mut self, number: usize, work: &Work, repeat: u32, node: NodeIndex) {
        let instance_id = &work.instance.instance_id;
        let mut next = Some(node);
        while let Some(index) = next {
            let instances = &mut self.graph[index].instances;
            if instances.last() != Some(instance_id) {
                instances.push(instance_id.clone());
            }
            next = self.graph.neighbors_directed(index, petgraph::Direction::Incoming).next();
        }
        self.targets.push(Target { work: number, repeat, node });
    }

    fn add_evaluation(
        &mut self,
        work: &Work,
        image: NodeIndex,
        options: &EvaluateOptions,
        repeat: u32,
    ) -> Result<NodeIndex, PlanError> {
        let instance = &*work.instance;
        let environment =
            self.catalog.environment(&instance.repo, &instance.version, Some(instance));
        let published = match &self.graph[image].recipe {
            Recipe::Published(recipe) => Some(recipe.reference.clone()),
            _ => None,
        };
        let environment = match environment {
            Ok(environment) => Some(environment),
            // A published image with a script of its own needs nothing of the catalog.
            Err(_) if published.is_some() && instance.eval_script.is_some() => None,
            Err(source) => {
                let instance_id = instance.instance_id.clone();
                return Err(PlanError::Catalog { instance_id, source: Box::new(source) });
            }
        };
        let defaults = self.catalog.defaults();
        let set = environment.as_ref().map(|environment| environment.limits);
        let set = set.unwrap_or_else(|| defaults.limits());
        let default = RunLimits::default();
        let network = environment.as_ref().map(|environment| environment.network);
        let network = match network.or(defaults.network) {
            None | Some(Network::None) => RunNetwork::None,
            Some(Network::Bridge) => RunNetwork::Bridge,
            Some(Network::Host) => RunNetwork::Host,
            // The service is part of the environment that is built here.
            Some(Network::Httpbin) if published.is_some() => RunNetwork::Bridge,
            Some(Network::Httpbin) => RunNetwork::Httpbin,
        };
        let network = options.network.unwrap_or(network);
        let model_patch =
            work.prediction.as_ref().map(|model| model.patch.clone()).unwrap_or_default();
        let directory = match published {
            Some(_) => instance.workdir.as_deref().unwrap_or(TESTBED),
            None => TESTBED,
        };
        let place = match published {
            Some(_) => Place::Published {
                directory,
                model_patch: &model_patch,
                network: matches!(network, RunNetwork::Bridge | RunNetwork::Host),
            },
            None => Place::Built,
        };
        let script = eval_script(instance, environment.as_ref(), place)
            .expect("there is a script or an environment");
        let mut prologue = reset_tests(instance, place).unwrap_or_default();
        if options.family == Family::Swesmith {
            prologue.push_str(&restore_tests(instance).unwrap_or_default());
        }
        let separated = match options.strict {
            true => Some(Arc::new(strict::separate(&script, directory).map_err(|source| {
                let instance_id = instance.instance_id.clone();
                PlanError::Script { instance_id, source }
            })?)),
            false => None,
        };
        let test_paths = match options.strict {
            true => touched(instance.test_patch.as_bytes()).paths.into_iter().collect(),
            false => Vec::new(),
        };
        let patch = published.as_ref().and_then(|_| model_patch.non_blank());
        // A row's own script goes where it wants; all else happens in the repository.
        let inside = patch.is_some()
            || !prologue.is_empty()
            || instance.eval_script.is_none()
            || options.strict;
        let enter = if inside { enter(place, instance) } else { String::new() };
        let recipe = EvaluationRecipe {
            parent: self.graph[image].key,
            instance_id: instance.instance_id.clone(),
            script: script.into(),
            directory: directory.into(),
            enter: enter.into(),
            prologue: (!prologue.is_empty()).then(|| prologue.into()),
            patch,
            test_patch: test_patch_file(instance, place),
            image_id: published.and_then(|reference| options.image_ids.get(&reference).cloned()),
            limits: RunLimits {
                timeout: options.timeout.or(set.timeout).unwrap_or(default.timeout),
                memory: options.memory.or(set.memory).or(default.memory),
                milli_cpus: options.milli_cpus.or(set.milli_cpus).or(default.milli_cpus),
                pids: options.pids.or(set.pids).or(default.pids),
                disk: options.disk.map_or(default.disk, Bound::most),
                files: options.files.map_or(default.files, Bound::most),
                log_size: options.log_size.map_or(default.log_size, Bound::most),
            },
            network,
            strict: separated,
            test_paths: test_paths.into(),
            repeat,
            platform: self.options.platform.clone(),
            emulator: options.emulator.clone(),
        };
        let mut id = format!("evaluation:{}", instance.instance_id);
        if let Some(prediction) = &work.prediction {
            id.push('+');
            id.push_str(&prediction.model);
        }
        if repeat > 0 {
            id.push_str(&format!(" (run {})", repeat + 1));
        }
        let name = self.graph[image].image.clone();
        Ok(self
            .node(id, Recipe::Evaluation(recipe), Some(image), || (name, Vec::new(), Vec::new())))
    }

    fn add_published(&mut self, instance: &Instance) -> Result<NodeIndex, PlanError> {
        let platform = self.options.platform.clone();
        let namespace = self.options.namespace.as_deref().expect("called with a namespace");
        // The row's own image is the one that its tests were made with, in whatever namespace; but
        // not where it says that it is for another architecture.
        let own = instance.image.as_deref().map(name::normal);
        let own = own.filter(|image| platform == "linux/amd64" || !image.contains(".x86_64."));
        let reference = match (own, namespace) {
            (Some(own), _) if !self.options.derive_images && self.options.image_tag.is_none() => {
                own
            }
            (_, name::ROW) => {
                let instance_id = instance.instance_id.clone();
                return Err(PlanError::NoImage { instance_id });
            }
            _ => name::published(
                namespace,
                &instance.instance_id,
                &platform,
                self.options.image_tag.as_deref(),
            ),
        };
        if !name::is_valid(&reference) {
            let instance_id = instance.instance_id.clone();
            return Err(PlanError::Name { instance_id, reference });
        }
        let aliases = vec![name::alias(&instance.instance_id, &platform)];
        let recipe = Recipe::Published(PublishedRecipe { reference: reference.clone(), platform });
        let id = format!("instance:{}", instance.instance_id);
        let index = self.node(id, recipe, None, || (reference, aliases, Vec::new()));
        Ok(index)
    }

    fn add_built(&mut self, work: &Work) -> Result<NodeIndex, PlanError> {
        let instance = &*work.instance;
        let platform = self.options.platform.clone();
        let (environment, env) = self.environment(instance).map_err(|source| {
            PlanError::Catalog { instance_id: instance.instance_id.clone(), source }
        })?;
        if self.options.up_to <= Kind::Env {
            return Ok(env);
        }
        let parent = self.graph[env].key;
        let checkout = CheckoutRecipe::new(&environment, parent, &instance.base_commit, &platform);
        let commit = instance.base_commit.get(..12).unwrap_or(&instance.base_commit);
        let id = format!("checkout:{}@{commit}", instance.repo);
        let checkout = self.named(id, Recipe::Checkout(checkout), Some(env), Vec::new());
        let alias = name::alias(&instance.instance_id, &platform);
        let aliases = &mut self.graph[checkout].aliases;
        if !aliases.contains(&alias) {
            aliases.push(alias);
        }
        if self.options.up_to == Kind::Checkout {
            return Ok(checkout);
        }
        let model_patch = work.prediction.as_ref().and_then(|model| model.patch.non_blank());
        let recipe = InstanceRecipe {
            parent: self.graph[checkout].key,
            repo: instance.repo.clone(),
            base_commit: instance.base_commit.clone(),
            test_patch: instance.test_patch.non_blank(),
            model_patch,
            platform,
        };
        let id = match &work.prediction {
            Some(prediction) => format!("instance:{}+{}", instance.instance_id, prediction.model),
            None => format!("instance:{}", instance.instance_id),
        };
        Ok(self.named(id, Recipe::Instance(recipe), Some(checkout), Vec::new()))
    }

    /// Returns the environment of an instance, and its node; only the base's where no more is wanted.
    fn environment(
        &mut self,
        instance: &Instance,
    ) -> Result<(Arc<Environment>, NodeIndex), Box<CatalogError>> {
        let own = instance.install_config.is_some() || instance.requirements.is_some();
        let setup_commit =
            instance.environment_setup_commit.as_ref().unwrap_or(&instance.base_commit);
        // A row with its own recipe is an environment of its own, until its key says otherwise.
        let version = if own { &instance.instance_id } else { &instance.version };
        // So has one that the catalog names.
        let alone = own
            || self.catalog.names_instance(
                &instance.repo,
                &instance.version,
                &instance.instance_id,
            );
        let name = if alone { &instance.instance_id } else { version };
        let found = (instance.repo.clone(), name.clone(), setup_commit.clone());
        if let Some((environment, node)) = self.environments.get(&found) {
            return Ok((environment.clone(), *node));
        }
        let environment = Arc::new(self.catalog.environment(
            &instance.repo,
            &instance.version,
            Some(instance),
        )?);
        let platform = self.options.platform.clone();
        let identity = |reference: &str| self.from.get(reference).cloned();
        let base = BaseRecipe::new(&environment.base, &platform, &identity);
        let base_id = format!("base:{}", base.name);
        let made = |(reference, identity): (&String, &Option<String>)| {
            let what = identity.as_deref()?.strip_prefix(BOOTSTRAPPED)?;
            Some(format!("`{reference}` is {what}"))
        };
        let made = base.from.iter().filter_map(made).collect();
        let said = base.python().map(str::to_owned);
        let base = self.named(base_id, Recipe::Base(base), None, made);
        if self.options.up_to == Kind::Base {
            self.environments.insert(found, (environment.clone(), base));
            return Ok((environment, base));
        }
        let env = EnvRecipe::new(&environment, self.graph[base].key, setup_commit, &platform)
            .with_python(said.as_deref());
        let mut notes = environment.notes.clone();
        notes.extend(env.stand_in());
        if env.is_unlocked() {
            notes.push("unlocked: packages depend on the day of the build".to_owned());
        }
        let env_id = format!("env:{}@{}", instance.repo, version);
        let node = self.named(env_id, Recipe::Env(env), Some(base), notes);
        self.environments.insert(found, (environment.clone(), node));
        Ok((environment, node))
    }

    /// Adds a node with a name of ours.
    fn named(
        &mut self,
        id: String,
        recipe: Recipe,
        parent: Option<NodeIndex>,
        notes: Vec<String>,
    ) -> NodeIndex {
        let kind = recipe.kind();
        let document = recipe.document();
        let key = document.key();
        self.keyed(id, recipe, parent, key, document, || {
            (name::image(kind, &key), Vec::new(), notes)
        })
    }

    fn node(
        &mut self,
        id: String,
        recipe: Recipe,
        parent: Option<NodeIndex>,
        names: impl FnOnce() -> (String, Vec<String>, Vec<String>),
    ) -> NodeIndex {
        let document = recipe.document();
        let key = document.key();
        self.keyed(id, recipe, parent, key, document, names)
    }

    /// Returns the node of a key, new or not: equal keys are one node, whatever they are called.
    fn keyed(
        &mut self,
        id: String,
        recipe: Recipe,
        parent: Option<NodeIndex>,
        key: Key,
        document: crate::key::KeyDocument,
        names: impl FnOnce() -> (String, Vec<String>, Vec<String>),
    ) -> NodeIndex {
        if let Some(index) = self.by_key.get(&key) {
            return *index;
        }
        let (image, aliases, notes) = names();
        // One name can stand for two keys: one commit in two environments.
        let id = if self.ids.contains_key(&id) { format!("{id}#{}", key.short()) } else { id };
        let node = Node {
            id: id.clone(),
            recipe,
            key,
            document,
            image,
            aliases,
            status: Status::Stale(Vec::new()),
            instances: Vec::new(),
            notes,
        };
        let index = self.graph.add_node(node);
        if let Some(parent) = parent {
            self.graph.add_edge(parent, index, ());
        }
        self.by_key.insert(key, index);
        self.ids.insert(id, index);
        index
    }
}

/// Lists the `FROM` images that `work` stands on, each once.
///
/// # Errors
/// The first instance that the catalog cannot resolve.
pub fn from_images(catalog: &Catalog, work: &[Work]) -> Result<Vec<String>, PlanError> {
    let mut seen: HashMap<(&str, &str), ()> = HashMap::new();
    let mut images = Vec::new();
    for item in work {
        let instance = &*item.instance;
        let own = instance.install_config.is_some() || instance.requirements.is_some();
        let (repo, version) = (&instance.repo, &instance.version);
        let alone = own || catalog.names_instance(repo, version, &instance.instance_id);
        if !alone && seen.insert((repo, version), ()).is_some() {
            continue;
        }
        let environment = catalog
            .environment(&instance.repo, &instance.version, Some(instance))
            .map_err(|source| PlanError::Catalog {
                instance_id: instance.instance_id.clone(),
                source: source.into(),
            })?;
        let base = &environment.base;
        for image in dockerfile::external_images(&base.dockerfile, &base.args) {
            if !images.contains(&image) {
                images.push(image);
            }
        }
    }
    Ok(images)
}
