//! The engine's own files of a container that is made: hostname, hosts, resolv.conf and the place of its log.

use crated_api::crated::engine::v1::ContainerConfig;
use crated_types::Result;
use std::path::PathBuf;

use crate::engine::blocking;
use crate::files::{Surroundings, texts};

/// What was written.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) hostname: PathBuf,
    pub(super) hosts: PathBuf,
    pub(super) resolv: PathBuf,
    /// None where no log is kept.
    pub(super) log: Option<PathBuf>,
}

/// Writes the files; a folder that is there is written anew. Addresses come into them at the start.
pub(super) async fn write(folder: PathBuf, id: &str, config: &ContainerConfig, resolv_conf: PathBuf) -> Result<Files> {
    let log = (config.log_driver != "none").then(|| folder.join(format!("{id}-json.log")));
    let (id, config) = (id.to_owned(), config.clone());
    blocking(move || {
        let around = Surroundings { resolv_conf, ..Surroundings::default() };
        crate::files::write(&folder, &texts(&id, &config, &around)?)?;
        let at = |name: &str| folder.join(name);
        Ok(Files { hostname: at("hostname"), hosts: at("hosts"), resolv: at("resolv.conf"), log })
    })
    .await
}
