//! Writes activations of many texts to one safetensors file, on which other programs train probes
//! and sparse autoencoders.
//!
//! The file has an F32 tensor for each role and layer, with one row for each token, text after
//! text. Three I32 tensors go with it: `ids`, the token ids; `text`, the number of the text that
//! each token belongs to; and `position`, its position in that text. All sizes are known before the
//! first pass, so the header is written first and rows are written to their places as they are
//! computed.

mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::error::{Error, Result};
use super::variants::exact;
use modelve_probe::piece;
use modelve_runtime::graph::{Hook, Node, NodeInfo, Pass, Role};
use modelve_runtime::{Model, RopeFactors, Session, Settings, Token, WantLogits};

/// A kind of activation that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// The input of the first layer.
    Embedding,
    /// The residual stream after a layer.
    Residual,
    /// The outputs of a layer's heads, one after another.
    Heads,
    /// The output of a layer's attention block, as added to the residual stream.
    Attention,
    /// The output of a layer's MLP, as added to the residual stream.
    Mlp,
    /// The last state after the final norm.
    Final,
}

impl What {
    /// All kinds, with their names on the command line.
    pub const ALL: [(&'static str, What); 6] = [
        ("embedding", What::Embedding),
        ("residual", What::Residual),
        ("heads", What::Heads),
        ("attention", What::Attention),
        ("mlp", What::Mlp),
        ("final", What::Final),
    ];

    /// The role of the graph's node; `None` for a kind that belongs to no layer where `layer` is
    /// given.
    fn role(self, layer: Option<usize>) -> Option<Role> {
        match (self, layer) {
            (What::Embedding, None) => Some(Role::Embedding),
            (What::Residual, Some(layer)) => Some(Role::Residual(layer)),
            (What::Heads, Some(layer)) => Some(Role::HeadOutput(layer)),
            (What::Attention, Some(layer)) => Some(Role::Attention(layer)),
            (What::Mlp, Some(layer)) => Some(Role::Mlp(layer)),
            (What::Final, None) => Some(Role::FinalNorm),
            _ => None,
        }
    }

    fn has_layers(self) -> bool {
        !matches!(self, What::Embedding | What::Final)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = What::ALL.iter().find(|(_, what)| what == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = What::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, what)| *what).ok_or_else(|| {
            let names = What::ALL.map(|(name, _)| name).join(", ");
            format!("{text:?} is none of {names}")
        })
    }
}

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tensor {
    /// Its name, for example `residual.3`, `embedding` or `ids`.
    pub name: String,
    /// `F32` or `I32`.
    pub dtype: &'static str,
    /// Number of tokens, followed by the number of values in a row where there are rows.
    pub shape: Vec<usize>,
    #[serde(skip)]
    role: Option<Role>,
}

impl Tensor {
    /// Number of values in a row.
    fn width(&self) -> usize {
        self.shape.get(1).copied().unwrap_or(1)
    }
}

/// The contents of a file, computed before it is written.
#[derive(Debug, Clone)]
pub struct Plan {
    tensors: Vec<Tensor>,
    texts: Vec<Vec<Token>>,
    pieces: Map<String, Value>,
    model: String,
    arch: String,
    /// Whether logits are needed for every token: llama.cpp drops the other rows within the last
    /// layer.
    needs_outputs: bool,
}

/// Approximate limit in bytes of the logits held at once.
const HELD: usize = 96 << 20;
/// Maximum number of tokens in a batch; larger batches are not faster.
const MAX_BATCH: usize = 512;
/// Maximum number of texts computed in one batch.
const TOGETHER: u32 = 32;

/// Returns the settings of a session for [`Plan::new`] and [`Plan::write`].
pub fn settings(model: &Model, base: Settings) -> Settings {
    let n_vocab = model.vocab().len().max(1) as usize;
    let n_batch = (HELD / (4 * n_vocab)).clamp(1, MAX_BATCH) as u32;
    Settings {
        n_batch,
        n_outputs: n_batch,
        n_seq: TOGETHER,
        hooks: true,
        ..exact(base)
    }
}

/// The hook that records the number of values in each node's rows.
struct Widths(BTreeMap<Role, usize>);

impl Hook for Widths {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        if let (Some(role), Some(rows)) = (node.role, node.rows)
            && rows.dimension == 1
        {
            self.0.insert(role, node.shape[0]);
        }
        false
    }

    fn node(&mut self, _: &mut Node<'_>) -> modelve_runtime::Result<ControlFlow<()>> {
        Ok(ControlFlow::Continue(()))
    }
}

