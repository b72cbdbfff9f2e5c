//! `modelve patch`: where in the model the difference between two prompts is represented.

use super::engine::cancel_on_ctrl_c;
use super::experiments::{session, told};
use super::probing::{self, interrupted, load, nothing_yet, telling_of};
use super::prompt::Text;
use super::why::COMMON;
use crate::experiment::html;
use crate::experiment::mean::Averaging;
use crate::experiment::measure::Asked;
use crate::experiment::patch::{self, Corrupt, Noise, Options};
use crate::probe::Prompt;
use crate::progress;
use crate::runtime::{Model, RopeFactors, Session};

mod args;
mod given;
mod print;

pub use args::Args;
use given::{Given, given, places, positions};
use print::{print, print_mean};

/// Two prompts and the measure.
struct Job {
    clean: Prompt,
    corrupt: Corrupt,
    asked: Asked,
}

impl Job {
    /// Number of tokens in the longer prompt.
    fn tokens(&self) -> usize {
        let other = match &self.corrupt {
            Corrupt::Prompt(prompt) => prompt.ids.len(),
            Corrupt::Noise(_) => 0,
        };
        self.clean.ids.len().max(other)
    }
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let given = given(args)?;
    let to = args.form.judge(args.inputs())?;
    let cancel = cancel_on_ctrl_c()?;
    let bytes: usize = given.iter().map(|pair| pair.clean.text.len()).sum();
    let model = load(&args.engine, bytes * 16, &cancel)?;
    let to = to.of(&model);
    let jobs = jobs(args, &model, &given)?;
    let options = Options {
        what: args.what(),
        positions: args.positions.as_deref().map(positions).transpose()?,
        layers: args.layers.of(model.facts().n_layer as usize)?,
        top: args.top,
        together: args.together,
        ..Options::default()
    };
    let progress = progress::stderr(false);
    let is_mean = args.pairs.is_some() || args.samples > 1;
    let mut averaging = Averaging::default();
    // Prompts that need different RoPE factors need different sessions.
    let mut sessions: [Option<Session>; 2] = [None, None];
    let mut complete = true;
    for job in &jobs {
        let rope_factors = model.rope_factors(job.tokens());
        let session = match &mut sessions[usize::from(rope_factors == RopeFactors::Long)] {
            Some(session) => session,
            none => {
                let alike = jobs
                    .iter()
                    .filter(|job| model.rope_factors(job.tokens()) == rope_factors);
                let longest = alike.map(Job::tokens).max().unwrap_or(0);
                none.insert(session(&args.engine, &model, longest + COMMON, &cancel)?)
            }
        };
        let options = Options {
            asked: job.asked.clone(),
            ..options.clone()
        };
        let found = patch::patch(
            session,
            &job.clean,
            &job.corrupt,
            &options,
            &mut telling_of(&*progress, "patching", "places"),
        );
        progress.finish();
        let found = match found.map_err(told) {
            Err(_) if cancel.is_set() && is_mean => {
                complete = false;
                break;
            }
            found => found?,
        };
        if !is_mean {
            to.show_one(html::PATCH, &found, |out| print(out, &found))?;
            return interrupted(found.complete);
        }
        if !found.complete {
            complete = false;
            break;
        }
        averaging
            .add(found, options.positions.as_deref())
            .map_err(told)?;
    }
    let Some(mean) = averaging.finish(complete) else {
        return match complete {
            true => interrupted(complete),
            false => Err(nothing_yet()),
        };
    };
    to.show_one(html::PAIRS, &mean, |out| print_mean(out, &mean))?;
    interrupted(complete)
}

/// Returns the jobs: one for each pair, or for each sample of the noise.
fn jobs(args: &Args, model: &Model, given: &[Given]) -> anyhow::Result<Vec<Job>> {
    let read = |text: &Text| args.prompts.read(model, text).map_err(probing::told);
    let mut jobs = Vec::new();
    for pair in given {
        let clean = read(&pair.clean)?;
        let corrupt: Vec<Corrupt> = match (&pair.corrupt, args.noise, &args.noised) {
            (None, Some(scale), Some(noised)) => {
                let positions = places(&clean.pieces(model.vocab()), noised)?;
                let draws = (0..u64::from(args.samples)).map(|draw| {
                    Corrupt::Noise(Noise {
                        scale,
                        positions: positions.clone(),
                        seed: args.seed.wrapping_add(draw),
                    })
                });
                draws.collect()
            }
            (Some(corrupt), ..) => vec![Corrupt::Prompt(read(corrupt)?)],
            (None, ..) => Vec::new(),
        };
        jobs.extend(corrupt.into_iter().map(|corrupt| Job {
            clean: clean.clone(),
            corrupt,
            asked: pair.asked.clone(),
        }));
    }
    Ok(jobs)
}
