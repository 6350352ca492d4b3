//! What is installed in an image: read from its layers, told as a document of CycloneDX 1.5.
//!
//! Known are packages of Debian (`var/lib/dpkg`), of Python (`*.dist-info`, `*.egg-info`), of conda
//! (`conda-meta`) and of npm (`node_modules`). What an upper layer removed or put in another's place is
//! not installed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::sync::Mutex;

use packageurl::PackageUrl;
use serde_json::{Value, json};

use crate::engine::{Image, LayerConsumer};
use crate::hashing::Hashing;
use crate::key::DiffId;

/// What the document is, in a statement.
pub const CYCLONEDX: &str = "https://cyclonedx.org/bom";

/// No list of packages is larger, in bytes.
const LARGEST: u64 = 16 << 20;

/// A program that manages packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Manager {
    Debian,
    Python,
    Conda,
    Npm,
}

/// A package that is installed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    manager: Manager,
    name: String,
    version: String,
    architecture: Option<String>,
}

/// What of packages a layer holds.
#[derive(Debug, Default)]
struct Layer {
    /// Packages, by the path of the file that tells of them.
    packages: BTreeMap<String, Vec<Package>>,
    /// The paths that it removes, and those in whose place it stands.
    removed: Vec<String>,
    /// The `ID` of `os-release`.
    distribution: Option<String>,
}

/// Takes layers and keeps what they tell of packages.
#[derive(Debug, Default)]
pub struct Inventory(Mutex<HashMap<DiffId, Layer>>);

impl LayerConsumer for Inventory {
    fn wants(&self, diff_id: &DiffId) -> bool {
        !self.0.lock().expect("no holder panics").contains_key(diff_id)
    }

    fn consume(&self, diff_id: Option<&DiffId>, tar: &mut dyn Read) -> io::Result<()> {
        let mut hashing = Hashing::new(tar);
        let layer = read(&mut hashing)?;
        io::copy(&mut hashing, &mut io::sink())?;
        let digest = hashing.finish().1;
        let diff_id = diff_id.cloned().unwrap_or_else(|| digest.into());
        self.0.lock().expect("no holder panics").insert(diff_id, layer);
        Ok(())
    }
}

impl Inventory {
    /// Renders what is installed in an image; none where a layer of it was not taken. Equal images give
    /// equal documents: there is no time in it.
    pub fn document(&self, name: &str, digest: &str, image: &Image) -> Option<Value> {
        let layers = self.0.lock().expect("no holder panics");
        let mut there: BTreeMap<&str, &Vec<Package>> = BTreeMap::new();
        let mut distribution = None;
        for diff_id in &image.diff_ids {
            let layer = layers.get(diff_id)?;
            for gone in &layer.removed {
                there.retain(|path, _| !is_in(path, gone));
            }
            there.extend(layer.packages.iter().map(|(path, of)| (path.as_str(), of)));
            distribution = layer.distribution.as_deref().or(distribution);
        }
        let packages: BTreeSet<&Package> = there.into_values().flatten().collect();
        let components: Vec<Value> = packages
            .into_iter()
            .map(|package| {
                let url = package.url(distribution.unwrap_or("debian"));
                json!({
                    "type": "library", "bom-ref": url, "name": package.name,
                    "version": package.version, "purl": url,
                })
            })
            .collect();
        let imgforge = json!({ "type": "application", "name": "imgforge", "version": env!("CARGO_PKG_VERSION") });
        Some(json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {
                "tools": { "components": [imgforge] },
                "component": { "type": "container", "name": name, "version": digest },
            },
            "components": components,
        }))
    }
}

impl Package {
    /// Returns the package URL, <https://github.com/package-url/purl-spec>.
    fn url(&self, distribution: &str) -> String {
        let kind = match self.manager {
            Manager::Debian => "deb",
            Manager::Python => "pypi",
            Manager::Conda => "conda",
            Manager::Npm => "npm",
        };
        let (namespace, name) = match (self.manager, self.name.split_once('/')) {
            (Manager::Debian, _) => (Some(distribution), self.name.as_str()),
            (Manager::Npm, Some((scope, name))) => (Some(scope), name),
            _ => (None, self.name.as_str()),
        };
        let name = match self.manager {
            Manager::Python => name.to_ascii_lowercase().replace(['_', '.'], "-"),
            _ => name.to_owned(),
        };
        let plain = || format!("pkg:{kind}/{name}@{}", self.version);
        let Ok(mut url) = PackageUrl::new(kind, name.as_str()) else { return plain() };
        let made = url.with_version(self.version.as_str()).and_then(|url| match namespace {
            Some(namespace) => url.with_namespace(namespace),
            None => Ok(url),
        });
        let made = made.and_then(|url| match &self.architecture {
            Some(architecture) => url.add_qualifier("arch", architecture.as_str()),
            None => Ok(url),
        });
        made.map_or_else(|_| plain(), |url| url.to_string())
    }
}

