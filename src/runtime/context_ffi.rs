//! Unsafe code around a context: computing, reading logits, watching a pass. The functions here
//! are safe to call with any arguments: whatever llama.cpp would assert on (indices, sizes,
//! empty batches) is checked first.

use std::any::Any;
use std::ffi::{CStr, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use super::cancel::Cancel;
use super::error::{Error, Result, Token};
use super::ffi::{clear_errors, model_ptr, take_errors};
use super::observe::{NamedTensor, Observer};
use super::settings::{FlashAttention, KvType, MAX_SEQ};

/// How a context is made.
pub(super) struct ContextParams {
    pub n_ctx: u32,
    pub n_batch: u32,
    pub n_seq: u32,
    pub n_outputs: u32,
    pub threads: u32,
    pub threads_batch: u32,
    pub kv_type: KvType,
    pub flash_attention: FlashAttention,
    pub observe: bool,
    pub offload: bool,
    pub cancel: Cancel,
}

fn ggml_type(kv_type: KvType) -> sys::ggml_type {
    match kv_type {
        KvType::F32 => sys::GGML_TYPE_F32,
        KvType::F16 => sys::GGML_TYPE_F16,
        KvType::Q8_0 => sys::GGML_TYPE_Q8_0,
        KvType::Q4_0 => sys::GGML_TYPE_Q4_0,
    }
}

fn flash_attn_type(flash_attention: FlashAttention) -> sys::llama_flash_attn_type {
    match flash_attention {
        FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
        FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    }
}

/// Where the callback finds the observer of the decode call in progress.
struct Watch {
    observer: Option<NonNull<dyn Observer>>,
    bytes: Vec<u8>,
    floats: Vec<f32>,
    panic: Option<Box<dyn Any + Send>>,
}

/// A llama.cpp context: KV cache, compute buffers and the last logits.
pub(super) struct Context {
    raw: NonNull<sys::llama_context>,
    watch: NonNull<Watch>,
    /// Kept alive: the context points into the flag and the model.
    cancel: Cancel,
    _model: Arc<LlamaModel>,
    n_vocab: u32,
    n_batch: u32,
    n_seq: u32,
    n_outputs: u32,
    /// For each token of the last batch, whether it has logits.
    outputs: Vec<bool>,
}

// SAFETY: a context may be used from any one thread at a time; `&self` methods only read
// state that `&mut self` methods write. The observer pointer is set only inside `decode`.
unsafe impl Send for Context {}

/// One decode call: parallel arrays, an entry per token.
#[derive(Debug, Default, Clone)]
pub(super) struct Batch {
    tokens: Vec<Token>,
    positions: Vec<i32>,
    sequences: Vec<i32>,
    outputs: Vec<i8>,
}

impl Batch {
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.outputs.clear();
    }

    /// Adds a token of sequence `seq` at position `pos`.
    pub fn push(&mut self, token: Token, pos: usize, seq: u32, output: bool) {
        self.tokens.push(token);
        self.positions.push(i32::try_from(pos).unwrap_or(-1));
        self.sequences.push(i32::try_from(seq).unwrap_or(-1));
        self.outputs.push(i8::from(output));
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }
}

impl Context {
    pub fn new(model: &Arc<LlamaModel>, n_vocab: u32, params: ContextParams) -> Result<Self> {
        // Making a context changes the model now and then, so contexts are made one at a time.
        static MAKING: Mutex<()> = Mutex::new(());
        let _one = MAKING
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        clear_errors();

        let n_seq = params.n_seq.clamp(1, MAX_SEQ);
        let n_batch = params.n_batch.clamp(1, params.n_ctx.max(1));
        // llama.cpp keeps a row for each sequence at least.
        let n_outputs = params.n_outputs.min(n_batch).max(n_seq);
        let watch = NonNull::from(Box::leak(Box::new(Watch {
            observer: None,
            bytes: Vec::new(),
            floats: Vec::new(),
            panic: None,
        })));
        // SAFETY: plain data. The two pointers in it outlive the context, which is freed in
        // `drop` before them: the flag is held by `cancel`, the box is freed after the context.
        let raw = unsafe {
            let mut p = sys::llama_context_default_params();
            p.n_ctx = params.n_ctx;
            p.n_batch = n_batch;
            p.n_ubatch = n_batch;
            p.n_seq_max = n_seq;
            p.n_outputs_max = n_outputs;
            p.n_threads = params.threads as i32;
            p.n_threads_batch = params.threads_batch as i32;
            p.type_k = ggml_type(params.kv_type);
            p.type_v = ggml_type(params.kv_type);
            p.flash_attn_type = flash_attn_type(params.flash_attention);
            p.offload_kqv = params.offload;
            p.op_offload = params.offload;
            p.no_perf = true;
            // One cache for all sequences: prompts of different lengths share a decode call.
            p.kv_unified = true;
            p.abort_callback = Some(on_poll);
            p.abort_callback_data = params.cancel.as_ptr().cast_mut().cast();
            if params.observe {
                p.cb_eval = Some(on_eval);
                p.cb_eval_user_data = watch.as_ptr().cast();
            }
            sys::llama_init_from_model(model_ptr(model), p)
        };
        let Some(raw) = NonNull::new(raw) else {
            // SAFETY: leaked above, and nothing else points to it now.
            drop(unsafe { Box::from_raw(watch.as_ptr()) });
            let reason = take_errors();
            return Err(Error::Context {
                n_ctx: params.n_ctx,
                reason,
            });
        };
        Ok(Context {
            raw,
            watch,
            cancel: params.cancel,
            _model: Arc::clone(model),
            n_vocab,
            n_batch,
            n_seq,
            n_outputs,
            outputs: Vec::new(),
        })
    }

