//! The `cwasm` command: compiles, runs, inspects and verifies WebAssembly artifacts.
//!
//! A file per subcommand. Each takes its parsed arguments and returns an
//! [`Outcome`] or an error; this file turns those into messages and exit codes.
//! Results go to stdout, everything else to stderr.

#![cfg_attr(not(test), no_main)]

use std::io::Write as _;

use clap::{Parser, Subcommand};

mod bundle;
mod cache;
mod cached;
mod compile;
mod file_size;
mod input;
mod inspect;
mod keygen;
mod keys;
mod outcome;
mod outputs;
mod pow;
mod progress;
mod publish;
mod pull;
mod push;
mod run;
mod sign;
mod start;
#[cfg(test)]
mod unwinding;
mod values;
mod verify;
mod wast;
mod watchdog;

use outcome::Outcome;

/// Compiles WebAssembly ahead of time to artifacts that are safe to load, and
/// runs them.
#[derive(Debug, Parser)]
#[command(name = "cwasm", version, max_term_width = 100, after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Examples:
  cwasm run app.wasm                            compile, and run; the second time from the cache
  cwasm compile app.wasm                        write app.cwasm, print its digest
  cwasm run app.cwasm --digest DIGEST           run exactly what was compiled

Exit codes: 0 done, 1 an error in what was given, 2 usage, 134 a trap,
and for `run` that of the program.";

#[derive(Debug, Subcommand)]
enum Command {
    Compile(compile::Compile),
    Run(run::Run),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Keygen(keygen::Keygen),
    Sign(sign::Sign),
    Bundle(bundle::Bundle),
    Push(push::Push),
    Pull(pull::Pull),
    Cache(cache::CacheCommand),
    Wast(wast::Wast),
}

/// The command line of a program that starts often. To describe the other subcommands to the parser takes longer than to parse.
#[derive(Debug, Parser)]
#[command(name = "cwasm", version, max_term_width = 100)]
struct OnlyRun {
    #[command(subcommand)]
    command: RunCommand,
}

#[derive(Debug, Subcommand)]
enum RunCommand {
    Run(run::Run),
}

/// Parses the command line. Ends the process if it is wrong, or asks for help.
fn parse() -> Command {
    if std::env::args_os().nth(1).is_some_and(|name| name == "run") {
        let RunCommand::Run(command) = OnlyRun::parse().command;
        return Command::Run(command);
    }
    Cli::parse().command
}

/// Of no use to tests but to have one.
#[cfg(test)]
fn main() {
    std::process::exit(start::run())
}

/// Does what the command line says, and returns the exit code.
fn execute() -> u8 {
    file_size::survive_limit();
    let result = match parse() {
        Command::Compile(command) => command.execute(),
        Command::Run(command) => command.execute(),
        Command::Inspect(command) => command.execute(),
        Command::Verify(command) => command.execute(),
        Command::Keygen(command) => command.execute(),
        Command::Sign(command) => command.execute(),
        Command::Bundle(command) => command.execute(),
        Command::Push(command) => command.execute(),
        Command::Pull(command) => command.execute(),
        Command::Cache(command) => command.execute(),
        Command::Wast(command) => command.execute(),
    };
    conclude(result)
}

/// Tells what went wrong, and returns the exit code.
fn conclude(result: anyhow::Result<Outcome>) -> u8 {
    match result {
        Ok(outcome) => outcome.exit_code(),
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) if error.is::<clap::Error>() => {
            // If stderr is closed, the exit code has to suffice.
            let _ = write!(std::io::stderr(), "{error}");
            2
        }
        Err(error) => {
            // If stderr is closed, the exit code has to suffice.
            let _ = writeln!(std::io::stderr(), "cwasm: error: {error:#}");
            Outcome::Failed.exit_code()
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_alone_is_described_like_among_the_others() {
        let help = |mut cli: clap::Command| {
            cli.build();
            let run = cli.find_subcommand_mut("run").unwrap();
            [run.render_long_help(), run.render_usage()].map(|text| text.to_string())
        };
        assert_eq!(help(OnlyRun::command()), help(Cli::command()));
        let wrong = |cli: clap::Command| {
            let parsed = cli.try_get_matches_from(["cwasm", "run", "--no-such", "a.wasm"]);
            parsed.unwrap_err().to_string()
        };
        assert_eq!(wrong(OnlyRun::command()), wrong(Cli::command()));
    }

    #[test]
    fn every_help_fits_one_screen_and_ends_with_examples_and_exit_codes() {
        let mut cli = Cli::command();
        cli.build();
        let subcommands: Vec<String> = cli
            .get_subcommands()
            .map(|command| command.get_name().to_owned())
            .filter(|name| name != "help")
            .collect();
        assert_eq!(
            subcommands,
            [
                "compile", "run", "inspect", "verify", "keygen", "sign", "bundle", "push", "pull",
                "cache", "wast"
            ]
        );
        for name in subcommands {
            let command = cli.find_subcommand_mut(&name).unwrap();
            let help = command.render_help().to_string();
            let screen = if name == "run" { 25 } else { 50 };
            assert!(help.lines().count() <= screen, "{name} has {} lines", help.lines().count());
            assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
            assert!(help.contains(&format!("\n  cwasm {name} ")), "{help}");
            let last = help.trim_end().rsplit("\n\n").next().unwrap();
            assert!(last.starts_with("Exit codes:"), "{help}");
        }
    }
}
