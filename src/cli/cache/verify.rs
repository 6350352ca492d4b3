//! `cache verify`.

use clap::Args;
use serde_json::json;

use crate::cache::verify;
use crate::cli::out::errln;
use crate::words::count;

use super::super::open;
use super::super::{CommandResult, Error, Exit, Global, render};

/// Arguments of `cache verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Make the index anew from the images' labels, and remove what is broken
    #[arg(long)]
    repair: bool,
    /// Look at labels and layers' names only, and do not read the layers
    #[arg(long)]
    quick: bool,
}

/// Runs `cache verify`.
pub(super) async fn run(global: &Global, args: VerifyArgs) -> CommandResult {
    let opened = open::open(global).await?;
    let (engine, identity, store) = (&*opened.engine, &opened.identity, &opened.store);
    let verified = verify::verify(engine, identity, store, !args.quick).await;
    let verified = verified.map_err(Error::environment)?;
    if args.repair {
        let repaired = verify::repair(engine, identity, store, &verified).await;
        repaired.map_err(Error::environment)?;
    }
    let broken = verified.findings.iter().filter(|finding| finding.problem.is_broken()).count();
    if global.json {
        let document = json!({
            "images": verified.images,
            "layers": verified.layers,
            "findings": verified.findings,
            "broken": broken,
            "repaired": args.repair,
        });
        render::json(&document);
    } else if !global.quiet {
        for finding in &verified.findings {
            errln!("{}: {}", finding.image, finding.problem);
        }
        let read = match args.quick {
            true => "layers not read".to_owned(),
            false => format!("{} read", count(verified.layers, "layer")),
        };
        let found = verified.findings.len();
        let (images, findings) = (count(verified.images, "image"), count(found, "finding"));
        errln!("{images}, {read}: {findings}, {} broken", count(broken, "image"));
        if args.repair && found > 0 {
            errln!("the index is made anew; broken images are removed: a build makes them again");
        } else if found > 0 {
            errln!("\nhint: --repair makes the index anew and removes what is broken");
        }
    }
    Ok(if verified.findings.is_empty() || args.repair { Exit::Success } else { Exit::SomeFailed })
}
