//! The shards of one run: what each records, and whether they belong together.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Deserialize, Serialize};

use crate::key::Digest;
use crate::shard::Shard;

use super::{Metadata, Settings};

/// What a shard records beside what every run does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSettings {
    /// Which one it is.
    pub shard: Shard,
    /// The digest of the keys of all evaluations of the run. The digests of `FROM` images, which a machine
    /// has to look up, are not part of it.
    pub plan: Digest,
    /// The digest of the weights that the run was cut by; `None` where all weigh the same.
    pub weights: Option<Digest>,
    /// The options of running tests that were given, by their names.
    pub options: BTreeMap<String, String>,
    /// The models in their order, those of other shards included.
    pub models: Vec<String>,
    /// Predictions for instances that the dataset does not have.
    pub unknown_ids: Vec<String>,
    /// How many predictions all shards together evaluate.
    pub evaluations: usize,
    /// What this shard evaluates.
    pub slice: Vec<Evaluated>,
}

/// One prediction that a shard evaluates.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Evaluated {
    /// The instance.
    pub instance_id: String,
    /// The model.
    pub model_name_or_path: String,
}

/// Shards that do not make one run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardsError {
    /// The run was cut twice, into other numbers of shards.
    #[error("shard {one} and shard {other} are of two cuts of the run")]
    Counts {
        /// One shard.
        one: Shard,
        /// A shard of the other cut.
        other: Shard,
    },
    /// There are too few.
    #[error("{} missing", missing(.0))]
    Missing(Vec<Shard>),
    /// Two were made with different things.
    #[error("shard {one} and shard {other} differ in {what}")]
    Unequal {
        /// One shard.
        one: Shard,
        /// The first that differs from it.
        other: Shard,
        /// In what, and how.
        what: String,
    },
    /// Two have the same prediction, or none has it.
    #[error("the slices of the shards do not fit together: {0}")]
    Slices(String),
}

fn missing(shards: &[Shard]) -> String {
    let names: Vec<String> = shards.iter().map(Shard::to_string).collect();
    match names.as_slice() {
        [one] => format!("shard {one} is"),
        all => format!("shards {} are", all.join(", ")),
    }
}

/// What a shard recorded, with what is particular to it.
type Recorded<'a> = (&'a Metadata, &'a Settings, &'a ShardSettings);

/// Joins the records of shards to that of the whole run. The machines of shards may have different engines
/// and numbers of workers; everything that a verdict depends on has to be equal.
///
/// # Errors
/// A shard is missing, unless `allow_missing`, or the shards are not of one run.
///
/// # Panics
/// There is no record, or one that is not of a shard.
pub fn join(records: &[Metadata], allow_missing: bool) -> Result<Metadata, ShardsError> {
    let mut all: Vec<Recorded<'_>> = records
        .iter()
        .map(|record| {
            let own = record.imgforge.as_ref().expect("a shard records its settings");
            (record, own, own.shard.as_ref().expect("it is the record of a shard"))
        })
        .collect();
    all.sort_by_key(|(.., own)| own.shard);
    let [first, rest @ ..] = all.as_slice() else { panic!("there is no shard") };
    for other in rest {
        if other.2.shard.count() != first.2.shard.count() {
            return Err(ShardsError::Counts { one: first.2.shard, other: other.2.shard });
        }
        if let Some(what) = difference(first, other) {
            return Err(ShardsError::Unequal { one: first.2.shard, other: other.2.shard, what });
        }
    }
    let there: HashSet<Shard> = all.iter().map(|(.., own)| own.shard).collect();
    let count = first.2.shard.count();
    let gone: Vec<Shard> = (1..=count)
        .filter_map(|index| Shard::new(index, count))
        .filter(|shard| !there.contains(shard))
        .collect();
    if !gone.is_empty() && !allow_missing {
        return Err(ShardsError::Missing(gone));
    }
    check_slices(&all, gone.is_empty())?;
    let (record, own, _) = *first;
    let engines: BTreeSet<&str> = all.iter().map(|(_, own, _)| own.engine.as_str()).collect();
    let began = all.iter().map(|(record, ..)| record.created_at.as_str()).min();
    Ok(Metadata {
        created_at: began.unwrap_or_default().to_owned(),
        imgforge: Some(Settings {
            engine: engines.into_iter().collect::<Vec<_>>().join(", "),
            workers: all.iter().map(|(_, own, _)| own.workers).max().unwrap_or(1),
            shard: None,
            shards: Some(count),
            ..own.clone()
        }),
        ..record.clone()
    })
}

