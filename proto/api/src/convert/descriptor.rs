//! Descriptors.

use crate::containerd::types as wire;
use crated_types::{Descriptor, Error};

impl From<Descriptor> for wire::Descriptor {
    fn from(descriptor: Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type,
            digest: descriptor.digest.to_string(),
            size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
            annotations: descriptor.annotations,
        }
    }
}

impl TryFrom<wire::Descriptor> for Descriptor {
    type Error = Error;
    fn try_from(descriptor: wire::Descriptor) -> Result<Self, Error> {
        Ok(Self {
            media_type: descriptor.media_type,
            digest: descriptor.digest.parse()?,
            size: u64::try_from(descriptor.size)
                .map_err(|_| Error::invalid("descriptor.size", format_args!("{} is negative", descriptor.size)))?,
            annotations: descriptor.annotations,
        })
    }
}
