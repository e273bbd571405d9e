//! crated-oci: the command line of runc over the library, or the init of a container that it starts.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|a| a == "init") {
        crated_oci::init_main();
    }
    crated_oci::cli::main()
}
