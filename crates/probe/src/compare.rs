//! Compares two or more files of one model: how their predictions differ over a text. All models
//! read the same windows, one batch at a time, so only one batch of logits is held in memory.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::math::{Distribution, Mean, Reference};
use super::score::Windows;
use super::weights::TensorError;
use super::{Choice, Error, Piece, Prompt, Result, piece, text_of};
use modelve_runtime::{Error as RuntimeError, Seq, Session, Settings, Token, WantLogits};

/// The comparison of one file with the first.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Name of the first file.
    pub a: String,
    /// Name of this file.
    pub b: String,
    /// Number of positions compared.
    pub n_tokens: usize,
    /// Mean KL divergence D(a ‖ b) in nats.
    pub kl_mean: f64,
    /// Standard error of that mean.
    pub kl_error: f64,
    /// The divergence that 99 % of the positions do not exceed, in nats.
    pub kl_p99: f64,
    /// Largest divergence, in nats.
    pub kl_max: f64,
    /// Mean divergence of the positions that each window scores, in the order of the text, in nats.
    pub kl_windows: Vec<f64>,
    /// Perplexity of the text under the first file.
    pub perplexity_a: f64,
    /// Perplexity of the text under this file.
    pub perplexity_b: f64,
    /// Mean of ln p_a − ln p_b over the text's tokens: the logarithm of the ratio of the
    /// perplexities.
    pub log_ratio: f64,
    /// Standard error of that mean.
    pub log_ratio_error: f64,
    /// Share of positions at which both models rank the same token first, from 0 to 1.
    pub same_top: f64,
    /// The positions with the largest divergence, largest first.
    pub worst: Vec<Worst>,
    /// Where the greedy continuations of the two models diverge, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parting: Option<Parting>,
    /// Tensors whose weights differ, largest error first.
    pub tensors: Vec<TensorError>,
    /// The effect of swapping single tensors, largest first; empty unless asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub swap: Vec<super::swap::Swap>,
    /// Size of the first model's files in bytes.
    pub bytes_a: u64,
    /// Size of this model's files in bytes.
    pub bytes_b: u64,
    /// Tokens per second of the first model. The models take turns, so the speeds are comparable
    /// with each other only.
    pub speed_a: f64,
    /// Tokens per second of this model.
    pub speed_b: f64,
    /// The windows in which the text was read.
    pub windows: Windows,
    /// Whether the whole text was read.
    pub complete: bool,
}

/// A position at which two models differ.
#[derive(Debug, Clone, Serialize)]
pub struct Worst {
    /// Number of tokens of the text before the position.
    pub position: usize,
    /// The text just before the position.
    pub context: String,
    /// The token of the text at the position.
    pub id: Token,
    /// Its text.
    pub piece: Piece,
    /// D(a ‖ b) at the position, in nats.
    pub kl: f64,
    /// The likeliest token of the first model.
    pub top_a: Choice,
    /// The likeliest token of this model.
    pub top_b: Choice,
}

/// The common beginning of two greedy continuations, and where they diverge.
#[derive(Debug, Clone, Serialize)]
pub struct Parting {
    /// The prompt that both models continue.
    pub prompt: String,
    /// The text that both models generate.
    pub same: String,
    /// Number of tokens in that text.
    pub n_same: usize,
    /// The first model's choice where they diverge; `None` if they did not within the limit.
    pub a: Option<Choice>,
    /// The other model's choice at the same place.
    pub b: Option<Choice>,
}

/// One of the models to compare.
pub struct Side {
    /// Name of the model in results.
    pub name: String,
    /// Size of its files in bytes.
    pub bytes: u64,
    /// A session made with [`settings`].
    pub session: Session,
}

/// Number of rows of logits held in memory at once.
const ROWS: u32 = 128;

/// Returns the settings for the sessions of [`compare`].
pub fn settings(base: Settings) -> Settings {
    Settings {
        n_batch: ROWS,
        n_outputs: ROWS,
        ..base
    }
}

/// Statistics accumulated over positions.
#[derive(Default)]
struct Sums {
    kl: Mean,
    /// Every divergence, for quantiles.
    kls: Vec<f32>,
    kl_max: f64,
    /// The means of windows before this one, and of this one.
    kl_windows: Vec<f64>,
    kl_window: Mean,
    ratio: Mean,
    loss: Mean,
    same: usize,
    worst: Vec<Worst>,
    fed: usize,
    time: Duration,
}

