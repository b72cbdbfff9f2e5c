//! `convert --size`: chooses the type of each tensor for a file of a given size.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::anyhow;
use serde::Serialize;

use super::interrupted;
use super::measure::{self, Measured, Reference};
use crate::base::human;
use crate::convert::checkpoint::Checkpoint;
use crate::convert::sized::{Limit, Mixture, Survey, Surveyed};
use crate::convert::{self, Imatrix, Options, Request};
use crate::hint::{UsageError, hinted};
use crate::progress::Progress;

/// The flags that choose a mix of types.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "A mix of types for a size")]
pub struct SizeArgs {
    /// Choose the type of each tensor, for a file of at most this size: 2.0GiB, 900MB
    #[arg(long, value_name = "SIZE", value_parser = human::parse_bytes, group = "wish",
          conflicts_with_all = ["quant", "list_quants"])]
    pub size: Option<u64>,

    /// Choose the type of each tensor, for at most this many bits per weight on average: 4.5
    #[arg(long, value_name = "N", value_parser = bits, group = "wish",
          conflicts_with_all = ["quant", "list_quants"])]
    pub bits: Option<f64>,

    /// The smallest file whose mean KL divergence from the checkpoint is at most this, in nats: 0.01
    #[arg(long, value_name = "NATS", value_parser = nats, group = "wish",
          conflicts_with_all = ["quant", "list_quants"])]
    pub target_kl: Option<f64>,

    /// Choose by the errors of the weights alone, without running the model
    #[arg(long, requires = "wish", conflicts_with = "target_kl")]
    pub quick: bool,

    /// Print how the divergence depends on the size, for fixed recipes and for mixes of their sizes, and
    /// write nothing
    #[arg(long, conflicts_with_all = ["wish", "quant", "list_quants", "dry_run", "output", "verify"])]
    pub curve: bool,

    /// With --curve: write a page for a browser instead of text
    #[arg(long, value_name = "FILE", requires = "curve")]
    pub html: Option<PathBuf>,

    /// Measure on this text what each tensor's type does, `-` for standard input
    /// [default: a text that comes with the program]
    #[arg(
        short,
        long,
        visible_alias = "text",
        value_name = "FILE",
        conflicts_with = "quick"
    )]
    pub file: Option<PathBuf>,

    /// Compare the file with the checkpoint on this text, which should be none that types were
    /// chosen on [default: another text that comes with the program]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "dry_run"])]
    pub held_out: Option<PathBuf>,
}

/// What a mix of types is chosen for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    /// The best file of at most this size.
    Limit(Limit),
    /// The smallest file that differs by at most so many nats.
    Within(f64),
}

impl SizeArgs {
    /// Returns whether the model is run.
    pub fn runs_the_model(&self) -> bool {
        self.curve || (self.wish().is_some() && !self.quick)
    }

    /// What is asked for, if anything.
    pub(super) fn wish(&self) -> Option<Wish> {
        let bytes = self.size.map(Limit::Bytes);
        let limit = bytes.or(self.bits.map(Limit::Bits)).map(Wish::Limit);
        limit.or(self.target_kl.map(Wish::Within))
    }
}

impl Wish {
    /// The part of the file's name that says how it was quantized.
    pub(super) fn label(self) -> String {
        match self {
            Wish::Limit(Limit::Bytes(bytes)) => human::bytes(bytes).replace(' ', ""),
            Wish::Limit(Limit::Bits(bits)) => format!("{bits}bpw"),
            Wish::Within(nats) => format!("KL{nats}"),
        }
    }

    pub(super) fn limit(self) -> Option<Limit> {
        match self {
            Wish::Limit(limit) => Some(limit),
            Wish::Within(_) => None,
        }
    }

    /// The error of a type for the whole file beside this.
    pub(super) fn contradicts(self, quant: &str) -> anyhow::Error {
        let what = format!(
            "{quant} is a recipe for all tensors; --size, --bits and --target-kl choose a type for each"
        );
        UsageError(what).into()
    }

