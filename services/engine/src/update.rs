//! Update and rename: what can be changed of a container that is there.

use crated_api::crated::engine::v1::{ContainerConfig, RenameRequest, Resources, UpdateRequest};
use crated_core::network::Change;
use crated_core::record::Container;
use crated_core::{Mask, Op, Revision};
use crated_types::{Error, Fault, Kind, Result, Scope};
use oci_spec::runtime::{LinuxResources, Spec};
use prost::Message;
use prost_types::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::create::resources;
use crate::engine::Engine;
use crate::names::check_name;
use crate::network::plug::kept;
use crate::record::{NAMES, Named};
use crate::restart::Policy;

/// Type of OCI resources in an `Any`, as containerd registers it.
const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

impl Engine {
    /// Changes limits (at once where it runs, and for later starts) and the restart policy.
    ///
    /// # Errors
    /// The kernel's refusal, e.g. a limit below what is used; nothing is changed then.
    pub async fn update(self: &Arc<Self>, scope: &Scope, request: UpdateRequest) -> Result<()> {
        Policy::parse(request.restart.as_ref())?;
        let found = self.find(scope, &request.container).await?;
        let (engine, scope) = (Arc::clone(self), scope.clone());
        self.detached(async move {
            let slot = engine.slots.get(scope.namespace.as_str(), found.id.as_str());
            let _turn = slot.lock().await;
            let found = engine.found(&scope, &found.id).await?;
            let mut config = match &found.life {
                Some(life) => life.wanted(found.id.as_str())?,
                None => ContainerConfig::default(),
            };
            if let Some(policy) = request.restart {
                if found.life.is_none() {
                    return Err(foreign(found.id.as_str(), "has no restart policy"));
                }
                if config.auto_remove && Policy::parse(Some(&policy))? != Policy::No {
                    return Err(Error::invalid("restart", "the container is removed at its end"));
                }
                config.restart = Some(policy);
            }
            engine.change_ports(&scope, &found, &config, &request.publish_add, &request.publish_remove).await?;
            if let Some(limits) = request.resources {
                let merged = merged(config.resources.clone().unwrap_or_default(), &limits);
                let wanted = linux_resources(&merged)?;
                if let Some(task) = engine.task(&scope, &found.id).await? {
                    let value = serde_json::to_vec(&wanted)
                        .map_err(|error| Error::internal("limits as JSON").caused_by(error))?;
                    task.update(Any { type_url: RESOURCES_TYPE.into(), value }, BTreeMap::new()).await?;
                }
                crated_core::fail::point("engine.update.keep")?;
                engine.keep_limits(&scope, found.record.clone(), wanted).await?;
                config.resources = Some(merged);
            }
            let bytes = config.encode_to_vec();
            crated_core::fail::point("engine.update.record")?;
            engine.change_life(&scope.namespace, found.id.as_str(), vec![], |life| life.config = bytes).await.map(drop)
        })
        .await
    }

