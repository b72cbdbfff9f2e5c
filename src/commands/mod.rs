//! One file per command: typed options in, a result out.

pub mod completions;

use std::io::Write;

use crate::cli::{Cli, Command};
use crate::output::Output;

/// `0.1.0 (commit, llama.cpp …, ggml …)`
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("MODELVE_COMMIT"),
    ", llama.cpp ",
    env!("MODELVE_LLAMA_VERSION"),
    ", ggml ",
    env!("MODELVE_GGML_VERSION"),
    ")"
);

/// Does what the command line says.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    if cli.version {
        let mut out = Output::stdout();
        writeln!(out, "modelve {VERSION}")?;
        out.flush()?;
        return Ok(());
    }
    match cli.command {
        None => Ok(()),
        Some(Command::Completions(args)) => completions::run(&args),
    }
}
