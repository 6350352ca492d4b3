//! What build steps get from the host: files that are mounted in each of them, on every engine.

use std::fmt::Write as _;

use crate::context_file::ContextFile;
use crate::engine::HostAccess;
use crate::proxy::Proxies;
use crate::quote::shell_quote;

/// Where the files are mounted. `/dev` is a file system of the step's own, so that no mount point is
/// left in a layer, whatever the image has.
pub(super) const MOUNT: &str = "/dev/imgforge";

/// Where the caches of package managers are mounted, one directory for each user.
pub(super) const CACHE: &str = "/dev/imgforge-cache";

/// The variables that lead programs to a bundle of authorities.
pub(crate) const CA_VARIABLES: [&str; 7] = [
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "CARGO_HTTP_CAINFO",
];

/// The time of files that a step made: 2020-01-01.
pub(super) const FILE_TIME: u64 = 1_577_836_800;

/// Returns the files.
pub(super) fn files(host: &HostAccess) -> Vec<ContextFile> {
    let file = |path: &str, bytes: Vec<u8>| ContextFile {
        path: path.to_owned(),
        executable: false,
        bytes,
    };
    let mut files = vec![
        file("step", include_bytes!("step.sh").to_vec()),
        file("apt.conf", apt_settings(host).into_bytes()),
        file("environment", environment(host).into_bytes()),
    ];
    if no_index(host) {
        files.push(file("uv.toml", b"no-index = true\n".to_vec()));
    }
    if let Some(bundle) = &host.ca_bundle {
        files.push(file("ca.pem", bundle.clone()));
    }
    files
}

fn apt_settings(host: &HostAccess) -> String {
    let proxies = Proxies::read(|name| host.variables.get(name).cloned()).unwrap_or_default();
    let caches = "Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n";
    format!("{caches}{}", proxies.apt_settings())
}

fn no_index(host: &HostAccess) -> bool {
    crate::package_indexes::no_index(&|name: &str| host.variables.get(name).cloned())
}

/// Writes the variables of a step as a shell script.
fn environment(host: &HostAccess) -> String {
    let mut text = format!(
        "cache={CACHE}/$(id -u)\n\
         export SOURCE_DATE_EPOCH={FILE_TIME} PYTHONHASHSEED=0 LC_ALL=${{LC_ALL:-C.UTF-8}}\n\
         export DEBIAN_FRONTEND=noninteractive APT_CONFIG=${{APT_CONFIG:-{MOUNT}/apt.conf}}\n\
         export PIP_CACHE_DIR=$cache/pip UV_CACHE_DIR=$cache/uv npm_config_cache=$cache/npm\n\
         export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore\n\
         export UV_LINK_MODE=copy UV_NO_PROGRESS=1 UV_PYTHON_DOWNLOADS=manual\n"
    );
    if host.ca_bundle.is_some() {
        for name in CA_VARIABLES {
            let _ = writeln!(text, "export {name}={MOUNT}/ca.pem");
        }
    }
    if no_index(host) {
        // uv has no variable for it.
        let _ = writeln!(text, "export UV_CONFIG_FILE={MOUNT}/uv.toml");
    }
    for (name, value) in &host.variables {
        let _ = writeln!(text, "export {name}={}", shell_quote(value));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundle_and_the_proxies_are_files_of_a_step() {
        let mut host = HostAccess { ca_bundle: Some(b"PEM".to_vec()), ..HostAccess::default() };
        host.variables.insert("https_proxy".into(), "http://u:it's@proxy:1".into());
        let files = files(&host);
        assert!(files.iter().any(|file| file.path == "ca.pem" && file.bytes == b"PEM"));
        let text = environment(&host);
        assert!(text.contains(r"export https_proxy='http://u:it'\''s@proxy:1'"), "{text}");
        assert!(text.contains("export PIP_CERT=/dev/imgforge/ca.pem"));
        assert!(!environment(&HostAccess::default()).contains("ca.pem"));
        assert!(!text.contains("uv.toml"));
        host.variables.insert("PIP_NO_INDEX".into(), "1".into());
        assert!(environment(&host).contains("export UV_CONFIG_FILE=/dev/imgforge/uv.toml"));
        assert!(super::files(&host).iter().any(|file| file.bytes == b"no-index = true\n"));
    }
}
