//! What a model says without a part of itself, and which of its parts matter.

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

/// What is taken out, and what to tell.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The measure.
    pub asked: Asked,
    /// What is taken out, all of it at once.
    pub spots: Vec<Spot>,
    /// What takes its place.
    pub with: With,
    /// How many of the likeliest tokens to tell.
    pub top: usize,
    /// How many tokens to write, with and without the parts.
    pub max_tokens: usize,
}

/// A prompt with and without parts of the model.
#[derive(Debug, Clone, Serialize)]
pub struct Ablation {
    /// The model.
    pub model: Subject,
    /// The prompt.
    pub prompt: String,
    /// What was taken out.
    pub parts: Vec<Spot>,
    /// What took its place.
    pub with: With,
    /// What is measured.
    #[serde(flatten)]
    pub measure: Measure,
    /// The measure of the whole model.
    pub value: f64,
    /// The measure without the parts.
    pub without: f64,
    /// That less the measure of the whole model.
    pub change: f64,
    /// D(before ‖ after) in nats.
    pub kl: f64,
    /// What the whole model expects.
    pub before: Next,
    /// What it expects without the parts.
    pub after: Next,
    /// What it then writes, always the likeliest token, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Written>,
    /// What the whole model writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_before: Option<Written>,
    /// Whether everything was computed.
    pub complete: bool,
}

/// A text that the model wrote, byte by byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written(pub Vec<u8>);

impl Serialize for Written {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        JsonText(&self.0).serialize(serializer)
    }
}

/// Takes parts out of the model. The session is made with [`settings`](super::settings) and has
/// [`room`](super::room), and [`Options::max_tokens`], beside the prompt; `on_progress` is told
/// how many of how many passes are done.
///
/// # Errors
/// Parts that the model does not have; names that are no tokens; a prompt that does not fit.
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

/// Writes on after a prompt, always the likeliest token, until the model ends the text.
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

/// How much each part of a kind matters.
#[derive(Debug, Clone, Serialize)]
pub struct Ranking {
    /// The model.
    pub model: Subject,
    /// The prompt.
    pub prompt: String,
    /// Its tokens.
    pub ids: Vec<Token>,
    /// What took the place of each part.
    pub with: With,
    /// What is measured.
    #[serde(flatten)]
    pub measure: Measure,
    /// The measure of the whole model.
    pub value: f64,
    /// The likeliest tokens of the whole model.
    pub top: Vec<Choice>,
    /// Each part, the one first without which the measure changes most.
    pub parts: Vec<Effect>,
    /// Whether all parts were tried.
    pub complete: bool,
}

/// What happens without one part.
#[derive(Debug, Clone, Serialize)]
pub struct Effect {
    /// The part.
    pub part: Part,
    /// Its layer.
    pub layer: Option<usize>,
    /// Its head, if it is one.
    pub head: Option<usize>,
    /// The measure without it.
    pub without: f64,
    /// That less the measure of the whole model.
    pub change: f64,
    /// D(before ‖ after) in nats.
    pub kl: f64,
    /// The likeliest token without it.
    pub says: Choice,
}

/// Takes every part of a kind out of the model, one by one, at every position. The session is made
/// with [`settings`](super::settings) and has [`room`](super::room) beside the prompt.
///
/// # Errors
/// [`Error::Unsupported`] for a model without such parts; names that are no tokens; a prompt that
/// does not fit.
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
