//! Direct logit attribution: the measure as a sum of contributions of the model's parts.
//!
//! The residual stream at the last token is the sum of the embedding and the outputs of every
//! layer's attention and MLP. It goes through the final norm and the output matrix. With the scale
//! of that norm fixed to its value in this pass, the rest is linear, so each part contributes a
//! number, and the numbers add up to the measure (Elhage et al., "A Mathematical Framework for
//! Transformer Circuits", 2021). The contribution of a head is its output times its columns of the
//! attention's output matrix; instead of computing that product for every head, the direction of
//! the measure is multiplied with the transposed matrix once per layer. Where a block's output is
//! normed again, the scale of that norm is fixed as well.
//!
//! Products with quantized activations differ slightly from the product with these weights; the
//! difference is reported as [`Attribution::error`].

use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;

use super::edit::{Keep, States};
use super::error::{Error, Result};
use super::heads::n_head;
use super::matrix::{Matrix, vector};
use super::measure::{Measure, uncapped};
use super::part::Part;
use modelve_gguf::Gguf;
use modelve_runtime::graph::{Role, Roles};
use modelve_runtime::{Model, Token};

/// The contribution of a part to the measure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Contribution {
    /// The part.
    pub part: Part,
    /// Its layer; `None` for a part outside the layers.
    pub layer: Option<usize>,
    /// Its head; `None` for a part that is not a head.
    pub head: Option<usize>,
    /// The contribution, in the unit of the measure.
    pub value: f64,
}

impl Contribution {
    fn new(part: Part, value: f64) -> Self {
        Contribution {
            part,
            layer: part.layer(),
            head: part.head(),
            value,
        }
    }
}

/// The contributions of the two blocks of a layer, from the outputs that the model computed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LayerSum {
    /// The layer, from 0.
    pub layer: usize,
    /// Contribution of its attention: all heads and the bias.
    pub attention: f64,
    /// Contribution of its MLP.
    pub mlp: f64,
    /// Value of the measure if the model stopped after this layer, with the scale of the final norm
    /// unchanged and its bias included.
    pub after: f64,
}

/// The measure as a sum of contributions.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Attribution {
    /// The contribution of each part, in the order of the model: the embedding, then the heads,
    /// bias and MLP of each layer, then the bias after the last layer.
    pub parts: Vec<Contribution>,
    /// The sum of all parts.
    pub sum: f64,
    /// The measure minus the sum: rounding of quantized activations, and anything the sum misses.
    pub error: f64,
    /// One entry for each layer.
    pub layers: Vec<LayerSum>,
    /// Sentences about parts whose contribution could not be determined.
    pub notes: Vec<String>,
}

/// Tolerance for two vectors that should be equal, relative to their length. Products with
/// quantized activations differ by one or two percent.
const ALIKE: f64 = 0.1;
/// Tolerance for the residual stream and the sum of everything that was added to it.
const EXACT: f64 = 2e-3;

/// Returns the nodes whose values at `position` a pass has to keep for [`attribute`].
pub fn needs(roles: &Roles, n_layer: usize, position: usize) -> Vec<(Role, Keep)> {
    let blocks = (0..n_layer).flat_map(|layer| {
        [
            Role::Residual(layer),
            Role::HeadOutput(layer),
            Role::Attention(layer),
            Role::Mlp(layer),
        ]
    });
    let all = [Role::Embedding, Role::FinalNorm].into_iter().chain(blocks);
    all.filter(|&role| roles.has(role))
        .map(|role| (role, Keep::Rows(vec![position])))
        .collect()
}

