//! Tries this step's binary: it keeps the promises of this step and of the steps before it. It does not yet
//! do what later steps are about. The promises are in `checks`.

use std::process::ExitCode;

fn main() -> ExitCode {
    const BINARY: &str = env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME")));
    checks::acceptance::main(env!("CARGO_PKG_NAME"), BINARY)
}
