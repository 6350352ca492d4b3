//! What was changed in a session, and its grade.

use std::sync::Arc;

use serde_json::json;

use crate::session::git::{self, PatchOptions};
use crate::session::order::InstanceName;

use super::events;
use super::fault::{Fault, Kind};
use super::instances::{GradeOrder, Instances};
use super::lines::{Answer, Lines};
use super::params::{Apply, Base64, GradePatch, GradeSession, Patch};
use super::served::Served;

/// What the model is called where nothing is said of it.
const MODEL: &str = "session";

/// Lists the paths that differ from the image.
pub(super) async fn diff(served: Arc<Served>) -> Answer {
    Ok(json!({ "changes": served.session().changes().await? }))
}

/// Makes the patch of what was changed.
async fn patch_of(served: &Served, params: Patch) -> Result<Vec<u8>, Fault> {
    let repository = served.order.repository.as_ref();
    let base = repository.and_then(|repository| repository.base.clone());
    let options = PatchOptions {
        // Of another repository that commit is none.
        base: params.base.or(base.filter(|_| params.workdir.is_none())),
        exclude: params.exclude,
        untracked: params.untracked,
        working_dir: directory(served, params.workdir),
    };
    Ok(git::patch(&*served.session(), &options).await?)
}

/// Returns the directory that is named, or that of the session's repository.
fn directory(served: &Served, named: Option<String>) -> Option<String> {
    named.or_else(|| served.order.repository.as_ref().map(|one| one.directory.clone()))
}

/// Returns the patch of what was changed.
pub(super) async fn patch(served: Arc<Served>, params: Patch) -> Answer {
    Ok(json!({ "patch": Base64(patch_of(&served, params).await?) }))
}

/// Applies a patch.
pub(super) async fn apply(served: Arc<Served>, params: Apply) -> Answer {
    if params.patch.0.iter().all(u8::is_ascii_whitespace) {
        return Err(Fault::bad_params("`patch` is empty"));
    }
    let directory = directory(&served, params.workdir);
    let session = served.session();
    let said = git::apply(&*session, params.patch.0.into(), params.reverse, directory).await?;
    Ok(json!({ "output": said.trim_end() }))
}

/// Makes a text of a patch: predictions are text.
fn text(patch: Vec<u8>) -> Result<String, Fault> {
    String::from_utf8(patch).map_err(|_| {
        Fault::new(Kind::Refused, "the patch is not UTF-8, and a prediction has to be")
    })
}

/// Grades what was changed.
pub(super) async fn grade(
    served: Arc<Served>,
    instances: Arc<dyn Instances>,
    params: GradeSession,
    lines: Lines,
) -> Answer {
    let Some(instance) = served.order.instance.clone() else {
        let message = "the session was started from an image, and is of no instance";
        let fault = Fault::new(Kind::Refused, message);
        return Err(fault.hint("start it with `instance`, or use `instance.grade`"));
    };
    let whole = Patch {
        session: String::new(),
        base: None,
        exclude: Vec::new(),
        untracked: true,
        workdir: None,
    };
    let order = GradeOrder {
        instance,
        patch: text(patch_of(&served, whole).await?)?,
        model: params.model.unwrap_or_else(|| MODEL.to_owned()),
        timeout: params.timeout,
        strict: params.strict,
    };
    let work = async |events| instances.grade(&order, &events).await;
    Ok(json!(events::told(&lines, params.events, work).await?))
}

/// Grades a patch.
pub(super) async fn grade_patch(
    instances: Arc<dyn Instances>,
    params: GradePatch,
    lines: Lines,
) -> Answer {
    let order = GradeOrder {
        instance: InstanceName::from(params.instance),
        patch: text(params.patch.0)?,
        model: params.model.unwrap_or_else(|| MODEL.to_owned()),
        timeout: params.timeout,
        strict: params.strict,
    };
    let work = async |events| instances.grade(&order, &events).await;
    Ok(json!(events::told(&lines, params.events, work).await?))
}