/// Computes the contributions of the parts of the model to the measure at a position. `states`
/// holds the values of [`needs`], `logits` are the model's own after that position.
///
/// # Errors
/// [`Error::Unsupported`] for a model whose residual stream is not the sum of its blocks' outputs,
/// or whose logits are not a norm and a matrix applied to it.
pub fn attribute(
    model: &Model,
    states: &States,
    position: usize,
    measure: &Measure,
    logits: &[f32],
) -> Result<Attribution> {
    let state = |role: Role| {
        states.row(role, position).ok_or_else(|| {
            let arch = model.facts().arch.clone();
            let what =
                format!("its graph has no {role}, so the contributions of its parts are not known");
            Error::Unsupported { arch, what }
        })
    };
    let n_layer = model.facts().n_layer as usize;
    let embedding = state(Role::Embedding)?;
    let mut before = embedding;
    for layer in 0..n_layer {
        let after = state(Role::Residual(layer))?;
        let added = [state(Role::Attention(layer))?, state(Role::Mlp(layer))?];
        check_sum(model, layer, before, added, after)?;
        before = after;
    }
    let end = End::new(
        model,
        measure,
        before,
        states.row(Role::FinalNorm, position),
        logits,
    )?;

    let along = |vector: &[f32]| dot(&end.direction, vector);
    let mut running = along(embedding) + end.constant;
    let mut parts = vec![Contribution::new(Part::Embed, along(embedding))];
    let (mut layers, mut notes) = (Vec::with_capacity(n_layer), Vec::new());
    for layer in 0..n_layer {
        let attention = along(state(Role::Attention(layer))?);
        let mlp = along(state(Role::Mlp(layer))?);
        let heads = match states.row(Role::HeadOutput(layer), position) {
            Some(heads) => split(model, layer, heads, state(Role::Attention(layer))?, &end)?,
            None => Err("its graph does not show what its heads give".to_owned()),
        };
        match heads {
            Ok(heads) => parts.extend(heads),
            Err(why) => {
                parts.push(Contribution::new(Part::Attention(layer), attention));
                notes.push(format!("attn.{layer} is not split into heads: {why}"));
            }
        }
        parts.push(Contribution::new(Part::Mlp(layer), mlp));
        running += attention + mlp;
        layers.push(LayerSum {
            layer,
            attention,
            mlp,
            after: running,
        });
    }
    if end.constant != 0.0 {
        parts.push(Contribution::new(Part::FinalBias, end.constant));
    }
    let sum = parts.iter().map(|part| part.value).sum();
    Ok(Attribution {
        parts,
        sum,
        error: measure.value(logits) - sum,
        layers,
        notes,
    })
}

fn unsupported(model: &Model, what: impl Into<String>) -> Error {
    Error::Unsupported {
        arch: model.facts().arch.clone(),
        what: what.into(),
    }
}

/// Checks that the outputs of a layer's two blocks are all that it adds.
fn check_sum(
    model: &Model,
    layer: usize,
    before: &[f32],
    added: [&Arc<[f32]>; 2],
    after: &[f32],
) -> Result<()> {
    let expected: Vec<f64> = (0..after.len())
        .map(|i| f64::from(before[i]) + f64::from(added[0][i]) + f64::from(added[1][i]))
        .collect();
    match distance(&expected, after) <= EXACT {
        true => Ok(()),
        false => Err(unsupported(
            model,
            format!(
                "the state after layer {layer} is not the one before it and what attention and MLP add \
                 (they are scaled, or something else is added), so the contributions of its parts are not known"
            ),
        )),
    }
}

/// |expected − found| / |found|
fn distance(expected: &[f64], found: &[f32]) -> f64 {
    let (mut difference, mut square) = (0.0, 0.0);
    for (x, &y) in expected.iter().zip(found) {
        difference += (x - f64::from(y)).powi(2);
        square += f64::from(y).powi(2);
    }
    match square > 0.0 {
        true => (difference / square).sqrt(),
        false => difference.sqrt(),
    }
}

fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, &b)| a * f64::from(b)).sum()
}

/// The step from the last state to the measure: measure = direction · state + constant.
struct End {
    direction: Vec<f64>,
    constant: f64,
}

/// Number of likeliest tokens whose logits are computed as a check.
const CHECKED: usize = 24;

