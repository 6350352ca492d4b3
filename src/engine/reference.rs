//! References of images: `registry/repository:tag` or `@digest`, as Docker reads them.

/// The registry of references that name none.
pub const DOCKER_HUB: &str = "docker.io";

/// Splits `repository:tag` or `repository@digest`; with neither the tag is `latest`.
pub fn split_tag(reference: &str) -> (&str, &str) {
    if let Some(split) = reference.split_once('@') {
        return split;
    }
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (reference, "latest"),
    }
}

/// Returns the registry that a reference is on.
pub fn registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some(("docker.io" | "index.docker.io", _)) => DOCKER_HUB,
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => DOCKER_HUB,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_not_a_tag() {
        assert_eq!(split_tag("127.0.0.1:5000/a/b"), ("127.0.0.1:5000/a/b", "latest"));
        assert_eq!(split_tag("a/b:c"), ("a/b", "c"));
        assert_eq!(split_tag("a/b@sha256:00"), ("a/b", "sha256:00"));
    }

    #[test]
    fn a_first_part_that_is_no_host_is_on_docker_hub() {
        assert_eq!(registry("swebench/sweb.eval:latest"), DOCKER_HUB);
        assert_eq!(registry("localhost/a"), "localhost");
        assert_eq!(registry("127.0.0.1:5000/a/b:c"), "127.0.0.1:5000");
    }
}
