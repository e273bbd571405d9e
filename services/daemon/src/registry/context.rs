//! What a plugin sees while it starts.

use super::{InitError, PluginId, PluginReport, Slot, Started};
use crate::config::Config;
use crated_types::{Error, Platform};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The plugins that it needs, its configuration, its folders, and what it tells of itself.
#[derive(Debug)]
pub struct Context<'a> {
    id: PluginId,
    needs: &'a [&'static str],
    config: &'a Config,
    started: &'a Started,
    report: Mutex<PluginReport>,
}

impl<'a> Context<'a> {
    pub(super) fn new(id: PluginId, needs: &'a [&'static str], config: &'a Config, started: &'a Started) -> Self {
        let report = Mutex::new(PluginReport::new(id, needs));
        Self { id, needs, config, started, report }
    }

    pub(super) fn into_report(self) -> PluginReport {
        self.report.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) -> MutexGuard<'_, PluginReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The daemon's configuration.
    #[must_use]
    pub fn settings(&self) -> &Config {
        self.config
    }

    /// Every plugin of a slot by id.
    ///
    /// # Errors
    /// Where the plugin did not declare that it needs the slot.
    pub fn all<T: ?Sized + Send + Sync + 'static>(
        &self,
        slot: Slot<T>,
    ) -> Result<BTreeMap<&'static str, Arc<T>>, InitError> {
        if !self.needs.contains(&slot.name()) {
            return Err(Error::internal(format!("undeclared need {}", slot.name())).into());
        }
        Ok(self.started.all(slot))
    }

    /// The single plugin of a slot.
    ///
    /// # Errors
    /// [`InitError::Skip`] where the slot is empty, naming what skipped it; a failure where there are several.
    pub fn one<T: ?Sized + Send + Sync + 'static>(&self, slot: Slot<T>) -> Result<Arc<T>, InitError> {
        let mut all = self.all(slot)?;
        match (all.pop_first(), all.len()) {
            (Some((_, only)), 0) => Ok(only),
            (Some(_), more) => Err(Error::internal(format!("{} plugins for {}", more + 1, slot.name())).into()),
            (None, _) => {
                let skipped = self.started.reports().iter().find(|report| report.id.slot == slot.name());
                let why = skipped.and_then(|report| report.skipped.as_ref().map(|why| format!("{} {why}", report.id)));
                Err(InitError::Skip(why.unwrap_or_else(|| format!("no {}", slot.name()))))
            }
        }
    }

    /// The plugin's own table of the configuration; an unknown key is an error.
    ///
    /// # Errors
    /// [`InitError::Config`] where the table does not fit.
    pub fn config<C: serde::de::DeserializeOwned + Default>(&self) -> Result<C, InitError> {
        match self.config.plugin(self.id.slot, self.id.id) {
            None => Ok(C::default()),
            Some(table) => {
                table.clone().try_into().map_err(|error: toml::de::Error| InitError::Config(error.message().to_owned()))
            }
        }
    }

    /// The plugin's folder below the root, `<root>/<slot>.<id>`, as containerd lays it out.
    #[must_use]
    pub fn root_dir(&self) -> PathBuf {
        self.config.root.join(format!("{}.{}", self.id.slot, self.id.id))
    }

    /// The plugin's folder below the state folder.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.config.state.join(format!("{}.{}", self.id.slot, self.id.id))
    }

    /// Tells a fact under a name (`root`, `path`).
    pub fn export(&self, name: &str, value: impl ToString) {
        self.report().exports.insert(name.into(), value.to_string());
    }

    /// Tells something that the plugin can do.
    pub fn capability(&self, name: &str) {
        self.report().capabilities.push(name.into());
    }

    /// Tells that the plugin serves the host's platform.
    pub fn host_platform(&self) {
        self.report().platforms.push(Platform::host());
    }
}
