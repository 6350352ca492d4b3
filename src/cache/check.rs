//! Whether an image is what its name says, as far as an image can show it.
//!
//! One rule for what is here, what a registry or an archive offers, and what is handed on. An image
//! shows what it was made from (its labels), what it stands on (its layers) and what it runs with
//! (its config): all three have to be what imgforge writes. That its own layers hold what they should
//! is nothing that labels can prove.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;

use crate::engine::{Image, ImageConfig, LayerStorage, Result as EngineResult, label};
use crate::key::{Key, KeyDocument, Kind, SCHEMA};
use crate::plan::name;
use crate::platform::Platform;
use crate::recipe::TESTBED;
use crate::store::{BuildRecord, VerifiedImage};

use super::external;
use super::from_image::{self, is_below};
use super::image_source::ImageSource;

/// Labels that an image has which was built to its end.
const LABELS: [&str; 5] = [label::KEY, label::KIND, label::SCHEMA, label::INPUTS, label::PARENT];

/// How many layers a checkout shares with others at most; see [`crate::recipe::checkout::SHARED`].
const SHARED_LAYERS: usize = 3;

/// The first thing in which an image is not what its name says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// A label is absent, or says something else than the name.
    #[error("its label `{label}` {why}")]
    Label {
        /// The name of the label.
        label: &'static str,
        /// The rule that its value breaks.
        why: &'static str,
    },
    /// The image has a label that imgforge does not set.
    #[error("it has the label `{label}`, which imgforge does not set")]
    OtherLabel {
        /// The name of the label.
        label: String,
    },
    /// A build of it is not done.
    #[error("it is not of a finished build")]
    Unfinished,
    /// The image is for another platform than its key.
    #[error("it is for {found}, its key for {keyed}")]
    Platform {
        /// The platform of the image.
        found: Platform,
        /// The platform of the key.
        keyed: Platform,
    },
    /// The parent is not here.
    #[error("its parent `{parent}` is not here: what it stands on cannot be told")]
    NoParent {
        /// The name of the parent's image.
        parent: String,
    },
    /// The parent is wrong itself.
    #[error("its parent `{parent}` is not what its name says: {why}")]
    WrongParent {
        /// The name of the parent's image.
        parent: String,
        /// The parent's own fault.
        why: Box<Wrong>,
    },
    /// The image stands on other layers than its parent has.
    #[error("it stands on other layers than its parent has")]
    NotOnParent,
    /// It is a base, and an image that it begins from can be looked at nowhere.
    #[error("its FROM image `{reference}` is not here: what it stands on cannot be told")]
    NoFrom {
        /// The image's reference.
        reference: String,
    },
    /// It is a base on other layers than any image has that it could begin from.
    #[error("it does not begin with the layers of {}", any_of(from))]
    NotOnFrom {
        /// The references of those images.
        from: Vec<String>,
    },
    /// It has more layers, or fewer, than such an image.
    #[error("it adds {found} layers, such an image adds {}", range(wanted))]
    Layers {
        /// The number of layers that the image adds.
        found: usize,
        /// The numbers that are right.
        wanted: RangeInclusive<usize>,
    },
    /// It runs with something else than imgforge writes.
    #[error("its {field} is not what imgforge writes")]
    Config {
        /// The part of the config.
        field: &'static str,
    },
}

fn any_of(from: &[String]) -> String {
    let named: Vec<String> = from.iter().map(|reference| format!("`{reference}`")).collect();
    format!("its FROM image {}", named.join(" or "))
}

fn range(wanted: &RangeInclusive<usize>) -> String {
    match (wanted.start(), wanted.end()) {
        (one, other) if one == other => one.to_string(),
        (one, &usize::MAX) => format!("{one} or more"),
        (one, other) => format!("{one} to {other}"),
    }
}

