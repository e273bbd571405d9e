//! The boot that we run in: processes, mounts and cgroups end with it, so what is recorded of them names it.

use crated_types::{Error, Result};

/// The kernel's file with the identifier of this boot (random(4)).
const FILE: &str = "/proc/sys/kernel/random/boot_id";

/// The identifier of this boot. Builds with debug assertions let `CRATED_BOOT_ID` say another one, so that a test can reboot.
///
/// # Errors
/// What the kernel's file says.
pub fn id() -> Result<String> {
    #[cfg(debug_assertions)]
    if let Some(told) = std::env::var("CRATED_BOOT_ID").ok().filter(|told| !told.is_empty()) {
        return Ok(told);
    }
    let text = std::fs::read_to_string(FILE).map_err(|error| Error::os(format!("read {FILE}"), error))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_boot_has_one_id() {
        let id = super::id().unwrap();
        assert!(id.len() >= 32 && id == super::id().unwrap(), "{id}");
    }
}
