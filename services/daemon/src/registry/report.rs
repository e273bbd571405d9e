//! What introspection tells of a plugin.

use super::PluginId;
use crated_types::Platform;
use crated_types::filter::Adaptor;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Reports in the order of the start.
pub type Reports = Vec<PluginReport>;

/// A plugin as clients see it.
#[derive(Clone, Debug)]
pub struct PluginReport {
    /// Type and id.
    pub id: PluginId,
    /// Types that it needs.
    pub requires: Vec<&'static str>,
    /// Platforms that it serves.
    pub platforms: Vec<Platform>,
    /// Facts, e.g. `root`.
    pub exports: BTreeMap<String, String>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Why it is not there.
    pub skipped: Option<String>,
}

impl PluginReport {
    /// A plugin of which nothing is told yet.
    #[must_use]
    pub fn new(id: PluginId, requires: &[&'static str]) -> Self {
        Self {
            id,
            requires: requires.to_vec(),
            platforms: Vec::new(),
            exports: BTreeMap::new(),
            capabilities: Vec::new(),
            skipped: None,
        }
    }

    pub(super) fn skipped(mut self, why: String) -> Self {
        self.skipped = Some(why);
        self
    }
}

impl Adaptor for PluginReport {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["type"] => Some(self.id.slot.into()),
            ["id"] => Some(self.id.id.into()),
            ["capabilities"] => Some(self.capabilities.join(",").into()),
            ["platforms"] => Some(self.platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(",").into()),
            _ => None,
        }
    }
}
