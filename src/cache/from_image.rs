//! The `FROM` images of bases: what identifies one, and which of them a base stands on.
//!
//! A base's key holds the identity of each `FROM` image. Where that image can be looked at, here or at
//! the place that offers the base, a base shows by its layers that it stands on it.

use std::collections::BTreeMap;

use serde_json::json;

use crate::bootstrap;
use crate::engine::{Engine, EngineError, Image, ListedImage, LogSink, label};
use crate::key::{Digest, KeyDocument, Kind};
use crate::plan::name;
use crate::platform;
use crate::recipe::base::{BOOTSTRAPPED, PYTHON};

use super::contents::is_own_name;
use super::remote::Remote;

/// Returns what identifies the content of a `FROM` image on any engine: its layers and what a
/// build inherits from its config, with its Python where it says one. One that was bootstrapped is
/// known by its packages.
pub fn content_identity(image: &Image) -> String {
    let config = &image.config;
    if let Some(made) = config.labels.get(bootstrap::LABEL) {
        return format!("{BOOTSTRAPPED}{made}");
    }
    let document = json!({
        "cmd": config.cmd,
        "diff_ids": image.diff_ids,
        "entrypoint": config.entrypoint,
        "env": config.env,
        "platform": image.platform,
        "user": config.user,
        "working_dir": config.working_dir,
    });
    let digest = Digest::of(document.to_string()).oci();
    // As the official images say it.
    match config.env.iter().find_map(|variable| variable.strip_prefix("PYTHON_VERSION=")) {
        Some(version) => format!("{PYTHON}{version}: {digest}"),
        None => digest,
    }
}

/// What a base records of what it stands on.
#[derive(serde::Deserialize)]
struct BaseInputs {
    from: BTreeMap<String, Option<String>>,
    platform: String,
}

impl BaseInputs {
    fn of(labels: &BTreeMap<String, String>) -> Option<BaseInputs> {
        let base = labels.get(label::KIND).is_some_and(|kind| kind == Kind::Base.as_str());
        let text = labels.get(label::INPUTS).filter(|_| base)?;
        serde_json::from_str(text).ok()
    }
}

/// Returns the references of the images that a base stands on.
pub fn references(base: &Image) -> Vec<String> {
    let inputs = BaseInputs::of(&base.config.labels);
    inputs.into_iter().flat_map(|inputs| inputs.from.into_keys()).collect()
}

/// Returns what a base recorded of the images that it stands on: their references and identities.
pub fn from_of(base: &Image) -> Vec<(String, String)> {
    let from = BaseInputs::of(&base.config.labels).map(|inputs| inputs.from);
    let known = from.into_iter().flatten();
    known.filter_map(|(reference, identity)| Some((reference, identity?))).collect()
}

/// Returns the `FROM` images that a base stands on, by reference, as far as the engine has them: one
/// that has changed since the base was built is left out.
pub async fn external_images(
    engine: &dyn Engine,
    base: &Image,
) -> Result<Vec<(String, Image)>, EngineError> {
    let mut found = Vec::new();
    let inputs = BaseInputs::of(&base.config.labels);
    for (reference, identity) in inputs.into_iter().flat_map(|inputs| inputs.from) {
        let fits = |image: &Image| {
            Some(content_identity(image)) == identity
                && platform::same(&image.platform, &base.platform)
        };
        if let Some(image) = engine.inspect(&reference).await?.filter(fits) {
            found.push((reference, image));
        }
    }
    Ok(found)
}

/// Returns the identities that the bases on an engine recorded of what they stand on: the images
/// themselves need not be there any more, or never were where the bases came from a registry.
pub fn recorded_identities(listed: &[ListedImage], platform: &str) -> BTreeMap<String, String> {
    let bases = listed.iter().filter(|image| {
        // One that was replaced, or is being built, says nothing.
        !image.tags.is_empty() && !image.labels.contains_key(label::SCRATCH)
    });
    let mut recorded = BTreeMap::new();
    for image in bases {
        let Some(inputs) = BaseInputs::of(&image.labels) else { continue };
        // Under another name, or with other inputs than its key has, it is nothing of ours.
        let text = image.labels.get(label::INPUTS).map_or("", String::as_str);
        let key = KeyDocument::parse(Kind::Base, text).map(|document| document.key());
        if !key.is_ok_and(|key| image.tags.contains(&name::image(Kind::Base, &key))) {
            continue;
        }
        if inputs.platform == platform {
            let known = inputs.from.into_iter().filter_map(|(name, known)| Some((name, known?)));
            recorded.extend(known);
        }
    }
    recorded
}

/// Returns the platform that an image's key document says, where it has one.
pub fn keyed_platform(labels: &BTreeMap<String, String>) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Inputs {
        platform: Option<String>,
    }
    serde_json::from_str::<Inputs>(labels.get(label::INPUTS)?).ok()?.platform
}

/// Returns the `FROM` images that a base recorded, as far as the engine or the place that offers the base
/// has them. The place is asked only where none of the engine's is below the base. One that nobody
/// trusted signed is as if it were not there.
pub async fn below(
    engine: &dyn Engine,
    offers: Option<&dyn Remote>,
    base: &Image,
) -> Result<Vec<Image>, EngineError> {
    let here = external_images(engine, base).await?;
    let mut found: Vec<Image> = here.into_iter().map(|(_, image)| image).collect();
    let Some(remote) = offers.filter(|_| !found.iter().any(|from| is_below(from, base))) else {
        return Ok(found);
    };
    for (reference, _) in from_of(base) {
        match remote.external_image(&reference).await {
            Ok(image) => found.extend(image),
            Err(EngineError::Unsigned { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Brings the `FROM` images of a base that came from `remote`, as far as it has them and their names are
/// free here: whoever hands the base on has to show what it stands on. Their layers came with the base.
pub async fn bring(
    engine: &dyn Engine,
    remote: &dyn Remote,
    base: &Image,
    log: &dyn LogSink,
) -> Result<(), EngineError> {
    for (reference, identity) in from_of(base) {
        // A name of ours is given by a key alone.
        if is_own_name(&reference) || engine.inspect(&reference).await?.is_some() {
            continue;
        }
        let known = match remote.external_image(&reference).await {
            Err(EngineError::Unsigned { .. }) => None,
            known => known?,
        };
        let fits = |from: &Image| content_identity(from) == identity && is_below(from, base);
        if known.is_some_and(|from| fits(&from)) {
            remote.bring_external(engine, &reference, log).await?;
        }
    }
    Ok(())
}

/// Tells whether an image's layers are the lowest of a base.
pub fn is_below(from: &Image, base: &Image) -> bool {
    !from.diff_ids.is_empty() && base.diff_ids.starts_with(&from.diff_ids)
}
