//! The targets of `imgforge::fuzz_targets`, with examples and with inputs that are made of them.
//!
//! `IMGFORGE_FUZZ_INPUTS` says how many inputs each target gets, `IMGFORGE_FUZZ_SEED` from which number
//! they are made: the same number gives the same inputs. An input that fails is kept as a file.
//! `IMGFORGE_FUZZ_EXAMPLES` names a directory that the examples are written to, by target.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use imgforge::fuzz_targets::{BETWEEN, EXPECTED_TEST, TARGETS, can_unpack};
use imgforge::grade::parsers;
use imgforge::key::Digest;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

/// How many inputs a target gets where nobody says it.
const INPUTS: u64 = 300;

/// An input that is made has no more bytes.
const LONGEST: usize = 8 << 10;

/// How long an input may take. Other programs run beside: the best of a few tries counts.
const SLOWEST: Duration = Duration::from_secs(1);

/// What readers of text trip over.
const WORDS: [&[u8]; 48] = [
    b"\0",
    b"\n",
    b"\r\n",
    b"\r",
    b"\t",
    b" ",
    b"\\",
    b"\\\n",
    b"\"",
    b"'",
    b"/",
    b"..",
    b"/../",
    b"//",
    b"[",
    b"]",
    b"{",
    b"}",
    b"<",
    b">",
    b"(",
    b")",
    b":",
    b",",
    b"=",
    b"#",
    b"@",
    b"$",
    b"${",
    b"\xff",
    b"\xef\xbb\xbf",
    "é".as_bytes(),
    "\u{2028}".as_bytes(),
    b"\x1b[0m",
    b"NaN",
    b"null",
    b"\\ud83d",
    b"0",
    b"-1",
    b"4294967296",
    b"9223372036854775807",
    b"18446744073709551615",
    b"1e400",
    b"<<EOF\n",
    b"\n>>>>> End Test Output\n",
    b"@@ -1,2 +3,4 @@\n",
    b"diff --git a/x b/x\n",
    b".wh.",
];

fn number(name: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return otherwise };
    text.parse().unwrap_or_else(|_| panic!("`{name}` is `{text}`, it must be a whole number"))
}

/// A part of some bytes.
fn part(random: &mut StdRng, length: usize) -> std::ops::Range<usize> {
    let from = random.random_range(0..=length);
    // Short ones more often.
    let most = (length - from).min(1 << random.random_range(0..10));
    from..from + random.random_range(0..=most)
}

