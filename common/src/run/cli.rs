//! The command line as that of `docker run`: its habits, and its exit status for errors.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::{StringValueParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, Parser};

use crate::run::process::heed_children;
use crate::sys::error::{Error, RUNTIME_FAILED, Result};

pub mod docker;

/// The whole of a runtime's `main`: parses the command line into `C`, runs, and turns the outcome into an
/// exit status. Errors go to stderr after the program's name. The caller gives that name: to tell it, clap
/// would have to build all of its tables a second time.
pub fn main<C: Parser>(program: &str, run: impl FnOnce(&C) -> Result<u8>) -> ExitCode {
    let shown = |printed: std::io::Result<()>| {
        if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(RUNTIME_FAILED) }
    };
    let status = match parse::<C>(std::env::args_os()) {
        Ok(cli) => heed_children().and_then(|()| run(&cli)),
        // `--help` and `--version` arrive as errors, too. Switches are listed without their values.
        Err(help) if help.kind() == ErrorKind::DisplayHelp => {
            return shown(help_only(C::command()).print_help());
        }
        Err(version) if version.kind() == ErrorKind::DisplayVersion => return shown(version.print()),
        Err(error) => Err(in_two_lines(&error, program)),
    };
    status
        .unwrap_or_else(|error| {
            error.report(program);
            error.status()
        })
        .into()
}

fn parse<C: Parser>(words: impl Iterator<Item = OsString>) -> std::result::Result<C, clap::Error> {
    let mut command = with_values(help_only(C::command()));
    let mut matches = command.try_get_matches_from_mut(words)?;
    C::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// Help is `--help` alone: for `docker run`, `-h` is the host name.
fn help_only(command: Command) -> Command {
    let help = Arg::new("help").long("help").action(ArgAction::Help).help("Print help").help_heading(None);
    command.disable_help_flag(true).arg(help)
}

/// Lets each switch take a value behind `=`, as those of Docker do: `--init=false`.
fn with_values(command: Command) -> Command {
    command.mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .value_name("true|false")
            .value_parser(truth())
            .default_value("false")
            .default_missing_value("true"),
        _ => arg,
    })
}

/// The parser of a switch's value.
pub(crate) fn truth() -> impl TypedValueParser<Value = bool> {
    StringValueParser::new().try_map(|text| boolean(&text))
}

/// A truth value, as Go's `strconv.ParseBool` reads it for Docker.
fn boolean(text: &str) -> std::result::Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false"),
    }
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[derive(Debug, Parser)]
    #[command(version, args_override_self = true)]
    struct Cli {
        #[arg(short = 'h', long)]
        host: Option<String>,
        #[arg(short, long)]
        interactive: bool,
        #[arg(short, long)]
        tty: bool,
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    }

    fn read(line: &str) -> std::result::Result<Cli, clap::Error> {
        parse(std::iter::once("test").chain(line.split_whitespace()).map(OsString::from))
    }

    #[test]
    fn a_switch_takes_a_value_behind_an_equals_sign() {
        for (line, interactive, tty) in [
            ("x", false, false),
            ("-it x", true, true),
            ("-i -t x", true, true),
            ("-it=false x", true, false),
            ("--tty x", false, true),
            ("--tty=true x", false, true),
            ("-t=0 -i=1 x", true, false),
            ("--tty --tty=F x", false, false),
            ("--tty=false --tty x", false, true),
            ("--interactive=True x --tty", true, false),
        ] {
            let cli = read(line).unwrap();
            assert_eq!((cli.interactive, cli.tty), (interactive, tty), "{line}");
            assert_eq!(cli.command[0], "x", "{line}");
        }
        // Only behind `=`: else it is the command.
        assert_eq!(read("--tty false").unwrap().command, ["false"]);
        for line in ["--tty=yes", "--tty=", "-t=2", "--tty=tRUE"] {
            let error = in_two_lines(&read(line).unwrap_err(), "test").to_string();
            assert!(error.contains("--tty") && error.contains("true"), "{line}: {error}");
        }
    }

    #[test]
    fn help_is_a_long_option_alone() {
        assert_eq!(read("-h web x").unwrap().host.as_deref(), Some("web"));
        assert_eq!(read("--help").unwrap_err().kind(), ErrorKind::DisplayHelp);
        assert_eq!(read("--tty=false --help").unwrap_err().kind(), ErrorKind::DisplayHelp);
        let help = help_only(Cli::command()).render_help().to_string();
        assert!(help.contains("      --help") && help.contains("  -t, --tty"), "{help}");
        assert!(!help.contains("-h, --help") && !help.contains("true|false"), "{help}");
    }
}
