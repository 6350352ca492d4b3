//! What the embedded engine keeps, read by others, and what others publish, read by it.

use std::path::Path;
use std::process::Command;

use imgforge::engine::embedded::Storage;
use imgforge::engine::{Builder as _, Engine, Image, Images as _, LayerRequest};
use imgforge::platform::Platform;

use crate::common::{Log, is_under_test, layer, on_every_engine};
use crate::embedded::open;
use crate::needs::{NotHere, is_root, not_here, program};
use crate::scratch::Scratch;
use crate::transfer::Registry;

/// Runs a program that has to succeed; returns what it prints.
fn succeed(name: &str, args: &[&str]) -> String {
    let output = program(Command::new(name).args(args), name);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {args:?}: {text}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "needs an engine and skopeo"]
fn an_image_is_read_by_skopeo_and_runs_on_docker() {
    on_every_engine(|bench| async move {
        let Some(state) = bench.state() else {
            return not_here(NotHere::OtherEngine);
        };
        let text = format!("FROM {}\nENV WHO=me\nRUN echo made here > /made\n", bench.from());
        let built = bench.engine.build(&bench.build(&text, "skopeo"), &Log::default()).await;
        let built = built.unwrap();
        let name = bench.name("skopeo");
        let source = format!("oci:{}/embedded/oci:{name}", state.display());
        let inspected: serde_json::Value =
            serde_json::from_str(&succeed("skopeo", &["inspect", &source])).unwrap();
        assert_eq!(inspected["Labels"]["name"], "skopeo");
        assert_eq!(inspected["Layers"].as_array().unwrap().len(), built.diff_ids.len());
        if !is_under_test("docker") {
            return not_here(NotHere::OtherEngine);
        }
        succeed("skopeo", &["copy", "--quiet", &source, &format!("docker-daemon:{name}")]);
        let ran = succeed("docker", &["run", "--rm", "--network", "none", &name, "cat", "/made"]);
        let id = succeed("docker", &["image", "inspect", "--format", "{{.Id}}", &name]);
        succeed("docker", &["image", "rm", "--force", &name]);
        assert_eq!(ran, "made here\n");
        assert_eq!(id.trim(), built.id.as_str(), "the id of an image is the same on every engine");
    });
}

/// Lists every file of an image, with what it is. Docker's runtime puts things into `/etc` and
/// `/usr/sbin` while a container runs.
const LIST: &str = "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -name .dockerenv \
                    -o -path /etc/hosts -o -path /etc/hostname -o -path /etc/resolv.conf \
                    -o -path /etc/mtab -o -path /usr/sbin/docker-init \\) -prune \
                    -o -path / -o -path /etc -o -path /usr/sbin \
                    -o -type d -printf '%p d %m %U:%G %T@\\n' \
                    -o -printf '%p %y %m %U:%G %s %T@ %n %l\\n' | sort";

#[test]
#[ignore = "needs an engine and docker-registry"]
fn what_docker_pushes_is_pulled_with_the_same_files() {
    on_every_engine(|bench| async move {
        if bench.socket().is_none() {
            return not_here(NotHere::OtherEngine);
        }
        if !is_root() {
            return not_here(NotHere::PlainUser);
        }
        let registry = Registry::start(None).await;
        let name = registry.name("imgforge/files:1");
        let text = format!(
            "FROM {}\nRUN mkdir -m 1777 /many && cd /many && echo a > a && ln a b && ln -s a c && \
             chmod 4755 a && mkfifo f && chown 1234:42 b && echo 'long' > $(printf 'x%.0s' $(seq 200))\n\
             RUN rm -r /usr/games && rm /many/c && rm -r /srv && mkdir /srv && touch /srv/new\n",
            bench.from()
        );
        let mut request = bench.build(&text, "files");
        request.tags.push(name.clone());
        bench.engine.build(&request, &Log::default()).await.unwrap();
        bench.engine.push(&name.parse().unwrap(), &[], &Log::default()).await.unwrap();
        let dir = Scratch::new();
        let embedded = open(dir.path(), None).await;
        let pulled = embedded
            .pull(&name.parse().unwrap(), &bench.base.platform, &Log::default())
            .await
            .unwrap();
        assert_eq!(pulled.repo_digests.len(), 1);
        let list = |engine: std::sync::Arc<dyn Engine>| {
            let name = name.clone();
            async move {
                let log = Log::default();
                let command = ["sh", "-c", LIST].map(str::to_owned);
                assert_eq!(engine.run(&name, &command, &log).await.unwrap(), 0, "{}", log.text());
                log.text()
            }
        };
        let (docker, ours) = (list(bench.engine.clone()).await, list(embedded).await);
        assert!(docker.lines().count() > 5000, "{} files", docker.lines().count());
        let differ: Vec<_> =
            docker.lines().zip(ours.lines()).filter(|(one, two)| one != two).take(5).collect();
        assert_eq!(differ, [], "of {} lines", docker.lines().count());
        assert_eq!(docker.lines().count(), ours.lines().count());
        bench.engine.remove(&name).await.unwrap();
    });
}

