//! The `FROM` images of bases: what identifies one, and which of them a base stands on.
//!
//! A base's key holds the identity of each `FROM` image. Where that image can be looked at, here or at
//! the place that offers the base, a base shows by its layers that it stands on it.

use std::collections::BTreeMap;

use serde_json::json;

use crate::bootstrap;
use crate::engine::{EngineError, Image, Images, ListedImage, label};
use crate::key::{Digest, KeyDocument, Kind};
use crate::plan::name;
use crate::platform::Platform;
use crate::recipe::BaseRecipe;
use crate::recipe::base::{BOOTSTRAPPED, PYTHON};

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

/// A `FROM` image, as a base's key means it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromImage {
    /// The reference in the Dockerfile.
    pub reference: String,
    /// What identifies its content, see [`content_identity`]; `None` where that was not known.
    pub identity: Option<String>,
    /// The platform.
    pub platform: Platform,
}

impl FromImage {
    /// Tells whether an image is this one.
    pub fn is(&self, image: &Image) -> bool {
        self.identity.as_ref() == Some(&content_identity(image))
            && image.platform.matches(&self.platform)
    }

    /// Returns the name that the image has on an engine where it came with a base. It is a name of
    /// ours: what an archive or a registry sends takes no other.
    pub fn own_name(&self) -> String {
        let identity = self.identity.as_deref().unwrap_or_default();
        name::kept_from_image(&self.reference, &self.platform, identity)
    }

    /// Looks for the image on an engine, under its reference and under the name of ours; returns it with
    /// the names that it was found by. The two can differ in layers where each was made of the same
    /// packages.
    ///
    /// # Errors
    /// The engine's own.
    pub async fn find(&self, engine: &dyn Images) -> Result<Vec<(String, Image)>, EngineError> {
        let mut found = Vec::new();
        for name in [self.reference.clone(), self.own_name()] {
            if let Some(image) = engine.inspect(&name).await?.filter(|image| self.is(image)) {
                found.push((name, image));
            }
        }
        Ok(found)
    }
}

/// What a base records of what it stands on.
#[derive(serde::Deserialize)]
struct BaseInputs {
    from: BTreeMap<String, Option<String>>,
    platform: Platform,
}

impl BaseInputs {
    fn of(labels: &BTreeMap<String, String>) -> Option<BaseInputs> {
        let base = labels.get(label::KIND).is_some_and(|kind| kind == Kind::Base.as_str());
        let text = labels.get(label::INPUTS).filter(|_| base)?;
        serde_json::from_str(text).ok()
    }
}

/// Returns the images that a base stands on, as it recorded them.
pub fn of_base(base: &Image) -> Vec<FromImage> {
    let Some(BaseInputs { from, platform }) = BaseInputs::of(&base.config.labels) else {
        return Vec::new();
    };
    from.into_iter()
        .map(|(reference, identity)| FromImage { reference, identity, platform: platform.clone() })
        .collect()
}

/// Returns the images that a base is to be built on.
pub fn of_recipe(recipe: &BaseRecipe) -> Vec<FromImage> {
    let from = recipe.from.iter().map(|(reference, identity)| FromImage {
        reference: reference.clone(),
        identity: identity.clone(),
        platform: recipe.platform.clone(),
    });
    from.collect()
}

/// Returns the `FROM` images that a base stands on, each with its name there, as far as the engine has
/// them: one that has changed since the base was built is left out.
pub async fn external_images(
    engine: &dyn Images,
    base: &Image,
) -> Result<Vec<(FromImage, String, Image)>, EngineError> {
    let mut found = Vec::new();
    for from in of_base(base) {
        let mut here = from.find(engine).await?;
        // What shows that the base stands on it, first.
        here.sort_by_key(|(_, image)| !is_below(image, base));
        found.extend(here.into_iter().next().map(|(name, image)| (from, name, image)));
    }
    Ok(found)
}

/// Returns the identities that the bases on an engine recorded of what they stand on: the images
/// themselves need not be there any more, or never were where the bases came from a registry.
pub fn recorded_identities(
    listed: &[ListedImage],
    platform: &Platform,
) -> BTreeMap<String, String> {
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
        if inputs.platform == *platform {
            let known = inputs.from.into_iter().filter_map(|(name, known)| Some((name, known?)));
            recorded.extend(known);
        }
    }
    recorded
}

/// Tells whether an image's layers are the lowest of a base.
pub fn is_below(from: &Image, base: &Image) -> bool {
    !from.diff_ids.is_empty() && base.diff_ids.starts_with(&from.diff_ids)
}
