//! `modelve meta`: what is in a model, and whether it fits.

mod activation;
mod checkpoint;
mod json;
mod lists;
mod sizing;
mod subject;
mod summary;
mod tree;

use std::io::Write;
use std::path::Path;

use regex::Regex;

use super::find::{locate, open};
use super::flags;
use super::kind::Kind;
use crate::base::human;
use crate::base::memory::Memory;
use crate::hint::Usage;
use crate::hub::locate::Located;
use crate::output::Output;
use lists::Show;
use sizing::Sizing;
use subject::{Identity, Subject};

/// Flags of `modelve meta`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve meta model.gguf                    layers, shapes, types, sizes; will it fit?
  modelve meta model.gguf --explain          and what each part is for
  modelve meta model.gguf --memory 16GiB     will it fit on another machine?
  modelve meta model.gguf --tensors --filter 'blk\\.0\\.'
  modelve meta model.gguf --kv --full        all metadata, nothing cut
  modelve meta model.gguf --json | jq .n_params

The JSON is described in docs/json.md.")]
pub struct Args {
    #[command(flatten)]
    subject: flags::Subject,

    /// Say in plain words what each part is for
    #[arg(long)]
    pub explain: bool,

    /// One row per tensor: name, shape, type, bytes, offset
    #[arg(long)]
    pub tensors: bool,

    /// All metadata
    #[arg(long)]
    pub kv: bool,

    /// Print long strings and arrays whole; implies --kv
    #[arg(long)]
    pub full: bool,

    /// Only tensors and keys whose name matches; implies --tensors and --kv
    #[arg(long, value_name = "REGEX")]
    pub filter: Option<String>,

    /// Order of tensors; implies --tensors
    #[arg(long, value_enum)]
    pub sort: Option<lists::Sort>,

    /// Size it for a machine with this much memory instead of this one
    #[arg(long, value_name = "SIZE", value_parser = human::parse_bytes)]
    pub memory: Option<u64>,

    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// Prints the summary, or the lists that were asked for.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let filter = match &args.filter {
        Some(pattern) => Some(Regex::new(pattern).map_err(|error| Usage(error.to_string()))?),
        None => None,
    };
    let mut out = Output::stdout();
    match locate(args.subject.name())? {
        Located::Gguf(path) => of_gguf(args, filter.as_ref(), &path, &mut out)?,
        Located::Checkpoint(folder) => of_checkpoint(args, filter.as_ref(), &folder, &mut out)?,
    }
    out.flush()?;
    Ok(())
}

impl Args {
    fn show<'a>(&self, filter: Option<&'a Regex>) -> Show<'a> {
        Show {
            filter,
            sort: self.sort.unwrap_or(lists::Sort::File),
            full: self.full,
        }
    }

    fn wants_kv(&self) -> bool {
        self.kv || self.full || (self.filter.is_some() && !self.tensors)
    }

    fn wants_tensors(&self) -> bool {
        self.tensors || self.sort.is_some() || (self.filter.is_some() && !self.kv)
    }

    fn memory(&self) -> Option<Memory> {
        let stated = self.memory.map(Memory::of_size);
        stated.or_else(Memory::of_this_machine)
    }
}

fn of_gguf(
    args: &Args,
    filter: Option<&Regex>,
    path: &Path,
    out: &mut Output,
) -> anyhow::Result<()> {
    let gguf = open(path)?;
    let show = args.show(filter);
    if !args.json && (args.wants_tensors() || args.wants_kv()) {
        if args.wants_kv() {
            lists::metadata(&gguf, &show, out)?;
        }
        if args.wants_tensors() && args.wants_kv() {
            writeln!(out)?;
        }
        if args.wants_tensors() {
            lists::tensors(&gguf, &show, out)?;
        }
        return Ok(());
    }
    let subject = Subject::of_gguf(&gguf);
    let identity = Identity::of(&subject);
    let sizing = Sizing::of(&subject, args.memory());
    match args.json {
        true => json::print(path, &gguf, &show, &identity, &sizing, out),
        false => {
            // The summary says of a vocabulary that it is one.
            let kind = Kind::of(&gguf).filter(|&kind| kind != Kind::Vocabulary);
            summary::print(path, kind, &subject, &identity, &sizing, args, out)
        }
    }
}

/// A checkpoint has tensors of the same kind and a configuration instead of metadata.
fn of_checkpoint(
    args: &Args,
    filter: Option<&Regex>,
    folder: &Path,
    out: &mut Output,
) -> anyhow::Result<()> {
    if args.kv || (args.full && !args.json) {
        let message = "a checkpoint has no metadata to list: see its config.json, or --json";
        return Err(Usage(message.to_owned()).into());
    }
    let source = checkpoint::Source::open(folder)?;
    let show = args.show(filter);
    if !args.json && args.wants_tensors() {
        return source.print_tensors(&show, out);
    }
    let subject = source.subject()?;
    let identity = Identity::of(&subject);
    let sizing = Sizing::of(&subject, args.memory());
    match args.json {
        true => source.print_json(&show, &identity, &sizing, out),
        false => summary::print(folder, None, &subject, &identity, &sizing, args, out),
    }
}
