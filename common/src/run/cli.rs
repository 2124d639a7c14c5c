//! The command line's errors in the form of all other errors, and with Docker's exit status.

use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::run::process::heed_children;
use crate::sys::error::{Error, RUNTIME_FAILED, Result};

pub mod docker;

/// The whole of a runtime's `main`: parses the command line into `C`, runs, and turns the outcome into an
/// exit status. Errors go to stderr after the program's name, which is given, as clap would have to build all
/// of its tables a second time to tell it.
pub fn main<C: Parser>(program: &str, run: impl FnOnce(&C) -> Result<u8>) -> ExitCode {
    let status = match C::try_parse() {
        Ok(cli) => heed_children().and_then(|()| run(&cli)),
        // `--help` and `--version` arrive as errors, too.
        Err(help) if matches!(help.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return if help.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::from(RUNTIME_FAILED) };
        }
        Err(error) => Err(in_two_lines(&error, program)),
    };
    status
        .unwrap_or_else(|error| {
            error.report(program);
            error.status()
        })
        .into()
}

/// clap writes a paragraph with the usage. Its first line says it all; a tip, where there is one, is the
/// hint.
pub(crate) fn in_two_lines(error: &clap::Error, program: &str) -> Error {
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n");
    let what = paragraphs.next().unwrap_or_default().trim_start_matches("error: ");
    let what = what.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let tip = paragraphs.find_map(|paragraph| paragraph.trim().strip_prefix("tip: "));
    // After an option that is none, `--` would make a command of it.
    let tip = tip.filter(|tip| !(what.starts_with("unexpected argument") && tip.contains("as a value")));
    let hint = tip.and_then(|tip| tip.lines().next()).map(str::to_owned);
    let hint = of_docker(error).or(hint);
    Error::new(what).hint(hint.unwrap_or_else(|| format!("'{program} --help' lists the options")))
}

/// What `docker run` means by an option that this runtime lacks.
fn of_docker(error: &clap::Error) -> Option<String> {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(name)) if error.kind() == ErrorKind::UnknownArgument => {
            Some(format!("docker run has it; here: {}", docker::about(name)?))
        }
        _ => None,
    }
}
