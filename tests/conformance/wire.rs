//! Every wire fact of `wire/*.tsv` holds of our descriptors: names, numbers, labels, types, methods.
//!
//! A table has one fact a line: package, element, kind, number, label, type, name, request, its streaming, response, its
//! streaming. They were written down from containerd's published API; `google.protobuf` comes with the compiler.

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What identifies a fact.
type Key = (String, String, String);
/// What must be equal.
type Value = Vec<String>;

fn scalar(kind: Type) -> &'static str {
    match kind {
        Type::Double => "double",
        Type::Float => "float",
        Type::Int64 => "int64",
        Type::Uint64 => "uint64",
        Type::Int32 => "int32",
        Type::Fixed64 => "fixed64",
        Type::Fixed32 => "fixed32",
        Type::Bool => "bool",
        Type::String => "string",
        Type::Group => "group",
        Type::Message => "message",
        Type::Bytes => "bytes",
        Type::Uint32 => "uint32",
        Type::Enum => "enum",
        Type::Sfixed32 => "sfixed32",
        Type::Sfixed64 => "sfixed64",
        Type::Sint32 => "sint32",
        Type::Sint64 => "sint64",
    }
}

fn type_of(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum | Type::Group => field.type_name().trim_start_matches('.').into(),
        kind => scalar(kind).into(),
    }
}

fn label_and_type(field: &FieldDescriptorProto, message: &DescriptorProto, full: &str) -> (String, String) {
    let entry = message.nested_type.iter().find(|nested| {
        nested.options.as_ref().is_some_and(|options| options.map_entry())
            && field.type_name() == format!(".{full}.{}", nested.name())
    });
    if let Some(entry) = entry {
        let part = |number| entry.field.iter().find(|field| field.number() == number).map(type_of).unwrap_or_default();
        return ("map".into(), format!("map<{},{}>", part(1), part(2)));
    }
    let packable = !matches!(field.r#type(), Type::String | Type::Bytes | Type::Message | Type::Group);
    let label = if field.label() == Label::Repeated {
        let packed = field.options.as_ref().and_then(|options| options.packed);
        if packable && packed == Some(false) { "repeated unpacked".into() } else { "repeated".into() }
    } else if field.proto3_optional() {
        "optional explicit".into()
    } else if let Some(index) = field.oneof_index {
        format!("oneof:{}", message.oneof_decl[index as usize].name())
    } else {
        "optional".into()
    };
    (label, type_of(field))
}

#[derive(Default)]
struct Facts(BTreeMap<Key, Value>);

impl Facts {
    fn add(&mut self, kind: &str, element: &str, name: &str, value: &[&str]) {
        let value = value.iter().map(|text| (*text).to_owned()).collect();
        self.0.insert((kind.into(), element.into(), name.into()), value);
    }

    fn message(&mut self, prefix: &str, message: &DescriptorProto) {
        let full = format!("{prefix}{}", message.name());
        self.add("message", &full, "", &[]);
        for field in &message.field {
            let (label, kind) = label_and_type(field, message, &full);
            self.add("field", &full, &field.number().to_string(), &[&label, &kind, field.name()]);
        }
        for nested in
            message.nested_type.iter().filter(|nested| !nested.options.as_ref().is_some_and(|o| o.map_entry()))
        {
            self.message(&format!("{full}."), nested);
        }
        for nested in &message.enum_type {
            self.enumeration(&format!("{full}."), nested);
        }
    }

    fn enumeration(&mut self, prefix: &str, enumeration: &EnumDescriptorProto) {
        let full = format!("{prefix}{}", enumeration.name());
        self.add("enum", &full, "", &[]);
        for value in &enumeration.value {
            self.add("enumvalue", &full, value.name(), &[&value.number().to_string()]);
        }
    }

    fn service(&mut self, prefix: &str, service: &ServiceDescriptorProto) {
        let full = format!("{prefix}{}", service.name());
        self.add("service", &full, "", &[]);
        let streaming = |on: bool| if on { "stream" } else { "unary" };
        for method in &service.method {
            let value = [
                method.input_type().trim_start_matches('.'),
                streaming(method.client_streaming()),
                method.output_type().trim_start_matches('.'),
                streaming(method.server_streaming()),
            ];
            self.add("method", &full, method.name(), &value);
        }
    }
}

fn ours() -> Facts {
    let set = FileDescriptorSet::decode(crated_api::DESCRIPTORS).unwrap();
    let mut facts = Facts::default();
    for file in &set.file {
        let prefix = if file.package().is_empty() { String::new() } else { format!("{}.", file.package()) };
        file.service.iter().for_each(|service| facts.service(&prefix, service));
        file.message_type.iter().for_each(|message| facts.message(&prefix, message));
        file.enum_type.iter().for_each(|enumeration| facts.enumeration(&prefix, enumeration));
    }
    facts
}

fn wanted(table: &Path, wanted: &mut Facts) {
    let text = fs::read_to_string(table).unwrap();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty()
            || line.starts_with('#')
            || line.starts_with("package\telement")
            || line.starts_with("file\telement")
        {
            continue;
        }
        let columns: Vec<&str> = line.split('\t').collect();
        let [_, element, kind, n, label, of, name, request, request_stream, response, response_stream] = columns[..]
        else {
            panic!("{}:{}: {} columns", table.display(), number + 1, columns.len());
        };
        match kind {
            "field" => wanted.add(kind, element, n, &[label, of, name]),
            "enumvalue" => wanted.add(kind, element, name, &[n]),
            "method" => wanted.add(kind, element, name, &[request, request_stream, response, response_stream]),
            _ => wanted.add(kind, element, "", &[]),
        }
    }
}

#[test]
fn every_wire_fact_holds() {
    let have = ours();
    let mut want = Facts::default();
    let tables = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/wire");
    for table in fs::read_dir(tables).unwrap() {
        wanted(&table.unwrap().path(), &mut want);
    }
    let mut wrong = Vec::new();
    for (key, value) in &want.0 {
        match have.0.get(key) {
            // Messages that the runtime of prost brings itself are no part of our descriptors.
            None if key.1.starts_with("google.protobuf.") => {}
            found if found == Some(value) => {}
            found => wrong.push(format!("{key:?}: want {value:?}, have {found:?}")),
        }
    }
    assert!(want.0.len() > 1600, "only {} facts were read", want.0.len());
    assert!(wrong.is_empty(), "{} of {} facts do not hold:\n{}", wrong.len(), want.0.len(), wrong.join("\n"));
    println!("wire: {} facts hold", want.0.len());
}
