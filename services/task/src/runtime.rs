//! From a runtime's name to the program of its shim (SEMANTICS: runtime lookup).

use crate::config::Config;
use crated_types::{Error, Fault, Kind, Result};
use prost::Message;
use prost_types::Any;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// File name of our own shim.
pub(crate) const OWN: &str = "containerd-shim-crated-v2";
/// Our runtime's name.
pub(crate) const OWN_NAME: &str = "io.containerd.crated.v2";
/// What `ctr` and other clients ask for when their user names no runtime: we serve it with our own shim.
const DEFAULT_NAME: &str = "io.containerd.runc.v2";

/// The program that serves a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shim {
    pub(crate) program: PathBuf,
    /// It is ours: started the fast way.
    pub(crate) own: bool,
}

/// Looks a runtime up.
pub(crate) fn resolve(config: &Config, name: &str, options: Option<&Any>) -> Result<Shim> {
    if let Some(program) = config.runtimes.get(name) {
        return Ok(Shim { own: is_own(program), program: program.clone() });
    }
    if name.starts_with('/') {
        let program = PathBuf::from(name);
        if !is_executable(&program) {
            return Err(missing(name, "no such program"));
        }
        return Ok(Shim { own: is_own(&program), program });
    }
    let name = if name.is_empty() || (name == DEFAULT_NAME && !names_a_binary(options)) { OWN_NAME } else { name };
    let file = file_name(name)?;
    if file == OWN {
        return Ok(Shim { program: own(config)?, own: true });
    }
    find(&file)
        .map(|program| Shim { program, own: false })
        .ok_or_else(|| missing(name, &format!("{file} is neither in PATH nor beside the daemon's program")))
}

fn own(config: &Config) -> Result<PathBuf> {
    if let Some(program) = &config.shim {
        return if is_executable(program) {
            Ok(program.clone())
        } else {
            Err(missing(OWN_NAME, &format!("{} cannot be executed", program.display())))
        };
    }
    let beside = std::env::current_exe().ok().and_then(|daemon| Some(daemon.parent()?.join(OWN)));
    beside
        .filter(|program| is_executable(program))
        .or_else(|| in_path(OWN))
        .ok_or_else(|| missing(OWN_NAME, &format!("{OWN} is neither beside the daemon's program nor in PATH")))
}

fn missing(name: &str, why: &str) -> Error {
    Error::new(Fault::NotFound, format!("runtime {name:?}: {why}"))
        .on(Kind::Plugin, name)
        .remedy_is("install the shim, or name its absolute path as the runtime")
}

/// `a.b.runc.v2` → `containerd-shim-runc-v2`.
fn file_name(name: &str) -> Result<String> {
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        [.., kind, version] if !name.contains('/') && !kind.is_empty() && !version.is_empty() => {
            Ok(format!("containerd-shim-{kind}-{version}"))
        }
        _ => Err(Error::invalid(
            "runtime",
            format_args!("invalid runtime name {name:?}: want a.b.NAME.VERSION or an absolute path"),
        )),
    }
}

fn find(file: &str) -> Option<PathBuf> {
    in_path(file).or_else(|| {
        let beside = std::env::current_exe().ok()?.parent()?.join(file);
        is_executable(&beside).then_some(beside)
    })
}

fn in_path(file: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(file)).find(|program| is_executable(program))
}

fn is_own(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == OWN)
}

fn is_executable(program: &Path) -> bool {
    program.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether `containerd.runc.v1.Options` name another OCI runtime's program, which only runc's shim can drive.
fn names_a_binary(options: Option<&Any>) -> bool {
    options.is_some_and(|any| {
        any.type_url.ends_with("containerd.runc.v1.Options")
            && crated_api::containerd::runc::v1::Options::decode(any.value.as_slice())
                .is_ok_and(|options| !options.binary_name.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_programs() {
        assert_eq!(file_name("io.containerd.runc.v2").unwrap(), "containerd-shim-runc-v2");
        assert_eq!(file_name("a.v1").unwrap(), "containerd-shim-a-v1");
        for bad in ["runc", "a/b.v2", "x.", ".x", "..", ""] {
            assert!(file_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_binary_needs_runcs_shim() {
        let options = crated_api::containerd::runc::v1::Options { binary_name: "crun".into(), ..Default::default() };
        let any = Any { type_url: "containerd.runc.v1.Options".into(), value: options.encode_to_vec() };
        assert!(names_a_binary(Some(&any)));
        let any = Any { type_url: "containerd.runc.v1.Options".into(), value: Vec::new() };
        assert!(!names_a_binary(Some(&any)));
        assert!(!names_a_binary(None));
    }
}
