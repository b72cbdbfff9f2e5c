//! Detection of head types: what each head does with repeated random tokens and, for a given
//! prompt, what it attends to from the last token and which tokens its output promotes.

mod random;
mod said;
mod scores;
mod written;

use serde::{Serialize, Serializer};

use super::error::{Error, Result};
use super::variants::exact;
use modelve_probe::{Prompt, Subject};
use modelve_runtime::graph::Role;
use modelve_runtime::{Model, Session, Settings, Token};

pub use said::{Last, Said, Write};
pub use scores::{Scores, scores};

/// Numbers by layer and head, `[layer][head]`; the row of a layer without attention is empty. JSON
/// has six digits after the point.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table(pub Vec<Vec<f64>>);

impl Table {
    /// Returns `(layer, head, number)`, the largest number first; NaN is left out.
    pub fn ranked(&self) -> Vec<(usize, usize, f64)> {
        let mut all: Vec<(usize, usize, f64)> = Vec::new();
        for (layer, heads) in self.0.iter().enumerate() {
            let heads = heads.iter().enumerate();
            all.extend(heads.map(|(head, &value)| (layer, head, value)));
        }
        all.retain(|(.., value)| value.is_finite());
        all.sort_by(|a, b| b.2.total_cmp(&a.2));
        all
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let layers = self.0.iter().map(|heads| {
            let heads = heads.iter();
            heads.map(|&x| six_digits(x)).collect::<Vec<f64>>()
        });
        serializer.collect_seq(layers)
    }
}

fn six_digits(x: f64) -> f64 {
    (x * 1e6).round() / 1e6
}

/// The scores of every head.
#[derive(Debug, Clone, Serialize)]
pub struct Heads {
    /// The model.
    pub model: Subject,
    /// Number of layers in the model.
    pub layers: usize,
    /// Number of heads in a layer; the largest where layers differ.
    pub heads: usize,
    /// Seed of the random numbers.
    pub seed: u64,
    /// Number of random tokens before they are repeated.
    pub length: usize,
    /// Token ids of each sequence of random tokens that was computed.
    pub random: Vec<Vec<Token>>,
    /// The scores of all heads on the random tokens.
    #[serde(flatten)]
    pub scores: Scores,
    /// What the heads do with the prompt, if one was given.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
    /// Whether everything was computed.
    pub complete: bool,
}

/// Options of [`heads`].
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Seed of the random numbers.
    pub seed: u64,
    /// Number of random tokens before they are repeated.
    pub length: usize,
    /// Number of sequences of random tokens.
    pub draws: usize,
    /// Number of tokens to return of those that each head promotes.
    pub top: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seed: 0,
            length: 50,
            draws: 2,
            top: 5,
        }
    }
}

impl Options {
    /// Number of tokens in one sequence of random tokens.
    fn tokens(&self, model: &Model) -> usize {
        let bos = model.vocab().adds_bos() && model.vocab().bos().is_some();
        2 * self.length + usize::from(bos)
    }

    /// Number of tokens in the longest text that is computed, the prompt included.
    pub fn longest(&self, model: &Model, prompt: Option<&Prompt>) -> usize {
        let prompt = prompt.map_or(0, |prompt| prompt.ids.len());
        self.tokens(model).max(prompt)
    }

    /// Total number of tokens that are computed.
    pub fn total(&self, model: &Model, prompt: Option<&Prompt>) -> usize {
        let prompt = prompt.map_or(0, |prompt| prompt.ids.len());
        self.draws * self.tokens(model) + prompt
    }
}

/// Returns the settings of a session for [`heads`] on texts of up to `tokens` tokens: with
/// attention weights, and with a batch small enough that those of a layer can be held.
pub fn settings(model: &Model, tokens: usize, base: Settings) -> Settings {
    modelve_probe::attention::settings(model, tokens, exact(base))
}

/// Computes what every head does with random tokens and with `prompt`. The session must have been
/// made with [`settings`]; `on_progress` gets the number of tokens done, of [`Options::total`].
/// When the session's [`Cancel`](modelve_runtime::Cancel) is set, the results so far are returned,
/// and [`Heads::complete`] is false.
///
/// # Errors
/// [`Error::TooFewTokens`] if the vocabulary has fewer ordinary tokens than a sequence needs;
/// [`Error::Runtime`] with `NoRole` for a model without attention weights.
pub fn heads(
    session: &mut Session,
    prompt: Option<&Prompt>,
    options: &Options,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Heads> {
    let model = session.model().clone();
    let n_layer = model.facts().n_layer as usize;
    let roles = session.roles()?;
    if !(0..n_layer).any(|layer| roles.has(Role::Pattern(layer))) {
        roles.require(Role::Pattern(0))?;
    }
    let ordinary = random::ordinary(&model)?;
    if ordinary.len() < options.length || options.length == 0 {
        return Err(Error::TooFewTokens {
            have: ordinary.len(),
            want: options.length,
        });
    }
    let draw = |draw| random::repeated(&model, &ordinary, options.length, options.seed, draw);
    let mut random: Vec<Vec<Token>> = (0..options.draws).map(draw).collect();
    let (scores, draws) = scores(session, &random, options.length, on_progress)?;
    let mut complete = draws == options.draws;
    random.truncate(draws);
    let mut said = None;
    if let Some(prompt) = prompt.filter(|_| complete) {
        let before = options.draws * options.tokens(&model);
        said = said::said(session, prompt, options.top, &mut |done| {
            on_progress(before + done);
        })?;
        complete = said.is_some();
    }
    Ok(Heads {
        model: Subject::of(&model),
        layers: n_layer,
        heads: scores.first.0.iter().map(Vec::len).max().unwrap_or(0),
        seed: options.seed,
        length: options.length,
        random,
        scores,
        said,
        complete,
    })
}
