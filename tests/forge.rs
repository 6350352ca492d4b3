//! The library's door, on a real engine: what its example does.

use std::path::Path;
use std::sync::{Arc, Mutex};

use imgforge::event::{Event, Reporter};
use imgforge::forge::{
    Ended, EngineChoice, ErrorKind, Forge, ForgeOptions, LoadOptions, Notice, Notices, RunOptions,
    Selection, SourceOptions, run_id,
};
use imgforge::key::Kind;
use imgforge::plan::EvaluateOptions;
use imgforge::plan::check::Purpose;
use imgforge::report::Verdict;

mod common;

/// Notices that were given, in their order.
type Given = Arc<Mutex<Vec<(Notice, String)>>>;

fn open(dir: &Path) -> (Forge, Given) {
    let given = Given::default();
    let list = given.clone();
    let told = move |notice, text: &str| list.lock().unwrap().push((notice, text.to_owned()));
    let options = ForgeOptions {
        state_dir: Some(dir.join("state")),
        output_dir: dir.to_owned(),
        engine: EngineChoice::Docker,
        notices: Notices::new(told),
        ..ForgeOptions::default()
    };
    (Forge::open(options).unwrap(), given)
}

/// Loads one instance of the bundled dataset with its own patch.
fn load() -> LoadOptions {
    let ids = vec!["imgforge__abacus-1".to_owned()];
    let selection = Selection { instance_ids: ids, ..Selection::all("demo") };
    LoadOptions {
        predictions: vec!["gold".to_owned()],
        purpose: Purpose::Run,
        evaluate: Some(EvaluateOptions::default()),
        ..LoadOptions::of_build(selection, SourceOptions::default())
    }
}

/// Counts events.
struct Counting(Arc<Mutex<usize>>);

impl Reporter for Counting {
    fn report(&mut self, _: &Event) {
        *self.0.lock().unwrap() += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Docker"]
async fn the_door_builds_and_evaluates_and_a_second_time_everything_is_known() {
    common::needs::docker();
    let dir = tempfile::tempdir().unwrap();
    let (forge, given) = open(dir.path());
    let events = Arc::new(Mutex::new(0));
    let reporter = || Ok(Box::new(Counting(events.clone())) as _);
    let run = forge
        .evaluate(&load(), &RunOptions::named(run_id("first").unwrap()), reporter)
        .await
        .unwrap();
    assert_eq!(run.ended, Ended::Complete, "{:?}", run.report.results);
    let [result] = run.report.results.as_slice() else { panic!("{:?}", run.report.results) };
    assert_eq!((result.verdict, result.cached), (Verdict::Resolved, false));
    assert!(*events.lock().unwrap() > 0);

    let reporter = || -> Result<_, _> { panic!("nothing is to be run") };
    let again = forge
        .evaluate(&load(), &RunOptions::named(run_id("second").unwrap()), reporter)
        .await
        .unwrap();
    assert!(again.report.results[0].cached);
    let said = given.lock().unwrap().clone();
    let known = (Notice::Remark, "nothing to run: all 1 results are known".to_owned());
    assert!(said.contains(&known), "{said:?}");

    let images = LoadOptions { evaluate: None, purpose: Purpose::Images, ..load() };
    let workload = forge.load(&images).await.unwrap();
    let plan = workload.plan(&workload.work, Kind::Instance, None).unwrap();
    let plan = workload.assess(plan, false, &Default::default()).await.unwrap();
    assert!(!plan.is_stale());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_an_error_of_its_kind_with_a_hint_and_nothing_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let (forge, _) = open(dir.path());
    let ids = vec!["imgforge__abacus-99".to_owned()];
    let selection = Selection { instance_ids: ids, ..Selection::all("demo") };
    let images = LoadOptions::of_images(selection, SourceOptions::default());
    let error = forge.load(&images).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("imgforge__abacus-99"), "{error}");
    let sources = SourceOptions {
        git_mirrors: vec!["/nowhere/{name}".to_owned()],
        ..SourceOptions::default()
    };
    let images = LoadOptions::of_images(Selection::all("demo"), sources);
    let error = forge.load(&images).await.err().unwrap();
    assert!(error.hint().unwrap().contains("{owner}"), "{error:?}");
}
