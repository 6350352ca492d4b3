//! Base images without a registry: Debian, put together by `mmdebstrap` from the archive's packages.
//!
//! `debian:<suite>` is a minimal Debian; `python:<version>-slim-<suite>` adds Debian's own Python of
//! that minor version, whatever patch level the name says, and calls it as the official image does.
//! Both stand in for the images of these names, so a label says what they are, and what identifies
//! them in keys is their list of packages.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use rustix::thread::CapabilitySet;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::catalog::python::minor;
use crate::engine::{
    Builder, EngineError, Image, ImageConfig, LayerFile, LayerRequest, LogSink, emulation, label,
};
use crate::key::Digest;
use crate::offline;
use crate::platform::Platform;
use crate::proxy::{Proxies, WrongProxy};

/// The variable that names another archive of Debian's packages.
const ARCHIVE: &str = "IMGFORGE_DEBIAN_ARCHIVE";

/// Debian's archive, where neither the variable nor this host's apt names one.
const DEBIAN: &str = "http://deb.debian.org/debian";

/// The archive of what is not supported any more.
const OLD_DEBIAN: &str = "http://archive.debian.org/debian";

/// The label of an image that was made here: what it is, and the digest of its packages.
pub const LABEL: &str = "dev.imgforge.bootstrap";

/// Changes when what is made of the same packages changes.
const RECIPE: u32 = 1;

/// The suites of Debian that are known, with their Python.
const SUITES: [(&str, &str); 3] = [("bullseye", "3.9"), ("bookworm", "3.11"), ("trixie", "3.13")];

/// What every image has beyond the essential packages.
const PACKAGES: &str = "ca-certificates,netbase,tzdata";

/// What can be made without a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    reference: String,
    suite: &'static str,
    /// The minor version.
    python: Option<&'static str>,
}

