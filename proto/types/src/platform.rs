//! Platforms, and which variant of an image runs here (OCI image-spec, image-index.md §platform).

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Operating system, architecture and variant, in Go's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `amd64`, `arm64` …
    #[serde(default)]
    pub architecture: String,
    /// `v8`; empty where none is told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
];
const ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64",
    "s390x", "wasm",
];

impl Platform {
    /// A platform in its normal form: `x86_64` is `amd64`, `aarch64` and `arm64/v8` are `arm64`, `arm` is `arm/v7`.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        Self { os: os.into(), architecture: architecture.into(), variant: variant.into() }.normalized()
    }

    /// The platform of this program.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "loongarch64" => "loong64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "mips64" if cfg!(target_endian = "little") => "mips64le",
            "mips" if cfg!(target_endian = "little") => "mipsle",
            other => other,
        };
        Self::new(std::env::consts::OS, architecture, "")
    }

    /// Reads `os`, `architecture`, `os/architecture` or `os/architecture/variant`; what is left out is the host's.
    ///
    /// # Errors
    /// [`crate::Fault::Invalid`] that says what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            let shown: String = text.chars().take(64).collect();
            Error::invalid("platform", format_args!("{shown:?} {why}; write it as linux/amd64 or linux/arm64/v8"))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &&str| {
            !part.is_empty()
                && part.len() <= 64
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        };
        if !parts.iter().all(word) {
            return Err(bad("has an empty part or a character other than letters, digits, '.', '_', '-'"));
        }
        let host = Self::host();
        match parts[..] {
            [one] => {
                let os = system(one);
                if SYSTEMS.contains(&os.as_str()) {
                    return Ok(Self { os, ..host });
                }
                let guess = Self::new(&host.os, one, "");
                if ARCHITECTURES.contains(&guess.architecture.as_str()) {
                    return Ok(guess);
                }
                Err(bad("is neither an operating system nor an architecture that is known"))
            }
            [os, architecture] => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::new(os, architecture, variant)),
            _ => Err(bad("has more than three parts")),
        }
    }

    /// The normal form, by which platforms are compared.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let os = system(&self.os);
        let architecture = self.architecture.to_ascii_lowercase();
        let variant = self.variant.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386", String::new()),
            ("x86_64" | "x86-64" | "amd64", "" | "v1" | "1") => ("amd64", String::new()),
            ("x86_64" | "x86-64" | "amd64", other) => ("amd64", versioned(other)),
            ("aarch64" | "arm64", "" | "8" | "v8" | "v8.0" | "8.0") => ("arm64", String::new()),
            ("aarch64" | "arm64", "9" | "v9" | "v9.0" | "9.0") => ("arm64", "v9".into()),
            ("aarch64" | "arm64", other) => ("arm64", versioned(other)),
            ("armhf", _) => ("arm", "v7".into()),
            ("armel", _) => ("arm", "v6".into()),
            ("arm", "") => ("arm", "v7".into()),
            ("arm", other) => ("arm", versioned(other)),
            (other, _) => (other, variant),
        };
        Self { os, architecture: architecture.into(), variant }
    }

    /// What a machine of this platform can run, best first: lower variants, then the 32-bit sister.
    #[must_use]
    pub fn compatible(&self) -> Vec<Self> {
        let own = self.normalized();
        let make = |architecture: &str, variant: String| Self::new(&own.os, architecture, &variant);
        let mut list = vec![own.clone()];
        let number = own.variant.trim_start_matches('v').parse::<u32>().ok();
        match own.architecture.as_str() {
            "amd64" => {
                list.extend((1..number.unwrap_or(1)).rev().map(|lower| make("amd64", format!("v{lower}"))));
                list.push(make("386", String::new()));
            }
            "arm" => list.extend((5..number.unwrap_or(5)).rev().map(|lower| make("arm", format!("v{lower}")))),
            "arm64" => {
                if !own.variant.is_empty() {
                    list.push(make("arm64", String::new()));
                }
                list.extend((5..=8).rev().map(|lower| make("arm", format!("v{lower}"))));
            }
            _ => {}
        }
        list
    }

    /// How well `candidate` runs on this platform: 0 is the same, larger is worse, `None` does not run.
    #[must_use]
    pub fn rank(&self, candidate: &Self) -> Option<usize> {
        let candidate = candidate.normalized();
        self.compatible().iter().position(|platform| *platform == candidate)
    }

    /// Whether `candidate` runs on this platform.
    #[must_use]
    pub fn matches(&self, candidate: &Self) -> bool {
        self.rank(candidate).is_some()
    }
}

fn system(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "macos" => "darwin".into(),
        "" => std::env::consts::OS.into(),
        other => other.into(),
    }
}

/// `7` is `v7`.
fn versioned(variant: &str) -> String {
    if variant.starts_with(|first: char| first.is_ascii_digit()) { format!("v{variant}") } else { variant.into() }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_peoples_names_are_known() {
        for (text, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/9", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/i686", "linux/386"),
            ("linux/amd64/v1", "linux/amd64"),
            ("Linux/AMD64", "linux/amd64"),
            ("macos/arm64", "darwin/arm64"),
            ("s390x", "linux/s390x"),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), normal, "{text}");
        }
        assert_eq!(Platform::parse("linux").unwrap(), Platform::host());
        for bad in ["", "linux/", "/amd64", "a/b/c/d", "lin ux/amd64", "pdp11", "*"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_best_variant_wins() {
        let rank = |own: &str, other: &str| Platform::parse(own).unwrap().rank(&Platform::parse(other).unwrap());
        assert_eq!(rank("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(rank("linux/amd64", "linux/386"), Some(1));
        assert_eq!(rank("linux/amd64", "linux/amd64/v3"), None);
        assert_eq!(rank("linux/amd64/v3", "linux/amd64/v2"), Some(1));
        assert_eq!(rank("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(rank("linux/arm64", "linux/arm/v7"), Some(2));
        assert_eq!(rank("linux/arm64", "linux/arm64/v8"), Some(0));
        assert_eq!(rank("linux/amd64", "linux/arm64"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
    }
}
