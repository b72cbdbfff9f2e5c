//! The output of each head in the residual stream: its values times its columns of the attention's
//! output matrix, which are unpacked from the file.

use crate::error::Result;
use crate::matrix::{Matrix, vector};
use modelve_gguf::Gguf;

/// The output matrix of a layer's attention, with the norm after it where there is one.
pub(super) struct Output<'a> {
    /// `[heads · values, width]`.
    matrix: Matrix<'a>,
    bias: Option<Vec<f32>>,
    /// Weights and epsilon of a norm that is applied to the block's output, as in Gemma 2 and OLMo
    /// 2.
    norm: Option<(Vec<f32>, f32)>,
}

/// Tolerance for the sum of the heads against what the model computed, relative to the latter:
/// products with quantized weights round the activations to 8 bits.
const TOLERANCE: f64 = 0.05;

impl<'a> Output<'a> {
    /// Finds the matrix of a layer; `None` if the file has none.
    pub fn of(gguf: &'a Gguf, layer: usize) -> Option<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}");
        let eps = gguf.arch("attention.layer_norm_rms_epsilon");
        let eps = eps.and_then(|eps| eps.as_f64()).unwrap_or(1e-6) as f32;
        let matrix = Matrix::of(gguf, &name("attn_output.weight"))?;
        let width = matrix.n_out;
        let norm = vector(gguf, &name("post_attention_norm.weight"), width);
        Some(Output {
            bias: vector(gguf, &name("attn_output.bias"), width),
            norm: norm.map(|weights| (weights, eps)),
            matrix,
        })
    }

    /// Computes the output of each of `n_head` heads, `[heads][width]`. `heads` are their values
    /// one after another at one position, and `added` is what the model's attention block added
    /// there. A second norm keeps the scale it had there. Returns `None` if `added` is not the sum
    /// of the heads and the bias up to a factor, as in an architecture that processes the output of
    /// its heads further.
    ///
    /// # Errors
    /// [`crate::Error::Weights`] for a matrix of a type that cannot be unpacked.
    pub fn written(
        &self,
        heads: &[f32],
        n_head: usize,
        added: &[f32],
    ) -> Result<Option<Vec<Vec<f32>>>> {
        let width = added.len();
        let fits = self.matrix.n_in == heads.len() && self.matrix.n_out == width;
        if !fits || n_head == 0 || !heads.len().is_multiple_of(n_head) {
            return Ok(None);
        }
        let mut written = self.matrix.by_parts(heads, n_head)?;
        let mut sum: Vec<f32> = (0..width)
            .map(|i| written.iter().map(|head| head[i]).sum())
            .collect();
        if let Some(bias) = &self.bias {
            sum.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        }
        if let Some((weights, eps)) = &self.norm {
            let square: f64 = sum.iter().map(|&x| f64::from(x).powi(2)).sum();
            let scale = (1.0 / (square / width as f64 + f64::from(*eps)).sqrt()) as f32;
            for row in written.iter_mut().chain([&mut sum]) {
                let values = row.iter_mut().zip(weights);
                values.for_each(|(x, weight)| *x *= scale * weight);
            }
        }
        // Some architectures multiply a block's output by a constant.
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
            products.sum()
        };
        let (along, square) = (dot(&sum, added), dot(&sum, &sum));
        let factor = if square > 0.0 { along / square } else { 1.0 };
        let factor = if (factor - 1.0).abs() < 0.02 {
            1.0
        } else {
            factor
        };
        let off: f64 = (sum.iter().zip(added))
            .map(|(&x, &y)| (factor * f64::from(x) - f64::from(y)).powi(2))
            .sum();
        if off.sqrt() > TOLERANCE * dot(added, added).sqrt() {
            return Ok(None);
        }
        if factor != 1.0 {
            let values = written.iter_mut().flatten();
            values.for_each(|x| *x *= factor as f32);
        }
        Ok(Some(written))
    }
}
