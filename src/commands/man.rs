//! `modelve man`: manual pages, for packages of the program.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap_mangen::Man;

use crate::base::outfile::{Existing, Outfile};
use crate::hint::WithHint;
use crate::output::Output;

/// Flags of `modelve man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve man | man -l -
  modelve man --folder ~/.local/share/man/man1")]
pub struct Args {
    /// Write a page for the program and one for each command into this folder; earlier ones are
    /// replaced
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
}

/// Prints the page of `program`, or writes it and one for each command to a folder.
pub fn run(args: &Args, program: clap::Command) -> anyhow::Result<()> {
    let mut command = program.disable_help_subcommand(true);
    command.build();
    let Some(folder) = &args.folder else {
        let mut out = Output::stdout();
        Man::new(command).render(&mut out)?;
        return Ok(std::io::Write::flush(&mut out)?);
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut pages = vec![Man::new(command.clone())];
    for own in command.get_subcommands().filter(|own| !own.is_hide_set()) {
        pages.push(Man::new(own.clone()));
        pages.extend(own.get_subcommands().cloned().map(Man::new));
    }
    for page in pages {
        let mut text = Vec::new();
        page.render(&mut text)?;
        let path = folder.join(page.get_filename());
        let none: [PathBuf; 0] = [];
        let page = Outfile::judge(&path, Existing::ReplaceIf(is_ours), none);
        page.and_then(|page| page.write(&text)).with_hint(|| {
            format!(
                "manual pages replace earlier ones only; remove {} first",
                path.display()
            )
        })?;
    }
    Ok(())
}

/// Returns whether a file is an earlier version of one of these pages.
fn is_ours(head: &[u8]) -> bool {
    head.windows(11).any(|part| part == b".TH modelve")
}
