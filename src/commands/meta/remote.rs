//! A model that is not on this machine, described from the headers of its files on the Hub.

use std::io::Write;
use std::path::Path;

use anyhow::anyhow;
use regex::Regex;
use serde::Serialize;

use super::{Args, Place, of_checkpoint, of_gguf, offers};
use crate::base::human;
use crate::commands::fetching;
use crate::hint::{Hinted, hinted};
use crate::hub::locate::{self, ModelRef};
use crate::hub::preview::{MOST_READ, Preview, Seen, preview};
use crate::hub::{self, HubId};
use crate::output::{self, Output};
use crate::progress;

/// Its place on the Hub, and how much was read.
#[derive(Clone, Debug, Serialize)]
pub struct Remote {
    /// `org/name`.
    pub repo: String,
    /// The commit.
    pub commit: String,
    /// Number of bytes of its files that were received.
    pub bytes_read: u64,
    /// Number of bytes that fetching it would receive.
    pub bytes: u64,
    /// The command that fetches it.
    pub get: String,
}

/// Returns the Hub id that was named, if `error` only says that it is not on this machine.
pub fn id_of(model: Option<&str>, error: &locate::Error) -> Option<HubId> {
    let not_here = matches!(
        error,
        locate::Error::NotHere { .. } | locate::Error::NoSuchQuant { .. }
    );
    match ModelRef::parse(model.filter(|_| not_here)?) {
        ModelRef::Hub(id) => Some(id),
        _ => None,
    }
}

/// Returns the hint for a model that is not on this machine while the network is off.
pub fn offline_hint(error: &locate::Error) -> String {
    let read = format!(
        "without --offline (and HF_HUB_OFFLINE) its headers are read from the Hub, at most {}",
        human::bytes(MOST_READ)
    );
    match error.hint() {
        Some(hint) => format!("{hint}\n{read}"),
        None => read,
    }
}

/// Prints the description.
pub fn print(
    args: &Args,
    filter: Option<&Regex>,
    id: &HubId,
    out: &mut Output,
) -> anyhow::Result<()> {
    let cancel = fetching::cancel_on_signals()?;
    let progress = progress::stderr(false);
    let seen = preview(id, &fetching::options(false), progress.as_ref(), &cancel);
    let preview = seen.map_err(|error| refused(id, error))?;
    let remote = |bytes: u64, get: String| Remote {
        repo: preview.repo.clone(),
        commit: preview.commit.clone(),
        bytes_read: preview.read,
        bytes,
        get,
    };
    let (remote, said) = match &preview.seen {
        Seen::Gguf { path, bytes, .. } => {
            let remote = remote(*bytes, locate::get_command(id));
            let place = Place::on_hub(path, preview.root(), &remote);
            let said = of_gguf(args, filter, &place, out);
            (remote, said)
        }
        Seen::Checkpoint { folder, bytes } => {
            let remote = remote(*bytes, format!("modelve convert {id}"));
            let place = Place::on_hub(folder, preview.root(), &remote);
            let said = of_checkpoint(args, filter, &place, out);
            (remote, said)
        }
        Seen::Several(offers) => {
            let table = offers::Table::new(id, offers, args.memory(), args.memory.is_some())
                .map_err(|error| of_repository(error, &preview))?;
            let remote = remote(table.bytes_to_get(), table.command());
            let said = table.print(&remote, args.json, out);
            (remote, said)
        }
    };
    said.map_err(|error| of_repository(error, &preview))?;
    if !args.json {
        out.flush()?;
        let read = human::bytes(remote.bytes_read);
        let size = human::bytes(remote.bytes);
        output::note(&format!(
            "not on this machine: {read} of its files were read, to get it fetches {size}: {}",
            remote.get
        ));
    }
    Ok(())
}

/// Attaches a hint to an error of the Hub. That a repository has no model is not reported as a
/// failed fetch.
fn refused(id: &HubId, error: hub::Error) -> anyhow::Error {
    match error {
        hub::Error::WhichGguf { .. } | hub::Error::NoSuchLabel { .. } => {
            let hint = error
                .hint()
                .map(|hint| hint.replace("modelve get", "modelve meta"));
            let table = format!("all of them: modelve meta {}", id.without_quant());
            let hint = hint.map_or(table.clone(), |hint| format!("{hint}\n{table}"));
            hinted(error, hint)
        }
        error => fetching::refused(id, error),
    }
}

/// Returns an error about the files that were read, with their names in the repository.
fn of_repository(error: anyhow::Error, preview: &Preview) -> anyhow::Error {
    let mut root = preview.root().display().to_string();
    root.push(std::path::MAIN_SEPARATOR);
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Some errors repeat their source in their own message.
        if !said.contains(&cause) {
            said += if said.is_empty() { "" } else { ": " };
            said += &cause;
        }
    }
    match said.contains(&root) {
        false => error,
        true => {
            let hint = Hinted::find(&error).map(str::to_owned);
            let error = anyhow!("{}", said.replace(&root, ""));
            match hint {
                Some(hint) => hinted(error, hint.replace(&root, "")),
                None => error,
            }
        }
    }
}

impl<'a> Place<'a> {
    fn on_hub(path: &'a Path, root: &'a Path, remote: &'a Remote) -> Self {
        Place {
            path,
            root,
            remote: Some(remote),
        }
    }
}
