//! What llama.cpp assumes about single architectures without checking it, as a table with a row per
//! family.
//!
//! llama.cpp reads most keys without checking their values, and bad ones cause a division by zero,
//! an endless loop or a write past the end of a buffer in the middle of a computation. This table
//! has the known cases, which `check` looks for. Families for which loading and computing are fully
//! checked are `covered`; a program that is given a file of any other family should first try it in
//! a process of its own, see [`Facts::covered`](super::Facts::covered).

/// Architectures about which llama.cpp makes the same assumptions.
pub(super) struct Family {
    /// Values of `general.architecture`.
    pub names: &'static [&'static str],
    /// Whether no file is known that passes the checks and still ends the process.
    pub covered: bool,
    /// Keys `{arch}.{key}` and what their numbers must be.
    pub keys: &'static [(&'static str, Need)],
    /// Tensors `blk.N.{name}.weight` that the loader treats as optional and the graph does not:
    /// every layer must have all tensors of one of the alternatives.
    pub tensors: &'static [&'static [&'static str]],
    /// Whether keys and values must have the same size, and all heads together the width of the
    /// state.
    pub heads_fill_width: bool,
    /// The number of layers, from the first, that have their own KV cache, where llama.cpp does not
    /// take it from the file.
    pub layers_with_kv: Option<u64>,
}

/// What a number must be.
#[derive(Clone, Copy)]
pub(super) enum Need {
    /// Present, and not 0.
    Positive,
    /// Not 0 if present; the loader computes it otherwise.
    PositiveIfAny,
    /// A divisor of the width, `embedding_length`, and a multiple of this.
    DividesWidth { multiple: u64 },
}

use Need::{DividesWidth, Positive, PositiveIfAny};

/// Attention with heads and rotary positions. `ggml_rope` with no dimension loops forever, and the
/// size of a head is the width divided by the number of heads.
const ATTENTION: &[(&str, Need)] = &[
    ("attention.head_count", Positive),
    ("attention.head_count_kv", PositiveIfAny),
    ("rope.dimension_count", PositiveIfAny),
];

/// The projections of queries, keys and values, in one matrix or in one each.
const PROJECTIONS: &[&[&str]] = &[&["attn_qkv"], &["attn_q", "attn_k", "attn_v"]];

/// The five token-shift mixes of RWKV 6, in one tensor or in one each.
const MIXES: &[&[&str]] = &[
    &["time_mix_lerp_fused"],
    &[
        "time_mix_lerp_w",
        "time_mix_lerp_k",
        "time_mix_lerp_v",
        "time_mix_lerp_r",
        "time_mix_lerp_g",
    ],
];

/// With AVX-512, ggml's RWKV 7 kernel processes a head in steps of 64 values, and reads past its
/// end if the size is not a multiple of that.
const RWKV7_STEP: u64 = 64;

static FAMILIES: &[Family] = &[
    Family {
        names: &["phi3"],
        covered: true,
        keys: ATTENTION,
        tensors: PROJECTIONS,
        heads_fill_width: true,
        layers_with_kv: None,
    },
    Family {
        names: &[
            "phi2",
            "gptneox",
            "command-r",
            "cohere2",
            "gemma",
            "gemma2",
            "gemma3",
            "olmo2",
            "phimoe",
            "stablelm",
            "starcoder2",
            "qwen",
            "glm4",
        ],
        covered: false,
        keys: ATTENTION,
        tensors: &[],
        heads_fill_width: false,
        layers_with_kv: None,
    },
    Family {
        names: &["rwkv6", "rwkv6qwen2"],
        covered: false,
        keys: &[("wkv.head_size", DividesWidth { multiple: 1 })],
        tensors: MIXES,
        heads_fill_width: false,
        layers_with_kv: None,
    },
    Family {
        names: &["rwkv7", "arwkv7"],
        covered: false,
        keys: &[(
            "wkv.head_size",
            DividesWidth {
                multiple: RWKV7_STEP,
            },
        )],
        tensors: &[],
        heads_fill_width: false,
        layers_with_kv: None,
    },
    Family {
        names: &["gemma3n"],
        covered: false,
        keys: &[],
        tensors: &[],
        heads_fill_width: false,
        layers_with_kv: Some(20),
    },
];

/// The row of an architecture; `None` if nothing is known about it.
pub(super) fn family(arch: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.names.contains(&arch))
}
