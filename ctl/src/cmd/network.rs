//! `network`, `port` and `doctor`.

use crate::cmd::for_each;
use crate::cmd::prelude::*;
use crate::format::Template;
use crate::output;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::collections::BTreeMap;

/// Make, list, look at, connect and remove networks.
#[derive(Debug, Args)]
pub(crate) struct Network {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make one
    Create(Create),
    /// List them
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show everything about networks as JSON
    Inspect(Inspect),
    /// Remove networks that no container uses
    #[command(visible_alias = "remove")]
    Rm {
        #[arg(required = true)]
        networks: Vec<String>,
    },
    /// Remove all networks that no container uses
    Prune,
    /// Connect a container, running or not, to a network
    Connect(Connect),
    /// Take a container off a network
    Disconnect {
        /// Also a container that is no more
        #[arg(short, long)]
        force: bool,
        network: String,
        container: String,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// bridge, macvlan or ipvlan
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// Subnet, e.g. 10.20.0.0/24; once for IPv4 and once for IPv6
    #[arg(long)]
    subnet: Vec<String>,
    /// Gateway of the subnet that it lies in
    #[arg(long)]
    gateway: Vec<String>,
    /// Part of the subnet that addresses are chosen from
    #[arg(long)]
    ip_range: Vec<String>,
    /// An address that is never given out, NAME=ADDRESS
    #[arg(long)]
    aux_address: Vec<String>,
    /// IPv6, too
    #[arg(long)]
    ipv6: bool,
    /// Nothing goes out, nothing is published
    #[arg(long)]
    internal: bool,
    /// Taken for docker's sake: every network of ours may be connected to
    #[arg(long, hide = true)]
    attachable: bool,
    /// Label, NAME=value
    #[arg(long)]
    label: Vec<String>,
    /// Option of the driver, e.g. com.docker.network.driver.mtu=1400, parent=eth0
    #[arg(short, long)]
    opt: Vec<String>,
    name: String,
}

impl Create {
    fn request(&self) -> Result<api::CreateNetworkRequest> {
        let mut pools: Vec<api::NetworkPool> = self
            .subnet
            .iter()
            .map(|subnet| api::NetworkPool { subnet: subnet.clone(), ..api::NetworkPool::default() })
            .collect();
        for gateway in &self.gateway {
            pool_of(&mut pools, "--gateway", gateway)?.gateway.clone_from(gateway);
        }
        for range in &self.ip_range {
            pool_of(&mut pools, "--ip-range", range)?.range.clone_from(range);
        }
        for aux in &self.aux_address {
            let (name, address) =
                aux.split_once('=').with_context(|| format!("--aux-address {aux:?} is not NAME=ADDRESS"))?;
            pool_of(&mut pools, "--aux-address", address)?.reserved.insert(name.into(), address.into());
        }
        Ok(api::CreateNetworkRequest {
            name: self.name.clone(),
            driver: self.driver.clone(),
            pools,
            ipv6: self.ipv6 || self.subnet.iter().any(|subnet| subnet.contains(':')),
            internal: self.internal,
            labels: pairs("label", &self.label)?,
            options: pairs("opt", &self.opt)?,
        })
    }
}

/// The subnet that an address or range lies in.
fn pool_of<'p>(pools: &'p mut [api::NetworkPool], flag: &str, text: &str) -> Result<&'p mut api::NetworkPool> {
    let address: std::net::IpAddr =
        text.split('/').next().unwrap_or_default().parse().with_context(|| format!("{flag} {text:?} is no address"))?;
    pools
        .iter_mut()
        .find(|pool| pool.subnet.parse::<crated_types::Cidr>().is_ok_and(|subnet| subnet.contains(address)))
        .with_context(|| format!("{flag} {text} lies in no --subnet"))
}

fn pairs(flag: &str, texts: &[String]) -> Result<BTreeMap<String, String>> {
    Ok(texts.iter().map(|text| crated_spec::parse::key_value(flag, text)).collect::<Result<_, _>>()?)
}

#[derive(Debug, Args)]
struct List {
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Go template for each network
    #[arg(long)]
    format: Option<String>,
}

impl List {
    async fn act(self, client: &Client) -> Result<u8> {
        let networks = client.engine().list_networks(()).await?.into_inner().networks;
        let template = self.format.as_deref().map(Template::parse).transpose()?;
        let mut rows = Vec::new();
        for network in networks {
            let id = if self.no_trunc { network.id.clone() } else { output::short(&network.id) };
            let subnets = network.subnets.join(",");
            if self.quiet {
                if !id.is_empty() {
                    println!("{id}");
                }
            } else if let Some(template) = &template {
                let data = serde_json::json!({
                    "ID": id, "Name": network.name, "Driver": network.driver, "Scope": "local", "Subnets": subnets,
                    "IPv6": network.ipv6, "Internal": network.internal, "Labels": network.labels,
                    "CreatedAt": output::rfc3339(network.created_at.as_ref()), "Containers": network.containers,
                });
                println!("{}", template.render(&data)?);
            } else {
                let id = if id.is_empty() { "-".into() } else { id };
                let inside = if network.internal { "internal" } else { "" };
                rows.push(vec![
                    id,
                    network.name,
                    network.driver,
                    subnets,
                    network.containers.to_string(),
                    inside.into(),
                ]);
            }
        }
        if !self.quiet && template.is_none() {
            println!("{}", output::table(&["NETWORK ID", "NAME", "DRIVER", "SUBNETS", "CONTAINERS", ""], rows));
        }
        Ok(0)
    }
}

