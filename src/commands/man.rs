//! `modelve man`: manual pages, for who packages the program.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::output::Output;

/// Flags of `modelve man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve man | man -l -
  modelve man --folder ~/.local/share/man/man1")]
pub struct Args {
    /// Write a page for the program and one for each command into this folder
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
}

/// Prints the program's page, or writes all of them.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let Some(folder) = &args.folder else {
        let mut out = Output::stdout();
        Man::new(command).render(&mut out)?;
        return Ok(std::io::Write::flush(&mut out)?);
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("cannot write manual pages to {}", folder.display()))
}