    /// Tokens the context holds, after llama.cpp's padding.
    pub fn n_ctx(&self) -> u32 {
        // SAFETY: the context lives; reads a field.
        unsafe { sys::llama_n_ctx(self.raw.as_ptr()) }
    }

    /// Tokens one sequence may have: what decides between RoPE factors.
    pub fn n_ctx_seq(&self) -> u32 {
        // SAFETY: as above.
        unsafe { sys::llama_n_ctx_seq(self.raw.as_ptr()) }
    }

    /// Tokens a batch may have.
    pub fn n_batch(&self) -> usize {
        self.n_batch as usize
    }

    /// Tokens of a batch that may have logits.
    pub fn n_outputs(&self) -> usize {
        self.n_outputs as usize
    }

    /// Computes a batch. `observer` sees the graph's tensors if the context was made with
    /// `observe`. Stops with [`Error::Cancelled`] soon after the cancel flag is raised.
    pub fn decode(&mut self, batch: &mut Batch, observer: Option<&mut dyn Observer>) -> Result<()> {
        self.outputs.clear();
        let n = batch.len();
        if n == 0 || n > self.n_batch as usize {
            return Err(Error::Setting(format!(
                "a batch has 1 to {} tokens, not {n}",
                self.n_batch
            )));
        }
        let outputs = batch.outputs.iter().filter(|&&output| output != 0).count();
        if outputs > self.n_outputs as usize {
            return Err(Error::Setting(format!(
                "logits of {outputs} tokens at once, in a context made for {}",
                self.n_outputs
            )));
        }
        let n_vocab = self.n_vocab;
        for (&token, (&pos, &seq)) in batch
            .tokens
            .iter()
            .zip(batch.positions.iter().zip(&batch.sequences))
        {
            if token < 0 || token as u32 >= n_vocab {
                return Err(Error::TokenRange { token, n_vocab });
            }
            if pos < 0 || seq < 0 || seq as u32 >= self.n_seq {
                return Err(Error::Setting(format!(
                    "no sequence {seq} with a position {pos} in a context of {} sequences",
                    self.n_seq
                )));
            }
        }
        if self.cancel.is_set() {
            return Err(Error::Cancelled);
        }

        clear_errors();
        let mut counts = vec![1i32; n];
        let mut sequences: Vec<*mut i32> = batch.sequences.iter_mut().map(ptr::from_mut).collect();
        // SAFETY: every array has n entries and outlives the call, and llama.cpp keeps none.
        // Tokens, sequences and sizes were checked above, positions are checked by llama.cpp,
        // which returns an error. The observer is reachable for the callback during this call
        // only: its lifetime is erased for the pointer's sake and the pointer removed after it.
        let status = unsafe {
            let watch = self.watch.as_ptr();
            (*watch).observer = observer.map(|observer| {
                std::mem::transmute::<NonNull<dyn Observer + '_>, NonNull<dyn Observer>>(
                    NonNull::from(observer),
                )
            });
            let status = sys::llama_decode(
                self.raw.as_ptr(),
                sys::llama_batch {
                    n_tokens: n as i32,
                    token: batch.tokens.as_mut_ptr(),
                    embd: ptr::null_mut(),
                    pos: batch.positions.as_mut_ptr(),
                    n_seq_id: counts.as_mut_ptr(),
                    seq_id: sequences.as_mut_ptr(),
                    logits: batch.outputs.as_mut_ptr(),
                },
            );
            // Also waits for devices that compute on their own.
            sys::llama_synchronize(self.raw.as_ptr());
            (*watch).observer = None;
            if let Some(panic) = (*watch).panic.take() {
                resume_unwind(panic);
            }
            status
        };
        match status {
            0 => {
                self.outputs.extend(batch.outputs.iter().map(|&o| o != 0));
                Ok(())
            }
            _ if self.cancel.is_set() => Err(Error::Cancelled),
            1 => Err(Error::ContextFull {
                need: n,
                n_ctx: self.n_ctx() as usize,
            }),
            status => Err(Error::Decode {
                status,
                reason: take_errors(),
            }),
        }
    }

    /// The logits of the `i`-th token of the last batch, one per vocabulary entry; `None` if
    /// they were not asked for.
    pub fn logits(&self, i: usize) -> Option<&[f32]> {
        if !self.outputs.get(i).copied().unwrap_or(false) {
            return None;
        }
        // SAFETY: token `i` was marked as output, so llama.cpp has a row of `n_vocab` floats for
        // it, which stays until the next decode (`&mut self`).
        unsafe {
            let row = sys::llama_get_logits_ith(self.raw.as_ptr(), i as i32);
            (!row.is_null()).then(|| std::slice::from_raw_parts(row, self.n_vocab as usize))
        }
    }

    fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: the context lives.
        unsafe { sys::llama_get_memory(self.raw.as_ptr()) }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        let memory = self.memory();
        if !memory.is_null() {
            // SAFETY: a live context's memory; data need not be zeroed, cells are marked free.
            unsafe { sys::llama_memory_clear(memory, false) };
        }
    }

    /// Forgets the positions of `seq` from `from` on. False: this kind of memory cannot.
    pub fn truncate(&mut self, seq: u32, from: usize) -> bool {
        let memory = self.memory();
        if memory.is_null() || seq >= self.n_seq {
            return false;
        }
        let from = i32::try_from(from).unwrap_or(i32::MAX);
        // SAFETY: a live context's memory and a sequence within its range.
        unsafe { sys::llama_memory_seq_rm(memory, seq as i32, from, -1) }
    }

    /// Gives `to` the positions of `from` below `len`, sharing their cells.
    pub fn copy(&mut self, from: u32, to: u32, len: usize) {
        let memory = self.memory();
        if !memory.is_null() && from < self.n_seq && to < self.n_seq && from != to {
            let len = i32::try_from(len).unwrap_or(i32::MAX);
            // SAFETY: a live context's memory and sequences within its range.
            unsafe { sys::llama_memory_seq_cp(memory, from as i32, to as i32, 0, len) };
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by `llama_init_from_model` and freed once, before the model (held by
        // `_model`) and before the box its callback points to.
        unsafe {
            sys::llama_free(self.raw.as_ptr());
            drop(Box::from_raw(self.watch.as_ptr()));
        }
    }
}

extern "C" fn on_poll(flag: *mut c_void) -> bool {
    // SAFETY: `flag` is the `AtomicBool` of the context's `Cancel`, which outlives the context.
    unsafe { (*flag.cast::<AtomicBool>()).load(Ordering::Relaxed) }
}

/// Asked twice per tensor: whether it is wanted, then, computed, with its data.
extern "C" fn on_eval(tensor: *mut sys::ggml_tensor, ask: bool, watch: *mut c_void) -> bool {
    // SAFETY: `watch` is the context's box and `tensor` a live node of its graph; ggml calls
    // from the decoding thread only, which holds no reference into the box.
    let (watch, tensor) = unsafe { (&mut *watch.cast::<Watch>(), &*tensor) };
    let Some(mut observer) = watch.observer else {
        return !ask;
    };
    // SAFETY: `name` is a fixed array that ggml keeps zero-terminated; the observer is borrowed
    // mutably by the decode call in progress, and by nobody else.
    let (name, observer) = unsafe {
        (
            CStr::from_ptr(tensor.name.as_ptr()).to_string_lossy(),
            observer.as_mut(),
        )
    };
    let result = catch_unwind(AssertUnwindSafe(|| {
        if ask {
            return observer.wants(&name);
        }
        let shape = tensor.ne.map(|n| usize::try_from(n).unwrap_or(0));
        if !read_floats(tensor, shape, &mut watch.bytes, &mut watch.floats) {
            return true;
        }
        observer
            .tensor(&NamedTensor {
                name: &name,
                shape,
                data: &watch.floats,
            })
            .is_continue()
    }));
    result.unwrap_or_else(|panic| {
        watch.panic = Some(panic);
        // Neither wanted nor to be continued.
        false
    })
}

/// Copies a computed tensor, wherever it lies, in the order of its shape, as f32.
/// False for types other than f32 and f16.
fn read_floats(
    tensor: &sys::ggml_tensor,
    shape: [usize; 4],
    bytes: &mut Vec<u8>,
    floats: &mut Vec<f32>,
) -> bool {
    let size = match tensor.type_ {
        sys::GGML_TYPE_F32 => 4,
        sys::GGML_TYPE_F16 => 2,
        _ => return false,
    };
    // SAFETY: a computed tensor has a buffer with `ggml_nbytes` bytes behind it, strides
    // included; `bytes` is made as long.
    unsafe {
        bytes.resize(sys::ggml_nbytes(tensor), 0);
        sys::ggml_backend_tensor_get(tensor, bytes.as_mut_ptr().cast(), 0, bytes.len());
    }
    let [n0, n1, n2, n3] = shape;
    floats.clear();
    floats.reserve(n0 * n1 * n2 * n3);
    for i3 in 0..n3 {
        for i2 in 0..n2 {
            for i1 in 0..n1 {
                let row = i1 * tensor.nb[1] + i2 * tensor.nb[2] + i3 * tensor.nb[3];
                for i0 in 0..n0 {
                    let at = row + i0 * tensor.nb[0];
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
