//! From a template's text to nodes.

use anyhow::{Context, Result, bail};

/// A piece of a template.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    Print(Pipe),
    If { condition: Pipe, yes: Vec<Node>, no: Vec<Node> },
    With { value: Pipe, yes: Vec<Node>, no: Vec<Node> },
    Range { names: Vec<String>, value: Pipe, body: Vec<Node>, empty: Vec<Node> },
}

/// Commands joined by `|`: each takes the one before as its last argument.
pub(super) type Pipe = Vec<Vec<Term>>;

/// One word of a command.
#[derive(Clone, Debug)]
pub(super) enum Term {
    Function(String),
    /// `.A.B`, from the dot.
    Field(Vec<String>),
    /// `$name.A`.
    Variable(String, Vec<String>),
    Text(String),
    Number(serde_json::Number),
    Bool(bool),
    /// `( … ).A`
    Group(Pipe, Vec<String>),
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Action(String),
}

/// Reads nodes one after another.
#[derive(Debug)]
pub(super) struct Parser {
    pieces: std::vec::IntoIter<Piece>,
}

impl Parser {
    pub(super) fn new(text: &str) -> Result<Self> {
        let mut pieces = Vec::new();
        let mut rest = text;
        let mut trim = false;
        while let Some(start) = rest.find("{{") {
            let mut before = &rest[..start];
            let inside = &rest[start + 2..];
            let end = inside.find("}}").with_context(|| format!("template: {{{{ without }}}} at {inside:?}"))?;
            let mut action = &inside[..end];
            if trim {
                before = before.trim_start();
            }
            if let Some(rest) = action.strip_prefix("- ") {
                before = before.trim_end();
                action = rest;
            }
            trim = action.ends_with(" -");
            let action = action.strip_suffix(" -").unwrap_or(action).trim();
            pieces.push(Piece::Text(before.into()));
            if !action.starts_with("/*") {
                pieces.push(Piece::Action(action.into()));
            }
            rest = &inside[end + 2..];
        }
        pieces.push(Piece::Text(if trim { rest.trim_start() } else { rest }.into()));
        Ok(Self { pieces: pieces.into_iter() })
    }

    /// Nodes up to the end, or to `end` or `else`, which is answered.
    pub(super) fn nodes(&mut self) -> Result<(Vec<Node>, Option<String>)> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let action = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(action) => action,
            };
            let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
            match word {
                "end" | "else" => return Ok((nodes, Some(action))),
                "if" => {
                    let condition = pipe(rest)?;
                    let (yes, no) = self.branches("if")?;
                    nodes.push(Node::If { condition, yes, no });
                }
                "with" => {
                    let value = pipe(rest)?;
                    let (yes, no) = self.branches("with")?;
                    nodes.push(Node::With { value, yes, no });
                }
                "range" => {
                    let (names, value) = match rest.split_once(":=") {
                        Some((names, value)) => (names.split(',').map(|name| name.trim().to_owned()).collect(), value),
                        None => (Vec::new(), rest),
                    };
                    let value = pipe(value)?;
                    let (body, empty) = self.branches("range")?;
                    nodes.push(Node::Range { names, value, body, empty });
                }
                _ => nodes.push(Node::Print(pipe(&action)?)),
            }
        }
        Ok((nodes, None))
    }

    fn branches(&mut self, of: &str) -> Result<(Vec<Node>, Vec<Node>)> {
        let (yes, ended) = self.nodes()?;
        match ended.as_deref() {
            Some("end") => Ok((yes, Vec::new())),
            Some("else") => match self.nodes()? {
                (no, Some(end)) if end == "end" => Ok((yes, no)),
                _ => bail!("template: {{{{{of}}}}} without {{{{end}}}}"),
            },
            Some(more) if more.starts_with("else if ") => {
                let condition = pipe(&more["else if ".len()..])?;
                let (inner, no) = self.branches("else if")?;
                Ok((yes, vec![Node::If { condition, yes: inner, no }]))
            }
            _ => bail!("template: {{{{{of}}}}} without {{{{end}}}}"),
        }
    }
}

fn pipe(text: &str) -> Result<Pipe> {
    let mut chars = text.trim().chars().peekable();
    let found = commands(&mut chars, false)?;
    if found.iter().any(Vec::is_empty) {
        bail!("template: {text:?} has an empty command");
    }
    Ok(found)
}

type Chars<'t> = std::iter::Peekable<std::str::Chars<'t>>;

fn commands(chars: &mut Chars<'_>, inner: bool) -> Result<Pipe> {
    let mut pipe = vec![Vec::new()];
    loop {
        let Some(&next) = chars.peek() else {
            if inner {
                bail!("template: ( without )");
            }
            return Ok(pipe);
        };
        match next {
            ' ' | '\t' | '\n' => {
                chars.next();
            }
            '|' => {
                chars.next();
                pipe.push(Vec::new());
            }
            ')' if inner => {
                chars.next();
                return Ok(pipe);
            }
            _ => {
                let term = term(chars)?;
                pipe.last_mut().context("a pipe has a command")?.push(term);
            }
        }
    }
}

fn term(chars: &mut Chars<'_>) -> Result<Term> {
    match chars.peek() {
        Some('(') => {
            chars.next();
            let inner = commands(chars, true)?;
            Ok(Term::Group(inner, fields(&word(chars))))
        }
        Some('"') => {
            chars.next();
            let mut text = String::new();
            loop {
                match chars.next() {
                    Some('"') => return Ok(Term::Text(text)),
                    Some('\\') => match chars.next() {
                        Some('n') => text.push('\n'),
                        Some('t') => text.push('\t'),
                        Some(other) => text.push(other),
                        None => bail!("template: unterminated string"),
                    },
                    Some(other) => text.push(other),
                    None => bail!("template: unterminated string"),
                }
            }
        }
        Some('`') => {
            chars.next();
            let text: String = chars.take_while(|next| *next != '`').collect();
            Ok(Term::Text(text))
        }
        _ => {
            let word = word(chars);
            if let Some(path) = word.strip_prefix('.') {
                return Ok(Term::Field(fields(path)));
            }
            if word.starts_with('$') {
                let (name, path) = word.split_once('.').unwrap_or((&word, ""));
                return Ok(Term::Variable(name.into(), fields(path)));
            }
            if let Ok(number) = word.parse() {
                return Ok(Term::Number(number));
            }
            match word.as_str() {
                "true" => Ok(Term::Bool(true)),
                "false" => Ok(Term::Bool(false)),
                "" => bail!("template: unexpected {:?}", chars.next().unwrap_or(' ')),
                _ => Ok(Term::Function(word)),
            }
        }
    }
}

fn word(chars: &mut Chars<'_>) -> String {
    let mut word = String::new();
    while let Some(next) = chars.next_if(|next| !next.is_whitespace() && !matches!(next, '|' | '(' | ')' | '"')) {
        word.push(next);
    }
    word
}

fn fields(path: &str) -> Vec<String> {
    path.split('.').filter(|field| !field.is_empty()).map(str::to_owned).collect()
}
