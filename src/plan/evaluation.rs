//! The recipe of an evaluation: from an instance, a prediction and the image below it.

use std::sync::Arc;

use crate::catalog::{Catalog, Environment, Network};
use crate::dataset::Instance;
use crate::grade::Family;
use crate::patch::touched;
use crate::platform::Platform;
use crate::recipe::script::{
    Place, enter, eval_script, reset_tests, restore_tests, test_patch_file,
};
use crate::recipe::strict::{self, Separated};
use crate::recipe::{EvaluationRecipe, Recipe, RunLimits, RunNetwork, TESTBED};
use crate::size::Bound;

use super::Node;
use super::error::PlanError;
use super::options::EvaluateOptions;
use super::work::Work;

/// Returns the id of the node of an evaluation.
pub(super) fn id(work: &Work, repeat: u32) -> String {
    let mut id = format!("evaluation:{}", work.instance.instance_id);
    if let Some(prediction) = &work.prediction {
        id.push('+');
        id.push_str(&prediction.model);
    }
    if repeat > 0 {
        id.push_str(&format!(" (run {})", repeat + 1));
    }
    id
}

/// Makes the recipe of one run of an evaluation on an image.
///
/// # Errors
/// The catalog does not know the environment of the instance, or the strict rules do not read its script.
pub(super) fn recipe(
    catalog: &Catalog,
    platform: &Platform,
    work: &Work,
    image: &Node,
    options: &EvaluateOptions,
    repeat: u32,
) -> Result<EvaluationRecipe, PlanError> {
    let instance = &*work.instance;
    let published = match &image.recipe {
        Recipe::Published(recipe) => Some(recipe.reference.clone()),
        _ => None,
    };
    let environment = environment(catalog, instance, published.is_some())?;
    let default_network = default_network(catalog, environment.as_ref(), published.is_some());
    let network = options.network.unwrap_or(default_network);
    let model_patch = work.prediction.as_ref().map(|model| model.patch.clone()).unwrap_or_default();
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
    let strict = match options.strict {
        true => Some(separate(instance, &script, directory)?),
        false => None,
    };
    let test_paths = match options.strict {
        true => touched(instance.test_patch.as_bytes()).paths.into_iter().collect(),
        false => Vec::new(),
    };
    let patch = published.as_ref().and_then(|_| model_patch.non_blank());
    // A row's own script goes where it wants; all else happens in the repository.
    let inside =
        patch.is_some() || !prologue.is_empty() || instance.eval_script.is_none() || options.strict;
    let enter = if inside { enter(place, instance) } else { String::new() };
    Ok(EvaluationRecipe {
        parent: image.key,
        instance_id: instance.instance_id.clone(),
        script: script.into(),
        directory: directory.into(),
        enter: enter.into(),
        prologue: (!prologue.is_empty()).then(|| prologue.into()),
        patch,
        test_patch: test_patch_file(instance, place),
        image_id: published.and_then(|reference| options.image_ids.get(&reference).cloned()),
        limits: limits(catalog, environment.as_ref(), options),
        network,
        strict,
        test_paths: test_paths.into(),
        repeat,
        platform: platform.clone(),
        emulator: options.emulator.clone(),
        in_pods: options.in_pods,
    })
}

/// Returns the environment of an instance. A published image with a script of its own needs nothing of
/// the catalog.
fn environment(
    catalog: &Catalog,
    instance: &Instance,
    published: bool,
) -> Result<Option<Environment>, PlanError> {
    match catalog.environment(&instance.repo, &instance.version, Some(instance)) {
        Ok(environment) => Ok(Some(environment)),
        Err(_) if published && instance.eval_script.is_some() => Ok(None),
        Err(source) => {
            let instance_id = instance.instance_id.clone();
            Err(PlanError::Catalog { instance_id, source: Box::new(source) })
        }
    }
}

/// Returns the network of an evaluation that no option sets.
fn default_network(
    catalog: &Catalog,
    environment: Option<&Environment>,
    published: bool,
) -> RunNetwork {
    let network = environment.map(|environment| environment.network);
    match network.or(catalog.defaults().network) {
        None | Some(Network::None) => RunNetwork::None,
        Some(Network::Bridge) => RunNetwork::Bridge,
        Some(Network::Host) => RunNetwork::Host,
        // The service is part of the environment that is built here.
        Some(Network::Httpbin) if published => RunNetwork::Bridge,
        Some(Network::Httpbin) => RunNetwork::Httpbin,
    }
}

/// Returns the limits of an evaluation: those of the options, else the catalog's, else the built-in ones.
fn limits(
    catalog: &Catalog,
    environment: Option<&Environment>,
    options: &EvaluateOptions,
) -> RunLimits {
    let set = environment.map(|environment| environment.limits);
    let set = set.unwrap_or_else(|| catalog.defaults().limits());
    let default = RunLimits::default();
    RunLimits {
        timeout: options.timeout.or(set.timeout).unwrap_or(default.timeout),
        memory: options.memory.or(set.memory).or(default.memory),
        milli_cpus: options.milli_cpus.or(set.milli_cpus).or(default.milli_cpus),
        pids: options.pids.or(set.pids).or(default.pids),
        disk: options.disk.map_or(default.disk, Bound::most),
        files: options.files.map_or(default.files, Bound::most),
        log_size: options.log_size.map_or(default.log_size, Bound::most),
    }
}

/// Separates the parts of a script, for the strict rules.
fn separate(
    instance: &Instance,
    script: &str,
    directory: &str,
) -> Result<Arc<Separated>, PlanError> {
    strict::separate(script, directory).map(Arc::new).map_err(|source| {
        let instance_id = instance.instance_id.clone();
        PlanError::Script { instance_id, source }
    })
}
