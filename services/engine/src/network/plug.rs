//! Attaching and detaching within the operations of a container: addresses in the commit that begins a start, links between
//! the task's making and its start, and all of it back at the end.

use crated_api::crated::engine::v1::ContainerConfig;
use crated_core::network::{Attachment, Change, Finding, Netns, Networks, Phase, Running, Wish};
use crated_core::resolv::Resolv;
use crated_core::{Capabilities, Cni, CniAttachment, CniDns, CniResult, Named, PortMapping, ProcessStatus};
use crated_types::{ContainerId, Error, Fault, Namespace, Result, Scope};
use std::path::Path;
use std::sync::Arc;

use super::{Mode, mode, publish, wanted};
use crate::engine::{Engine, blocking};
use crate::files::{self, Surroundings, address};
use crate::names::short;
use crate::record::LIVES;

/// Name of the first link in a container.
const INTERFACE: &str = "eth0";

/// The network namespace of a process, open.
pub(crate) fn netns_of(pid: u32) -> Result<Netns> {
    let path = format!("/proc/{pid}/ns/net");
    let fd = crated_sys::namespace::open(Path::new(&path))
        .map_err(|error| Error::os(format!("open {path}"), error.into()).at("netns"))?;
    Ok(Netns { fd, path })
}

/// The commit that a change was part of holds.
pub(crate) fn kept(change: Option<Change>) {
    if let Some(change) = change {
        change.kept();
    }
}

impl Engine {
    /// The networks of this daemon.
    pub(crate) fn networks(&self) -> Result<&Arc<dyn Networks>> {
        self.deps.networks.as_ref().ok_or_else(|| {
            Error::new(Fault::Unsupported, "this daemon has no networks of its own")
                .remedy_is("use --network none or --network host, or look why with `cratectl plugins`")
        })
    }

    /// The plugins of others.
    pub(crate) fn cni(&self) -> Result<&Arc<dyn Cni>> {
        self.deps.cni.as_ref().ok_or_else(|| Error::new(Fault::Unsupported, "this daemon calls no CNI plugins"))
    }

    /// Checks a wish of a new container and makes its record, for the commit that makes the container.
    pub(crate) async fn configure(&self, scope: &Scope, wish: Option<Wish>) -> Result<Option<Change>> {
        match wish {
            Some(wish) => self.networks()?.configure(scope, wish).await.map(Some),
            None => Ok(None),
        }
    }

    /// The record of a container gets its new name, for the commit that renames it.
    pub(crate) async fn rename_attachment(
        &self,
        scope: &Scope,
        id: &ContainerId,
        config: &ContainerConfig,
        name: &str,
    ) -> Result<Option<Change>> {
        match (mode(config)?, &self.deps.networks) {
            (Mode::Attached, Some(networks)) => networks.rename(scope, id, name).await.map(Some),
            _ => Ok(None),
        }
    }

    /// Addresses and host ports, for the commit that begins a start.
    pub(crate) async fn reserve(
        &self,
        scope: &Scope,
        id: &ContainerId,
        config: &ContainerConfig,
    ) -> Result<Option<Change>> {
        match mode(config)? {
            Mode::Attached => self.networks()?.reserve(scope, id).await.map(Some).map_err(|error| error.at("network")),
            Mode::Cni(name) => self.cni()?.status(name).await.map(|()| None).map_err(|error| error.at("network")),
            Mode::None | Mode::Host | Mode::Container(_) | Mode::Path(_) => Ok(None),
        }
    }

    /// Attaches a container whose process waits at the gate, and brings its files up to date.
    pub(crate) async fn plug(&self, scope: &Scope, id: &ContainerId, config: &ContainerConfig, pid: u32) -> Result<()> {
        let mut around = self.surroundings();
        match mode(config)? {
            Mode::Attached => {
                let attachment = self.networks()?.attach(scope, id, netns_of(pid)?).await?;
                self.tell_names(&scope.namespace, id, config, &attachment).await?;
                around.attachment = Some(attachment);
            }
            Mode::Cni(name) => {
                let wish = cni_attachment(id, name, config, format!("/proc/{pid}/ns/net"))?;
                plugin_words(&mut around, &self.cni()?.add(&wish).await?);
            }
            // The host's resolvers may be others by now.
            Mode::Host | Mode::Path(_) | Mode::None => {}
            Mode::Container(_) => return Ok(()),
        }
        self.update_files(&scope.namespace, id, config.clone(), around).await
    }

