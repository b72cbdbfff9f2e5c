//! Runs the model to choose types: the importance matrix, and what the type of each tensor does to
//! the predictions.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use serde::Serialize;

use super::sized::Job;
use super::{interrupted, plain};
use crate::base::outfile::TemporaryFolder;
use crate::commands::engine::{EngineArgs, explain};
use crate::commands::imatrix::{digest, identity};
use crate::commands::probing::{session, told, work};
use crate::commands::prompt::{self, input};
use crate::commands::score::windows;
use crate::convert::sized::{Mixture, Survey};
use crate::convert::{self, Imatrix, Plan, Request};
use crate::gguf::GgmlType;
use crate::hint::{Interrupted, hinted};
use crate::probe::calibration;
use crate::probe::effect::Predictions;
use crate::probe::importance::{self, Measurement};
use crate::progress::Unit;
use crate::quant::imatrix::Origin;
use crate::runtime::{Cancel, Exchange, Model, Token, host};

/// The checkpoint as a file in 16 bits, which is removed when this is dropped.
pub(super) struct Reference {
    _folder: TemporaryFolder,
    path: PathBuf,
}

impl Reference {
    fn make(job: &Job<'_>) -> anyhow::Result<Self> {
        let folder = TemporaryFolder::create(job.beside)
            .with_context(|| format!("cannot write in {}", job.beside.display()))?;
        let path = folder.path().join("source.gguf");
        let write = |recipe| {
            let (threads, cancel) = (job.threads, job.cancel);
            plain::write(job.checkpoint, recipe, &path, threads, cancel, job.progress)
        };
        // Weights that F16 cannot hold are rare; BF16 can, and computing with it is slower.
        write("F16").or_else(|error| match error.chain().any(is_encode) {
            true => write("BF16"),
            false => Err(error),
        })?;
        Ok(Reference {
            _folder: folder,
            path,
        })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Loads it.
    pub(super) fn load(&self, job: &Job<'_>) -> anyhow::Result<Model> {
        job.engine().load_file(&self.path, work(0), &job.stop())
    }
}

fn is_encode(cause: &(dyn std::error::Error + 'static)) -> bool {
    let cause = cause.downcast_ref::<convert::Error>();
    matches!(cause, Some(convert::Error::Encode { .. }))
}

impl Job<'_> {
    /// How models are run.
    pub(super) fn engine(&self) -> EngineArgs {
        EngineArgs {
            threads: u32::try_from(self.threads).ok(),
            ..EngineArgs::default()
        }
    }

    /// The error of a probe, which may have been stopped.
    pub(super) fn stopped(&self, error: crate::probe::Error) -> anyhow::Error {
        match self.stop().is_set() {
            true => anyhow::Error::new(Interrupted).context("nothing was written"),
            false => told(error),
        }
    }

    /// The flag that stops computations.
    pub(super) fn stop(&self) -> Cancel {
        Cancel::sharing(Arc::clone(self.cancel))
    }
}

/// The text that types are chosen on.
pub(super) struct Text {
    name: String,
    /// For the importance matrix.
    ids: Vec<Token>,
    window: usize,
    /// For measuring what single tensors do: short windows of all parts of the text.
    short: Vec<Token>,
    short_window: usize,
}

/// Multiplications for measuring importances: five minutes on two cores.
const IMPORTANCE_WORK: u64 = 20_000_000_000_000;
/// Maximum number of windows for importances: more text hardly changes them.
const IMPORTANCE_WINDOWS: usize = 64;
/// Multiplications for measuring single tensors.
const TENSORS_WORK: u64 = 8_000_000_000_000;
/// The number of tokens that single tensors are measured on, at least and at most.
const TOKENS: (u64, u64) = (64, 448);
/// The number of windows that these are read in: one of each kind of the text that comes with the
/// program.
const WINDOWS: u64 = 7;
/// The number of tokens of a window for importances, as in `modelve imatrix`.
const WINDOW: usize = 512;

/// What the model is compared with, over which text, and, unless the conversion has one, the
/// importance matrix that was measured on the way.
pub(super) fn calibrate(
    job: &Job<'_>,
    given: &Request<'_>,
) -> anyhow::Result<(Reference, Text, Option<Imatrix>)> {
    let reference = Reference::make(job)?;
    let text = Text::of(job, &reference)?;
    let imatrix = match given.imatrix {
        Some(_) => None,
        None => Some(text.imatrix(job, &reference)?),
    };
    Ok((reference, text, imatrix))
}

impl Text {
    /// Reads the text and decides how much of it is used.
    fn of(job: &Job<'_>, reference: &Reference) -> anyhow::Result<Self> {
        let model = reference.load(job)?;
        let weights = model.gguf().n_params().max(1);
        let window = windows(&job.engine(), &model, None, None, WINDOW)?.size;
        let tensors = job.checkpoint.tensors().count() as u64;
        let (least, most) = TOKENS;
        let tokens = (TENSORS_WORK / weights / tensors.max(1)).clamp(least, most);
        let short_window = ((tokens / WINDOWS) as usize).clamp(2, window);
        let (name, mut ids, mut short) = match &job.args.file {
            None => {
                let name = calibration::NAME.to_owned();
                let tokens = |window| calibration::tokens(&model, window).map_err(told);
                (name, tokens(window)?, tokens(short_window)?)
            }
            Some(path) => {
                let text = input::read_text(path)?;
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let ids = prompt::tokens(model.vocab(), text, false).map_err(explain)?;
                let step = (ids.len() / WINDOWS as usize).max(short_window);
                let parts = ids.chunks(step);
                let short = parts.flat_map(|part| &part[..part.len().min(short_window)]);
                let short = short.copied().collect();
                (path.display().to_string(), ids, short)
            }
        };
        short.truncate(tokens as usize);
        let most = (IMPORTANCE_WORK / weights) as usize;
        ids.truncate((most / window).clamp(4, IMPORTANCE_WINDOWS) * window);
        if short.len() < 2 {
            return Err(told(crate::probe::Error::TextTooShort));
        }
        Ok(Text {
            name,
            ids,
            window,
            short,
            short_window,
        })
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Measures an importance matrix.
    fn imatrix(&self, job: &Job<'_>, reference: &Reference) -> anyhow::Result<Imatrix> {
        let (ids, window) = (&self.ids, self.window);
        if ids.len() < window {
            let n = ids.len();
            let error = anyhow!("the text has {n} token(s), fewer than a window of {window}");
            return Err(hinted(
                error,
                "a longer text; without --file, the built-in one is used",
            ));
        }
        let model = reference.load(job)?;
        let engine = job.engine();
        let settings = importance::settings(window, engine.settings(&job.stop()));
        let mut session = session(&engine, &model, window, settings)?;
        let chunks = ids.len() / window;
        let progress = job.progress;
        progress.start(
            "measuring importances",
            Unit::Items("chunks"),
            chunks as u64,
            0,
        );
        let mut measurement = Measurement::new(window);
        let read = measurement.read(&mut session, ids, &mut || progress.advance(1));
        progress.finish();
        if !read.map_err(told)? {
            return Err(anyhow::Error::new(Interrupted).context("nothing was written"));
        }
        let entries = measurement.entries(&model.facts().arch).map_err(told)?;
        let origin = Origin {
            text: digest(&ids[..chunks * window]),
            model: identity(&model),
            planned: chunks as u64,
        };
        let name = vec![self.name.clone()];
        Ok(Imatrix::new(
            entries,
            name,
            chunks as u64,
            window as u64,
            origin,
        ))
    }
}

/// What was measured to choose types.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measured {
    /// The text.
    pub(super) text: String,
    /// The number of predictions that were compared for each tensor.
    pub(super) positions: usize,
    /// The number of tensors of which at least one type was measured, and of measurements.
    pub(super) tensors: usize,
    pub(super) measurements: usize,
    /// The divergence with all chosen types at once, on the same text, in nats.
    pub(super) together_kl: f64,
    /// Its standard error.
    pub(super) together_error: f64,
}

/// How often types are chosen and measured. The first choice is by estimates; after each measurement
/// tensors whose type has changed are measured again.
const ROUNDS: usize = 2;

/// Measures what the chosen types do, one tensor at a time, and chooses again.
pub(super) fn measure(
    job: &Job<'_>,
    request: &Request<'_>,
    reference: &Reference,
    text: &Text,
    survey: &mut Survey,
) -> anyhow::Result<(Mixture, Measured)> {
    let stopped = |error| job.stopped(error);
    let mut exchange = open(job, reference, WINDOWS as u32, text.short_window)?;
    let progress = job.progress;
    let windows = text.short.len().div_ceil(text.short_window) as u64;
    progress.start("reading the text", Unit::Items("windows"), windows, 0);
    let window = text.short_window;
    let predictions = Predictions::read(&mut exchange, &text.short, window, &mut || {
        progress.advance(1)
    });
    progress.finish();
    let predictions = predictions.map_err(stopped)?;

    let mut mixture = job.wish.pick(survey, 1.0)?;
    let mut measured = std::collections::BTreeSet::new();
    let mut measurements = 0;
    for round in 0..ROUNDS {
        // A tensor that was measured in another type and has a small part in the whole is known well
        // enough.
        let least = match round {
            0 => 0.0,
            _ => mixture.loss / (4 * survey.tensors().len().max(1)) as f64,
        };
        let wanted = unmeasured(survey, &mixture, &exchange, least);
        progress.start("measuring", Unit::Items("tensors"), wanted.len() as u64, 0);
        for (tensor, candidate) in wanted {
            substitute(job, request, survey, &mut exchange, tensor, candidate)?;
            let divergence = predictions.divergence(&mut exchange).map_err(stopped)?;
            let name = &survey.tensors()[tensor].name;
            exchange.restore(name).map_err(explain)?;
            survey.measured(tensor, candidate, divergence.mean());
            measured.insert(tensor);
            measurements += 1;
            progress.advance(1);
        }
        progress.finish();
        survey.expect();
        mixture = job.wish.pick(survey, 1.0)?;
    }

    progress.start(
        "measuring together",
        Unit::Items("tensors"),
        survey.tensors().len() as u64,
        0,
    );
    for (tensor, &candidate) in mixture.chosen.iter().enumerate() {
        if exchange.ty(&survey.tensors()[tensor].name).is_some() {
            substitute(job, request, survey, &mut exchange, tensor, candidate)?;
        }
        progress.advance(1);
    }
    let together = predictions.divergence(&mut exchange).map_err(stopped)?;
    progress.finish();
    let found = Measured {
        text: text.name.clone(),
        positions: predictions.len(),
        tensors: measured.len(),
        measurements,
        together_kl: together.mean(),
        together_error: together.error(),
    };
    Ok((mixture, found))
}

/// Loads the reference with weights that can be replaced, to read `windows` windows of `window` tokens
/// at once.
pub(super) fn open(
    job: &Job<'_>,
    reference: &Reference,
    windows: u32,
    window: usize,
) -> anyhow::Result<Exchange> {
    let path = reference.path();
    let checked = Model::inspect(path).map_err(explain)?;
    let (needed, free) = (checked.facts().tensor_bytes, host::free_memory());
    if free.is_some_and(|free| free < needed) {
        let have = crate::base::human::bytes(free.unwrap_or(0));
        let error = anyhow!(
            "measuring takes {} of memory for the weights in 16 bits; {have} are free",
            crate::base::human::bytes(needed)
        );
        return Err(hinted(
            error,
            "--quick chooses by the errors of the weights, without them",
        ));
    }
    let window = u32::try_from(window).unwrap_or(u32::MAX);
    let settings = job.engine().settings(&job.stop());
    Exchange::open(path, windows, window, &settings).map_err(explain)
}

/// The types to measure: of each tensor the chosen one, or a smaller one if that is exact. Tensors of
/// which less than `least` nats are expected are left out.
fn unmeasured(
    survey: &Survey,
    mixture: &Mixture,
    exchange: &Exchange,
    least: f64,
) -> Vec<(usize, usize)> {
    let mut wanted = Vec::new();
    for ((index, tensor), &chosen) in survey.tensors().iter().enumerate().zip(&mixture.chosen) {
        let candidates = &tensor.candidates[..=chosen];
        let lossy = candidates
            .iter()
            .rposition(|candidate| candidate.relative > 1e-6);
        let known = exchange.ty(&tensor.name).is_some() && tensor.candidates[chosen].loss >= least;
        if let Some(at) = lossy.filter(|&at| known && !tensor.candidates[at].is_measured()) {
            wanted.push((index, at));
        }
    }
    wanted
}

/// Replaces a tensor by what a candidate makes of it.
fn substitute(
    job: &Job<'_>,
    request: &Request<'_>,
    survey: &Survey,
    exchange: &mut Exchange,
    tensor: usize,
    candidate: usize,
) -> anyhow::Result<()> {
    let tensor = &survey.tensors()[tensor];
    let ty = tensor.candidates[candidate].ty;
    put(job, request, survey.plan(), exchange, tensor.tensor, ty)
}

/// Replaces a tensor of the plan by what a type makes of it.
pub(super) fn put(
    job: &Job<'_>,
    request: &Request<'_>,
    plan: &Plan,
    exchange: &mut Exchange,
    tensor: usize,
    ty: GgmlType,
) -> anyhow::Result<()> {
    let name = &plan.tensors()[tensor].name;
    let stored = exchange.ty(name).context("a tensor of the graph")?;
    let bytes = interrupted(convert::substitute(
        plan,
        job.checkpoint,
        request.imatrix,
        tensor,
        ty,
        stored,
        job.threads,
        job.cancel,
    ))?;
    exchange.put(name, &bytes).map_err(explain)
}
