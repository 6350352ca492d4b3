//! The text of a patch held against what it does: for patches that git writes the two agree.

use std::collections::BTreeSet;

use imgforge::patch::touched;
use imgforge::source::{PatchOutcome, PatchRequest};
use proptest::prelude::*;

use super::{Repo, git, git_raw, write};

/// Names that git quotes, and names that it does not.
const NAMES: [&str; 8] = [
    "pkg/code.py",
    "tests/test_code.py",
    "dos.txt",
    "new.py",
    "pkg/with blank.py",
    "pkg/tab\there.py",
    "pkg/é\"quoted\".py",
    "tests/conftest.py",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_a_patch_of_git_names_is_what_it_changes(
        edits in prop::collection::vec((0..NAMES.len(), 0..3u8, "[a-z -+@]{0,12}\n"), 1..6),
        renames in any::<bool>(),
    ) {
        let repo = Repo::new();
        let dir = repo.path();
        git(&dir, &["checkout", "-q", &repo.base]);
        for (name, edit, text) in edits {
            let path = dir.join(NAMES[name]);
            match edit {
                0 => write(&dir, NAMES[name], &text),
                1 => drop(std::fs::remove_file(path)),
                _ => {
                    let old = std::fs::read_to_string(&path).unwrap_or_default();
                    write(&dir, NAMES[name], &format!("{old}{text}"));
                }
            }
        }
        git(&dir, &["add", "-A"]);
        let renames = if renames { "--find-renames" } else { "--no-renames" };
        let patch = git_raw(&dir, &["diff", "--binary", "--cached", renames]);
        prop_assume!(!patch.is_empty());
        let state = tempfile::tempdir().unwrap();
        let out = state.path().join("layer.tar");
        let request = PatchRequest {
            commit: &repo.base,
            setup_diff: None,
            test_patch: b"",
            model_patch: patch.as_bytes(),
            root: "testbed",
        };
        let outcome = repo.mirror(state.path()).write_patch_layer(&request, state.path(), &out);
        let PatchOutcome::Applied(layer) = outcome.unwrap() else { panic!("refused: {patch}") };
        let changed: BTreeSet<Vec<u8>> =
            layer.changed.into_iter().map(|change| change.path).collect();
        prop_assert_eq!(touched(patch.as_bytes()).paths, changed, "{}", patch);
    }
}
