//! What the heads do at the last token of a prompt: their attention and the logits they write.

use std::ops::ControlFlow;

use serde::{Serialize, Serializer};

use super::six_digits;
use super::written::Output;
use crate::error::Result;
use modelve_probe::math::Distribution;
use modelve_probe::{Choice, FrozenNorm, Piece, Prompt, Readout, piece};
use modelve_runtime::graph::{Hook, Node, NodeInfo, Pass, Role};
use modelve_runtime::{Error as RuntimeError, Session, Token, Vocab, WantLogits};

/// The heads of a model at the last token of a prompt.
#[derive(Debug, Clone, Serialize)]
pub struct Said {
    /// The prompt.
    pub prompt: String,
    /// Token ids of the prompt.
    pub ids: Vec<Token>,
    /// The text of each token.
    pub pieces: Vec<Piece>,
    /// The likeliest next token.
    pub answer: Choice,
    /// One entry for each layer and head, `[layer][head]`.
    pub last: Vec<Vec<Last>>,
    /// Why [`Last::writes`] is empty for a layer; `None` where it never is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writes_missing: Option<String>,
}

/// One head at the last token.
#[derive(Debug, Clone, Serialize)]
pub struct Last {
    /// Attention weights from the last token, one for each token of the prompt.
    #[serde(serialize_with = "short")]
    pub weights: Vec<f32>,
    /// Contribution to the logit of the answer minus the mean contribution to all logits; `None`
    /// where it cannot be computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_answer: Option<f64>,
    /// The tokens whose logits the head raises most.
    pub writes: Vec<Write>,
}

/// A token whose logit a head raises.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Write {
    /// The token.
    pub id: Token,
    /// Its text.
    pub piece: Piece,
    /// Contribution to its logit minus the mean contribution to all logits.
    pub logit: f64,
}

fn short<S: Serializer>(weights: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(weights.iter().map(|&w| six_digits(w.into())))
}

/// The hook that reads the last token's values.
struct Watch {
    n: usize,
    n_layer: usize,
    /// Attention weights, `[layer][head][position]`.
    weights: Vec<Vec<Vec<f32>>>,
    /// For each layer, the outputs of its heads one after another.
    heads: Vec<Vec<f32>>,
    /// For each layer, the output of its attention block.
    added: Vec<Vec<f32>>,
    /// The residual stream after the last layer.
    state: Vec<f32>,
}

impl Watch {
    fn wants_role(&self, role: Option<Role>) -> bool {
        match role {
            Some(Role::Pattern(_) | Role::HeadOutput(_) | Role::Attention(_)) => true,
            Some(Role::Residual(layer)) => layer + 1 == self.n_layer,
            _ => false,
        }
    }
}

