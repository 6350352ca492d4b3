//! Images of a plan that come from the remote instead of being built.

use std::collections::HashMap;

use crate::cache::check::{self, Wrong};
use crate::cache::external;
use crate::cache::image_source::Lookup;
use crate::engine::{EngineError, Image};
use crate::key::{DiffId, Key};
use crate::plan::{Plan, Status};

use super::open::{engine_error, engine_identity};
use super::workload::Workload;
use super::{Error, Notices};

/// Lets stale images come from elsewhere. A registry that does not answer is a warning, unless it
/// was named for this very command: everything can be built.
pub(super) async fn apply_remote_images(workload: &Workload, plan: &mut Plan) -> Result<(), Error> {
    let (Some(remote), Some((_, info))) = (&workload.remote, &workload.engine) else {
        return Ok(());
    };
    let notices = &workload.notices;
    let wanted = plan.pullable();
    if wanted.is_empty() {
        return Ok(());
    }
    let Lookup { images, unsigned, untold } = match remote.lookup(&wanted).await {
        Ok(answer) => answer,
        Err(error) if workload.remote_required => return Err(engine_error(error)),
        Err(error) => {
            let hint = error.hint().map_or(String::new(), |hint| format!(" ({hint})"));
            let error = anyhow::Error::from(error);
            notices.warn(format!("everything is built: {error:#}{hint}"));
            return Ok(());
        }
    };
    if workload.remote_required
        && let Some(at) = untold.iter().position(EngineError::is_of_registry)
    {
        let mut untold = untold;
        return Err(engine_error(untold.swap_remove(at)));
    }
    if let Some(first) = untold.into_iter().next() {
        let hint = first.hint().map_or(String::new(), |hint| format!(" ({hint})"));
        let (what, error) = (remote.describe(), anyhow::Error::from(first));
        notices.warn(format!("{what} does not tell all that it has: {error:#}{hint}"));
    }
    note_unsigned(&workload.notices, plan, unsigned);
    let layers = checked_offers(workload, plan, images).await?;
    let local = workload.store.indexed(&engine_identity(info)).map_err(Error::environment)?;
    plan.apply_remote_images(&layers, |key| local.get(key).map(|known| known.diff_ids.clone()));
    Ok(())
}

/// Says of each node that there is an image of it which no trusted key signed.
fn note_unsigned(notices: &Notices, plan: &mut Plan, unsigned: HashMap<Key, EngineError>) {
    let notes: HashMap<Key, String> = unsigned
        .into_iter()
        .map(|(key, error)| (key, format!("{:#}", anyhow::Error::from(error))))
        .collect();
    let nodes: Vec<_> = plan
        .nodes()
        .filter_map(|(index, node)| Some((index, node.id.clone(), notes.get(&node.key)?)))
        .collect();
    for (_, id, note) in nodes.iter().take(SHOWN) {
        notices.warn(format!("{id}: {note}"));
    }
    if nodes.len() > SHOWN {
        let more = nodes.len() - SHOWN;
        notices.warn(format!("{more} more images are as if they were not there"));
    }
    for (index, _, note) in nodes {
        plan.graph[index].notes.push(note.clone());
    }
}

/// Checks what is offered with what it will stand on here; returns the layers of what is what its name
/// says. What is not is as if it were not there, and its node says so.
async fn checked_offers(
    workload: &Workload,
    plan: &mut Plan,
    mut offers: HashMap<Key, Image>,
) -> Result<HashMap<Key, Vec<DiffId>>, Error> {
    let (Some(remote), Some((engine, _))) = (&workload.remote, &workload.engine) else {
        return Ok(HashMap::new());
    };
    let notices = &workload.notices;
    let mut here: HashMap<Key, Option<Image>> = HashMap::new();
    let (mut notes, mut foreign) = (Vec::new(), Vec::new());
    for (index, node) in plan.nodes() {
        let Some(offer) = offers.get(&node.key) else { continue };
        let parent = plan.parent(index).map(|parent| &plan.graph[parent]);
        let below = match parent {
            Some(parent) if parent.status == Status::Fresh => {
                if let std::collections::hash_map::Entry::Vacant(place) = here.entry(parent.key) {
                    place.insert(engine.inspect(&parent.image).await.map_err(engine_error)?);
                }
                here.get(&parent.key).and_then(Option::as_ref)
            }
            Some(parent) => offers.get(&parent.key),
            None => None,
        };
        let from = match parent {
            Some(_) => Vec::new(),
            None => match external::below(&**engine, Some(remote.as_ref()), offer).await {
                Err(error) if workload.remote_required => return Err(engine_error(error)),
                // As if the place did not have them.
                from => from.unwrap_or_default(),
            },
        };
        let below: Vec<&Image> = from.iter().chain(below).collect();
        let wrong = match check::check(offer, node.kind(), &node.key, &below) {
            Ok(()) => continue,
            Err(wrong) => wrong,
        };
        // Its parent is built here, so that this one is, too.
        if !matches!(wrong, Wrong::NoParent { .. }) {
            let note = format!("{} has it, and it is not taken: {wrong}", remote.describe());
            // That the parent here is another build is nobody's fault.
            if wrong != Wrong::NotOnParent {
                foreign.push(format!("{}: {note}", node.id));
            }
            notes.push((index, note));
        }
        offers.remove(&node.key);
    }
    for warning in foreign.iter().take(SHOWN) {
        notices.warn(warning);
    }
    if foreign.len() > SHOWN {
        notices.warn(format!("and {} more are not taken", foreign.len() - SHOWN));
    }
    for (index, note) in notes {
        plan.graph[index].notes.push(note);
    }
    Ok(offers.into_iter().map(|(key, offer)| (key, offer.diff_ids)).collect())
}

/// How many refused images are warned of.
const SHOWN: usize = 5;
