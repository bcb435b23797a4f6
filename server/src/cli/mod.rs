//! Commands and flags. No logic: flags become [`Sources`], and a command calls the app.

use crate::app;
use crate::config::{Config, LATER, SETTINGS, Sources};
use clap::{Arg, ArgMatches, Command};
use std::process::ExitCode;

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let matches = command().get_matches();
    let (name, arguments) = matches.subcommand().unwrap_or(("serve", &matches));
    let sources = sources(arguments);
    let outcome = sources.resolve().and_then(|values| Config::from_values(&values));
    let config = match outcome {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    for variable in sources.unknown_variables() {
        warn(&format!("there is no setting {variable}; `tidings serve --help` lists them"));
    }
    match name {
        "check" => {
            println(&format!("The configuration is good: {:?} on {}.", config.mode, config.address));
            ExitCode::SUCCESS
        }
        _ => match app::run(config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&*error),
        },
    }
}

fn command() -> Command {
    let about = "A Parse-compatible, live-query backend in one binary";
    let serve = with_settings(Command::new("serve").about("Serve the API (this is what `tidings` alone does, too)"));
    let check = with_settings(Command::new("check").about("Check the configuration and say what is wrong with it"));
    with_settings(Command::new("tidings").about(about).version(env!("CARGO_PKG_VERSION")))
        .args_conflicts_with_subcommands(true)
        .subcommand(serve)
        .subcommand(check)
}

fn with_settings(command: Command) -> Command {
    let config = Arg::new("config").long("config").value_name("FILE").help("Settings file [default: ./tidings.toml]");
    let known = SETTINGS.iter().map(|setting| {
        let help = match setting.default {
            "" => setting.help.to_owned(),
            default => format!("{} [default: {default}]", setting.help),
        };
        Arg::new(setting.name).long(setting.name).value_name("VALUE").help(help).allow_hyphen_values(true)
    });
    // Known to Parse operators: refused with a message of our own, not as a typing error.
    let later = LATER.iter().map(|name| {
        Arg::new(*name).long(*name).value_name("VALUE").hide(true).num_args(0..=1).default_missing_value("true")
    });
    command.arg(config).args(known).args(later)
}

fn sources(arguments: &ArgMatches) -> Sources {
    let names = SETTINGS.iter().map(|setting| setting.name).chain(LATER.iter().copied());
    let flags = names.filter_map(|name| {
        let value = arguments.get_one::<String>(name)?;
        Some((name.to_owned(), value.clone()))
    });
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Sources {
        flags: flags.collect(),
        environment: environment.collect(),
        file: arguments.get_one::<String>("config").map(Into::into),
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    warn(error);
    ExitCode::FAILURE
}

fn warn(what: &dyn std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "tidings: {what}");
}

fn println(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_understood_with_and_without_the_command() {
        command().debug_assert();
        for line in [vec!["tidings", "--port", "0"], vec!["tidings", "serve", "--port", "0"]] {
            let matches = command().try_get_matches_from(line).unwrap();
            let (_, arguments) = matches.subcommand().unwrap_or(("serve", &matches));
            assert!(sources(arguments).flags.contains(&("port".to_owned(), "0".to_owned())));
        }
        assert!(command().try_get_matches_from(["tidings", "--prot", "0"]).is_err());
    }
}
