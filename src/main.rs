//! The program: parses the command line, runs the command, prints an error with its causes and
//! hint, and chooses the exit code.

use std::process::ExitCode;

use clap::Parser;
use modelve::cli::Cli;
use modelve::{bus, dispatch, output};

fn main() -> ExitCode {
    bus::explain();
    match Cli::try_parse() {
        Err(error) => output::report_usage(&error),
        Ok(cli) => match dispatch::run(cli) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => output::report(&error),
        },
    }
}
