//! `google.protobuf.Any` under bare type names, and messages of any known type as JSON.
//!
//! containerd's typeurl writes `containerd.runc.v1.Options`, with no `type.googleapis.com/` before it; readers accept both.

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{Any, DescriptorProto, FileDescriptorSet};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::OnceLock;

use crated_types::{Error, Result};

/// Messages nested deeper are not shown.
const DEPTH_MAX: usize = 16;

/// Packs a message under its bare full name.
#[must_use]
pub fn pack(name: &str, message: &impl Message) -> Any {
    Any { type_url: name.into(), value: message.encode_to_vec() }
}

/// The type's full name, without a host before it.
#[must_use]
pub fn name(any: &Any) -> &str {
    match any.type_url.rsplit_once('/') {
        // typeurl's JSON types keep their path: it is part of the name.
        Some((host, name)) if !host.contains('/') && host.contains('.') && !name.is_empty() => name,
        _ => &any.type_url,
    }
}

/// Unpacks a message of type `wanted`.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] where the type is another one, or the bytes are none of it.
pub fn unpack<M: Message + Default>(wanted: &str, any: &Any) -> Result<M> {
    if name(any) != wanted {
        return Err(Error::invalid("type_url", format_args!("{:?} where {wanted} is needed", any.type_url)));
    }
    M::decode(any.value.as_slice()).map_err(|error| Error::invalid(wanted, error))
}

/// The message as JSON with the fields' own names; fields that hold nothing are left out. `None` for an unknown type and
/// for bytes that are no such message.
#[must_use]
pub fn to_json(any: &Any) -> Option<Value> {
    if any.type_url.starts_with("types.containerd.io/") {
        return serde_json::from_slice(&any.value).ok();
    }
    decode(name(any), &any.value, 0).map(Value::Object)
}

/// The value of a string or boolean field at `path` of a message from [`to_json`], as filters read it; what is left of the
/// path inside of a map is one key (`labels.a.b` is key `a.b`).
#[must_use]
pub fn field(json: &Value, path: &[&str]) -> Option<String> {
    match (json, path) {
        (Value::String(text), []) => Some(text.clone()),
        (Value::Bool(value), []) => Some(value.to_string()),
        (Value::Object(fields), [first, rest @ ..]) => match fields.get(*first) {
            Some(value) => {
                field(value, rest).or_else(|| fields.get(&path.join(".")).and_then(|value| field(value, &[])))
            }
            None => fields.get(&path.join(".")).and_then(|value| field(value, &[])),
        },
        _ => None,
    }
}

/// A field of a message type.
#[derive(Debug)]
struct Field {
    number: u32,
    name: Box<str>,
    kind: Type,
    repeated: bool,
    /// Full name of the message or enum.
    type_name: Box<str>,
}

/// What is known of a type.
#[derive(Debug)]
enum Known {
    Message { fields: Box<[Field]>, map_entry: bool },
    Enum(Box<[(i32, Box<str>)]>),
}

fn known() -> &'static HashMap<Box<str>, Known> {
    static KNOWN: OnceLock<HashMap<Box<str>, Known>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let set = FileDescriptorSet::decode(crate::DESCRIPTORS).expect("the build wrote a descriptor set");
        let mut known = HashMap::new();
        for file in set.file {
            let package = file.package().to_owned();
            file.message_type.iter().for_each(|message| learn(&mut known, &package, message));
            file.enum_type.iter().for_each(|kind| learn_enum(&mut known, &package, kind));
        }
        known
    })
}

fn learn(known: &mut HashMap<Box<str>, Known>, scope: &str, message: &DescriptorProto) {
    let full = format!("{scope}.{}", message.name());
    message.nested_type.iter().for_each(|nested| learn(known, &full, nested));
    message.enum_type.iter().for_each(|kind| learn_enum(known, &full, kind));
    let fields = message
        .field
        .iter()
        .map(|field| Field {
            number: u32::try_from(field.number()).unwrap_or(0),
            name: field.name().into(),
            kind: field.r#type(),
            repeated: field.label() == Label::Repeated,
            type_name: field.type_name().trim_start_matches('.').into(),
        })
        .collect();
    let map_entry = message.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry);
    known.insert(full.into(), Known::Message { fields, map_entry });
}

fn learn_enum(known: &mut HashMap<Box<str>, Known>, scope: &str, kind: &prost_types::EnumDescriptorProto) {
    let values = kind.value.iter().map(|value| (value.number(), value.name().into())).collect();
    known.insert(format!("{scope}.{}", kind.name()).into(), Known::Enum(values));
}

