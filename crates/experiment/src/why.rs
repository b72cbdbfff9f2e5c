//! Why a model gives an answer: the words it depends on, the contributions of the model's parts,
//! and whether those parts are really needed.

use serde::Serialize;

use super::attribution::{self, Attribution, Contribution};
use super::edit::States;
use super::error::{Error, Result};
use super::measure::{Asked, Measure};
use super::part::{Part, Spot};
use super::removal::{With, check_removable, edits};
use super::variants::{Base, Variant, is_cancelled};
use super::words::{Word, fixed, words};
use modelve_probe::math::Distribution;
use modelve_probe::{Choice, Piece, Prompt, Subject};
use modelve_runtime::{Model, Session, Token};

/// Options of [`why`].
#[derive(Debug, Clone)]
pub struct Options {
    /// The tokens that the measure compares.
    pub asked: Asked,
    /// Whether to leave out single tokens instead of words.
    pub by_token: bool,
    /// Number of parts to remove, of those that contribute most.
    pub proof: usize,
    /// Number of likeliest tokens to return.
    pub top: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            asked: Asked::default(),
            by_token: false,
            proof: 5,
            top: 5,
        }
    }
}

/// The explanation of an answer.
#[derive(Debug, Clone, Serialize)]
pub struct Why {
    /// The model.
    pub model: Subject,
    /// The prompt.
    pub prompt: String,
    /// Token ids of the prompt.
    pub ids: Vec<Token>,
    /// The text of each token.
    pub pieces: Vec<Piece>,
    /// The measure, see [`crate::measure`].
    #[serde(flatten)]
    pub measure: Measure,
    /// Value of the measure after the whole prompt.
    pub value: f64,
    /// Natural logarithm of the measured token's probability.
    pub logprob: f64,
    /// The likeliest tokens after the prompt.
    pub top: Vec<Choice>,
    /// The effect of leaving out each word.
    pub words: Vec<WithoutWord>,
    /// The contributions of the model's parts to the measure.
    #[serde(flatten)]
    pub attribution: Attribution,
    /// The effect of removing the parts that contribute most: one by one, then all together.
    pub proof: Vec<Proof>,
    /// Whether everything was computed.
    pub complete: bool,
}

/// The effect of leaving out one word.
#[derive(Debug, Clone, Serialize)]
pub struct WithoutWord {
    /// The word, with the space before it.
    pub text: Piece,
    /// Index of its first token.
    pub from: usize,
    /// Index after its last token.
    pub to: usize,
    /// Value of the measure without the word.
    pub without: f64,
    /// `without` minus the value with the word.
    pub change: f64,
    /// The likeliest next token without the word.
    pub says: Choice,
}

/// The effect of removing one part of the model.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    /// Name of the part; several joined by a plus sign where they are removed together.
    pub part: String,
    /// Its contribution to the measure.
    pub contribution: f64,
    /// Value of the measure with its output set to zero at all positions.
    pub without: f64,
    /// `without` minus the value of the whole model.
    pub change: f64,
    /// Value of the measure with its output set to zero at the last position, where its
    /// contribution was read.
    pub without_last: f64,
    /// `without_last` minus the value of the whole model: minus the contribution, unless later
    /// parts compensate.
    pub change_last: f64,
    /// The likeliest next token with its output set to zero at all positions.
    pub says: Choice,
}

/// Maximum number of words left out at once: each is a text of its own.
const WORDS: usize = 256;

