//! Writing a checkout layer, against `git archive | cat` on the same commit in the same run.
//!
//! `IMGFORGE_BENCH_REPO` names a repository; without it this project's own is used.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use imgforge::engine::NoLog;
use imgforge::source::{CheckoutOptions, Mirrors};

fn checkout(criterion: &mut Criterion) {
    let repo = std::env::var_os("IMGFORGE_BENCH_REPO")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(&repo).output();
        let output = output.expect("git runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let commit = git(&["rev-parse", "HEAD"]);
    let dir = tempfile::tempdir().expect("the system gives directories");
    let source = repo.display().to_string();
    let mirror = Mirrors::new(dir.path(), vec![source], BTreeMap::new())
        .mirror("bench/repo", &[&commit], &NoLog)
        .expect("the repository has its own head");
    let out = dir.path().join("layer.tar");
    let options = CheckoutOptions::new("testbed");
    let tar = git(&["archive", "--format=tar", "-o", "/dev/null", "HEAD"]);
    assert!(tar.is_empty());
    let layer = mirror.write_checkout(&commit, &options, &out).expect("the commit is there");
    let mut group = criterion.benchmark_group("checkout");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(layer.file.size));
    group.bench_function("imgforge, work tree and .git", |bencher| {
        bencher
            .iter(|| mirror.write_checkout(&commit, &options, &out).expect("the commit is there"));
    });
    let archive = || {
        let file = std::fs::File::create(dir.path().join("archive.tar")).expect("a file");
        let mut git = Command::new("git")
            .args(["archive", "--format=tar", &commit])
            .current_dir(&repo)
            .stdout(Stdio::piped())
            .spawn()
            .expect("git runs");
        let pipe = git.stdout.take().expect("stdout is piped");
        let cat = Command::new("cat").stdin(pipe).stdout(file).status().expect("cat runs");
        assert!(git.wait().expect("git ends").success() && cat.success());
    };
    archive();
    let size = std::fs::metadata(dir.path().join("archive.tar")).expect("written").len();
    group.throughput(Throughput::Bytes(size));
    group.bench_function("git archive | cat, work tree alone", |bencher| bencher.iter(archive));
    group.finish();
}

criterion_group!(benches, checkout);
criterion_main!(benches);