#[derive(Debug, Args)]
struct Inspect {
    /// Go template instead of JSON
    #[arg(short, long)]
    format: Option<String>,
    /// Also what the kernel lacks of it, and how to mend it
    #[arg(short, long)]
    verbose: bool,
    #[arg(required = true)]
    networks: Vec<String>,
}

impl Inspect {
    async fn act(self, client: &Client) -> Result<u8> {
        let template = self.format.as_deref().map(Template::parse).transpose()?;
        let (mut found, mut status) = (Vec::new(), 0);
        for network in self.networks {
            let request = api::InspectNetworkRequest { network, verbose: self.verbose };
            match client.engine().inspect_network(request).await {
                Ok(answer) => {
                    let data: Value = serde_json::from_str(&answer.into_inner().json)?;
                    match &template {
                        Some(template) => println!("{}", template.render(&data)?),
                        None => found.push(data),
                    }
                }
                Err(error) => {
                    crate::complain(&error.into());
                    status = 1;
                }
            }
        }
        if template.is_none() {
            println!("{}", serde_json::to_string_pretty(&found)?);
        }
        Ok(status)
    }
}

#[derive(Debug, Args)]
struct Connect {
    /// IPv4 address
    #[arg(long, default_value = "")]
    ip: String,
    /// IPv6 address
    #[arg(long, default_value = "")]
    ip6: String,
    /// MAC address
    #[arg(long, default_value = "")]
    mac_address: String,
    /// A further name on this network
    #[arg(long)]
    alias: Vec<String>,
    /// The highest takes the default route
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, hide_default_value = true)]
    gw_priority: i32,
    network: String,
    container: String,
}

impl Network {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        match self.verb {
            Verb::Create(create) => {
                println!("{}", client.engine().create_network(create.request()?).await?.into_inner().id);
                Ok(0)
            }
            Verb::Ls(list) => list.act(client).await,
            Verb::Inspect(inspect) => inspect.act(client).await,
            Verb::Rm { networks } => {
                for_each(&networks, |network| async move {
                    client.engine().remove_network(api::NetworkRequest { network: network.clone() }).await?;
                    Ok(network)
                })
                .await
            }
            Verb::Prune => {
                for name in client.engine().prune_networks(()).await?.into_inner().names {
                    println!("{name}");
                }
                Ok(0)
            }
            Verb::Connect(connect) => {
                let attachment = api::NetworkAttachment {
                    network: connect.network.clone(),
                    ip: connect.ip,
                    ip6: connect.ip6,
                    mac: connect.mac_address,
                    aliases: connect.alias,
                    priority: connect.gw_priority,
                };
                let request = api::ConnectNetworkRequest {
                    network: connect.network,
                    container: connect.container,
                    attachment: Some(attachment),
                };
                client.engine().connect_network(request).await?;
                Ok(0)
            }
            Verb::Disconnect { force, network, container } => {
                client.engine().disconnect_network(api::DisconnectNetworkRequest { network, container, force }).await?;
                Ok(0)
            }
        }
    }
}

/// Show where ports of a container are published.
#[derive(Debug, Args)]
pub(crate) struct Port {
    container: String,
    /// PORT[/PROTOCOL]: only this one
    port: Option<String>,
}

impl Port {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let request = api::ContainerRequest { container: self.container.clone() };
        let ports = client.engine().ports(request).await?.into_inner().ports;
        let wanted = self.port.map(|port| if port.contains('/') { port } else { format!("{port}/tcp") });
        let mut found = false;
        for port in &ports {
            let (inside, outside) = crate::cmd::networking::written(port);
            match &wanted {
                Some(wanted) if *wanted != inside => {}
                Some(_) => {
                    found = true;
                    outside.iter().for_each(|place| println!("{place}"));
                }
                None => outside.iter().for_each(|place| println!("{inside} -> {place}")),
            }
        }
        match wanted {
            Some(wanted) if !found => bail!("no public port {wanted:?} published for {}", self.container),
            _ => Ok(0),
        }
    }
}

/// Look for what is wrong with the host or the daemon, and say how to mend it.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Links, rules and settings that networks need
    Network,
}

impl Doctor {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let Part::Network = self.part;
        let findings = client.engine().check_networks(()).await?.into_inner().findings;
        if findings.is_empty() {
            println!("networks: nothing is wrong");
            return Ok(0);
        }
        for finding in findings {
            println!("{}: {}", finding.subject, finding.what);
            if !finding.remedy.is_empty() {
                println!("  what to do: {}", finding.remedy);
            }
        }
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn request(words: &str) -> Result<api::CreateNetworkRequest> {
        Line::try_parse_from(["x"].into_iter().chain(words.split_whitespace()))?.create.request()
    }

    #[test]
    fn flags_find_their_subnet() {
        let wish = request(
            "--subnet 10.1.0.0/24 --subnet fd00:1::/64 --gateway fd00:1::9 --ip-range 10.1.0.128/25 --aux-address r=10.1.0.5 n",
        );
        let wish = wish.unwrap();
        assert!(wish.ipv6);
        assert_eq!((wish.pools[0].range.as_str(), wish.pools[1].gateway.as_str()), ("10.1.0.128/25", "fd00:1::9"));
        assert_eq!(wish.pools[0].reserved["r"], "10.1.0.5");
        for bad in [
            "--gateway 10.1.0.1 n",
            "--subnet 10.1.0.0/24 --gateway 10.2.0.1 n",
            "--subnet 10.1.0.0/24 --aux-address 10.1.0.1 n",
            "--subnet 10.1.0.0/24 --ip-range x n",
        ] {
            assert!(request(bad).is_err(), "{bad}");
        }
    }
}
