//! Activations of many texts as one safetensors file: what other programs train probes and sparse
//! autoencoders on.
//!
//! The file has a tensor of F32 for each role and layer, with a row for each token, texts one after
//! the other; and beside them `ids`, the tokens, `text`, the number of the text that each is of, and
//! `position`, its place in it (I32). How large all of it is, is known before the first pass, so
//! the header is written first and rows go to their places as they are computed.

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

/// What can be dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// What enters the first layer.
    Embedding,
    /// The residual stream after a layer.
    Residual,
    /// The outputs of a layer's heads side by side.
    Heads,
    /// What a layer's attention adds to the residual stream.
    Attention,
    /// What a layer's MLP adds.
    Mlp,
    /// The normed last state.
    Final,
}

impl What {
    /// All, by the names that people give them.
    pub const ALL: [(&'static str, What); 6] = [
        ("embedding", What::Embedding),
        ("residual", What::Residual),
        ("heads", What::Heads),
        ("attention", What::Attention),
        ("mlp", What::Mlp),
        ("final", What::Final),
    ];

    /// The role of a layer's node; `None` where it belongs to no layer and `layer` is given.
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
    /// Its name: `residual.3`, `embedding`, `ids`.
    pub name: String,
    /// `F32` or `I32`.
    pub dtype: &'static str,
    /// Tokens, and values of a row where there are rows.
    pub shape: Vec<usize>,
    #[serde(skip)]
    role: Option<Role>,
}

impl Tensor {
    /// Values of a row.
    fn width(&self) -> usize {
        self.shape.get(1).copied().unwrap_or(1)
    }
}

/// What a file will hold, found out before it is made.
#[derive(Debug, Clone)]
pub struct Plan {
    tensors: Vec<Tensor>,
    texts: Vec<Vec<Token>>,
    pieces: Map<String, Value>,
    model: String,
    arch: String,
    /// Whether every token needs logits: llama.cpp drops the others within the last layer.
    needs_outputs: bool,
}

/// Bytes of logits that are held at once, roughly.
const HELD: usize = 96 << 20;
/// Tokens of a batch, at most: beyond this a pass gets no faster.
const MAX_BATCH: usize = 512;
/// Texts computed at once.
const TOGETHER: u32 = 32;

/// Settings for a session of [`Plan::new`] and [`Plan::write`].
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

/// Learns how wide the rows of nodes are.
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
    /// What a file of these texts' activations holds. `layers` are those of all roles that have
    /// any.
    ///
    /// # Errors
    /// [`Error::Runtime`] with `NoRole` for what this model's graph does not have;
    /// [`modelve_probe::Error::EmptyPrompt`] without a token.
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
        // The hook stops no pass.
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

    /// Tokens of all texts.
    pub fn tokens(&self) -> usize {
        self.texts.iter().map(Vec::len).sum()
    }

    /// Tokens that a session should have room for: those of each text, and of several together.
    pub fn rooms(&self, model: &Model) -> impl Iterator<Item = usize> {
        let together = self
            .tokens()
            .min(MAX_BATCH)
            .min(model.reach(RopeFactors::Short));
        self.texts.iter().map(Vec::len).chain([together])
    }

    /// Bytes of the whole file.
    pub fn bytes(&self) -> u64 {
        let (header, places) = self.header(self.tokens(), true);
        header.len() as u64 + places.last().map_or(0, |(_, end)| *end)
    }

    /// The header of a file with so many tokens, and where each tensor's bytes begin and end behind
    /// it. It is as long whatever is true: the header of a part fits in the place of the whole's.
    fn header(&self, tokens: usize, complete: bool) -> (Vec<u8>, Vec<(u64, u64)>) {
        let whole = self.spelled(self.tokens(), true).0.len();
        let (mut text, places) = self.spelled(tokens, complete);
        // "false" is longer than "true", and numbers only become shorter.
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
