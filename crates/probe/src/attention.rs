//! Attention weights: where each head of a layer looks from each position.

use std::ops::ControlFlow;

use serde::{Serialize, Serializer};

use super::{Error, Piece, Prompt, Result, piece};
use modelve_runtime::graph::{Hook, Node, NodeInfo, Pass, Role};
use modelve_runtime::{
    Error as RuntimeError, FlashAttention, Model, Session, Settings, Token, WantLogits, kv,
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
    /// The weights of all layers, if asked for, for a page: see [`Attention::maps`].
    #[serde(skip)]
    pub layers: Vec<Vec<Head>>,
    /// Whether the prompt was read to the end. Where not, `ids` are the tokens that were, which
    /// attend to each other as they would without those that follow.
    pub complete: bool,
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

/// Which rows of weights to keep: all of a head are as many as the tokens squared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rows {
    /// Where every token looks.
    #[default]
    All,
    /// Where the last token looks.
    Last,
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
    /// Which rows of weights to keep.
    pub rows: Rows,
    /// Whether to keep the weights of all layers besides, see [`Attention::maps`].
    pub maps: bool,
}

/// Bytes of the weights that [`attention`] keeps over a prompt of `tokens`.
pub fn bytes(model: &Model, tokens: usize, options: Options) -> u64 {
    let heads = match options.head {
        Some(_) => 1,
        None => u64::from(model.facts().n_head.max(1)),
    };
    let rows = match options.rows {
        Rows::All => tokens as u64,
        Rows::Last => 1,
    };
    let row = 4 * tokens as u64;
    let layers = match options.maps {
        true => u64::from(model.facts().n_layer.max(1)) + 1,
        false => 1,
    };
    let layer = heads.saturating_mul(rows).saturating_mul(row);
    layer.saturating_mul(layers)
}

/// The fewest bytes that [`Attention::maps`] of a prompt of `tokens` take: two for each weight.
pub fn least_map_bytes(model: &Model, tokens: usize) -> u64 {
    let facts = model.facts();
    let weights = (tokens as u64).saturating_mul(tokens as u64 + 1) / 2;
    let heads = u64::from(facts.n_head).saturating_mul(u64::from(facts.n_layer));
    weights.saturating_mul(heads).saturating_mul(2)
}

/// Bytes of one layer's weights for one batch, roughly, at most.
const HELD: usize = 64 << 20;

