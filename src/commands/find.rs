//! Finds and opens the model of a command, and attaches hints if it is missing or not a model.

use std::path::{Path, PathBuf};

use anyhow::anyhow;

use super::command_line::CommandLine;
use super::kind;
use crate::gguf::Gguf;
use crate::hint::hinted;
use crate::hub::locate::{self, Located};

/// Finds the model, and attaches a hint if it is not on this machine. If no model was named, the
/// hint starts with a command that works without fetching anything.
pub fn locate(model: Option<&str>) -> anyhow::Result<Located> {
    locate::locate(model).map_err(|error| explain(error, model))
}

/// Attaches a hint to the error of looking for `model`.
pub fn explain(error: locate::Error, model: Option<&str>) -> anyhow::Error {
    let hint = error.hint();
    let asked = model.is_some() || std::env::var_os("MODELVE_MODEL").is_some();
    let typed = CommandLine::typed();
    let hint = match (&error, hint) {
        (locate::Error::NotHere { .. }, Some(hint)) if !asked && typed.command().is_some() => {
            let now = typed.on_model("tiny");
            Some(format!("with the built-in model: {now}\n{hint}"))
        }
        (locate::Error::NotHere { id, .. } | locate::Error::NoSuchQuant { id, .. }, Some(hint)) => {
            Some(format!(
                "{hint}\nhow large it is, and whether it fits: modelve meta {id}"
            ))
        }
        (_, hint) => hint,
    };
    match hint {
        Some(hint) => hinted(error, hint),
        None => error.into(),
    }
}

/// Opens a GGUF file.
pub fn open(path: &Path) -> anyhow::Result<Gguf> {
    Gguf::open(path).map_err(|error| match kind::unread(&error) {
        Some(hint) => hinted(error, hint),
        None => error.into(),
    })
}

/// Opens a model that must be a GGUF; returns its path, too.
pub fn open_gguf(model: Option<&str>) -> anyhow::Result<(PathBuf, Gguf)> {
    match locate(model)? {
        Located::Gguf(path) => {
            let gguf = open(&path)?;
            Ok((path, gguf))
        }
        Located::Checkpoint(path) => {
            let hint = kind::checkpoint_hint(&path, "");
            let path = path.display();
            Err(hinted(
                anyhow!("{path} is a checkpoint; this command reads GGUF files"),
                hint,
            ))
        }
    }
}
