//! Results of plugins: read from every version of the specification, and written as another wants them.

use super::list::Version;
use crated_core::{CniAddress, CniDns, CniInterface, CniResult};
use serde_json::{Map, Value, json};

/// The words of a plugin's result, whatever its version.
pub(super) fn read(value: &Value) -> CniResult {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let all = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let words = |value: &Value, key: &str| -> Vec<String> {
        all(value, key).iter().filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let mut result = CniResult {
        interfaces: all(value, "interfaces")
            .iter()
            .map(|link| CniInterface {
                name: text(link, "name"),
                mac: text(link, "mac"),
                sandbox: text(link, "sandbox"),
            })
            .collect(),
        addresses: all(value, "ips")
            .iter()
            .map(|ip| CniAddress {
                address: text(ip, "address"),
                gateway: text(ip, "gateway"),
                interface: ip.get("interface").and_then(Value::as_u64).and_then(|at| usize::try_from(at).ok()),
            })
            .collect(),
        routes: all(value, "routes").iter().map(|route| (text(route, "dst"), text(route, "gw"))).collect(),
        dns: CniDns::default(),
    };
    if let Some(dns) = value.get("dns") {
        result.dns = CniDns {
            servers: words(dns, "nameservers"),
            domain: text(dns, "domain"),
            searches: words(dns, "search"),
            options: words(dns, "options"),
        };
    }
    // Until 0.2 there was one address of each family, with its routes.
    for family in ["ip4", "ip6"] {
        let Some(ip) = value.get(family).filter(|ip| ip.is_object()) else { continue };
        result.addresses.push(CniAddress { address: text(ip, "ip"), gateway: text(ip, "gateway"), interface: None });
        result.routes.extend(all(ip, "routes").iter().map(|route| (text(route, "dst"), text(route, "gw"))));
    }
    result
}

/// A result as a plugin of `version` wants it as `prevResult`; one of that version already goes on as it is.
pub(super) fn convert(value: Value, version: Version) -> Value {
    let now = value.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if now == version.text() {
        return value;
    }
    let result = read(&value);
    let is_six = |address: &str| address.contains(':');
    let mut out = Map::new();
    out.insert("cniVersion".into(), version.text().into());
    let routes_of = |six: Option<bool>| -> Vec<Value> {
        let wanted = |dst: &str| six.is_none_or(|six| is_six(dst) == six);
        let written = |(dst, gateway): &(String, String)| {
            let mut route = json!({"dst": dst});
            if !gateway.is_empty() {
                route["gw"] = gateway.as_str().into();
            }
            route
        };
        result.routes.iter().filter(|(dst, _)| wanted(dst)).map(written).collect()
    };
    if version < Version::V0_3 {
        for address in &result.addresses {
            let six = is_six(&address.address);
            let key = if six { "ip6" } else { "ip4" };
            if out.contains_key(key) {
                continue; // there was room for one
            }
            let mut ip = json!({"ip": address.address, "routes": routes_of(Some(six))});
            if !address.gateway.is_empty() {
                ip["gateway"] = address.gateway.as_str().into();
            }
            out.insert(key.into(), ip);
        }
    } else {
        let links = result.interfaces.iter().map(|link| {
            let mut written = json!({"name": link.name, "mac": link.mac});
            if !link.sandbox.is_empty() {
                written["sandbox"] = link.sandbox.as_str().into();
            }
            written
        });
        out.insert("interfaces".into(), links.collect());
        let ips = result.addresses.iter().map(|address| {
            let mut ip = json!({"address": address.address});
            if !address.gateway.is_empty() {
                ip["gateway"] = address.gateway.as_str().into();
            }
            if let Some(at) = address.interface {
                ip["interface"] = at.into();
            }
            if version < Version::V1_0 {
                ip["version"] = if is_six(&address.address) { "6" } else { "4" }.into();
            }
            ip
        });
        out.insert("ips".into(), ips.collect());
        out.insert("routes".into(), routes_of(None).into());
    }
    out.insert(
        "dns".into(),
        json!({
            "nameservers": result.dns.servers,
            "domain": result.dns.domain,
            "search": result.dns.searches,
            "options": result.dns.options,
        }),
    );
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::super::list::VERSIONS;
    use super::*;

    fn newest() -> Value {
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "br", "mac": "02:00:00:00:00:01"}, {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/x"}],
            "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 1}, {"address": "fd00::2/64", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd00::1"}],
            "dns": {"nameservers": ["9.9.9.9"], "search": ["a.b"]},
        })
    }

    #[test]
    fn every_version_tells_the_same() {
        let (whole, read_new) = (newest(), read(&newest()));
        assert_eq!(read_new.addresses[1].address, "fd00::2/64");
        assert_eq!(read_new.dns.servers, ["9.9.9.9"]);
        for name in VERSIONS {
            let version = Version::parse(name).unwrap();
            let converted = convert(whole.clone(), version);
            assert_eq!(converted["cniVersion"], name);
            let mut read_again = read(&converted);
            if version < Version::V0_3 {
                assert_eq!(converted["ip4"]["ip"], "10.1.0.2/24");
                assert!(read_again.interfaces.is_empty());
                read_again.interfaces.clone_from(&read_new.interfaces);
                for address in &mut read_again.addresses {
                    address.interface = Some(1);
                }
            }
            assert_eq!(read_again, read_new, "{name}");
            let versioned = converted.pointer("/ips/0/version").is_some();
            assert_eq!(versioned, (Version::V0_3..Version::V1_0).contains(&version), "{name}");
        }
    }

    #[test]
    fn what_is_of_the_version_already_is_passed_on_as_it_is() {
        let odd =
            json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.1/8", "own": 7}], "own": true});
        assert_eq!(convert(odd.clone(), Version::V0_4), odd);
        assert_eq!(read(&json!({})), CniResult::default());
        assert_eq!(read(&json!({"ips": "nonsense", "dns": 7, "ip4": 7})), CniResult::default());
    }
}
