//! From nodes and data to text.

use super::parse::{Node, Pipe, Term};
use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Variables, innermost last.
#[derive(Debug)]
pub(super) struct Scope {
    variables: Vec<(String, Value)>,
}

impl Scope {
    pub(super) fn new(root: &Value) -> Self {
        Self { variables: vec![("$".into(), root.clone())] }
    }
}

/// Renders nodes with `dot` as the dot.
pub(super) fn nodes(nodes: &[Node], dot: &Value, scope: &mut Scope, out: &mut String) -> Result<()> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipe) => out.push_str(&text(&value(pipe, dot, scope)?)),
            Node::If { condition, yes, no } => {
                let branch = if truth(&value(condition, dot, scope)?) { yes } else { no };
                self::nodes(branch, dot, scope, out)?;
            }
            Node::With { value: pipe, yes, no } => {
                let inner = value(pipe, dot, scope)?;
                if truth(&inner) {
                    self::nodes(yes, &inner, scope, out)?;
                } else {
                    self::nodes(no, dot, scope, out)?;
                }
            }
            Node::Range { names, value: pipe, body, empty } => {
                let items: Vec<(Value, Value)> = match value(pipe, dot, scope)? {
                    Value::Array(items) => {
                        items.into_iter().enumerate().map(|(n, item)| (Value::from(n), item)).collect()
                    }
                    Value::Object(map) => map.into_iter().map(|(key, item)| (Value::from(key), item)).collect(),
                    Value::Null => Vec::new(),
                    other => bail!("template: range over {}", text(&other)),
                };
                if items.is_empty() {
                    self::nodes(empty, dot, scope, out)?;
                }
                for (key, item) in items {
                    let depth = scope.variables.len();
                    match names.as_slice() {
                        [] => {}
                        [one] => scope.variables.push((one.clone(), item.clone())),
                        [first, second, ..] => {
                            scope.variables.push((first.clone(), key));
                            scope.variables.push((second.clone(), item.clone()));
                        }
                    }
                    self::nodes(body, &item, scope, out)?;
                    scope.variables.truncate(depth);
                }
            }
        }
    }
    Ok(())
}

fn value(pipe: &Pipe, dot: &Value, scope: &Scope) -> Result<Value> {
    let mut last = None;
    for command in pipe {
        last = Some(run(command, last, dot, scope)?);
    }
    last.context("template: nothing to print")
}

fn run(terms: &[Term], last: Option<Value>, dot: &Value, scope: &Scope) -> Result<Value> {
    let (first, rest) = terms.split_first().context("template: empty command")?;
    let Term::Function(name) = first else {
        if !rest.is_empty() || last.is_some() {
            bail!("template: {first:?} is not a function");
        }
        return term(first, dot, scope);
    };
    let mut arguments = rest.iter().map(|term| self::term(term, dot, scope)).collect::<Result<Vec<_>>>()?;
    arguments.extend(last);
    call(name, arguments)
}

fn term(term: &Term, dot: &Value, scope: &Scope) -> Result<Value> {
    Ok(match term {
        Term::Field(path) => walk(dot, path),
        Term::Variable(name, path) => {
            let found = scope.variables.iter().rev().find(|(known, _)| known == name);
            walk(&found.with_context(|| format!("template: undefined variable {name}"))?.1, path)
        }
        Term::Text(text) => Value::from(text.as_str()),
        Term::Number(number) => Value::Number(number.clone()),
        Term::Bool(bool) => Value::Bool(*bool),
        Term::Group(pipe, path) => walk(&value(pipe, dot, scope)?, path),
        Term::Function(name) => call(name, Vec::new())?,
    })
}

fn walk(from: &Value, path: &[String]) -> Value {
    path.iter().try_fold(from, |value, field| value.get(field)).cloned().unwrap_or(Value::Null)
}

fn call(name: &str, mut arguments: Vec<Value>) -> Result<Value> {
    let wrong = || format!("template: wrong arguments of {name}");
    Ok(match (name, arguments.as_slice()) {
        ("json", [value]) => Value::from(serde_json::to_string(value)?),
        ("len", [Value::Array(items)]) => Value::from(items.len()),
        ("len", [Value::Object(map)]) => Value::from(map.len()),
        ("len", [Value::String(text)]) => Value::from(text.len()),
        ("len", [Value::Null]) => Value::from(0),
        ("upper", [value]) => Value::from(text(value).to_uppercase()),
        ("lower", [value]) => Value::from(text(value).to_lowercase()),
        ("title", [value]) => {
            let text = text(value);
            let mut chars = text.chars();
            Value::from(
                chars.next().map(|first| first.to_uppercase().chain(chars).collect::<String>()).unwrap_or_default(),
            )
        }
        ("join", [Value::Array(items), separator]) => {
            Value::from(items.iter().map(text).collect::<Vec<_>>().join(&text(separator)))
        }
        ("split", [value, separator]) => {
            Value::from(text(value).split(&text(separator)).map(str::to_owned).collect::<Vec<_>>())
        }
        ("print", values) => Value::from(values.iter().map(text).collect::<String>()),
        ("println", values) => Value::from(values.iter().map(text).collect::<Vec<_>>().join(" ") + "\n"),
        ("not", [value]) => Value::Bool(!truth(value)),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => Value::Bool(rest.iter().any(|other| same(first, other))),
        ("ne", [first, second]) => Value::Bool(!same(first, second)),
        ("and", values) => values.iter().find(|value| !truth(value)).or(values.last()).cloned().with_context(wrong)?,
        ("or", values) => values.iter().find(|value| truth(value)).or(values.last()).cloned().with_context(wrong)?,
        ("index", [_, ..]) => {
            let keys = arguments.split_off(1);
            keys.iter().fold(arguments.remove(0), |value, key| {
                let found = match key {
                    Value::String(key) => value.get(key),
                    Value::Number(n) => n.as_u64().and_then(|n| value.get(usize::try_from(n).ok()?)),
                    _ => None,
                };
                found.cloned().unwrap_or(Value::Null)
            })
        }
        ("json" | "len" | "upper" | "lower" | "title" | "join" | "split" | "not" | "eq" | "ne" | "index", _) => {
            bail!("{}", wrong())
        }
        _ => bail!("template: function {name:?} is not known"),
    })
}

fn same(one: &Value, other: &Value) -> bool {
    one == other || text(one) == text(other)
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(bool) => *bool,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// A value as Go prints it.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(key, item)| format!("{key}:{}", text(item))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}
