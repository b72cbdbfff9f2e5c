//! How models are read and contexts are made, for the calls that do so.

use llama_cpp_sys_2 as sys;

use super::cancel::Cancel;
use super::settings::{FlashAttention, KvType};

/// How much of a model is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The vocabulary.
    Vocabulary,
    /// All that the header tells: metadata, vocabulary, and a place of the right shape for
    /// every tensor.
    Header,
    /// The weights, too.
    Everything,
}

/// How a model is read.
pub(super) struct LoadParams<'a> {
    pub extent: Extent,
    /// Whether weights are rearranged for the CPU's kernels while loading.
    pub repack: bool,
    pub gpu_layers: u32,
    /// The one device to put layers on; none: all GPUs.
    pub device: Option<&'a str>,
    /// Integers that replace the file's own.
    pub overrides: &'a [(String, i64)],
    /// Told how much is loaded, 0 to 1; false stops.
    pub progress: &'a mut dyn FnMut(f32) -> bool,
}

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
