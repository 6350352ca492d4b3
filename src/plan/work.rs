//! The work of a plan: the instances, each with a prediction or without.

use std::sync::Arc;

use crate::dataset::{Instance, Patch};

/// One image to be had: an instance, with a model patch or without.
#[derive(Debug, Clone)]
pub struct Work {
    /// The row of the dataset; predictions of several models share it.
    pub instance: Arc<Instance>,
    /// The prediction's patch and model.
    pub prediction: Option<ModelPatch>,
}

/// The part of a prediction that an image is made of.
#[derive(Debug, Clone)]
pub struct ModelPatch {
    /// `model_name_or_path`: for the node's id, not for the key.
    pub model: String,
    /// The patch; a blank one changes nothing and adds no layer.
    pub patch: Patch,
}
