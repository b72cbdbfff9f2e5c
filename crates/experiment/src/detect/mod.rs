//! Which head does what: what heads do with random tokens that repeat, and, given a prompt, where
//! each looks from its last token and which tokens its output writes there.

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

/// Numbers by layer and head, `[layer][head]`: a layer without attention has none. Six digits after
/// the point in JSON.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table(pub Vec<Vec<f64>>);

impl Table {
    /// The places and their numbers, the largest first. What is no number is left out.
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

/// What every head does.
#[derive(Debug, Clone, Serialize)]
pub struct Heads {
    /// The model.
    pub model: Subject,
    /// Layers of the model.
    pub layers: usize,
    /// Heads of a layer, the most there are in one.
    pub heads: usize,
    /// Where the random numbers began.
    pub seed: u64,
    /// Random tokens before they repeat.
    pub length: usize,
    /// The tokens of each draw that was computed.
    pub random: Vec<Vec<Token>>,
    /// What they do with those.
    #[serde(flatten)]
    pub scores: Scores,
    /// What the heads do with a prompt, if one was given.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
    /// Whether all was computed.
    pub complete: bool,
}

/// What to look at.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Where the random numbers begin.
    pub seed: u64,
    /// Random tokens before they repeat.
    pub length: usize,
    /// How often tokens are drawn.
    pub draws: usize,
    /// Tokens to tell of what each head writes.
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
    /// Tokens of a draw.
    fn tokens(&self, model: &Model) -> usize {
        let bos = model.vocab().adds_bos() && model.vocab().bos().is_some();
        2 * self.length + usize::from(bos)
    }

    /// Tokens of the longest text that is computed, given the prompt.
    pub fn longest(&self, model: &Model, prompt: Option<&Prompt>) -> usize {
        let prompt = prompt.map_or(0, |prompt| prompt.ids.len());
        self.tokens(model).max(prompt)
    }

    /// Tokens that are computed in all.
    pub fn total(&self, model: &Model, prompt: Option<&Prompt>) -> usize {
        let prompt = prompt.map_or(0, |prompt| prompt.ids.len());
        self.draws * self.tokens(model) + prompt
    }
}

/// Settings for a session of [`heads`] over texts of up to `tokens`: with attention weights, and a
/// batch of which those of a layer can be held.
pub fn settings(model: &Model, tokens: usize, base: Settings) -> Settings {
    modelve_probe::attention::settings(model, tokens, exact(base))
}

/// Finds out what every head does with random tokens, and with `prompt`. The session is made with
/// [`settings`]; `on_progress` is told how many tokens of [`Options::total`] are done. When the
/// session's [`Cancel`](modelve_runtime::Cancel) is set, what is done is returned, and
/// [`Heads::complete`] is false.
///
/// # Errors
/// [`Error::TooFewTokens`] if the vocabulary has fewer ordinary tokens than a draw needs;
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