/// Explains what the model says after a prompt. The session must have been made with
/// [`settings`](super::settings) and have [`room`](super::room) in addition to the prompt;
/// `on_progress` gets the number of passes done and their total. When the session's
/// [`Cancel`](modelve_runtime::Cancel) is set, the results so far are returned, and
/// [`Why::complete`] is false.
///
/// # Errors
/// Measured texts that are not tokens, or a prompt that does not fit the session. A model whose
/// parts cannot be told apart is no error: [`Attribution::notes`] says why.
pub fn why(
    session: &mut Session,
    prompt: &Prompt,
    options: &Options,
    on_progress: &mut dyn FnMut(usize, usize),
) -> Result<Why> {
    let model = session.model().clone();
    let vocab = model.vocab();
    let names = options.asked.names(vocab, prompt)?;
    let prompt = with(&model, prompt, &names.common);
    let last = prompt.ids.len().saturating_sub(1);
    let n_layer = model.facts().n_layer as usize;

    let roles = session.roles()?.clone();
    let mut states = States::of(attribution::needs(&roles, n_layer, last));
    let mut base = Base::read(session, &prompt.ids, &[], &mut states)?;
    let logits = std::mem::take(&mut base.logits);
    let measure = Measure::of(&model, &names, &logits)?;
    let value = measure.value(&logits);
    let attribution = match attribution::attribute(&model, &states, last, &measure, &logits) {
        Ok(attribution) => attribution,
        Err(Error::Unsupported { arch, what }) => Attribution {
            notes: vec![format!("{arch}: {what}")],
            ..Attribution::default()
        },
        Err(error) => return Err(error),
    };
    drop(states);

    let cut = words(vocab, &prompt.ids, options.by_token);
    let kept = fixed(vocab, &prompt.ids);
    let cut: Vec<Word> = cut
        .into_iter()
        // At least one token has to be left.
        .filter(|word| word.from >= kept && word.to - word.from < prompt.ids.len())
        .collect();
    let removable = |part: &Contribution| check_removable(&model, &roles, part.part).is_ok();
    let mut largest: Vec<Contribution> = attribution
        .parts
        .iter()
        .copied()
        .filter(removable)
        .collect();
    largest.sort_by(|a, b| b.value.abs().total_cmp(&a.value.abs()));
    largest.truncate(options.proof);
    let mut taken: Vec<Vec<Part>> = largest.iter().map(|part| vec![part.part]).collect();
    if taken.len() > 1 {
        taken.push(largest.iter().map(|part| part.part).collect());
    }

    let n = prompt.ids.len();
    let mut proofs = Vec::with_capacity(2 * taken.len());
    for position in [None, Some(-1)] {
        for parts in &taken {
            let spots: Vec<Spot> = parts.iter().map(|&part| Spot { part, position }).collect();
            let edits = edits(&model, &spots, n, With::Zero, &States::none())?;
            proofs.push(Variant::edited(&prompt.ids, edits));
        }
    }
    let total = proofs.len() + cut.len() + 1;
    on_progress(1, total);
    let mut found: Vec<(f64, Choice)> = Vec::with_capacity(total);
    let mut run = |variants: &[Variant<'_>]| {
        base.run(session, variants, &mut |_, row| {
            let distribution = Distribution::new(row);
            let says = Choice::new(vocab, &distribution, distribution.best());
            found.push((measure.value(row), says));
            on_progress(found.len() + 1, total);
        })
    };
    // The few removals come first, because a long prompt has very many words.
    let ran = run(&proofs).and_then(|()| {
        cut.chunks(WORDS).try_for_each(|words| {
            let without = |word: &Word| [&prompt.ids[..word.from], &prompt.ids[word.to..]].concat();
            let shorter: Vec<Vec<Token>> = words.iter().map(without).collect();
            let variants = words.iter().zip(&shorter).map(|(word, ids)| Variant {
                ids,
                from: word.from,
                edits: Vec::new(),
            });
            run(&variants.collect::<Vec<_>>())
        })
    });
    let complete = match ran {
        Ok(()) => true,
        Err(error) if is_cancelled(&error) => false,
        Err(error) => return Err(error),
    };

    let (of_parts, of_words) = found.split_at(proofs.len().min(found.len()));
    let (everywhere, at_last) = of_parts.split_at(taken.len().min(of_parts.len()));
    let of_words = cut.into_iter().zip(of_words);
    let of_words = of_words.map(|(word, (without, says))| WithoutWord {
        text: word.text,
        from: word.from,
        to: word.to,
        without: *without,
        change: without - value,
        says: says.clone(),
    });
    let proof = taken.iter().zip(everywhere.iter().zip(at_last));
    let proof = proof.map(|(parts, ((without, says), (without_last, _)))| {
        let of = |part: &Part| largest.iter().find(|other| other.part == *part);
        Proof {
            part: joined(parts),
            contribution: parts.iter().filter_map(of).map(|part| part.value).sum(),
            without: *without,
            change: without - value,
            without_last: *without_last,
            change_last: without_last - value,
            says: says.clone(),
        }
    });
    let distribution = Distribution::new(&logits);
    Ok(Why {
        model: Subject::of(&model),
        pieces: prompt.pieces(vocab),
        value,
        logprob: measure.logprob(&logits),
        top: Choice::top(vocab, &distribution, options.top.max(1)),
        words: of_words.collect(),
        attribution,
        proof: proof.collect(),
        complete,
        measure,
        prompt: prompt.text,
        ids: prompt.ids,
    })
}

/// Appends the tokens that both answers begin with to a prompt.
pub(super) fn with(model: &Model, prompt: &Prompt, common: &[Token]) -> Prompt {
    let mut prompt = prompt.clone();
    prompt.ids.extend(common);
    prompt.text += &modelve_probe::text_of(model.vocab(), common);
    prompt
}

/// Returns the names of parts joined by plus signs.
fn joined(parts: &[Part]) -> String {
    let parts: Vec<String> = parts.iter().map(Part::to_string).collect();
    parts.join(" + ")
}
