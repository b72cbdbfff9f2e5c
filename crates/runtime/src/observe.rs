//! Watching a pass: named tensors of the graph as they are computed.

use std::ops::ControlFlow;

use llama_cpp_sys_2 as sys;

/// A tensor of the compute graph.
#[derive(Debug, Clone, Copy)]
pub struct NamedTensor<'a> {
    /// llama.cpp's name: `l_out-N` is the residual stream after block N, `result_norm` what
    /// enters the unembedding, `kq_soft_max-N` the attention weights (without flash attention).
    pub name: &'a str,
    /// Lengths in ggml's order: the first runs fastest. `l_out-N` is `[n_embd, n_tokens, 1, 1]`,
    /// `kq_soft_max-N` is `[n_kv, n_tokens, n_head, 1]`.
    pub shape: [usize; 4],
    /// The values, contiguous in that order.
    pub data: &'a [f32],
}

impl<'a> NamedTensor<'a> {
    /// The `i`-th row (a slice of `shape[0]` values) counting over all other dimensions.
    pub fn row(&self, i: usize) -> Option<&'a [f32]> {
        let n = self.shape[0];
        self.data
            .get(i.checked_mul(n)?..i.checked_add(1)?.checked_mul(n)?)
    }
}

/// Looks at tensors while a session computes. Needs [`Settings::observe`](super::Settings).
///
/// A batch longer than the session's is computed in parts, and the observer sees each part.
pub trait Observer {
    /// Whether the tensor of this name is wanted. Each one wanted costs a pause of the threads.
    fn wants(&mut self, name: &str) -> bool;
    /// A wanted tensor, computed. `Break` ends the computation: the rest of the pass is skipped
    /// and its logits are of no use.
    fn tensor(&mut self, tensor: &NamedTensor<'_>) -> ControlFlow<()>;
}

/// The values of a tensor in the order of its shape, as f32, from its bytes and ggml's distances
/// between values (in bytes, per dimension). False for types other than f32 and f16.
pub(super) fn read_floats(
    ty: sys::ggml_type,
    shape: [usize; 4],
    strides: [usize; 4],
    bytes: &[u8],
    floats: &mut Vec<f32>,
) -> bool {
    let size = match ty {
        sys::GGML_TYPE_F32 => 4,
        sys::GGML_TYPE_F16 => 2,
        _ => return false,
    };
    let [n0, n1, n2, n3] = shape;
    floats.clear();
    floats.reserve(n0 * n1 * n2 * n3);
    for i3 in 0..n3 {
        for i2 in 0..n2 {
            for i1 in 0..n1 {
                let row = i1 * strides[1] + i2 * strides[2] + i3 * strides[3];
                for i0 in 0..n0 {
                    let at = row + i0 * strides[0];
                    let Some(value) = bytes.get(at..at + size) else {
                        return false;
                    };
                    floats.push(match *value {
                        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                        [a, b] => half::f16::from_le_bytes([a, b]).to_f32(),
                        _ => return false,
                    });
                }
            }
        }
    }
    true
}
