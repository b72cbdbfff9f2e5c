//! Final norm and output matrix, computed by ggml's own kernels in the type that the file holds
//! them in. This file has the unsafe code of the probes.

#![allow(unsafe_code)]

use std::ptr;

use llama_cpp_sys_2 as sys;

use modelve_gguf::{GgmlType, Gguf, TensorInfo};
use modelve_runtime::is_weight_type;

/// The final norm and output matrix, applicable to any state.
pub(super) struct Unembed {
    gguf: Gguf,
    /// `output.weight`, or the token embedding where the two are tied: `[n_embd, n_vocab]`.
    matrix: TensorInfo,
    norm: Norm,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    matrix_bias: Option<Vec<f32>>,
    backend: ptr::NonNull<sys::ggml_backend>,
    n_embd: usize,
    n_vocab: usize,
    /// Buffers for the results of the first two steps: normed states, and normed states times the
    /// norm's weights.
    scratch: [Vec<f32>; 2],
}

/// The kind of the final norm, with its epsilon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Norm {
    Rms(f32),
    Layer(f32),
}

// SAFETY: the backend is an object of its own and not tied to a thread; it is used by `&mut`
// methods only. The file is mapped read-only.
unsafe impl Send for Unembed {}

impl Unembed {
    /// Finds the norm and the matrix in a file. The error says what the file lacks.
    pub fn new(gguf: Gguf, threads: u32) -> Result<Self, String> {
        let matrix = gguf
            .tensor("output.weight")
            .or_else(|| gguf.tensor("token_embd.weight"))
            .ok_or("the file has neither output.weight nor token_embd.weight")?
            .clone();
        let [n_embd, n_vocab] = matrix.shape[..] else {
            return Err(format!("{} is no matrix", matrix.name));
        };
        let row = matrix.ty.row_bytes(n_embd);
        let sized = row.and_then(|row| row.checked_mul(n_vocab)) == matrix.bytes;
        let data = gguf.data(&matrix);
        if !sized || Some(data.len() as u64) != matrix.bytes || n_embd == 0 || n_vocab == 0 {
            return Err(format!("{} has no sound size", matrix.name));
        }
        let ty = matrix.ty.name();
        if !is_weight_type(matrix.ty) || data.as_ptr().align_offset(4) != 0 {
            return Err(format!(
                "{} of {ty} cannot be multiplied in place",
                matrix.name
            ));
        }
        let (n_embd, n_vocab) = match (usize::try_from(n_embd), usize::try_from(n_vocab)) {
            (Ok(e), Ok(v)) if e <= 1 << 24 && v <= 1 << 28 => (e, v),
            _ => return Err(format!("{} is too large", matrix.name)),
        };
        let eps = |key: &str| Some(gguf.arch(key)?.as_f64()? as f32);
        let norm = eps("attention.layer_norm_rms_epsilon").map(Norm::Rms);
        let norm = norm.or_else(|| eps("attention.layer_norm_epsilon").map(Norm::Layer));
        let norm = norm.ok_or("the file does not say how its last norm is computed")?;
        let vector = |name: &str, n: usize| floats(&gguf, name, n);
        let weight = vector("output_norm.weight", n_embd)
            .ok_or("there is no output_norm.weight between its last layer and its logits")?;
        let bias = vector("output_norm.bias", n_embd);
        let matrix_bias = vector("output.bias", n_vocab);
        let backend = cpu_backend(threads).ok_or("ggml has no CPU backend here")?;
        Ok(Unembed {
            matrix,
            norm,
            weight,
            bias,
            matrix_bias,
            backend,
            n_embd,
            n_vocab,
            gguf,
            scratch: [Vec::new(), Vec::new()],
        })
    }

    pub fn n_embd(&self) -> usize {
        self.n_embd
    }

    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// Returns the kind of norm and its weights.
    pub fn norm(&self) -> (Norm, &[f32]) {
        (self.norm, &self.weight)
    }

    /// Computes the logits of `states` (rows of `n_embd` values) into `logits` (as many rows of
    /// `n_vocab`). Returns whether ggml succeeded.
    pub fn rows(&mut self, states: &mut [f32], logits: &mut Vec<f32>) -> bool {
        if !self.multiply(states, logits, true) {
            return false;
        }
        if let Some(bias) = &self.matrix_bias {
            for row in logits.chunks_exact_mut(self.n_vocab) {
                row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
            }
        }
        true
    }

    /// Multiplies `vectors` (rows of `n_embd` values) with the output matrix alone, without norm
    /// and biases. Returns whether ggml succeeded.
    pub fn project(&mut self, vectors: &mut [f32], logits: &mut Vec<f32>) -> bool {
        self.multiply(vectors, logits, false)
    }