/// Returns kind and key of what an image stands on, by the key document `inputs`.
fn parent_of(inputs: &KeyDocument) -> Option<(Kind, Key)> {
    let at = Kind::IMAGES.iter().position(|kind| *kind == inputs.kind)?;
    let below = *Kind::IMAGES.get(at.checked_sub(1)?)?;
    Some((below, inputs.fields.get("parent")?.as_str()?.parse().ok()?))
}

/// Returns the platform that an image's key document says, where it has one.
pub fn keyed_platform(image: &Image, kind: Kind) -> Option<Platform> {
    let inputs = KeyDocument::parse(kind, image.config.labels.get(label::INPUTS)?).ok()?;
    inputs.platform().map(Platform::written)
}

/// Checks the labels of an image and its platform; returns what it was made from. The key is the hash
/// of that, and so is the parent's key in it.
///
/// # Errors
/// The first that is wrong.
pub fn inputs(image: &Image, kind: Kind, key: &Key) -> Result<KeyDocument, Wrong> {
    let wrong = |label, why| Err(Wrong::Label { label, why });
    let labels = &image.config.labels;
    let label = |name: &str| labels.get(name).map(String::as_str);
    if label(label::KEY) != Some(&key.to_string()) {
        return wrong(label::KEY, "is not its key");
    }
    if label(label::KIND) != Some(kind.as_str()) {
        return wrong(label::KIND, "is not its kind");
    }
    if label(label::SCHEMA) != Some(&SCHEMA.to_string()) {
        return wrong(label::SCHEMA, "is not the schema of this imgforge");
    }
    let text = label(label::INPUTS).unwrap_or_default();
    let inputs = KeyDocument::parse(kind, text).ok();
    let Some(inputs) = inputs.filter(|inputs| inputs.key() == *key && inputs.canonical() == text)
    else {
        return wrong(label::INPUTS, "does not give its key");
    };
    let named = label(label::PARENT);
    match parent_of(&inputs) {
        None if kind != Kind::Base => return wrong(label::INPUTS, "names no parent"),
        None if named.is_some() => return wrong(label::PARENT, "is on a base, which has none"),
        Some((_, parent)) if named != Some(&parent.to_string()) => {
            return wrong(label::PARENT, "is not the parent that its key is made from");
        }
        _ => {}
    }
    if labels.contains_key(label::SCRATCH) || image.diff_ids.is_empty() {
        return Err(Wrong::Unfinished);
    }
    let of_instance = |name: &str| kind == Kind::Instance && name == label::CHANGED;
    let foreign = |name: &&String| !LABELS.contains(&name.as_str()) && !of_instance(name);
    if let Some(label) = labels.keys().find(foreign) {
        return Err(Wrong::OtherLabel { label: label.clone() });
    }
    let changed = labels.get(label::CHANGED).map(|text| crate::tree::from_json(text));
    if kind == Kind::Instance && !matches!(changed, Some(Some(_))) {
        return wrong(label::CHANGED, "does not list what the patch changed");
    }
    let Some(keyed) = inputs.platform().map(Platform::written) else {
        return wrong(label::INPUTS, "names no platform");
    };
    if !keyed.matches(&image.platform) {
        let found = image.platform.clone();
        return Err(Wrong::Platform { found, keyed });
    }
    Ok(inputs)
}

/// Checks an image with what is `below` it: its parent, which was checked before, or the `FROM` images
/// of a base, see [`external::below`].
///
/// # Errors
/// The first that is wrong.
pub fn check(image: &Image, kind: Kind, key: &Key, below: &[&Image]) -> Result<(), Wrong> {
    let inputs = inputs(image, kind, key)?;
    let Some((kind_below, parent_key)) = parent_of(&inputs) else {
        return on_from(image, below);
    };
    let Some(parent) = below.first() else {
        return Err(Wrong::NoParent { parent: name::image(kind_below, &parent_key) });
    };
    if !parent.platform.matches(&image.platform) {
        let (found, keyed) = (parent.platform.clone(), image.platform.clone());
        let why = Box::new(Wrong::Platform { found, keyed });
        return Err(Wrong::WrongParent { parent: name::image(kind_below, &parent_key), why });
    }
    if !image.diff_ids.starts_with(&parent.diff_ids) {
        return Err(Wrong::NotOnParent);
    }
    let found = image.diff_ids.len() - parent.diff_ids.len();
    let wanted = own_layers(&inputs);
    if !wanted.contains(&found) {
        return Err(Wrong::Layers { found, wanted });
    }
    same_config(&image.config, &config_on(&inputs, &parent.config))
}

