//! The image that work on an instance begins in, for sessions.

use anyhow::anyhow;

use crate::forge::{Checkout, Needed};
use crate::session::order::InstanceName;
use crate::store::Lease;

use super::execute::{ExecArgs, exit_of};
use super::{Chosen, Error, Failure, Global, Sources, open};

/// Finds the image that work on an instance begins in, and builds it where it is missing. It stays as long
/// as the lease.
pub(super) async fn image_of(
    global: &Global,
    exec: &ExecArgs,
    sources: &Sources,
    instance: &InstanceName,
    needed: Needed,
) -> Result<(String, Option<Lease>), Failure> {
    let InstanceName { dataset, split, instance_id: id } = instance;
    let load = exec.load_options(&Chosen::one(dataset, split, Some(id)), sources);
    let build = || Ok((exec.options(global)?, exec.reporter(global)?));
    match open::forge(global)?.checkout(&load, needed, build).await? {
        Checkout::Ready { image, lease } => Ok((image, lease)),
        Checkout::Failed(summary) => {
            let error = Error::environment(anyhow!("the image of `{id}` could not be made"));
            Err(Failure { exit: exit_of(&summary), error })
        }
    }
}
