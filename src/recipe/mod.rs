//! What every image is made of, and what is run in it.
//!
//! A recipe holds all that changes the bytes of an image and nothing else. [`Recipe::document`]
//! is the preimage of its key; the texts that the executor hands to the engine (Dockerfiles,
//! scripts) are rendered here too, so that the key covers exactly what runs. Pure.

pub mod base;
pub mod checkout;
pub mod env;
pub mod evaluation;
pub mod instance;
pub mod marks;
pub mod script;
mod shell;
pub mod strict;

use crate::key::{KeyDocument, Kind};
use crate::platform::Platform;

pub use base::BaseRecipe;
pub use checkout::CheckoutRecipe;
pub use env::EnvRecipe;
pub use evaluation::{EvaluationRecipe, RunLimits, RunNetwork};
pub use instance::InstanceRecipe;

/// Where the repository is in a checkout image.
pub const TESTBED: &str = "/testbed";

/// The virtual environment of an env image; published evaluation scripts reach it with
/// `conda activate testbed`.
pub const VIRTUAL_ENV: &str = "/opt/miniconda3/envs/testbed";

/// The recipe of one image.
#[derive(Debug, Clone)]
pub enum Recipe {
    /// See [`BaseRecipe`].
    Base(BaseRecipe),
    /// See [`EnvRecipe`].
    Env(EnvRecipe),
    /// See [`CheckoutRecipe`].
    Checkout(CheckoutRecipe),
    /// See [`InstanceRecipe`].
    Instance(InstanceRecipe),
    /// A published image that is pulled by name instead of being built.
    Published(PublishedRecipe),
    /// No image but a run in one; see [`EvaluationRecipe`].
    Evaluation(EvaluationRecipe),
}

/// A published image: known by its name only, until it is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedRecipe {
    /// The full reference, such as `swebench/sweb.eval.x86_64.pallets_1776_flask-4045:latest`.
    pub reference: String,
    /// Such as `linux/amd64`.
    pub platform: Platform,
}

impl Recipe {
    /// Returns the kind of image that the recipe makes.
    pub fn kind(&self) -> Kind {
        match self {
            Recipe::Base(_) => Kind::Base,
            Recipe::Env(_) => Kind::Env,
            Recipe::Checkout(_) => Kind::Checkout,
            Recipe::Instance(_) | Recipe::Published(_) => Kind::Instance,
            Recipe::Evaluation(_) => Kind::Evaluation,
        }
    }

    /// Returns the key document of the image.
    pub fn document(&self) -> KeyDocument {
        match self {
            Recipe::Base(recipe) => recipe.document(),
            Recipe::Env(recipe) => recipe.document(),
            Recipe::Checkout(recipe) => recipe.document(),
            Recipe::Instance(recipe) => recipe.document(),
            Recipe::Evaluation(recipe) => recipe.document(),
            Recipe::Published(recipe) => KeyDocument::new(Kind::Instance)
                .with("platform", &recipe.platform)
                .with("reference", &recipe.reference),
        }
    }
}
