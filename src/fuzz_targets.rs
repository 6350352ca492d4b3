//! What reads input that somebody else made, as a fuzzer calls it.
//!
//! Each target takes any bytes as such an input. It must come to an end, and an error is a good one. A
//! panic is a fault of the code that the target calls; so is a promise of that code that the target
//! finds broken.
//!
//! The room is there because most of that code is private, and a fuzzer is a crate of its own. No other
//! room uses it, and it is no part of the interface. `tests/fuzz.rs` runs the targets with inputs that
//! it makes, `fuzz/` with those of libFuzzer.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor};
use std::path::{Component, Path};
use std::process::Command;
use std::sync::LazyLock;

use regex::bytes::Regex;
use rustix::thread::UnshareFlags;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::bundle;
use crate::cache::archive::Archive;
use crate::dataset::{self, HubSettings, Instance, prediction};
use crate::dockerfile::{external_images, normalise, with_names};
use crate::engine::NoLog;
use crate::engine::bounds::Bounded;
use crate::engine::embedded::helper::unpack_layer;
use crate::engine::embedded::{Built, Identity, Storage, images, stages};
use crate::engine::reference::{self, Reference};
use crate::engine::registry::read_every_answer;
use crate::grade::results::{Format, ResultsFile};
use crate::grade::{
    EvalType, Family, NoResult, Rules, classify, grade, parser, parsers, read_log, sentinel,
};
use crate::key::Digest;
use crate::patch::{PATH, blob_ids, mentioned, touched, touched_before};
use crate::sign::{Bundle, PrivateKey, PublicKey, SimplePayload};
use crate::source::{Mirror, Mirrors, PatchOutcome, PatchRequest};
use crate::tree::{Change, from_json, to_json};

/// A target: its name, and what takes an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 12] = [
    ("layers", layers),
    ("patches", patches),
    ("patched_trees", patched_trees),
    ("archives", archives),
    ("bundles", bundles),
    ("dockerfiles", dockerfiles),
    ("rows", rows),
    ("predictions", predictions),
    ("logs", logs),
    ("strict_logs", strict_logs),
    ("registry_answers", registry_answers),
    ("references", references),
];

/// What is between the parts of an input that has some.
pub const BETWEEN: u8 = 0;

/// The test that [`logs`] expects. A log that does not name it is of no run that is resolved.
pub const EXPECTED_TEST: &str = "imgforge_expected_test";

fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("imgforge-fuzz-").tempdir().expect("there is room for files")
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("there is room for files");
}

/// Splits an input at its first zeros.
fn parts<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut parts = input.splitn(N, |byte| *byte == BETWEEN);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// Tells whether layers can be unpacked here: a thread may change its root directory. A plain user
/// may in a user namespace of which it is root (`unshare --map-root-user`).
pub fn can_unpack() -> bool {
    static CAN: LazyLock<bool> = LazyLock::new(|| {
        let dir = scratch();
        in_thread_of_its_own(|| rustix::process::chroot(dir.path()).is_ok())
    });
    *CAN
}

/// Runs something in a thread whose root directory, working directory and umask are its own.
fn in_thread_of_its_own<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let ran = scope.spawn(|| {
            // SAFETY: descriptors stay shared; only paths are seen differently.
            let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) };
            unshared.expect("every thread may have its own root directory");
            run()
        });
        ran.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Puts the right checksum in every block that looks like a header of a tar: hardly any changed one
/// would be read otherwise.
fn with_checksums(input: &[u8]) -> Vec<u8> {
    let mut tar = input.to_vec();
    for block in tar.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    tar
}