    fn multiply(&mut self, states: &mut [f32], logits: &mut Vec<f32>, normed_first: bool) -> bool {
        let n = states.len() / self.n_embd;
        if n == 0 || states.len() != n * self.n_embd || n > 1 << 16 {
            logits.clear();
            return n == 0;
        }
        logits.resize(n * self.n_vocab, 0.0);
        for scratch in &mut self.scratch {
            scratch.resize(states.len(), 0.0);
        }
        let matrix = self.gguf.data(&self.matrix);
        let [normed, weighted] = &mut self.scratch;
        // SAFETY: the context holds descriptions only (`no_alloc`), eight tensors and a graph,
        // for which it is given room. Every tensor's data is set to memory of its size that
        // lives and is not moved until the graph is computed: the mapped matrix, which is only
        // read and whose size and type were checked; the norm's vectors; `states`, `normed`,
        // `weighted` and `logits`, distinct buffers of n rows. The backend is live, computes
        // before it returns and keeps nothing. Shapes multiply: all have rows of n_embd.
        unsafe {
            let ctx = sys::ggml_init(sys::ggml_init_params {
                mem_size: 16 * sys::ggml_tensor_overhead() + sys::ggml_graph_overhead(),
                mem_buffer: ptr::null_mut(),
                no_alloc: true,
            });
            if ctx.is_null() {
                return false;
            }
            let (e, v, n) = (self.n_embd as i64, self.n_vocab as i64, n as i64);
            let place = |tensor: *mut sys::ggml_tensor, data: *mut f32| {
                (*tensor).data = data.cast();
                tensor
            };
            let vector = |values: &[f32]| {
                let tensor = sys::ggml_new_tensor_1d(ctx, sys::GGML_TYPE_F32, values.len() as i64);
                place(tensor, values.as_ptr().cast_mut())
            };
            let input = sys::ggml_new_tensor_2d(ctx, sys::GGML_TYPE_F32, e, n);
            let mut x = place(input, states.as_mut_ptr());
            if normed_first {
                x = match self.norm {
                    Norm::Rms(eps) => sys::ggml_rms_norm(ctx, x, eps),
                    Norm::Layer(eps) => sys::ggml_norm(ctx, x, eps),
                };
                x = place(x, normed.as_mut_ptr());
                x = place(
                    sys::ggml_mul(ctx, x, vector(&self.weight)),
                    weighted.as_mut_ptr(),
                );
                if let Some(bias) = &self.bias {
                    // The result goes back into the first buffer, which is no longer read.
                    x = place(sys::ggml_add(ctx, x, vector(bias)), normed.as_mut_ptr());
                }
            }
            let head = sys::ggml_new_tensor_2d(ctx, self.matrix.ty.0, e, v);
            (*head).data = matrix.as_ptr().cast_mut().cast();
            x = place(sys::ggml_mul_mat(ctx, head, x), logits.as_mut_ptr());
            let graph = sys::ggml_new_graph(ctx);
            sys::ggml_build_forward_expand(graph, x);
            let status = sys::ggml_backend_graph_compute(self.backend.as_ptr(), graph);
            sys::ggml_free(ctx);
            status == sys::GGML_STATUS_SUCCESS
        }
    }
}

impl Drop for Unembed {
    fn drop(&mut self) {
        // SAFETY: made by `ggml_backend_dev_init` and freed once.
        unsafe { sys::ggml_backend_free(self.backend.as_ptr()) };
    }
}

/// Reads an F32 vector, if the file has one of this name and length.
fn floats(gguf: &Gguf, name: &str, n: usize) -> Option<Vec<f32>> {
    let tensor = gguf.tensor(name)?;
    if tensor.ty != GgmlType::F32 || tensor.n_elements() != n as u64 {
        return None;
    }
    let bytes = gguf.data(tensor).chunks_exact(4);
    Some(
        bytes
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
    )
}

/// Creates a CPU backend that only this crate uses.
fn cpu_backend(threads: u32) -> Option<ptr::NonNull<sys::ggml_backend>> {
    type SetThreads = unsafe extern "C" fn(sys::ggml_backend_t, i32);
    // Registers the backends on the first call.
    modelve_runtime::devices();
    // SAFETY: the device is checked for null and lives as long as the program; the function
    // found under this name has this type in every ggml (`ggml_backend_set_n_threads_t`).
    unsafe {
        let device = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
        if device.is_null() {
            return None;
        }
        let backend = ptr::NonNull::new(sys::ggml_backend_dev_init(device, ptr::null()))?;
        let registry = sys::ggml_backend_dev_backend_reg(device);
        let name = c"ggml_backend_set_n_threads";
        let address = sys::ggml_backend_reg_get_proc_address(registry, name.as_ptr());
        if !address.is_null() {
            let set = std::mem::transmute::<*mut std::ffi::c_void, SetThreads>(address);
            set(backend.as_ptr(), threads.clamp(1, 512) as i32);
        }
        Some(backend)
    }
}