fn decode(name: &str, mut bytes: &[u8], depth: usize) -> Option<Map<String, Value>> {
    match name {
        "google.protobuf.Any" => return nested_any(bytes, depth),
        _ if depth > DEPTH_MAX => return None,
        _ => {}
    }
    let Known::Message { fields, .. } = known().get(name)? else { return None };
    let mut json = Map::new();
    while bytes.has_remaining() {
        let (number, wire) = decode_key(&mut bytes).ok()?;
        match fields.iter().find(|field| field.number == number) {
            Some(field) => value(field, wire, &mut bytes, &mut json, depth)?,
            None => skip(wire, &mut bytes)?,
        }
    }
    Some(json)
}

fn nested_any(bytes: &[u8], depth: usize) -> Option<Map<String, Value>> {
    let any = Any::decode(bytes).ok()?;
    let shown = decode(name(&any), &any.value, depth + 1).map_or_else(|| Value::String(hex(&any.value)), Value::Object);
    Some(Map::from_iter([("type_url".to_owned(), Value::String(any.type_url.clone())), ("value".to_owned(), shown)]))
}

/// Reads one occurrence of `field` into `json`.
fn value(field: &Field, wire: WireType, bytes: &mut &[u8], json: &mut Map<String, Value>, depth: usize) -> Option<()> {
    if field.repeated && wire == WireType::LengthDelimited && packable(field.kind) {
        let mut packed = take(bytes)?;
        while packed.has_remaining() {
            let item = scalar(field, wire_of(field.kind), &mut packed)?;
            push(json, &field.name, item);
        }
        return Some(());
    }
    if field.kind != Type::Message {
        let item = scalar(field, wire, bytes)?;
        if field.repeated {
            push(json, &field.name, item);
        } else {
            json.insert(field.name.to_string(), item);
        }
        return Some(());
    }
    let inner = take(bytes)?;
    if field.type_name.as_ref() == "google.protobuf.Timestamp" {
        let time = prost_types::Timestamp::decode(inner).ok()?;
        json.insert(field.name.to_string(), Value::String(time.to_string()));
        return Some(());
    }
    let mut message = decode(&field.type_name, inner, depth + 1)?;
    if matches!(known().get(&field.type_name), Some(Known::Message { map_entry: true, .. })) {
        let key = match message.remove("key") {
            Some(Value::String(key)) => key,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let item = message.remove("value").unwrap_or_else(|| Value::String(String::new()));
        if let Value::Object(map) = json.entry(&*field.name).or_insert_with(|| Value::Object(Map::new())) {
            map.insert(key, item);
        }
    } else if field.repeated {
        push(json, &field.name, Value::Object(message));
    } else {
        json.insert(field.name.to_string(), Value::Object(message));
    }
    Some(())
}

fn push(json: &mut Map<String, Value>, name: &str, item: Value) {
    if let Value::Array(items) = json.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
        items.push(item);
    }
}

fn scalar(field: &Field, wire: WireType, bytes: &mut &[u8]) -> Option<Value> {
    if wire != wire_of(field.kind) {
        return None;
    }
    Some(match field.kind {
        Type::String => Value::String(String::from_utf8_lossy(take(bytes)?).into_owned()),
        Type::Bytes => Value::String(hex(take(bytes)?)),
        Type::Double => Value::from(f64::from_bits(fixed64(bytes)?)),
        Type::Float => Value::from(f32::from_bits(fixed32(bytes)?)),
        Type::Fixed64 => Value::from(fixed64(bytes)?),
        Type::Sfixed64 => Value::from(fixed64(bytes)?.cast_signed()),
        Type::Fixed32 => Value::from(fixed32(bytes)?),
        Type::Sfixed32 => Value::from(fixed32(bytes)?.cast_signed()),
        Type::Bool => Value::Bool(decode_varint(bytes).ok()? != 0),
        Type::Int64 => Value::from(decode_varint(bytes).ok()?.cast_signed()),
        Type::Int32 => Value::from(low32(bytes)?.cast_signed()),
        Type::Uint64 => Value::from(decode_varint(bytes).ok()?),
        Type::Uint32 => Value::from(low32(bytes)?),
        Type::Sint32 | Type::Sint64 => {
            let raw = decode_varint(bytes).ok()?;
            Value::from((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
        }
        Type::Enum => {
            let number = low32(bytes)?.cast_signed();
            match known().get(&field.type_name) {
                Some(Known::Enum(values)) => values
                    .iter()
                    .find(|(value, _)| *value == number)
                    .map_or_else(|| Value::from(number), |(_, name)| Value::String(name.to_string())),
                _ => Value::from(number),
            }
        }
        Type::Group | Type::Message => return None,
    })
}

const fn packable(kind: Type) -> bool {
    !matches!(kind, Type::String | Type::Bytes | Type::Message | Type::Group)
}

const fn wire_of(kind: Type) -> WireType {
    match kind {
        Type::String | Type::Bytes | Type::Message => WireType::LengthDelimited,
        Type::Group => WireType::StartGroup,
        Type::Double | Type::Fixed64 | Type::Sfixed64 => WireType::SixtyFourBit,
        Type::Float | Type::Fixed32 | Type::Sfixed32 => WireType::ThirtyTwoBit,
        _ => WireType::Varint,
    }
}

fn skip(wire: WireType, bytes: &mut &[u8]) -> Option<()> {
    match wire {
        WireType::Varint => decode_varint(bytes).ok().map(|_| ()),
        WireType::SixtyFourBit => fixed64(bytes).map(|_| ()),
        WireType::ThirtyTwoBit => fixed32(bytes).map(|_| ()),
        WireType::LengthDelimited => take(bytes).map(|_| ()),
        WireType::StartGroup | WireType::EndGroup => None,
    }
}

fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(decode_varint(bytes).ok()?).ok()?;
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head)
}

