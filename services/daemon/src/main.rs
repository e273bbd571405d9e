//! `crated`, the daemon's program.

fn main() -> std::process::ExitCode {
    crated_daemon::cli::main()
}
