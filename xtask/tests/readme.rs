//! What the documentation shows is what happens: one test for each session, named after its place.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use xtask::readme::{self, Sandbox};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = vec![Trial::test("tables", || Ok(readme::compare_tables()?))];
    let mut blocks = Vec::new();
    for file in readme::documents().unwrap() {
        // A malformed document is one failed test, and the others still run.
        match readme::blocks(&file) {
            Ok(found) => blocks.extend(found),
            Err(error) => trials.push(Trial::test(file.display().to_string(), move || Err(error.into()))),
        }
    }
    // Listing must not build.
    let sandbox = if arguments.list { None } else { Some(Arc::new(Sandbox::new().unwrap())) };
    for block in blocks {
        let sandbox = sandbox.clone();
        let skipped = block.skipped();
        let name = match &skipped {
            Some(reason) => format!("{} (not run: {reason})", block.name),
            None => block.name.clone(),
        };
        let run = move || block.check(sandbox.as_ref().ok_or("no sandbox")?).map_err(Failed::from);
        trials.push(Trial::test(name, run).with_ignored_flag(skipped.is_some()));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
