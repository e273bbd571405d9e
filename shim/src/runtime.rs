//! The door to the runtime library: what the shim asks of it, and its errors in the shim's words.

use crate::serve::Owner;
use crated_oci::cgroup::{Cgroup, CgroupPath};
use crated_oci::{Container, CreateRequest, ExecProcess, OciError, Rootfs, RuntimeOptions, Stdio};
use crated_types::{Code, Error, Fault, Result};
use oci_spec::runtime::{Process, Spec};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Runs the program as a container's init; never comes back.
pub(crate) fn init_main() -> ! {
    crated_oci::init_main()
}

/// What a container is made of.
#[derive(Debug)]
pub(crate) struct Create<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    pub(crate) spec: &'a Spec,
    pub(crate) rootfs: Vec<crated_types::Mount>,
    pub(crate) stdio: Stdio,
    pub(crate) options: RuntimeOptions,
}

/// The runtime with the sealed image of this program.
#[derive(Debug)]
pub(crate) struct Runtime {
    image: OwnedFd,
    owner: Owner,
}

impl Runtime {
    /// Seals the image, unless it is sealed already.
    pub(crate) fn new(owner: Owner) -> Result<Self> {
        let image = crated_sys::program::sealed_self().map_err(|error| Error::os("seal the program", error.into()))?;
        Ok(Self { image, owner })
    }

    /// Makes a container whose init waits to be started.
    pub(crate) fn create(&self, create: Create<'_>) -> Result<Container> {
        let rootfs = if create.rootfs.is_empty() {
            // Another daemon may have mounted it; the spec says where.
            Rootfs::Path(root_path(create.bundle, create.spec))
        } else {
            Rootfs::Mounts(create.rootfs)
        };
        let request = CreateRequest {
            id: create.id,
            bundle: create.bundle,
            spec: create.spec,
            rootfs,
            stdio: create.stdio,
            program: self.image.as_fd(),
            options: create.options,
        };
        Container::create(request).map_err(|error| self.failed("create", error))
    }

    /// Makes and starts another process in a container.
    pub(crate) fn exec(&self, container: &Container, process: &Process, stdio: Stdio) -> Result<ExecProcess> {
        container.exec(process, stdio, self.image.as_fd()).map_err(|error| self.failed("exec", error))
    }

    /// An error in the words of the shim's owner: containerd's clients know runc's, crated's daemon wants fault and step.
    pub(crate) fn failed(&self, action: &'static str, error: OciError) -> Error {
        match self.owner {
            Owner::Crated => Error::from(error).at(action),
            Owner::Foreign => {
                let text = format!("OCI runtime {action} failed: {error}");
                let error = Error::from(error);
                if matches!(error.fault(), Fault::Precondition | Fault::NotFound | Fault::AlreadyExists) {
                    return error;
                }
                Error::peer(Code::Unknown, text)
            }
        }
    }
}

fn root_path(bundle: &Path, spec: &Spec) -> std::path::PathBuf {
    match spec.root() {
        Some(root) => bundle.join(root.path()),
        None => bundle.join("rootfs"),
    }
}

/// Moves a process into a cgroup that exists.
pub(crate) fn join_cgroup(path: &str, pid: i32) -> Result<()> {
    let path = CgroupPath::new(Some(Path::new(path)), "").map_err(cgroup)?;
    Cgroup::open(&path).and_then(|cgroup| cgroup.add(pid)).map_err(cgroup)
}

/// Kills every process of a container that nobody holds any more, and removes its cgroup.
pub(crate) fn sweep(id: &str, spec: &Spec) -> Result<()> {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let path = CgroupPath::new(path, id).map_err(cgroup)?;
    let found = match Cgroup::open(&path) {
        Err(error) if error.is_not_found() => return Ok(()),
        found => found.map_err(cgroup)?,
    };
    // Frozen processes would not die.
    let _ = found.thaw();
    found.kill_all(9).and_then(|()| found.remove()).map_err(cgroup)
}

/// An error of a cgroup.
pub(crate) fn cgroup(error: crated_oci::cgroup::Error) -> Error {
    OciError::from(error).into()
}
