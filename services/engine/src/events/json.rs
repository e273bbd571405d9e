//! Any of our messages as JSON, by the descriptors that the API is generated from: proto names, numbers as numbers, times as
//! RFC 3339.

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{Any, DescriptorProto, FieldDescriptorProto, FileDescriptorSet, Timestamp};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::OnceLock;

/// Deepest nesting that is read.
const DEPTH_MAX: usize = 32;

/// The message in an `Any`; none where its type is not known or its bytes are not of it.
pub(super) fn decode(any: &Any) -> Option<Value> {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    message(name, &any.value, 0)
}

/// Messages by full name, without a leading dot.
fn types() -> &'static HashMap<String, DescriptorProto> {
    static TYPES: OnceLock<HashMap<String, DescriptorProto>> = OnceLock::new();
    TYPES.get_or_init(|| {
        let set = FileDescriptorSet::decode(crated_api::DESCRIPTORS).unwrap_or_default();
        let mut types = HashMap::new();
        for file in set.file {
            let package = file.package.unwrap_or_default();
            for message in file.message_type {
                add(&mut types, &package, message);
            }
        }
        types
    })
}

fn add(types: &mut HashMap<String, DescriptorProto>, prefix: &str, mut message: DescriptorProto) {
    let name = format!("{prefix}.{}", message.name());
    for nested in std::mem::take(&mut message.nested_type) {
        add(types, &name, nested);
    }
    types.insert(name, message);
}

fn message(name: &str, bytes: &[u8], depth: usize) -> Option<Value> {
    if depth > DEPTH_MAX {
        return None;
    }
    if name == "google.protobuf.Timestamp" {
        return Some(Value::String(crate::inspect::time(Some(&Timestamp::decode(bytes).ok()?))));
    }
    let known = types().get(name)?;
    let mut value = Map::new();
    let mut rest = bytes;
    while rest.has_remaining() {
        let (tag, wire) = decode_key(&mut rest).ok()?;
        let field = known.field.iter().find(|field| field.number == i32::try_from(tag).ok());
        let raw = Raw::read(wire, &mut rest)?;
        if let Some(field) = field {
            put(&mut value, field, raw, depth)?;
        }
    }
    Some(Value::Object(value))
}

/// A field's bytes as they stand on the wire.
enum Raw<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Raw<'a> {
    fn read(wire: WireType, rest: &mut &'a [u8]) -> Option<Self> {
        Some(match wire {
            WireType::Varint => Raw::Number(decode_varint(rest).ok()?),
            WireType::SixtyFourBit => Raw::Number(rest.try_get_u64_le().ok()?),
            WireType::ThirtyTwoBit => Raw::Number(rest.try_get_u32_le().ok()?.into()),
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
                let (bytes, after) = rest.split_at_checked(length)?;
                *rest = after;
                Raw::Bytes(bytes)
            }
            WireType::StartGroup | WireType::EndGroup => return None,
        })
    }
}

fn put(into: &mut Map<String, Value>, field: &FieldDescriptorProto, raw: Raw<'_>, depth: usize) -> Option<()> {
    let name = field.name().to_owned();
    if field.label() != Label::Repeated {
        into.insert(name, one(field, &raw, depth)?);
        return Some(());
    }
    if let (Type::Message, Raw::Bytes(bytes)) = (field.r#type(), &raw) {
        let type_name = field.type_name().trim_start_matches('.');
        let known = types().get(type_name);
        if known.and_then(|known| known.options.as_ref()).is_some_and(|options| options.map_entry()) {
            let entry = message(type_name, bytes, depth + 1)?;
            let key = match entry.get("key") {
                Some(Value::String(key)) => key.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            };
            let map = into.entry(name).or_insert_with(|| Value::Object(Map::new()));
            map.as_object_mut()?
                .insert(key, entry.get("value").cloned().unwrap_or_else(|| Value::String(String::new())));
            return Some(());
        }
    }
    let list = into.entry(name).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()?;
    match (&raw, field.r#type()) {
        (Raw::Bytes(packed), kind) if !matches!(kind, Type::String | Type::Bytes | Type::Message) => {
            let mut rest = *packed;
            while rest.has_remaining() {
                let wire = match kind {
                    Type::Double | Type::Fixed64 | Type::Sfixed64 => WireType::SixtyFourBit,
                    Type::Float | Type::Fixed32 | Type::Sfixed32 => WireType::ThirtyTwoBit,
                    _ => WireType::Varint,
                };
                let each = Raw::read(wire, &mut rest)?;
                list.push(one(field, &each, depth)?);
            }
        }
        _ => list.push(one(field, &raw, depth)?),
    }
    Some(())
}

