//! Checkpoints: what a session changed, as something that other sessions start from.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::key::{DiffId, Digest, ImageId};

use super::reference::Reference;
use super::{ImageConfig, label};

/// The repository of checkpoints. The tag is the id.
pub(super) const REPOSITORY: &str = "imgforge/checkpoint";

/// What [`label::KIND`] is on the image of a checkpoint: it is none of a plan.
pub(crate) const KIND: &str = "checkpoint";

/// The version of the key derivation of checkpoints.
const SCHEMA: u32 = 1;

/// What a session had changed at some moment, on the image or checkpoint that it was started from.
/// Nothing that runs belongs to it: a session that is started from it has the files and no process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// What the session was started from.
    pub parent: String,
}

impl Checkpoint {
    /// A new one on what a session was started from.
    pub(crate) fn on(parent: &str) -> Checkpoint {
        let id = format!("{:012x}", rand::random::<u64>() & 0xffff_ffff_ffff);
        Checkpoint { id, parent: parent.to_owned() }
    }

    /// Returns the name by which it is an image, for whatever takes one. An engine that can tells its
    /// layers only when they are asked for: sessions start from it without.
    pub fn reference(&self) -> Reference {
        let text = format!("{REPOSITORY}:{}", self.id);
        text.parse().expect("a name and hexadecimal digits are a reference")
    }
}

/// Returns the config of a checkpoint's image: that of the image below, without what imgforge says of
/// that. What it says of the checkpoint is its key, made of the image below and of the layers on it.
pub(crate) fn config(image: &ImageConfig, below: &ImageId, layers: &[DiffId]) -> ImageConfig {
    let mut config = image.clone();
    config.disown();
    let document = json!({
        "kind": KIND,
        "layers": layers,
        "parent": below,
        "schema": SCHEMA,
    });
    let key = Digest::of(document.to_string());
    let said = [
        (label::KIND, KIND.to_owned()),
        (label::KEY, key.to_string()),
        (label::PARENT, below.to_string()),
    ];
    config.labels.extend(said.map(|(name, value)| (name.to_owned(), value)));
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_says_that_it_is_not_the_one_below() {
        let labels =
            [(label::KEY, "a".repeat(64)), (label::INPUTS, "{}".into()), ("own", "1".into())];
        let labels = labels.map(|(name, value)| (name.to_owned(), value)).into();
        let image = ImageConfig { labels, ..ImageConfig::default() };
        let config = config(&image, &"sha256:1".into(), &["sha256:2".into()]);
        assert_ne!(config.labels[label::KEY], image.labels[label::KEY]);
        assert_eq!(config.labels[label::KIND], KIND);
        assert_eq!(config.labels["own"], "1");
        assert!(!config.labels.contains_key(label::INPUTS));
        let other = super::config(&image, &"sha256:3".into(), &["sha256:2".into()]);
        assert_ne!(config.labels[label::KEY], other.labels[label::KEY]);
    }
}
