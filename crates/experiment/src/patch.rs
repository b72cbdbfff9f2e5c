//! Activation patching: where what tells two prompts apart lies.
//!
//! The model reads the corrupt prompt, and at one place of it a value is replaced with what the
//! clean prompt has there. The share of the measure that this brings back says how much of the
//! difference passes through that place (Meng et al., "Locating and Editing Factual Associations
//! in GPT", 2022; Heimersheim and Nanda, "How to use and interpret activation patching", 2024).

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};

use super::align::{Alignment, align};
use super::edit::{At, Edit, Keep, Slice, States, To};
use super::error::{Error, Result};
use super::heads::n_head;
use super::measure::{Asked, Measure, Names, doubt};
use super::noise::{Gauss, deviation};
use super::removal::place;
use super::variants::{Base, Variant, is_cancelled};
use super::why::with;
use modelve_probe::math::Distribution;
use modelve_probe::{Choice, Piece, Prompt, Subject, piece};
use modelve_runtime::graph::Role;
use modelve_runtime::{Model, Session, Token, Vocab};

/// What is put in the place of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The residual stream after a layer.
    #[default]
    Residual,
    /// What a layer's attention adds.
    Attention,
    /// What a layer's MLP adds.
    Mlp,
    /// What one head of a layer gives, at all positions.
    Head,
}

impl What {
    fn role(self, layer: usize) -> Role {
        match self {
            What::Residual => Role::Residual(layer),
            What::Attention => Role::Attention(layer),
            What::Mlp => Role::Mlp(layer),
            What::Head => Role::HeadOutput(layer),
        }
    }
}

/// What the clean prompt is compared with.
#[derive(Debug, Clone)]
pub enum Corrupt {
    /// Another prompt.
    Prompt(Prompt),
    /// The same one with noise.
    Noise(Noise),
}

/// Gaussian noise on the embeddings of some tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Noise {
    /// Its standard deviation, in those of the values of the prompt's embeddings.
    pub scale: f64,
    /// The positions of the tokens.
    pub positions: Vec<usize>,
    /// What decides its values.
    pub seed: u64,
}

/// What to do.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The measure; where no token is named, the likeliest after the clean prompt against the
    /// likeliest after the corrupt one, or against the second where that is the same.
    pub asked: Asked,
    /// What is replaced.
    pub what: What,
    /// Positions of the corrupt prompt, from the end where negative; none: all that stand for one
    /// of the clean prompt. For heads those at which their outputs are replaced, all at once.
    pub positions: Option<Vec<i32>>,
    /// Layers; none: all.
    pub layers: Option<Vec<usize>>,
    /// How many of the likeliest tokens to tell of each place.
    pub top: usize,
    /// Whether to replace all positions of a layer, or all its heads, at once as well.
    pub together: bool,
}

/// A map of what places bring back. Rows are layers; columns are positions, or heads.
#[derive(Debug, Clone, Serialize)]
pub struct Patch {
    /// The model.
    pub model: Subject,
    /// The clean prompt.
    pub clean: String,
    /// The corrupt prompt; the clean one where noise is what corrupts it.
    pub corrupt: String,
    /// Tokens of the clean prompt.
    pub clean_ids: Vec<Token>,
    /// Their texts.
    pub clean_pieces: Vec<Piece>,
    /// Tokens of the corrupt prompt.
    pub corrupt_ids: Vec<Token>,
    /// Their texts.
    pub corrupt_pieces: Vec<Piece>,
    /// The noise, if that is what corrupts the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<Noise>,
    /// What is measured.
    #[serde(flatten)]
    pub measure: Measure,
    /// The measure after the clean prompt.
    pub clean_value: f64,
    /// The measure after the corrupt prompt.
    pub corrupt_value: f64,
    /// The likeliest tokens after the clean prompt.
    pub clean_top: Vec<Choice>,
    /// The likeliest tokens after the corrupt prompt.
    pub corrupt_top: Vec<Choice>,
    /// What is replaced.
    pub what: What,
    /// The layers, one for each row.
    pub layers: Vec<usize>,
    /// The positions of the corrupt prompt, one for each column; for heads those at which their
    /// outputs are replaced.
    pub positions: Vec<usize>,
    /// The positions of the clean prompt that they stand for.
    pub clean_positions: Vec<usize>,
    /// The heads, one for each column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<Vec<usize>>,
    /// (patched − corrupt) / (clean − corrupt); null where nothing was computed, or where both
    /// prompts give the same measure.
    pub recovered: Vec<Vec<Option<f64>>>,
    /// The measure with the value replaced.
    pub values: Vec<Vec<Option<f64>>>,
    /// The likeliest tokens then.
    pub top: Vec<Vec<Vec<Choice>>>,
    /// The tokens of [`Patch::clean_top`] and [`Patch::corrupt_top`], each once.
    pub followed: Vec<Token>,
    /// How likely each of those is with the value replaced.
    #[serde(serialize_with = "short")]
    pub probs: Vec<Vec<Vec<f64>>>,
    /// Every token that some place makes likely, with its probability after both prompts.
    pub tokens: Vec<Seen>,
    /// What all columns of a layer bring back at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub together: Option<Vec<Option<f64>>>,
    /// Which tokens stand for nothing in the other prompt, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unaligned: Option<String>,
    /// Why shares of so small a difference say little, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
    /// Whether everything was computed.
    pub complete: bool,
}