/// Says in what two shards differ that have to be equal.
fn difference(one: &Recorded<'_>, other: &Recorded<'_>) -> Option<String> {
    let pair = |name: &str, one: &str, other: &str| {
        (one != other).then(|| format!("{name}: `{one}` and `{other}`"))
    };
    let unequal = |name: &str, is_equal: bool| (!is_equal).then(|| name.to_owned());
    let (a, b) = (one.1, other.1);
    let texts = [
        pair("the version of imgforge", &a.version, &b.version),
        pair("the dataset", &one.0.dataset, &other.0.dataset),
        pair("the split", &one.0.split, &other.0.split),
        pair("the platform", a.platform.as_str(), b.platform.as_str()),
        pair(
            "the emulator",
            a.emulator.as_deref().unwrap_or("none"),
            b.emulator.as_deref().unwrap_or("none"),
        ),
        pair("the rules of grading", &a.grading, &b.grading),
        pair("--strict", &a.strict.to_string(), &b.strict.to_string()),
        pair("--repeat", &a.repeat.to_string(), &b.repeat.to_string()),
        unequal("the chosen instances", a.instances == b.instances),
        unequal("the predictions", a.submitted == b.submitted),
        option_difference(&one.2.options, &other.2.options),
        unequal("the weights of --weights", one.2.weights == other.2.weights),
        unequal(
            "the keys of the evaluations: the rows, images.toml, or the environment's lockfiles",
            one.2.plan == other.2.plan,
        ),
        unequal("the models", one.2.models == other.2.models),
    ];
    texts.into_iter().flatten().next()
}

fn option_difference(
    one: &BTreeMap<String, String>,
    other: &BTreeMap<String, String>,
) -> Option<String> {
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let shown = |options: &BTreeMap<String, String>, name: &String| {
        options.get(name).map_or("the default".to_owned(), |value| format!("`{value}`"))
    };
    let name = names.into_iter().find(|name| one.get(*name) != other.get(*name))?;
    Some(format!("--{name}: {} and {}", shown(one, name), shown(other, name)))
}

