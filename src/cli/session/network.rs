//! `imgforge session network`.

use clap::Args;

use crate::cli::out::outln;
use crate::session::egress::{AllowList, Allowed, EgressReport};

use super::super::{CommandResult, Exit, Global, render};
use super::{failed, found};

/// Arguments of `session network`.
#[derive(Debug, Args)]
pub(in crate::cli) struct NetworkArgs {
    /// The session: its name, its id or the beginning of that
    #[arg(value_name = "SESSION", help_heading = None)]
    session: String,
    /// Let it reach this host from now on, and those of further --allow, and no other
    #[arg(long, value_name = "HOST")]
    allow: Vec<Allowed>,
    /// Let it reach nothing from now on
    #[arg(long, conflicts_with = "allow")]
    none: bool,
}

/// Runs `session network`.
pub(super) async fn run(global: &Global, args: NetworkArgs) -> CommandResult {
    let (_, session) = found(global, &args.session).await?;
    let is_change = args.none || !args.allow.is_empty();
    let allow = is_change.then(|| AllowList::from(args.allow));
    let report = session.network(allow.as_ref()).await.map_err(failed)?;
    if global.json {
        render::json(&report);
    } else if !is_change {
        let EgressReport { allowed, denied } = report;
        allowed.iter().for_each(|host| outln!("allowed  {host}"));
        for (host, count) in denied {
            outln!("denied   {host}  {}", crate::words::count(count as usize, "time"));
        }
    }
    Ok(Exit::Success)
}