/// Tells whether a path is another, or is below it.
fn is_in(path: &str, other: &str) -> bool {
    path.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn read(tar: &mut dyn Read) -> io::Result<Layer> {
    let mut layer = Layer::default();
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let bytes = entry.path_bytes();
        // No list of packages has such a name.
        let Ok(path) = std::str::from_utf8(&bytes) else { continue };
        let path = path.trim_start_matches("./").trim_matches('/').to_owned();
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if let Some(removed) = name.strip_prefix(".wh.") {
            let removed = match (removed, directory) {
                // All that lower layers have in the directory.
                (".wh..opq", directory) => directory.to_owned(),
                (removed, "") => removed.to_owned(),
                (removed, directory) => format!("{directory}/{removed}"),
            };
            layer.removed.push(removed);
            continue;
        }
        let is_file = entry.header().entry_type().is_file();
        if !is_file && !entry.header().entry_type().is_dir() {
            layer.removed.push(path);
            continue;
        }
        let names_distribution = matches!(&*path, "etc/os-release" | "usr/lib/os-release");
        let reader = reader_of(&path);
        if !is_file || (reader.is_none() && !names_distribution) {
            continue;
        }
        if entry.size() > LARGEST {
            let text = format!("`{path}` has {} bytes, {LARGEST} is the most", entry.size());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut text = Vec::new();
        entry.read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        match reader {
            Some(reader) => {
                layer.packages.insert(path, reader(&text));
            }
            None => layer.distribution = distribution(&text).or(layer.distribution),
        }
    }
    Ok(layer)
}

type Reader = fn(&str) -> Vec<Package>;

/// Returns what reads a file of that path, where it tells of packages.
fn reader_of(path: &str) -> Option<Reader> {
    if path == "var/lib/dpkg/status" || path.starts_with("var/lib/dpkg/status.d/") {
        return Some(debian);
    }
    let mut parts = path.rsplit('/');
    let (name, directory) = (parts.next()?, parts.next()?);
    let above = parts.next();
    let is_info = |name: &str| name.ends_with(".dist-info") || name.ends_with(".egg-info");
    match name {
        "METADATA" | "PKG-INFO" if is_info(directory) => Some(python),
        name if name.ends_with(".egg-info") && directory.ends_with("-packages") => Some(python),
        name if name.ends_with(".json") && directory == "conda-meta" => Some(conda),
        "package.json" if above == Some("node_modules") => Some(npm),
        "package.json"
            if above.is_some_and(|above| above.starts_with('@'))
                && parts.next() == Some("node_modules") =>
        {
            Some(npm)
        }
        _ => None,
    }
}

/// Returns the first field of that name in text that is like the head of a mail.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let lines = text.lines().take_while(|line| !line.trim().is_empty());
    let mut values = lines.filter_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    });
    values.next().filter(|value| !value.is_empty())
}

fn debian(text: &str) -> Vec<Package> {
    let stanzas = text.split("\n\n").map(|stanza| stanza.trim_start_matches('\n'));
    // In `status.d` of images without a package manager there is no `Status`.
    let installed =
        |stanza: &&str| field(stanza, "Status").is_none_or(|status| status.ends_with(" installed"));
    stanzas
        .filter(installed)
        .filter_map(|stanza| {
            Some(Package {
                manager: Manager::Debian,
                name: field(stanza, "Package")?.to_owned(),
                version: field(stanza, "Version")?.to_owned(),
                architecture: field(stanza, "Architecture").map(str::to_owned),
            })
        })
        .collect()
}

fn python(text: &str) -> Vec<Package> {
    let (Some(name), Some(version)) = (field(text, "Name"), field(text, "Version")) else {
        return Vec::new();
    };
    vec![Package {
        manager: Manager::Python,
        name: name.to_owned(),
        version: version.to_owned(),
        architecture: None,
    }]
}

fn conda(text: &str) -> Vec<Package> {
    of_json(text, Manager::Conda)
}

fn npm(text: &str) -> Vec<Package> {
    of_json(text, Manager::Npm)
}

