//! `--format`: the part of Go's templates that people type after `docker inspect`.
//!
//! Known: text, `{{.A.B}}`, `{{.}}`, `{{json X}}`, `{{index X "key"|n …}}`, `{{len X}}`, `{{upper X}}`, `{{lower X}}`,
//! `{{title X}}`, `{{join X ","}}`, `{{println …}}`, `{{range X}}…{{else}}…{{end}}`, `{{range $k, $v := X}}`,
//! `{{if X}}…{{else}}…{{end}}`, `{{with X}}…{{end}}`, `eq`, `ne`, `not`, `and`, `or`, parentheses, pipes, and trimming
//! (`{{-`, `-}}`). Anything else is an error that shows the place.

use anyhow::{Result, bail};
use serde_json::Value;

mod eval;
mod parse;

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<parse::Node>,
}

impl Template {
    /// Parses; `json` alone means `{{json .}}`, as docker has it.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let text = if text == "json" { "{{json .}}" } else { text };
        let text = text.strip_prefix("table ").unwrap_or(text).replace("\\t", "\t").replace("\\n", "\n");
        let mut parser = parse::Parser::new(&text)?;
        let (nodes, ended) = parser.nodes()?;
        if let Some(ended) = ended {
            bail!("template: unexpected {{{{{ended}}}}}");
        }
        Ok(Self { nodes })
    }

    /// Fills in `data`.
    pub(crate) fn render(&self, data: &Value) -> Result<String> {
        let mut out = String::new();
        let mut scope = eval::Scope::new(data);
        eval::nodes(&self.nodes, data, &mut scope, &mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str) -> String {
        let data = json!({
            "State": {"Pid": 7, "Running": true, "ExitCode": 0},
            "Name": "/web",
            "Config": {"Env": ["A=1", "B=2"], "Labels": {"a.b": "x"}},
            "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]},
        });
        Template::parse(template).unwrap().render(&data).unwrap()
    }

    #[test]
    fn what_people_type_works() {
        for (template, expected) in [
            ("{{.State.Pid}}", "7"),
            ("{{.State.Running}} {{.Name}}", "true /web"),
            ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
            ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
            (r#"{{index .Config.Labels "a.b"}}"#, "x"),
            (r#"{{(index (index .Ports "80/tcp") 0).HostPort}}"#, "8080"),
            (r#"{{join .Config.Env ","}}"#, "A=1,B=2"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{if eq .State.ExitCode 0}}ok{{end}}", "ok"),
            ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "a.b=x;"),
            ("{{.Missing}}", "<no value>"),
            ("{{.Name | upper}}", "/WEB"),
            ("a {{- .State.Pid -}} b", "a7b"),
            ("{{len .Config.Env}}", "2"),
            ("{{with .State}}{{.Pid}}{{end}}", "7"),
            ("{{if and .State.Running (not .Missing)}}y{{end}}", "y"),
        ] {
            assert_eq!(render(template), expected, "{template}");
        }
    }

    #[test]
    fn mistakes_are_shown() {
        for bad in ["{{.A", "{{end}}", "{{frobnicate .A}}", "{{if .A}}", "{{.A | }}"] {
            let outcome = Template::parse(bad).and_then(|template| template.render(&json!({"A": 1})));
            assert!(outcome.is_err(), "{bad}");
        }
    }
}
