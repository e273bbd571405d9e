//! Networks: bridges and published ports, names of containers by the network helper, and CNI plugins.

use super::{CNI, HELPER, METADATA, NAMES, NETWORKS, Shared};
use crate::grpc::introspection::uuid;
use crate::registry::{InitError, Registry};
use crated_core::{Cni, MetadataStore, Names, Networks};
use crated_net::cni::{Config as CniConfig, Driver};
use crated_net::helper::{Config as HelperConfig, Helper, HelperPorts};
use crated_net::names::Teller;
use crated_net::pools::{Base, default_bases};
use crated_net::{Config, Service};
use crated_types::{Cidr, Error};
use std::sync::Arc;
use std::time::Duration;

pub(super) fn register(registry: &mut Registry, shared: &Shared) {
    let tracker = shared.life.tracker.clone();
    registry.add(NETWORKS, "bridge", &[METADATA.name(), HELPER.name()], |cx| {
        Box::pin(async move {
            let settings = cx.settings();
            let folder = super::installation(settings);
            let config = Config {
                id: super::blocking(move || uuid(&folder)).await?,
                bridge: settings.network.bridge.clone(),
                pools: bases(&settings.network.pools)?,
                mtu: settings.network.mtu,
            };
            let ports = Arc::new(HelperPorts::new((*cx.one(HELPER)?).clone()));
            let metadata = cx.one(METADATA)? as Arc<dyn MetadataStore>;
            Ok(Service::with_ports(metadata, config, ports, tracker) as Arc<dyn Networks>)
        })
    });
    registry.add(NAMES, "names", &[HELPER.name()], |cx| {
        Box::pin(async move {
            let helper = (*cx.one(HELPER)?).clone();
            Ok(Arc::new(Teller::new(helper, cx.settings().network.resolv_conf.clone())) as Arc<dyn Names>)
        })
    });
    registry.add(HELPER, "netd", &[], |cx| {
        Box::pin(async move {
            let settings = cx.settings();
            let helper = &settings.network.helper;
            let (helper, owner) = Helper::new(HelperConfig {
                program: (!helper.as_os_str().is_empty()).then(|| helper.clone()),
                root: settings.root.clone(),
                state: settings.state.clone(),
                resolv_conf: settings.network.resolv_conf.clone(),
            });
            // It ends with the runtime: nobody waits for it at a stop, and the process behind it stays where it is needed.
            tokio::spawn(owner);
            Ok(Arc::new(helper))
        })
    });
    registry.add(CNI, "cni", &[], |cx| {
        Box::pin(async move {
            let network = &cx.settings().network;
            let folders: Vec<_> = network.cni_plugin_dirs.iter().map(|folder| folder.display().to_string()).collect();
            cx.export("config", network.cni_config_dir.display());
            cx.export("plugins", folders.join(":"));
            let config = CniConfig {
                config_dir: network.cni_config_dir.clone(),
                plugin_dirs: network.cni_plugin_dirs.clone(),
                cache_dir: cx.root_dir().join("results"),
                deadline: Duration::from_secs(network.cni_deadline_seconds.max(1)),
            };
            Ok(Arc::new(Driver::new(config)) as Arc<dyn Cni>)
        })
    });
}

/// `10.200.0.0/16 24`: a range, and the length of the subnets that it is cut into. None: docker's.
fn bases(texts: &[String]) -> Result<Vec<Base>, InitError> {
    if texts.is_empty() {
        return Ok(default_bases());
    }
    let base = |text: &String| {
        let bad =
            || Error::invalid("network.pools", format_args!("{text:?} is not RANGE LENGTH, e.g. \"10.200.0.0/16 24\""));
        let (range, length) = text.split_once(' ').ok_or_else(bad)?;
        Base::new(range.parse::<Cidr>().map_err(|_| bad())?, length.trim().parse().map_err(|_| bad())?)
    };
    texts.iter().map(|text| base(text).map_err(Into::into)).collect()
}
