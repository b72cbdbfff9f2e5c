//! Compares a file of chosen types with its checkpoint, on a text that the types were not chosen on.

use std::path::Path;

use serde::Serialize;

use super::measure::Reference;
use super::sized::Job;
use crate::commands::engine::explain;
use crate::commands::probing::{session, told, work};
use crate::commands::prompt::{self, input};
use crate::commands::score::windows;
use crate::gguf::Value;
use crate::hint::Interrupted;
use crate::probe::Prompt;
use crate::probe::calibration;
use crate::probe::compare::{self, Side};
use crate::progress::Unit;
use crate::runtime::Model;

/// The difference between a file and its checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Quality {
    /// The text.
    pub(super) text: String,
    /// The number of predictions compared.
    pub(super) tokens: u32,
    /// Mean KL divergence from the checkpoint, in nats, and its standard error.
    pub(super) kl_mean: f64,
    pub(super) kl_error: f64,
    /// The divergence that 99 % of the predictions do not exceed.
    pub(super) kl_p99: f64,
    /// Share of predictions with the same likeliest token, from 0 to 1.
    pub(super) same_top: f64,
    /// Perplexity of the text under the file, and under the checkpoint.
    pub(super) perplexity: f64,
    pub(super) perplexity_source: f64,
}

/// Multiplications that the comparison may take, which decides how much of the text is read.
const WORK: u64 = 8_000_000_000_000;
/// Minimum number of tokens that are read, if the text has as many.
const LEAST: u64 = 512;
/// The number of tokens of a window.
const WINDOW: usize = 512;

/// The name of the text, for the file's metadata.
pub(super) fn text_name(held_out: Option<&Path>) -> String {
    match held_out {
        None => calibration::HELD_OUT_NAME.to_owned(),
        Some(path) => {
            let name = path.file_name().unwrap_or(path.as_os_str());
            name.to_string_lossy().into_owned()
        }
    }
}

impl Quality {
    /// Metadata for the file, of a length that only depends on the name of the text.
    pub(super) fn metadata(&self) -> Vec<(String, Value)> {
        let float = |x: f64| Value::F32(x as f32);
        let entries = [
            ("text", Value::String(self.text.clone())),
            ("tokens", Value::U32(self.tokens)),
            ("kl_mean", float(self.kl_mean)),
            ("kl_error", float(self.kl_error)),
            ("kl_p99", float(self.kl_p99)),
            ("same_top", float(self.same_top)),
            ("perplexity", float(self.perplexity)),
            ("perplexity_source", float(self.perplexity_source)),
        ];
        let named = entries.into_iter();
        named
            .map(|(name, value)| (format!("modelve.quality.{name}"), value))
            .collect()
    }
}

/// The text that files are compared on, as much of it as the size of the model allows.
pub(super) fn held_out(job: &Job<'_>, model: &Model) -> anyhow::Result<Prompt> {
    let text = match &job.args.held_out {
        Some(path) => {
            let text = input::read_text(path)?;
            text.strip_suffix('\n').unwrap_or(&text).to_owned()
        }
        None => calibration::HELD_OUT.to_owned(),
    };
    let ids = prompt::tokens(model.vocab(), &text, false).map_err(explain)?;
    let mut text = Prompt { text, ids };
    let most = (WORK / model.gguf().n_params().max(1)).max(LEAST);
    text.ids.truncate(most as usize);
    Ok(text)
}

/// Compares the file with the checkpoint.
pub(super) fn prove(job: &Job<'_>, reference: &Reference, file: &Path) -> anyhow::Result<Quality> {
    let (engine, stop) = (job.engine(), job.stop());
    let model = reference.load(job)?;
    let text = held_out(job, &model)?;
    let windows = windows(&engine, &model, None, None, WINDOW)?;
    let room = windows.size.min(text.ids.len());
    let copy = engine.load_file(file, work(0), &stop)?;
    let mut sides = Vec::with_capacity(2);
    for model in [model, copy] {
        let settings = compare::settings(engine.settings(&stop));
        sides.push(Side {
            name: model.path().display().to_string(),
            bytes: model.gguf().size_bytes(),
            session: session(&engine, &model, room, settings)?,
        });
    }
    let progress = job.progress;
    progress.start("comparing", Unit::Items("tokens"), text.ids.len() as u64, 0);
    let mut before = 0;
    let read = compare::compare(&mut sides, &text, windows, 0, &mut |done| {
        progress.advance((done - before) as u64);
        before = done;
    });
    progress.finish();
    let read = read.map_err(told)?;
    let Some(found) = read.first().filter(|found| found.complete) else {
        return Err(anyhow::Error::new(Interrupted).context("nothing was written"));
    };
    Ok(Quality {
        text: text_name(job.args.held_out.as_deref()),
        tokens: u32::try_from(found.n_tokens).unwrap_or(u32::MAX),
        kl_mean: found.kl_mean,
        kl_error: found.kl_error,
        kl_p99: found.kl_p99,
        same_top: found.same_top,
        perplexity: found.perplexity_b,
        perplexity_source: found.perplexity_a,
    })
}