/// A tar as a layer: nothing outside the directory is touched that it is unpacked to.
pub fn layers(input: &[u8]) {
    let _ = io::copy(&mut Bounded::new(input, input.len() as u64), &mut io::sink());
    let input = &*with_checksums(input);
    // What does not go through the bounds is not unpacked either.
    let bounded = io::copy(&mut Bounded::new(input, input.len() as u64), &mut io::sink());
    if !can_unpack() {
        return;
    }
    let one = Identity::Single { uid: 1000, gid: 1000 };
    for (storage, identity) in [(Storage::Overlay, Identity::Root), (Storage::Copy, one)] {
        let scratch = scratch();
        let outside = scratch.path().join("outside");
        let directory = scratch.path().join("layer");
        write(&outside, b"outside");
        std::fs::create_dir(&directory).expect("there is room for files");
        let unpacked = in_thread_of_its_own(|| {
            let mut tar = Bounded::new(input, input.len() as u64);
            unpack_layer(&directory, storage, &identity, &mut tar).is_ok()
        });
        assert!(bounded.is_ok() || !unpacked, "a layer is unpacked that goes beyond the bounds");
        let left = std::fs::read(&outside).expect("the file beside the layer is there");
        assert_eq!(left, b"outside");
        let beside = std::fs::read_dir(scratch.path()).expect("the directory is there").count();
        assert_eq!(beside, 2, "a layer puts something beside it");
    }
}

/// A patch, as text: what it touches is inside the repository, and among what it mentions.
pub fn patches(input: &[u8]) {
    let touched = touched(input);
    let mentioned = mentioned(input);
    for path in &touched.paths {
        let text = String::from_utf8_lossy(path);
        let mut parts = path.split(|byte| *byte == b'/');
        let leads_out = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part == b".git";
        assert!(!parts.any(leads_out), "`{text}` leads out of the repository");
        let known = path.len() > PATH || mentioned.contains(path);
        assert!(known, "`{text}` is touched and not mentioned");
    }
    assert!(touched.kept.is_subset(&touched.paths), "what is kept is touched");
    assert!(touched.symlinks.is_subset(&touched.paths), "a link is touched");
    let _ = (touched_before(input), blob_ids(input));
    let text = String::from_utf8_lossy(input);
    if let Some(change) = Change::parse(&text) {
        assert_eq!(Change::parse(&change.to_string()), Some(change));
    }
    if let Some(changes) = from_json(&text) {
        assert_eq!(from_json(&to_json(&changes)), Some(changes));
    }
}

/// A repository of a few files, with a mirror.
struct Repository {
    dir: TempDir,
    mirror: Mirror,
    commit: String,
}

