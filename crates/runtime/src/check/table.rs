//! What llama.cpp takes for granted about single architectures, as a table: a row per family.
//!
//! llama.cpp reads most keys without looking at their values and finds out in the middle of a
//! computation, by a division by zero, a loop without end or a write past the end of a buffer. What
//! is known of that stands here. Families whose loading and computing is checked in full are
//! `covered`; a program that is given a file of any other should first try it in a process of its
//! own, see [`Facts::covered`](super::Facts::covered).

use super::super::error::Result;
use super::File;

/// Architectures that share what they take for granted.
struct Family {
    /// Values of `general.architecture`.
    names: &'static [&'static str],
    /// Whether nothing is known that passes the checks and ends the process.
    covered: bool,
    /// Keys `{arch}.{key}` and what their numbers must be.
    keys: &'static [(&'static str, Need)],
    /// Tensors `blk.N.{name}.weight` that the loader takes as optional and the graph does not: of
    /// these alternatives every layer has one whole.
    tensors: &'static [&'static [&'static str]],
}

/// What a number must be.
#[derive(Clone, Copy)]
enum Need {
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
    },
    Family {
        names: &["rwkv6", "rwkv6qwen2"],
        covered: false,
        keys: &[("wkv.head_size", DividesWidth { multiple: 1 })],
        tensors: MIXES,
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
    },
];

/// Checks what the file's architecture takes for granted, and says whether that is all there is to
/// check.
pub(super) fn check(file: &File<'_>, n_layer: u64, n_embd: u64) -> Result<bool> {
    let arch = file.arch.as_str();
    let Some(family) = FAMILIES.iter().find(|family| family.names.contains(&arch)) else {
        return Ok(false);
    };
    for &(key, need) in family.keys {
        check_key(file, key, need, n_layer, n_embd)?;
    }
    for layer in 0..n_layer {
        check_tensors(file, layer, family.tensors)?;
    }
    Ok(family.covered)
}

fn check_tensors(file: &File<'_>, layer: u64, alternatives: &[&[&'static str]]) -> Result<()> {
    let name = |part: &str| format!("blk.{layer}.{part}.weight");
    let missing = |parts: &[&'static str]| -> Vec<&'static str> {
        let absent = |part: &&&str| file.gguf.tensor(&name(part)).is_none();
        parts.iter().filter(absent).copied().collect()
    };
    // Of the alternative that the file has begun with, if any, and lacks least of.
    let nearest = alternatives
        .iter()
        .map(|parts| (missing(parts), parts.len()))
        .min_by_key(|(missing, all)| (missing.len() == *all, missing.len()))
        .map(|(missing, _)| missing);
    match nearest.as_deref() {
        Some([part, ..]) => file.fault(format!("tensor {} is missing", name(part))),
        _ => Ok(()),
    }
}

fn check_key(file: &File<'_>, key: &str, need: Need, n_layer: u64, n_embd: u64) -> Result<()> {
    let arch = &file.arch;
    let values = file.per_layer(key, n_layer)?;
    match (need, values) {
        (PositiveIfAny, None) => Ok(()),
        (Positive | DividesWidth { .. }, None) => file.fault(format!("{arch}.{key} is missing")),
        (_, Some(values)) => {
            for value in values {
                if value == 0 {
                    return file.fault(format!("{arch}.{key} is 0"));
                }
                if let DividesWidth { multiple } = need
                    && !(n_embd.is_multiple_of(value) && value.is_multiple_of(multiple))
                {
                    let also = match multiple {
                        1 => String::new(),
                        n => format!(" and be a multiple of {n}"),
                    };
                    return file.fault(format!(
                        "{arch}.{key} is {value}, which must divide the width of {n_embd}{also}"
                    ));
                }
            }
            Ok(())
        }
    }
}
