//! Parse, dispatch, print an error with its causes and hint, choose the exit code: nothing else.

use std::process::ExitCode;

use clap::Parser;
use modelve::cli::Cli;
use modelve::{commands, output};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::report(&error),
    }
}
