//! `modelve meta`: the contents of a model, and whether it fits.

mod activation;
mod checkpoint;
mod importance;
mod json;
mod lists;
mod offers;
mod remote;
mod sizing;
mod subject;
mod summary;
mod tree;

use std::io::Write;
use std::path::Path;

use regex::Regex;

use super::fetching;
use super::find::{explain, open};
use super::flags;
use super::kind::Kind;
use crate::base::human;
use crate::base::memory::Memory;
use crate::hint::{UsageError, WithHint};
use crate::hub::locate::{self, Located};
use crate::output::{self, Output};
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
  modelve meta model.gguf --kv --full        all metadata, nothing shortened
  modelve meta model.gguf --json | jq .n_params
  modelve meta org/name-GGUF                 a repository on the Hub: all files, and which one fits
  modelve meta org/name-GGUF:Q4_K_M          one of them, from its header

The JSON is described in docs/json.md.")]
pub struct Args {
    #[command(flatten)]
    subject: flags::Subject,

    /// Explain what each part is for
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

    /// Assume a machine with this much memory instead of this one
    #[arg(long, value_name = "SIZE", value_parser = human::parse_bytes)]
    pub memory: Option<u64>,

    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// A model, and how its files are named in the output.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The file or folder to open.
    path: &'a Path,
    /// The prefix of paths that is not shown.
    root: &'a Path,
    /// Its place on the Hub, if it is not on this machine.
    remote: Option<&'a remote::Remote>,
}

impl<'a> Place<'a> {
    fn here(path: &'a Path) -> Self {
        Self {
            path,
            root: Path::new(""),
            remote: None,
        }
    }

    fn shown<'p>(&self, path: &'p Path) -> &'p Path {
        path.strip_prefix(self.root).unwrap_or(path)
    }
}

/// Runs the command: prints the summary, or the lists that were asked for. A model that is not on
/// this machine is read from the Hub, unless `offline`.
pub fn run(args: &Args, offline: bool) -> anyhow::Result<()> {
    let filter = match &args.filter {
        Some(pattern) => Some(Regex::new(pattern).map_err(|error| UsageError(error.to_string()))?),
        None => None,
    };
    let mut out = Output::stdout();
    let (model, filter) = (args.subject.name(), filter.as_ref());
    match locate::locate(model) {
        Ok(Located::Gguf(path)) => of_gguf(args, filter, &Place::here(&path), &mut out)?,
        Ok(Located::Checkpoint(path)) => {
            of_checkpoint(args, filter, &Place::here(&path), &mut out)?
        }
        Err(error) => match remote::id_of(model, &error) {
            None => return Err(explain(error, model)),
            Some(_) if fetching::options(offline).offline => {
                let hint = remote::offline_hint(&error);
                return Err(error).with_hint(|| hint);
            }
            Some(id) => remote::print(args, filter, &id, &mut out)?,
        },
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
    place: &Place<'_>,
    out: &mut Output,
) -> anyhow::Result<()> {
    let gguf = open(place.path)?;
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
    let kind = Kind::of(&gguf);
    // Of a file that is not here there is only the header.
    let importance = match (kind, place.remote) {
        (Some(Kind::Imatrix), None) => match importance::Importance::read(place.path) {
            Ok(importance) => Some(importance),
            // What is left of it is shown as of any file.
            Err(error) => {
                output::note(&error.to_string());
                None
            }
        },
        _ => None,
    };
    let subject = Subject::of_gguf(&gguf);
    let identity = Identity::of(&subject);
    let sizing = Sizing::of(&subject, args.memory());
    match (args.json, importance) {
        (true, importance) => {
            let importance = importance.as_ref();
            json::print(place, &gguf, &show, &identity, &sizing, importance, out)
        }
        (false, Some(importance)) => {
            let name = place.path.file_name().unwrap_or_default().to_string_lossy();
            importance.print(&name, out)
        }
        (false, None) => {
            // The summary says itself that a file is a vocabulary.
            let kind = kind.filter(|&kind| kind != Kind::Vocabulary);
            summary::print(
                place.shown(place.path),
                kind,
                &subject,
                &identity,
                &sizing,
                args,
                out,
            )
        }
    }
}

/// Prints a checkpoint, which has a configuration instead of metadata.
fn of_checkpoint(
    args: &Args,
    filter: Option<&Regex>,
    place: &Place<'_>,
    out: &mut Output,
) -> anyhow::Result<()> {
    if args.kv || (args.full && !args.json) {
        let message = "a checkpoint has no metadata to list: see its config.json, or --json";
        return Err(UsageError(message.to_owned()).into());
    }
    let source = checkpoint::Source::open(place.path)?;
    let show = args.show(filter);
    if !args.json && args.wants_tensors() {
        return source.print_tensors(&show, out);
    }
    let subject = source.subject()?;
    let identity = Identity::of(&subject);
    let sizing = Sizing::of(&subject, args.memory());
    match args.json {
        true => source.print_json(place, &show, &identity, &sizing, out),
        false => summary::print(
            place.shown(place.path),
            None,
            &subject,
            &identity,
            &sizing,
            args,
            out,
        ),
    }
}
