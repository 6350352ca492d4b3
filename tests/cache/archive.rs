//! Archives between machines, as other programs see them, and on a full disk.

use std::process::Command;

use imgforge::cache::archive::Archive;

use crate::common::{Machine, command, text};
use crate::needs::{NotHere, is_root, not_here, program};

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_goes_to_another_machine() {
    let machine = Machine::new().await;
    let made = machine.tree(2, 100_000).await;
    let (named, alias) = (made.last().unwrap(), "sweb.eval.x86_64.o__n-1:latest");
    for name in [alias, "mine:latest"] {
        machine.engine.tag(named.image.id.as_str(), &name.parse().unwrap()).await.unwrap();
    }
    let file = machine.path().join("cache.tar");
    let output = machine.run(&["cache", "export", "cache.tar"]);
    assert!(output.status.success(), "{}", text(&output));
    let size = std::fs::metadata(&file).unwrap().len();
    let layers = made.len() as u64 * 100_000;
    assert!(size > layers && size < layers + 100_000, "each layer once: {size}");
    let second = Machine::new().await;
    let path = file.to_str().unwrap();
    let output = second.run(&["cache", "import", path]);
    assert!(output.status.success(), "{}", text(&output));
    for one in &made {
        let image = second.engine.inspect(&one.name()).await.unwrap().unwrap();
        assert_eq!(image.id, one.image.id);
    }
    let found = second.engine.inspect(alias).await.unwrap().unwrap();
    assert_eq!(found.id, named.image.id, "the names of the benchmark come along");
    assert_eq!(second.engine.inspect("mine:latest").await.unwrap(), None);
    assert!(second.run(&["cache", "verify"]).status.success());
    let output = second.run(&["cache", "import", path]);
    assert!(text(&output).contains("0 images imported"), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs skopeo"]
async fn an_archive_is_what_skopeo_reads() {
    let machine = Machine::new().await;
    let made = machine.tree(1, 100_000).await;
    assert!(machine.run(&["cache", "export", "cache.tar"]).status.success());
    let path = machine.path().join("cache.tar");
    for one in &made {
        let reference = format!("oci-archive:{}:{}", path.display(), one.name());
        let output = program(Command::new("skopeo").args(["inspect", &reference]), "skopeo");
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains(&one.key.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_killed_goes_on_and_old_images_leave_the_file() {
    let machine = Machine::new().await;
    let made = machine.tree(3, 6 << 20).await;
    let mut child = machine.command(&["cache", "export", "cache.tar"]).spawn().unwrap();
    let partial = machine.path().join("cache.tar.partial");
    let written = || std::fs::metadata(&partial).map_or(0, |found| found.len());
    while written() < 20 << 20 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!machine.path().join("cache.tar").exists());
    let output = machine.run(&["cache", "export", "cache.tar"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("of an export that broke off"), "{}", text(&output));
    let archive = Archive::open(&machine.path().join("cache.tar"), machine.path()).unwrap();
    assert_eq!(archive.images().len(), made.len());
    // The next export holds what there is then, and no more.
    let before = std::fs::metadata(machine.path().join("cache.tar")).unwrap().len();
    machine.gc(machine.contents().await.total() / 2).await;
    assert!(machine.run(&["cache", "export", "cache.tar"]).status.success());
    let after = std::fs::metadata(machine.path().join("cache.tar")).unwrap().len();
    assert!(after < before * 2 / 3, "{before} {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_archive_is_bad_input_and_imports_nothing_that_is_damaged() {
    let machine = Machine::new().await;
    let made = machine.tree(1, 100_000).await;
    let file = machine.path().join("cache.tar");
    assert!(machine.run(&["cache", "export", "cache.tar"]).status.success());
    let whole = std::fs::read(&file).unwrap();
    let second = Machine::new().await;
    let path = file.to_str().unwrap();

    std::fs::write(&file, &whole[..whole.len() - 5000]).unwrap();
    let output = second.run(&["cache", "import", path]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("is cut off"), "{}", text(&output));

    let newer = String::from_utf8_lossy(&whole[..600]).replace("\"version\":1", "\"version\":9");
    let mut bytes = whole.clone();
    bytes[..600].copy_from_slice(newer.as_bytes());
    std::fs::write(&file, &bytes).unwrap();
    let output = second.run(&["cache", "import", path]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("knows up to 1"), "{}", text(&output));

    // In the middle of the second layer.
    let mut bytes = whole.clone();
    bytes[160_000] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let output = second.run(&["cache", "import", path]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("is damaged"), "{}", text(&output));
    assert!(second.count(&made).await < made.len());
    assert!(second.run(&["cache", "verify"]).status.success());

    std::fs::write(&file, &whole).unwrap();
    assert!(second.run(&["cache", "import", path]).status.success());
    assert_eq!(second.count(&made).await, made.len());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_disk_that_fills_up_during_an_import_loses_nothing_that_is_done() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let machine = Machine::new().await;
    let made = machine.tree(3, 4 << 20).await;
    assert!(machine.run(&["cache", "export", "cache.tar"]).status.success());
    let small = SmallDisk::new(40 << 20);
    let file = machine.path().join("cache.tar");
    let import = ["cache", "import", file.to_str().unwrap()];
    let output = command(small.path(), &import).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("space"), "{}", text(&output));
    let output = command(small.path(), &["cache", "verify"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(!text(&output).starts_with("0 images"), "{}", text(&output));
    small.grow(200 << 20);
    let output = command(small.path(), &import).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(!text(&output).contains(" 0 here before"), "{}", text(&output));
    let output = command(small.path(), &["cache", "ls", "--json"]).output().unwrap();
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows.len(), made.len());
}

/// A file system in memory of a few bytes; only root makes one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(bytes: u64) -> SmallDisk {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .status();
        assert!(mounted.unwrap().success());
        SmallDisk(dir)
    }

    fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    fn grow(&self, bytes: u64) {
        let size = format!("remount,size={bytes}");
        let grown = Command::new("mount").args(["-o", &size]).arg(self.path()).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
