//! Mounts and platforms.

use crate::containerd::types as wire;
use crated_types::{Mount, Platform};

impl From<Mount> for wire::Mount {
    fn from(mount: Mount) -> Self {
        Self { r#type: mount.fstype, source: mount.source, target: mount.target, options: mount.options }
    }
}

impl From<wire::Mount> for Mount {
    fn from(mount: wire::Mount) -> Self {
        Self { fstype: mount.r#type, source: mount.source, target: mount.target, options: mount.options }
    }
}

impl From<&Platform> for wire::Platform {
    fn from(platform: &Platform) -> Self {
        Self {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            ..Self::default()
        }
    }
}
