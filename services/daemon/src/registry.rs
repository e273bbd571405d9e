//! A typed plugin registry: explicit registration, started in the order of declared needs, errors as values.
//!
//! A [`Slot`] is a place for plugins of one type; it has containerd's name for it. A plugin that does not fit the host answers
//! [`InitError::Skip`] and is shown as skipped by introspection; any other failure stops the start. Duplicate ids and rings of
//! needs are [`StartError`]s.

mod context;
mod report;

pub use context::Context;
pub use report::{PluginReport, Reports};

use crate::config::Config;
use crate::config::hint;
use crated_types::Error;
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

/// A place for plugins that provide a `T`. Made once, as a constant.
pub struct Slot<T: ?Sized> {
    name: &'static str,
    provides: PhantomData<fn() -> Box<T>>,
}

impl<T: ?Sized> Slot<T> {
    /// Names a slot, e.g. `io.containerd.snapshotter.v1`.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, provides: PhantomData }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<T: ?Sized> Clone for Slot<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: ?Sized> Copy for Slot<T> {}

impl<T: ?Sized> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Slot and id: `io.containerd.snapshotter.v1/overlayfs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PluginId {
    /// Name of the slot.
    pub slot: &'static str,
    /// Id within the slot.
    pub id: &'static str,
}

impl fmt::Display for PluginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.slot, self.id)
    }
}

/// Why a plugin is not there.
#[derive(Debug)]
pub enum InitError {
    /// It does not fit this host; the start goes on.
    Skip(String),
    /// Its table in the configuration cannot be read.
    Config(String),
    /// It is broken; the start stops.
    Failed(Error),
}

impl From<Error> for InitError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Same slot and id twice.
    #[error("plugin {0} is registered twice")]
    Duplicate(PluginId),
    /// The needs form a ring.
    #[error("plugins need one another in a ring: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" -> "))]
    Ring(Vec<PluginId>),
    /// The configuration speaks of a plugin that does not exist.
    #[error("[plugins.{slot:?}.{id}]: no such plugin; {hint}")]
    Unknown {
        /// Type as written.
        slot: String,
        /// Id as written.
        id: String,
        /// What was meant.
        hint: String,
    },
    /// A plugin's table in the configuration cannot be read.
    #[error("[plugins.{:?}.{}]: {message}", .id.slot, .id.id)]
    Config {
        /// Which.
        id: PluginId,
        /// Why.
        message: String,
    },
    /// A plugin failed.
    #[error("plugin {id}: {source}")]
    Init {
        /// Which.
        id: PluginId,
        /// Why.
        source: Error,
    },
}

type Ready = Box<dyn Any + Send + Sync>;
type Init = Box<dyn for<'a> FnOnce(&'a Context<'a>) -> Starting<'a, Ready> + Send>;

/// A plugin on its way up.
pub type Starting<'a, T> = Pin<Box<dyn Future<Output = Result<T, InitError>> + Send + 'a>>;

struct Registration {
    id: PluginId,
    needs: Vec<&'static str>,
    init: Init,
}

/// Collects registrations, then starts them in order.
#[derive(Default)]
pub struct Registry {
    plugins: Vec<Registration>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.plugins.iter().map(|plugin| plugin.id)).finish()
    }
}

/// What stands after a start.
#[derive(Default)]
pub struct Started {
    ready: BTreeMap<PluginId, Ready>,
    reports: Reports,
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ready.keys()).finish()
    }
}

impl Registry {
    /// Adds a plugin; the compiler checks what it provides against the slot.
    pub fn add<T, F>(&mut self, slot: Slot<T>, id: &'static str, needs: &[&'static str], init: F)
    where
        T: ?Sized + Send + Sync + 'static,
        F: for<'a> FnOnce(&'a Context<'a>) -> Starting<'a, Arc<T>> + Send + 'static,
    {
        let init: Init = Box::new(move |cx| Box::pin(async move { Ok(Box::new(init(cx).await?) as Ready) }));
        self.plugins.push(Registration { id: PluginId { slot: slot.name, id }, needs: needs.to_vec(), init });
    }

    /// The plugins that are registered.
    pub fn ids(&self) -> impl Iterator<Item = PluginId> {
        self.plugins.iter().map(|plugin| plugin.id)
    }

    /// Checks that every plugin of the configuration exists.
    ///
    /// # Errors
    /// [`StartError::Unknown`] with what was meant.
    pub fn check(&self, config: &Config) -> Result<(), StartError> {
        for (slot, tables) in &config.plugins {
            for id in tables.keys() {
                if self.ids().any(|known| known.slot == slot && known.id == id) {
                    continue;
                }
                let of_slot: Vec<_> = self.ids().filter(|known| known.slot == slot).map(|known| known.id).collect();
                let hint = if of_slot.is_empty() {
                    let mut slots: Vec<_> = self.ids().map(|known| known.slot).collect();
                    slots.dedup();
                    hint::suggestion(slot, slots.iter().copied())
                } else {
                    hint::suggestion(id, of_slot.iter().copied())
                };
                return Err(StartError::Unknown { slot: slot.clone(), id: id.clone(), hint });
            }
        }
        Ok(())
    }

    /// Starts all plugins, needs first.
    ///
    /// # Errors
    /// A duplicate, a ring, a table that cannot be read, or a plugin that failed.
    pub async fn start(mut self, config: &Config) -> Result<Started, StartError> {
        self.plugins.sort_by_key(|plugin| plugin.id);
        if let Some(pair) = self.plugins.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(StartError::Duplicate(pair[0].id));
        }
        self.check(config)?;
        let mut started = Started::default();
        let mut left = self.plugins;
        while !left.is_empty() {
            let blocked = |plugin: &Registration| left.iter().any(|other| plugin.needs.contains(&other.id.slot));
            let Some(at) = left.iter().position(|plugin| !blocked(plugin)) else {
                return Err(StartError::Ring(ring(&left)));
            };
            let plugin = left.remove(at);
            started.init(plugin, config).await?;
        }
        Ok(started)
    }
}

/// One ring among plugins that all wait: from any of them, following needs, until one comes again.
fn ring(left: &[Registration]) -> Vec<PluginId> {
    let mut path: Vec<PluginId> = Vec::new();
    let mut at = left.first();
    while let Some(plugin) = at {
        if let Some(first) = path.iter().position(|id| *id == plugin.id) {
            path.drain(..first);
            path.push(plugin.id);
            break;
        }
        path.push(plugin.id);
        at = left.iter().find(|other| plugin.needs.contains(&other.id.slot));
    }
    path
}

impl Started {
    async fn init(&mut self, plugin: Registration, config: &Config) -> Result<(), StartError> {
        let Registration { id, needs, init } = plugin;
        let context = Context::new(id, &needs, config, self);
        let outcome = init(&context).await;
        let report = context.into_report();
        match outcome {
            Ok(ready) => {
                self.ready.insert(id, ready);
                self.reports.push(report);
                Ok(())
            }
            Err(InitError::Skip(why)) => {
                tracing::info!(plugin = %id, why, "plugin skipped");
                self.reports.push(report.skipped(why));
                Ok(())
            }
            Err(InitError::Config(message)) => Err(StartError::Config { id, message }),
            Err(InitError::Failed(source)) => Err(StartError::Init { id, source }),
        }
    }

    /// The plugins of a slot by id.
    #[must_use]
    pub fn all<T: ?Sized + Send + Sync + 'static>(&self, slot: Slot<T>) -> BTreeMap<&'static str, Arc<T>> {
        self.ready
            .iter()
            .filter(|(id, _)| id.slot == slot.name)
            .filter_map(|(id, ready)| ready.downcast_ref::<Arc<T>>().map(|ready| (id.id, Arc::clone(ready))))
            .collect()
    }

    /// What introspection tells.
    #[must_use]
    pub fn reports(&self) -> &Reports {
        &self.reports
    }
}

#[cfg(test)]
mod tests;
