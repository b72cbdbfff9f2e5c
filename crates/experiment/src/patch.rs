//! Activation patching: where the difference between two prompts is represented.
//!
//! The model reads the corrupt prompt, with the value at one place replaced by the value that the
//! clean prompt has there. The share of the measure that this restores tells how much of the
//! difference passes through that place (Meng et al., "Locating and Editing Factual Associations in
//! GPT", 2022; Heimersheim and Nanda, "How to use and interpret activation patching", 2024).

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

/// The kind of value that is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The residual stream after a layer.
    #[default]
    Residual,
    /// The output of a layer's attention block.
    Attention,
    /// The output of a layer's MLP.
    Mlp,
    /// The output of one head of a layer, at all positions.
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

/// The prompt that the clean one is compared with.
#[derive(Debug, Clone)]
pub enum Corrupt {
    /// Another prompt.
    Prompt(Prompt),
    /// The clean prompt with noise on its embeddings.
    Noise(Noise),
}

/// Gaussian noise on the embeddings of some tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Noise {
    /// Its standard deviation, in units of the standard deviation of the prompt's embedding values.
    pub scale: f64,
    /// The positions of these tokens.
    pub positions: Vec<usize>,
    /// The seed of its values.
    pub seed: u64,
}

/// Options of [`patch`].
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The tokens that the measure compares. Where none is named, the likeliest token after the
    /// clean prompt is compared with the likeliest after the corrupt one, or with the second
    /// likeliest where these are the same.
    pub asked: Asked,
    /// The kind of value to replace.
    pub what: What,
    /// Positions of the corrupt prompt; negative positions count from the end. `None` means all that
    /// have a counterpart in the clean prompt. For heads, the outputs at all of these positions are
    /// replaced at once.
    pub positions: Option<Vec<i32>>,
    /// The layers, from 0; `None` means all.
    pub layers: Option<Vec<usize>>,
    /// Number of likeliest tokens to return for each place.
    pub top: usize,
    /// Whether to replace all positions of a layer, or all its heads, at once as well.
    pub together: bool,
}

/// A map of the restored share of the measure. Rows are layers; columns are positions or heads.
#[derive(Debug, Clone, Serialize)]
pub struct Patch {
    /// The model.
    pub model: Subject,
    /// The clean prompt.
    pub clean: String,
    /// The corrupt prompt; the same as the clean one where noise corrupts it.
    pub corrupt: String,
    /// Token ids of the clean prompt.
    pub clean_ids: Vec<Token>,
    /// The text of each of these tokens.
    pub clean_pieces: Vec<Piece>,
    /// Token ids of the corrupt prompt.
    pub corrupt_ids: Vec<Token>,
    /// The text of each of these tokens.
    pub corrupt_pieces: Vec<Piece>,
    /// The noise, where noise corrupts the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<Noise>,
    /// The measure, see [`crate::measure`].
    #[serde(flatten)]
    pub measure: Measure,
    /// Value of the measure after the clean prompt.
    pub clean_value: f64,
    /// Value of the measure after the corrupt prompt.
    pub corrupt_value: f64,
    /// The likeliest tokens after the clean prompt.
    pub clean_top: Vec<Choice>,
    /// The likeliest tokens after the corrupt prompt.
    pub corrupt_top: Vec<Choice>,
    /// The kind of value that is replaced.
    pub what: What,
    /// The layers, one for each row of the map.
    pub layers: Vec<usize>,
    /// Positions of the corrupt prompt, one for each column; for heads, the positions at which
    /// their outputs are replaced.
    pub positions: Vec<usize>,
    /// The corresponding positions of the clean prompt.
    pub clean_positions: Vec<usize>,
    /// The heads, one for each column, in a map of heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<Vec<usize>>,
    /// (patched − corrupt) / (clean − corrupt) for each place; null where nothing was computed, or
    /// where the measure is the same for both prompts.
    pub recovered: Vec<Vec<Option<f64>>>,
    /// Value of the measure with the value replaced.
    pub values: Vec<Vec<Option<f64>>>,
    /// The likeliest tokens with the value replaced.
    pub top: Vec<Vec<Vec<Choice>>>,
    /// The tokens of [`Patch::clean_top`] and [`Patch::corrupt_top`], without repetition.
    pub followed: Vec<Token>,
    /// The probability of each of these with the value replaced.
    #[serde(serialize_with = "short")]
    pub probs: Vec<Vec<Vec<f64>>>,
    /// All tokens that are among the likeliest for some place, with their probabilities after both
    /// prompts.
    pub tokens: Vec<Seen>,
    /// The restored share when all columns of a layer are replaced at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub together: Option<Vec<Option<f64>>>,
    /// A sentence on the tokens without a counterpart in the other prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unaligned: Option<String>,
    /// A sentence on why shares of so small a difference mean little.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
    /// Whether everything was computed.
    pub complete: bool,
}

/// A token of a map, with its probabilities after both prompts.
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

/// Limit in bytes of the clean prompt's states held at once. One layer is held even if it is
/// larger.
const HELD: usize = 256 << 20;

/// The corrupt prompt, and the noise where noise corrupts it.
struct Corrupted {
    prompt: Prompt,
    alignment: Alignment,
    noise: Vec<Edit>,
}

/// A place at which a value is replaced: row and column of the map. The column after the last
/// stands for all of them.
struct Cell {
    row: usize,
    column: usize,
    edits: Vec<Edit>,
}

/// Computes a map. The session must have been made with [`settings`](super::settings) and have
/// [`room`](super::room) in addition to both prompts; `on_progress` gets the number of variants
/// done and their total. When the session's [`Cancel`](modelve_runtime::Cancel) is set, the results
/// so far are returned, and [`Patch::complete`] is false.
///
/// # Errors
/// [`Error::Unaligned`] for a position without a counterpart in the clean prompt; layers, names or
/// positions that do not exist; or a prompt that does not fit the session.
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

    // Nothing can be restored before the first token that differs, or after the last layer except
    // at the last position. Two equal prompts are computed all the same.
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

/// Returns the tokens of all lists in ascending order of their ids.
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

/// Serializes values with four significant digits, because there are many of them.
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

/// Returns the layers that were asked for, in order.
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

/// Returns the corrupt prompt followed by the tokens that both answers begin with, and its noise.
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

/// Makes the measure: the named tokens, else the answer to the clean prompt against that to the
/// corrupt one.
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

/// Returns the places of some layers at which something has to be computed.
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

/// Describes the tokens of two prompts that have no counterpart in the other.
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
