//! Which instances cannot be used, and why: the same answer for every command.

use std::collections::BTreeMap;

use crate::catalog::Catalog;
use crate::causes::in_one_line;
use crate::grade::{Rules, RulesError};

use super::error::PlanError;
use super::{PlanOptions, Planner, Work};

/// The purpose that an instance must be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Images of the instance are made.
    Images,
    /// It is shown what is done with it: it must name the tests that decide.
    Plan,
    /// The instance is run and graded: its tests and its parser must be known.
    Run,
}

/// The reason for which an instance cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The instance cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The instance cannot be graded.
    #[error(transparent)]
    Rules(#[from] RulesError),
}

impl Unfit {
    /// Returns the reason with its causes, in one line.
    pub fn text(&self) -> String {
        in_one_line(self)
    }

    /// Returns what would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Unfit::Plan(PlanError::Catalog { .. }) => Some(
                "--namespace swebench takes the published images; images.toml, or images.local.toml \
                 beside it, can say how they are built here; --exclude leaves instances out"
                    .to_owned(),
            ),
            Unfit::Plan(_) => None,
            Unfit::Rules(error) => error.hint(),
        }
    }
}

/// Finds the instances that cannot be used for `purpose`, by their position in `work`.
pub fn check(
    catalog: &Catalog,
    options: &PlanOptions,
    work: &[Work],
    purpose: Purpose,
) -> BTreeMap<usize, Vec<Unfit>> {
    let mut unfit: BTreeMap<usize, Vec<Unfit>> = BTreeMap::new();
    let evaluate = options.evaluate.clone().unwrap_or_default();
    for (at, item) in work.iter().enumerate() {
        let checked = match purpose {
            Purpose::Images => Ok(()),
            Purpose::Plan => Rules::expects_tests(&item.instance, evaluate.family),
            Purpose::Run => {
                Rules::with(&item.instance, evaluate.family, evaluate.strict).map(|_| ())
            }
        };
        if let Err(error) = checked {
            unfit.entry(at).or_default().push(error.into());
        }
    }
    let from = BTreeMap::new();
    let planner = Planner::new(catalog, options.clone(), &from);
    for (at, error) in planner.unplannable(work) {
        unfit.entry(at).or_default().push(error.into());
    }
    unfit
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::dataset::Instance;
    use crate::key::Kind;
    use crate::platform::Platform;

    use super::*;

    fn work(change: impl Fn(&mut Instance)) -> Work {
        let mut instance = Instance {
            instance_id: "pallets__flask-1".to_owned(),
            repo: "pallets/flask".to_owned(),
            version: "2.3".to_owned(),
            base_commit: "c".repeat(40),
            FAIL_TO_PASS: vec!["a".to_owned()],
            ..Instance::default()
        };
        change(&mut instance);
        Work { instance: Arc::new(instance), prediction: None }
    }

    #[test]
    fn every_mistake_is_found_for_its_purpose() {
        let catalog = Catalog::embedded().unwrap();
        let options = PlanOptions {
            platform: Platform::written("linux/amd64"),
            namespace: None,
            derive_images: false,
            image_tag: None,
            up_to: Kind::Instance,
            evaluate: None,
        };
        let work = [
            work(|_| {}),
            work(|row| row.FAIL_TO_PASS.clear()),
            work(|row| row.log_parser = Some("parse_log_elixir".to_owned())),
            work(|row| row.version = "0.0".to_owned()),
            work(|row| row.repo = "a/b".to_owned()),
        ];
        let found = |purpose| -> Vec<(usize, usize)> {
            let found = check(&catalog, &options, &work, purpose);
            found.into_iter().map(|(at, why)| (at, why.len())).collect()
        };
        assert_eq!(found(Purpose::Images), [(3, 1), (4, 1)]);
        assert_eq!(found(Purpose::Plan), [(1, 1), (3, 1), (4, 1)]);
        assert_eq!(found(Purpose::Run), [(1, 1), (2, 1), (3, 1), (4, 2)]);
        let all = check(&catalog, &options, &work, Purpose::Run);
        assert!(all[&1][0].text().contains("expects no test"), "{:?}", all[&1]);
        assert!(all[&2][0].hint().is_some());
    }
}
