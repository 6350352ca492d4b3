//! The mirrors of a run: each repository is fetched once, with every commit that the plan needs of it.

use std::sync::Arc;

use petgraph::graph::NodeIndex;

use crate::plan::Plan;
use crate::recipe::Recipe;
use crate::source::Mirror;

use super::NodeError;
use super::context::NodeContext;

/// Opens the mirror of `repo` with every commit that the plan needs of it.
///
/// # Errors
/// The node's own commit cannot be had. Another commit that cannot be had fails its own node alone.
pub(super) async fn mirror(ctx: &NodeContext<'_>, repo: &str) -> Result<Arc<Mirror>, NodeError> {
    let cell = {
        let mut opened = ctx.run.opened.lock().expect("no holder of the lock panics");
        opened.entry(repo.to_owned()).or_default().clone()
    };
    let fetch_all = || async {
        ctx.step(format!("fetch {repo}"));
        open(ctx, repo, commits_of(&ctx.run.plan, repo)).await
    };
    match cell.get_or_try_init(fetch_all).await {
        Ok(mirror) => Ok(mirror.clone()),
        Err(_) => {
            let own = commit_of(&ctx.run.plan, ctx.index);
            open(ctx, repo, own.into_iter().collect()).await
        }
    }
}

async fn open(
    ctx: &NodeContext<'_>,
    repo: &str,
    commits: Vec<String>,
) -> Result<Arc<Mirror>, NodeError> {
    let (mirrors, log) = (ctx.run.mirrors.clone(), ctx.log.clone());
    let repo = repo.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        let commits: Vec<&str> = commits.iter().map(String::as_str).collect();
        mirrors.mirror(&repo, &commits, &*log)
    });
    Ok(Arc::new(opened.await.expect("opening a mirror does not panic")?))
}

/// Returns the commit that a node needs of its repository.
fn commit_of(plan: &Plan, index: NodeIndex) -> Option<String> {
    match &plan.graph[index].recipe {
        Recipe::Checkout(recipe) => Some(recipe.base_commit.clone()),
        Recipe::Instance(recipe) => Some(recipe.base_commit.clone()),
        Recipe::Env(recipe) => recipe.requirements.first().map(|file| file.commit.clone()),
        Recipe::Base(_) | Recipe::Published(_) | Recipe::Evaluation(_) => None,
    }
}

/// Lists the commits that the nodes to run need of a repository, sorted.
fn commits_of(plan: &Plan, repo: &str) -> Vec<String> {
    let mut commits: Vec<String> = plan
        .nodes()
        .filter(|(_, node)| node.status.runs())
        .filter(|(_, node)| match &node.recipe {
            Recipe::Checkout(recipe) => recipe.repo == repo,
            Recipe::Instance(recipe) => recipe.repo == repo,
            Recipe::Env(recipe) => recipe.requirements.iter().any(|file| file.repo == repo),
            Recipe::Base(_) | Recipe::Published(_) | Recipe::Evaluation(_) => false,
        })
        .filter_map(|(index, _)| commit_of(plan, index))
        .collect();
    commits.sort();
    commits.dedup();
    commits
}