impl Hook for Watch {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        self.wants_role(node.role)
    }

    fn node(&mut self, node: &mut Node<'_>) -> modelve_runtime::Result<ControlFlow<()>> {
        let info = node.info();
        let values = node.read()?;
        match info.role {
            Some(Role::Pattern(layer)) => {
                // Cells after the last token's own are empty.
                let row = |head| values[info.row(head)].iter().copied().take(self.n);
                self.weights[layer] = (0..info.shape[2]).map(|head| row(head).collect()).collect();
            }
            Some(Role::HeadOutput(layer)) => self.heads[layer] = values.to_vec(),
            Some(Role::Attention(layer)) => self.added[layer] = values.to_vec(),
            Some(Role::Residual(_)) => self.state = values.to_vec(),
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Reads the prompt and returns what its heads do at the last token; `None` if the session was
/// cancelled. All tokens but the last are read without a hook; the last one is a pass of its own,
/// in which every node has one row.
pub(super) fn said(
    session: &mut Session,
    prompt: &Prompt,
    top: usize,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Option<Said>> {
    let Some((&last, before)) = prompt.ids.split_last() else {
        return Err(modelve_probe::Error::EmptyPrompt.into());
    };
    let model = session.model().clone();
    let n_layer = model.facts().n_layer as usize;
    let mut watch = Watch {
        n: prompt.ids.len(),
        n_layer,
        weights: vec![Vec::new(); n_layer],
        heads: vec![Vec::new(); n_layer],
        added: vec![Vec::new(); n_layer],
        state: Vec::new(),
    };
    let seq = session.open()?;
    let mut done = 0;
    for chunk in before.chunks(session.settings().n_batch as usize) {
        match session.feed(&seq, chunk, WantLogits::None, &mut |_, _| {}) {
            Err(RuntimeError::Cancelled) => return Ok(None),
            fed => fed?,
        }
        done += chunk.len();
        on_progress(done);
    }
    let mut logits = Vec::new();
    let mut keep = |_: usize, row: &[f32]| logits = row.to_vec();
    match session.feed_hooked(&seq, &[last], WantLogits::Last, &mut watch, &mut keep) {
        Err(RuntimeError::Cancelled) => return Ok(None),
        // The hook never stops a pass.
        pass => {
            let _: Pass = pass?;
        }
    }
    on_progress(done + 1);

    let vocab = model.vocab();
    let distribution = Distribution::new(&logits);
    let answer = Choice::new(vocab, &distribution, distribution.best());
    let Watch {
        weights,
        heads,
        added,
        state,
        ..
    } = watch;
    let mut found: Vec<Vec<Last>> = weights
        .into_iter()
        .map(|heads| {
            let last = |weights| Last {
                weights,
                to_answer: None,
                writes: Vec::new(),
            };
            heads.into_iter().map(last).collect()
        })
        .collect();
    let reading = |found: &mut Vec<Vec<Last>>| -> Result<()> {
        let mut readout = Readout::new(&model, session.settings().threads)?;
        let norm = readout.freeze(&state, &logits)?;
        for (layer, found) in found.iter_mut().enumerate().filter(|(_, f)| !f.is_empty()) {
            let unlike = || crate::Error::Unsupported {
                arch: model.facts().arch.clone(),
                what: format!(
                    "the output of attention in layer {layer} is not the sum of its heads' outputs"
                ),
            };
            let output = Output::of(model.gguf(), layer).ok_or_else(unlike)?;
            let written = output.written(&heads[layer], found.len(), &added[layer])?;
            let written = written.ok_or_else(unlike)?;
            tell(vocab, &mut readout, &norm, &written, answer.id, top, found)?;
        }
        Ok(())
    };
    let writes_missing = match reading(&mut found) {
        Ok(()) => None,
        Err(
            error @ (crate::Error::Unsupported { .. }
            | crate::Error::Weights { .. }
            | crate::Error::Probe(modelve_probe::Error::Unsupported { .. })),
        ) => {
            let all = found.iter_mut().flatten();
            all.for_each(|last| {
                last.to_answer = None;
                last.writes.clear();
            });
            Some(error.to_string())
        }
        Err(error) => return Err(error),
    };
    Ok(Some(Said {
        prompt: prompt.text.clone(),
        pieces: prompt.pieces(vocab),
        ids: prompt.ids.clone(),
        answer,
        last: found,
        writes_missing,
    }))
}

/// Computes which tokens the heads of a layer write.
fn tell(
    vocab: &Vocab,
    readout: &mut Readout,
    norm: &FrozenNorm,
    written: &[Vec<f32>],
    answer: Token,
    top: usize,
    found: &mut [Last],
) -> Result<()> {
    let n_vocab = readout.n_vocab();
    let rows = readout.logits(norm, &mut written.concat())?;
    for (row, last) in rows.chunks_exact(n_vocab).zip(found) {
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n_vocab as f64;
        let above = |id: Token| six_digits(f64::from(row[id.index()]) - mean);
        last.to_answer = Some(above(answer));
        let ids = Distribution::new(row).top(top).into_iter();
        last.writes = ids
            .map(|id| Write {
                id,
                piece: piece(vocab, id),
                logit: above(id),
            })
            .collect();
    }
    Ok(())
}