/// A token that stands in some list of a map.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Seen {
    /// The token.
    pub id: Token,
    /// Its text.
    pub piece: Piece,
    /// Its probability after the clean prompt.
    pub clean_prob: f64,
    /// Its probability after the corrupt prompt.
    pub corrupt_prob: f64,
}

/// Bytes of the clean prompt's states that are held at once, at most, unless one layer has more.
const HELD: usize = 256 << 20;

/// The corrupt prompt, and what corrupts it.
struct Corrupted {
    prompt: Prompt,
    alignment: Alignment,
    noise: Vec<Edit>,
}

/// One place at which something is replaced: row and column of the map. The column behind the last
/// stands for all of them.
struct Cell {
    row: usize,
    column: usize,
    edits: Vec<Edit>,
}

/// Makes a map. The session is made with [`settings`](super::settings) and has
/// [`room`](super::room) beside both prompts; `on_progress` is told how many of how many
/// variants are done. When the session's [`Cancel`](modelve_runtime::Cancel) is set, what is done
/// is returned, and [`Patch::complete`] is false.
///
/// # Errors
/// [`Error::Unaligned`] for a position that stands for nothing in the clean prompt; layers, names
/// or positions that there are not; a prompt that does not fit.
pub fn patch(
    session: &mut Session,
    clean: &Prompt,
    corrupt: &Corrupt,
    options: &Options,
    on_progress: &mut dyn FnMut(usize, usize),
) -> Result<Patch> {
    let model = session.model().clone();
    let vocab = model.vocab();
    let n_layer = model.facts().n_layer as usize;
    let layers = layers(&model, options)?;
    for &layer in &layers {
        session.roles()?.require(options.what.role(layer))?;
    }
    let names = options.asked.names(vocab, clean)?;
    let clean = with(&model, clean, &names.common);
    let Corrupted {
        prompt: corrupted,
        alignment,
        noise,
    } = corrupt_prompt(session, &clean, corrupt, &names)?;

    let n = corrupted.ids.len();
    let unaligned = unaligned(vocab, &clean, &corrupted, &alignment);
    let sentence = unaligned.clone().unwrap_or_default();
    let columns: Vec<(usize, usize)> = match &options.positions {
        None => alignment.pairs.clone(),
        Some(positions) => positions
            .iter()
            .map(|&position| alignment.at(place(position, n)?, &sentence))
            .collect::<Result<_>>()?,
    };
    if columns.is_empty() {
        return Err(Error::Unaligned { what: sentence });
    }
    let heads = (options.what == What::Head).then(|| {
        let most = layers.iter().map(|&layer| n_head(&model, layer)).max();
        (0..most.unwrap_or(0)).collect::<Vec<usize>>()
    });
    let n_columns = heads.as_ref().map_or(columns.len(), Vec::len);

    let clean_logits = Base::read(session, &clean.ids, &[], &mut States::none())?.logits;
    let mut base = Base::read(session, &corrupted.ids, &noise, &mut States::none())?;
    let corrupt_logits = std::mem::take(&mut base.logits);
    let measure = measure(&model, &names, &clean_logits, &corrupt_logits)?;
    let (clean_value, corrupt_value) =
        (measure.value(&clean_logits), measure.value(&corrupt_logits));
    let top = |row: &[f32]| Choice::top(vocab, &Distribution::new(row), options.top.max(1));
    let corrupt_top = top(&corrupt_logits);

    // Before the first token that differs, and behind the last layer but at the last position,
    // there is nothing to bring back. The same prompt twice is computed all the same.
    let from = match alignment.from == n && noise.is_empty() {
        true => 0,
        false => alignment.from,
    };
    let idle = |layer: usize, position: usize| {
        position < from || layer + 1 == n_layer && position + 1 != n
    };
    let mut values: Vec<Vec<Option<f64>>> = vec![vec![None; n_columns + 1]; layers.len()];
    let mut tops: Vec<Vec<Vec<Choice>>> = vec![vec![Vec::new(); n_columns]; layers.len()];
    let clean_top = top(&clean_logits);
    let mut followed: Vec<Token> = Vec::new();
    for choice in clean_top.iter().chain(&corrupt_top) {
        if !followed.contains(&choice.id) {
            followed.push(choice.id);
        }
    }
    let likely = |row: &[f32]| -> Vec<f64> {
        let distribution = Distribution::new(row);
        let logprobs = followed.iter().map(|&id| distribution.logprob(id));
        logprobs.map(f64::exp).collect()
    };
    let corrupt_probs = likely(&corrupt_logits);
    let mut probs: Vec<Vec<Vec<f64>>> = vec![vec![Vec::new(); n_columns]; layers.len()];
    let mut total = 0;
    for (row, &layer) in layers.iter().enumerate() {
        let is_idle = |&column: &usize| idle(layer, columns[column].1);
        let idle_ones: Vec<usize> = (0..columns.len()).filter(is_idle).collect();
        let live = columns.len() - idle_ones.len();
        let unmoved: Vec<usize> = match &heads {
            Some(_) if live > 0 => Vec::new(),
            Some(_) => (0..n_head(&model, layer)).collect(),
            None => idle_ones,
        };
        total += match &heads {
            Some(_) => n_head(&model, layer) - unmoved.len(),
            None => live,
        };
        for column in unmoved {
            values[row][column] = Some(corrupt_value);
            tops[row][column].clone_from(&corrupt_top);
            probs[row][column].clone_from(&corrupt_probs);
        }
        if options.together {
            match live {
                0 => values[row][n_columns] = Some(corrupt_value),
                _ => total += 1,
            }
        }
    }

    let mut done = 0;
    let mut complete = true;
    let width = 4 * model.facts().n_embd.max(1) as usize * columns.len();
    let rows: Vec<(usize, usize)> = layers.iter().copied().enumerate().collect();
    for group in rows.chunks((HELD / width).max(1)) {
        let wanted: Vec<usize> = columns.iter().map(|&(of_clean, _)| of_clean).collect();
        let mut states = States::of(group.iter().map(|&(_, layer)| {
            let keep = Keep::Rows(wanted.clone());
            (options.what.role(layer), keep)
        }));
        let read = Base::read(session, &clean.ids, &[], &mut states);
        let cells = cells(&model, options, group, &columns, n_columns, &states, &idle);
        let variants: Vec<Variant<'_>> = cells
            .iter()
            .map(|cell| Variant {
                from: cell
                    .edits
                    .iter()
                    .map(|edit| edit.at.first())
                    .min()
                    .unwrap_or(n),
                edits: noise.iter().chain(&cell.edits).cloned().collect(),
                ids: &corrupted.ids,
            })
            .collect();
        let run = read.map(drop).and_then(|()| {
            base.run(session, &variants, &mut |i, row| {
                let Cell {
                    row: at, column, ..
                } = cells[i];
                values[at][column] = Some(measure.value(row));
                if column < n_columns {
                    tops[at][column] = top(row);
                    probs[at][column] = likely(row);
                }
                done += 1;
                on_progress(done, total);
            })
        });
        match run {
            Ok(()) => {}
            Err(error) if is_cancelled(&error) => {
                complete = false;
                break;
            }
            Err(error) => return Err(error),
        }
    }

    let difference = clean_value - corrupt_value;
    let share = |value: &Option<f64>| {
        let share = (*value)? - corrupt_value;
        Some(share / difference).filter(|share| share.is_finite())
    };
    let all: Vec<Option<f64>> = values.iter_mut().map(|row| row.pop().flatten()).collect();
    let recovered: Vec<Vec<Option<f64>>> = values
        .iter()
        .map(|row| row.iter().map(share).collect())
        .collect();
    Ok(Patch {
        model: Subject::of(&model),
        clean_pieces: clean.pieces(vocab),
        corrupt_pieces: corrupted.pieces(vocab),
        clean: clean.text,
        corrupt: corrupted.text,
        clean_ids: clean.ids,
        corrupt_ids: corrupted.ids,
        noise: match corrupt {
            Corrupt::Noise(noise) => Some(noise.clone()),
            Corrupt::Prompt(_) => None,
        },
        measure,
        clean_value,
        corrupt_value,
        tokens: seen(vocab, &tops, &clean_logits, &corrupt_logits),
        clean_top,
        corrupt_top,
        what: options.what,
        layers,
        positions: columns.iter().map(|&(_, of_corrupt)| of_corrupt).collect(),
        clean_positions: columns.iter().map(|&(of_clean, _)| of_clean).collect(),
        heads,
        recovered,
        values,
        top: tops,
        followed,
        probs,
        together: options.together.then(|| all.iter().map(share).collect()),
        unaligned,
        doubt: doubt(&model, difference),
        complete,
    })
}

