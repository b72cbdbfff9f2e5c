//! Why a model gives an answer: the words it hangs on, the parts it is the sum of, and whether
//! those parts are really needed.

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

/// What is asked.
#[derive(Debug, Clone)]
pub struct Options {
    /// The measure.
    pub asked: Asked,
    /// Leave out tokens one by one, not words.
    pub by_token: bool,
    /// How many of the parts that contribute most to take out.
    pub proof: usize,
    /// How many of the likeliest tokens to tell.
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

/// An answer explained.
#[derive(Debug, Clone, Serialize)]
pub struct Why {
    /// The model.
    pub model: Subject,
    /// The prompt.
    pub prompt: String,
    /// Its tokens.
    pub ids: Vec<Token>,
    /// Their texts.
    pub pieces: Vec<Piece>,
    /// What is measured.
    #[serde(flatten)]
    pub measure: Measure,
    /// The measure after the whole prompt.
    pub value: f64,
    /// The log-probability of the token.
    pub logprob: f64,
    /// The likeliest tokens after the prompt.
    pub top: Vec<Choice>,
    /// What happens without each word.
    pub words: Vec<WithoutWord>,
    /// What the measure is the sum of.
    #[serde(flatten)]
    pub attribution: Attribution,
    /// What happens without the parts that contribute most: one by one, then all of them.
    pub proof: Vec<Proof>,
    /// Whether everything was computed.
    pub complete: bool,
}

/// The prompt without a word.
#[derive(Debug, Clone, Serialize)]
pub struct WithoutWord {
    /// The word, with the blank before it.
    pub text: Piece,
    /// Its first token.
    pub from: usize,
    /// The token behind its last.
    pub to: usize,
    /// The measure without it.
    pub without: f64,
    /// That less the measure with it.
    pub change: f64,
    /// The likeliest token without it.
    pub says: Choice,
}

/// The prompt without a part of the model.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    /// The part; several, joined by a plus sign, for all of them together.
    pub part: String,
    /// What it contributes to the measure by the sum.
    pub contribution: f64,
    /// The measure when it gives nothing, at any position.
    pub without: f64,
    /// That less the measure.
    pub change: f64,
    /// The measure when it gives nothing at the last position, where its contribution was read.
    pub without_last: f64,
    /// That less the measure: minus the contribution, if no later part made up for it.
    pub change_last: f64,
    /// The likeliest token when it gives nothing at any position.
    pub says: Choice,
}

/// Words left out at once, at most: each is a text of its own.
const WORDS: usize = 256;

/// Explains what the model says after a prompt. The session is made with
/// [`settings`](super::settings) and has [`room`](super::room) beside the prompt; `on_progress`
/// is told how many of how many passes are done. When the session's
/// [`Cancel`](modelve_runtime::Cancel) is set, what is done is returned, and [`Why::complete`] is
/// false.
///
/// # Errors
/// Names that are no tokens; a prompt that does not fit. A model of which parts are not known is
/// no error: [`Attribution::notes`] says so.
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
        // Something has to be left.
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
    // The few of the proof first: of a long prompt the words may never end.
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

/// A prompt with what both answers begin with alike.
pub(super) fn with(model: &Model, prompt: &Prompt, common: &[Token]) -> Prompt {
    let mut prompt = prompt.clone();
    prompt.ids.extend(common);
    prompt.text += &modelve_probe::text_of(model.vocab(), common);
    prompt
}

/// Parts as they are written together.
fn joined(parts: &[Part]) -> String {
    let parts: Vec<String> = parts.iter().map(Part::to_string).collect();
    parts.join(" + ")
}
