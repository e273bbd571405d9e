//! `-info` and `-v`.

use crate::bootstrap::{print_bytes, read_stdin};
use crated_api::containerd::types::{RuntimeInfo, RuntimeVersion};
use crated_types::Result;
use prost::Message;
use prost_types::Any;
use serde_json::json;

/// Name under which containerd finds this program.
pub(crate) const NAME: &str = "io.containerd.crated.v2";
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Prints a `RuntimeInfo`.
pub(crate) fn print() -> Result<()> {
    let options = Any::decode(read_stdin()?.as_slice()).ok().filter(|any| !any.type_url.is_empty());
    let features = serde_json::to_vec(&features()).expect("a value made of text and lists");
    let info = RuntimeInfo {
        name: NAME.into(),
        version: Some(RuntimeVersion { version: env!("CARGO_PKG_VERSION").into(), revision: String::new() }),
        options,
        features: Some(Any { type_url: FEATURES.into(), value: features }),
        annotations: Default::default(),
    };
    print_bytes(&info.encode_to_vec())
}

/// Prints name and version.
pub(crate) fn version() -> Result<()> {
    print_bytes(format!("containerd-shim-crated-v2:\n  Version:  {}\n", env!("CARGO_PKG_VERSION")).as_bytes())
}

/// What the runtime can do, as the runtime specification's features document (features-linux.md).
fn features() -> serde_json::Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.1",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "iversion", "lazytime", "loud",
            "mand", "noatime", "nodev", "nodiratime", "noexec", "noiversion", "nolazytime", "nomand", "norelatime",
            "nostrictatime", "nosuid", "nosymfollow", "private", "ratime", "rbind", "rdev", "relatime", "remount",
            "rexec", "rnoatime", "rnodev", "rnoexec", "rnosuid", "ro", "rprivate", "rro", "rrw", "rshared", "rslave",
            "rsuid", "runbindable", "rw", "shared", "silent", "slave", "strictatime", "suid", "sync", "tmpcopyup",
            "unbindable"
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ",
                    "SCMP_CMP_NE"
                ]
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "mountExtensions": {"idmap": {"enabled": true}}
        }
    })
}