/// The tokens of all lists, in the order of their numbers.
fn seen(vocab: &Vocab, tops: &[Vec<Vec<Choice>>], clean: &[f32], corrupt: &[f32]) -> Vec<Seen> {
    let ids: BTreeSet<Token> = tops.iter().flatten().flatten().map(|c| c.id).collect();
    let (clean, corrupt) = (Distribution::new(clean), Distribution::new(corrupt));
    ids.into_iter()
        .map(|id| Seen {
            id,
            piece: piece(vocab, id),
            clean_prob: clean.logprob(id).exp(),
            corrupt_prob: corrupt.logprob(id).exp(),
        })
        .collect()
}

/// Four significant digits: there are many.
fn short<S: Serializer>(
    rows: &[Vec<Vec<f64>>],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    let rounded = |p: &f64| format!("{p:.3e}").parse::<f64>().unwrap_or(*p);
    let cell = |probs: &Vec<f64>| probs.iter().map(rounded).collect::<Vec<_>>();
    serializer.collect_seq(
        rows.iter()
            .map(|row| row.iter().map(cell).collect::<Vec<_>>()),
    )
}

/// The layers that were asked for, in order.
fn layers(model: &Model, options: &Options) -> Result<Vec<usize>> {
    let n_layer = model.facts().n_layer as usize;
    let layers = options.layers.clone();
    let mut layers = layers.unwrap_or_else(|| (0..n_layer).collect());
    layers.sort_unstable();
    layers.dedup();
    match layers.iter().find(|&&layer| layer >= n_layer) {
        Some(&layer) => Err(modelve_probe::Error::NoLayer { layer, n_layer }.into()),
        None => Ok(layers),
    }
}