impl Repository {
    fn make() -> Repository {
        let dir = scratch();
        let source = dir.path().join("source");
        let git = |words: &[&str]| {
            let mut command = Command::new("git");
            command.args(["-c", "user.name=A", "-c", "user.email=a@b"]).args(words);
            command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
            let output = command.current_dir(&source).output().expect("`git` runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        std::fs::create_dir_all(source.join("pkg")).expect("there is room for files");
        write(&source.join("pkg/code.py"), b"one\ntwo\nthree\nfour\nfive\n");
        write(&source.join("pkg/test_code.py"), b"def test_one():\n    assert one\n");
        std::os::unix::fs::symlink("pkg", source.join("inside")).expect("a link can be made");
        std::os::unix::fs::symlink("/tmp", source.join("out")).expect("a link can be made");
        git(&["init", "-q", "-b", "main"]);
        git(&["add", "--all"]);
        git(&["commit", "-q", "-m", "all"]);
        let commit = git(&["rev-parse", "HEAD"]);
        let templates = vec![source.display().to_string()];
        let mirrors = Mirrors::new(dir.path(), templates, BTreeMap::new());
        let mirror = mirrors.mirror("a/b", &[&commit], &NoLog).expect("the source has it");
        Repository { dir, mirror, commit }
    }
}

thread_local! {
    /// Of each thread, so that it is removed with it.
    static REPOSITORY: Repository = Repository::make();
}

/// A patch of a model and one of tests, as they are applied to a repository: what leads out is
/// refused, and the layer of the others is below the repository.
pub fn patched_trees(input: &[u8]) {
    let [model_patch, test_patch] = parts(input);
    // `patch` counts up to such a line, until its time is over.
    if input.split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() > 8) {
        return;
    }
    REPOSITORY.with(|repository| {
        let commit = &repository.commit;
        let request =
            PatchRequest { commit, setup_diff: None, test_patch, model_patch, root: "testbed" };
        let scratch = tempfile::tempdir_in(repository.dir.path()).expect("there is room");
        let layer = scratch.path().join("layer.tar");
        let work = scratch.path().join("work");
        std::fs::create_dir(&work).expect("there is room for files");
        let outcome = match repository.mirror.write_patch_layer(&request, &work, &layer) {
            Ok(outcome) => outcome,
            Err(error) => {
                assert!(!error.is_out_of_reach(), "`git` and `patch` are needed: {error}");
                return;
            }
        };
        if let PatchOutcome::Applied(_) = outcome {
            for patch in [model_patch, test_patch] {
                let blank = patch.iter().all(u8::is_ascii_whitespace);
                assert!(blank || touched(patch).outside.is_empty(), "what leads out is applied");
            }
            let file = std::fs::File::open(&layer).expect("the layer is written");
            let mut tar = tar::Archive::new(file);
            for entry in tar.entries().expect("the layer is a tar") {
                let entry = entry.expect("the layer is a tar");
                let path = entry.path().expect("a path of Linux");
                let inside = path.starts_with("testbed")
                    && path.components().all(|part| matches!(part, Component::Normal(_)));
                assert!(inside, "`{}` is outside the repository", path.display());
            }
        }
    });
}

/// An archive: as the file itself, and as documents with zeros between them, of which the last is the
/// index. There `@0` and `#0` are the digest and the size of the first document, and so on, so that
/// documents can be read which an archive of random bytes does not come to.
pub fn archives(input: &[u8]) {
    let dir = scratch();
    let path = dir.path().join("archive.tar");
    for bytes in [Cow::Borrowed(input), Cow::Owned(archive_of_documents(input))] {
        write(&path, &bytes);
        let Ok(archive) = Archive::open(&path, dir.path()) else { continue };
        for (_, key) in archive.images() {
            let _ = archive.aliases(&key);
        }
        let keys = [keys().1.clone()];
        let _ = archive.trusting(&keys).images();
    }
}

/// Makes an archive of documents; see [`archives`].
fn archive_of_documents(input: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).expect("it is written to memory");
    };
    add("imgforge.json", br#"{"version":1}"#);
    let mut known: Vec<(String, usize)> = Vec::new();
    let mut blobs = BTreeSet::new();
    let documents: Vec<&[u8]> = input.split(|byte| *byte == BETWEEN).take(10).collect();
    let (index, documents) = documents.split_last().expect("there is one at least");
    let filled = |document: &[u8], known: &[(String, usize)]| {
        let mut text = String::from_utf8_lossy(document).into_owned();
        for (at, (digest, size)) in known.iter().enumerate() {
            text = text.replace(&format!("@{at}"), digest);
            text = text.replace(&format!("#{at}"), &size.to_string());
        }
        text.into_bytes()
    };
    for document in documents {
        let bytes = filled(document, &known);
        let digest = Digest::of(&bytes);
        if blobs.insert(digest) {
            add(&format!("blobs/sha256/{digest}"), &bytes);
        }
        known.push((digest.oci(), bytes.len()));
    }
    add("index.json", &filled(index, &known));
    tar.into_inner().expect("it is written to memory")
}

/// A bundle: as the file itself, and as the tar in it. Nothing beside its directory is touched.
pub fn bundles(input: &[u8]) {
    let tar = with_checksums(input);
    let packed = zstd::encode_all(&*tar, 1).expect("it is written to memory");
    for bytes in [input, &packed] {
        let dir = scratch();
        let (path, to) = (dir.path().join("bundle"), dir.path().join("unpacked"));
        write(&path, bytes);
        let unpacked = bundle::unpack(&path, &to);
        let beside = std::fs::read_dir(dir.path()).expect("the directory is there").count();
        assert!(beside <= 2, "a bundle puts something beside its directory");
        if unpacked.is_ok() {
            let again = bundle::read(&to).expect("what was unpacked can be read");
            assert!(again.is_some(), "what was unpacked is there");
        }
    }
}

