//! What llama.cpp takes for granted about single architectures, as a table: a row per family.
//!
//! llama.cpp reads most keys without looking at their values and finds out in the middle of a
//! computation, by a division by zero, a loop without end or a write past the end of a buffer. What
//! is known of that stands here, and `check` reads it. Families whose loading and computing is checked
//! in full are `covered`; a program that is given a file of any other should first try it in a process
//! of its own, see [`Facts::covered`](super::Facts::covered).

/// Architectures that share what they take for granted.
pub(super) struct Family {
    /// Values of `general.architecture`.
    pub names: &'static [&'static str],
    /// Whether nothing is known that passes the checks and ends the process.
    pub covered: bool,
    /// Keys `{arch}.{key}` and what their numbers must be.
    pub keys: &'static [(&'static str, Need)],
    /// Tensors `blk.N.{name}.weight` that the loader takes as optional and the graph does not: of
    /// these alternatives every layer has one whole.
    pub tensors: &'static [&'static [&'static str]],
    /// Whether keys and values are of one size, and the heads together as wide as the state.
    pub heads_fill_width: bool,
    /// How many layers, from the first, have a KV cache of their own, where llama.cpp does not go by the
    /// file.
    pub layers_with_kv: Option<u64>,
}

/// What a number must be.
#[derive(Clone, Copy)]
pub(super) enum Need {
    /// There, and not 0.
    Positive,
    /// Not 0 if it is there: the loader computes it where it is not.
    PositiveIfAny,
    /// A divisor of the width, `embedding_length`, and a multiple of this.
    DividesWidth { multiple: u64 },
}

use Need::{DividesWidth, Positive, PositiveIfAny};

/// Queries, keys and values in heads, with rotary positions: `ggml_rope` of no dimension at all
/// never ends, and the size of a head is the width over the number of heads.
const ATTENTION: &[(&str, Need)] = &[
    ("attention.head_count", Positive),
    ("attention.head_count_kv", PositiveIfAny),
    ("rope.dimension_count", PositiveIfAny),
];

/// Queries, keys and values in one matrix, or each in its own.
const PROJECTIONS: &[&[&str]] = &[&["attn_qkv"], &["attn_q", "attn_k", "attn_v"]];

/// The five mixes of RWKV 6 in one tensor, or each in its own.
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

/// The kernel of RWKV 7 steps through a head by 64 values with AVX-512, past its end if need be.
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

/// What is known of an architecture, if anything.
pub(super) fn family(arch: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.names.contains(&arch))
}
