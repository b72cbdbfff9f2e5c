//! Writes a file of chosen types, and proves what it does. A divergence that may not be exceeded is
//! kept by choosing again.

use std::path::Path;

use anyhow::{Context, anyhow};

use super::proof::{self, Quality};
use super::sized::{Chosen, Job, Outlook, Wish};
use super::{interrupted, output_hint};
use crate::convert::{self, Options, Plan, Request, Written};
use crate::hint::hinted;

/// A file that does not have its name yet.
pub(super) struct Made {
    pub(super) plan: Plan,
    pub(super) written: Written,
    pub(super) outlook: Outlook,
    /// `None` with `--quick`.
    pub(super) quality: Option<Quality>,
}

/// How often types are chosen again for a divergence.
const TRIES: usize = 5;
/// A file whose divergence is within this share of the one that may not be exceeded is small enough.
const NEAR: f64 = 0.93;

/// Writes the file. `given` is the conversion, with no types chosen.
pub(super) fn write(
    job: &Job<'_>,
    mut chosen: Chosen,
    given: &Request<'_>,
    output: &Path,
    options: &Options<'_>,
) -> anyhow::Result<Made> {
    let mut best: Option<Made> = None;
    let mut found = f64::INFINITY;
    for _ in 0..TRIES {
        let made = once(job, &chosen, given, output, options)?;
        let (Wish::Within(most), Some(quality)) = (job.wish, &made.quality) else {
            return Ok(made);
        };
        found = quality.kl_mean;
        let size = |made: &Made| made.plan.file_size();
        if found <= most && best.as_ref().is_none_or(|best| size(&made) < size(best)) {
            best = Some(made);
        }
        let near = found <= most && found > NEAR * most;
        if near || !chosen.again(job, (1.0 + NEAR) / 2.0 * most / found.max(1e-9))? {
            break;
        }
    }
    best.ok_or_else(|| {
        let error = anyhow!(
            "no choice of types was found that differs by so little: the last has {found:.4} nats"
        );
        hinted(error, "a larger --target-kl, or -q F16")
    })
}

fn once(
    job: &Job<'_>,
    chosen: &Chosen,
    given: &Request<'_>,
    output: &Path,
    options: &Options<'_>,
) -> anyhow::Result<Made> {
    let request = chosen.request(given);
    let what = || format!("cannot convert {}", job.checkpoint.folder().display());
    let mut plan = Plan::new(job.checkpoint, &request).with_context(what)?;
    let written = convert::write_aside(
        &plan,
        job.checkpoint,
        &request,
        output,
        options,
        job.progress,
    );
    let written = output_hint(interrupted(written), output)?;
    let quality = match &chosen.reference {
        None => None,
        Some(reference) => {
            let quality = proof::prove(job, reference, written.path())?;
            // The header has places for these values already.
            let proven = quality.metadata();
            let request = Request {
                extra: &proven,
                ..request
            };
            plan = Plan::new(job.checkpoint, &request).with_context(what)?;
            written.replace_header(&plan)?;
            Some(quality)
        }
    };
    Ok(Made {
        plan,
        written,
        outlook: chosen.outlook.clone(),
        quality,
    })
}
