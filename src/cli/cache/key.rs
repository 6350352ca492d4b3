//! `cache key`: a pair of keys for signing images.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::cli::out::errln;
use crate::sign::PrivateKey;

use super::super::{CommandResult, Error, Exit, Global, keys, render};

/// Arguments of `cache key`.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// How the files begin: PREFIX.key is private, PREFIX.pub is public
    #[arg(long, value_name = "PREFIX", default_value = "cosign")]
    output_key_prefix: String,
}

/// Runs `cache key`. The files are those of `cosign generate-key-pair`; what is there stays.
pub(super) fn run(global: &Global, args: &KeyArgs) -> CommandResult {
    let private = PathBuf::from(format!("{}.key", args.output_key_prefix));
    let public = PathBuf::from(format!("{}.pub", args.output_key_prefix));
    for path in [&private, &public] {
        if path.exists() {
            let error = anyhow::anyhow!("`{}` is there already", path.display());
            let hint = "`--output-key-prefix` gives the files another name".to_owned();
            return Err(Error::input(error).with_hint(Some(hint)).into());
        }
    }
    let password = keys::password(true)?;
    let key = PrivateKey::generate();
    write(&private, 0o600, &key.seal(&password))?;
    write(&public, 0o644, &key.public().pem())?;
    if global.json {
        let (private, public) = (private.display().to_string(), public.display().to_string());
        let document = json!({ "private": private, "public": public });
        render::json(&document);
    } else if !global.quiet {
        let (private, public) = (private.display(), public.display());
        errln!("wrote {private}, which signs and stays secret, and {public}, which verifies");
    }
    Ok(Exit::Success)
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), Error> {
    let mut options = std::fs::OpenOptions::new();
    let written = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written
        .with_context(|| format!("cannot write `{}`", path.display()))
        .map_err(Error::environment)
}