/// Checks that no prediction is in two slices and, where `is_whole`, that every one which was to be run is in
/// one.
fn check_slices(all: &[Recorded<'_>], is_whole: bool) -> Result<(), ShardsError> {
    let mut seen: BTreeMap<&Evaluated, Shard> = BTreeMap::new();
    for (.., own) in all {
        for one in &own.slice {
            if let Some(other) = seen.insert(one, own.shard) {
                return Err(ShardsError::Slices(format!(
                    "shards {other} and {} both have `{}` of model `{}`",
                    own.shard, one.instance_id, one.model_name_or_path
                )));
            }
        }
    }
    let evaluated: usize = all.iter().map(|(.., own)| own.slice.len()).sum();
    let expected = all.iter().map(|(.., own)| own.evaluations).next().unwrap_or(0);
    if is_whole && evaluated != expected {
        return Err(ShardsError::Slices(format!(
            "together they have {evaluated} of {expected} predictions"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Platform;
    use crate::run::{PatchState, Submitted};

    /// The record of a shard of a run of four predictions; `slice` names its instances.
    fn record(shard: &str, slice: &str) -> Metadata {
        let evaluated = |id: char| Evaluated {
            instance_id: id.to_string(),
            model_name_or_path: "m".to_owned(),
        };
        let submitted = "abcd".chars().map(|id| Submitted {
            instance_id: id.to_string(),
            model_name_or_path: "m".to_owned(),
            patch: PatchState::Text,
            digest: Some(Digest::of("patch")),
        });
        Metadata {
            dataset: "lite".to_owned(),
            split: "test".to_owned(),
            task_repo: None,
            created_at: format!("2026-01-0{}T00:00:00Z", &shard[..1]),
            imgforge: Some(Settings {
                version: "1".to_owned(),
                engine: "embedded".to_owned(),
                platform: Platform::written("linux/amd64"),
                emulator: None,
                workers: 2,
                grading: "swebench".to_owned(),
                strict: false,
                repeat: 1,
                instances: "abcd".chars().map(String::from).collect(),
                submitted: submitted.collect(),
                shard: Some(ShardSettings {
                    shard: shard.parse().unwrap(),
                    plan: Digest::of("plan"),
                    weights: None,
                    options: BTreeMap::new(),
                    models: vec!["m".to_owned()],
                    unknown_ids: Vec::new(),
                    evaluations: 4,
                    slice: slice.chars().map(evaluated).collect(),
                }),
                shards: None,
            }),
        }
    }

    fn text(records: &[Metadata], allow_missing: bool) -> String {
        join(records, allow_missing).unwrap_err().to_string()
    }

    #[test]
    fn shards_of_one_run_are_joined_whatever_their_machines_are() {
        let (mut one, two) = (record("1/2", "ac"), record("2/2", "bd"));
        let settings = one.imgforge.as_mut().unwrap();
        (settings.engine, settings.workers) = ("docker".to_owned(), 8);
        // In any order.
        let joined = join(&[two, one], false).unwrap();
        let own = joined.imgforge.unwrap();
        assert_eq!((own.shard, own.shards, own.workers), (None, Some(2), 8));
        assert_eq!(own.engine, "docker, embedded");
        assert_eq!(joined.created_at, "2026-01-01T00:00:00Z");
    }

    #[test]
    fn a_missing_shard_is_named_and_can_be_allowed() {
        let records = [record("2/4", "b"), record("4/4", "d")];
        assert_eq!(text(&records, false), "shards 1/4, 3/4 are missing");
        assert_eq!(text(&[record("1/2", "ab")], false), "shard 2/2 is missing");
        assert_eq!(join(&records, true).unwrap().imgforge.unwrap().shards, Some(4));
        let cuts = [record("1/2", "ab"), record("2/3", "c")];
        assert_eq!(text(&cuts, true), "shard 1/2 and shard 2/3 are of two cuts of the run");
    }

    #[test]
    fn slices_that_overlap_or_leave_something_out_are_no_run() {
        let twice = text(&[record("1/2", "ab"), record("2/2", "bc")], true);
        assert!(twice.contains("shards 1/2 and 2/2 both have `b` of model `m`"), "{twice}");
        let few = text(&[record("1/2", "a"), record("2/2", "b")], false);
        assert!(few.contains("together they have 2 of 4 predictions"), "{few}");
    }

    #[test]
    fn whatever_a_verdict_depends_on_has_to_be_equal() {
        type Change = fn(&mut Metadata, &mut Settings, &mut ShardSettings);
        let cases: [(&str, Change); 14] = [
            ("the version of imgforge: `1` and `2`", |_, own, _| own.version = "2".to_owned()),
            ("the dataset: `lite` and `full`", |record, _, _| record.dataset = "full".to_owned()),
            ("the split: `test` and `dev`", |record, _, _| record.split = "dev".to_owned()),
            ("the platform", |_, own, _| own.platform = Platform::written("linux/arm64")),
            ("the emulator: `none` and `qemu`", |_, own, _| own.emulator = Some("qemu".to_owned())),
            ("the rules of grading", |_, own, _| own.grading = "r2e".to_owned()),
            ("--strict: `false` and `true`", |_, own, _| own.strict = true),
            ("--repeat: `1` and `3`", |_, own, _| own.repeat = 3),
            ("the chosen instances", |_, own, _| drop(own.instances.pop())),
            ("the predictions", |_, own, _| own.submitted[0].digest = Some(Digest::of("other"))),
            ("--timeout: the default and `5`", |_, _, shard| {
                shard.options.insert("timeout".to_owned(), "5".to_owned());
            }),
            ("the weights", |_, _, shard| shard.weights = Some(Digest::of("weights"))),
            ("the keys of the evaluations", |_, _, shard| shard.plan = Digest::of("other")),
            ("the models", |_, _, shard| shard.models.push("n".to_owned())),
        ];
        for (wanted, change) in cases {
            let mut other = record("2/2", "cd");
            let mut own = other.imgforge.take().unwrap();
            let mut shard = own.shard.take().unwrap();
            change(&mut other, &mut own, &mut shard);
            own.shard = Some(shard);
            other.imgforge = Some(own);
            let said = text(&[record("1/2", "ab"), other], true);
            let start = "shard 1/2 and shard 2/2 differ in ";
            assert!(
                said.strip_prefix(start).is_some_and(|what| what.starts_with(wanted)),
                "{said}"
            );
        }
    }
}
