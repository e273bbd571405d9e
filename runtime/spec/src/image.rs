//! An image's configuration blob, tolerant of what registries really hold: `null` for any list or map, absent parts, unknown fields.

use crated_types::{Digest, Error, Fault, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// Longest configuration blob that is parsed, in bytes.
pub const CONFIG_MAX: usize = 8 << 20;

/// The configuration blob (image-spec config.md; docker's image spec v1.2).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    /// RFC 3339 time of the build.
    #[serde(deserialize_with = "null")]
    pub created: String,
    /// Whoever made it.
    #[serde(deserialize_with = "null")]
    pub author: String,
    /// CPU architecture by Go's name.
    #[serde(deserialize_with = "null")]
    pub architecture: String,
    /// Variant of the architecture.
    #[serde(deserialize_with = "null")]
    pub variant: String,
    /// Operating system by Go's name.
    #[serde(deserialize_with = "null")]
    pub os: String,
    /// How to run it.
    #[serde(deserialize_with = "null")]
    pub config: ImageConfig,
    /// Its layers.
    #[serde(deserialize_with = "null")]
    pub rootfs: RootFs,
    /// How the layers came to be.
    #[serde(deserialize_with = "null")]
    pub history: Vec<History>,
}

/// The layers of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", deserialize_with = "null")]
    pub kind: String,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(deserialize_with = "null")]
    pub diff_ids: Vec<Digest>,
}

/// One step of the build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// RFC 3339 time.
    #[serde(deserialize_with = "null")]
    pub created: String,
    /// The command.
    #[serde(deserialize_with = "null")]
    pub created_by: String,
    /// A remark.
    #[serde(deserialize_with = "null")]
    pub comment: String,
    /// It made no layer.
    #[serde(deserialize_with = "null")]
    pub empty_layer: bool,
}

/// How to run an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `user[:group]`, names or numbers.
    #[serde(deserialize_with = "null")]
    pub user: String,
    /// `KEY=VALUE`.
    #[serde(deserialize_with = "null")]
    pub env: Vec<String>,
    /// What is run; [`ImageConfig::cmd`] are its arguments.
    #[serde(deserialize_with = "null")]
    pub entrypoint: Vec<String>,
    /// Default arguments, or the command where there is no entrypoint.
    #[serde(deserialize_with = "null")]
    pub cmd: Vec<String>,
    /// Working directory.
    #[serde(deserialize_with = "null")]
    pub working_dir: String,
    /// Labels.
    #[serde(deserialize_with = "null")]
    pub labels: BTreeMap<String, String>,
    /// Signal that ends the process; `SIGTERM` where empty.
    #[serde(deserialize_with = "null")]
    pub stop_signal: String,
    /// Paths that want a volume.
    #[serde(deserialize_with = "null")]
    pub volumes: BTreeMap<String, Empty>,
    /// `port/protocol`.
    #[serde(deserialize_with = "null")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// Probe of health.
    #[serde(deserialize_with = "null")]
    pub healthcheck: Option<Healthcheck>,
    /// Shell for the shell form of commands.
    #[serde(deserialize_with = "null")]
    pub shell: Vec<String>,
}

/// The empty object that docker writes as the value of a set's member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// A probe of health; times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    #[serde(deserialize_with = "null")]
    pub test: Vec<String>,
    /// Between probes.
    #[serde(deserialize_with = "null")]
    pub interval: i64,
    /// Of one probe.
    #[serde(deserialize_with = "null")]
    pub timeout: i64,
    /// In which failures do not count.
    #[serde(deserialize_with = "null")]
    pub start_period: i64,
    /// Between probes in the start period.
    #[serde(deserialize_with = "null")]
    pub start_interval: i64,
    /// Failures in a row until it counts as unhealthy.
    #[serde(deserialize_with = "null")]
    pub retries: i64,
}

fn null<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    // Text formats answer null for "no value"; binary ones write exactly what the field's type says.
    if deserializer.is_human_readable() {
        Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
    } else {
        T::deserialize(deserializer)
    }
}

impl Image {
    /// Parses a configuration blob.
    ///
    /// # Errors
    /// [`Fault::Malformed`] where it is no JSON object of this shape or longer than [`CONFIG_MAX`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > CONFIG_MAX {
            return Err(Error::new(Fault::Malformed, format!("image configuration is longer than {CONFIG_MAX} bytes")));
        }
        serde_json::from_slice(bytes)
            .map_err(|error| Error::new(Fault::Malformed, "image configuration").caused_by(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_absent_parts_are_empty() {
        let image = Image::parse(
            br#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],"Entrypoint":null,"Labels":null,
            "Volumes":{"/data":{}},"Healthcheck":null,"OnBuild":null,"Image":"x"},"container":"y","history":null,
            "rootfs":{"type":"layers","diff_ids":null}}"#,
        )
        .unwrap();
        assert_eq!(image.config.cmd, ["sh"]);
        assert!(image.config.volumes.contains_key("/data") && image.config.healthcheck.is_none());
        assert_eq!(Image::parse(br#"{"config":null}"#).unwrap().config, ImageConfig::default());
        assert_eq!(Image::parse(b"{}").unwrap(), Image::default());
        assert!(Image::parse(b"[]").is_ok_and(|image| image == Image::default()) || Image::parse(b"[]").is_err());
    }

    #[test]
    fn lies_are_refused() {
        for text in ["", "null", "3", r#"{"config":{"Cmd":"sh"}}"#, r#"{"rootfs":{"diff_ids":["sha256:../x"]}}"#] {
            assert_eq!(Image::parse(text.as_bytes()).unwrap_err().fault(), Fault::Malformed, "{text}");
        }
    }
}