/// A Dockerfile: its normal form is one, and every image that it names can have another name.
pub fn dockerfiles(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let none = BTreeMap::new();
    let args = BTreeMap::from([("VERSION".to_owned(), "3".to_owned())]);
    let normal = normalise(&text);
    assert_eq!(normalise(&normal), normal, "the normal form has another one");
    assert_eq!(with_names(&text, &args, &none), normal, "no names change nothing");
    let name = |image: &String| (image.clone(), "registry.example/renamed:1".to_owned());
    let names: BTreeMap<String, String> = external_images(&text, &args).iter().map(name).collect();
    let _ = with_names(&text, &args, &names);
    let Ok(stages) = stages(&text, &args) else { return };
    let external = external_images(&text, &args);
    for image in images(&stages) {
        assert!(external.contains(&image), "`{image}` is built on and in no key");
    }
    for stage in &stages {
        let mut variables = stage.variables(&["PATH=/bin".to_owned()]);
        let mut built = Built::default();
        for step in &stage.steps {
            let _ = (step.action(&mut variables, &mut built), step.mentions("x"), step.runs());
        }
        let _ = variables.environment();
    }
}

/// A dataset: as JSON lines, as one JSON and as CSV.
pub fn rows(input: &[u8]) {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.build().expect("a runtime can be made")
    });
    let hub = HubSettings::from_env(|_| None);
    let dir = scratch();
    for name in ["rows.jsonl", "rows.json", "rows.csv"] {
        let path = dir.path().join(name);
        write(&path, input);
        let loaded = RUNTIME.block_on(dataset::load(&path.display().to_string(), "test", &hub));
        let Ok(dataset) = loaded else { continue };
        let ids: Vec<&str> = dataset.ids().collect();
        let different: BTreeSet<&&str> = ids.iter().collect();
        assert_eq!(different.len(), ids.len(), "an id is there twice");
        for instance in &dataset.instances {
            let _ = Rules::with(instance, Family::Swebench, true);
            let _ = touched(instance.patch.as_bytes());
        }
    }
}

/// Predictions: as JSON lines, as one JSON and as a file of SWE-agent.
pub fn predictions(input: &[u8]) {
    let dir = scratch();
    for name in ["p.jsonl", "p.json", "a__b-1.pred"] {
        let path = dir.path().join(name);
        write(&path, input);
        let Ok(read) = prediction::read(&path.display().to_string(), &[]) else { continue };
        let id = |one: &prediction::Prediction| {
            (one.model_name_or_path.clone(), one.instance_id.clone())
        };
        let ids: BTreeSet<(String, String)> = read.list.iter().map(id).collect();
        assert_eq!(ids.len(), read.list.len(), "a model has two predictions of an instance");
    }
}

