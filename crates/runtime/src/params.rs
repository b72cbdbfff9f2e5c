//! The parameters for loading models and making contexts, and their conversion to llama.cpp's.

use llama_cpp_sys_2 as sys;

use super::batch::Limits;
use super::cancel::Cancel;
use super::remote::Workers;
use super::rpc_ffi::RemoteDevice;
use super::settings::{FlashAttention, KvType, MAX_SEQ};

/// The parts of a model that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The vocabulary.
    Vocabulary,
    /// The whole header: metadata, vocabulary, and a tensor of the right shape, without values, for
    /// every tensor.
    Header,
    /// The weights, too.
    Everything,
}

/// The parameters for loading a model.
pub(super) struct LoadParams<'a> {
    pub extent: Extent,
    /// Whether the weights are copied to memory instead of mapped, so that they can be changed.
    pub copied: bool,
    /// Whether weights are repacked for the CPU's kernels while loading.
    pub repack: bool,
    pub gpu_layers: u32,
    /// The only device to put layers on; `None` for all GPUs.
    pub device: Option<&'a str>,
    /// Devices of other machines, with the number of layers for each. If there are any, they are the
    /// only devices, and take the last layers.
    pub remote: &'a [(RemoteDevice, u32)],
    /// Integers that replace the file's own.
    pub overrides: &'a [(String, i64)],
    /// Called with the loaded fraction, from 0 to 1; returning false stops the load.
    pub progress: &'a mut dyn FnMut(f32) -> bool,
}

impl LoadParams<'_> {
    /// Sets all fields of `p` but the pointers.
    pub fn fill(&self, p: &mut sys::llama_model_params) {
        p.vocab_only = self.extent == Extent::Vocabulary;
        if self.extent == Extent::Header {
            p.no_alloc = true;
            // llama.cpp asserts that a file is not mapped if its tensors are not read.
            p.load_mode = sys::LLAMA_LOAD_MODE_NONE;
        }
        if self.copied {
            p.load_mode = sys::LLAMA_LOAD_MODE_NONE;
        }
        p.use_extra_bufts = self.repack;
        p.n_gpu_layers = i32::try_from(self.gpu_layers).unwrap_or(i32::MAX);
    }

    /// The overrides in llama.cpp's format, terminated by an entry with an empty key.
    pub fn overrides(&self) -> Vec<sys::llama_model_kv_override> {
        let entry = |key: &str, val_i64| {
            let mut entry = sys::llama_model_kv_override {
                tag: sys::LLAMA_KV_OVERRIDE_TYPE_INT,
                key: [0; 128],
                __bindgen_anon_1: sys::llama_model_kv_override__bindgen_ty_1 { val_i64 },
            };
            for (to, from) in entry.key.iter_mut().zip(key.bytes()) {
                *to = from as std::ffi::c_char;
            }
            entry
        };
        let fits = self.overrides.iter().filter(|(key, _)| key.len() < 128);
        let entries = fits.map(|(key, value)| entry(key, *value));
        entries.chain([entry("", 0)]).collect()
    }
}

/// The parameters for making a context.
pub(super) struct ContextParams {
    pub n_ctx: u32,
    pub n_batch: u32,
    pub n_seq: u32,
    pub n_outputs: u32,
    pub threads: u32,
    pub threads_batch: u32,
    pub kv_type: KvType,
    pub flash_attention: FlashAttention,
    /// Whether hooks will see nodes.
    pub watched: bool,
    pub offload: bool,
    pub cancel: Cancel,
    /// The workers that hold layers.
    pub workers: Workers,
}

impl ContextParams {
    /// The limits of a context that is made with these parameters.
    pub fn limits(&self, n_vocab: u32) -> Limits {
        let n_seq = self.n_seq.clamp(1, MAX_SEQ);
        let n_batch = self.n_batch.clamp(1, self.n_ctx.max(1));
        Limits {
            n_batch,
            n_seq,
            // llama.cpp keeps at least one row for each sequence.
            n_outputs: self.n_outputs.min(n_batch).max(n_seq),
            n_vocab,
        }
    }

    /// Sets all fields of `p` but the pointers.
    pub fn fill(&self, limits: Limits, p: &mut sys::llama_context_params) {
        p.n_ctx = self.n_ctx;
        p.n_batch = limits.n_batch;
        p.n_ubatch = limits.n_batch;
        p.n_seq_max = limits.n_seq;
        p.n_outputs_max = limits.n_outputs;
        p.n_threads = self.threads as i32;
        p.n_threads_batch = self.threads_batch as i32;
        p.type_k = self.kv_type.ggml();
        p.type_v = self.kv_type.ggml();
        p.flash_attn_type = self.flash_attention.llama();
        p.offload_kqv = self.offload;
        p.op_offload = self.offload;
        p.no_perf = true;
        // One cache for all sequences: prompts of different lengths share a decode call.
        p.kv_unified = true;
    }
}

impl KvType {
    /// ggml's number for it.
    pub(super) fn ggml(self) -> sys::ggml_type {
        self.gguf().0 as sys::ggml_type
    }
}

impl FlashAttention {
    /// llama.cpp's number for it.
    pub(super) fn llama(self) -> sys::llama_flash_attn_type {
        match self {
            FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
            FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
            FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
        }
    }
}
