//! What only the embedded engine can meet: hostile and damaged layers, state directories on other
//! file systems, full disks, kernels that refuse, kills.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use imgforge::engine::embedded::{EmbeddedEngine, Settings, Storage};
use imgforge::engine::{
    Builder as _, Engine, EngineError, Image, ImageConfig, Images as _, LayerFile, LayerRequest,
    Quotas, Runner as _,
};
use imgforge::key::Digest;
use imgforge::platform::Platform;

use crate::common::{Log, base, dead, helper, is_running, is_under_test, on_every_engine};
use crate::needs::{self, NotHere, is_root, not_here};
use crate::scratch::Scratch;
use crate::session_bad_days;

fn settings(state: &Path, storage: Option<Storage>) -> Settings {
    Settings {
        state_dir: state.to_owned(),
        helper: helper(),
        owner: format!("test-{:08x}", rand::random::<u32>()),
        client_config: None,
        storage,
        probe: false,
    }
}

pub(crate) async fn open(state: &Path, storage: Option<Storage>) -> Arc<EmbeddedEngine> {
    Arc::new(EmbeddedEngine::open(settings(state, storage)).await.unwrap())
}

/// Runs a test on engines of its own; only where the embedded engine is under test.
pub(crate) fn on_its_own<F>(test: impl FnOnce(PathBuf) -> F)
where
    F: Future<Output = ()>,
{
    if !is_under_test("embedded") {
        return not_here(NotHere::OtherEngine);
    }
    let dir = Scratch::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(test(dir.path().to_owned()));
}

