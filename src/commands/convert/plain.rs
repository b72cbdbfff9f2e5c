//! Writes a checkpoint to a file for the program's own use, without choices of the user.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::Context;

use crate::convert::checkpoint::Checkpoint;
use crate::convert::{self, Options, Plan, Provenance, Request};
use crate::hint::{Interrupted, hinted};
use crate::progress::Progress;
use crate::quant::mix::{Overrides, Recipe};

/// Writes `checkpoint` to `path` in a recipe.
pub(in crate::commands) fn write(
    checkpoint: &Checkpoint,
    recipe: &str,
    path: &Path,
    threads: usize,
    cancel: &AtomicBool,
    progress: &dyn Progress,
) -> anyhow::Result<()> {
    let request = Request {
        recipe: Recipe::find(recipe).context("a recipe of the table")?,
        overrides: &Overrides::default(),
        types: None,
        imatrix: None,
        provenance: &Provenance::default(),
        extra: &[],
    };
    let what = || format!("cannot convert {}", checkpoint.folder().display());
    let plan = Plan::new(checkpoint, &request).with_context(what)?;
    let options = Options {
        threads,
        force: false,
        cancel,
    };
    let written = convert::write(&plan, checkpoint, &request, path, &options, progress);
    written.map_err(|error| match error {
        convert::Error::Interrupted => Interrupted.into(),
        convert::Error::Space { .. } => hinted(
            error,
            "a model is written beside the output and removed again: with -o it is written elsewhere",
        ),
        error => anyhow::Error::new(error).context(what()),
    })
}