    /// Writes limits into the stored spec; what the spec says of devices stays.
    async fn keep_limits(&self, scope: &Scope, mut record: Container, limits: LinuxResources) -> Result<()> {
        let id = record.id.clone();
        let damaged = |error| Error::new(Fault::Corrupt, "the stored spec").on(Kind::Container, &id).caused_by(error);
        let Some(any) = &mut record.spec else { return Ok(()) };
        // Fields that we do not know stay: a client of containerd may have written them.
        let mut spec: serde_json::Value = serde_json::from_slice(&any.value).map_err(damaged)?;
        let mut value = serde_json::to_value(&limits).map_err(damaged)?;
        let Some(linux) = spec.get_mut("linux").and_then(serde_json::Value::as_object_mut) else { return Ok(()) };
        if let (Some(devices), Some(new)) =
            (linux.get("resources").and_then(|old| old.get("devices")).cloned(), value.as_object_mut())
        {
            new.insert("devices".into(), devices);
        }
        linux.insert("resources".into(), value);
        any.value = serde_json::to_vec(&spec).map_err(damaged)?;
        self.deps.containers.update(scope, record, &Mask::Paths(vec!["spec".into()])).await.map(drop)
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// [`Fault::NameInUse`].
    pub async fn rename(self: &Arc<Self>, scope: &Scope, request: RenameRequest) -> Result<()> {
        let name = check_name(&request.name)?.to_owned();
        let found = self.find(scope, &request.container).await?;
        let (engine, scope) = (Arc::clone(self), scope.clone());
        self.detached(async move {
            let slot = engine.slots.get(scope.namespace.as_str(), found.id.as_str());
            let _turn = slot.lock().await;
            let found = engine.found(&scope, &found.id).await?;
            let Some(life) = &found.life else {
                return Err(foreign(found.id.as_str(), "has no name beside its id"));
            };
            if life.removing {
                return Err(Error::precondition(Kind::Container, &life.name, "is being removed")
                    .remedy_is("remove it again: `cratectl rm -f`"));
            }
            if life.name == name {
                return Err(Error::invalid("name", format_args!("{name:?} is its name already")));
            }
            engine.check_free(&scope, &name).await?;
            crated_core::fail::point("engine.rename.record")?;
            let key = |name: &str| NAMES.key(scope.namespace.as_str(), name);
            let config = life.wanted(found.id.as_str())?;
            let mut with = vec![
                Op::Expect(key(&name), Revision::ABSENT),
                NAMES.put(key(&name), &Named { id: found.id.to_string() }),
                Op::Delete(key(&life.name)),
            ];
            // What networks show of it is called so from the same commit on.
            let mut attachment = engine.rename_attachment(&scope, &found.id, &config, &name).await?;
            with.extend(attachment.iter_mut().flat_map(Change::take));
            let renamed =
                engine.change_life(&scope.namespace, found.id.as_str(), with, |life| life.name.clone_from(&name)).await;
            match renamed {
                // Someone took it between our look and our commit.
                Err(error) if error.fault() == Fault::Conflict => match engine.check_free(&scope, &name).await {
                    Ok(()) => Err(error),
                    Err(taken) => Err(taken),
                },
                Err(error) => Err(error),
                Ok(_) => {
                    kept(attachment);
                    if let Err(error) = engine.renamed(&scope, &found.id, config).await {
                        tracing::warn!(container = %found.id, %error, "the new name was not told to the resolver");
                    }
                    Ok(())
                }
            }
        })
        .await
    }
}

fn foreign(id: &str, why: &'static str) -> Error {
    Error::precondition(Kind::Container, id, why).remedy_is("a client of containerd made it; use that client")
}

/// What is not named stays as it was.
fn merged(mut old: Resources, new: &Resources) -> Resources {
    let unset = Resources::default();
    macro_rules! take {
        ($($field:ident),+) => { $(if new.$field != unset.$field { old.$field.clone_from(&new.$field); })+ };
    }
    take!(memory, memory_swap, memory_reservation, cpu_shares, cpuset_cpus, cpuset_mems, pids_limit, blkio_weight);
    take!(oom_kill_disable, memory_swappiness);
    // Both ways of saying how much CPU exclude one another: the newer word counts.
    if new.nano_cpus != 0 {
        (old.nano_cpus, old.cpu_period, old.cpu_quota) = (new.nano_cpus, 0, 0);
    }
    if new.cpu_period != 0 || new.cpu_quota != 0 {
        old.nano_cpus = 0;
        take!(cpu_period, cpu_quota);
    }
    old
}

/// Limits in the words of the runtime specification.
fn linux_resources(limits: &Resources) -> Result<LinuxResources> {
    let options = crated_spec::Options {
        id: "update".into(),
        args: vec!["update".into()],
        resources: resources(limits),
        ..crated_spec::Options::default()
    };
    let spec: Spec = crated_spec::build(&options)?;
    let mut wanted = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
    wanted.set_devices(None);
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let old = Resources { memory: 100, cpu_quota: 5, cpu_period: 10, pids_limit: 3, ..Resources::default() };
        let new = merged(old.clone(), &Resources { memory: 200, ..Resources::default() });
        assert_eq!((new.memory, new.cpu_quota, new.pids_limit), (200, 5, 3));
        let cpus = merged(old, &Resources { nano_cpus: 1, ..Resources::default() });
        assert_eq!((cpus.nano_cpus, cpus.cpu_quota, cpus.cpu_period), (1, 0, 0));
        let quota = merged(cpus, &Resources { cpu_quota: 7, ..Resources::default() });
        assert_eq!((quota.nano_cpus, quota.cpu_quota), (0, 7));
    }

    #[test]
    fn limits_are_said_in_the_words_of_the_specification() {
        let wanted = linux_resources(&Resources { memory: 64 << 20, pids_limit: 9, ..Resources::default() }).unwrap();
        assert_eq!(wanted.memory().as_ref().unwrap().limit(), Some(64 << 20));
        assert!(wanted.devices().is_none());
    }
}
