//! Containers on the real kernel: as root, a static busybox as the image. One binary, so that the build stays short.

#[cfg(test)]
mod kernel {
    pub(crate) mod bench;
    pub(crate) mod cli;
    pub(crate) mod harness;
    pub(crate) mod hostile;
    pub(crate) mod lifecycle;
    pub(crate) mod mounts;
    pub(crate) mod process;
    pub(crate) mod users;
}
