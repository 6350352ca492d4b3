//! What a run needs of this machine, before anything starts.

use anyhow::anyhow;

use crate::engine::{EngineInfo, EngineKind};
use crate::plan::{Node, Plan, Status};
use crate::recipe::{Recipe, RunNetwork};

use super::Error;

/// Checks that this machine has what the plan needs; `elsewhere` says that its tests run on others.
///
/// # Errors
/// Exit code 3: a program is missing, or no evaluation can have its network on this engine.
pub(super) fn check(plan: &Plan, engine: &EngineInfo, elsewhere: bool) -> Result<(), Error> {
    let to_do: Vec<&Node> =
        plan.nodes().map(|(_, node)| node).filter(|node| node.status.runs()).collect();
    let with_git = to_do.iter().find(|node| {
        let made_here = matches!(node.status, Status::Stale(_));
        made_here && matches!(node.recipe, Recipe::Checkout(_) | Recipe::Instance(_))
    });
    if let Some(node) = with_git
        && !is_in_path("git")
    {
        let error = anyhow!("`{}` needs `git`, which is not in PATH", node.id);
        return Err(Error::environment(error).with_hint(Some("install git".to_owned())));
    }
    let bridged = |node: &&&Node| match &node.recipe {
        Recipe::Evaluation(recipe) => recipe.network == RunNetwork::Bridge,
        _ => false,
    };
    let evaluations = to_do.iter().filter(|node| matches!(node.recipe, Recipe::Evaluation(_)));
    let evaluations = evaluations.count();
    let without_network = to_do.iter().filter(bridged).count();
    let is_embedded = engine.kind == EngineKind::Embedded && !elsewhere;
    if is_embedded && evaluations > 0 && without_network == evaluations {
        let error =
            anyhow!("the embedded engine has no bridged network, and the tests are to have one");
        return Err(Error::environment(error)
            .with_hint(Some("use `--network host`, or `none`, or Docker".to_owned())));
    }
    Ok(())
}

/// Tells whether a program can be started by its name.
fn is_in_path(program: &str) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| {
        std::fs::metadata(directory.join(program))
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}
