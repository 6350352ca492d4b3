//! Signed images, by registry and by archive: whose signature counts, and what happens to the rest.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use imgforge::key::{Digest, Kind};
use imgforge::store::BuildRecord;

use crate::common::{Machine, Made, text};
use crate::registry::{Fault, Proxy, Registry};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A pair of keys that `cache key` made.
struct Pair {
    key: String,
    public: String,
}

fn run(machine: &Machine, args: &[&str]) -> Output {
    machine.command(args).env("COSIGN_PASSWORD", "word").output().unwrap()
}

fn pair(machine: &Machine, name: &str) -> Pair {
    let prefix = machine.path().join(name).display().to_string();
    let made = run(machine, &["cache", "key", "--output-key-prefix", &prefix]);
    assert!(made.status.success(), "{}", text(&made));
    Pair { key: format!("{prefix}.key"), public: format!("{prefix}.pub") }
}

/// Makes a request of a registry on this machine; returns the status and the body.
fn ask(registry: &Registry, line: &str, kind: &str, body: &[u8]) -> (u16, Vec<u8>, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", registry.port)).unwrap();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nAccept: {MANIFEST}, {INDEX}\r\n\
         Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        registry.port,
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer[end + 4..].to_vec(), head)
}

/// Returns the digest of an image's manifest in the registry.
fn digest_of(registry: &Registry, made: &Made) -> String {
    let path = format!("/v2/team/imgforge/{}/manifests/{}", made.kind, made.key);
    let (status, body, _) = ask(registry, &format!("GET {path}"), "", b"");
    assert_eq!(status, 200);
    Digest::of(&body).oci()
}

fn sig(digest: &str) -> String {
    format!("{}.sig", digest.replace(':', "-"))
}

fn put_blob(registry: &Registry, kind: Kind, bytes: &[u8]) -> String {
    let digest = Digest::of(bytes).oci();
    let path = format!("/v2/team/imgforge/{kind}/blobs/uploads/");
    let (status, _, head) = ask(registry, &format!("POST {path}"), "", b"");
    assert_eq!(status, 202, "{head}");
    let location = head.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap();
    let path = location.splitn(4, '/').nth(3).unwrap();
    let line = format!("PUT /{path}&digest={digest}");
    assert_eq!(ask(registry, &line, "application/octet-stream", bytes).0, 201);
    digest
}

fn put_manifest(registry: &Registry, kind: Kind, tag: &str, body: &[u8]) {
    let line = format!("PUT /v2/team/imgforge/{kind}/manifests/{tag}");
    let (status, answer, _) = ask(registry, &line, MANIFEST, body);
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&answer));
}

