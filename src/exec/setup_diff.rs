//! The setup diff of a checkout: the changes of its installation in tracked files. Patches apply on
//! top of it.

use std::sync::Mutex;

use crate::engine::{EngineError, LogSink};
use crate::plan::Node;
use crate::recipe::{CheckoutRecipe, Recipe, TESTBED};

use super::NodeError;
use super::context::RunContext;

/// Reads the setup diff from the image of a checkout and records it.
pub(super) async fn record(
    run: &RunContext,
    checkout: &Node,
    recipe: &CheckoutRecipe,
) -> Result<Vec<u8>, NodeError> {
    let command =
        ["git", "-C", TESTBED, "diff", "--binary", "--full-index", &recipe.base_commit, "HEAD"];
    let command = command.map(str::to_owned);
    let output = Collect::default();
    let code = run.builder.run(&checkout.image, &command, &output).await?;
    if code != 0 {
        let step = command.join(" ");
        return Err(EngineError::Step { step, code }.into());
    }
    let diff = output.0.into_inner().expect("no writer panicked");
    let digest = run.store.put_blob(&diff)?;
    run.store.set_checkout_diff(&checkout.key, &digest)?;
    Ok(diff)
}

/// Records that the installation of a checkout changed no tracked file.
pub(super) fn record_none(run: &RunContext, checkout: &Node) -> Result<(), NodeError> {
    let nothing = run.store.put_blob(b"")?;
    run.store.set_checkout_diff(&checkout.key, &nothing)?;
    Ok(())
}

/// Returns the setup diff of a checkout; `None` where it is empty.
pub(super) async fn of(run: &RunContext, checkout: &Node) -> Result<Option<Vec<u8>>, NodeError> {
    let Recipe::Checkout(recipe) = &checkout.recipe else { return Ok(None) };
    if !recipe.needs_container() {
        return Ok(None);
    }
    let kept = match run.store.checkout_diff(&checkout.key)? {
        Some(digest) => run.store.blob(&digest).ok(),
        None => None,
    };
    // The state may be younger than the image.
    let diff = match kept {
        Some(diff) => diff,
        None => record(run, checkout, recipe).await?,
    };
    Ok((!diff.is_empty()).then_some(diff))
}

/// Keeps output in memory.
#[derive(Default)]
struct Collect(Mutex<Vec<u8>>);

impl LogSink for Collect {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().expect("no writer panicked").extend_from_slice(bytes);
    }
}
