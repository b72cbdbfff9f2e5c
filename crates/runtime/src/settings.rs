//! How a context computes: sizes, types, threads.

use std::sync::Arc;

use super::cancel::Cancel;
use super::control::ControlVector;
use modelve_gguf::GgmlType;

/// The most sequences llama.cpp keeps apart (`LLAMA_MAX_SEQ`).
pub(super) const MAX_SEQ: u32 = 256;

/// The type keys and values are cached in.
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
    /// reads.
    pub fn is_quantized(self) -> bool {
        matches!(self, KvType::Q8_0 | KvType::Q4_0)
    }
}

/// Whether attention is computed in one fused operation, which keeps no attention weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlashAttention {
    /// Where the device has it, which a CPU does.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never: [`Hook`](super::graph::Hook)s see the weights, and results are nearest to the reference.
    Off,
}

/// How a session computes.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Tokens the KV cache holds, all sequences together; rounded up to 256. Also what decides
    /// between the RoPE factors of a model that has two sets, see [`Model::rope`](super::Model::rope).
    pub n_ctx: u32,
    /// Sequences kept apart, at most 256.
    pub n_seq: u32,
    /// Tokens computed at once; longer feeds are split.
    pub n_batch: u32,
    /// Rows of logits computed at once, at most: sizes the compute buffer (one row of the
    /// vocabulary in f32 each). Feeds that want more are split.
    pub n_outputs: u32,
    /// Threads; none: as many as the process may use.
    pub threads: Option<u32>,
    /// What keys and values are cached in.
    pub kv_type: KvType,
    /// Fused attention.
    pub flash_attention: FlashAttention,
    /// Whether [`Hook`](super::graph::Hook)s will look at passes.
    pub hooks: bool,
    /// What is added to the residual stream. It belongs to the whole life of a session, because
    /// what the cache holds depends on it: another vector needs another session.
    pub control: Option<Arc<ControlVector>>,
    /// Stops a computation.
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
