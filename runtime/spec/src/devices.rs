//! Device nodes and the rules of the device cgroup.

use crate::options::{Device, DeviceKind, Options};
use crate::parse;
use crated_types::{Error, Result};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

/// Character devices that every container may use: null, zero, full, random, urandom, tty, console, ptmx, pts.
const COMMON: &[(i64, i64)] = &[(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, -1)];

pub(crate) fn nodes(options: &Options) -> Result<Vec<LinuxDevice>> {
    options
        .devices
        .iter()
        .map(|device| {
            let mut node = LinuxDevice::default();
            node.set_path(parse::container_path("device", &device.path)?)
                .set_typ(kind(device))
                .set_major(device.major.into())
                .set_minor(device.minor.into())
                .set_file_mode(Some(device.mode & 0o7777))
                .set_uid(Some(device.uid))
                .set_gid(Some(device.gid));
            Ok(node)
        })
        .collect()
}

fn kind(device: &Device) -> LinuxDeviceType {
    match device.kind {
        DeviceKind::Char => LinuxDeviceType::C,
        DeviceKind::Block => LinuxDeviceType::B,
        DeviceKind::Fifo => LinuxDeviceType::P,
    }
}

pub(crate) fn rules(options: &Options) -> Result<Vec<LinuxDeviceCgroup>> {
    if options.privileged {
        return Ok(vec![rule(true, LinuxDeviceType::A, None, None, "rwm")]);
    }
    let mut rules = vec![rule(false, LinuxDeviceType::A, None, None, "rwm")];
    for (major, minor) in COMMON {
        rules.push(rule(true, LinuxDeviceType::C, Some(*major), Some(*minor).filter(|minor| *minor >= 0), "rwm"));
    }
    // Nodes may be made, of which only the ones above open (as containerd and runc permit).
    rules.push(rule(true, LinuxDeviceType::C, None, None, "m"));
    rules.push(rule(true, LinuxDeviceType::B, None, None, "m"));
    for device in options.devices.iter().filter(|device| device.kind != DeviceKind::Fifo) {
        let access = if device.access.is_empty() { "rwm" } else { &device.access };
        check_access(access)?;
        rules.push(rule(true, kind(device), Some(device.major.into()), Some(device.minor.into()), access));
    }
    for text in &options.device_rules {
        rules.push(parse_rule(text)?);
    }
    Ok(rules)
}

fn check_access(access: &str) -> Result<()> {
    if !access.is_empty() && access.chars().all(|letter| "rwm".contains(letter)) {
        Ok(())
    } else {
        Err(Error::invalid("device", format_args!("access {access:?} has other letters than r, w and m")))
    }
}

fn parse_rule(text: &str) -> Result<LinuxDeviceCgroup> {
    let bad = || Error::invalid("device-cgroup-rule", format_args!("{text:?} is not like \"c 10:200 rwm\""));
    let mut parts = text.split_whitespace();
    let (Some(typ), Some(numbers), Some(access), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad());
    };
    let typ = match typ {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(bad()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        text => text.parse::<u32>().map(|number| Some(i64::from(number))).map_err(|_| bad()),
    };
    let (major, minor) = (number(major)?, number(minor)?);
    check_access(access)?;
    Ok(rule(true, typ, major, minor, access))
}

fn rule(allow: bool, typ: LinuxDeviceType, major: Option<i64>, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_major(major).set_minor(minor).set_access(Some(access.into()));
    rule.set_typ(Some(typ).filter(|typ| *typ != LinuxDeviceType::A));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_parsed_or_refused() {
        assert_eq!(parse_rule("c 10:200 rw").unwrap().to_string(), "c 10:200 rw");
        assert_eq!(parse_rule("b *:* m").unwrap().to_string(), "b *:* m");
        for text in ["", "c", "c 1:1", "c 1 r", "x 1:1 r", "c 1:x r", "c 1:1 rx", "c 1:1 r r", "c -1:1 r"] {
            assert!(parse_rule(text).is_err(), "{text:?}");
        }
    }
}
