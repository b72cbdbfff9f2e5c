//! Ablation: what a model says without some of its parts, and which of its parts matter.

use serde::Serialize;

use super::edit::{Edit, States};
use super::error::{Error, Result};
use super::measure::{Asked, Measure};
use super::part::{Part, Spot};
use super::removal::{self, Kind, With, check_removable, edits};
use super::variants::{Base, Variant, is_cancelled};
use super::why::with;
use modelve_probe::math::Distribution;
use modelve_probe::next::{Next, beside, moved};
use modelve_probe::{Choice, JsonText, Prompt, Subject};
use modelve_runtime::{Session, Token, Vocab};

/// Options of [`ablate`].
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The tokens that the measure compares.
    pub asked: Asked,
    /// The parts to remove, all at once.
    pub spots: Vec<Spot>,
    /// The values that replace their output.
    pub with: With,
    /// Number of likeliest tokens to return.
    pub top: usize,
    /// Number of tokens to generate, both with and without the parts; 0 means none.
    pub max_tokens: usize,
}

/// The predictions of a model with and without some of its parts.
#[derive(Debug, Clone, Serialize)]
pub struct Ablation {
    /// The model.
    pub model: Subject,
    /// The prompt.
    pub prompt: String,
    /// The parts that were removed.
    pub parts: Vec<Spot>,
    /// The values that replaced their output.
    pub with: With,
    /// The measure, see [`crate::measure`].
    #[serde(flatten)]
    pub measure: Measure,
    /// Value of the measure for the whole model.
    pub value: f64,
    /// Value of the measure without the parts.
    pub without: f64,
    /// `without` minus `value`.
    pub change: f64,
    /// D(before ‖ after) in nats.
    pub kl: f64,
    /// Next-token distribution of the whole model.
    pub before: Next,
    /// Next-token distribution without the parts.
    pub after: Next,
    /// The greedy continuation without the parts, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Written>,
    /// The greedy continuation of the whole model, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_before: Option<Written>,
    /// Whether everything was computed, that is, whether the session was not cancelled.
    pub complete: bool,
}

/// Generated text as bytes, because it may end within a character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written(pub Vec<u8>);

impl Serialize for Written {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        JsonText(&self.0).serialize(serializer)
    }
}

/// Removes parts of the model and compares its predictions. The session must have been made with
/// [`settings`](super::settings) and have [`room`](super::room) and [`Options::max_tokens`] in
/// addition to the prompt; `on_progress` gets the number of passes done and their total.
///
/// # Errors
/// Parts that the model does not have, measured texts that are not tokens, or a prompt that does
/// not fit the session.
pub fn ablate(
    session: &mut Session,
    prompt: &Prompt,
    options: &Options,
    on_progress: &mut dyn FnMut(usize, usize),
) -> Result<Ablation> {
    let model = session.model().clone();
    let vocab = model.vocab();
    let roles = session.roles()?.clone();
    for spot in &options.spots {
        check_removable(&model, &roles, spot.part)?;
    }
    let names = options.asked.names(vocab, prompt)?;
    let prompt = with(&model, prompt, &names.common);
    let parts: Vec<Part> = options.spots.iter().map(|spot| spot.part).collect();
    let total = 2 + 2 * options.max_tokens;

    let mut states = States::of(removal::needs(&model, &parts, options.with)?);
    let mut base = Base::read(session, &prompt.ids, &[], &mut states)?;
    on_progress(1, total);
    let measure = Measure::of(&model, &names, &base.logits)?;
    let n = prompt.ids.len();
    let edits = edits(&model, &options.spots, n, options.with, &states)?;
    let variant = Variant::edited(&prompt.ids, edits.clone());
    let mut after = Vec::new();
    base.run(session, &[variant], &mut |_, row| after = row.to_vec())?;
    on_progress(2, total);

    let told = |row: &[f32]| {
        let distribution = Distribution::new(row);
        Next {
            prompt: prompt.text.clone(),
            ids: prompt.ids.clone(),
            entropy_bits: distribution.entropy_bits(),
            top: Choice::top(vocab, &distribution, options.top.max(1)),
            candidates: Vec::new(),
            moved: Vec::new(),
            beside: Vec::new(),
            tree: None,
            logits: row.to_vec(),
        }
    };
    let (mut before, mut after) = (told(&base.logits), told(&after));
    after.moved = moved(vocab, &before.logits, &after.logits, options.top.max(1));
    beside(vocab, [&mut before, &mut after]);
    let mut complete = true;
    let (mut text, mut text_before) = (None, None);
    if options.max_tokens > 0 {
        let mut done = 2;
        let mut write = |edits: &[Edit], into: &mut Option<Written>| {
            let mut ids = Vec::new();
            let written = write(session, &prompt.ids, edits, options.max_tokens, &mut |id| {
                ids.push(id);
                done += 1;
                on_progress(done, total);
            });
            *into = Some(Written(bytes_of(vocab, &ids)));
            written
        };
        drop(base);
        let written = write(&[], &mut text_before).and_then(|()| write(&edits, &mut text));
        complete = match written {
            Ok(()) => true,
            Err(error) if is_cancelled(&error) => false,
            Err(error) => return Err(error),
        };
    }
    let (value, without) = (measure.value(&before.logits), measure.value(&after.logits));
    Ok(Ablation {
        model: Subject::of(&model),
        parts: options.spots.clone(),
        with: options.with,
        value,
        without,
        change: without - value,
        kl: Distribution::new(&before.logits).kl(&Distribution::new(&after.logits)),
        measure,
        before,
        after,
        text,
        text_before,
        complete,
        prompt: prompt.text,
    })
}

