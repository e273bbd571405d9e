//! What is not as it should be: for `cratectl doctor network`. Nothing is changed.

use crated_core::network::{Finding, Phase};
use crated_types::Result;
use serde_json::Value;
use std::sync::Arc;

use crate::kernel::{Kernel, setting};
use crate::service::Service;

impl Service {
    pub(crate) async fn findings(&self) -> Result<Vec<Finding>> {
        let mut expected = Vec::new();
        for attachment in crated_core::Networks::attachments(self).await? {
            if attachment.phase != Phase::Attached as i32 {
                continue;
            }
            for endpoint in attachment.endpoints.iter().filter(|endpoint| !endpoint.host_link.is_empty()) {
                expected.push((
                    crate::called(&attachment.name, &attachment.container),
                    endpoint.host_link.clone(),
                    endpoint.network_name.clone(),
                ));
            }
        }
        let bridges: Vec<_> = self.all().await?.into_iter().filter(|network| network.driver == "bridge").collect();
        let used: std::collections::HashSet<String> =
            self.memory.lock().users.iter().filter(|(_, users)| !users.is_empty()).map(|(id, _)| id.clone()).collect();
        let kernel = Arc::clone(&self.kernel);
        crate::blocking(move || {
            let mut found = Vec::new();
            let links = kernel.links()?;
            let has = |name: &str| links.iter().find(|link| link.name == name);
            for network in bridges.iter().filter(|network| used.contains(&network.id)) {
                match has(&network.link) {
                    None => found.push(finding(
                        &network.link,
                        format!("the bridge of network {:?} is missing", network.name),
                        MEND,
                    )),
                    Some(link) if !link.up => {
                        found.push(finding(
                            &network.link,
                            format!("the bridge of network {:?} is down", network.name),
                            MEND,
                        ));
                    }
                    Some(_) => {}
                }
            }
            for (container, link, network) in &expected {
                let plugged = has(link).filter(|link| link.master != 0 && link.up);
                if plugged.is_none() {
                    let what = format!("container {container} has lost its link to network {network:?}");
                    found.push(finding(link, what, MEND));
                }
            }
            table(&kernel, &mut found)?;
            if !used.is_empty() {
                settings(&mut found);
                foreign(&kernel, &mut found);
            }
            Ok(found)
        })
        .await
    }
}

const MEND: &str = "restart crated: it puts back what is missing; containers go on meanwhile";

fn finding(subject: &str, what: String, remedy: &str) -> Finding {
    Finding { subject: subject.into(), what, remedy: remedy.into() }
}

fn table(kernel: &Kernel, found: &mut Vec<Finding>) -> Result<()> {
    let name = format!("table inet {}", kernel.tables.name());
    match kernel.tables.missing()? {
        None => found.push(finding(&name, "the nftables table is gone".into(), MEND)),
        Some(missing) if missing.is_empty() => {}
        Some(missing) => found.push(finding(&name, format!("it lacks {}", missing.join(", ")), MEND)),
    }
    Ok(())
}

fn settings(found: &mut Vec<Finding>) {
    if setting("ipv4/ip_forward").as_deref() == Some("0") {
        let what = "forwarding is off: containers reach nothing outside".into();
        found.push(finding(
            "net.ipv4.ip_forward",
            what,
            "sysctl -w net.ipv4.ip_forward=1, and look which file of /etc/sysctl.d sets it to 0",
        ));
    }
}

/// Chains of others that drop what is forwarded: an administrator's right, and the first thing to look at.
fn foreign(kernel: &Kernel, found: &mut Vec<Finding>) {
    let Ok(text) = crate::kernel::nft(&["-j", "list", "chains"]) else { return };
    let Ok(value) = serde_json::from_str::<Value>(&text) else { return };
    let chains = value["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    for chain in chains.iter().filter_map(|entry| entry.get("chain")) {
        let word = |key: &str| chain[key].as_str().unwrap_or_default();
        if word("hook") == "forward" && word("policy") == "drop" && word("table") != kernel.tables.name() {
            let subject = format!("chain {} {} {}", word("family"), word("table"), word("name"));
            let what = "its policy drops what is forwarded, containers' packets too".to_owned();
            found.push(finding(
                &subject,
                what,
                "let our bridges through there, as docs/packets.md shows; docker's DOCKER-USER is such a place",
            ));
        }
    }
    let legacy = std::fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
    if legacy.lines().any(|line| line == "filter") {
        let what = "iptables-legacy has a filter table: its FORWARD policy may drop containers' packets".to_owned();
        found.push(finding(
            "iptables-legacy",
            what,
            "look: `iptables-legacy -S FORWARD`; DROP there wins over every other table",
        ));
    }
}