/// Settings for a session of [`attention`] over a prompt of `tokens`.
pub fn settings(model: &Model, tokens: usize, base: Settings) -> Settings {
    let row = tokens.next_multiple_of(kv::CONTEXT_STEP as usize)
        * model.facts().n_head.max(1) as usize
        * 4;
    let n_batch = (HELD / row).clamp(1, 512) as u32;
    Settings {
        n_batch,
        n_outputs: n_batch,
        flash_attention: FlashAttention::Off,
        hooks: true,
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
    maps: bool,
    keep: Rows,
    /// Tokens before this batch.
    start: usize,
    n: usize,
    n_head: usize,
    /// `[layer][head][query][key]` of the kept layers.
    weights: Vec<Maps>,
    /// `[layer][head]`
    sums: Vec<Vec<Sums>>,
}

/// `[head][query][key]`
type Maps = Vec<Vec<Vec<f32>>>;
type Small = (Vec<Vec<Sums>>, Vec<Maps>);

impl Watch {
    /// What does not grow with the prompt's length squared, and cannot be cut off later.
    fn small(&self) -> Small {
        let weights = match self.keep {
            Rows::All => Vec::new(),
            Rows::Last => self.weights.clone(),
        };
        (self.sums.clone(), weights)
    }

    /// As it was when `done` tokens were, which are then all there are.
    fn back_to(&mut self, (sums, weights): Small, done: usize) {
        self.sums = sums;
        if self.keep == Rows::Last {
            self.weights = weights;
        }
        for kept in self.weights.iter_mut().flatten() {
            kept.truncate(done);
            kept.iter_mut().for_each(|row| row.truncate(done));
        }
    }

    fn layer_of(&self, role: Option<Role>) -> Option<usize> {
        match role {
            Some(Role::Pattern(layer)) if self.overview || self.keeps(layer) => Some(layer),
            _ => None,
        }
    }

    fn keeps(&self, layer: usize) -> bool {
        self.maps || layer == self.layer
    }
}

impl Hook for Watch {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        self.layer_of(node.role).is_some()
    }

    fn node(&mut self, node: &mut Node<'_>) -> modelve_runtime::Result<ControlFlow<()>> {
        let info = node.info();
        let [n_kv, n_queries, n_head, _] = info.shape;
        let Some(layer) = self.layer_of(info.role).filter(|_| n_kv > 0) else {
            return Ok(ControlFlow::Continue(()));
        };
        let values = node.read()?;
        self.sums[layer].resize(n_head, Sums::default());
        if layer == self.layer {
            self.n_head = n_head;
        }
        if self.keeps(layer) {
            self.weights[layer].resize(n_head, Vec::new());
        }
        for head in 0..n_head {
            for query in 0..n_queries {
                let position = self.start + query;
                let Some(row) = values.get(info.row(head * n_queries + query)) else {
                    break;
                };
                // Cells after this token's own are empty, or hold later tokens.
                let row = &row[..row.len().min(position + 1)];
                if position > 0 || self.n == 1 {
                    self.sums[layer][head].add(position, row);
                }
                if self.keeps(layer) && self.head.is_none_or(|wanted| wanted == head) {
                    let mut kept = row.to_vec();
                    kept.resize(self.n, 0.0);
                    if self.keep == Rows::Last {
                        self.weights[layer][head].clear();
                    }
                    self.weights[layer][head].push(kept);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Watches one layer's heads over a prompt, and with [`Options::overview`] all others pass by.
/// Only the weights asked for are kept. The session is made with [`settings`]. When its
/// [`Cancel`](modelve_runtime::Cancel) is set, the attention of the tokens done is returned, and
/// [`Attention::complete`] is false.
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
        maps: options.maps,
        keep: options.rows,
        start: 0,
        n,
        n_head: 0,
        weights: vec![Maps::new(); n_layer],
        sums: vec![Vec::new(); n_layer],
    };
    let seq = session.open()?;
    let n_batch = session.settings().n_batch as usize;
    let mut done = 0;
    for chunk in prompt.ids.chunks(n_batch) {
        watch.start = done;
        // Some layers may have seen a part of a batch that is then given up.
        let before = watch.small();
        // In the last layer queries without logits are dropped before attention in some
        // architectures, after it in others: ask for all.
        match session.feed_hooked(&seq, chunk, WantLogits::All, &mut watch, &mut |_, _| {}) {
            Err(RuntimeError::Cancelled) if done > 0 => {
                watch.back_to(before, done);
                break;
            }
            // The hook stops no pass.
            pass => {
                let _: Pass = pass?;
            }
        }
        done += chunk.len();
        on_progress(done);
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
    let of_layer = |(layer, maps): (usize, Maps)| -> Vec<Head> {
        let heads = maps.into_iter().enumerate();
        heads
            .filter(|(head, _)| options.head.is_none_or(|wanted| wanted == *head))
            .map(|(head, weights)| Head {
                head,
                habits: watch.sums[layer][head].habits(),
                weights,
            })
            .collect()
    };
    let mut layers: Vec<Vec<Head>> = watch
        .weights
        .into_iter()
        .enumerate()
        .map(of_layer)
        .collect();
    let heads = match options.maps {
        true => layers[layer].clone(),
        false => std::mem::take(&mut layers[layer]),
    };
    if !options.maps {
        layers.clear();
    }
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
        ids: prompt.ids[..done].to_vec(),
        pieces: prompt.ids[..done]
            .iter()
            .map(|&id| piece(model.vocab(), id))
            .collect(),
        n_layers: n_layer,
        layer,
        heads,
        overview,
        layers,
        complete: done == n,
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

    /// The weights of all layers for a page, if they were kept and make at most `most` bytes of JSON:
    /// `[layer][head][query][key]`, a row up to the token that looks, in whole 1/100,000.
    /// Otherwise the bytes that they take, if they were kept.
    pub fn maps(&self, most: usize) -> std::result::Result<PageMaps, usize> {
        let whole = |weight: &f32| (f64::from(*weight) * 1e5).round() as u32;
        let rows = |head: &Head| -> Vec<Vec<u32>> {
            let rows = head.weights.iter().enumerate();
            rows.map(|(query, row)| row.iter().take(query + 1).map(whole).collect())
                .collect()
        };
        let maps: PageMaps = self
            .layers
            .iter()
            .map(|heads| heads.iter().map(rows).collect())
            .collect();
        let digits = |weight: &u32| weight.checked_ilog10().unwrap_or(0) as usize + 2;
        let bytes: usize = maps.iter().flatten().flatten().flatten().map(digits).sum();
        if bytes > most { Err(bytes) } else { Ok(maps) }
    }

    /// Where the last token looks, in the mean over the heads kept.
    pub fn last_row(&self) -> Vec<f32> {
        let mut mean = vec![0.0; self.ids.len()];
        let share = 1.0 / self.heads.len().max(1) as f32;
        for row in self.heads.iter().filter_map(|head| head.weights.last()) {
            for (sum, weight) in mean.iter_mut().zip(row) {
                *sum += weight * share;
            }
        }
        mean
    }
}

/// Weights of attention for a page, see [`Attention::maps`].
pub type PageMaps = Vec<Vec<Vec<Vec<u32>>>>;

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
