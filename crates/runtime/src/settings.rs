//! The settings of a session: sizes, types, threads.

use std::sync::Arc;

use super::cancel::Cancel;
use super::control::ControlVector;
use modelve_gguf::GgmlType;

/// Maximum number of sequences in a context (`LLAMA_MAX_SEQ`).
pub(super) const MAX_SEQ: u32 = 256;

/// The type of the keys and values in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// 32 bits a value.
    F32,
    /// 16 bits a value.
    #[default]
    F16,
    /// 8.5 bits a value; needs flash attention.
    Q8_0,
    /// 4.5 bits a value; needs flash attention.
    Q4_0,
}

impl KvType {
    /// The same type in the GGUF format.
    pub fn gguf(self) -> GgmlType {
        match self {
            KvType::F32 => GgmlType::F32,
            KvType::F16 => GgmlType::F16,
            KvType::Q8_0 => GgmlType::Q8_0,
            KvType::Q4_0 => GgmlType::Q4_0,
        }
    }

    /// Returns whether values are stored in blocks that share a scale, which only fused attention
    /// can read.
    pub fn is_quantized(self) -> bool {
        matches!(self, KvType::Q8_0 | KvType::Q4_0)
    }
}

/// Whether attention is computed in one fused operation, which keeps no attention weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlashAttention {
    /// If the device supports it, as CPUs do.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never: [`Hook`](super::graph::Hook)s see the attention weights, and results are closest to
    /// the reference.
    Off,
}

/// The settings of a session.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The number of tokens that the KV cache holds, for all sequences together; rounded up to a
    /// multiple of 256. It also decides between the RoPE factors of a model that has two sets, see
    /// [`Model::rope`](super::Model::rope).
    pub n_ctx: u32,
    /// Maximum number of sequences, at most 256.
    pub n_seq: u32,
    /// Maximum number of tokens that are computed at once; longer feeds are split.
    pub n_batch: u32,
    /// Maximum number of rows of logits that are computed at once; feeds that request more are
    /// split. The compute buffer has one row of the vocabulary in f32 for each.
    pub n_outputs: u32,
    /// The number of threads; `None` for as many as the process may use.
    pub threads: Option<u32>,
    /// The type of the keys and values in the cache.
    pub kv_type: KvType,
    /// Whether attention is fused.
    pub flash_attention: FlashAttention,
    /// Whether passes may have [`Hook`](super::graph::Hook)s.
    pub hooks: bool,
    /// The control vector, which is added to the residual stream. It cannot change during the life
    /// of a session, because the contents of the cache depend on it.
    pub control: Option<Arc<ControlVector>>,
    /// The flag that stops a computation.
    pub cancel: Cancel,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            n_ctx: 512,
            n_seq: 1,
            n_batch: 512,
            n_outputs: 512,
            threads: None,
            kv_type: KvType::default(),
            flash_attention: FlashAttention::default(),
            hooks: false,
            control: None,
            cancel: Cancel::new(),
        }
    }
}
