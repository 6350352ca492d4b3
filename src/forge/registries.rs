//! Where images come from that are not built here, and where those go that are.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use crate::cache::archive::{Archive, ArchiveError};
use crate::cache::check::{self, Wrong};
use crate::cache::from_image;
use crate::cache::image_source::{ImageSource, Offers};
use crate::cache::registry::RegistryCache;
use crate::catalog::{Catalog, RegistryMode};
use crate::disk;
use crate::engine::reference::{self, NotAPlace};
use crate::engine::{Engine, EngineError, Image, docker};
use crate::key::Key;
use crate::plan::{Plan, Status};
use crate::platform::same;

use super::Error;
use super::keys;
use super::open::{engine_error, engine_identity, variable};
use super::workload::Workload;
use super::{ForgeOptions, LoadOptions, Notices};

/// Where images come from, and where they go.
pub type Remotes = (Option<Arc<dyn ImageSource>>, Option<RegistryCache>);

/// Returns where images come from and where they go.
pub fn open(
    forge: &ForgeOptions,
    wanted: &LoadOptions,
    catalog: &Catalog,
    platform: &str,
    scratch: &Path,
) -> Result<Remotes, Error> {
    let (sources, settings) = (&wanted.sources, catalog.cache());
    let keys = keys::trusted(sources, catalog)?;
    let registry = |name: &str| -> Result<RegistryCache, Error> {
        Ok(registry_cache(name, platform)?.trusting(keys.clone()))
    };
    let named = sources.cache_registry.as_ref().or(settings.registry.as_ref());
    let mode = sources.cache_mode.or(settings.registry_mode).unwrap_or(RegistryMode::Read);
    let writes = named.filter(|name| mode.writes() && !name.is_empty());
    let push_to = writes.map(|name| registry(name)).transpose()?;
    let push_to = match push_to {
        Some(to) if wanted.build => Some(to.signing(keys::signer(sources, &*forge.password)?)),
        to => to,
    };
    if let Some(from) = wanted.remote.as_deref() {
        let remote: Arc<dyn ImageSource> = match is_file(from) {
            false => Arc::new(registry(from)?),
            true => {
                let archive = open_archive(Path::new(from), scratch)?;
                Arc::new(archive.trusting(&keys))
            }
        };
        return Ok((Some(remote), push_to));
    }
    let reads = named.filter(|name| mode.reads() && !name.is_empty());
    let remote = reads.map(|name| registry(name)).transpose()?;
    Ok((remote.map(|remote| Arc::new(remote) as Arc<dyn ImageSource>), push_to))
}

/// Tells whether somebody means a file and not a registry: one that is there, or what is written
/// like one.
fn is_file(from: &str) -> bool {
    let written = from.starts_with(['/', '.', '~']) || from.to_ascii_lowercase().ends_with(".tar");
    let (_, has_scheme) = reference::without_scheme(from);
    !has_scheme && (written || Path::new(from).is_file())
}

/// Opens a registry as a cache.
pub fn registry_cache(registry: &str, platform: &str) -> Result<RegistryCache, Error> {
    let client_config = docker::config_directory(variable);
    RegistryCache::new(registry, platform, client_config).map_err(|wrong| {
        let no_host = wrong == NotAPlace::NoHost;
        let error = anyhow::Error::new(wrong).context(format!("`{registry}` is not a registry"));
        let hint = match no_host {
            true => {
                "name the host, and a path: ghcr.io/me, docker.io/me, 127.0.0.1:5000; an archive \
                 is a file that is there, or ends with .tar"
            }
            false => "name the host, and a path: ghcr.io/me, 127.0.0.1:5000",
        };
        Error::input(error).with_hint(Some(hint.to_owned()))
    })
}

/// Opens an archive.
pub fn open_archive(file: &Path, scratch: &Path) -> Result<Archive, Error> {
    Archive::open(file, scratch).map_err(archive_error)
}

