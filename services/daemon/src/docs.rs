//! Pages of the documentation that are made from the code.

use crated_types::Fault;
use std::fmt::Write as _;

/// `docs/errors.md`.
#[must_use]
pub fn errors() -> String {
    let mut text = String::from(
        "# Errors\n\nMade by `crated docs errors`; do not edit.\n\nEvery error says what failed, on which object, in which step, why, \
         and, where there is something to do, what. Over gRPC the code and the text go as containerd's clients expect them \
         (`what \"name\": class`); beside them, in `grpc-status-details-bin`, goes a `crated.engine.v1.ErrorDetail` with the fault, \
         the step, the object and the remedy. A fault never changes its name or its meaning: scripts may match on it.\n\n\
         | fault | code | number | text ends with | meaning |\n|---|---|---|---|---|\n",
    );
    for fault in Fault::ALL {
        let code = fault.code();
        let class = if code == crated_types::Code::Unknown { String::new() } else { format!("`: {}`", code.class()) };
        let meaning = fault.meaning().split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(text, "| `{}` | {code:?} | {} | {class} | {meaning} |", fault.id(), code as i32);
    }
    text.push_str(
        "\n`peer` keeps the code of the peer that answered (a shim, a registry, a plugin); the code above stands for one that is \
         none of gRPC's.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// The files equal what the code says; `UPDATE_DOCS=1` writes them.
    #[test]
    fn the_pages_are_up_to_date() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        for (name, text) in [("errors.md", super::errors()), ("config.md", crate::config::docs::page())] {
            let path = folder.join(name);
            if std::env::var_os("UPDATE_DOCS").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let written = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(written == text, "{} is stale: run the tests with UPDATE_DOCS=1", path.display());
        }
    }
}