/// Publishes an image of one file without any engine under test.
async fn publish(dir: &Path, registry: &Registry) -> String {
    let name = registry.name("imgforge/small:1");
    let engine = open(&dir.join("publisher"), None).await;
    let request = LayerRequest {
        parent: Image { platform: Platform::written("linux/amd64"), ..Image::default() },
        layers: vec![layer(dir, &[("a.txt", &"text ".repeat(10_000))])],
        config: Default::default(),
        tags: vec![name.clone()],
    };
    engine.load(&request).await.unwrap();
    engine.push(&name.parse().unwrap(), &[], &Log::default()).await.unwrap();
    name
}

#[test]
#[ignore = "needs an engine and docker-registry"]
fn a_damaged_blob_is_pulled_again_where_a_registry_has_it() {
    on_every_engine(|bench| async move {
        if bench.state().is_none() {
            return not_here(NotHere::OtherEngine);
        }
        let registry = Registry::start(None).await;
        let dir = Scratch::new();
        let name = publish(dir.path(), &registry).await;
        let state = dir.path().join("state");
        let engine = open(&state, None).await;
        engine
            .pull(&name.parse().unwrap(), &Platform::written("linux/amd64"), &Log::default())
            .await
            .unwrap();
        let blobs = state.join("embedded/oci/blobs/sha256");
        let largest = std::fs::read_dir(&blobs).unwrap().flatten().map(|entry| entry.path());
        let blob = largest
            .filter(|path| std::fs::read(path).unwrap().starts_with(&[0x1f, 0x8b]))
            .max_by_key(|path| std::fs::metadata(path).unwrap().len())
            .unwrap();
        let mut bytes = std::fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        std::fs::write(&blob, &bytes).unwrap();
        let other = open(&state, Some(Storage::Copy)).await;
        let log = Log::default();
        let code = other.run(&name, &["/a.txt".to_owned()], &log).await.unwrap();
        assert_eq!(code, 126, "{}", log.text());
        assert!(log.text().contains("is damaged on the disk"), "{}", log.text());
        assert!(log.text().contains("Pulling"), "{}", log.text());
        bytes[middle] ^= 0xff;
        assert_eq!(std::fs::read(&blob).unwrap(), bytes);
    });
}

#[test]
#[ignore = "needs an engine and docker-registry"]
fn a_pull_goes_on_where_it_broke_off() {
    on_every_engine(|bench| async move {
        if bench.state().is_none() {
            return not_here(NotHere::OtherEngine);
        }
        let registry = Registry::start(None).await;
        let dir = Scratch::new();
        let name = publish(dir.path(), &registry).await;
        let state = dir.path().join("state");
        let engine = open(&state, None).await;
        // What a pull that was killed leaves: the first bytes of a blob.
        let published = dir.path().join("publisher/embedded/oci/blobs/sha256");
        let blob = std::fs::read_dir(&published).unwrap().flatten().map(|entry| entry.path());
        let blob = blob
            .into_iter()
            .find(|path| std::fs::read(path).unwrap().starts_with(&[0x1f, 0x8b]))
            .unwrap();
        let partial = state.join("embedded/partial");
        std::fs::create_dir_all(&partial).unwrap();
        let bytes = std::fs::read(&blob).unwrap();
        std::fs::write(partial.join(blob.file_name().unwrap()), &bytes[..20]).unwrap();
        let log = Log::default();
        engine.pull(&name.parse().unwrap(), &Platform::written("linux/amd64"), &log).await.unwrap();
        assert!(log.text().contains("from byte 20"), "{}", log.text());
        assert_eq!(std::fs::read_dir(&partial).unwrap().count(), 0);
        // Wrong first bytes are not kept.
        let again = open(&dir.path().join("again"), None).await;
        let partial = dir.path().join("again/embedded/partial");
        std::fs::create_dir_all(&partial).unwrap();
        std::fs::write(partial.join(blob.file_name().unwrap()), vec![0; 20]).unwrap();
        let log = Log::default();
        again.pull(&name.parse().unwrap(), &Platform::written("linux/amd64"), &log).await.unwrap();
        assert!(log.text().contains("again in"), "{}", log.text());
    });
}