/// Makes the error of an archive.
pub fn archive_error(error: ArchiveError) -> Error {
    let hint = error.hint();
    match error {
        ArchiveError::Engine(_) | ArchiveError::Busy { .. } => {
            Error::environment(error).with_hint(hint)
        }
        ArchiveError::File { ref source, .. } if disk::is_full(source) => {
            Error::environment(error).with_hint(hint)
        }
        _ => Error::input(error).with_hint(hint),
    }
}

/// Finds out what the `FROM` images are that the engine does not have: its bases know what they
/// stand on, and so does where images come from. Returns their identities, and the references that
/// are still to be found. `platform` is what is planned for, `native` the engine's own.
pub async fn recorded(
    engine: &dyn Engine,
    remote: Option<&dyn ImageSource>,
    images: Vec<String>,
    (platform, native): (&str, &str),
    wanted: &LoadOptions,
    notices: &Notices,
) -> Result<(BTreeMap<String, String>, Vec<String>), Error> {
    let (mut known, mut left) = (BTreeMap::new(), Vec::new());
    let mut of_bases = None;
    // That a registry answers nothing is told where the images themselves are looked for.
    let mut gone = false;
    for reference in images {
        match engine.inspect(&reference).await.map_err(engine_error)? {
            Some(image) if same(&image.platform, platform) => {
                left.push(reference);
                continue;
            }
            Some(image) => notices.warn(format!(
                "`{reference}` here is for {}: for {platform} it counts as absent{}",
                image.platform,
                if wanted.build { ", and what comes instead takes the name" } else { "" }
            )),
            None => {}
        }
        // What bases for another platform recorded may be wrong: an older imgforge built them here.
        if of_bases.is_none() && same(platform, native) {
            let listed = engine.images().await.map_err(engine_error)?;
            of_bases = Some(from_image::recorded_identities(&listed, platform));
        }
        if let Some(identity) = of_bases.as_ref().and_then(|known| known.get(&reference)) {
            known.insert(reference, identity.clone());
            continue;
        }
        let Some(remote) = remote.filter(|_| !gone) else {
            left.push(reference);
            continue;
        };
        match remote.external_images(&reference).await {
            Ok(images) => match images.iter().find(|image| same(&image.platform, platform)) {
                Some(image) => {
                    drop(known.insert(reference, from_image::content_identity(image)));
                }
                None => left.push(reference),
            },
            Err(error @ EngineError::Unsigned { .. }) => {
                notices.warn(format!("{:#}", anyhow::Error::from(error)));
                left.push(reference);
            }
            Err(error) if wanted.remote.is_some() => return Err(engine_error(error)),
            Err(error) => {
                gone = error.is_of_registry();
                left.push(reference);
            }
        }
    }
    Ok((known, left))
}

/// Lets stale images come from elsewhere. A registry that does not answer is a warning, unless it
/// was named for this very command: everything can be built.
pub async fn apply_remote_images(workload: &Workload, plan: &mut Plan) -> Result<(), Error> {
    let (Some(remote), Some((_, info))) = (&workload.remote, &workload.engine) else {
        return Ok(());
    };
    let notices = &workload.notices;
    let wanted = plan.pullable();
    if wanted.is_empty() {
        return Ok(());
    }
    let Offers { images, unsigned, untold } = match remote.offers(&wanted).await {
        Ok(offers) => offers,
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
) -> Result<HashMap<Key, Vec<String>>, Error> {
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
            None => match from_image::below(&**engine, Some(remote.as_ref()), offer).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_from_a_registry() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("ghcr.io");
        std::fs::write(&there, "x").unwrap();
        for file in
            ["./cache", "/tmp/a", "cache.tar", "dir/Cache.TAR", "~/a", there.to_str().unwrap()]
        {
            assert!(is_file(file), "{file}");
        }
        for registry in ["ghcr.io/me", "127.0.0.1:5000", "https://ghcr.io/me/", "MyOrg/images"] {
            assert!(!is_file(registry), "{registry}");
        }
    }
}