/// The corrupt prompt with what both answers begin with alike, and its noise.
fn corrupt_prompt(
    session: &mut Session,
    clean: &Prompt,
    corrupt: &Corrupt,
    names: &Names,
) -> Result<Corrupted> {
    let model = session.model().clone();
    match corrupt {
        Corrupt::Prompt(prompt) => {
            let prompt = with(&model, prompt, &names.common);
            Ok(Corrupted {
                alignment: align(&clean.ids, &prompt.ids),
                prompt,
                noise: Vec::new(),
            })
        }
        Corrupt::Noise(noise) => {
            let n = clean.ids.len();
            if let Some(&position) = noise.positions.iter().find(|&&position| position >= n) {
                let position = i32::try_from(position).unwrap_or(i32::MAX);
                return Err(Error::NoPosition { position, len: n });
            }
            session.roles()?.require(Role::Embedding)?;
            let all = Keep::Rows((0..n).collect());
            let mut states = States::of([(Role::Embedding, all)]);
            drop(Base::read(session, &clean.ids, &[], &mut states)?);
            let rows = (0..n).filter_map(|i| states.row(Role::Embedding, i));
            let deviation = noise.scale * deviation(rows.map(|row| &row[..]));
            let mut gauss = Gauss::new(noise.seed);
            let width = model.facts().n_embd as usize;
            let mut positions = noise.positions.clone();
            positions.sort_unstable();
            positions.dedup();
            let edits = positions.iter().map(|&position| Edit {
                role: Role::Embedding,
                at: At::One(position),
                slice: Slice::Whole,
                to: To::Plus(
                    (0..width)
                        .map(|_| (deviation * gauss.value()) as f32)
                        .collect(),
                ),
            });
            Ok(Corrupted {
                noise: edits.collect(),
                alignment: Alignment {
                    from: positions.first().copied().unwrap_or(n),
                    ..align(&clean.ids, &clean.ids)
                },
                prompt: clean.clone(),
            })
        }
    }
}