    /// Chooses the types by what is known now. `scale` is the expected divergence for each that is
    /// found when the file is compared.
    pub(super) fn pick(self, survey: &Survey, scale: f64) -> anyhow::Result<Mixture> {
        match self {
            Wish::Limit(limit) => survey.choose(limit).map_err(|error| self.explain(error)),
            Wish::Within(nats) => survey.choose_within(nats * scale).ok_or_else(|| {
                let error =
                    anyhow!("not even the largest types are expected to differ by so little");
                hinted(error, "a larger --target-kl, or -q F16")
            }),
        }
    }

    /// Attaches the hint that says which size can be had.
    fn explain(self, error: convert::Error) -> anyhow::Error {
        match (&error, self) {
            (convert::Error::TooSmall { least, .. }, Wish::Limit(Limit::Bytes(_))) => {
                let hint = format!("the smallest file: --size {least}B");
                hinted(error, hint)
            }
            (convert::Error::TooSmall { .. }, Wish::Limit(Limit::Bits(bits))) => hinted(
                error,
                format!("more bits than {bits}: --bits 4.5 is near Q4_K_S"),
            ),
            _ => error.into(),
        }
    }
}

/// Parses the value of `--bits`.
fn bits(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(bits) if (0.5..=32.0).contains(&bits) => Ok(bits),
        _ => Err("a number of bits for each weight, such as 4.5".to_owned()),
    }
}

/// Parses the value of `--target-kl`.
fn nats(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(nats) if (1e-6..=10.0).contains(&nats) => Ok(nats),
        _ => Err("a mean divergence in nats, such as 0.01".to_owned()),
    }
}

/// A choice of types to make.
pub(super) struct Job<'a> {
    pub(super) args: &'a SizeArgs,
    pub(super) wish: Wish,
    pub(super) checkpoint: &'a Checkpoint,
    /// The folder for temporary files.
    pub(super) beside: &'a Path,
    pub(super) threads: usize,
    pub(super) cancel: &'a Arc<AtomicBool>,
    pub(super) progress: &'a dyn Progress,
}

/// The types that were chosen, and what was made on the way.
pub(super) struct Chosen {
    pub(super) mixture: Mixture,
    pub(super) outlook: Outlook,
    survey: Survey,
    /// See [`Wish::pick`].
    scale: f64,
    /// The importance matrix, if none was given.
    pub(super) imatrix: Option<Imatrix>,
    /// The checkpoint in a file that llama.cpp runs; `None` with `--quick`.
    pub(super) reference: Option<Reference>,
}

impl Chosen {
    /// Chooses again for `factor` times the divergence. Returns false if the choice is the same.
    pub(super) fn again(&mut self, job: &Job<'_>, factor: f64) -> anyhow::Result<bool> {
        self.scale *= factor;
        let mixture = job.wish.pick(&self.survey, self.scale)?;
        let is_other = mixture.chosen != self.mixture.chosen;
        if is_other {
            self.mixture = mixture;
            let measured = self.outlook.measured.take();
            self.outlook = job.outlook(&self.survey, &self.mixture, measured);
        }
        Ok(is_other)
    }

    /// The conversion with the chosen types.
    pub(super) fn request<'a>(&'a self, given: &Request<'a>) -> Request<'a> {
        Request {
            recipe: self.mixture.recipe,
            types: Some(&self.mixture.types),
            imatrix: given.imatrix.or(self.imatrix.as_ref()),
            ..*given
        }
    }
}

/// What is expected of the chosen types.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outlook {
    /// The limit of the file's size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limit_bytes: Option<u64>,
    /// The limit of bits per weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limit_bits: Option<f64>,
    /// The divergence that may not be exceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target_kl: Option<f64>,
    /// The smallest and the largest size of the file in bytes.
    pub(super) least_bytes: u64,
    pub(super) most_bytes: u64,
    /// The expected divergence from the checkpoint in nats: the sum of what single tensors cause.
    pub(super) expected_kl: f64,
    /// No choice of types within the limit has a smaller expected divergence than this.
    pub(super) bound_kl: f64,
    /// The tensors whose types were chosen.
    pub(super) tensors: usize,
    /// What was known of each type of each tensor.
    pub(super) candidates: Vec<Considered>,
    /// What was measured; absent with `--quick`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) measured: Option<Measured>,
}