fn of_json(text: &str, manager: Manager) -> Vec<Package> {
    let Ok(document) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    let (Some(name), Some(version)) = (document["name"].as_str(), document["version"].as_str())
    else {
        return Vec::new();
    };
    let (name, version) = (name.to_owned(), version.to_owned());
    vec![Package { manager, name, version, architecture: None }]
}

fn distribution(text: &str) -> Option<String> {
    let id = text.lines().find_map(|line| line.strip_prefix("ID="))?;
    Some(id.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn urls(layers: &[&[(&str, &str)]]) -> Vec<String> {
        let inventory = Inventory::default();
        let mut image = Image::default();
        for (number, files) in layers.iter().enumerate() {
            let diff_id = format!("sha256:{number}").into();
            assert!(inventory.wants(&diff_id));
            inventory.consume(Some(&diff_id), &mut tar_of(files).as_slice()).unwrap();
            assert!(!inventory.wants(&diff_id));
            image.diff_ids.push(diff_id);
        }
        let document = inventory.document("name", "sha256:d", &image).unwrap();
        let components = document["components"].as_array().unwrap();
        components.iter().map(|one| one["purl"].as_str().unwrap().to_owned()).collect()
    }

    const STATUS: &str = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\n\
        Version: 2.36-9+deb12u10\nDescription: a\n Version: 9\n\nPackage: gone\n\
        Status: deinstall ok config-files\nVersion: 1\n\nPackage: tzdata\n\
        Status: install ok installed\nArchitecture: all\nVersion: 1:2024a\n";
    const SITE: &str = "opt/envs/testbed/lib/python3.9/site-packages";

    #[test]
    fn packages_of_every_manager_are_told_with_their_urls() {
        let flask = format!("{SITE}/Flask-2.0.dist-info/METADATA");
        let zope = format!("{SITE}/zope.interface-5.egg-info");
        let found = urls(&[
            &[("etc/os-release", "NAME=x\nID=debian\n"), ("var/lib/dpkg/status", STATUS)],
            &[
                (&flask, "Metadata-Version: 2.1\nName: Flask\nVersion: 2.0.dev1+g12\n\nName: no\n"),
                (&zope, "Metadata-Version: 1.0\nName: zope.interface\nVersion: 5.0\n"),
                ("opt/conda/conda-meta/zlib-1.json", r#"{"name": "zlib", "version": "1.2"}"#),
                ("a/node_modules/@b/c/package.json", r#"{"name": "@b/c", "version": "3.0.0"}"#),
                ("a/node_modules/d/package.json", r#"{"name": "d", "version": "1.0.0"}"#),
                ("a/node_modules/d/lib/package.json", r#"{"name": "no", "version": "1.0.0"}"#),
                ("a/package.json", r#"{"name": "no", "version": "1.0.0"}"#),
            ],
        ]);
        assert_eq!(
            found,
            [
                "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64",
                "pkg:deb/debian/tzdata@1:2024a?arch=all",
                "pkg:pypi/flask@2.0.dev1%2Bg12",
                "pkg:pypi/zope-interface@5.0",
                "pkg:conda/zlib@1.2",
                "pkg:npm/%40b/c@3.0.0",
                "pkg:npm/d@1.0.0",
            ]
        );
    }

    #[test]
    fn what_an_upper_layer_removed_or_exchanged_is_not_installed() {
        let metadata = |name: &str| (format!("{SITE}/{name}.dist-info/METADATA"), name.to_owned());
        let text = |name: &str| format!("Name: {name}\nVersion: 1\n");
        let files: Vec<(String, String)> =
            ["a", "b", "c"].map(metadata).map(|(path, name)| (path, text(&name))).into();
        let files: Vec<(&str, &str)> =
            files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        let gone = format!("{SITE}/.wh.a.dist-info");
        let newer = format!("{SITE}/b.dist-info/METADATA");
        let second = [(gone.as_str(), ""), (newer.as_str(), "Name: b\nVersion: 2\n")];
        assert_eq!(urls(&[&files, &second]), ["pkg:pypi/b@2", "pkg:pypi/c@1"]);
        let all = format!("{SITE}/.wh..wh..opq");
        let third = [(all.as_str(), "")];
        assert!(urls(&[&files, &third]).is_empty());
    }

    #[test]
    fn an_image_with_a_layer_that_nobody_read_has_no_document() {
        let image = Image { diff_ids: vec!["sha256:0".into()], ..Image::default() };
        assert_eq!(Inventory::default().document("name", "sha256:d", &image), None);
    }
}
