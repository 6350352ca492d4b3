//! Names of images: ours by key, and those of the benchmark.

use crate::key::{Digest, Key, Kind};
use crate::platform::Platform;

/// Returns the name of an image by its key.
pub fn image(kind: Kind, key: &Key) -> String {
    format!("imgforge/{kind}:{key}")
}

/// Reads kind and key from a name that [`image`] gave.
pub fn parse(name: &str) -> Option<(Kind, Key)> {
    let (kind, key) = name.strip_prefix("imgforge/")?.split_once(':')?;
    let kind = Kind::IMAGES.into_iter().find(|known| known.as_str() == kind)?;
    Some((kind, key.parse().ok()?))
}

/// Tells whether a name is that of an image by its key, here or in a registry: what
/// [`image`] gives, with a registry and a path before it or without.
pub fn is_image(reference: &str) -> bool {
    let Some((repository, key)) = reference.rsplit_once(':') else { return false };
    let mut parts = repository.rsplit('/');
    let kind = parts.next().unwrap_or_default();
    let known = kind == FROM || Kind::IMAGES.iter().any(|known| known.as_str() == kind);
    known && parts.next() == Some("imgforge") && key.parse::<Key>().is_ok()
}

/// The repository of `FROM` images: in a registry that is a cache, and on an engine where they came with
/// bases.
pub const FROM: &str = "from";

/// Returns the name of a `FROM` image in a registry that is a cache: a tag cannot hold a reference.
pub fn from_image(reference: &str, platform: &Platform) -> String {
    format!("imgforge/{FROM}:{}", Digest::of(format!("{platform} {reference}")))
}

/// Returns the name of a `FROM` image on an engine where it came with a base: one for each content.
pub fn kept_from_image(reference: &str, platform: &Platform, identity: &str) -> String {
    format!("imgforge/{FROM}:{}", Digest::of(format!("{platform} {reference} {identity}")))
}

/// Tells whether a name is one that [`kept_from_image`] gives.
pub fn is_kept_from_image(name: &str) -> bool {
    name.strip_prefix("imgforge/from:").is_some_and(|key| key.parse::<Key>().is_ok())
}

/// Returns the architecture as the benchmark spells it in names: `x86_64` or `arm64`.
pub fn architecture(platform: &Platform) -> &str {
    let [_, architecture, _] = platform.parts();
    match architecture.unwrap_or(platform.as_str()) {
        "amd64" | "x86_64" => "x86_64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Returns the benchmark's own name of an instance image,
/// `sweb.eval.<arch>.<instance_id>:latest`, in lower case.
pub fn alias(instance_id: &str, platform: &Platform) -> String {
    format!("sweb.eval.{}.{}:latest", architecture(platform), instance_id.to_ascii_lowercase())
}

/// Tells whether a name is one that [`alias`] gives.
pub fn is_alias(name: &str) -> bool {
    let id = name.strip_prefix("sweb.eval.").and_then(|rest| rest.strip_suffix(":latest"));
    let id = id.and_then(|rest| Some(rest.split_once('.')?.1));
    id.is_some_and(|id| !id.is_empty() && !id.contains('/')) && is_valid(name)
}

/// The namespace that stands for what the rows say, and nothing else.
pub const ROW: &str = "row";

/// Returns a reference as every engine lists it: without the name of Docker Hub, and with a tag.
pub fn normal(reference: &str) -> String {
    let hub = ["docker.io/library/", "docker.io/", "index.docker.io/", "registry-1.docker.io/"];
    let name = hub.iter().find_map(|host| reference.strip_prefix(host)).unwrap_or(reference);
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains([':', '@']) { name.to_owned() } else { format!("{name}:latest") }
}

/// Returns the name under which the benchmark publishes an instance image in `namespace`:
/// registries do not take a double underscore everywhere, so it is written `_1776_`, and in the
/// namespace of SWE-Gym `_s_`. Without a tag it is `latest`.
pub fn published(
    namespace: &str,
    instance_id: &str,
    platform: &Platform,
    tag: Option<&str>,
) -> String {
    let namespace = namespace.trim_end_matches('/');
    let gym = namespace.rsplit('/').next() == Some("xingyaoww");
    let underscores = if gym { "_s_" } else { "_1776_" };
    let name = alias(instance_id, platform).replace("__", underscores);
    let repository = name.trim_end_matches(":latest");
    format!("{namespace}/{repository}:{}", tag.unwrap_or("latest"))
}

/// Tells whether a reference is a valid image name with a tag: what an engine would accept.
pub fn is_valid(reference: &str) -> bool {
    let (name, tag) = match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (reference, "latest"),
    };
    let valid_tag = !tag.is_empty()
        && tag.len() <= 128
        && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        && !tag.starts_with(['.', '-']);
    let component = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let mut parts: Vec<&str> = name.split('/').collect();
    if parts.len() > 1 && (parts[0].contains([':', '.']) || parts[0] == "localhost") {
        parts.remove(0);
    }
    valid_tag && !parts.is_empty() && parts.iter().all(|part| component(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_names_are_the_ones_in_the_datasets() {
        assert_eq!(
            published("swebench", "pallets__flask-4045", &Platform::written("linux/amd64"), None),
            "swebench/sweb.eval.x86_64.pallets_1776_flask-4045:latest"
        );
        assert_eq!(
            published(
                "swebench",
                "pallets__flask-4045",
                &Platform::written("linux/amd64"),
                Some("v1")
            ),
            "swebench/sweb.eval.x86_64.pallets_1776_flask-4045:v1"
        );
        assert_eq!(
            published("xingyaoww", "getmoto__moto-7365", &Platform::written("linux/amd64"), None),
            "xingyaoww/sweb.eval.x86_64.getmoto_s_moto-7365:latest"
        );
        assert_eq!(
            alias("Qiskit__qiskit-1", &Platform::written("linux/arm64")),
            "sweb.eval.arm64.qiskit__qiskit-1:latest"
        );
    }

    #[test]
    fn one_image_has_one_spelling() {
        for (written, normal_form) in [
            ("docker.io/a/b", "a/b:latest"),
            ("index.docker.io/a/b:1", "a/b:1"),
            ("ghcr.io/a/b", "ghcr.io/a/b:latest"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest"),
            ("a/b@sha256:0", "a/b@sha256:0"),
        ] {
            assert_eq!(normal(written), normal_form, "{written}");
        }
    }

    #[test]
    fn names_by_key_are_known_in_a_registry_too() {
        let key = crate::key::KeyDocument::new(Kind::Env).key();
        assert_eq!(parse(&image(Kind::Env, &key)), Some((Kind::Env, key)));
        assert_eq!(parse(&from_image("python:3.9", &Platform::written("linux/amd64"))), None);
        assert!(is_image(&image(Kind::Env, &key)));
        assert!(is_image(&format!("127.0.0.1:5000/me/{}", image(Kind::Env, &key))));
        assert!(is_image(&from_image("python:3.9", &Platform::written("linux/amd64"))));
        assert!(!is_image("me/env:latest"));
        assert!(!is_image(&format!("me/env:{key}")));
    }

    #[test]
    fn names_that_no_engine_takes_are_told_apart() {
        assert!(is_valid("127.0.0.1:5000/swebench/sweb.eval.x86_64.a_1776_b-1:latest"));
        assert!(is_valid("sweb.eval.x86_64.a__b-1:latest"));
        assert!(!is_valid("swebench/Sweb:latest"));
        assert!(!is_valid("a/b c:latest"));
        assert!(!is_valid("a/b:"));
    }
}