/// Checks that token ids mean the same in both models.
///
/// # Errors
///
/// [`Error::Vocabularies`] if they do not.
pub fn same_vocabulary(a: &Side, b: &Side) -> Result<()> {
    let (va, vb) = (a.session.model().vocab(), b.session.model().vocab());
    let differ = |how: String| {
        Err(Error::Vocabularies {
            a: a.name.clone(),
            b: b.name.clone(),
            how,
        })
    };
    if va.len() != vb.len() {
        return differ(format!("{} and {} tokens", va.len(), vb.len()));
    }
    for id in va.all() {
        if va.piece(id, true)? != vb.piece(id, true)? {
            return differ(format!(
                "token {id} is {:?} and {:?}",
                &*piece(va, id),
                &*piece(vb, id)
            ));
        }
    }
    Ok(())
}

/// Reads `text` with all of `sides` and compares each with the first, keeping the `worst` positions
/// of each. `on_progress` gets the number of tokens done. When the
/// [`Cancel`](modelve_runtime::Cancel) of a session is set, the results so far are returned.
///
/// # Errors
/// [`Error::Vocabularies`], [`Error::TextTooShort`], [`Error::Window`].
pub fn compare(
    sides: &mut [Side],
    text: &Prompt,
    windows: Windows,
    worst: usize,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Vec<Comparison>> {
    windows.check()?;
    let n = text.ids.len();
    if n < 2 {
        return Err(Error::TextTooShort);
    }
    let Some((first, others)) = sides.split_first_mut() else {
        return Ok(Vec::new());
    };
    for other in others.iter() {
        same_vocabulary(first, other)?;
    }
    let mut sums: Vec<Sums> = others.iter().map(|_| Sums::default()).collect();
    let mut own = Sums::default();
    let mut complete = true;
    'windows: for window in windows.over(n) {
        let mut tokens = window.tokens(first.session.model().vocab(), &text.ids);
        // Of the last one only the likelihood is asked.
        tokens.pop();
        let unseen = window.first - 1 - window.start;
        let step = first.session.settings().n_batch as usize;
        // The context that is only read comes first, then what is scored, batch by batch.
        let starts = (unseen..tokens.len()).step_by(step);
        let scored = starts.map(|from| from..tokens.len().min(from + step));
        let parts = std::iter::once(0..unseen).chain(scored);
        let sides = std::iter::once(&mut *first).chain(others.iter_mut());
        let seqs = sides.map(|side| side.session.open());
        let seqs: Vec<Seq> = seqs.collect::<Result<_, _>>()?;
        for (number, part) in parts.enumerate() {
            let target = window.start + part.start + 1;
            let fed = &tokens[part.clone()];
            let wanted = number > 0;
            let result = batch(
                first, others, &seqs, &mut own, &mut sums, text, fed, target, wanted, worst,
            );
            match result {
                Err(Error::Runtime(RuntimeError::Cancelled)) => {
                    complete = false;
                    break 'windows;
                }
                result => result?,
            }
            if wanted {
                on_progress(target + fed.len());
            }
        }
        for sums in &mut sums {
            let window = std::mem::take(&mut sums.kl_window);
            sums.kl_windows.push(window.mean());
        }
    }
    let speed = |sums: &Sums| sums.fed as f64 / sums.time.as_secs_f64().max(1e-9);
    let told = others.iter().zip(sums).map(|(other, sums)| Comparison {
        a: first.name.clone(),
        b: other.name.clone(),
        n_tokens: sums.kl.len(),
        kl_mean: sums.kl.mean(),
        kl_error: sums.kl.error(),
        kl_p99: quantile(&sums.kls, 0.99),
        kl_max: sums.kl_max,
        perplexity_a: own.loss.mean().exp(),
        perplexity_b: sums.loss.mean().exp(),
        log_ratio: sums.ratio.mean(),
        log_ratio_error: sums.ratio.error(),
        same_top: sums.same as f64 / sums.kl.len().max(1) as f64,
        parting: None,
        tensors: Vec::new(),
        swap: Vec::new(),
        bytes_a: first.bytes,
        bytes_b: other.bytes,
        speed_a: speed(&own),
        speed_b: speed(&sums),
        kl_windows: sums.kl_windows,
        worst: sums.worst,
        windows,
        complete,
    });
    Ok(told.collect())
}