    /// Detaches a container that has ended; the answer is for the commit that writes its end down. A failure is told: the
    /// reconciler goes on with it.
    pub(crate) async fn unplug(&self, scope: &Scope, id: &ContainerId, config: &ContainerConfig) -> Option<Change> {
        self.forget_names(&scope.namespace, id, config).await;
        let detached = match mode(config) {
            Ok(Mode::Attached) => match self.networks() {
                Ok(networks) => networks.detach(scope, id).await.map(Some),
                Err(error) => Err(error),
            },
            Ok(Mode::Cni(name)) => self.cni_del(id, name, config).await.map(|()| None),
            Ok(Mode::None | Mode::Host | Mode::Container(_) | Mode::Path(_)) | Err(_) => Ok(None),
        };
        detached.unwrap_or_else(|error| {
            tracing::warn!(container = %id, %error, "a container was not detached from its networks");
            None
        })
    }

    /// Detaches a container that is to be removed, and forgets what it wanted.
    pub(crate) async fn forget_network(
        &self,
        scope: &Scope,
        id: &ContainerId,
        config: &ContainerConfig,
    ) -> Result<Option<Change>> {
        self.forget_names(&scope.namespace, id, config).await;
        match mode(config)? {
            Mode::Attached => self.networks()?.forget(scope, id).await.map(Some),
            Mode::Cni(name) => {
                if let Err(error) = self.cni_del(id, name, config).await {
                    // It stays remembered, and is tried again at the daemon's start: a removal is not held up by it.
                    tracing::warn!(container = %id, %error, "CNI plugins did not let go of a container that is removed");
                }
                Ok(None)
            }
            Mode::None | Mode::Host | Mode::Container(_) | Mode::Path(_) => Ok(None),
        }
    }

    /// Tells what a container is called now.
    async fn tell_names(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        config: &ContainerConfig,
        attachment: &Attachment,
    ) -> Result<()> {
        let Some(names) = &self.deps.names else { return Ok(()) };
        let name = self.life(namespace, id.as_str()).await?.map(|life| life.name).unwrap_or_default();
        names.tell(&named(attachment, name, config)).await
    }

    async fn forget_names(&self, namespace: &Namespace, id: &ContainerId, config: &ContainerConfig) {
        if let (Some(names), Ok(Mode::Attached)) = (&self.deps.names, mode(config))
            && let Err(error) = names.forget(namespace.as_str(), id.as_str()).await
        {
            tracing::warn!(container = %id, %error, "names of a container that ended");
        }
    }

    /// Tells names and writes files anew, after a container's name or networks changed.
    pub(crate) async fn renamed(&self, scope: &Scope, id: &ContainerId, config: ContainerConfig) -> Result<()> {
        if let Some(attachment) = self.attachment(scope, id, &config).await?
            && attachment.phase != Phase::Configured as i32
        {
            self.tell_names(&scope.namespace, id, &config, &attachment).await?;
        }
        self.refresh_files(scope, id, config).await
    }

    async fn cni_del(&self, id: &ContainerId, name: &str, config: &ContainerConfig) -> Result<()> {
        let cni = self.cni()?;
        if cni.remembered(id.as_str()).await?.is_empty() {
            return Ok(());
        }
        cni.del(&cni_attachment(id, name, config, String::new())?).await
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings { resolv_conf: self.deps.config.resolv_conf.clone(), ..Surroundings::default() }
    }

    /// The container's attachment; none where it attaches to nothing of ours.
    pub(crate) async fn attachment(
        &self,
        scope: &Scope,
        id: &ContainerId,
        config: &ContainerConfig,
    ) -> Result<Option<Attachment>> {
        match (mode(config)?, &self.deps.networks) {
            (Mode::Attached, Some(networks)) => networks.attachment(scope, id).await,
            _ => Ok(None),
        }
    }