/// Makes an input of examples.
fn mutated(random: &mut StdRng, examples: &[Vec<u8>]) -> Vec<u8> {
    let any = |random: &mut StdRng| examples[random.random_range(0..examples.len())].clone();
    let mut input = any(random);
    if random.random_ratio(1, 50) {
        input = vec![0; random.random_range(0..64)];
        random.fill_bytes(&mut input);
    }
    for _ in 0..random.random_range(1..=6) {
        let at = part(random, input.len());
        match random.random_range(0..10) {
            0 => input.truncate(at.start),
            1 => drop(input.drain(at)),
            2 => {
                let other = any(random);
                let other = &other[part(random, other.len())];
                input.splice(at, other.iter().copied());
            }
            3 => {
                let other = any(random);
                let from = random.random_range(0..=other.len());
                input.truncate(at.start);
                input.extend(&other[from..]);
            }
            4 => {
                let times = 1 << random.random_range(0..8);
                let repeated = input[at.clone()].repeat(times);
                input.splice(at, repeated);
            }
            5 | 6 => {
                let word = WORDS[random.random_range(0..WORDS.len())];
                input.splice(at.start..at.start, word.iter().copied());
            }
            7 => {
                let word = WORDS[random.random_range(0..WORDS.len())];
                input.splice(at, word.iter().copied());
            }
            8 => {
                // A number becomes another one.
                let digits: Vec<usize> =
                    (0..input.len()).filter(|at| input[*at].is_ascii_digit()).collect();
                if !digits.is_empty() {
                    let at = digits[random.random_range(0..digits.len())];
                    input[at] = b'0' + random.random_range(0..10);
                }
            }
            _ => {
                if let Some(byte) = input.get_mut(at.start) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
        input.truncate(LONGEST);
    }
    input
}

/// Runs a target with examples, and with inputs that are made of them.
fn run(name: &str, examples: &[Vec<u8>]) {
    run_part(name, examples, 1);
}

/// Does as [`run`]; a slow target gets one input where others get `of`.
fn run_part(name: &str, examples: &[Vec<u8>], of: u64) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    if let Some(dir) = std::env::var_os("IMGFORGE_FUZZ_EXAMPLES") {
        let dir = Path::new(&dir).join(name);
        std::fs::create_dir_all(&dir).unwrap();
        for (number, example) in examples.iter().enumerate() {
            std::fs::write(dir.join(format!("example-{number}")), example).unwrap();
        }
    }
    let inputs = number("IMGFORGE_FUZZ_INPUTS", INPUTS).div_ceil(of);
    let mut random = StdRng::seed_from_u64(number("IMGFORGE_FUZZ_SEED", 1));
    let made = (0..inputs).map(|_| mutated(&mut random, examples));
    for input in examples.iter().cloned().chain(made) {
        let mut took = Duration::MAX;
        for _ in 0..3 {
            let start = Instant::now();
            let ran = catch_unwind(AssertUnwindSafe(|| target(&input)));
            took = took.min(start.elapsed());
            if let Err(panic) = ran {
                kept(name, &input);
                std::panic::resume_unwind(panic);
            }
            if took < SLOWEST {
                break;
            }
        }
        if took >= SLOWEST {
            kept(name, &input);
            panic!("an input takes {took:?}");
        }
    }
}

/// Keeps an input that fails.
fn kept(name: &str, input: &[u8]) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}-input"));
    std::fs::write(&path, input).unwrap();
    eprintln!("the input of {} bytes is kept as {}", input.len(), path.display());
    eprintln!("it is b\"{}\"", input[..input.len().min(2000)].escape_ascii());
}

fn file(path: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.join(&BETWEEN)
}