/// An entry of a layer.
enum Entry {
    File(&'static str, &'static [u8]),
    Program(&'static str, &'static [u8]),
    Link(&'static str, &'static str),
    Symlink(&'static str, &'static str),
    Directory(&'static str, u32),
    Device(&'static str),
    Fifo(&'static str),
}

/// Writes a layer with names as they are, also such that no archiver writes.
fn layer(directory: &Path, entries: &[Entry]) -> LayerFile {
    let mut archive = tar::Builder::new(Vec::new());
    let header = |kind, name: &str, mode| {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len().min(100)]
            .copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_size(0);
        header
    };
    for entry in entries {
        let (mut header, bytes): (_, &[u8]) = match entry {
            Entry::File(name, bytes) => (header(tar::EntryType::Regular, name, 0o644), bytes),
            Entry::Program(name, bytes) => (header(tar::EntryType::Regular, name, 0o755), bytes),
            Entry::Link(name, to) => {
                let mut header = header(tar::EntryType::Link, name, 0o644);
                header.set_link_name_literal(to).unwrap();
                (header, b"")
            }
            Entry::Symlink(name, to) => {
                let mut header = header(tar::EntryType::Symlink, name, 0o777);
                header.set_link_name_literal(to).unwrap();
                (header, b"")
            }
            Entry::Directory(name, mode) => (header(tar::EntryType::Directory, name, *mode), b""),
            Entry::Device(name) => {
                let mut header = header(tar::EntryType::Char, name, 0o666);
                header.set_device_major(1).unwrap();
                header.set_device_minor(3).unwrap();
                (header, b"")
            }
            Entry::Fifo(name) => (header(tar::EntryType::Fifo, name, 0o644), b""),
        };
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        archive.append(&header, bytes).unwrap();
    }
    kept(directory, archive.into_inner().unwrap())
}

fn kept(directory: &Path, bytes: Vec<u8>) -> LayerFile {
    let diff_id = Digest::of(&bytes);
    let path = directory.join(format!("{diff_id}.tar"));
    std::fs::write(&path, &bytes).unwrap();
    LayerFile { path, diff_id, size: bytes.len() as u64 }
}

pub(crate) fn image(layers: Vec<LayerFile>, tag: &str) -> LayerRequest {
    LayerRequest {
        parent: Image { platform: Platform::host(), ..Image::default() },
        layers,
        config: ImageConfig::default(),
        tags: vec![tag.to_owned()],
    }
}

/// The tar of the base image, from the state that tests share.
pub(crate) async fn base_tar(directory: &Path) -> LayerFile {
    let state = needs::base();
    let engine = open(&state, None).await;
    let base = engine.inspect(&base()).await.unwrap();
    let base = base.unwrap_or_else(|| panic!("{}", needs::no_base(&state.display().to_string())));
    let blobs = state.join("embedded");
    let record = blobs.join("layers").join(base.diff_ids[0].hex());
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    let digest = record["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let blob = std::fs::File::open(blobs.join("oci/blobs/sha256").join(digest)).unwrap();
    let path = directory.join("base.tar");
    let mut file = std::fs::File::create(&path).unwrap();
    let size = std::io::copy(&mut flate2::read::GzDecoder::new(blob), &mut file).unwrap();
    LayerFile { path, diff_id: base.diff_ids[0].as_str().parse().unwrap(), size }
}

async fn shell(engine: &dyn Engine, reference: &str, command: &str) -> (i64, String) {
    let log = Log::default();
    let command = ["sh", "-c", command].map(str::to_owned);
    let code = engine.run(reference, &command, &log).await;
    (code.unwrap_or_else(|error| panic!("{error:?}: {}", log.text())), log.text())
}

#[test]
#[ignore = "needs an engine"]
fn a_hostile_layer_cannot_write_outside_its_snapshot() {
    on_its_own(|dir| async move {
        let state = dir.join("state");
        let engine = open(&state, None).await;
        let outside = dir.join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("victim"), "untouched").unwrap();
        let at = outside.to_str().unwrap().to_owned().leak() as &'static str;
        let victim = format!("{at}/victim").leak() as &'static str;
        let up = format!("../../../../../..{at}/victim").leak() as &'static str;
        let attacks: Vec<Vec<Entry>> = vec![
            vec![Entry::File(up, b"attacked")],
            vec![Entry::File(victim, b"attacked")],
            vec![Entry::Symlink("link", at), Entry::File("link/victim", b"attacked")],
            vec![Entry::Symlink("link", victim), Entry::File("link", b"attacked")],
            vec![
                Entry::Symlink("a", "/"),
                Entry::Symlink("a/b", at),
                Entry::File("a/b/victim", b"x"),
            ],
            vec![Entry::Link("hard", victim), Entry::File("hard", b"attacked")],
            vec![
                Entry::Symlink("link", victim),
                Entry::Link("hard", "link"),
                Entry::File("hard", b"x"),
            ],
            vec![Entry::Symlink("link", at), Entry::File("link/.wh.victim", b"")],
            vec![Entry::Symlink("link", at), Entry::File("link/.wh..wh..opq", b"")],
            vec![Entry::Symlink("link", at), Entry::Directory("link", 0o700)],
            vec![Entry::File("../victim", b"x")],
        ];
        for (number, attack) in attacks.iter().enumerate() {
            let request = image(vec![layer(&dir, attack)], &format!("attack:{number}"));
            // Refused, or harmless: both are fine.
            let loaded = engine.load(&request).await;
            if let Err(error) = &loaded {
                assert!(!error.is_transient(), "{number}: {error:?}");
            }
            assert_eq!(std::fs::read(outside.join("victim")).unwrap(), b"untouched", "{number}");
            let names = std::fs::read_dir(&outside).unwrap().count();
            assert_eq!(names, 1, "attack {number} left something");
        }
        assert!(!state.join("victim").exists() && !dir.join("victim").exists());
    });
}

#[test]
#[ignore = "needs an engine"]
fn layers_of_every_kind_are_unpacked_as_they_are() {
    for storage in [None, Some(Storage::Copy)] {
        on_its_own(|dir| async move {
            let base = base_tar(&dir).await;
            let engine = open(&dir.join("state"), storage).await;
            let long = "long/".repeat(60) + "name";
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o600);
            header.set_uid(0);
            header.set_gid(42);
            header.set_mtime(1_600_000_000);
            header.set_size(3);
            archive
                .append_pax_extensions([("SCHILY.xattr.user.note", b"kept".as_slice())])
                .unwrap();
            archive.append_data(&mut header, &long, b"abc".as_slice()).unwrap();
            let mut zeros = vec![0; 1 << 22];
            zeros[1 << 21] = 1;
            header.set_size(zeros.len() as u64);
            archive.append_data(&mut header, "zeros", zeros.as_slice()).unwrap();
            // A sparse file of GNU's version 1.0: 8 MiB, with three bytes at 4 MiB.
            let map = b"1\n4194304\n3\n";
            let mut data = map.to_vec();
            data.resize(512, 0);
            data.extend_from_slice(b"xyz");
            header.set_size(data.len() as u64);
            archive
                .append_pax_extensions([
                    ("GNU.sparse.major", b"1".as_slice()),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.name", b"sparse"),
                    ("GNU.sparse.realsize", b"8388608"),
                ])
                .unwrap();
            archive.append_data(&mut header, "GNUSparseFile.0/sparse", data.as_slice()).unwrap();
            let first = kept(&dir, archive.into_inner().unwrap());
            let second = layer(
                &dir,
                &[
                    Entry::Directory("d", 0o1777),
                    Entry::File("d/a", b"1"),
                    Entry::Link("d/b", "d/a"),
                    Entry::Symlink("d/c", "a"),
                    Entry::Fifo("d/f"),
                    Entry::Device("d/n"),
                    Entry::File("e/gone", b"1"),
                    Entry::File("e/stays", b"1"),
                    Entry::File("o/hidden", b"1"),
                ],
            );
            let third = layer(
                &dir,
                &[
                    Entry::File("e/.wh.gone", b""),
                    Entry::File("o/.wh..wh..opq", b""),
                    Entry::File("o/new", b"2"),
                ],
            );
            engine.load(&image(vec![base, first, second, third], "kinds:1")).await.unwrap();
            let (_, output) = shell(
                &*engine,
                "kinds:1",
                &format!(
                    "cat /{long}; echo; stat -c '%a %Y' /{long}; \
                     python3 -c 'import os; print(os.getxattr(\"/{long}\", \"user.note\").decode())'; \
                     stat -c '%s' /zeros /sparse; test $(stat -c %b /zeros) -lt 200 && echo holes; \
                     tail -c +4194305 /sparse | head -c 3; echo; stat -c '%a %h' /d /d/a; \
                     test /d/a -ef /d/b && readlink /d/c; test -p /d/f && echo fifo; \
                     if [ -c /d/n ] && cat /d/n; then echo opened; fi 2>/dev/null; ls /e /o"
                ),
            )
            .await;
            assert_eq!(
                output,
                "abc\n600 1600000000\nkept\n4194304\n8388608\nholes\nxyz\n1777 2\n644 2\na\nfifo\n\
                 /e:\nstays\n\n/o:\nnew\n"
            );
        });
    }
}

#[test]
#[ignore = "needs an engine"]
fn copies_give_the_same_image_as_an_overlay() {
    on_its_own(|dir| async move {
        let base = base_tar(&dir).await;
        let mut diff_ids = Vec::new();
        for (name, storage) in [("one", None), ("two", Some(Storage::Copy))] {
            let engine = open(&dir.join("state").join(name), storage).await;
            engine.load(&image(vec![base.clone()], "base:1")).await.unwrap();
            let request = imgforge::engine::BuildRequest {
                dockerfile: "FROM base:1\nRUN mkdir /new && echo a > /new/a && rm -r /usr/games \
                             /etc/apt && mkdir /etc/apt && echo b > /etc/apt/b && chmod 700 /srv && \
                             ln /new/a /new/b && ln -s a /new/c\n"
                    .to_owned(),
                context: Vec::new(),
                args: Default::default(),
                platform: Platform::host(),
                labels: Default::default(),
                tags: vec!["built:1".to_owned()],
                host: Default::default(),
                no_cache: false,
                as_docker: None,
            };
            let log = Log::default();
            let built = engine.build(&request, &log).await;
            let built = built.unwrap_or_else(|error| panic!("{error:?}: {}", log.text()));
            let script =
                "ls /new /etc/apt /usr/games 2>&1; cat /new/b; stat -c %a /srv; stat -c %h /new/a";
            let (_, output) = shell(&*engine, "built:1", script).await;
            diff_ids.push((built.diff_ids.len(), output));
        }
        assert!(diff_ids[0].1.contains("/etc/apt:\nb\n"), "{}", diff_ids[0].1);
        assert!(diff_ids[0].1.ends_with("/new:\na\nb\nc\na\n700\n2\n"), "{}", diff_ids[0].1);
        assert_eq!(diff_ids[0], diff_ids[1]);
    });
}

/// A program of 32 bits: its header and one segment that has the code; see `elf(5)`.
#[cfg(target_arch = "x86_64")]
fn of_32_bits(code: &[u8]) -> &'static [u8] {
    const START: u32 = 0x0804_8000;
    let size = 84 + u32::try_from(code.len()).unwrap();
    let mut bytes = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    for word in [1, START + 84, 52, 0, 0] {
        bytes.extend(u32::to_le_bytes(word));
    }
    for short in [52, 32, 1, 0, 0, 0] {
        bytes.extend(u16::to_le_bytes(short));
    }
    for word in [1, 0, START, START, size, size, 5, 0x1000] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(code);
    bytes.leak()
}