impl End {
    fn new(
        model: &Model,
        measure: &Measure,
        state: &[f32],
        normed: Option<&Arc<[f32]>>,
        logits: &[f32],
    ) -> Result<Self> {
        let gguf = model.gguf();
        let matrix = Matrix::of(gguf, "output.weight");
        let matrix = matrix.or_else(|| Matrix::of(gguf, "token_embd.weight"));
        let matrix = matrix.filter(|m| m.n_in == state.len() && m.n_out == logits.len());
        let matrix = matrix
            .ok_or_else(|| unsupported(model, "its output matrix is not as wide as its states"))?;
        let norm = Norm::of(gguf, state).ok_or_else(|| {
            unsupported(model, "the file does not say how its last norm is computed")
        })?;
        if let Some(normed) = normed
            && distance(&norm.apply(state), normed) > EXACT
        {
            return Err(unsupported(
                model,
                "its last norm is not computed as the file says, so the contributions of its parts are not known",
            ));
        }
        let bias = vector(gguf, "output.bias", matrix.n_out);
        let row = |id: Token| -> Result<Vec<f64>> {
            let row = matrix.row(id.index())?;
            let row = row.unwrap_or_else(|| vec![0.0; matrix.n_in]);
            Ok(row.into_iter().map(f64::from).collect())
        };
        let of = |id: Token| {
            bias.as_ref()
                .map_or(0.0, |bias| f64::from(bias[id.index()]))
        };
        let scale = logit_scale(model, measure, &norm.apply(state), logits, &row, &of)?;

        let mut towards = row(measure.token.id)?;
        let mut constant = of(measure.token.id);
        let (rival, its_bias) = match &measure.against {
            Some(rival) => (row(rival.id)?, of(rival.id)),
            None => {
                let mean = bias.as_ref().map_or(0.0, |bias| {
                    bias.iter().map(|&b| f64::from(b)).sum::<f64>() / bias.len() as f64
                });
                (matrix.mean_row()?, mean)
            }
        };
        towards
            .iter_mut()
            .zip(rival)
            .for_each(|(x, rival)| *x = scale * (*x - rival));
        constant -= its_bias;
        let (direction, shift) = norm.pull_back(&towards);
        Ok(End {
            direction,
            constant: constant + shift,
        })
    }
}

/// Finds the constant factor by which some architectures multiply their logits; 1 for most. Checks
/// that the logits of the likeliest tokens follow from the normed state.
fn logit_scale(
    model: &Model,
    measure: &Measure,
    normed: &[f64],
    logits: &[f32],
    row: &dyn Fn(Token) -> Result<Vec<f64>>,
    bias: &dyn Fn(Token) -> f64,
) -> Result<f64> {
    let mut ids = modelve_probe::math::Distribution::new(logits).top(CHECKED);
    ids.push(measure.token.id);
    ids.extend(measure.against.as_ref().map(|rival| rival.id));
    let (mut along, mut square, mut pairs) = (0.0, 0.0, Vec::new());
    for id in ids {
        let x: f64 = row(id)?.iter().zip(normed).map(|(w, x)| w * x).sum();
        let y = uncapped(f64::from(logits[id.index()]), measure.soft_cap);
        // A logit near its cap does not determine its value before the cap.
        if (measure.soft_cap).is_some_and(|cap| f64::from(logits[id.index()]).abs() > 0.99 * cap) {
            continue;
        }
        let y = y - bias(id);
        along += x * y;
        square += x * x;
        pairs.push((x, y));
    }
    let factor = along / square;
    let scale = match (factor - 1.0).abs() < 2e-2 || !factor.is_finite() {
        true => 1.0,
        false => factor,
    };
    let (mut difference, mut square) = (0.0, 0.0);
    for (x, y) in pairs {
        difference += (scale * x - y).powi(2);
        square += y * y;
    }
    match difference <= ALIKE * ALIKE * square {
        true => Ok(scale),
        false => Err(unsupported(
            model,
            "its logits do not follow from its last state by a norm and a matrix, \
             so the contributions of its parts are not known",
        )),
    }
}

/// A norm whose scale is fixed to its value for one state, which makes it linear.
struct Norm {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    /// The mean that is subtracted, for a LayerNorm.
    mean: Option<f64>,
    /// The factor of the state.
    scale: f64,
}

impl Norm {
    /// Computes the final norm of a model for this state.
    fn of(gguf: &Gguf, state: &[f32]) -> Option<Self> {
        let n = state.len();
        let number = |key: &str| gguf.arch(key)?.as_f64();
        let weight = vector(gguf, "output_norm.weight", n)?;
        let bias = vector(gguf, "output_norm.bias", n);
        let mean = state.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
        let (epsilon, mean) = match number("attention.layer_norm_rms_epsilon") {
            Some(epsilon) => (epsilon, None),
            None => (number("attention.layer_norm_epsilon")?, Some(mean)),
        };
        let around = mean.unwrap_or(0.0);
        let square = state.iter().map(|&x| (f64::from(x) - around).powi(2));
        let scale = 1.0 / (square.sum::<f64>() / n as f64 + epsilon).sqrt();
        Some(Norm {
            weight,
            bias,
            mean,
            scale,
        })
    }

