//! The filter language of containerd's list and subscribe calls: `type==x, labels."a.b"~=^y`.
//!
//! A list of filters passes an object when any of them matches, or when there are none. One filter is
//! `selector ("," selector)*` and all its selectors must hold; `selector := field ("." field)* [op value]` with `op` one of
//! `==`, `!=`, `~=`. An empty filter matches everything. A value that starts with `"`, `/` or `|` is always quoted, and only
//! `"` is a quote after `==` and `!=`; so `topic==/tasks/exit` is an error and `topic=="/tasks/exit"` is right.

use crate::error::{Error, Result};
use crate::label::Labels;
use regex::Regex;
use std::borrow::Cow;
use std::iter::Peekable;
use std::str::CharIndices;

/// Longest filter that is parsed, in bytes.
pub const FILTER_MAX: usize = 16 * 1024;
/// Most filters of one request.
pub const FILTERS_MAX: usize = 256;
/// Largest compiled regular expression, in bytes; one that needs more matches nothing.
const REGEX_MAX: usize = 1 << 20;

/// An object that can be filtered: it answers its fields by path.
pub trait Adaptor {
    /// The value of the field at `path` (never empty), or `None` where the object has no such field.
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>>;
}

/// Looks `path` up in a map field: the parts are joined by dots to one key (`labels.a.b` is key `a.b`).
///
/// ```
/// # use crated_types::{Labels, filter::map_field};
/// let labels = Labels::from([("a.b".into(), "c".into())]);
/// assert_eq!(map_field(&labels, &["a", "b"]).as_deref(), Some("c"));
/// assert_eq!(map_field(&labels, &[]), None);
/// ```
#[must_use]
pub fn map_field<'a>(map: &'a Labels, path: &[&str]) -> Option<Cow<'a, str>> {
    match path {
        [] => None,
        [key] => map.get(*key),
        parts => map.get(&parts.join(".")),
    }
    .map(|value| Cow::Borrowed(value.as_str()))
}

/// Filters of which any may match.
#[derive(Clone, Debug, Default)]
pub struct Filters(Vec<Filter>);

impl Filters {
    /// Whether `object` passes.
    #[must_use]
    pub fn matches(&self, object: &dyn Adaptor) -> bool {
        self.0.is_empty() || self.0.iter().any(|filter| filter.matches(object))
    }

    /// Whether every object passes, whatever its fields.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.is_empty() || self.0.iter().any(|filter| filter.0.is_empty())
    }

    /// The value that `field` must equal for any match, where the filters say so: lets a list become one look-up.
    #[must_use]
    pub fn required(&self, field: &str) -> Option<&str> {
        let [Filter(selectors)] = self.0.as_slice() else { return None };
        selectors.iter().find_map(|selector| match &selector.test {
            Test::Equal(value) if selector.path == [field] => Some(value.as_str()),
            _ => None,
        })
    }
}

/// One filter: selectors that must all hold.
#[derive(Clone, Debug)]
pub struct Filter(Vec<Selector>);

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    /// `None` is an expression that does not compile; it matches nothing.
    Match(Option<Regex>),
}

impl Filter {
    /// Parses one filter.
    ///
    /// # Errors
    /// [`crate::Fault::Invalid`] with the place of the fault.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > FILTER_MAX {
            return Err(Error::invalid("filters", format_args!("a filter is longer than {FILTER_MAX} bytes")));
        }
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let mut parser = Parser { text, chars: text.char_indices().peekable() };
        let mut selectors = vec![parser.selector()?];
        while parser.skip_to_separator()? {
            selectors.push(parser.selector()?);
        }
        Ok(Self(selectors))
    }

    /// Parses the filters of a request.
    ///
    /// # Errors
    /// [`crate::Fault::Invalid`] with the place of the fault.
    pub fn parse_all(texts: &[String]) -> Result<Filters> {
        if texts.len() > FILTERS_MAX {
            return Err(Error::invalid("filters", format_args!("more than {FILTERS_MAX} filters")));
        }
        texts.iter().map(|text| Self::parse(text)).collect::<Result<_>>().map(Filters)
    }

    /// Whether every selector holds for `object`.
    #[must_use]
    pub fn matches(&self, object: &dyn Adaptor) -> bool {
        self.0.iter().all(|selector| selector.matches(object))
    }
}

impl Selector {
    fn matches(&self, object: &dyn Adaptor) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let value = object.field(&path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.is_some_and(|value| value == wanted.as_str()),
            Test::NotEqual(wanted) => value.is_none_or(|value| value != wanted.as_str()),
            Test::Match(regex) => value.is_some_and(|value| regex.as_ref().is_some_and(|regex| regex.is_match(&value))),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
}

impl Parser<'_> {
    fn error(&mut self, expected: &str) -> Error {
        let text = self.text;
        match self.chars.peek() {
            Some((at, found)) => {
                Error::invalid("filters", format_args!("{text:?}: expected {expected} at byte {at}, found {found:?}"))
            }
            None => Error::invalid("filters", format_args!("{text:?}: expected {expected} at its end")),
        }
    }

