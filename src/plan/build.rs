//! From instances to a graph of keyed nodes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use petgraph::graph::{DiGraph, NodeIndex};

use crate::catalog::{Catalog, CatalogError, Environment};
use crate::dataset::Instance;
use crate::dockerfile;
use crate::key::{Key, Kind};
use crate::recipe::base::BOOTSTRAPPED;
use crate::recipe::{
    BaseRecipe, CheckoutRecipe, EnvRecipe, InstanceRecipe, PublishedRecipe, Recipe,
};

use super::error::PlanError;
use super::options::{EvaluateOptions, PlanOptions};
use super::work::Work;
use super::{Node, Plan, Status, Target, evaluation, name};

/// Makes one plan: equal keys become one node.
pub struct Planner<'a> {
    catalog: &'a Catalog,
    options: PlanOptions,
    base_identities: &'a BTreeMap<String, String>,
    graph: DiGraph<Node, ()>,
    by_key: HashMap<Key, NodeIndex>,
    ids: HashMap<String, NodeIndex>,
    environments: HashMap<(String, String, String), (Arc<Environment>, NodeIndex)>,
    bases: Vec<PlannedBase>,
    targets: Vec<Target>,
}

impl<'a> Planner<'a> {
    /// Starts a plan. `base_identities` are those of the `FROM` images that are known, by reference.
    pub fn new(
        catalog: &'a Catalog,
        options: PlanOptions,
        base_identities: &'a BTreeMap<String, String>,
    ) -> Self {
        Planner {
            catalog,
            options,
            base_identities,
            graph: DiGraph::new(),
            by_key: HashMap::new(),
            ids: HashMap::new(),
            environments: HashMap::new(),
            bases: Vec::new(),
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
        let below = &self.graph[image];
        let recipe =
            evaluation::recipe(self.catalog, &self.options.platform, work, below, options, repeat)?;
        Ok(self.node(Draft {
            id: evaluation::id(work, repeat),
            image: Some(below.image.clone()),
            ..Draft::new(Recipe::Evaluation(recipe), Some(image))
        }))
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
        let image = Some(reference);
        Ok(self.node(Draft { id, image, aliases, ..Draft::new(recipe, None) }))
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
        let checkout = self.node(Draft { id, ..Draft::new(Recipe::Checkout(checkout), Some(env)) });
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
        Ok(self.node(Draft { id, ..Draft::new(Recipe::Instance(recipe), Some(checkout)) }))
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
        let (base, said) = self.base(&environment);
        if self.options.up_to == Kind::Base {
            self.environments.insert(found, (environment.clone(), base));
            return Ok((environment, base));
        }
        let platform = &self.options.platform;
        let env = EnvRecipe::new(&environment, self.graph[base].key, setup_commit, platform)
            .with_python(said.as_deref());
        let mut notes = environment.notes.clone();
        notes.extend(env.stand_in());
        if env.is_unlocked() {
            notes.push("unlocked: packages depend on the day of the build".to_owned());
        }
        let id = format!("env:{}@{}", instance.repo, version);
        let node = self.node(Draft { id, notes, ..Draft::new(Recipe::Env(env), Some(base)) });
        self.environments.insert(found, (environment.clone(), node));
        Ok((environment, node))
    }

    /// Returns the node of an environment's base, and the Python that its images say they have. Many
    /// environments stand on few bases: each is read once.
    fn base(&mut self, environment: &Arc<Environment>) -> (NodeIndex, Option<String>) {
        let known = |planned: &&PlannedBase| planned.environment.base == environment.base;
        if let Some(planned) = self.bases.iter().find(known) {
            return (planned.node, planned.python.clone());
        }
        let identity = |reference: &str| self.base_identities.get(reference).cloned();
        let recipe = BaseRecipe::new(&environment.base, &self.options.platform, &identity);
        let id = format!("base:{}", recipe.name);
        let made = |(reference, identity): (&String, &Option<String>)| {
            let what = identity.as_deref()?.strip_prefix(BOOTSTRAPPED)?;
            Some(format!("`{reference}` is {what}"))
        };
        let notes = recipe.from.iter().filter_map(made).collect();
        let python = recipe.python().map(str::to_owned);
        let node = self.node(Draft { id, notes, ..Draft::new(Recipe::Base(recipe), None) });
        let environment = environment.clone();
        self.bases.push(PlannedBase { environment, node, python: python.clone() });
        (node, python)
    }

    /// Returns the node of a draft, new or not: equal keys are one node, whatever they are called.
    fn node(&mut self, draft: Draft) -> NodeIndex {
        let document = draft.recipe.document();
        let key = document.key();
        if let Some(index) = self.by_key.get(&key) {
            return *index;
        }
        let Draft { id, recipe, parent, image, aliases, notes } = draft;
        // One name can stand for two keys: one commit in two environments.
        let id = if self.ids.contains_key(&id) { format!("{id}#{}", key.short()) } else { id };
        let image = image.unwrap_or_else(|| name::image(recipe.kind(), &key));
        let index = self.graph.add_node(Node {
            id: id.clone(),
            recipe,
            key,
            document,
            image,
            aliases,
            status: Status::Stale(Vec::new()),
            instances: Vec::new(),
            notes,
        });
        if let Some(parent) = parent {
            self.graph.add_edge(parent, index, ());
        }
        self.by_key.insert(key, index);
        self.ids.insert(id, index);
        index
    }
}

/// A base that has its node.
struct PlannedBase {
    /// The first environment that stands on it.
    environment: Arc<Environment>,
    node: NodeIndex,
    /// The Python that its images say they have.
    python: Option<String>,
}

/// A node before its key is known.
struct Draft {
    id: String,
    recipe: Recipe,
    parent: Option<NodeIndex>,
    /// The name of its image; `None` is the one that follows from the key.
    image: Option<String>,
    aliases: Vec<String>,
    notes: Vec<String>,
}

impl Draft {
    fn new(recipe: Recipe, parent: Option<NodeIndex>) -> Draft {
        Draft {
            id: String::new(),
            recipe,
            parent,
            image: None,
            aliases: Vec::new(),
            notes: Vec::new(),
        }
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