    fn apply(&self, state: &[f32]) -> Vec<f64> {
        let around = self.mean.unwrap_or(0.0);
        let normed = state.iter().zip(&self.weight).enumerate();
        let normed = normed.map(|(i, (&x, &weight))| {
            let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[i]));
            (f64::from(x) - around) * self.scale * f64::from(weight) + bias
        });
        normed.collect()
    }

    /// Turns a direction after the norm into the one before it, and returns the contribution of the
    /// norm's bias as well.
    fn pull_back(&self, direction: &[f64]) -> (Vec<f64>, f64) {
        let weighted = direction.iter().zip(&self.weight);
        let mut pulled: Vec<f64> = weighted
            .map(|(x, &weight)| x * f64::from(weight) * self.scale)
            .collect();
        if self.mean.is_some() {
            // Subtracting the mean of the state is the same as subtracting the mean of the factors.
            let mean = pulled.iter().sum::<f64>() / pulled.len() as f64;
            pulled.iter_mut().for_each(|x| *x -= mean);
        }
        let shift = self.bias.as_ref().map_or(0.0, |bias| dot(direction, bias));
        (pulled, shift)
    }
}

/// Computes the contributions of a layer's heads and of the bias of its output matrix. The inner
/// error says why they cannot be told apart.
fn split(
    model: &Model,
    layer: usize,
    heads: &[f32],
    attention: &[f32],
    end: &End,
) -> Result<Result<Vec<Contribution>, String>> {
    let gguf = model.gguf();
    let n = n_head(model, layer);
    let name = format!("blk.{layer}.attn_output.weight");
    let Some(matrix) = Matrix::of(gguf, &name) else {
        return Ok(Err(format!("the file has no {name}")));
    };
    let (width, n_embd) = (heads.len(), attention.len());
    if n == 0 || width % n != 0 || matrix.n_in != width || matrix.n_out != n_embd {
        return Ok(Err(format!(
            "{name} does not take the outputs of {n} heads"
        )));
    }
    let bias = vector(gguf, &format!("blk.{layer}.attn_output.bias"), n_embd);
    let post = vector(
        gguf,
        &format!("blk.{layer}.post_attention_norm.weight"),
        n_embd,
    );
    let direct: Vec<f64> = end.direction.clone();
    let normed: Option<Vec<f64>> = post.as_ref().map(|post| {
        let weighted = direct.iter().zip(post);
        weighted.map(|(x, &weight)| x * f64::from(weight)).collect()
    });
    let directions: Vec<&[f64]> = [&direct]
        .into_iter()
        .chain(&normed)
        .map(|d| &d[..])
        .collect();
    let (mut product, pulled) = matrix.both_ways(heads, &directions)?;
    if let Some(bias) = &bias {
        product
            .iter_mut()
            .zip(bias)
            .for_each(|(x, &b)| *x += f64::from(b));
    }
    // Attention adds either the product itself or, in architectures with a second norm, the normed
    // product. The scale of that norm is the factor between the two.
    let (pull, direction, factor) = match distance(&product, attention) <= ALIKE {
        true => (&pulled[0], &direct, 1.0),
        false => {
            let (Some(post), Some(normed)) = (&post, &normed) else {
                let why = format!("what it adds is not its heads' output through {name}");
                return Ok(Err(why));
            };
            let weighted: Vec<f64> = product
                .iter()
                .zip(post)
                .map(|(x, &w)| x * f64::from(w))
                .collect();
            let square: f64 = weighted.iter().map(|x| x * x).sum();
            let factor = dot(&weighted, attention) / square;
            let scaled: Vec<f64> = weighted.iter().map(|x| x * factor).collect();
            if !factor.is_finite() || distance(&scaled, attention) > ALIKE {
                let why =
                    format!("what it adds is not its heads' output through {name} and a norm");
                return Ok(Err(why));
            }
            (&pulled[1], normed, factor)
        }
    };
    let size = width / n;
    let mut parts: Vec<Contribution> = (0..n)
        .into_par_iter()
        .map(|head| {
            let range = head * size..(head + 1) * size;
            let value = factor * dot(&pull[range.clone()], &heads[range]);
            Contribution::new(Part::Head { layer, head }, value)
        })
        .collect();
    if let Some(bias) = &bias {
        parts.push(Contribution::new(
            Part::Bias(layer),
            factor * dot(direction, bias),
        ));
    }
    Ok(Ok(parts))
}
