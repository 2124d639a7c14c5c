//! What this step and the steps before it promise, tried against this step's binary; and that it does not yet
//! do what later steps are about. The promises are in `checks`.

use std::process::ExitCode;

fn main() -> ExitCode {
    const BINARY: &str = env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME")));
    checks::acceptance::main(env!("CARGO_PKG_NAME"), BINARY)
}