fn one(field: &FieldDescriptorProto, raw: &Raw<'_>, depth: usize) -> Option<Value> {
    Some(match (raw, field.r#type()) {
        (Raw::Bytes(bytes), Type::String) => Value::String(String::from_utf8_lossy(bytes).into_owned()),
        (Raw::Bytes(bytes), Type::Bytes) => Value::String(crate::names::hex(bytes)),
        (Raw::Bytes(bytes), Type::Message) => message(field.type_name().trim_start_matches('.'), bytes, depth + 1)?,
        (Raw::Number(number), Type::Bool) => Value::Bool(*number != 0),
        (Raw::Number(number), Type::Int64 | Type::Sfixed64) => number.cast_signed().into(),
        #[allow(clippy::cast_possible_truncation)] // the wire has 32-bit numbers in 64 bits
        (Raw::Number(number), Type::Int32 | Type::Sfixed32 | Type::Enum) => (*number as u32).cast_signed().into(),
        (Raw::Number(number), Type::Sint32 | Type::Sint64) => {
            ((number >> 1).cast_signed() ^ -(number & 1).cast_signed()).into()
        }
        (Raw::Number(number), Type::Double) => f64::from_bits(*number).into(),
        #[allow(clippy::cast_possible_truncation)] // as above
        (Raw::Number(number), Type::Float) => f32::from_bits(*number as u32).into(),
        (Raw::Number(number), _) => (*number).into(),
        (Raw::Bytes(_), _) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crated_api::containerd::events::{ContainerUpdate, TaskCreate, TaskExit, TaskIo};
    use serde_json::json;

    fn told(name: &str, message: &impl Message) -> Option<Value> {
        decode(&Any { type_url: name.into(), value: message.encode_to_vec() })
    }

    #[test]
    fn events_are_told_by_their_proto_names() {
        let exit = TaskExit {
            container_id: "c".into(),
            id: "c".into(),
            pid: 7,
            exit_status: 137,
            exited_at: Some(Timestamp { seconds: 1, nanos: 0 }),
        };
        assert_eq!(
            told("containerd.events.TaskExit", &exit).unwrap(),
            json!({"container_id": "c", "id": "c", "pid": 7, "exit_status": 137, "exited_at": "1970-01-01T00:00:01Z"})
        );
        assert!(told("type.googleapis.com/containerd.events.TaskExit", &exit).is_some());
    }

    #[test]
    fn maps_and_nested_messages_are_told() {
        let update = ContainerUpdate {
            id: "c".into(),
            labels: [("a.b".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        assert_eq!(
            told("containerd.events.ContainerUpdate", &update).unwrap(),
            json!({"id": "c", "labels": {"a.b": "1"}})
        );
        let create = TaskCreate {
            container_id: "c".into(),
            io: Some(TaskIo { stdout: "x".into(), terminal: true, ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(
            told("containerd.events.TaskCreate", &create).unwrap(),
            json!({"container_id": "c", "io": {"stdout": "x", "terminal": true}})
        );
    }

    #[test]
    fn bytes_that_are_no_message_are_not_told() {
        assert!(decode(&Any { type_url: "containerd.events.TaskExit".into(), value: vec![0xff; 40] }).is_none());
        assert!(decode(&Any { type_url: "unknown.Type".into(), value: vec![] }).is_none());
        assert_eq!(decode(&Any { type_url: "containerd.events.TaskExit".into(), value: vec![] }), Some(json!({})));
    }
}