/// Checks that a base begins with the layers of an image that its key names: that of its last stage. Which
/// one that is only the Dockerfile tells, whose digest alone is in the key.
fn on_from(base: &Image, below: &[&Image]) -> Result<(), Wrong> {
    let named = from_image::of_base(base);
    if named.is_empty() {
        return Ok(());
    }
    // Two machines can have made one of the same packages, each with layers of its own.
    let mut unseen = None;
    for meant in &named {
        let mut looked = below.iter().filter(|image| meant.is(image)).peekable();
        if looked.peek().is_none() {
            unseen = unseen.or(Some(&meant.reference));
        }
        if looked.any(|from| is_below(from, base)) {
            return Ok(());
        }
    }
    Err(match unseen {
        Some(reference) => Wrong::NoFrom { reference: reference.clone() },
        None => {
            let from = named.into_iter().map(|meant| meant.reference).collect();
            Wrong::NotOnFrom { from }
        }
    })
}

/// How many layers an image adds to its parent's. Engines differ in whether a step that changes
/// nothing is one.
fn own_layers(inputs: &KeyDocument) -> RangeInclusive<usize> {
    let set = |field: &str| inputs.fields.get(field).is_some_and(|value| !value.is_null());
    let listed = |field: &str| {
        let list = inputs.fields.get(field).and_then(|value| value.as_array());
        list.is_some_and(|list| !list.is_empty())
    };
    match inputs.kind {
        // Its files, and what its script installs.
        Kind::Env => 1..=2,
        // What it shares, its own files, the directory that the installation begins in, and that.
        Kind::Checkout if listed("install") || listed("pre_install") => 1..=SHARED_LAYERS + 3,
        Kind::Checkout => 1..=SHARED_LAYERS + 1,
        Kind::Instance if set("test_patch") || set("model_patch") => 1..=1,
        Kind::Instance => 0..=0,
        Kind::Base | Kind::Evaluation => 1..=usize::MAX,
    }
}

/// Returns what an image runs with that stands on one with `below`.
fn config_on(inputs: &KeyDocument, below: &ImageConfig) -> ImageConfig {
    let mut config = below.clone();
    match inputs.kind {
        Kind::Env => {
            let variables = inputs.fields.get("variables").and_then(|value| value.as_object());
            for (name, value) in variables.into_iter().flatten() {
                let start = format!("{name}=");
                let set = format!("{start}{}", value.as_str().unwrap_or_default());
                match config.env.iter_mut().find(|known| known.starts_with(&start)) {
                    Some(known) => *known = set,
                    None => config.env.push(set),
                }
            }
        }
        Kind::Checkout => TESTBED.clone_into(&mut config.working_dir),
        Kind::Base | Kind::Instance | Kind::Evaluation => {}
    }
    config
}

/// Compares what two images run with; labels are another thing.
fn same_config(found: &ImageConfig, wanted: &ImageConfig) -> Result<(), Wrong> {
    let root = |path: &str| if path.is_empty() { "/" } else { path }.to_owned();
    let fields = [
        ("environment", found.env == wanted.env),
        ("command", found.cmd == wanted.cmd),
        ("entrypoint", found.entrypoint == wanted.entrypoint),
        ("working directory", root(&found.working_dir) == root(&wanted.working_dir)),
        ("user", found.user == wanted.user),
        ("shell", found.shell == wanted.shell),
    ];
    match fields.into_iter().find(|(_, same)| !same) {
        Some((field, _)) => Err(Wrong::Config { field }),
        None => Ok(()),
    }
}