/// The smallest value that at least `share` of the values do not exceed; 0 if there are none.
fn quantile(values: &[f32], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let value = sorted.get(rank.saturating_sub(1));
    value.copied().map_or(0.0, f64::from)
}

/// Runs one batch through all models, each in its own sequence. `target` is the index of the token
/// that the first row predicts.
#[allow(clippy::too_many_arguments)]
fn batch(
    first: &mut Side,
    others: &mut [Side],
    seqs: &[Seq],
    own: &mut Sums,
    sums: &mut [Sums],
    text: &Prompt,
    fed: &[Token],
    target: usize,
    wanted: bool,
    worst: usize,
) -> Result<()> {
    let want = if wanted {
        WantLogits::All
    } else {
        WantLogits::None
    };
    let vocab = first.session.model().vocab().clone();
    let mut rows: Vec<(Reference, Choice, f64)> = Vec::new();
    let start = Instant::now();
    first.session.feed(&seqs[0], fed, want, &mut |i, logits| {
        let d = Distribution::new(logits);
        let logprob = d.logprob(text.ids[target + i]);
        rows.push((d.reference(), Choice::new(&vocab, &d, d.best()), logprob));
    })?;
    own.time += start.elapsed();
    own.fed += fed.len();
    // A batch counts only if every model finished it.
    let mut found: Vec<Vec<(f64, f64, Choice)>> = Vec::with_capacity(others.len());
    for ((other, seq), sums) in others.iter_mut().zip(&seqs[1..]).zip(sums.iter_mut()) {
        let mut here = Vec::with_capacity(rows.len());
        let start = Instant::now();
        other.session.feed(seq, fed, want, &mut |i, logits| {
            let d = Distribution::new(logits);
            let logprob = d.logprob(text.ids[target + i]);
            here.push((rows[i].0.kl(&d), logprob, Choice::new(&vocab, &d, d.best())));
        })?;
        sums.time += start.elapsed();
        sums.fed += fed.len();
        found.push(here);
    }
    for row in &rows {
        own.loss.add(-row.2);
    }
    for (sums, here) in sums.iter_mut().zip(found) {
        for (i, (kl, logprob, top_b)) in here.into_iter().enumerate() {
            let (_, top_a, logprob_a) = &rows[i];
            sums.kl.add(kl);
            sums.kls.push(kl as f32);
            sums.kl_window.add(kl);
            sums.kl_max = sums.kl_max.max(kl);
            sums.loss.add(-logprob);
            sums.ratio.add(logprob_a - logprob);
            sums.same += usize::from(top_a.id == top_b.id);
            let at = sums.worst.partition_point(|other| other.kl >= kl);
            if at >= worst {
                continue;
            }
            let position = target + i;
            let before = &text.ids[position.saturating_sub(16)..position];
            let id = text.ids[position];
            let found = Worst {
                position,
                context: text_of(&vocab, before),
                id,
                piece: piece(&vocab, id),
                kl,
                top_a: top_a.clone(),
                top_b,
            };
            sums.worst.insert(at, found);
            sums.worst.truncate(worst);
        }
    }
    Ok(())
}

/// Continues `prompt` greedily with two models until their choices differ, or for `most` tokens.
///
/// # Errors
/// The prompt does not fit a session.
pub fn parting(a: &mut Session, b: &mut Session, prompt: &Prompt, most: usize) -> Result<Parting> {
    let vocab = a.model().vocab().clone();
    let mut fed = prompt.ids.clone();
    let mut same = Vec::new();
    let mut parted = (None, None);
    let (seq_a, seq_b) = (a.open()?, b.open()?);
    while same.len() < most {
        let says = |session: &mut Session, seq: &Seq| -> Result<Choice> {
            let mut choice = None;
            session.feed(seq, &fed, WantLogits::Last, &mut |_, logits| {
                let d = Distribution::new(logits);
                choice = Some(Choice::new(&vocab, &d, d.best()));
            })?;
            choice.ok_or(Error::EmptyPrompt)
        };
        let (of_a, of_b) = (says(a, &seq_a)?, says(b, &seq_b)?);
        if of_a.id != of_b.id {
            parted = (Some(of_a), Some(of_b));
            break;
        }
        same.push(of_a.id);
        if vocab.is_end(of_a.id) {
            break;
        }
        fed = vec![of_a.id];
    }
    Ok(Parting {
        prompt: prompt.text.clone(),
        same: text_of(&vocab, &same),
        n_same: same.len(),
        a: parted.0,
        b: parted.1,
    })
}