/// The low half of a varint: negative 32-bit numbers are written sign-extended to 64 bits.
fn low32(bytes: &mut &[u8]) -> Option<u32> {
    let raw = decode_varint(bytes).ok()?;
    u32::try_from(raw & 0xffff_ffff).ok()
}

fn fixed64(bytes: &mut &[u8]) -> Option<u64> {
    bytes.try_get_u64_le().ok()
}

fn fixed32(bytes: &mut &[u8]) -> Option<u32> {
    bytes.try_get_u32_le().ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::events;

    #[test]
    fn names_are_bare_and_read_with_or_without_a_host() {
        let options = crate::containerd::runc::v1::Options { root: "/r".into(), ..Default::default() };
        let mut any = pack("containerd.runc.v1.Options", &options);
        assert_eq!(any.type_url, "containerd.runc.v1.Options");
        any.type_url.insert_str(0, "type.googleapis.com/");
        let back: crate::containerd::runc::v1::Options = unpack("containerd.runc.v1.Options", &any).unwrap();
        assert_eq!(back, options);
        assert!(unpack::<events::TaskExit>("containerd.events.TaskExit", &any).is_err());
        let spec = Any { type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(), value: vec![] };
        assert_eq!(name(&spec), "types.containerd.io/opencontainers/runtime-spec/1/Spec");
    }

    #[test]
    fn events_read_as_json() {
        let event = events::TaskCreate {
            container_id: "c".into(),
            bundle: "/b".into(),
            rootfs: vec![crate::containerd::types::Mount {
                r#type: "bind".into(),
                options: vec!["ro".into(), "rbind".into()],
                ..Default::default()
            }],
            io: Some(events::TaskIo { stdin: "/in".into(), terminal: true, ..Default::default() }),
            pid: 7,
            ..Default::default()
        };
        let json = to_json(&pack("containerd.events.TaskCreate", &event)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"container_id": "c", "bundle": "/b", "rootfs": [{"type": "bind", "options": ["ro", "rbind"]}],
                "io": {"stdin": "/in", "terminal": true}, "pid": 7})
        );
        assert_eq!(field(&json, &["io", "stdin"]).as_deref(), Some("/in"));
        assert_eq!(field(&json, &["io", "terminal"]).as_deref(), Some("true"));
        assert_eq!(field(&json, &["pid"]), None);
    }

    #[test]
    fn labels_are_found_by_keys_with_dots() {
        let event = events::NamespaceCreate { name: "n".into(), labels: [("a.b/c".to_owned(), "d".to_owned())].into() };
        let json = to_json(&pack("containerd.events.NamespaceCreate", &event)).unwrap();
        assert_eq!(field(&json, &["labels", "a", "b/c"]).as_deref(), Some("d"));
    }

    #[test]
    fn what_is_no_message_is_none() {
        assert_eq!(to_json(&Any { type_url: "no.such.Type".into(), value: vec![] }), None);
        assert_eq!(to_json(&Any { type_url: "containerd.events.TaskExit".into(), value: vec![0x0a, 0xff] }), None);
    }
}