/// The types that a tensor could have.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Considered {
    name: String,
    types: Vec<ConsideredType>,
}

/// A type that a tensor could have.
#[derive(Clone, Debug, Serialize)]
struct ConsideredType {
    #[serde(rename = "type")]
    ty: String,
    bytes: u64,
    /// Squared error of the products, relative to their square.
    relative_error: f64,
    /// The divergence in nats that it causes alone.
    kl: f64,
    /// Whether that was measured.
    measured: bool,
}

/// Estimates what each type does to each tensor.
pub(super) fn survey(job: &Job<'_>, request: &Request<'_>) -> anyhow::Result<Survey> {
    let options = Options {
        threads: job.threads,
        force: false,
        cancel: job.cancel,
    };
    let limit = job.wish.limit();
    match Survey::new(job.checkpoint, request, limit, &options, job.progress) {
        Err(error @ convert::Error::TooSmall { .. }) => Err(job.wish.explain(error)),
        survey => interrupted(survey),
    }
}

/// Chooses the types. `given` is the conversion, with no types chosen yet.
pub(super) fn choose(job: &Job<'_>, given: &Request<'_>) -> anyhow::Result<Chosen> {
    if job.args.quick {
        let survey = survey(job, given)?;
        let mixture = job.wish.pick(&survey, 1.0)?;
        let outlook = job.outlook(&survey, &mixture, None);
        return Ok(Chosen {
            mixture,
            outlook,
            survey,
            scale: 1.0,
            imatrix: None,
            reference: None,
        });
    }
    let (reference, text, imatrix) = measure::calibrate(job, given)?;
    let request = Request {
        imatrix: given.imatrix.or(imatrix.as_ref()),
        ..*given
    };
    let mut survey = survey(job, &request)?;
    let (mut mixture, measured) = measure::measure(job, &request, &reference, &text, &mut survey)?;
    let scale = match measured.together_kl > 0.0 {
        true => (mixture.loss / measured.together_kl).clamp(0.1, 10.0),
        false => 1.0,
    };
    if let Wish::Within(_) = job.wish {
        mixture = job.wish.pick(&survey, scale)?;
    }
    let outlook = job.outlook(&survey, &mixture, Some(measured));
    Ok(Chosen {
        mixture,
        outlook,
        survey,
        scale,
        imatrix,
        reference: Some(reference),
    })
}

impl Considered {
    fn of(tensor: &Surveyed) -> Self {
        let types = tensor.candidates.iter().map(|candidate| ConsideredType {
            ty: candidate.ty.to_string(),
            bytes: candidate.bytes,
            relative_error: candidate.relative,
            kl: candidate.loss,
            measured: candidate.is_measured(),
        });
        Considered {
            name: tensor.name.clone(),
            types: types.collect(),
        }
    }
}

impl Job<'_> {
    fn outlook(&self, survey: &Survey, mixture: &Mixture, measured: Option<Measured>) -> Outlook {
        let (least_bytes, most_bytes) = survey.sizes();
        let (limit_bytes, limit_bits, target_kl) = match self.wish {
            Wish::Limit(Limit::Bytes(bytes)) => (Some(bytes), None, None),
            Wish::Limit(Limit::Bits(bits)) => (None, Some(bits), None),
            Wish::Within(nats) => (None, None, Some(nats)),
        };
        Outlook {
            limit_bytes,
            limit_bits,
            target_kl,
            least_bytes,
            most_bytes,
            expected_kl: mixture.loss,
            bound_kl: mixture.bound,
            tensors: survey.tensors().len(),
            candidates: survey.tensors().iter().map(Considered::of).collect(),
            measured,
        }
    }
}