/// The objects of the bundled dataset.
fn demo(name: &str) -> Vec<Value> {
    let lines = file(name);
    lines
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

fn text(value: &Value) -> Vec<u8> {
    value.as_str().unwrap().as_bytes().to_vec()
}

/// A tar of entries: a kind, a name, and a content or where a link leads.
fn tar_of(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (kind, name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_mtime(1_600_000_000);
        header.set_uid(0);
        header.set_gid(7);
        // Unlike the crate's own way this takes names that lead out.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        let data = match kind.is_symlink() || kind.is_hard_link() {
            true => {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
                ""
            }
            false => content,
        };
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append(&header, data.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn layers() {
    use tar::EntryType as Kind;
    if !can_unpack() {
        eprintln!("layers are read and not unpacked: that takes `unshare --map-root-user`");
    }
    let plain = tar_of(&[
        (Kind::Directory, "etc/", ""),
        (Kind::Regular, "etc/passwd", "root:x:0:0::/:/bin/sh\n"),
        (Kind::Symlink, "etc/link", "passwd"),
        (Kind::Link, "etc/hard", "etc/passwd"),
        (Kind::Fifo, "run/fifo", ""),
        (Kind::Char, "dev/null", ""),
    ]);
    let marks = tar_of(&[
        (Kind::Regular, "a/.wh.gone", ""),
        (Kind::Directory, "b", ""),
        (Kind::Regular, "b/.wh..wh..opq", ""),
        (Kind::Regular, ".wh.a", ""),
        (Kind::Regular, "c/.wh..wh.plnk", ""),
    ]);
    let out = tar_of(&[
        (Kind::Symlink, "up", "../"),
        (Kind::Regular, "up/outside", "x"),
        (Kind::Symlink, "root", "/../../"),
        (Kind::Regular, "root/outside", "x"),
        (Kind::Link, "hard", "../outside"),
        (Kind::Regular, "../outside", "x"),
    ]);
    let through = tar_of(&[
        (Kind::Symlink, "up", ".."),
        (Kind::Regular, "up/outside", "x"),
        (Kind::Regular, "up/.wh.outside", ""),
        (Kind::Directory, "up", ""),
        (Kind::Regular, "", "x"),
    ]);
    let mut extended = tar::Builder::new(Vec::new());
    let pax: [(&str, &[u8]); 7] = [
        ("path", b"long/name"),
        ("size", b"25"),
        ("uid", b"4000000000"),
        ("mtime", b"1600000000.123456789"),
        ("SCHILY.xattr.user.a", b"b"),
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.realsize", b"9000"),
    ];
    extended.append_pax_extensions(pax).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path("sparse").unwrap();
    header.set_mode(0o644);
    let map = format!("{:\0<512}data", "1\n8192\n4\n");
    header.set_size(map.len() as u64);
    header.set_cksum();
    extended.append(&header, map.as_bytes()).unwrap();
    let long = "directory/".repeat(20) + "file";
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    extended.append_data(&mut header, long, &b"x"[..]).unwrap();
    let extended = extended.into_inner().unwrap();
    run("layers", &[plain, marks, out, through, extended]);
}

fn patch_examples() -> Vec<Vec<u8>> {
    let rows = demo("demo/test.jsonl");
    let mut examples: Vec<Vec<u8>> =
        rows.iter().flat_map(|row| [text(&row["patch"]), text(&row["test_patch"])]).collect();
    let more = [
        "diff --git a/old name.py b/new.py\nsimilarity index 90%\nrename from old name.py\nrename to new.py\n",
        "diff --git \"a/caf\\303\\251\" \"b/caf\\303\\251\"\nold mode 100644\nnew mode 100755\n",
        "diff --git a/l b/l\nnew file mode 120000\nindex 0000000..1234567\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+../x\n\\ No newline at end of file\n",
        "diff --git a/x b/x\ndeleted file mode 100644\n--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n",
        "Index: a.c\n===\n--- a.c\t2020-01-01\n+++ ../b.c\t2020-01-01\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n",
        "A \"caf\\303\\251\"",
        "[\"A x\", \"M y\", \"D \\\"z\\\\n\\\"\"]",
    ];
    examples.extend(more.map(|text| text.as_bytes().to_vec()));
    examples
}

#[test]
fn patches() {
    run("patches", &patch_examples());
}

#[test]
fn patched_trees() {
    let change = "diff --git a/pkg/code.py b/pkg/code.py\n--- a/pkg/code.py\n+++ b/pkg/code.py\n\
                  @@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n";
    let test = "diff --git a/pkg/test_code.py b/pkg/test_code.py\n--- a/pkg/test_code.py\n\
                +++ b/pkg/test_code.py\n@@ -1,2 +1,2 @@\n def test_one():\n-    assert one\n\
                +    assert 1\n";
    let through = change.replace("pkg/code.py", "out/code.py");
    let inside = change.replace("pkg/code.py", "inside/code.py");
    let link =
        "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/tmp\n";
    let up = "--- a/../x\n+++ b/../x\n@@ -0,0 +1 @@\n+x\n";
    let new = "--- /dev/null\n+++ b/l/new\n@@ -0,0 +1 @@\n+x\n";
    let examples: Vec<Vec<u8>> = [
        [change, test],
        [&through, test],
        [&inside, ""],
        [&format!("{link}{new}"), ""],
        [up, test],
        [new, test],
        [test, test],
        ["", test],
    ]
    .map(|[model, test]| joined(&[model.as_bytes(), test.as_bytes()]))
    .to_vec();
    run_part("patched_trees", &examples, 50);
}

#[test]
fn archives() {
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {"dev.imgforge.kind": "base"}},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of("layer").oci()]},
    });
    let manifest = r##"{"schemaVersion":2,"mediaType":"m","config":{"mediaType":"c","digest":"@1","size":#1},"layers":[{"mediaType":"l","digest":"@0","size":#0}]}"##;
    let name = format!("imgforge/base:{}", Digest::of("key"));
    let index = |annotations: &Value| {
        format!(
            r##"{{"schemaVersion":2,"mediaType":"i","manifests":[{{"mediaType":"{manifest_type}","digest":"@2","size":#2,"annotations":{annotations}}}]}}"##
        )
    };
    let named = index(&json!({
        "org.opencontainers.image.ref.name": name, "dev.imgforge.aliases": "swebench/a:latest",
    }));
    let external = index(&json!({"dev.imgforge.reference": "python:3"}));
    let signature = index(&json!({
        "org.opencontainers.image.ref.name": format!("imgforge/base:sha256-{}.sig", "0".repeat(64)),
    }));
    let config = config.to_string();
    let documents =
        |index: &str| joined(&[b"layer", config.as_bytes(), manifest.as_bytes(), index.as_bytes()]);
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in [("imgforge.json", r#"{"version":1}"#), ("index.json", &external)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    run("archives", &[tar, documents(&named), documents(&external), documents(&signature)]);
}

#[test]
fn bundles() {
    let content = "content";
    let form = json!({
        "version": 1, "imgforge": "0.1.0", "dataset": "lite", "split": "test",
        "platform": "linux/amd64", "instances": ["a__b-1"], "overlays": [],
        "files": {"sources/a": Digest::of(content), "../b": Digest::of(content)},
    });
    let form = form.to_string();
    let kind = tar::EntryType::Regular;
    let one = tar_of(&[(kind, "bundle.json", &form), (kind, "sources/a", content)]);
    let out = tar_of(&[(kind, "bundle.json", &form), (kind, "../b", content)]);
    let packed = zstd::encode_all(&*one, 1).unwrap();
    run("bundles", &[one, out, packed]);
}

#[test]
fn dockerfiles() {
    let examples = [
        "# syntax=docker/dockerfile:1\n# escape=`\n\n# A comment\nARG VERSION=3.9\n\
         FROM --platform=linux/amd64 python:${VERSION:-3} AS build\nENV A=1 B=\"x y\" C='$A'\n\
         RUN --mount=type=cache,target=/c,id=x <<EOF\n# no comment\nset -e\n\nEOF\n\
         FROM scratch\nCOPY --from=build --chown=1:2 --chmod=755 /a /b/\n\
         COPY --from=docker/uv:1 \\\n  /uv /bin/\nWORKDIR x/../y\nUSER ${USER:-root}\n\
         SHELL [\"/bin/bash\", \"-c\"]\nRUN cat > /x <<-'END' && true\n\tx\n\tEND\n\
         ENTRYPOINT [\"/bin/x\"]\nCMD echo $VERSION\n",
        "\u{feff}FROM a\r\nRUN a \\\r\n # comment\r\n  && b\r\nLABEL a=b\r\nEXPOSE 80\r\nRUN <<E\r\nx\r\r\nE\r\n",
        "FROM a\nRUN true && \\\n cat <<EOF\n# kept\n\nEOF\nADD x.tar /y\nSTOPSIGNAL 9\n\
         HEALTHCHECK NONE\nVOLUME [\"/x\"]\nONBUILD RUN x\n",
        "FROM a\nRUN --mount=type=secret,id=s --mount=type=bind,source=.,target=/m \
         --mount=type=tmpfs,target=/t ${A:+${B:-c}} ${D:?e}\n",
    ];
    let mut examples: Vec<Vec<u8>> = examples.map(|text| text.as_bytes().to_vec()).to_vec();
    examples.push(format!("FROM {}x{}", "${A:-".repeat(9000), "}".repeat(9000)).into_bytes());
    for entry in walkdir::WalkDir::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("dockerfiles")) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            examples.push(std::fs::read(entry.path()).unwrap());
        }
    }
    run("dockerfiles", &examples);
}

