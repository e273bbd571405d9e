//! Chains: the plugins of a list, one after another, forwards at ADD and CHECK, backwards at DEL (CNI specification §3).

use super::Config;
use super::cache::{Cache, Entry, runtime_config};
use super::exec::{Call, Verb, find};
use super::list::{List, Version, load, type_of};
use super::result::{convert, read};
use async_trait::async_trait;
use crated_core::{Cni, CniAttachment, CniNetwork, CniResult};
use crated_types::{Error, Fault, Kind, Result};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// CNI over the plugins of a folder.
#[derive(Debug)]
pub struct Driver {
    config: Config,
    cache: Cache,
    /// Who works on a container waits for whoever did before.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Versions that a plugin's program speaks, by its path and age.
    spoken: Mutex<HashMap<PathBuf, (SystemTime, Vec<String>)>>,
}

impl Driver {
    /// Over the folders of `config`.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let cache = Cache::at(config.cache_dir.clone());
        Self { config, cache, turns: Mutex::default(), spoken: Mutex::default() }
    }

    fn list(&self, name: &str) -> Result<List> {
        let (lists, bad) = load(&self.config.config_dir)?;
        let names: Vec<String> = lists.iter().map(|list| list.name.clone()).collect();
        lists.into_iter().find(|list| list.name == name).ok_or_else(|| {
            let mut error = Error::not_found(Kind::Network, format!("cni:{name}")).remedy_is(format!(
                "lists of {}: {}",
                self.config.config_dir.display(),
                if names.is_empty() { "none".into() } else { names.join(", ") }
            ));
            if let Some(first) = bad.into_iter().next() {
                error = error.caused_by(first);
            }
            error
        })
    }

    fn turn(&self, container: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(container.to_owned()).or_default())
    }

    /// The programs of a list, each asked whether it speaks the list's version.
    async fn programs(&self, list: &List) -> Result<Vec<PathBuf>> {
        let mut programs = Vec::new();
        for kind in list.types() {
            let program = find(&self.config.plugin_dirs, &kind)?;
            let spoken = self.spoken_by(&program).await?;
            if !spoken.iter().any(|version| version == list.version.text()) {
                return Err(Error::new(
                    Fault::Unsupported,
                    format!(
                        "{} is written for CNI {}, the plugin speaks {}",
                        list.file.display(),
                        list.version.text(),
                        spoken.join(", ")
                    ),
                )
                .on(Kind::Plugin, kind)
                .remedy_is("lower the list's cniVersion, or install a newer plugin"));
            }
            programs.push(program);
        }
        Ok(programs)
    }

    async fn spoken_by(&self, program: &Path) -> Result<Vec<String>> {
        let age = std::fs::metadata(program)
            .and_then(|meta| meta.modified())
            .map_err(|error| Error::os(format!("stat {}", program.display()), error))?;
        let known = |spoken: &HashMap<PathBuf, (SystemTime, Vec<String>)>| {
            spoken.get(program).filter(|(then, _)| *then == age).map(|(_, versions)| versions.clone())
        };
        if let Some(versions) = known(&self.spoken.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(versions);
        }
        let input = json!({"cniVersion": Version::V1_1.text()});
        let answer = self.call(program, Verb::Version, Vec::new(), &input).await?;
        let versions: Vec<String> = answer["supportedVersions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|version| version.as_str().map(str::to_owned))
            .collect();
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        spoken.insert(program.to_owned(), (age, versions.clone()));
        Ok(versions)
    }

    async fn call(&self, program: &Path, verb: Verb, env: Vec<(&'static str, String)>, input: &Value) -> Result<Value> {
        let (folders, deadline) = (self.config.plugin_dirs.as_slice(), self.config.deadline);
        Call { program, verb, env, input, folders, deadline }.run().await
    }

    async fn add_all(&self, entry: &Entry, programs: &[PathBuf]) -> Result<Value> {
        let mut previous = None;
        for (plugin, program) in entry.list.plugins.iter().zip(programs) {
            let input = input(&entry.list, plugin, &entry.attachment, previous.take());
            crated_core::fail::point(format_args!("net.cni.add.{}", type_of(plugin)))?;
            let answer = self.call(program, Verb::Add, env(&entry.attachment), &input).await?;
            crated_core::fail::moment(format_args!("net.cni.add.{}.done", type_of(plugin)));
            previous = Some(convert(answer, entry.list.version));
        }
        Ok(previous.unwrap_or(Value::Null))
    }

    /// Every plugin, last first; goes on after a failure, and answers the first.
    async fn del_all(&self, entry: &Entry) -> Result<()> {
        let mut first = None;
        let previous = entry.result.as_ref().filter(|_| entry.list.version >= Version::V0_4);
        for plugin in entry.list.plugins.iter().rev() {
            let done = match find(&self.config.plugin_dirs, type_of(plugin)) {
                Ok(program) => {
                    let input = input(&entry.list, plugin, &entry.attachment, previous.cloned());
                    crated_core::fail::moment(format_args!("net.cni.del.{}", type_of(plugin)));
                    self.call(&program, Verb::Del, env(&entry.attachment), &input).await.map(drop)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                tracing::warn!(container = entry.attachment.container, %error, "a CNI plugin did not let go");
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Undoes an entry and forgets it once that went well.
    async fn undo(&self, entry: &Entry) -> Result<()> {
        let mut entry = entry.clone();
        // A process's namespace is gone with it: plugins are told so by an empty path.
        if !entry.attachment.netns.is_empty() && !Path::new(&entry.attachment.netns).exists() {
            entry.attachment.netns.clear();
        }
        self.del_all(&entry).await?;
        self.cache.remove(&entry.attachment)
    }
}

/// What a plugin reads: its part of the list, with name, version, the result so far, and the capabilities that it declares.
fn input(list: &List, plugin: &Map<String, Value>, attachment: &CniAttachment, previous: Option<Value>) -> Value {
    let mut input = plugin.clone();
    input.insert("name".into(), list.name.as_str().into());
    input.insert("cniVersion".into(), list.version.text().into());
    if let Some(previous) = previous.filter(|previous| !previous.is_null()) {
        input.insert("prevResult".into(), previous);
    }
    let mut passed = runtime_config(&attachment.capabilities);
    let declared = plugin.get("capabilities").and_then(Value::as_object);
    passed.retain(|name, _| declared.is_some_and(|all| all.get(name).and_then(Value::as_bool) == Some(true)));
    if !passed.is_empty() {
        input.insert("runtimeConfig".into(), Value::Object(passed));
    }
    Value::Object(input)
}

fn env(attachment: &CniAttachment) -> Vec<(&'static str, String)> {
    let args: Vec<String> = attachment.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
    vec![
        ("CNI_CONTAINERID", attachment.container.clone()),
        ("CNI_NETNS", attachment.netns.clone()),
        ("CNI_IFNAME", attachment.interface.clone()),
        ("CNI_ARGS", args.join(";")),
    ]
}

/// What goes into a file's name and into the environment is checked (§3: CNI_CONTAINERID, CNI_IFNAME).
fn check(attachment: &CniAttachment) -> Result<()> {
    let word = |text: &str| {
        text.starts_with(|letter: char| letter.is_ascii_alphanumeric())
            && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-'))
    };
    let interface = &attachment.interface;
    if !word(&attachment.container) || !word(&attachment.network) {
        return Err(Error::invalid(
            "cni",
            format_args!("{:?} or {:?} is no name", attachment.container, attachment.network),
        ));
    }
    let bad = |letter: char| letter.is_whitespace() || matches!(letter, '/' | ':' | '\0');
    if interface.is_empty() || interface.len() > 15 || interface.starts_with('.') || interface.contains(bad) {
        return Err(Error::invalid("cni", format_args!("{interface:?} is no name of a link (1 to 15 bytes)")));
    }
    for text in attachment.args.iter().flat_map(|(key, value)| [key, value]) {
        if text.contains([';', '=', '\0', '\n']) {
            return Err(Error::invalid("cni.args", format_args!("{text:?} holds a separator")));
        }
    }
    if attachment.netns.contains('\0') {
        return Err(Error::invalid("cni.netns", "holds a NUL byte"));
    }
    Ok(())
}

#[async_trait]
impl Cni for Driver {
    async fn networks(&self) -> Result<Vec<CniNetwork>> {
        let (lists, bad) = load(&self.config.config_dir)?;
        for error in bad {
            tracing::warn!(%error, "a CNI list is left out");
        }
        let told = |list: List| CniNetwork {
            plugins: list.types(),
            version: list.version.text().into(),
            file: list.file.display().to_string(),
            name: list.name,
        };
        Ok(lists.into_iter().map(told).collect())
    }

    async fn add(&self, attachment: &CniAttachment) -> Result<CniResult> {
        check(attachment)?;
        let turn = self.turn(&attachment.container);
        let _turn = turn.lock().await;
        let list = self.list(&attachment.network)?;
        let programs = self.programs(&list).await?;
        match self.cache.get(attachment)? {
            Some(known) if known.result.is_some() => {
                return Err(Error::already_exists(Kind::Network, format!("cni:{}", attachment.network))
                    .remedy_is("the container is attached already"));
            }
            // An ADD that a crash cut short.
            Some(left) => self.undo(&left).await?,
            None => {}
        }
        let mut entry = Entry { attachment: attachment.clone(), list, result: None };
        self.cache.put(&entry)?;
        let added = match self.add_all(&entry, &programs).await {
            Ok(added) => added,
            Err(error) => {
                if let Err(second) = self.undo(&entry).await {
                    tracing::error!(container = attachment.container, error = %second, "a failed CNI ADD could not be undone; GC will");
                }
                return Err(error);
            }
        };
        let result = read(&added);
        entry.result = Some(added);
        self.cache.put(&entry)?;
        Ok(result)
    }

    async fn check(&self, attachment: &CniAttachment) -> Result<()> {
        check(attachment)?;
        let turn = self.turn(&attachment.container);
        let _turn = turn.lock().await;
        let Some(entry) = self.cache.get(attachment)? else {
            return Err(Error::not_found(
                Kind::Network,
                format!("cni:{} of {}", attachment.network, attachment.container),
            ));
        };
        if entry.list.version < Version::V0_4 || entry.list.no_check {
            return Ok(());
        }
        for plugin in &entry.list.plugins {
            let program = find(&self.config.plugin_dirs, type_of(plugin))?;
            let input = input(&entry.list, plugin, &entry.attachment, entry.result.clone());
            self.call(&program, Verb::Check, env(&entry.attachment), &input).await?;
        }
        Ok(())
    }

    async fn del(&self, attachment: &CniAttachment) -> Result<()> {
        check(attachment)?;
        let turn = self.turn(&attachment.container);
        let _turn = turn.lock().await;
        let entry = match self.cache.get(attachment) {
            Ok(Some(mut entry)) => {
                if attachment.netns.is_empty() {
                    entry.attachment.netns.clear();
                }
                entry
            }
            // Nothing is remembered: what the list says today has to do.
            Ok(None) | Err(_) => match self.list(&attachment.network) {
                Ok(list) => Entry { attachment: attachment.clone(), list, result: None },
                Err(error) if error.is_not_found() => return self.cache.remove(attachment),
                Err(error) => return Err(error),
            },
        };
        self.undo(&entry).await
    }

    async fn gc(&self, valid: &[(String, String)]) -> Result<usize> {
        let kept = |entry: &Entry| {
            valid.iter().any(|(container, interface)| {
                *container == entry.attachment.container && *interface == entry.attachment.interface
            })
        };
        let (mut gone, mut first) = (0, None);
        let mut left = Vec::new();
        for entry in self.cache.all()? {
            if kept(&entry) {
                left.push(entry);
                continue;
            }
            let turn = self.turn(&entry.attachment.container);
            let _turn = turn.lock().await;
            match self.undo(&entry).await {
                Ok(()) => gone += 1,
                Err(error) => drop(first.get_or_insert(error)),
            }
        }
        for list in load(&self.config.config_dir)?.0 {
            if list.version < Version::V1_1 || list.no_gc {
                continue;
            }
            let of_list = left.iter().filter(|entry| entry.attachment.network == list.name);
            let attachments: Vec<Value> = of_list
                .map(|entry| json!({"containerID": entry.attachment.container, "ifname": entry.attachment.interface}))
                .collect();
            for plugin in &list.plugins {
                let nobody = CniAttachment::default();
                let mut input = input(&list, plugin, &nobody, None);
                input["cni.dev/valid-attachments"] = attachments.clone().into();
                let done = match find(&self.config.plugin_dirs, type_of(plugin)) {
                    Ok(program) => self.call(&program, Verb::Gc, Vec::new(), &input).await.map(drop),
                    Err(error) => Err(error),
                };
                if let Err(error) = done {
                    first.get_or_insert(error);
                }
            }
        }
        first.map_or(Ok(gone), Err)
    }

    async fn status(&self, network: &str) -> Result<()> {
        let list = self.list(network)?;
        let programs = self.programs(&list).await?;
        if list.version < Version::V1_1 {
            return Ok(());
        }
        for (plugin, program) in list.plugins.iter().zip(programs) {
            let input = input(&list, plugin, &CniAttachment::default(), None);
            self.call(&program, Verb::Status, Vec::new(), &input).await?;
        }
        Ok(())
    }

    async fn remembered(&self, container: &str) -> Result<Vec<(CniAttachment, CniResult)>> {
        let own = self.cache.all()?.into_iter().filter(|entry| entry.attachment.container == container);
        Ok(own.map(|entry| (entry.attachment, entry.result.as_ref().map(read).unwrap_or_default())).collect())
    }
}

#[cfg(test)]
mod tests;
