//! Parse, dispatch, print an error with its causes and hint, choose the exit code: nothing else.

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
