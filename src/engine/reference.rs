//! References of images: `registry/repository:tag` or `@digest`, as Docker reads them.

use std::fmt;
use std::str::FromStr;

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

/// A reference of an image. It is checked, and is shown as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    text: String,
    registry: String,
    repository: String,
    version: String,
}

/// A text that is no reference of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a reference of an image, `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`")]
pub struct NotAReference(pub String);

impl Reference {
    /// The text that it was read from.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host of its registry, [`DOCKER_HUB`] where none is named.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path in the registry; `library/` is before what Docker Hub has in no namespace.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The digest; without one the tag, which is `latest` where none is named.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The same repository at a digest.
    ///
    /// # Errors
    /// Where that is no digest.
    pub fn at(&self, digest: &str) -> Result<Reference, NotAReference> {
        format!("{}@{digest}", split_tag(&self.text).0).parse()
    }
}

impl FromStr for Reference {
    type Err = NotAReference;

    fn from_str(text: &str) -> Result<Reference, NotAReference> {
        let (name, version) = split_tag(text);
        // Of a tag and a digest the digest counts.
        let name = if version.contains(':') { split_tag(name).0 } else { name };
        let registry = registry(name);
        let repository = match name.split_once('/') {
            Some((host, rest)) if is_hostlike(host) => rest,
            _ => name,
        };
        let official = registry == DOCKER_HUB && !repository.contains('/');
        let repository = match official {
            true => format!("library/{repository}"),
            false => repository.to_owned(),
        };
        let is_version = !version.is_empty()
            && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:+".contains(&byte));
        let is_host = registry == DOCKER_HUB || is_host(registry);
        if !is_host || path(&repository).is_err() || !is_version {
            return Err(NotAReference(text.to_owned()));
        }
        let (text, registry, version) = (text.to_owned(), registry.to_owned(), version.to_owned());
        Ok(Reference { text, registry, repository, version })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Why a text names no place in a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAPlace {
    /// It has no host, so that it may be a file's name.
    #[error("it names no host")]
    NoHost,
    /// What is there for the host is none.
    #[error("`{0}` is not a host, with a port or without")]
    Host(String),
    /// A part of the path that no registry takes.
    #[error("`{0}` cannot be part of a repository's name")]
    Part(String),
    /// Credentials are kept elsewhere.
    #[error("it holds credentials: `docker login` keeps those")]
    Credentials,
}

/// What people write before a registry; it says nothing that is not known.
const SCHEMES: [&str; 4] = ["https://", "http://", "docker://", "oci://"];

/// Takes off the scheme that somebody wrote before a registry; tells whether there was one.
pub fn without_scheme(text: &str) -> (&str, bool) {
    let text = text.trim();
    let begins = |scheme: &&&str| {
        text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    match SCHEMES.iter().find(begins) {
        Some(scheme) => (&text[scheme.len()..], true),
        None => (text, false),
    }
}

/// Reads a registry with a path, such as `ghcr.io/me`, in its one spelling: without scheme and
/// without slashes at the end, in lower case. Hosts have no case, and registries take no capitals
/// in paths.
pub fn place(text: &str) -> Result<String, NotAPlace> {
    let (text, _) = without_scheme(text);
    if text.contains('@') {
        return Err(NotAPlace::Credentials);
    }
    let text = text.trim_end_matches('/').to_ascii_lowercase();
    let (host, rest) =
        text.split_once('/').map_or((&*text, None), |(host, rest)| (host, Some(rest)));
    if !is_host(host) {
        return Err(match is_hostlike(host) {
            true => NotAPlace::Host(host.to_owned()),
            false => NotAPlace::NoHost,
        });
    }
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        host => host,
    };
    let Some(rest) = rest else { return Ok(host.to_owned()) };
    Ok(format!("{host}/{}", path(rest)?))
}

/// Reads the namespace of published images in its one spelling: a path, with a registry before it
/// or without.
pub fn namespace(text: &str) -> Result<String, NotAPlace> {
    match place(text) {
        Err(NotAPlace::NoHost) => {
            let (text, _) = without_scheme(text);
            path(&text.trim_end_matches('/').to_ascii_lowercase())
        }
        read => read,
    }
}

fn path(text: &str) -> Result<String, NotAPlace> {
    match text.split('/').find(|part| !is_part(part)) {
        Some(wrong) => Err(NotAPlace::Part(wrong.to_owned())),
        None => Ok(text.to_owned()),
    }
}

/// Tells whether the first part of a reference is meant to be a host, as Docker does.
fn is_hostlike(part: &str) -> bool {
    part == "localhost" || (part.contains(['.', ':']) && !part.starts_with('.'))
}

/// Tells whether that is a host: a name, an address, or one in brackets, with a port or without.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match port.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if port.is_empty() => (None, None),
                None => return false,
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    (is_hostlike(text) || text.starts_with('['))
        && host.is_none_or(|host| host.split('.').all(label))
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Tells whether that can be a part of a repository's name.
fn is_part(part: &str) -> bool {
    let within = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| within(*byte));
    let bytes = part.as_bytes();
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| within(*byte) || b"._-".contains(byte))
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
        assert_eq!(registry("[::1]:5000/a/b:c"), "[::1]:5000");
    }

    #[test]
    fn references_are_taken_apart_as_docker_does() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (reference, registry, repository, version) in [
            ("debian", "docker.io", "library/debian", "latest"),
            ("docker.io/debian:12", "docker.io", "library/debian", "12"),
            ("me/a.b_c-d:Tag_1.0", "docker.io", "me/a.b_c-d", "Tag_1.0"),
            ("[::1]:5000/a/b:c", "[::1]:5000", "a/b", "c"),
            ("localhost/a", "localhost", "a", "latest"),
            (&format!("ghcr.io/a/b@{digest}"), "ghcr.io", "a/b", &digest),
            (&format!("r.io:5000/a:tag@{digest}"), "r.io:5000", "a", &digest),
        ] {
            let read: Reference = reference.parse().unwrap();
            let found = (read.registry(), read.repository(), read.version());
            assert_eq!(found, (registry, repository, version), "{reference}");
            assert_eq!(read.to_string(), reference);
        }
        for wrong in ["", "a/B", "ghcr.io/", "a:", "a b", "host:x/a", "ghcr.io/a//b"] {
            assert_eq!(wrong.parse::<Reference>(), Err(NotAReference(wrong.to_owned())));
        }
    }

    #[test]
    fn a_place_has_one_spelling() {
        for (text, expected) in [
            ("ghcr.io/me", "ghcr.io/me"),
            ("ghcr.io/MyOrg/Images", "ghcr.io/myorg/images"),
            ("GHCR.io/me/", "ghcr.io/me"),
            ("https://ghcr.io/me/images//", "ghcr.io/me/images"),
            ("HTTP://127.0.0.1:5000", "127.0.0.1:5000"),
            ("oci://registry.io/a", "registry.io/a"),
            ("docker://docker.io/me", "docker.io/me"),
            ("index.docker.io/me", "docker.io/me"),
            ("localhost/a/b", "localhost/a/b"),
            ("localhost:5000", "localhost:5000"),
            ("[::1]:5000/me", "[::1]:5000/me"),
            ("[2001:DB8::1]/me", "[2001:db8::1]/me"),
            (
                "123456789012.dkr.ecr.eu-west-1.amazonaws.com/a",
                "123456789012.dkr.ecr.eu-west-1.amazonaws.com/a",
            ),
            (" ghcr.io/me ", "ghcr.io/me"),
        ] {
            assert_eq!(place(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_place_says_what_is_wrong() {
        for text in
            ["cache", "MyOrg/images", "dir/cache", "./cache", "/tmp/a", "../a", "", "https://"]
        {
            assert_eq!(place(text), Err(NotAPlace::NoHost), "{text}");
        }
        for text in ["host:port/a", "ghcr.io:/a", "a..b/c", "[::x]:1/a", "r.io:99999", "r.io:0"] {
            assert!(matches!(place(text), Err(NotAPlace::Host(_))), "{text} {:?}", place(text));
        }
        for text in ["ghcr.io/a b", "ghcr.io//a", "ghcr.io/-a", "ghcr.io/a:tag", "ghcr.io/a?b"] {
            assert!(matches!(place(text), Err(NotAPlace::Part(_))), "{text}");
        }
        assert_eq!(place("https://me:secret@ghcr.io/a"), Err(NotAPlace::Credentials));
    }

    #[test]
    fn a_namespace_needs_no_host() {
        assert_eq!(namespace("MyOrg").as_deref(), Ok("myorg"));
        assert_eq!(namespace("https://ghcr.io/MyOrg/").as_deref(), Ok("ghcr.io/myorg"));
        assert_eq!(namespace("me/images/").as_deref(), Ok("me/images"));
        assert_eq!(namespace("my org"), Err(NotAPlace::Part("my org".to_owned())));
    }
}