/// Pulls with a key onto a machine of its own; returns how many came, and what was said.
async fn pull(registry: &Registry, made: &[Made], public: &str) -> (usize, String) {
    let other = Machine::new().await;
    let pulled = run(&other, &["cache", "pull", &registry.name(), "--verify", public]);
    (other.count(made).await, text(&pulled))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn only_images_that_a_trusted_key_signed_are_taken() {
    let registry = Registry::start();
    let machine = Machine::new().await;
    let made = machine.tree(1, 5000).await;
    let (ours, theirs) = (pair(&machine, "ours"), pair(&machine, "theirs"));
    let pushed = run(&machine, &["cache", "push", &registry.name()]);
    assert!(pushed.status.success(), "{}", text(&pushed));
    let (count, said) = pull(&registry, &made, &ours.public).await;
    assert_eq!(count, 0, "{said}");
    assert_eq!(said.matches("is as if it were not there: it has no signature").count(), made.len());
    for one in &made {
        assert!(said.contains(&digest_of(&registry, one)) && said.contains(&one.name()), "{said}");
    }

    let signed = run(&machine, &["cache", "push", &registry.name(), "--sign", &ours.key]);
    assert!(signed.status.success(), "{}", text(&signed));
    let (count, said) = pull(&registry, &made, &ours.public).await;
    assert_eq!(count, made.len(), "{said}");
    let (count, said) = pull(&registry, &made, &theirs.public).await;
    assert_eq!(count, 0, "{said}");
    assert_eq!(said.matches("it is signed by another key").count(), made.len(), "{said}");

    // Two teams sign the same images: either key does.
    let signed = run(&machine, &["cache", "push", &registry.name(), "--sign", &theirs.key]);
    assert!(signed.status.success(), "{}", text(&signed));
    for public in [&ours.public, &theirs.public] {
        let (count, said) = pull(&registry, &made, public).await;
        assert_eq!(count, made.len(), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn a_signature_of_another_image_and_what_is_none_are_told_apart() {
    let registry = Registry::start();
    let machine = Machine::new().await;
    let signed = machine.make(Kind::Base, 1, None, 5000).await;
    let ours = pair(&machine, "ours");
    let pushed = run(&machine, &["cache", "push", &registry.name(), "--sign", &ours.key]);
    assert!(pushed.status.success(), "{}", text(&pushed));
    let other = machine.make(Kind::Base, 2, None, 5000).await;
    let pushed = run(&machine, &["cache", "push", &registry.name()]);
    assert!(pushed.status.success(), "{}", text(&pushed));

    let from =
        format!("GET /v2/team/imgforge/base/manifests/{}", sig(&digest_of(&registry, &signed)));
    let (_, good, _) = ask(&registry, &from, "", b"");
    let tag = sig(&digest_of(&registry, &other));
    put_manifest(&registry, Kind::Base, &tag, &good);
    let both = [signed.clone(), other.clone()];
    let (count, said) = pull(&registry, &both, &ours.public).await;
    assert_eq!(count, 1, "{said}");
    let why = format!("its signature is for another image, `{}`", digest_of(&registry, &signed));
    assert!(said.contains(&why), "{said}");

    let huge = put_blob(&registry, Kind::Base, &vec![b'x'; 3 << 20]);
    let small = put_blob(&registry, Kind::Base, b"{}");
    let good: serde_json::Value = serde_json::from_slice(&good).unwrap();
    let kind = &good["layers"][0]["mediaType"];
    let name = "dev.cosignproject.cosign/signature";
    let layer = |digest: &str, size: usize, signature: &str| {
        serde_json::json!({"mediaType": kind, "digest": digest, "size": size,
            "annotations": {name: signature}})
    };
    let bad =
        [layer(&huge, 3 << 20, "AAAA"), layer(&small, 2, "no base64"), layer(&small, 2, "AAAA")];
    for layers in [vec![bad[0].clone()], vec![bad[1].clone()], bad.to_vec()] {
        let mut manifest = good.clone();
        manifest["layers"] = layers.into();
        put_manifest(&registry, Kind::Base, &tag, manifest.to_string().as_bytes());
        let (count, said) = pull(&registry, &both, &ours.public).await;
        assert_eq!(count, 1, "{said}");
        assert!(said.contains("is as if it were not there: "), "{said}");
    }
    // What is no signature stands in the way of none.
    let signed = run(&machine, &["cache", "push", &registry.name(), "--sign", &ours.key]);
    assert!(signed.status.success(), "{}", text(&signed));
    let (count, said) = pull(&registry, &both, &ours.public).await;
    assert_eq!(count, 2, "{said}");
}

/// Returns the predicates of what refers to an image, and what is said by the last one of a type.
fn said_of(registry: &Registry, made: &Made, wanted: &str) -> (Vec<String>, serde_json::Value) {
    let get = |path: &str| {
        let (status, body, _) =
            ask(registry, &format!("GET /v2/team/imgforge/{}/{path}", made.kind), "", b"");
        assert_eq!(status, 200, "{path}");
        serde_json::from_slice::<serde_json::Value>(&body).unwrap()
    };
    let list = get(&format!("manifests/{}", digest_of(registry, made).replace(':', "-")));
    let (mut predicates, mut said) = (Vec::new(), serde_json::Value::Null);
    for one in list["manifests"].as_array().unwrap() {
        let predicate = one["annotations"]["dev.sigstore.bundle.predicateType"].as_str().unwrap();
        predicates.push(predicate.to_owned());
        if predicate == wanted {
            let manifest = get(&format!("manifests/{}", one["digest"].as_str().unwrap()));
            let layer = manifest["layers"][0]["digest"].as_str().unwrap();
            let bundle = get(&format!("blobs/{layer}"));
            let payload = bundle["dsseEnvelope"]["payload"].as_str().unwrap();
            said = serde_json::from_slice(&STANDARD.decode(payload).unwrap()).unwrap();
        }
    }
    predicates.sort_unstable();
    (predicates, said)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn who_built_an_image_says_how_and_an_environment_has_a_list_of_packages() {
    const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";
    const SLSA: &str = "https://slsa.dev/provenance/v1";
    const BOM: &str = "https://cyclonedx.org/bom";
    let registry = Registry::start();
    let machine = Machine::new().await;
    let made = machine.tree(1, 5000).await;
    let env = made.iter().find(|one| one.kind == Kind::Env).unwrap();
    let build =
        BuildRecord { started: 1_700_000_000, finished: 1_700_000_060, version: "1".into() };
    machine.store.note_build(&machine.identity, &env.key, &env.image.id, &build).unwrap();
    let ours = pair(&machine, "ours");
    let push = ["cache", "push", &registry.name(), "--sign", &ours.key];
    for _ in 0..2 {
        // The second time all is there already.
        let pushed = run(&machine, &push);
        assert!(pushed.status.success(), "{}", text(&pushed));
        for one in &made {
            let (predicates, said) = said_of(&registry, one, SLSA);
            let (is_env, is_built) = (one.kind == Kind::Env, one.key == env.key);
            let expected = match (is_env, is_built) {
                (true, true) => vec![BOM, SIGN, SLSA],
                (true, false) => vec![BOM, SIGN],
                _ => vec![SIGN],
            };
            assert_eq!(predicates, expected, "{}", one.name());
            if is_built {
                let hex = digest_of(&registry, one).replace("sha256:", "");
                assert_eq!(said["subject"][0]["digest"]["sha256"], hex);
                let told = &said["predicate"]["buildDefinition"]["externalParameters"];
                assert_eq!(told["key"], one.key.to_string());
                let times = &said["predicate"]["runDetails"]["metadata"];
                assert_eq!(times["finishedOn"], "2023-11-14T22:14:20Z");
            }
        }
    }
    let (_, said) = said_of(&registry, env, BOM);
    assert_eq!(said["predicate"]["bomFormat"], "CycloneDX");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn a_signature_that_a_registry_does_not_take_at_once_is_put_again() {
    let registry = Registry::start();
    let machine = Machine::new().await;
    let made = machine.tree(1, 5000).await;
    let pushed = run(&machine, &["cache", "push", &registry.name()]);
    assert!(pushed.status.success(), "{}", text(&pushed));
    for part in ["POST /v2/team/imgforge/env/blobs/", "PUT /v2/team/imgforge/env/manifests/"] {
        let own = pair(&machine, &format!("of-{}", part.split(' ').next().unwrap()));
        let proxy = Proxy::start(registry.port, part, Fault::Status("503 Unavailable"), 2);
        let signed = run(&machine, &["cache", "push", &proxy.name(), "--sign", &own.key]);
        assert!(signed.status.success(), "{part}: {}", text(&signed));
        assert!(proxy.hit.load(std::sync::atomic::Ordering::SeqCst) > 2, "{part}");
        let other = Machine::new().await;
        let taken = run(&other, &["cache", "pull", &registry.name(), "--verify", &own.public]);
        assert!(taken.status.success(), "{part}: {}", text(&taken));
        for one in &made {
            assert!(other.has(one).await, "{part}: {}", one.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn what_a_base_stands_on_is_signed_with_it_also_when_it_was_pushed_before() {
    let registry = Registry::start();
    let machine = Machine::new().await;
    let catalog = machine.catalog().await.display().to_string();
    let build = run(&machine, &["--config", &catalog, "build", "-d", "demo", "--layers", "base"]);
    assert!(build.status.success(), "{}", text(&build));
    let ours = pair(&machine, "ours");
    let from = registry.name();
    for more in [&[][..], &["--sign", &ours.key]] {
        let push = [&["cache", "push", &from][..], more].concat();
        let pushed = run(&machine, &push);
        assert!(pushed.status.success(), "{}", text(&pushed));
    }
    // Where the `FROM` image is not, the plan needs its identity.
    let other = Machine::new().await;
    let warm = ["--config", &catalog, "prewarm", "-d", "demo", "--layers", "base", "--no-build"];
    let warm = [&warm[..], &["--from", &from, "--verify", &ours.public]].concat();
    let warmed = run(&other, &warm);
    assert!(warmed.status.success(), "{}", text(&warmed));
    assert!(text(&warmed).contains("1 pulled"), "{}", text(&warmed));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_held_to_the_keys_of_the_catalog() {
    let machine = Machine::new().await;
    let made = machine.tree(1, 5000).await;
    let (ours, theirs) = (pair(&machine, "ours"), pair(&machine, "theirs"));
    let file = |name: &str| machine.path().join(name).display().to_string();
    let export = |name: &str, args: &[&str]| {
        let exported = run(&machine, &[&["cache", "export", &file(name)][..], args].concat());
        assert!(exported.status.success(), "{}", text(&exported));
    };
    export("plain.tar", &[]);
    export("signed.tar", &["--sign", &ours.key]);
    export("other.tar", &["--sign", &theirs.key]);

    let other = Machine::new().await;
    let catalog = catalog_with_key(&other, &ours.public).await;
    let catalog = catalog.to_str().unwrap();
    for (name, why) in
        [("plain.tar", "it has no signature"), ("other.tar", "it is signed by another key")]
    {
        let imported = run(&other, &["--config", catalog, "cache", "import", &file(name)]);
        assert_eq!(imported.status.code(), Some(1), "{}", text(&imported));
        assert_eq!(text(&imported).matches(why).count(), made.len(), "{}", text(&imported));
        assert_eq!(other.count(&made).await, 0);
    }
    let imported = run(&other, &["--config", catalog, "cache", "import", &file("signed.tar")]);
    assert!(imported.status.success(), "{}", text(&imported));
    assert_eq!(other.count(&made).await, made.len());
}

/// Writes a catalog that trusts a key by a path beside it.
async fn catalog_with_key(machine: &Machine, public: &str) -> PathBuf {
    let catalog = machine.catalog().await;
    std::fs::copy(public, catalog.with_file_name("team.pub")).unwrap();
    let text = std::fs::read_to_string(&catalog).unwrap();
    std::fs::write(&catalog, format!("[cache]\nverify = [\"team.pub\"]\n{text}")).unwrap();
    catalog
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_used_end_the_command_before_anything_is_asked() {
    let machine = Machine::new().await;
    let ours = pair(&machine, "ours");
    let refused = |args: &[&str], why: &str| {
        let output = run(&machine, args);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(why), "{}", text(&output));
    };
    // Nobody listens on port 1.
    let pull = |key: &'static str| ["cache", "pull", "127.0.0.1:1/team", "--verify", key];
    refused(&pull("absent.pub"), "cannot read the key `absent.pub`");
    refused(&pull("identity:me@example.org"), "identities of certificates cannot be verified here");
    let private: [&str; 5] = ["cache", "pull", "127.0.0.1:1/team", "--verify", &ours.key];
    refused(&private, "it is a `ENCRYPTED SIGSTORE PRIVATE KEY`, not a public key");
    refused(
        &["cache", "push", "127.0.0.1:1/team", "--sign", &ours.public],
        "it is a `PUBLIC KEY`, not a private key",
    );
    let prefix = ours.key.trim_end_matches(".key").to_owned();
    refused(&["cache", "key", "--output-key-prefix", &prefix], "is there already");
    let push: [&str; 5] = ["cache", "push", "127.0.0.1:1/team", "--sign", &ours.key];
    let wrong = machine.command(&push).env("COSIGN_PASSWORD", "other").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
    assert!(text(&wrong).contains("the password does not open it"), "{}", text(&wrong));

    let catalog = machine.path().join("keyed.toml");
    std::fs::write(&catalog, "[cache]\nverify = [\n  \"gone.pub\",\n]\n").unwrap();
    let catalog = catalog.to_str().unwrap();
    refused(
        &["--config", catalog, "cache", "pull", "127.0.0.1:1/team"],
        "keyed.toml:3: `cache.verify`",
    );
    assert!(Path::new(&ours.key).metadata().is_ok_and(|found| is_private(&found)));
}

fn is_private(found: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    found.permissions().mode() & 0o077 == 0
}