/// Continues a prompt greedily until the model ends the text.
fn write(
    session: &mut Session,
    ids: &[Token],
    edits: &[Edit],
    max_tokens: usize,
    on_token: &mut dyn FnMut(Token),
) -> Result<()> {
    let model = session.model().clone();
    let mut base = Base::read(session, ids, edits, &mut States::none())?;
    for i in 0..max_tokens {
        let next = Distribution::new(&base.logits).best();
        if model.vocab().is_end(next) {
            break;
        }
        on_token(next);
        if i + 1 < max_tokens {
            base.push(session, next, edits)?;
        }
    }
    Ok(())
}

fn bytes_of(vocab: &Vocab, ids: &[Token]) -> Vec<u8> {
    let pieces = ids.iter().map(|&id| vocab.piece(id, true));
    pieces.flatten().collect::<Vec<_>>().concat()
}

/// The effect of every part of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct Ranking {
    /// The model.
    pub model: Subject,
    /// The prompt.
    pub prompt: String,
    /// Token ids of the prompt.
    pub ids: Vec<Token>,
    /// The values that replaced the output of each part.
    pub with: With,
    /// The measure, see [`crate::measure`].
    #[serde(flatten)]
    pub measure: Measure,
    /// Value of the measure for the whole model.
    pub value: f64,
    /// The likeliest next tokens of the whole model.
    pub top: Vec<Choice>,
    /// One entry for each part, the largest change of the measure first.
    pub parts: Vec<Effect>,
    /// Whether all parts were tried.
    pub complete: bool,
}

/// The effect of removing one part.
#[derive(Debug, Clone, Serialize)]
pub struct Effect {
    /// The part.
    pub part: Part,
    /// Its layer; `None` for a part outside the layers.
    pub layer: Option<usize>,
    /// Its head; `None` for a part that is not a head.
    pub head: Option<usize>,
    /// Value of the measure without the part.
    pub without: f64,
    /// `without` minus the value for the whole model.
    pub change: f64,
    /// D(before ‖ after) in nats.
    pub kl: f64,
    /// The likeliest next token without the part.
    pub says: Choice,
}

/// Removes every part of a kind in turn, at every position. The session must have been made with
/// [`settings`](super::settings) and have [`room`](super::room) in addition to the prompt.
///
/// # Errors
/// [`Error::Unsupported`] for a model without such parts, measured texts that are not tokens, or a
/// prompt that does not fit the session.
pub fn rank(
    session: &mut Session,
    prompt: &Prompt,
    kind: Kind,
    options: &Options,
    on_progress: &mut dyn FnMut(usize, usize),
) -> Result<Ranking> {
    let model = session.model().clone();
    let vocab = model.vocab();
    let roles = session.roles()?.clone();
    let parts = removal::all(&model, &roles, kind);
    if parts.is_empty() {
        return Err(Error::Unsupported {
            arch: model.facts().arch.clone(),
            what: "its graph does not show such parts".to_owned(),
        });
    }
    let names = options.asked.names(vocab, prompt)?;
    let prompt = with(&model, prompt, &names.common);
    let mut states = States::of(removal::needs(&model, &parts, options.with)?);
    let mut base = Base::read(session, &prompt.ids, &[], &mut states)?;
    let total = parts.len() + 1;
    on_progress(1, total);
    let logits = std::mem::take(&mut base.logits);
    let measure = Measure::of(&model, &names, &logits)?;
    let value = measure.value(&logits);
    let whole = Distribution::new(&logits);
    let reference = whole.reference();
    let mut variants = Vec::with_capacity(parts.len());
    for &part in &parts {
        let spots = [Spot::everywhere(part)];
        let edits = edits(&model, &spots, prompt.ids.len(), options.with, &states)?;
        variants.push(Variant::edited(&prompt.ids, edits));
    }
    let mut effects = Vec::with_capacity(parts.len());
    let run = base.run(session, &variants, &mut |i, row| {
        let distribution = Distribution::new(row);
        let without = measure.value(row);
        effects.push(Effect {
            part: parts[i],
            layer: parts[i].layer(),
            head: parts[i].head(),
            without,
            change: without - value,
            kl: reference.kl(&distribution),
            says: Choice::new(vocab, &distribution, distribution.best()),
        });
        on_progress(i + 2, total);
    });
    let complete = match run {
        Ok(()) => true,
        Err(error) if is_cancelled(&error) => false,
        Err(error) => return Err(error),
    };
    effects.sort_by(|a, b| b.change.abs().total_cmp(&a.change.abs()));
    Ok(Ranking {
        model: Subject::of(&model),
        with: options.with,
        value,
        top: Choice::top(vocab, &whole, options.top.max(1)),
        parts: effects,
        complete,
        measure,
        prompt: prompt.text,
        ids: prompt.ids,
    })
}