/// Checks images of an engine, each with what it stands on down to its base.
pub struct Checker<'a> {
    engine: &'a dyn LayerStorage,
    /// Images that were built here, or passed before.
    known: HashMap<Key, VerifiedImage>,
    /// What images come from, where they come from elsewhere.
    remote: Option<&'a dyn ImageSource>,
    passed: Mutex<HashMap<Key, Image>>,
}

impl<'a> Checker<'a> {
    /// Makes a checker that takes the images of `known` for checked, see
    /// [`crate::store::Store::verified_images`].
    pub fn new(engine: &'a dyn LayerStorage, known: HashMap<Key, VerifiedImage>) -> Checker<'a> {
        Checker { engine, known, remote: None, passed: Mutex::default() }
    }

    /// Lets `FROM` images of bases be looked at where the bases come from.
    pub fn with_remote(mut self, remote: &'a dyn ImageSource) -> Checker<'a> {
        self.remote = Some(remote);
        self
    }

    /// Returns the engine whose images are checked.
    pub fn engine(&self) -> &'a dyn LayerStorage {
        self.engine
    }

    /// Returns the image of a key that the engine has, when it is what its name says; `None` where it
    /// has none.
    ///
    /// # Errors
    /// The engine's own; what is wrong with the image is part of the answer.
    pub async fn here(
        &self,
        kind: Kind,
        key: &Key,
    ) -> EngineResult<Option<std::result::Result<Image, Wrong>>> {
        let passed = self.passed.lock().expect("no holder panics").get(key).cloned();
        if let Some(image) = passed {
            return Ok(Some(Ok(image)));
        }
        let Some(image) = self.engine.inspect(&name::image(kind, key)).await? else {
            return Ok(None);
        };
        let known = self.known.get(key).is_some_and(|known| known.image_id == image.id);
        if !known && let Err(wrong) = self.offered(&image, kind, key).await? {
            return Ok(Some(Err(wrong)));
        }
        self.passed.lock().expect("no holder panics").insert(*key, image.clone());
        Ok(Some(Ok(image)))
    }

    /// Checks an image, wherever it is, against what it would stand on here.
    ///
    /// # Errors
    /// The engine's own; what is wrong with the image is part of the answer.
    pub async fn offered(
        &self,
        image: &Image,
        kind: Kind,
        key: &Key,
    ) -> EngineResult<std::result::Result<(), Wrong>> {
        let inputs = match inputs(image, kind, key) {
            Ok(inputs) => inputs,
            Err(wrong) => return Ok(Err(wrong)),
        };
        let parent = match parent_of(&inputs) {
            None => None,
            // A parent's kind is lower: it ends at the base.
            Some((below, parent)) => match Box::pin(self.here(below, &parent)).await? {
                Some(Err(why)) => {
                    let (parent, why) = (name::image(below, &parent), Box::new(why));
                    return Ok(Err(Wrong::WrongParent { parent, why }));
                }
                Some(Ok(parent)) => Some(parent),
                None => None,
            },
        };
        let from = match kind {
            Kind::Base => external::below(self.engine, self.remote, image).await?,
            _ => Vec::new(),
        };
        let below: Vec<&Image> = from.iter().chain(&parent).collect();
        Ok(check(image, kind, key, &below))
    }

    /// Returns when an image was built, where that was here.
    pub fn built(&self, key: &Key, image: &Image) -> Option<&BuildRecord> {
        let known = self.known.get(key).filter(|known| known.image_id == image.id)?;
        known.built.as_ref()
    }

    /// Returns what an image of the engine would stand on here, when that is what its name says.
    ///
    /// # Errors
    /// The engine's own.
    pub async fn parent(
        &self,
        image: &Image,
        kind: Kind,
        key: &Key,
    ) -> EngineResult<Option<Image>> {
        let parent = inputs(image, kind, key).ok().and_then(|inputs| parent_of(&inputs));
        let Some((below, parent)) = parent else { return Ok(None) };
        Ok(self.here(below, &parent).await?.and_then(std::result::Result::ok))
    }
}