    /// Brings hosts and resolv.conf of a container up to date, e.g. after it was connected to a further network.
    pub(crate) async fn refresh_files(&self, scope: &Scope, id: &ContainerId, config: ContainerConfig) -> Result<()> {
        let mut around = self.surroundings();
        around.attachment = self.attachment(scope, id, &config).await?;
        self.update_files(&scope.namespace, id, config, around).await
    }

    async fn update_files(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        config: ContainerConfig,
        mut around: Surroundings,
    ) -> Result<()> {
        let gateway = |attachment: &Attachment| {
            let mut all = attachment.endpoints.iter().flat_map(|endpoint| [&endpoint.gateway, &endpoint.gateway6]);
            all.find_map(|text| address(text))
        };
        around.host_gateway = self.deps.config.host_gateway.or_else(|| around.attachment.as_ref().and_then(gateway));
        let (folder, id) = (self.folder(namespace, id.as_str()), id.to_string());
        blocking(move || files::update(&folder, &files::texts(&id, &config, &around)?)).await
    }

    /// Makes kernel, helper and records agree, at the daemon's start.
    pub(crate) async fn reconcile_networks(self: &Arc<Self>) -> Result<()> {
        if let Some(networks) = &self.deps.networks {
            let mut running = Vec::new();
            for attachment in networks.attachments().await? {
                if attachment.phase == Phase::Configured as i32 {
                    continue;
                }
                running.extend(self.running_one(&attachment).await?);
            }
            let refreshed: Vec<_> = running.iter().map(|one| (one.namespace.clone(), one.container.clone())).collect();
            let mended = networks.reconcile(running).await?;
            self.adopt_names(networks.attachments().await?, &refreshed).await?;
            tracing::info!(
                released = mended.released,
                restored = mended.restored,
                links = mended.links,
                "networks reconciled"
            );
            let engine = Arc::clone(self);
            self.deps.tracker.spawn(async move { engine.refresh_all(refreshed).await });
        }
        let engine = Arc::clone(self);
        // Plugins may take long: nobody waits for them.
        self.deps.tracker.spawn(async move {
            if let Err(error) = engine.collect_cni().await {
                tracing::warn!(%error, "CNI attachments of containers that ended");
            }
        });
        Ok(())
    }

    async fn adopt_names(&self, all: Vec<Attachment>, running: &[(Namespace, ContainerId)]) -> Result<()> {
        let Some(names) = &self.deps.names else { return Ok(()) };
        let mut named_all = Vec::new();
        for attachment in all {
            let key = |(namespace, id): &(Namespace, ContainerId)| {
                namespace.as_str() == attachment.namespace && id.as_str() == attachment.container
            };
            let Some((namespace, id)) = running.iter().find(|one| key(one)) else { continue };
            let Some(life) = self.life(namespace, id.as_str()).await? else { continue };
            named_all.push(named(&attachment, life.name.clone(), &life.wanted(id.as_str())?));
        }
        names.adopt(named_all).await
    }

    /// An attachment whose container has a process.
    async fn running_one(&self, attachment: &Attachment) -> Result<Option<Running>> {
        let namespace = Namespace::new(&attachment.namespace)?;
        let container = ContainerId::new(&attachment.container)?;
        let scope = Scope::new(namespace.clone(), crated_types::Actor::daemon("reconciler"));
        let Some(task) = self.task(&scope, &container).await? else { return Ok(None) };
        let Ok(state) = task.state(None).await else { return Ok(None) };
        if matches!(state.status, ProcessStatus::Stopped | ProcessStatus::Unknown) {
            return Ok(None);
        }
        // It may end at this moment: then its exit does the rest.
        Ok(netns_of(state.pid).ok().map(|netns| Running { namespace, container, netns }))
    }

