//! What the schedule is worth on the plans of the benchmark: verdicts come early, few images wait,
//! and the last verdict comes no later than with the longest chain first.

mod simulation;

use imgforge::key::Kind;
use simulation::{Known, SHAPES, WORKERS, after, before, plan};

#[test]
fn a_shape_has_as_many_images_as_its_dataset() {
    let counts = |shape: &str| {
        let plan = plan(shape);
        let count = |kind| plan.nodes().filter(|(_, node)| node.kind() == kind).count();
        [Kind::Base, Kind::Env, Kind::Checkout, Kind::Instance, Kind::Evaluation].map(count)
    };
    assert_eq!(
        SHAPES.map(|(_, shape)| counts(shape)),
        [[6, 68, 297, 300, 300], [10, 100, 499, 500, 500]]
    );
}

#[test]
fn the_first_verdict_comes_early_and_the_last_no_later() {
    for (name, shape) in SHAPES {
        let plan = plan(shape);
        for workers in WORKERS {
            let before = before(&plan, workers);
            for known in [Known::Nothing, Known::EarlierRun] {
                let after = after(&plan, workers, known);
                let what = format!("{name}, {workers} workers, {known:?}: {before:?} {after:?}");
                assert!(after.end.as_secs_f64() < 1.05 * before.end.as_secs_f64(), "{what}");
                let (first, old) = (after.first_verdict.unwrap(), before.first_verdict.unwrap());
                // A base, an environment, a checkout and an image come before the first tests.
                assert!(first <= old && first.as_secs() < 400, "{what}");
                assert!(workers > 2 || 5 * first < old, "{what}");
                assert!(after.waiting_images <= 6 * workers, "{what}");
            }
        }
    }
}
