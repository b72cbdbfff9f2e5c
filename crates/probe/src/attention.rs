//! Attention weights: how much each head of a layer attends to each position, from each position.

use std::ops::ControlFlow;

use serde::{Serialize, Serializer};

use super::{Error, Piece, Prompt, Result, piece};
use modelve_runtime::graph::{Hook, Node, NodeInfo, Pass, Role};
use modelve_runtime::{
    Error as RuntimeError, FlashAttention, Model, Session, Settings, Token, WantLogits, kv,
};

/// The attention weights of one layer, and statistics of all heads of the model.
#[derive(Debug, Clone, Serialize)]
pub struct Attention {
    /// The prompt.
    pub prompt: String,
    /// Token ids of the prompt.
    pub ids: Vec<Token>,
    /// The text of each token.
    pub pieces: Vec<Piece>,
    /// Number of layers in the model.
    pub n_layers: usize,
    /// The layer whose weights `heads` holds, from 0.
    pub layer: usize,
    /// The heads that were asked for.
    pub heads: Vec<Head>,
    /// Statistics of all heads of all layers; empty unless [`Options::overview`] is set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overview: Vec<LayerHabits>,
    /// `[layer][head]`: the weights of all layers for a page; empty unless [`Options::maps`] is
    /// set. See [`Attention::maps`].
    #[serde(skip)]
    pub layers: Vec<Vec<Head>>,
    /// Whether the whole prompt was read. After a cancellation `ids` holds the tokens that were
    /// read; their weights are those of the whole prompt, because attention never looks ahead.
    pub complete: bool,
}

/// One head.
#[derive(Debug, Clone, Serialize)]
pub struct Head {
    /// The index of the head in its layer, from 0.
    pub head: usize,
    /// Statistics of its weights.
    #[serde(flatten)]
    pub habits: Habits,
    /// `[query][key]`: one row for each attending token, one weight for each token of the prompt.
    /// Weights are 0 for later tokens, and each row sums to 1.
    #[serde(serialize_with = "short_rows")]
    pub weights: Vec<Vec<f32>>,
}

/// Statistics of the heads of one layer.
#[derive(Debug, Clone, Serialize)]
pub struct LayerHabits {
    /// The layer, from 0.
    pub layer: usize,
    /// One entry for each head.
    pub heads: Vec<Habits>,
}

/// Statistics of one head's attention: means over all tokens but the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Habits {
    /// Entropy of the weights in bits: log2 of the number of tokens that the attention could be
    /// spread over evenly.
    #[serde(serialize_with = "super::digits")]
    pub entropy_bits: f64,
    /// Weight on the first token.
    #[serde(serialize_with = "super::digits")]
    pub to_first: f64,
    /// Weight on the previous token.
    #[serde(serialize_with = "super::digits")]
    pub to_previous: f64,
}

/// Which rows of weights to keep. All rows of a head take memory that grows with the square of the
/// prompt's length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rows {
    /// The row of every attending token.
    #[default]
    All,
    /// The row of the last token.
    Last,
}

/// Options of [`attention`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The layer whose weights to keep, from 0; `None` means the last layer.
    pub layer: Option<usize>,
    /// The head whose weights to keep, from 0; `None` means all heads.
    pub head: Option<usize>,
    /// Whether to compute the statistics of all heads of all layers.
    pub overview: bool,
    /// Which rows of weights to keep.
    pub rows: Rows,
    /// Whether to keep the weights of all layers as well, see [`Attention::maps`].
    pub maps: bool,
}

/// Number of bytes that the weights kept by [`attention`] take for a prompt of `tokens` tokens.
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

/// Lower bound on the bytes of JSON that [`Attention::maps`] takes for a prompt of `tokens` tokens:
/// two per weight.
pub fn least_map_bytes(model: &Model, tokens: usize) -> u64 {
    let facts = model.facts();
    let weights = (tokens as u64).saturating_mul(tokens as u64 + 1) / 2;
    let heads = u64::from(facts.n_head).saturating_mul(u64::from(facts.n_layer));
    weights.saturating_mul(heads).saturating_mul(2)
}

/// Approximate limit in bytes of one layer's weights in one batch.
const HELD: usize = 64 << 20;

/// Returns the settings of a session that can run [`attention`] on a prompt of `tokens` tokens.
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

/// Sums over rows, from which means are computed.
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
    /// Number of tokens before the current batch.
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
    /// Returns a copy of the state that cannot be restored by truncation: everything but the
    /// weights of all rows, which grow with the square of the prompt's length.
    fn small(&self) -> Small {
        let weights = match self.keep {
            Rows::All => Vec::new(),
            Rows::Last => self.weights.clone(),
        };
        (self.sums.clone(), weights)
    }

    /// Restores the state of [`Self::small`], taken when `done` tokens had been read, and drops all
    /// later tokens.
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
                // Cells after this token's own are empty or hold later tokens.
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

/// Reads a prompt and keeps the attention weights of one layer and, with [`Options::overview`], the
/// statistics of all heads. The session must have been made with [`settings`]. When its
/// [`Cancel`](modelve_runtime::Cancel) is set, the attention of the tokens read so far is returned,
/// and [`Attention::complete`] is false.
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
        // A cancelled pass may have shown a part of its batch to some layers; they are reset to
        // this.
        let before = watch.small();
        // Some architectures drop queries without logits before the attention of the last layer,
        // others after it. Asking for all logits keeps every query.
        match session.feed_hooked(&seq, chunk, WantLogits::All, &mut watch, &mut |_, _| {}) {
            Err(RuntimeError::Cancelled) if done > 0 => {
                watch.back_to(before, done);
                break;
            }
            // The hook never stops a pass.
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
            _ => "flash attention keeps no weights".to_owned(),
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
    /// Drops the heads with the highest entropy until at most `most` weights are left, but keeps at
    /// least one head. Returns the number of heads dropped.
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

    /// Returns the weights of all layers for a page, if they were kept and take at most `most`
    /// bytes of JSON: `[layer][head][query][key]`, each row up to the attending token, in units of
    /// 1/100,000. If they were kept but are larger, the error is the number of bytes they would
    /// take.
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

    /// Returns the row of the last token, averaged over the heads kept.
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

/// Attention weights for a page, see [`Attention::maps`].
pub type PageMaps = Vec<Vec<Vec<Vec<u32>>>>;

/// Serializes weights with six digits after the point, because there are many of them and each is
/// between 0 and 1.
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