#[test]
fn rows() {
    let row = demo("demo/test.jsonl").remove(0);
    let lines = format!("{row}\n{row}\n{}\n", row.to_string().replace("abacus-1", "abacus-2"));
    let mut small = json!({
        "instance_id": "a__b-1", "repo": "a/b", "version": "1.0", "base_commit": "0".repeat(40),
        "patch": "", "test_patch": "caf\u{e9}", "FAIL_TO_PASS": "['x', \"y\"]",
        "PASS_TO_PASS": ["z"], "install_config": {"python": "3.9", "pre_install": ["a"]},
        "created_at": 1_600_000_000,
    });
    let one = small.to_string();
    let list = json!([small, row]).to_string();
    let keyed = json!({"a__b-1": small}).to_string();
    small["FAIL_TO_PASS"] = json!("(('x' 'y'), {'a': None, 'b': u'\\udc80'}, nan)");
    let literal = small.to_string().replace("1600000000", "NaN");
    let wide: Vec<u8> = one.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let csv = format!(
        "instance_id,repo,version,base_commit,patch,test_patch,FAIL_TO_PASS,PASS_TO_PASS\n\
         a__b-1,a/b,1.0,{},x,\"y\nz\",\"[\"\"t\"\"]\",[]\n",
        "0".repeat(40)
    );
    let examples = [lines, one, list, keyed, literal, csv];
    let mut examples: Vec<Vec<u8>> = examples.map(String::into_bytes).to_vec();
    examples.push(wide);
    run("rows", &examples);
}