/// Why a base could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Only some images can be made.
    #[error("`{0}` cannot be made without a registry")]
    Unknown(String),
    /// The program is not there.
    #[error("`mmdebstrap` cannot be started")]
    Program(#[source] std::io::Error),
    /// No archive has the suite.
    #[error("no Debian archive has `{suite}`: tried {tried}")]
    NoArchive {
        /// The suite.
        suite: &'static str,
        /// The archives.
        tried: String,
    },
    /// Programs of the platform, which a package runs when it is set up, do not run here.
    #[error("a Debian for {wanted} cannot be made here: this machine runs {host}")]
    Foreign {
        /// This machine's platform.
        host: String,
        /// The platform that was asked for.
        wanted: String,
    },
    /// The program failed.
    #[error("`mmdebstrap` failed: {0}")]
    Failed(String),
    /// A file could not be read or written.
    #[error("cannot use `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A variable of the environment names no proxy.
    #[error(transparent)]
    Proxy(WrongProxy),
    /// The engine did not take it.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl BootstrapError {
    /// Says what would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            BootstrapError::Unknown(_) => Some(format!(
                "known are {}, each Python also with a patch level",
                known().join(", ")
            )),
            BootstrapError::Program(_) => Some(
                "install it (`sudo apt-get install mmdebstrap`); a plain user also needs \
                 `uidmap`, or `fakechroot`"
                    .to_owned(),
            ),
            BootstrapError::NoArchive { .. } => {
                Some("check the network, and HTTP_PROXY or ALL_PROXY".to_owned())
            }
            BootstrapError::Foreign { .. } => Some(
                "make it on such a machine, or let the kernel run its programs (`sudo apt-get \
                 install qemu-user-static arch-test`)"
                    .to_owned(),
            ),
            BootstrapError::Failed(_) => Some(
                "a plain user needs `uidmap` and a range of ids in /etc/subuid, or `fakechroot`"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// How long mmdebstrap may take to tidy up when it is stopped.
const TIDY: Duration = Duration::from_secs(4);

/// A program that makes an image. When it is dropped before its end, nothing of it stays.
struct Making {
    child: Child,
    /// Its mounts and processes are in namespaces of their own, which end with it.
    apart: bool,
}

impl Drop for Making {
    fn drop(&mut self) {
        let Some(group) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) else {
            return;
        };
        let began = Instant::now();
        if !self.apart {
            // It removes its tree, which belongs to other ids, by itself.
            let _ = kill_process_group(group, Signal::TERM);
            while began.elapsed() < TIDY && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = kill_process_group(group, Signal::KILL);
        while began.elapsed() < TIDY && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Tells whether this process may make mount and process namespaces.
fn namespaces_may_be_made() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Checks that packages of a platform can be set up on this machine; returns the platform.
fn check(platform: &Platform, directory: &Path) -> Result<Platform, BootstrapError> {
    let host = Platform::host();
    let wanted: Platform =
        platform.as_str().parse().unwrap_or_else(|_| Platform::of("", platform.as_str(), ""));
    let runs = wanted == host
        || emulation::runs_here(&wanted, directory)
            .map_err(|source| BootstrapError::File { path: directory.to_owned(), source })?;
    if runs {
        return Ok(wanted);
    }
    Err(BootstrapError::Foreign { host: host.to_string(), wanted: wanted.to_string() })
}

/// Lists what can be made.
pub(crate) fn known() -> Vec<String> {
    let debian = SUITES.iter().map(|(suite, _)| format!("debian:{suite}"));
    let python = SUITES.iter().map(|(suite, python)| format!("python:{python}-slim-{suite}"));
    debian.chain(python).collect()
}

impl Bootstrap {
    /// Returns how the image of a reference is made, if it can be.
    pub fn of(reference: &str) -> Option<Bootstrap> {
        let name = reference.trim_start_matches("docker.io/").trim_start_matches("library/");
        let (repository, tag) = name.split_once(':')?;
        let found = SUITES.iter().find_map(|(suite, python)| match repository {
            "debian" => {
                (tag.strip_suffix("-slim").unwrap_or(tag) == *suite).then_some((*suite, None))
            }
            "python" => {
                let version = tag.strip_suffix(suite)?.strip_suffix("-slim-")?;
                let is_version = version
                    .split('.')
                    .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
                (is_version && minor(version) == *python).then_some((*suite, Some(*python)))
            }
            _ => None,
        });
        let (suite, python) = found?;
        Some(Bootstrap { reference: reference.to_owned(), suite, python })
    }

    /// Reads a reference that has to be known.
    ///
    /// # Errors
    /// [`BootstrapError::Unknown`].
    pub fn parse(reference: &str) -> Result<Bootstrap, BootstrapError> {
        Self::of(reference).ok_or_else(|| BootstrapError::Unknown(reference.to_owned()))
    }

    /// Returns the Python that its name promises and the image made here cannot: its patch level.
    pub fn promised(&self) -> Option<&str> {
        let version = self.reference.rsplit_once(':')?.1.split('-').next()?;
        (self.python.is_some() && minor(version) != version).then_some(version)
    }

    /// Returns the image: another name of what was made before of the same suite and Python, so that
    /// all stand on the same packages; else it is made.
    pub async fn have(
        &self,
        engine: &dyn Builder,
        platform: &Platform,
        directory: &Path,
        log: &dyn LogSink,
    ) -> Result<Image, BootstrapError> {
        match self.sibling(engine, platform).await? {
            Some(image) => {
                log.write(format!("`{}` is made already\n", image.id).as_bytes());
                Ok(image)
            }
            None => self.make(engine, platform, directory, log).await,
        }
    }

    /// Gives the name to an image that was made before of the same suite and Python, if the engine
    /// has one, and returns it.
    pub async fn sibling(
        &self,
        engine: &dyn Builder,
        platform: &Platform,
    ) -> Result<Option<Image>, BootstrapError> {
        let Some(python) = self.python else { return Ok(None) };
        for listed in engine.images().await? {
            // What stands on such an image has its labels, too.
            let is_base = !listed.labels.contains_key(label::KEY);
            let made = listed.labels.get(LABEL).filter(|_| is_base);
            if !made.is_some_and(|label| self.made_the_same(label, python)) {
                continue;
            }
            let image = engine.inspect(listed.id.as_str()).await?;
            if image.is_some_and(|image| image.platform == *platform) {
                let name = self.reference.parse().map_err(EngineError::Reference)?;
                engine.tag(listed.id.as_str(), &name).await?;
                return Ok(engine.inspect(&self.reference).await?);
            }
        }
        Ok(None)
    }

    fn made_the_same(&self, label: &str, python: &str) -> bool {
        let of = format!(" of debian {}, ", self.suite);
        let version = label.strip_prefix("python ").and_then(|rest| rest.split_once(&of));
        let recipe = format!(", recipe {RECIPE}");
        version.is_some_and(|(version, _)| minor(version) == python) && label.ends_with(&recipe)
    }

    /// Makes the image in `directory`, gives it to the engine, and returns it.
    pub async fn make(
        &self,
        engine: &dyn Builder,
        platform: &Platform,
        directory: &Path,
        log: &dyn LogSink,
    ) -> Result<Image, BootstrapError> {
        let wanted = check(platform, directory)?;
        let (sources, time) = self.sources(directory).await?;
        let tar = directory.join("base.tar");
        let status = directory.join("status");
        write(&directory.join("sources"), &sources)?;
        write(&directory.join("apt.conf"), APT)?;
        self.debootstrap(directory, &wanted, time, log).await?;
        let packages = packages(&read(&status)?);
        let listed = Digest::of(packages.join("\n"));
        let layer = layer(&tar)?;
        let what = match self.python {
            Some(python) => {
                let version = upstream(&packages, &format!("python{python}")).unwrap_or(python);
                format!("python {version} of debian {}", self.suite)
            }
            None => format!("debian {}", self.suite),
        };
        let label =
            format!("{what}, {} packages {}, recipe {RECIPE}", packages.len(), listed.oci());
        let env =
            ["PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"];
        let program = if self.python.is_some() { "python3" } else { "bash" };
        let request = LayerRequest {
            parent: Image { platform: platform.to_owned(), ..Image::default() },
            layers: vec![layer],
            config: ImageConfig {
                env: env.map(str::to_owned).to_vec(),
                cmd: vec![program.to_owned()],
                labels: [(LABEL.to_owned(), label)].into(),
                ..ImageConfig::default()
            },
            tags: vec![self.reference.clone()],
        };
        Ok(engine.load(&request).await?)
    }

    async fn debootstrap(
        &self,
        directory: &Path,
        platform: &Platform,
        time: i64,
        log: &dyn LogSink,
    ) -> Result<(), BootstrapError> {
        let at = |name: &str| directory.join(name).display().to_string();
        let mut include = PACKAGES.to_owned();
        if self.python.is_some() {
            include += ",python3,python3-dev,python3-pip,python3-venv";
        }
        let architecture = match platform.to_string().as_str() {
            "linux/386" => "i386".to_owned(),
            "linux/arm/v7" => "armhf".to_owned(),
            "linux/ppc64le" => "ppc64el".to_owned(),
            _ => platform.architecture().to_owned(),
        };
        let proxies = Proxies::of_process().map_err(BootstrapError::Proxy)?;
        // Root mounts the host's file systems into the new tree: they, and all processes, go with two
        // namespaces, and the tree with a directory of ours.
        let apart = namespaces_may_be_made();
        let trees = tempfile::Builder::new().prefix("imgforge-bootstrap-").tempdir();
        let trees =
            trees.map_err(|source| BootstrapError::File { path: std::env::temp_dir(), source })?;
        let mut command = if apart {
            use std::os::unix::fs::PermissionsExt as _;
            // Programs that give up root, as apt's downloads, go through it.
            std::fs::set_permissions(trees.path(), std::fs::Permissions::from_mode(0o755))
                .map_err(|source| BootstrapError::File { path: trees.path().into(), source })?;
            let mut command = Command::new("unshare");
            command.args(["--mount", "--pid", "--fork", "--kill-child", "mmdebstrap"]);
            command.env("TMPDIR", trees.path());
            command
        } else {
            Command::new("mmdebstrap")
        };
        command
            .args(["--format=tar", "--variant=minbase"])
            .arg(format!("--architectures={architecture}"))
            .arg(format!("--include={include}"))
            .arg("--keyring=/usr/share/keyrings/debian-archive-keyring.gpg")
            .arg("--dpkgopt=path-exclude=/usr/share/doc/*")
            .arg("--dpkgopt=path-include=/usr/share/doc/*/copyright")
            .arg("--dpkgopt=path-exclude=/usr/share/man/*")
            .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
            .arg(format!(
                "--customize-hook=upload {} /etc/apt/apt.conf.d/container-clean",
                at("apt.conf")
            ))
            // As text: root of a user namespace may not read the files of a private home.
            .arg(format!("--customize-hook={}", self.finish().join("; ")))
            .arg(format!("--customize-hook=download /var/lib/dpkg/status {}", at("status")))
            .args(proxies.apt_settings().lines().map(|line| format!("--aptopt={line}")))
            .args([self.suite, &at("base.tar"), &at("sources")])
            .env("SOURCE_DATE_EPOCH", time.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        crate::child::apart(command.as_std_mut());
        let child = command.spawn().map_err(BootstrapError::Program)?;
        let mut child = Making { child, apart };
        let stderr = child.child.stderr.take().expect("the error output is a pipe");
        let mut lines = BufReader::new(stderr).split(b'\n');
        let mut last = Vec::new();
        while let Ok(Some(line)) = lines.next_segment().await {
            log.write(&[line.as_slice(), b"\n"].concat());
            last.push(String::from_utf8_lossy(&line).into_owned());
            if last.len() > 5 {
                last.remove(0);
            }
        }
        match child.child.wait().await {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(BootstrapError::Failed(last.join("\n"))),
            Err(error) => Err(BootstrapError::Program(error)),
        }
    }

    /// Finds an archive that has the suite; returns the lines for apt, and the time of its newest
    /// release, which no file of a package is later than.
    async fn sources(&self, directory: &Path) -> Result<(String, i64), BootstrapError> {
        // The archive that this host uses, by its label, so that a company's mirror is used too.
        let (main, security) =
            (host_archive("Debian").await, host_archive("Debian-Security").await);
        let named = std::env::var(ARCHIVE).ok().filter(|named| !named.is_empty());
        let named = named.map(|named| named.trim_end_matches('/').to_owned());
        let public = [DEBIAN, OLD_DEBIAN].map(|archive| Some(archive.to_owned()));
        if offline::is_on() {
            let tried = format!("none: {}", offline::WHY);
            return Err(BootstrapError::NoArchive { suite: self.suite, tried });
        }
        let mut tried = Vec::new();
        let mut found = None;
        for archive in [named, main].into_iter().chain(public).flatten() {
            if let Some(time) = released(&archive, self.suite, directory).await {
                found = Some((archive, time));
                break;
            }
            tried.push(format!("`{archive}`"));
        }
        let Some((archive, mut time)) = found else {
            let tried = tried.join(", ");
            return Err(BootstrapError::NoArchive { suite: self.suite, tried });
        };
        let mut lines = format!("deb {archive} {} main\n", self.suite);
        let security = security.unwrap_or_else(|| format!("{DEBIAN}-security"));
        let name = format!("{}-security", self.suite);
        // What is old is in an archive without updates.
        if archive != OLD_DEBIAN
            && let Some(released) = released(&security, &name, directory).await
        {
            lines += &format!("deb {security} {name} main\n");
            time = time.max(released);
        }
        Ok((lines, time))
    }

    /// What is done last in the tree, as commands of a shell. As in the official images, `python`,
    /// `python3` and `pip` are in /usr/local/bin and may install.
    fn finish(&self) -> Vec<String> {
        let mut commands = vec!["set -e".to_owned(), "rm -f \"$1\"/var/cache/apt/*.bin".to_owned()];
        if let Some(python) = self.python {
            commands.extend([
                "cd \"$1/usr/local/bin\"".to_owned(),
                format!("ln -s /usr/bin/python{python} python{python}"),
                format!("ln -s python{python} python3"),
                format!("ln -s python{python} python"),
                "ln -s /usr/bin/pip3 pip3".to_owned(),
                "ln -s pip3 pip".to_owned(),
                format!("rm -f \"$1/usr/lib/python{python}/EXTERNALLY-MANAGED\""),
            ]);
        }
        // Docker's older builders leave the time of the build on /etc where they find none of these.
        commands.extend(["resolv.conf", "hosts"].map(|file| format!(": >\"$1/etc/{file}\"")));
        commands
    }
}

/// As in Debian's container images: no download cache, no translations.
const APT: &str = r#"DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
APT::Update::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Acquire::Languages "none";
"#;

/// Asks this host's apt for the archive that it uses.
async fn host_archive(label: &str) -> Option<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
        .args(["Origin: Debian".to_owned(), format!("Label: {label}")])
        .stdin(Stdio::null())
        .output()
        .await
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(|line| line.trim_end_matches('/').to_owned())
}

/// Returns the time of a release of an archive, in seconds; `None` where it does not have it.
async fn released(archive: &str, suite: &str, directory: &Path) -> Option<i64> {
    // apt's own program knows its proxies, credentials and certificates.
    let file = directory.join(format!("Release-{suite}"));
    let url = format!("{archive}/dists/{suite}/Release");
    let fetched = Command::new("/usr/lib/apt/apt-helper")
        .args(["download-file", &url])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    let text = match fetched {
        Ok(status) if status.success() => std::fs::read_to_string(&file).ok()?,
        Ok(_) => return None,
        Err(_) => {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let answer = reqwest::get(&url).await.ok()?.error_for_status().ok()?;
            answer.text().await.ok()?
        }
    };
    let date = text.lines().find_map(|line| line.strip_prefix("Date: "))?;
    let date = date.replace("UTC", "+0000");
    jiff::fmt::rfc2822::parse(&date).ok().map(|time| time.timestamp().as_second())
}

/// Lists the packages of dpkg's status, with versions, in order.
fn packages(status: &str) -> Vec<String> {
    let mut packages: Vec<String> = status
        .split("\n\n")
        .filter_map(|paragraph| {
            let field = |name: &str| {
                let mut lines = paragraph.lines();
                lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            };
            Some(format!("{} {} {}", field("Package")?, field("Version")?, field("Architecture")?))
        })
        .collect();
    packages.sort();
    packages
}

/// Returns the version of a package without Debian's own part: `3.9.2` of `3.9.2-1+deb11u5`.
fn upstream<'a>(packages: &'a [String], name: &str) -> Option<&'a str> {
    let rest = packages.iter().find_map(|package| package.strip_prefix(name)?.strip_prefix(' '))?;
    rest.split([' ', '-', '+', '~']).next()
}

fn layer(path: &Path) -> Result<LayerFile, BootstrapError> {
    let error = |source| BootstrapError::File { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(error)?;
    let (diff_id, size) = Digest::of_reader(file).map_err(error)?;
    Ok(LayerFile { path: path.to_owned(), diff_id, size })
}

fn write(path: &Path, text: &str) -> Result<(), BootstrapError> {
    std::fs::write(path, text)
        .map_err(|source| BootstrapError::File { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<String, BootstrapError> {
    std::fs::read_to_string(path)
        .map_err(|source| BootstrapError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_known_suites_can_be_made() {
        for reference in known() {
            assert!(Bootstrap::of(&reference).is_some(), "{reference}");
        }
        let slim = Bootstrap::of("docker.io/library/debian:trixie-slim").unwrap();
        assert_eq!((slim.suite, slim.python), ("trixie", None));
        for reference in [
            "debian:sid",
            "python:3.9-slim-bookworm",
            "python:3.9.20-slim-bookworm",
            "python:3.10.15-slim-bullseye",
            "python:3.9.x-slim-bullseye",
            "python:3-slim-bullseye",
            "python:-slim-bullseye",
            "ubuntu:22.04",
            "debian",
        ] {
            assert_eq!(Bootstrap::of(reference), None, "{reference}");
        }
    }

    #[test]
    fn debians_python_stands_in_for_every_patch_level_and_says_so() {
        let pinned = Bootstrap::of("docker.io/library/python:3.9.20-slim-bullseye").unwrap();
        assert_eq!((pinned.suite, pinned.python), ("bullseye", Some("3.9")));
        assert_eq!(pinned.promised(), Some("3.9.20"));
        assert_eq!(Bootstrap::of("python:3.9-slim-bullseye").unwrap().promised(), None);
        assert_eq!(Bootstrap::of("debian:bullseye").unwrap().promised(), None);
        let packages = ["libc6 2.31 amd64", "python3.9 3.9.2-1+deb11u5 amd64"].map(str::to_owned);
        assert_eq!(upstream(&packages, "python3.9"), Some("3.9.2"));
        let recipe = format!("138 packages sha256:0, recipe {RECIPE}");
        for (label, same) in [
            (format!("python 3.9.2 of debian bullseye, {recipe}"), true),
            (format!("python 3.9 of debian bullseye, {recipe}"), true),
            (format!("python 3.11.2 of debian bookworm, {recipe}"), false),
            ("python 3.9.2 of debian bullseye, 1 packages sha256:0, recipe 0".to_owned(), false),
        ] {
            assert_eq!(pinned.made_the_same(&label, "3.9"), same, "{label}");
        }
    }

    #[test]
    fn packages_are_listed_with_their_versions() {
        let status = "Package: b\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2\n\n\
                      Package: a\nArchitecture: all\nVersion: 1:1-1\nDescription: x\n Version: no\n";
        assert_eq!(packages(status), ["a 1:1-1 all", "b 2 amd64"]);
    }
}