#[cfg(target_arch = "x86_64")]
#[test]
#[ignore = "needs an engine"]
fn programs_of_32_bits_run_and_make_no_namespaces() {
    on_its_own(|dir| async move {
        // Each ends with the code that is in `ebx`: 42; what `unshare(CLONE_NEWUSER)` answered; and
        // what a socket of the machine's host answered.
        let end = [0xb8, 1, 0, 0, 0, 0xcd, 0x80];
        let negated = [0x89, 0xc3, 0xf7, 0xdb];
        let plain = [&[0xbb, 42, 0, 0, 0][..], &end].concat();
        let unshare = [0xb8, 0x36, 1, 0, 0, 0xbb, 0, 0, 0, 0x10, 0xcd, 0x80];
        let unshare = [&unshare[..], &negated, &end].concat();
        let vsock =
            [0xb8, 0x67, 1, 0, 0, 0xbb, 40, 0, 0, 0, 0xb9, 1, 0, 0, 0, 0x31, 0xd2, 0xcd, 0x80];
        let vsock = [&vsock[..], &negated, &end].concat();
        let mut programs = Vec::new();
        for (name, code) in [("plain", plain), ("unshare", unshare), ("vsock", vsock)] {
            programs.push(Entry::Program(name, of_32_bits(&code)));
        }
        let engine = open(&dir.join("state"), None).await;
        engine.load(&image(vec![layer(&dir, &programs)], "compat:1")).await.unwrap();
        for (name, right) in
            [("/plain", 42), ("/unshare", libc::EPERM), ("/vsock", libc::EAFNOSUPPORT)]
        {
            let log = Log::default();
            let code = engine.run("compat:1", &[name.to_owned()], &log).await.unwrap();
            assert_eq!(code, i64::from(right), "{name}: {}", log.text());
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_blob_that_is_damaged_is_found_and_named() {
    on_its_own(|dir| async move {
        let state = dir.join("state");
        let engine = open(&state, None).await;
        let file = layer(&dir, &[Entry::File("a", b"text")]);
        let diff_id = file.diff_id.to_string();
        engine.load(&image(vec![file], "damaged:1")).await.unwrap();
        let record = state.join("embedded/layers").join(&diff_id);
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
        let digest = record["digest"].as_str().unwrap().to_owned();
        let blob = state.join("embedded/oci/blobs/sha256").join(&digest[7..]);
        let mut bytes = std::fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        std::fs::write(&blob, &bytes).unwrap();
        // What is unpacked is not the blob; another kind of store has to unpack it anew.
        let other = open(&state, Some(Storage::Copy)).await;
        let log = Log::default();
        let error = other.run("damaged:1", &["/a".to_owned()], &log).await.unwrap_err();
        assert!(log.text().contains(&format!("blob `{digest}` is damaged")), "{}", log.text());
        let EngineError::NoSuchImage { reference } = &error else { panic!("{error:?}") };
        assert_eq!(reference, "damaged:1");
        assert_eq!(other.inspect("damaged:1").await.unwrap(), None);
    });
}

#[test]
#[ignore = "needs an engine"]
fn two_processes_that_unpack_one_layer_do_it_once() {
    on_its_own(|dir| async move {
        let base = base_tar(&dir).await;
        let state = dir.join("state");
        let loads = (0..2).map(|number| {
            let (state, base) = (state.clone(), base.clone());
            tokio::spawn(async move {
                let engine = open(&state, None).await;
                engine.load(&image(vec![base], &format!("both:{number}"))).await.unwrap().id
            })
        });
        let ids = futures_util::future::join_all(loads).await;
        assert_eq!(ids[0].as_ref().unwrap(), ids[1].as_ref().unwrap());
        let mut left = Vec::new();
        for store in std::fs::read_dir(state.join("embedded")).unwrap().flatten() {
            if let Ok(entries) = std::fs::read_dir(store.path().join("c")) {
                left.extend(entries.flatten().map(|entry| entry.path()));
            }
        }
        assert_eq!(left, Vec::<PathBuf>::new());
    });
}

#[test]
#[ignore = "needs an engine"]
fn what_ran_while_its_files_were_taken_away_has_no_exit_code() {
    on_every_engine(|bench| async move {
        let Some(state) = bench.state() else {
            return not_here(NotHere::OtherEngine);
        };
        let containers = || {
            let forms = std::fs::read_dir(state.join("embedded")).unwrap().flatten();
            let containers = forms.filter_map(|form| std::fs::read_dir(form.path().join("c")).ok());
            let containers = containers.flat_map(|found| found.flatten());
            let mine = containers.map(|container| container.path());
            mine.filter(|path| path.to_str().unwrap().contains(&bench.owner)).collect::<Vec<_>>()
        };
        // Renamed, removed, and there again as another. A plain user cannot remove what belongs to
        // the users of a container.
        let root = is_root();
        for way in 0..if root { 3 } else { 1 } {
            let log = Log::default();
            let script = "cd /tmp && echo up && sleep 1; pwd; exit 0";
            let request = crate::sandbox::sandbox(&bench, script);
            let running = bench.engine.run_script(&request, &log, &log);
            let take_away = async {
                while !log.text().contains("up") {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                let [path] = &containers()[..] else { panic!("{:?}", containers()) };
                let aside = path.with_file_name(format!("{}-gone", bench.owner));
                std::fs::rename(path, &aside).unwrap();
                if way > 0 {
                    std::fs::remove_dir_all(&aside).unwrap();
                }
                if way > 1 {
                    std::fs::create_dir(path).unwrap();
                }
            };
            let (end, ()) = tokio::join!(running, take_away);
            let error = end.unwrap_err();
            assert!(error.is_transient(), "{way}: {error:?}");
            for path in containers().into_iter().filter(|_| root) {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_step_whose_files_were_taken_away_makes_no_layer() {
    on_every_engine(|bench| async move {
        let Some(state) = bench.state() else {
            return not_here(NotHere::OtherEngine);
        };
        let marker = format!("{:016x}", rand::random::<u64>());
        let text = format!("FROM {}\nRUN echo {marker}; sleep 1; echo x >/new\n", bench.from());
        let request = bench.build(&text, "taken");
        let log = Log::default();
        let take_away = async {
            let mounted = format!("/c/{}-", bench.owner);
            // The host's files of the build have such a name as well: the container has a tree.
            let tree = |path: &Path| path.join("m").is_dir();
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let forms = std::fs::read_dir(state.join("embedded")).unwrap().flatten();
                let found = forms
                    .filter_map(|form| std::fs::read_dir(form.path().join("c")).ok())
                    .flat_map(|found| found.flatten().map(|entry| entry.path()))
                    .find(|path| path.to_str().unwrap().contains(&mounted) && tree(path));
                let up = log.text().lines().any(|line| line.trim() == marker);
                if let Some(path) = found.filter(|_| up) {
                    std::fs::rename(&path, path.with_file_name(format!("{}-gone", bench.owner)))
                        .unwrap();
                    break;
                }
            }
        };
        let (built, ()) = tokio::join!(bench.engine.build(&request, &log), take_away);
        let error = built.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        let image = bench.engine.build(&request, &Log::default()).await.unwrap();
        assert_eq!(image.diff_ids.len(), bench.base.diff_ids.len() + 1, "the step is done anew");
    });
}

#[test]
#[ignore = "needs an engine"]
fn what_is_in_use_is_not_destroyed() {
    on_its_own(|dir| async move {
        let state = dir.join("state");
        drop(open(&state, Some(Storage::Copy)).await);
        let operation = state.join("embedded/operations/somebody");
        std::fs::write(&operation, "").unwrap();
        let held = std::fs::File::open(&operation).unwrap();
        held.lock().unwrap();
        let error = EmbeddedEngine::destroy(settings(&state, None)).await.unwrap_err();
        assert!(matches!(error, EngineError::Refused { .. }), "{error:?}");
        assert!(state.join("embedded/oci").is_dir());
        drop(held);
        EmbeddedEngine::destroy(settings(&state, None)).await.unwrap();
        assert!(!state.join("embedded").exists());
    });
}

/// The variable that makes the test below hold a container, with a word of its command.
const HOLD: &str = "IMGFORGE_TEST_HOLD";

#[test]
#[ignore = "needs another test"]
fn holds_a_container_for_another_test() {
    let Ok(marker) = std::env::var(HOLD) else { return not_here(NotHere::Unasked(HOLD)) };
    on_its_own(|_| async move {
        let owner = format!("held-{}", std::process::id());
        let settings = Settings { owner, ..settings(&needs::state(), None) };
        let engine = EmbeddedEngine::open(settings).await.unwrap();
        let request = imgforge::engine::SandboxRequest {
            image: base(),
            files: Vec::new(),
            command: format!("sleep {marker}"),
            time_limit: Duration::from_secs(1000),
            memory: Some(1 << 28),
            milli_cpus: None,
            pids: Some(100),
            quotas: Quotas::default(),
            network: imgforge::engine::SandboxNetwork::None,
            loopback_names: Vec::new(),
            variables: Default::default(),
            labels: Default::default(),
        };
        let log = Log::default();
        engine.run_script(&request, &log, &log).await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_kill_leaves_nothing_after_the_next_start() {
    on_every_engine(|bench| async move {
        let Some(state) = bench.state() else {
            return not_here(NotHere::OtherEngine);
        };
        let marker = format!("34{}", rand::random::<u32>());
        let mut other = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "embedded::holds_a_container_for_another_test"])
            .env(HOLD, &marker)
            .env("IMGFORGE_TEST_STATE", state)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let up = async {
            while !is_running(&marker) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), up).await.expect("the container starts");
        let name = format!("held-{}", other.id());
        other.kill().unwrap();
        other.wait().unwrap();
        let gone = async {
            while is_running(&marker) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the container ends");
        bench.engine.remove_scratch(&dead(&name)).await.unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&format!("/c/{name}")), "{mounts}");
        let groups = Command::new("find")
            .args(["/sys/fs/cgroup", "-path", &format!("*imgforge/{name}*")])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&groups.stdout), "");
    });
}

/// The variable that makes the test below live in a state directory: what is asked of it.
const LIVE: &str = "IMGFORGE_TEST_LIVE";

#[test]
#[ignore = "needs another test"]
fn lives_in_a_state_directory_for_another_test() {
    match std::env::var(LIVE) {
        Ok(wanted) => live_here(&wanted),
        Err(_) => not_here(NotHere::Unasked(LIVE)),
    }
}

/// Does what is wanted in a state directory that another test made.
fn live_here(wanted: &str) {
    on_its_own(|dir| async move {
        let state = PathBuf::from(std::env::var_os("IMGFORGE_TEST_LIVE_STATE").unwrap());
        let opened = EmbeddedEngine::open(settings(&state, None)).await;
        if wanted == "refused" {
            let Err(error) = opened else { panic!("it opened") };
            println!("refused: {error}");
            return;
        }
        let engine = opened.unwrap();
        let base = base_tar(&dir).await;
        let loaded = engine.load(&image(vec![base], "live:1")).await;
        match wanted {
            "runs" => {
                loaded.unwrap();
                let (code, output) = shell(&engine, "live:1", "python3 -V && touch /etc/new").await;
                assert_eq!(code, 0, "{output}");
                println!("ran: {output} on {}", engine.describe());
            }
            "full" => {
                let error = loaded.unwrap_err();
                assert!(matches!(error, EngineError::NoSpace { .. }), "{error:?}");
                let names: Vec<_> = engine.images().await.unwrap();
                assert_eq!(names, Vec::new());
                let left = Command::new("find")
                    .arg(&state)
                    .args(["-name", ".writing-*", "-o", "-path", "*/c/*"])
                    .output();
                println!("full: {}", String::from_utf8_lossy(&left.unwrap().stdout));
            }
            "session" => {
                loaded.unwrap();
                session_bad_days::fills_the_disk(&engine, "live:1", &state).await;
                println!("went on");
            }
            "confined" => {
                loaded.unwrap();
                std::fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
                let request = imgforge::engine::SandboxRequest {
                    image: "live:1".to_owned(),
                    // More than a helper that is refused takes.
                    files: vec![("/eval.sh".to_owned(), vec![b'#'; 1 << 20])],
                    command: "true".to_owned(),
                    time_limit: Duration::from_secs(60),
                    memory: None,
                    milli_cpus: None,
                    pids: None,
                    quotas: Quotas::default(),
                    network: imgforge::engine::SandboxNetwork::None,
                    loopback_names: Vec::new(),
                    variables: Default::default(),
                    labels: Default::default(),
                };
                let log = Log::default();
                let error = engine.run_script(&request, &log, &log).await.unwrap_err();
                assert!(matches!(error, EngineError::Confined { .. }), "{error:?}");
                assert!(!state.join("embedded/machine.json").exists());
                println!("confined: {error}");
            }
            other => panic!("{other}"),
        }
    });
}

/// Runs the test above where `prepare` made the state directory, in a mount namespace of its own.
pub(crate) fn live(prepare: &str, wanted: &str) -> String {
    let dir = Scratch::new();
    // In a user namespace of its own root is as a plain user, who meets its limits.
    let root = is_root() && wanted != "confined";
    let mut command = Command::new("unshare");
    command.args(if root { &["--mount"][..] } else { &["--user", "--map-root-user", "--mount"] });
    let script = format!(
        "set -e; cd {}; mkdir state; {prepare}\n\
         exec \"$0\" --ignored --exact embedded::lives_in_a_state_directory_for_another_test --nocapture",
        dir.path().display()
    );
    let output = command
        .args(["sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(LIVE, wanted)
        .env("IMGFORGE_TEST_LIVE_STATE", dir.path().join("state"))
        .env("IMGFORGE_TEST_STATE", needs::state())
        .env("IMGFORGE_TEST_PROGRAM", helper())
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{prepare}: {text}");
    text
}

#[test]
#[ignore = "needs an engine"]
fn a_state_directory_in_memory_works() {
    if !is_under_test("embedded") {
        return not_here(NotHere::OtherEngine);
    }
    let text = live("mount -t tmpfs -o size=1g none state", "runs");
    assert!(text.contains("ran: Python 3"), "{text}");
}

#[test]
#[ignore = "needs an engine"]
fn a_state_directory_where_nothing_may_be_run_works() {
    if !is_under_test("embedded") {
        return not_here(NotHere::OtherEngine);
    }
    let text = live("mount -t tmpfs -o size=1g,noexec,nosuid,nodev none state", "runs");
    assert!(text.contains("ran: Python 3"), "{text}");
}

#[test]
#[ignore = "needs an engine"]
fn a_state_directory_that_takes_no_overlay_works_with_copies() {
    if !is_under_test("embedded") {
        return not_here(NotHere::OtherEngine);
    }
    // As on a network file system: the kernel refuses an upper directory on it.
    let user = if is_root() { "" } else { ",userxattr" };
    let prepare = format!(
        "mkdir under; mount -t tmpfs -o size=3g none under; cd under; mkdir l u w m\n\
         mount -t overlay -o lowerdir=l,upperdir=u,workdir=w{user} overlay m\n\
         cd ..; mount --bind under/m state"
    );
    let text = live(&prepare, "runs");
    assert!(text.contains("ran: Python 3"), "{text}");
    assert!(text.contains("copies"), "{text}");
}

#[test]
#[ignore = "needs an engine"]
fn a_disk_that_is_full_leaves_no_half_image() {
    if !is_under_test("embedded") {
        return not_here(NotHere::OtherEngine);
    }
    for size in ["size=60m", "size=1g,nr_inodes=700"] {
        let text = live(&format!("mount -t tmpfs -o {size} none state"), "full");
        assert!(text.contains("full: \n"), "{size}: {text}");
    }
}

#[test]
#[ignore = "needs an engine"]
fn a_kernel_that_allows_no_more_namespaces_is_named_in_the_middle_of_a_run() {
    if !is_under_test("embedded") {
        return not_here(NotHere::OtherEngine);
    }
    let text = live("", "confined");
    assert!(text.contains("confined: the kernel allows no such namespaces"), "{text}");
    assert!(text.contains("`user.max_user_namespaces` is 0"), "{text}");
}

#[test]
#[ignore = "needs an engine"]
fn a_kernel_that_allows_no_user_namespaces_is_named() {
    if !is_under_test("embedded") {
        return not_here(NotHere::OtherEngine);
    }
    if is_root() {
        return not_here(NotHere::Root);
    }
    // The limit of a namespace holds for those in it.
    let text = live("echo 0 > /proc/sys/user/max_user_namespaces", "refused");
    assert!(text.contains("user.max_user_namespaces"), "{text}");
}
