//! FROM images that cannot be had: which one it is, and what to do, before anything is built.

use crate::common::{Machine, text};
use crate::registry::Registry;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn a_from_image_that_cannot_be_had_is_named() {
    let machine = Machine::new().await;
    let catalog = machine.catalog().await;
    let registry = Registry::start();
    let reference = format!("{}/python:3.8", registry.name());
    let dockerfile = catalog.with_file_name("Dockerfile");
    std::fs::write(dockerfile, format!("FROM {reference}\n")).unwrap();
    let catalog = catalog.to_str().unwrap();
    let build = ["--config", catalog, "build", "-d", "demo", "--layers", "base"];
    let output = machine.run(&build);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(&format!("cannot have the FROM image `{reference}`")), "{said}");
    assert!(said.contains("hint: `--bootstrap` makes"), "{said}");
    let output = machine.run(&[&build[..], &["--bootstrap"]].concat());
    let said = text(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(&format!("cannot have the FROM image `{reference}`")), "{said}");
    assert!(said.contains("python:3.11-slim-bookworm") && said.contains("[stand-in]"), "{said}");
}
