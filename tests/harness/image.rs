//! Images made on the spot from static programs.

use std::path::Path;
use std::sync::OnceLock;

fn archive(program: &str, name: &str) -> Vec<u8> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root").join(".ci/image");
    let output = std::process::Command::new("bash").arg(script).arg(program).arg(name).output().expect("run bash");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// An OCI archive of busybox with its applets, named `docker.io/library/bb:1`.
///
/// # Panics
/// Where busybox-static is not installed.
#[must_use]
pub fn busybox_archive() -> Vec<u8> {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| archive("/bin/busybox", "bb:1")).clone()
}

/// An OCI archive of a static program, under a name.
///
/// # Panics
/// Where the program does not exist.
#[must_use]
pub fn true_archive(program: &Path, name: &str) -> Vec<u8> {
    archive(&program.display().to_string(), name)
}
