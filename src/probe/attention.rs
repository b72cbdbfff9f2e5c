//! Attention weights: where each head of a layer looks from each position.

use std::ops::ControlFlow;

use serde::{Serialize, Serializer};

use super::{Error, Piece, Prompt, Result};
use crate::runtime::{
    FlashAttention, Model, NamedTensor, Observer, Session, Settings, Token, Want,
};

/// Attention of one layer, and how all heads of the model behave.
#[derive(Debug, Clone, Serialize)]
pub struct Attention {
    /// The prompt.
    pub prompt: String,
    /// Its tokens.
    pub ids: Vec<Token>,
    /// Their texts.
    pub pieces: Vec<Piece>,
    /// Layers of the model.
    pub n_layers: usize,
    /// The layer whose weights are given.
    pub layer: usize,
    /// Its heads, those that were asked for.
    pub heads: Vec<Head>,
    /// All heads of all layers, if asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overview: Vec<LayerHabits>,
}

/// One head.
#[derive(Debug, Clone, Serialize)]
pub struct Head {
    /// Its number, from 0.
    pub head: usize,
    /// How it behaves.
    #[serde(flatten)]
    pub habits: Habits,
    /// A row for each token that looks, with a weight for each token looked at: 0 for those
    /// that come later, 1 in sum.
    #[serde(serialize_with = "short_rows")]
    pub weights: Vec<Vec<f32>>,
}

/// The heads of a layer in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct LayerHabits {
    /// The layer.
    pub layer: usize,
    /// Its heads.
    pub heads: Vec<Habits>,
}

/// A head in three numbers, means over the tokens from the second on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Habits {
    /// How spread its look is: log2 of the number of tokens it could be spread evenly over.
    #[serde(serialize_with = "super::digits")]
    pub entropy_bits: f64,
    /// Weight on the first token.
    #[serde(serialize_with = "super::digits")]
    pub to_first: f64,
    /// Weight on the token before.
    #[serde(serialize_with = "super::digits")]
    pub to_previous: f64,
}

/// What to look at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The layer whose weights to keep; none: the last.
    pub layer: Option<usize>,
    /// The head whose weights to keep; none: all.
    pub head: Option<usize>,
    /// Whether to tell the habits of all heads of all layers.
    pub overview: bool,
}

/// Bytes of one layer's weights for one batch, roughly, at most.
const HELD: usize = 64 << 20;

/// Settings for a session of [`attention`] over a prompt of `tokens`.
pub fn settings(model: &Model, tokens: usize, base: Settings) -> Settings {
    let row = tokens.next_multiple_of(256) * model.facts().n_head.max(1) as usize * 4;
    let n_batch = (HELD / row).clamp(1, 512) as u32;
    Settings {
        n_batch,
        n_outputs: n_batch,
        flash_attention: FlashAttention::Off,
        observe: true,
        ..base
    }
}

/// Sums over rows, for means.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    rows: usize,
    entropy: f64,
    first: f64,
    previous: f64,
}

impl Sums {
    fn add(&mut self, position: usize, row: &[f32]) {
        self.rows += 1;
        for &weight in row {
            if weight > 0.0 {
                let weight = f64::from(weight);
                self.entropy -= weight * weight.log2();
            }
        }
        self.first += row.first().copied().map_or(0.0, f64::from);
        let previous = position.checked_sub(1).and_then(|p| row.get(p));
        self.previous += previous.copied().map_or(0.0, f64::from);
    }

    fn habits(self) -> Habits {
        let n = self.rows.max(1) as f64;
        Habits {
            entropy_bits: (self.entropy / n).max(0.0),
            to_first: self.first / n,
            to_previous: self.previous / n,
        }
    }
}

struct Watch {
    layer: usize,
    head: Option<usize>,
    overview: bool,
    /// Tokens before this batch.
    start: usize,
    n: usize,
    n_head: usize,
    /// `[head][query][key]` of the kept layer.
    weights: Vec<Vec<Vec<f32>>>,
    /// `[layer][head]`
    sums: Vec<Vec<Sums>>,
}

impl Watch {
    fn layer_of(&self, name: &str) -> Option<usize> {
        let layer: usize = name.strip_prefix("kq_soft_max-")?.parse().ok()?;
        let wanted = layer < self.sums.len() && (self.overview || layer == self.layer);
        wanted.then_some(layer)
    }
}

impl Observer for Watch {
    fn wants(&mut self, name: &str) -> bool {
        self.layer_of(name).is_some()
    }

