//! crated-oci: the command line of runc over the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("init") {
        crated_oci::init_main();
    }
    ExitCode::FAILURE
}
