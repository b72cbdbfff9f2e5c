//! `modelve meta`: what is in a model, and whether it fits.

mod json;
mod lists;
mod names;
mod sizing;
mod subject;
mod summary;
mod tree;

use std::io::Write;
use std::path::Path;

use regex::Regex;

use super::open_gguf;
use crate::gguf::Gguf;
use crate::hint::Usage;
use crate::human;
use crate::memory::Memory;
use crate::output::Output;
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
    /// A .gguf file, a Hub id, or `tiny`
    pub model: Option<String>,

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
    let (path, gguf) = open_gguf(args.model.as_deref())?;
    let mut out = Output::stdout();
    print(args, filter.as_ref(), &path, &gguf, &mut out)?;
    out.flush()?;
    Ok(())
}

fn print(
    args: &Args,
    filter: Option<&Regex>,
    path: &Path,
    gguf: &Gguf,
    out: &mut Output,
) -> anyhow::Result<()> {
    let show = lists::Show {
        filter,
        sort: args.sort.unwrap_or(lists::Sort::File),
        full: args.full,
    };
    let both = args.filter.is_some() && !args.tensors && !args.kv;
    let tensors = args.tensors || args.sort.is_some() || both;
    let kv = args.kv || args.full || both;
    if !args.json && (tensors || kv) {
        if kv {
            lists::metadata(gguf, &show, out)?;
        }
        if tensors && kv {
            writeln!(out)?;
        }
        if tensors {
            lists::tensors(gguf, &show, out)?;
        }
        return Ok(());
    }
    let memory = args
        .memory
        .map(Memory::of_size)
        .or_else(Memory::of_this_machine);
    let subject = Subject::of_gguf(gguf);
    let identity = Identity::of(&subject);
    let sizing = Sizing::of(&subject, memory);
    if args.json {
        return json::print(path, gguf, &show, &identity, &sizing, out);
    }
    let elsewhere = args.memory.is_some();
    summary::print(
        path,
        &subject,
        &identity,
        &sizing,
        args.explain,
        elsewhere,
        out,
    )
}