impl Plan {
    /// Plans a file with these activations of these texts. `layers` applies to all kinds that
    /// belong to layers.
    ///
    /// # Errors
    /// [`Error::Runtime`] with `NoRole` for a node that this model's graph does not have;
    /// [`modelve_probe::Error::EmptyPrompt`] for a text without tokens.
    pub fn new(
        session: &mut Session,
        texts: Vec<Vec<Token>>,
        what: &[What],
        layers: &[usize],
    ) -> Result<Self> {
        let model = session.model().clone();
        let Some(&first) = texts.iter().flatten().next() else {
            return Err(modelve_probe::Error::EmptyPrompt.into());
        };
        let mut wanted = Vec::new();
        for &what in what {
            let places: Vec<Option<usize>> = match what.has_layers() {
                true => layers.iter().map(|&layer| Some(layer)).collect(),
                false => vec![None],
            };
            for layer in places {
                let Some(role) = what.role(layer) else {
                    continue;
                };
                session.roles()?.require(role)?;
                let name = layer.map_or(what.to_string(), |layer| format!("{what}.{layer}"));
                if wanted.iter().all(|(other, _)| *other != name) {
                    wanted.push((name, role));
                }
            }
        }
        let seq = session.open()?;
        let mut widths = Widths(BTreeMap::new());
        let mut ignore = |_: usize, _: &[f32]| {};
        // The hook never stops a pass.
        let _: Pass =
            session.feed_hooked(&seq, &[first], WantLogits::All, &mut widths, &mut ignore)?;
        session.close(seq);

        let tokens = texts.iter().map(Vec::len).sum();
        let mut tensors = Vec::with_capacity(wanted.len() + 3);
        for (name, role) in wanted {
            let Some(&width) = widths.0.get(&role) else {
                return Err(Error::Unsupported {
                    arch: model.facts().arch.clone(),
                    what: format!("its {role} has no row for each token"),
                });
            };
            tensors.push(Tensor {
                name,
                dtype: "F32",
                shape: vec![tokens, width],
                role: Some(role),
            });
        }
        tensors.extend(["ids", "text", "position"].map(|name| Tensor {
            name: name.to_owned(),
            dtype: "I32",
            shape: vec![tokens],
            role: None,
        }));
        let n_layer = model.facts().n_layer as usize;
        let is_last = |role: Role| match role {
            Role::Residual(layer)
            | Role::HeadOutput(layer)
            | Role::Attention(layer)
            | Role::Mlp(layer)
            | Role::Pattern(layer) => layer + 1 == n_layer,
            Role::FinalNorm => true,
            Role::Embedding => false,
        };
        let needs_outputs = tensors.iter().filter_map(|t| t.role).any(is_last);
        let mut pieces = Map::new();
        for &id in texts.iter().flatten() {
            let key = id.to_string();
            if !pieces.contains_key(&key) {
                let text = serde_json::to_value(piece(model.vocab(), id)).unwrap_or(Value::Null);
                pieces.insert(key, text);
            }
        }
        let gguf = model.gguf();
        let name = gguf.get("general.name").and_then(|name| name.as_str());
        let name = name.map_or_else(String::new, |name| name.into_owned());
        Ok(Plan {
            tensors,
            texts,
            pieces,
            model: name,
            arch: model.facts().arch.clone(),
            needs_outputs,
        })
    }

    /// The tensors of the file.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Number of tokens in all texts.
    pub fn tokens(&self) -> usize {
        self.texts.iter().map(Vec::len).sum()
    }

    /// The numbers of tokens for which a session should have room: those of each text, and those of
    /// several short ones together.
    pub fn rooms(&self, model: &Model) -> impl Iterator<Item = usize> {
        let together = self
            .tokens()
            .min(MAX_BATCH)
            .min(model.reach(RopeFactors::Short));
        self.texts.iter().map(Vec::len).chain([together])
    }

    /// Size of the whole file in bytes.
    pub fn bytes(&self) -> u64 {
        let (header, places) = self.header(self.tokens(), true);
        header.len() as u64 + places.last().map_or(0, |(_, end)| *end)
    }

    /// Returns the header of a file with `tokens` tokens, and where each tensor's bytes begin and
    /// end after it. The header has the same length for any number of tokens, so that of an
    /// incomplete file replaces that of the whole.
    fn header(&self, tokens: usize, complete: bool) -> (Vec<u8>, Vec<(u64, u64)>) {
        let whole = self.spelled(self.tokens(), true).0.len();
        let (mut text, places) = self.spelled(tokens, complete);
        // "false" is one byte longer than "true", and smaller numbers have no more digits.
        let room = (whole + 1).next_multiple_of(8);
        text.resize(room.max(text.len()), b' ');
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.append(&mut text);
        (header, places)
    }

    fn spelled(&self, tokens: usize, complete: bool) -> (Vec<u8>, Vec<(u64, u64)>) {
        let mut entries = Map::new();
        let metadata = json!({
            "format": "pt",
            "made_by": "modelve dump",
            "model": self.model,
            "architecture": self.arch,
            "texts": self.texts.len().to_string(),
            "complete": complete.to_string(),
            "pieces": Value::Object(self.pieces.clone()).to_string(),
        });
        entries.insert("__metadata__".to_owned(), metadata);
        let mut places = Vec::with_capacity(self.tensors.len());
        let mut at = 0u64;
        for tensor in &self.tensors {
            let end = at + 4 * tokens as u64 * tensor.width() as u64;
            let mut shape = tensor.shape.clone();
            shape[0] = tokens;
            let entry = json!({
                "dtype": tensor.dtype,
                "shape": shape,
                "data_offsets": [at, end],
            });
            entries.insert(tensor.name.clone(), entry);
            places.push((at, end));
            at = end;
        }
        (Value::Object(entries).to_string().into_bytes(), places)
    }
}