#[test]
fn predictions() {
    let one = json!({"instance_id": "a__b-1", "model_name_or_path": "m", "model_patch": "x"});
    let other = json!({"instance_id": "a__b-2", "model": "m", "prediction": null});
    let hands = json!({"instance_id": "a__b-3", "test_result": {"git_patch": "caf\u{e9}"}});
    let examples = [
        format!("{one}\n{other}\n{hands}\n{one}\n"),
        json!([one, other, hands]).to_string(),
        json!({"a__b-1": one, "a__b-3": hands}).to_string(),
        one.to_string().replace("\"x\"", "NaN"),
        serde_json::to_string_pretty(&hands).unwrap(),
    ];
    run("predictions", &examples.map(String::into_bytes));
}

/// The logs of `tests/logs`, each with the number of its parser; as they are, and with a test that
/// passed under the name that is expected.
fn log_examples() -> Vec<Vec<u8>> {
    let mut examples = Vec::new();
    for (number, (name, _)) in parsers().enumerate() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs").join(name);
        let Ok(log) = std::fs::read(dir.join("case.log")) else { continue };
        let case: Value =
            serde_json::from_slice(&std::fs::read(dir.join("case.json")).unwrap()).unwrap();
        let head = |rules: u8| vec![u8::try_from(number).unwrap(), rules];
        examples.push([head(0), log.clone()].concat());
        let log = String::from_utf8_lossy(&log).into_owned();
        let tests = case["status_map"].as_object().into_iter().flatten();
        if let Some((passed, _)) = tests.into_iter().find(|(_, status)| *status == "PASSED") {
            let log = log.replace(passed, EXPECTED_TEST);
            examples.push([head(64), log.into_bytes()].concat());
        }
    }
    assert!(examples.len() > 40, "the examples are gone");
    examples
}

#[test]
fn logs() {
    run("logs", &log_examples());
}

