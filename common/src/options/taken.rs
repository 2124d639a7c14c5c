//! Options of `docker run` that a copied command line may have, and that change nothing here.
//!
//! A value is refused where Docker refuses it. Help does not list them; the reference in the book does.

use std::ffi::OsString;

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Args};

use crate::run::cli::docker::{Answer, OPTIONS};
use crate::run::cli::truth;

/// They are read, and forgotten.
#[derive(Debug)]
pub struct Taken;

/// The long names of the options that are yes or no for `docker run`, so that a value may be missing.
const SWITCHES: [&str; 5] = ["disable-content-trust", "no-healthcheck", "quiet", "rm", "sig-proxy"];

/// The options of docker's table that are taken in every step with options.
fn options() -> impl Iterator<Item = clap::Arg> {
    let taken = OPTIONS.iter().filter(|option| matches!(option.answer, Answer::Taken(1, _)));
    taken.map(|option| {
        let arg = clap::Arg::new(option.long).long(option.long).hide(true).action(ArgAction::Append);
        let arg = option.short.map_or(arg.clone(), |letter| arg.short(letter));
        match option.long {
            // Signals are always passed on. `false` would be another thing.
            "sig-proxy" => switch(arg).value_parser(PossibleValuesParser::new(["true", "1"])),
            long if SWITCHES.contains(&long) => switch(arg).value_parser(truth()),
            "pull" => arg.value_parser(PossibleValuesParser::new(["always", "missing", "never"])),
            _ => arg.value_parser(clap::value_parser!(OsString)),
        }
    })
}

fn switch(arg: clap::Arg) -> clap::Arg {
    arg.num_args(0..=1).require_equals(true).default_missing_value("true")
}

impl clap::FromArgMatches for Taken {
    fn from_arg_matches(_: &clap::ArgMatches) -> Result<Taken, clap::Error> {
        Ok(Taken)
    }

    fn update_from_arg_matches(&mut self, _: &clap::ArgMatches) -> Result<(), clap::Error> {
        Ok(())
    }
}

impl Args for Taken {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(options())
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Taken::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    #[command(args_override_self = true)]
    struct Cli {
        #[command(flatten)]
        _taken: Taken,
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    }

    #[test]
    fn they_are_taken_with_the_values_that_docker_takes() {
        let line =
            "x --rm --name web -l a=b --label c --pull never --rm=false -q --sig-proxy --expose 80 ls -l";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert_eq!(cli.command, ["ls", "-l"]);
        for wrong in ["--pull=sometimes", "--rm=maybe", "--sig-proxy=false", "--name"] {
            assert!(Cli::try_parse_from(["x", wrong]).is_err(), "{wrong}");
        }
        assert!(SWITCHES.iter().all(|long| options().any(|arg| arg.get_long() == Some(long))));
    }
}