/// The measure that was asked for, or the answer to the clean prompt against that to the other.
fn measure(model: &Model, names: &Names, clean: &[f32], corrupt: &[f32]) -> Result<Measure> {
    if names.token.is_none() && names.against.is_none() {
        let (token, against) = (
            Distribution::new(clean).best(),
            Distribution::new(corrupt).best(),
        );
        if token != against {
            return Ok(Measure::new(model, token, Some(against)));
        }
    }
    Measure::of(model, names, clean)
}

/// The places of some layers at which something is to be computed.
fn cells(
    model: &Model,
    options: &Options,
    group: &[(usize, usize)],
    columns: &[(usize, usize)],
    n_columns: usize,
    states: &States,
    idle: &dyn Fn(usize, usize) -> bool,
) -> Vec<Cell> {
    let edit = |layer: usize, (of_clean, of_corrupt): (usize, usize), slice: Slice| {
        let role = options.what.role(layer);
        let row = states.row(role, of_clean)?;
        Some(Edit {
            role,
            at: At::One(of_corrupt),
            slice,
            to: To::Vector(row.clone()),
        })
    };
    let mut cells = Vec::new();
    for &(row, layer) in group {
        let live = || {
            columns
                .iter()
                .enumerate()
                .filter(|(_, (_, at))| !idle(layer, *at))
        };
        let whole: Vec<Edit> = live()
            .filter_map(|(_, &pair)| edit(layer, pair, Slice::Whole))
            .collect();
        match options.what {
            What::Head => {
                let of = n_head(model, layer);
                for index in (0..of).filter(|_| !whole.is_empty()) {
                    let share = whole.iter().cloned().map(|edit| Edit {
                        slice: Slice::Share { index, of },
                        ..edit
                    });
                    cells.push(Cell {
                        row,
                        column: index,
                        edits: share.collect(),
                    });
                }
            }
            _ => {
                for (column, &pair) in live() {
                    cells.extend(edit(layer, pair, Slice::Whole).map(|edit| Cell {
                        row,
                        column,
                        edits: vec![edit],
                    }));
                }
            }
        }
        if options.together && !whole.is_empty() {
            cells.push(Cell {
                row,
                column: n_columns,
                edits: whole,
            });
        }
    }
    cells
}

/// Which tokens of two prompts stand for nothing in the other.
fn unaligned(
    vocab: &Vocab,
    clean: &Prompt,
    corrupt: &Prompt,
    alignment: &Alignment,
) -> Option<String> {
    let (of_clean, of_corrupt) = alignment.unmatched.clone()?;
    let told = |ids: &[Token]| match ids.is_empty() {
        true => "nothing".to_owned(),
        false => {
            let pieces = ids.iter().map(|&id| format!("{:?}", &*piece(vocab, id)));
            pieces.collect::<Vec<_>>().join(" ")
        }
    };
    Some(format!(
        "the prompts have {} and {} tokens; between what they begin and end with alike, {} of the clean prompt and {} of the corrupt one do not match token by token",
        clean.ids.len(),
        corrupt.ids.len(),
        told(&clean.ids[of_clean]),
        told(&corrupt.ids[of_corrupt]),
    ))
}