    /// A daemon that died between a change of networks and that of the files left them behind.
    async fn refresh_all(self: Arc<Self>, containers: Vec<(Namespace, ContainerId)>) {
        for (namespace, id) in containers {
            let scope = Scope::new(namespace, crated_types::Actor::daemon("reconciler"));
            let slot = self.slots.get(scope.namespace.as_str(), id.as_str());
            let _turn = slot.lock().await;
            let refreshed = match self.life(&scope.namespace, id.as_str()).await {
                Ok(Some(life)) if life.has_task() => match life.wanted(id.as_str()) {
                    Ok(config) => self.refresh_files(&scope, &id, config).await,
                    Err(error) => Err(error),
                },
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = refreshed {
                tracing::warn!(container = %id, %error, "files of a container");
            }
        }
    }

    async fn collect_cni(&self) -> Result<()> {
        let Some(cni) = &self.deps.cni else { return Ok(()) };
        let running = self.running_with_plugins().await?;
        let valid: Vec<_> = running.into_iter().map(|(_, id, _)| (id.to_string(), INTERFACE.to_owned())).collect();
        cni.gc(&valid).await.map(drop)
    }

    /// Containers of networks of plugins that have a task, with their names.
    async fn running_with_plugins(&self) -> Result<Vec<(Namespace, ContainerId, String)>> {
        let mut running = Vec::new();
        for (key, _, life) in LIVES.list(&*self.deps.metadata, &LIVES.prefix("")).await? {
            let Some((namespace, id)) = LIVES.parts(&key) else { continue };
            let of_plugins = life.wanted(id).is_ok_and(|config| matches!(mode(&config), Ok(Mode::Cni(_))));
            if of_plugins && life.has_task() {
                running.push((Namespace::new(namespace)?, ContainerId::new(id)?, life.name));
            }
        }
        Ok(running)
    }

    /// CHECK for every container of plugins that runs: what they find missing.
    pub(crate) async fn check_cni(&self) -> Result<Vec<Finding>> {
        let Some(cni) = &self.deps.cni else { return Ok(Vec::new()) };
        let mut findings = Vec::new();
        for (namespace, id, name) in self.running_with_plugins().await? {
            for (attachment, _) in cni.remembered(id.as_str()).await? {
                let Err(error) = cni.check(&attachment).await else { continue };
                // It may have ended meanwhile: then there is nothing to miss.
                let runs = self.life(&namespace, id.as_str()).await?.is_some_and(|life| life.has_task());
                if runs && !cni.remembered(id.as_str()).await?.is_empty() {
                    findings.push(Finding {
                        subject: format!("container {name} ({}), cni:{}", short(id.as_str()), attachment.network),
                        what: error.to_string(),
                        remedy: format!("mend what the plugin names, or attach it anew: `cratectl restart {name}`"),
                    });
                }
            }
        }
        Ok(findings)
    }
}

fn named(attachment: &Attachment, name: String, config: &ContainerConfig) -> Named {
    let servers = config.dns.iter().filter_map(|server| server.parse().ok()).collect();
    Named { attachment: attachment.clone(), name, servers }
}

/// What a container wants of plugins, by their conventions.
fn cni_attachment(id: &ContainerId, name: &str, config: &ContainerConfig, netns: String) -> Result<CniAttachment> {
    let bandwidth = super::bandwidth::bandwidth(&config.annotations)?;
    let mut capabilities = Capabilities { bandwidth, ..Capabilities::default() };
    for port in &config.publish {
        let port = publish(port)?;
        let (first, last) = port.host_ports;
        if first == 0 || first != last {
            return Err(Error::invalid(
                "config.publish",
                "a network of plugins publishes ports that are named, one by one",
            )
            .remedy_is("give a port of the host: -p 8080:80"));
        }
        capabilities.ports.push(PortMapping {
            host_port: first,
            container_port: port.container_port,
            protocol: port.protocol.name().into(),
            host_ip: port.host_ip,
        });
    }
    if let Some(entry) = config.networks.first() {
        let wanted = wanted(entry)?;
        let addresses = [wanted.address.map(|ip| ip.to_string()), wanted.address6.map(|ip| ip.to_string())];
        capabilities.ips = addresses.into_iter().flatten().collect();
        capabilities.mac.clone_from(&entry.mac);
        capabilities.aliases = wanted.aliases;
    }
    if !(config.dns.is_empty() && config.dns_search.is_empty() && config.dns_options.is_empty()) {
        capabilities.dns = Some(CniDns {
            servers: config.dns.clone(),
            searches: config.dns_search.clone(),
            options: config.dns_options.clone(),
            domain: String::new(),
        });
    }
    Ok(CniAttachment {
        container: id.to_string(),
        netns,
        network: name.to_owned(),
        interface: INTERFACE.into(),
        args: [("IgnoreUnknown".to_owned(), "1".to_owned())].into(),
        capabilities,
    })
}

fn plugin_words(around: &mut Surroundings, result: &CniResult) {
    // Addresses of the container: those on links in a namespace, or on no link that is known.
    let inside =
        |at: Option<usize>| at.and_then(|at| result.interfaces.get(at)).is_none_or(|link| !link.sandbox.is_empty());
    let own = result.addresses.iter().filter(|address| inside(address.interface));
    around.plugin_addresses = own.filter_map(|given| address(&given.address)).collect();
    let dns = &result.dns;
    if *dns != CniDns::default() {
        let mut search = dns.searches.clone();
        if search.is_empty() && !dns.domain.is_empty() {
            search.push(dns.domain.clone());
        }
        around.plugin_dns = Some(Resolv { servers: dns.servers.clone(), search, options: dns.options.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crated_api::crated::engine::v1::{NetworkAttachment, Port};
    use crated_core::{CniAddress, CniInterface};

    #[test]
    fn plugins_get_what_was_asked_for() {
        let id = ContainerId::new("c").unwrap();
        let mut config = ContainerConfig {
            network: "cni:x".into(),
            networks: vec![NetworkAttachment {
                network: "cni:x".into(),
                ip: "10.0.0.2".into(),
                ..NetworkAttachment::default()
            }],
            publish: vec![Port { host_port: 80, container_port: 8080, ..Port::default() }],
            dns: vec!["9.9.9.9".into()],
            ..ContainerConfig::default()
        };
        let wish = cni_attachment(&id, "x", &config, "/n".into()).unwrap();
        assert_eq!(
            (wish.capabilities.ips.as_slice(), wish.capabilities.ports[0].protocol.as_str()),
            (&["10.0.0.2".to_owned()][..], "tcp")
        );
        assert_eq!(wish.capabilities.dns.unwrap().servers, ["9.9.9.9"]);
        assert_eq!(wish.capabilities.bandwidth, None);
        config.annotations.insert("kubernetes.io/egress-bandwidth".into(), "2M".into());
        let limits = cni_attachment(&id, "x", &config, "/n".into()).unwrap().capabilities.bandwidth.unwrap();
        assert_eq!((limits.ingress_rate, limits.egress_rate), (0, 2_000_000));
        config.publish[0].host_port = 0;
        assert!(cni_attachment(&id, "x", &config, String::new()).is_err());
    }

    #[test]
    fn of_a_plugins_answer_the_containers_part_is_taken() {
        let mut around = Surroundings::default();
        let link = |sandbox: &str| CniInterface { sandbox: sandbox.into(), ..CniInterface::default() };
        let address = |text: &str, interface| CniAddress { address: text.into(), interface, ..CniAddress::default() };
        let result = CniResult {
            interfaces: vec![link(""), link("/n")],
            addresses: vec![
                address("10.0.0.1/24", Some(0)),
                address("10.0.0.2/24", Some(1)),
                address("10.0.0.3/24", None),
            ],
            dns: CniDns { domain: "d".into(), ..CniDns::default() },
            ..CniResult::default()
        };
        plugin_words(&mut around, &result);
        assert_eq!(
            around.plugin_addresses,
            ["10.0.0.2".parse::<std::net::IpAddr>().unwrap(), "10.0.0.3".parse().unwrap()]
        );
        assert_eq!(around.plugin_dns.unwrap().search, ["d"]);
    }
}
