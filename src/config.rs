//! Settings: flags, environment and `images.toml`, in that order of precedence.
//!
//! Flags and `IMGFORGE_…` variables are read together by the command line's parser; here they meet
//! what the catalog's `[defaults]` say and what other programs' variables mean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::catalog::Defaults;
use crate::engine::HostAccess;
use crate::engine::reference::{self, NotAPlace};
use crate::package_indexes;
use crate::platform::Platform;
use crate::proxy;

/// Where repositories come from when nothing else is said.
pub const GITHUB: &str = "https://github.com/{owner}/{name}.git";

/// The most nodes that run at once unless more are asked for.
const MOST_WORKERS: usize = 24;

/// Returns how many nodes run at once by default: three quarters of the processors, from 1 to 24.
pub fn default_workers(processors: usize) -> usize {
    (processors * 3 / 4).clamp(1, MOST_WORKERS)
}

/// Returns the namespace that `--namespace` and the catalog ask for; `None` builds everything here.
///
/// # Errors
/// What names no namespace, with what is wrong with it.
pub fn namespace(
    flag: Option<&str>,
    defaults: &Defaults,
    for_x86_64: bool,
) -> Result<Option<String>, (String, NotAPlace)> {
    let named = match (flag, &defaults.namespace) {
        (Some(flag), _) => flag,
        (None, Some(_)) if !for_x86_64 => "",
        (None, Some(default)) => default,
        (None, None) => "",
    };
    let none = named.is_empty() || matches!(named.to_ascii_lowercase().as_str(), "none" | "null");
    let read = (!none).then(|| reference::namespace(named));
    read.transpose().map_err(|wrong| (named.to_owned(), wrong))
}

/// The platforms that images are made for.
pub const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// Returns a platform that images are made for in its one spelling, or the text that is none.
pub fn platform(text: &str) -> Result<Platform, String> {
    text.parse::<Platform>()
        .ok()
        .filter(|platform| PLATFORMS.contains(&platform.as_str()))
        .ok_or_else(|| text.to_owned())
}

/// Reads what build steps get from the host: proxies, package indexes (pip's are uv's too), and the
/// authorities to trust (`bundle`, else `SSL_CERT_FILE`, else `PIP_CERT`, else the host's own bundle).
///
/// # Errors
/// A bundle that is named and cannot be read.
pub fn host_access(
    variable: impl Fn(&str) -> Option<String>,
    bundle: Option<&Path>,
    network: Option<String>,
) -> std::io::Result<HostAccess> {
    const PASSED: [&str; 18] = [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "FTP_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "PIP_TRUSTED_HOST",
        "PIP_FIND_LINKS",
        "PIP_NO_INDEX",
        "UV_INDEX_URL",
        "UV_DEFAULT_INDEX",
        "UV_INDEX",
        "UV_EXTRA_INDEX_URL",
        "UV_INSECURE_HOST",
        "UV_FIND_LINKS",
        "UV_INDEX_STRATEGY",
        "NPM_CONFIG_REGISTRY",
    ];
    const SYSTEM: [&str; 3] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/cert.pem",
    ];
    let mut variables = BTreeMap::new();
    for name in PASSED {
        let lower = name.to_ascii_lowercase();
        let value = variable(name).or_else(|| variable(&lower)).filter(|value| !value.is_empty());
        let Some(value) = value else { continue };
        let value = if name == "NO_PROXY" { proxy::exceptions(&value) } else { value };
        if name.ends_with("_PROXY") {
            variables.insert(lower, value.clone());
        }
        variables.insert(name.to_owned(), value);
    }
    variables.extend(package_indexes::uv_variables(&variable));
    for name in ["PIP_FIND_LINKS", "UV_FIND_LINKS"] {
        let Some(value) = variables.remove(name) else { continue };
        let (seen, _) = package_indexes::links(&value);
        if !seen.is_empty() {
            variables.insert(name.to_owned(), seen);
        }
    }
    let named = bundle.map(Path::to_owned).or_else(|| {
        let named = |name| variable(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        named("SSL_CERT_FILE").or_else(|| named("PIP_CERT"))
    });
    let ca_bundle = match named {
        Some(path) if path.as_os_str() == "none" => None,
        Some(path) => Some(std::fs::read(&path)?),
        None => SYSTEM.iter().find_map(|path| std::fs::read(path).ok()),
    };
    Ok(HostAccess { ca_bundle, variables, network, secrets: BTreeMap::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_three_quarters_of_the_processors() {
        let expected = [(1, 1), (2, 1), (4, 3), (8, 6), (31, 23), (32, 24), (128, 24)];
        for (processors, workers) in expected {
            assert_eq!(default_workers(processors), workers, "{processors}");
        }
    }

    #[test]
    fn an_empty_namespace_builds_here_and_arm_does_so_by_itself() {
        let published = Defaults { namespace: Some("swebench".to_owned()), ..Defaults::default() };
        let namespace = |flag: Option<&str>, defaults: &Defaults, x86_64| {
            namespace(flag, defaults, x86_64).unwrap()
        };
        assert_eq!(namespace(Some(""), &published, true), None);
        assert_eq!(namespace(Some("none"), &published, true), None);
        assert_eq!(namespace(None, &published, true).as_deref(), Some("swebench"));
        assert_eq!(namespace(None, &published, false), None);
        assert_eq!(namespace(Some("a/"), &published, false).as_deref(), Some("a"));
        assert_eq!(namespace(None, &Defaults::default(), true), None);
    }

    #[test]
    fn pips_indexes_reach_uv_in_steps_and_folders_of_the_host_do_not() {
        let variable = |name: &str| match name {
            "PIP_INDEX_URL" => Some("https://i/simple".to_owned()),
            "PIP_FIND_LINKS" => Some("/opt/wheels https://x/w".to_owned()),
            "PIP_NO_INDEX" => Some("1".to_owned()),
            _ => None,
        };
        let host = host_access(variable, Some(Path::new("none")), None).unwrap();
        let expected = [
            ("PIP_FIND_LINKS", "https://x/w"),
            ("PIP_INDEX_URL", "https://i/simple"),
            ("PIP_NO_INDEX", "1"),
            ("UV_DEFAULT_INDEX", "https://i/simple"),
            ("UV_FIND_LINKS", "https://x/w"),
        ];
        let found: Vec<_> = host.variables.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn proxies_reach_steps_in_both_spellings() {
        let variable = |name: &str| (name == "https_proxy").then(|| "http://p:1".to_owned());
        let none = Some(Path::new("none"));
        let host = host_access(variable, none, None).unwrap();
        assert_eq!(host.ca_bundle, None);
        assert_eq!(host.variables.len(), 2);
        assert_eq!(host.variables["HTTPS_PROXY"], "http://p:1");
        let variable = |name: &str| (name == "NO_PROXY").then(|| "*.a.example b:5000".to_owned());
        let host = host_access(variable, none, None).unwrap();
        assert!(host.variables["no_proxy"].ends_with(",a.example,b"), "{:?}", host.variables);
        let missing = Some(Path::new("/nowhere.pem"));
        assert!(host_access(variable, missing, None).is_err());
    }
}