/// A log: the first byte is the number of a parser, the second chooses the rules, the log follows.
/// Without the name of the expected test no log is one of a run that is resolved.
pub fn logs(input: &[u8]) {
    let [number, rules, log @ ..] = input else { return };
    let names: Vec<&str> = parsers().map(|(name, _)| name).collect();
    let parser = parser(names[usize::from(*number) % names.len()]).expect("it is in the list");
    let choose = |of: &[&str], at: u8| of[usize::from(at) % of.len()].to_owned();
    // The second is cut off within its parameters, as some names of datasets are.
    let test = choose(&[EXPECTED_TEST, &format!("{EXPECTED_TEST}[a")], rules >> 6);
    let instance = Instance {
        instance_id: choose(
            &["a__b-1", "jekyll__jekyll-8761", "pytest__pytest-1", "a-2005"],
            *rules,
        ),
        version: choose(&["2.0", "1.27", "9.5"], rules >> 2),
        FAIL_TO_PASS: vec![test.clone()],
        ..Instance::default()
    };
    // Parsers of pytest leave out colours and control characters, which may be within a name.
    static COLOUR: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\[\d+m").expect("it is an expression"));
    let mut plain = COLOUR.replace_all(log, b"").into_owned();
    plain.retain(|byte| !(1..32).contains(byte) || *byte == b'\n');
    let named =
        [log, &plain].iter().any(|log| memchr::memmem::find(log, test.as_bytes()).is_some());
    for family in [Family::Swebench, Family::Swesmith] {
        for strict in [false, true] {
            let rules = Rules { parser, eval_type: EvalType::PassAndFail, family, strict };
            let Ok(graded) = grade(&mut Cursor::new(log), &rules, &instance) else { continue };
            assert!(named || !graded.resolved(), "resolved without the test: {rules:?}");
        }
    }
    let _ = classify(&mut Cursor::new(log));
}

/// A strict log, of what came before the tests, what the tests printed, and a file of results, with
/// zeros between them. No text in any of them forges what stands around it.
pub fn strict_logs(input: &[u8]) {
    let [before, output, results] = parts(input);
    let context = |strict| crate::grade::Context {
        instance_id: "a__b-1",
        version: "1.0",
        strict,
        runs: None,
    };
    let parser = parser("parse_log_pytest").expect("it is in the list");
    for format in [Format::Junit, Format::ReportLog] {
        let files = [ResultsFile::Written(format, results.to_vec())];
        for exit_code in [None, Some(0), Some(7)] {
            let mut log = Vec::new();
            let tests = sentinel::Tests { output: &mut &*output, exit_code, results: &files };
            sentinel::compose(&mut &*before, Some(tests), &mut log).expect("it is in memory");
            for strict in [true, false] {
                let reading = read_log(&mut Cursor::new(&log), parser, &context(strict))
                    .expect("what is in memory can be read");
                assert_eq!(reading.exit_code, exit_code, "the exit status is forged");
                let said = matches!(
                    reading.not_found,
                    Some(
                        NoResult::PatchApplyFailed
                            | NoResult::ResetFailed
                            | NoResult::TestsErrored
                            | NoResult::TestsTimedOut
                    )
                );
                assert!(!said, "a marker is forged");
                let ended = reading.not_found != Some(NoResult::NoMarkers);
                assert_eq!(ended, exit_code.is_some(), "the end of the tests is forged");
            }
            sentinel::forged(&mut Cursor::new(&log)).expect("what is in memory can be read");
        }
    }
}

/// A key that signs, and the one that is trusted.
fn keys() -> &'static (PrivateKey, PublicKey) {
    static KEYS: LazyLock<(PrivateKey, PublicKey)> = LazyLock::new(|| {
        let key = PrivateKey::generate();
        let public = key.public();
        (key, public)
    });
    &KEYS
}

/// An answer of a registry: a header and a body, with a zero between them.
pub fn registry_answers(input: &[u8]) {
    let [header, body] = parts(input);
    read_every_answer(header, body);
    let (private, public) = keys();
    let trusted = std::slice::from_ref(public);
    let digest = Digest::of(b"image").oci();
    // A signed text is read further than one that is not.
    let signature = private.sign(body);
    if SimplePayload::verify(body, &signature, trusted, &digest).is_ok() {
        let named = memchr::memmem::find(body, digest.as_bytes()).is_some();
        assert!(named, "a signature counts for an image that it does not name");
    }
    assert!(SimplePayload::verify(body, header, trusted, &digest).is_err(), "a forged signature");
    if let Ok(bundle) = serde_json::from_slice::<Bundle>(body)
        && let Some(envelope) = bundle.dsse_envelope
    {
        assert!(envelope.open(trusted, &digest).is_err(), "a forged envelope");
    }
    let _ = PublicKey::read(&String::from_utf8_lossy(body));
}

/// A reference of an image, a registry and a namespace: each has one spelling.
pub fn references(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = (reference::split_tag(&text), reference::registry(&text));
    let parts =
        |read: &Reference| [read.registry(), read.repository(), read.version()].map(str::to_owned);
    if let Ok(read) = text.parse::<Reference>() {
        assert_eq!(read.as_str(), text);
        let at = if read.version().contains(':') { '@' } else { ':' };
        let whole = format!("{}/{}{at}{}", read.registry(), read.repository(), read.version());
        let again = whole.parse().map(|again| parts(&again));
        assert_eq!(again, Ok(parts(&read)), "`{text}` and `{whole}`");
    }
    if let Ok(place) = reference::place(&text) {
        assert_eq!(reference::place(&place), Ok(place), "a place of `{text}`");
    }
    if let Ok(namespace) = reference::namespace(&text) {
        assert_eq!(reference::namespace(&namespace), Ok(namespace), "a namespace of `{text}`");
    }
    let _ = crate::plan::name::parse(&text);
}