    fn peek(&mut self) -> Option<char> {
        self.chars.peek().map(|(_, char)| *char)
    }

    fn skip_space(&mut self) {
        while self.chars.next_if(|(_, char)| char.is_whitespace()).is_some() {}
    }

    /// Whether another selector follows.
    fn skip_to_separator(&mut self) -> Result<bool> {
        self.skip_space();
        match self.peek() {
            None => Ok(false),
            Some(',') => {
                self.chars.next();
                Ok(true)
            }
            Some(_) => Err(self.error("a comma or the end")),
        }
    }

    fn selector(&mut self) -> Result<Selector> {
        let mut path = vec![self.field()?];
        loop {
            self.skip_space();
            match self.peek() {
                Some('.') => {
                    self.chars.next();
                    path.push(self.field()?);
                }
                None | Some(',') => return Ok(Selector { path, test: Test::Present }),
                Some('=' | '!' | '~') => break,
                Some(_) => return Err(self.error("an operator (==, !=, ~=), a dot or a comma")),
            }
        }
        let mut operator = String::new();
        while let Some((_, char)) = self.chars.next_if(|(_, char)| matches!(char, '=' | '!' | '~')) {
            operator.push(char);
        }
        let test = match operator.as_str() {
            "==" => Test::Equal(self.value(false)?),
            "!=" => Test::NotEqual(self.value(false)?),
            "~=" => {
                let pattern = self.value(true)?;
                Test::Match(regex::RegexBuilder::new(&pattern).size_limit(REGEX_MAX).build().ok())
            }
            _ => return Err(self.error("one of the operators ==, != and ~= before this place")),
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String> {
        self.skip_space();
        if self.peek() == Some('"') {
            return self.quoted();
        }
        let mut name = String::new();
        while let Some((_, char)) = self.chars.next_if(|(_, char)| char.is_ascii_alphanumeric() || *char == '_') {
            name.push(char);
        }
        if name.is_empty() { Err(self.error("a field name")) } else { Ok(name) }
    }

    fn value(&mut self, any_quote: bool) -> Result<String> {
        self.skip_space();
        match self.peek() {
            Some('"') => self.quoted(),
            Some('/' | '|') if any_quote => self.quoted(),
            Some('/' | '|') => Err(self.error("a value (one that starts with / or | needs \"quotes\")")),
            None | Some(',' | '=' | '!' | '~') => Err(self.error("a value")),
            Some(_) => {
                let mut value = String::new();
                while let Some((_, char)) = self.chars.next_if(|(_, char)| *char != ',' && !char.is_whitespace()) {
                    value.push(char);
                }
                Ok(value)
            }
        }
    }

    /// A quoted string with Go's escapes; between `/` or `|` an escape that Go does not know belongs to the expression.
    fn quoted(&mut self) -> Result<String> {
        let Some((_, quote)) = self.chars.next() else { return Err(self.error("a quote")) };
        let mut bytes = Vec::new();
        loop {
            match self.chars.next() {
                Some((_, char)) if char == quote => break,
                Some((_, '\n')) | None => return Err(self.error("a closing quote")),
                Some((_, '\\')) => self.escape(quote, &mut bytes)?,
                Some((_, char)) => bytes.extend(char.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        String::from_utf8(bytes).map_err(|_| self.error("UTF-8 in the quoted text before this place"))
    }

    fn escape(&mut self, quote: char, bytes: &mut Vec<u8>) -> Result<()> {
        let Some(char) = self.peek() else { return Err(self.error("an escaped character")) };
        let simple = match char {
            'a' => Some(7),
            'b' if quote == '"' => Some(8), // a word boundary in an expression
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' if quote == '"' => Some(b'\\'),
            _ if char == quote => Some(quote as u8),
            _ => None,
        };
        if let Some(byte) = simple {
            self.chars.next();
            bytes.push(byte);
            return Ok(());
        }
        if quote != '"' {
            self.chars.next();
            bytes.push(b'\\');
            bytes.extend(char.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(());
        }
        match char {
            '0'..='7' => {
                let number = self.number(3, 8)?;
                bytes.push(u8::try_from(number).map_err(|_| self.error("an octal escape up to \\377"))?);
            }
            'x' => {
                self.chars.next();
                let number = self.number(2, 16)?;
                bytes.push(u8::try_from(number).expect("two hexadecimal digits are a byte"));
            }
            'u' | 'U' => {
                self.chars.next();
                let number = self.number(if char == 'u' { 4 } else { 8 }, 16)?;
                let decoded = char::from_u32(number).ok_or_else(|| self.error("a Unicode scalar before this place"))?;
                bytes.extend(decoded.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return Err(self.error("one of the escapes of a quoted string")),
        }
        Ok(())
    }

    fn number(&mut self, digits: usize, radix: u32) -> Result<u32> {
        let mut number = 0_u32;
        for _ in 0..digits {
            match self.peek().and_then(|char| char.to_digit(radix)) {
                Some(digit) => number = number.wrapping_mul(radix).wrapping_add(digit),
                None => return Err(self.error("a digit of an escape")),
            }
            self.chars.next();
        }
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fault;
    use proptest::prelude::*;

    struct Object(Labels);

    impl Adaptor for Object {
        fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
            match path {
                ["id"] => Some("web-1".into()),
                ["topic"] => Some("/tasks/exit".into()),
                ["parent"] => Some("".into()),
                ["runtime", "name"] => Some("io.containerd.crated.v2".into()),
                ["labels", rest @ ..] => map_field(&self.0, rest),
                _ => None,
            }
        }
    }

    fn object() -> Object {
        Object(Labels::from(
            [("a.b", "1"), ("nerdctl/name", "x"), ("nets", r#"["net"]"#), ("empty", "")]
                .map(|(key, value)| (key.into(), value.into())),
        ))
    }

    fn matches(filter: &str) -> bool {
        Filter::parse(filter).unwrap().matches(&object())
    }

    #[test]
    fn selectors_hold_as_documented() {
        for filter in [
            "",
            "id",
            "id==web-1",
            "id == web-1 , topic",
            "id==web-1, runtime.name==io.containerd.crated.v2",
            r#"topic=="/tasks/exit""#,
            r#"topic~="^/tasks/""#,
            "topic~=/^.tasks.exit$/",
            r"topic~=/^\/tasks\/exit$/",
            "topic~=|^/tasks|",
            "id~=^web",
            "id~=eb-",
            r"id~=/^web-\d$/",
            "labels.a.b==1",
            r#"labels."a.b"==1"#,
            r#"labels."nerdctl/name"==x"#,
            r#"labels.nets~="\"net\"""#,
            r#"labels."nets"~="\\\"net\\\"""#,
            "labels.empty",
            "missing!=x",
            "labels.missing!=x",
            "id!=web-2",
            r#"id=="\x77eb\u002d\061""#,
            r#"parent=="""#,
            r#"missing!="""#,
        ] {
            assert!(matches(filter), "{filter}");
        }
        for filter in [
            "missing",
            "labels",
            "labels!=x,labels",
            "id==web-2",
            "id==web-1,missing",
            "id!=web-1",
            r#"parent!="""#,
            "id~=^eb",
            "id~=(",
            "missing~=.*",
            "labels.a==1",
            "id==web-1=",
        ] {
            assert!(!matches(filter), "{filter}");
        }
    }

    #[test]
    fn malformed_filters_are_invalid_arguments() {
        for filter in [
            " ",
            ",",
            "id,",
            "id==",
            "id=",
            "id=x",
            "id==~x",
            "id~x",
            ".id",
            "id.",
            "id..x",
            "topic==/tasks/exit",
            "topic==|x|",
            "topic!=/x/",
            "id==\"x",
            "id==\"\\q\"",
            "id==\"\\xg0\"",
            "id==\"\\400\"",
            "id==\"\\ud800\"",
            "id==\"\\xff\"",
            "id==x y",
            "id x",
            "/id/==x",
            "a-b==c",
            "id~=/x",
            "id==\"x\"y",
            "id==x,,id",
        ] {
            let error = Filter::parse(filter).expect_err(filter);
            assert_eq!(error.fault(), Fault::Invalid, "{filter}");
        }
        assert!(Filter::parse(&"a".repeat(FILTER_MAX + 1)).is_err());
    }

    #[test]
    fn any_filter_of_a_list_is_enough() {
        let parse = |texts: &[&str]| Filter::parse_all(&texts.iter().map(|text| (*text).into()).collect::<Vec<_>>());
        assert!(parse(&[]).unwrap().matches(&object()));
        assert!(parse(&["missing", ""]).unwrap().matches(&object()));
        assert!(parse(&["missing", "id==web-1"]).unwrap().matches(&object()));
        assert!(!parse(&["missing", "id==x"]).unwrap().matches(&object()));
        assert!(parse(&["id==web-1", "id=="]).is_err());
        assert_eq!(parse(&["id==web-1,topic"]).unwrap().required("id"), Some("web-1"));
        assert_eq!(parse(&["id==web-1", "topic"]).unwrap().required("id"), None);
        assert!(parse(&[""]).unwrap().is_all() && !parse(&["id"]).unwrap().is_all());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = Filter::parse(&text);
        }

        #[test]
        fn syntax_soup_never_panics(text in "[a.\"/|=!~,\\\\x0u \n]{0,24}") {
            let _ = Filter::parse(&text);
        }

        #[test]
        fn a_quoted_value_is_found_again(value in "\\PC*") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let labels = Labels::from([("k".to_owned(), value)]);
            let filter = Filter::parse(&format!("labels.k==\"{quoted}\"")).unwrap();
            prop_assert!(filter.matches(&Object(labels)));
        }
    }
}
