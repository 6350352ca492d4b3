//! Platforms: operating system, architecture and variant, each in its one spelling.
//!
//! What images, registries, engines and people write is brought to the form of containerd, so that
//! two platforms are the same when their texts are. Pure; knows nothing of what a machine can run.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What programs are made for, such as `linux/amd64`: one text, which it is written as everywhere.
///
/// Equal texts are equal. Whether an image can be used where another is asked for says
/// [`Platform::matches`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Platform(Arc<str>);

/// A text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform")]
pub struct NotAPlatform(pub String);

impl Platform {
    /// Makes a platform of what an image or an engine says of itself. What it does not say is empty,
    /// and equal to nothing that is said.
    pub fn of(os: &str, architecture: &str, variant: &str) -> Platform {
        let lower = |text: &str| text.trim().to_ascii_lowercase();
        let (os, architecture, variant) = (lower(os), lower(architecture), lower(variant));
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            // `v1` is what every amd64 is, `v8` what every arm64.
            ("amd64" | "x86_64" | "x86-64", "v1") => ("amd64", ""),
            ("amd64" | "x86_64" | "x86-64", variant) => ("amd64", variant),
            ("arm64" | "aarch64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("arm64" | "aarch64", variant) => ("arm64", variant),
            ("386" | "i386" | "i686", _) => ("386", ""),
            ("arm" | "armv7l" | "armhf", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("armv6l" | "armel", "") => ("arm", "v6"),
            (other, variant) => (other, variant),
        };
        let slash = if variant.is_empty() { "" } else { "/" };
        Platform(format!("{os}/{architecture}{slash}{variant}").into())
    }

    /// Takes the text of a document as it is, in whatever spelling, also one that is no platform: it
    /// is printed so, and matches what it is another spelling of.
    pub fn written(text: &str) -> Platform {
        Platform(text.into())
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the operating system, the architecture, such as `arm64`, and the variant; `None` where
    /// the text ends before.
    pub fn parts(&self) -> [Option<&str>; 3] {
        let mut parts = self.0.split('/');
        [parts.next(), parts.next(), parts.next()]
    }

    /// Returns the architecture, such as `arm64`.
    pub fn architecture(&self) -> &str {
        let [_, architecture, _] = self.parts();
        architecture.unwrap_or("")
    }

    /// Tells whether two are one platform, in whatever spelling. What is no platform is none.
    pub fn matches(&self, other: &Platform) -> bool {
        match (self.0.parse::<Platform>(), other.0.parse::<Platform>()) {
            (Ok(one), Ok(other)) => one == other,
            _ => false,
        }
    }

    /// Returns the platform of this program, which is the machine's.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform::of(std::env::consts::OS, architecture, "")
    }
}

impl Default for Platform {
    /// The platform of what says none; it matches nothing.
    fn default() -> Self {
        Platform::written("")
    }
}

impl From<String> for Platform {
    /// Takes a text as [`Platform::written`] does.
    fn from(text: String) -> Self {
        Platform(text.into())
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.as_str().to_owned()
    }
}

impl PartialEq<str> for Platform {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Platform {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Platform {
    type Err = NotAPlatform;

    /// Reads `os/architecture`, `os/architecture/variant`, or an architecture alone, for Linux.
    fn from_str(text: &str) -> Result<Platform, NotAPlatform> {
        let parts: Vec<&str> = text.trim().split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(NotAPlatform(text.to_owned()));
        }
        match parts.as_slice() {
            [architecture] => Ok(Platform::of("linux", architecture, "")),
            // `arm64/v8`: no operating system is called like an architecture.
            [architecture @ ("amd64" | "arm64" | "aarch64" | "arm"), variant] => {
                Ok(Platform::of("linux", architecture, variant))
            }
            [os, architecture] => Ok(Platform::of(os, architecture, "")),
            [os, architecture, variant] => Ok(Platform::of(os, architecture, variant)),
            _ => Err(NotAPlatform(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_has_one_spelling() {
        let cases = [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("aarch64", "linux/arm64"),
            ("arm64/v8", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/v9", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armv7l", "linux/arm/v7"),
            ("arm/v6", "linux/arm/v6"),
            ("linux/i686", "linux/386"),
            ("linux/riscv64", "linux/riscv64"),
            ("windows/amd64", "windows/amd64"),
        ];
        for (text, spelling) in cases {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), spelling, "{text}");
        }
        for wrong in ["", "linux/", "/amd64", "linux//v8", "a/b/c/d"] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn variants_that_need_another_machine_are_other_platforms() {
        let same = |one, other| Platform::written(one).matches(&Platform::written(other));
        assert!(same("linux/arm64/v8", "linux/arm64"));
        assert!(same("linux/amd64/v1", "x86_64"));
        for (one, other) in [
            ("linux/amd64", "linux/arm64"),
            ("linux/amd64", "linux/amd64/v2"),
            ("linux/arm/v6", "linux/arm/v7"),
            ("linux/arm/v7", "linux/arm64"),
            ("linux/amd64", "windows/amd64"),
            ("", ""),
            ("linux/", "linux/"),
        ] {
            assert!(!same(one, other), "{one} {other}");
        }
    }

    #[test]
    fn this_machine_has_a_platform_that_programs_know() {
        let host = Platform::host();
        assert_eq!(host.to_string().parse::<Platform>().unwrap(), host);
    }
}