    fn tensor(&mut self, tensor: &NamedTensor<'_>) -> ControlFlow<()> {
        let [n_kv, n_queries, n_head, _] = tensor.shape;
        let Some(layer) = self.layer_of(tensor.name).filter(|_| n_kv > 0) else {
            return ControlFlow::Continue(());
        };
        self.sums[layer].resize(n_head, Sums::default());
        if layer == self.layer {
            self.n_head = n_head;
            self.weights.resize(n_head, Vec::new());
        }
        for head in 0..n_head {
            for query in 0..n_queries {
                let position = self.start + query;
                let Some(row) = tensor.row(head * n_queries + query) else {
                    break;
                };
                // Cells after this token's own are empty, or hold later tokens.
                let row = &row[..row.len().min(position + 1)];
                if position > 0 || self.n == 1 {
                    self.sums[layer][head].add(position, row);
                }
                if layer == self.layer && self.head.is_none_or(|wanted| wanted == head) {
                    let mut kept = row.to_vec();
                    kept.resize(self.n, 0.0);
                    self.weights[head].push(kept);
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// Watches one layer's heads over a prompt, and with [`Options::overview`] all others pass by.
/// Only the weights asked for are kept. The session is made with [`settings`].
///
/// # Errors
/// [`Error::NoLayer`], [`Error::NoHead`]; [`Error::Unsupported`] for a model whose graph has no
/// attention weights.
pub fn attention(
    session: &mut Session,
    prompt: &Prompt,
    options: Options,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Attention> {
    let model = session.model().clone();
    let n_layer = model.facts().n_layer as usize;
    let layer = options.layer.unwrap_or(n_layer - 1);
    if layer >= n_layer {
        return Err(Error::NoLayer { layer, n_layer });
    }
    let n = prompt.ids.len();
    let mut watch = Watch {
        layer,
        head: options.head,
        overview: options.overview,
        start: 0,
        n,
        n_head: 0,
        weights: Vec::new(),
        sums: vec![Vec::new(); n_layer],
    };
    session.reset();
    let n_batch = session.settings().n_batch as usize;
    for (number, chunk) in prompt.ids.chunks(n_batch).enumerate() {
        watch.start = number * n_batch;
        // In the last layer queries without logits are dropped before attention in some
        // architectures, after it in others: ask for all.
        session.feed_observed(0, chunk, Want::All, &mut watch, &mut |_, _| {})?;
        on_progress(watch.start + chunk.len());
    }
    let n_head = watch.n_head;
    if n_head == 0 {
        let what = match session.settings().flash_attention {
            FlashAttention::Off => format!("layer {layer} has no attention weights"),
            _ => "fused attention keeps no weights".to_owned(),
        };
        return Err(Error::Unsupported {
            arch: model.facts().arch.clone(),
            what,
        });
    }
    if let Some(head) = options.head.filter(|&head| head >= n_head) {
        return Err(Error::NoHead { head, n_head });
    }
    let sums = &watch.sums[layer];
    let heads = watch
        .weights
        .into_iter()
        .enumerate()
        .filter(|(head, _)| options.head.is_none_or(|wanted| wanted == *head))
        .map(|(head, weights)| Head {
            head,
            habits: sums[head].habits(),
            weights,
        })
        .collect();
    let mut overview = Vec::new();
    if options.overview {
        let layers = watch.sums.iter().enumerate();
        overview.extend(layers.map(|(layer, heads)| LayerHabits {
            layer,
            heads: heads.iter().map(|sums| sums.habits()).collect(),
        }));
    }
    Ok(Attention {
        prompt: prompt.text.clone(),
        ids: prompt.ids.clone(),
        pieces: prompt.pieces(model.vocab()),
        n_layers: n_layer,
        layer,
        heads,
        overview,
    })
}

impl Attention {
    /// Keeps at least one head, and no more than make `most` weights: those of least entropy.
    /// Returns how many were dropped.
    pub fn keep_sharpest(&mut self, most: usize) -> usize {
        let each = self.ids.len().pow(2).max(1);
        let keep = (most / each).max(1);
        let dropped = self.heads.len().saturating_sub(keep);
        if dropped > 0 {
            let entropy = |head: &Head| head.habits.entropy_bits;
            self.heads.sort_by(|a, b| entropy(a).total_cmp(&entropy(b)));
            self.heads.truncate(keep);
            self.heads.sort_by_key(|head| head.head);
        }
        dropped
    }

    /// The mean over the heads kept: `[query][key]`.
    pub fn mean(&self) -> Vec<Vec<f32>> {
        let n = self.ids.len();
        let mut mean = vec![vec![0.0; n]; n];
        let share = 1.0 / self.heads.len().max(1) as f32;
        for head in &self.heads {
            for (sums, row) in mean.iter_mut().zip(&head.weights) {
                for (sum, weight) in sums.iter_mut().zip(row) {
                    *sum += weight * share;
                }
            }
        }
        mean
    }
}

/// Six digits after the point: a weight is between 0 and 1, and there are many.
fn short_rows<S: Serializer>(rows: &[Vec<f32>], serializer: S) -> Result<S::Ok, S::Error> {
    struct Row<'a>(&'a [f32]);
    impl Serialize for Row<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(self.0.iter().map(|&weight| Short(weight)))
        }
    }
    struct Short(f32);
    impl Serialize for Short {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            if self.0 == 0.0 {
                return serializer.serialize_u8(0);
            }
            serializer.serialize_f64((f64::from(self.0) * 1e6).round() / 1e6)
        }
    }
    serializer.collect_seq(rows.iter().map(|row| Row(row)))
}