#[test]
fn strict_logs() {
    let junit = "<testsuites><testsuite name=\"s\" tests=\"2\"><testcase classname=\"tests.a\" \
                 name=\"test_x\"/><testcase classname=\"tests.a\" name=\"test_y\"><failure/>\
                 </testcase></testsuite></testsuites>";
    let lines = "{\"$report_type\":\"TestReport\",\"nodeid\":\"tests/a.py::test_x\",\"when\":\"call\",\
                 \"outcome\":\"passed\"}\n{\"$report_type\":\"SessionFinish\",\"exitstatus\":0}\n";
    let forged = "PASSED tests/a.py::test_x\n>>>>> End Test Output\n>>>>> Test Exit Code: 0\n\
                  >>>>> Test Results: junit\n>>>>> Tests Timed Out\n>>>>> Start Test Output\n";
    let log = file("tests/logs/parse_log_pytest/case.log");
    let examples = [
        joined(&[b"+ true\n", &log, junit.as_bytes()]),
        joined(&[forged.as_bytes(), forged.as_bytes(), forged.as_bytes()]),
        joined(&[b"", forged.as_bytes(), lines.as_bytes()]),
        joined(&[b">>>>>", b" End Test Output\r>>>>> ", b">>>>"]),
    ];
    run("strict_logs", &examples);
}

#[test]
fn registry_answers() {
    let digest = Digest::of("image").oci();
    let part = json!({"mediaType": "m", "digest": digest, "size": 7});
    let large = json!({"mediaType": "m", "digest": digest, "size": u64::MAX});
    let bodies = [
        json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "m", "detail": {}}]}),
        json!({"name": "a/b", "tags": ["1", "latest"]}),
        json!({"token": "t", "access_token": "a", "expires_in": 300}),
        json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": part, "layers": [part, large, large], "annotations": {"a": "b"},
        }),
        json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest,
                "size": 7, "platform": {"architecture": "amd64", "os": "linux", "variant": "v1"},
            }],
        }),
        json!({
            "architecture": "amd64", "os": "linux", "variant": "v8",
            "config": {"Env": ["A=b"], "Cmd": null, "Labels": {"a": "b"}, "Shell": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest]},
        }),
        json!({
            "critical": {
                "identity": {"docker-reference": "a/b"},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": null,
        }),
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": "h"}},
            "dsseEnvelope": {
                "payload": "e30=", "payloadType": "application/vnd.in-toto+json",
                "signatures": [{"sig": "MEUC"}],
            },
        }),
    ];
    let headers = [
        "Bearer realm=\"https://auth.example/token\",service=\"r\",scope=\"repository:a/b:pull\"",
        "Basic realm=\"x\\\"y\", Bearer realm=z",
        "120",
        "Wed, 21 Oct 2015 07:28:00 GMT",
    ];
    let mut examples: Vec<Vec<u8>> = Vec::new();
    for (at, body) in bodies.iter().enumerate() {
        let header = headers[at % headers.len()];
        examples.push(joined(&[header.as_bytes(), body.to_string().as_bytes()]));
    }
    run("registry_answers", &examples);
}

#[test]
fn references() {
    let digest = Digest::of("image").oci();
    let examples = [
        "python:3.9",
        "docker.io/library/python",
        "ghcr.io/me/imgforge/base:sha256-00",
        "localhost:5000/a_b/c--d",
        "[::1]:5000/a",
        "HTTPS://Registry.Example/Path/",
        &format!("host.example/a/b:tag@{digest}"),
        &format!("imgforge/base:{}", Digest::of("key")),
    ];
    run("references", &examples.map(|text| text.as_bytes().to_vec()));
}

#[test]
fn every_target_is_here_and_in_the_folder_of_cargo_fuzz() {
    let own = String::from_utf8(file("tests/fuzz.rs")).unwrap();
    let manifest = String::from_utf8(file("fuzz/Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(own.contains(&format!("\nfn {name}() {{")), "`{name}` is not in tests/fuzz.rs");
        let path = format!("fuzz_targets/{name}.rs");
        assert!(manifest.contains(&format!("path = \"{path}\"")), "fuzz/Cargo.toml lacks `{name}`");
        let target = String::from_utf8(file(&format!("fuzz/{path}"))).unwrap();
        assert!(target.contains(&format!("fuzz_targets::{name}(")), "{path} calls another target");
    }
}
