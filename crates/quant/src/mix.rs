//! Which type for which tensor: recipes as data, and the decisions they lead to.
//!
//! A recipe such as `Q4_K_M` gives most matrices its base type and a few, by what they do and
//! in which layer, another one. The tables and the order of decisions reproduce
//! `llama_tensor_get_type` and `tensor_type_fallback` of llama.cpp (src/llama-quant.cpp), so
//! that the same model gets the same types; a test compares them with llama.cpp's own.

use regex::Regex;

use modelve_gguf::GgmlType;

/// What a tensor does in the model, as far as recipes care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Token ids to vectors.
    TokenEmbedding,
    /// Vectors to logits.
    Output,
    /// The value projection, alone or fused with query and key.
    AttentionValue,
    /// The key projection, where it stands alone.
    AttentionKey,
    /// Back from the heads to the residual stream.
    AttentionOutput,
    /// The last matrix of the feed-forward network.
    FfnDown,
    /// Any other matrix.
    Other,
}

impl Role {
    /// The role of a tensor by its GGUF name.
    pub fn of(name: &str) -> Self {
        match name {
            "token_embd.weight" => Self::TokenEmbedding,
            "output.weight" => Self::Output,
            _ if name.contains("attn_qkv.weight") || name.contains("attn_v.weight") => {
                Self::AttentionValue
            }
            _ if name.contains("attn_k.weight") => Self::AttentionKey,
            _ if name.contains("attn_output.weight") => Self::AttentionOutput,
            _ if name.contains("ffn_down") => Self::FfnDown,
            _ => Self::Other,
        }
    }
}

/// When a rule of a recipe applies. Layers are counted from 0; `n` is their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    /// In the first so many layers.
    First(u32),
    /// In the first `n / part` layers.
    FirstPart(u32),
    /// As `FirstPart`, if an importance matrix is given.
    FirstPartWeighted(u32),
    /// As `FirstPart`, unless an importance matrix is given.
    FirstPartUnweighted(u32),
    /// In the first and last eighth of the layers, and every third between.
    MoreBits,
    /// If at least four query heads share one key and value head.
    GroupedHeads,
}

impl When {
    fn applies(self, layer: u32, n: u32, facts: &Facts) -> bool {
        match self {
            Self::Always => true,
            Self::First(count) => layer < count,
            Self::FirstPart(part) => layer < n / part,
            Self::FirstPartWeighted(part) => facts.imatrix && layer < n / part,
            Self::FirstPartUnweighted(part) => !facts.imatrix && layer < n / part,
            Self::MoreBits => {
                layer < n / 8 || layer >= 7 * n / 8 || (layer.saturating_sub(n / 8)) % 3 == 2
            }
            Self::GroupedHeads => facts.heads_per_kv_head >= 4,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Always => "everywhere",
            Self::First(_) | Self::FirstPart(_) => "in the first layers",
            Self::FirstPartWeighted(_) => "in the first layers, with an imatrix",
            Self::FirstPartUnweighted(_) => "in the first layers, without an imatrix",
            Self::MoreBits => "in the outer layers and every third between",
            Self::GroupedHeads => "shared by several heads",
        }
    }
}

/// One row of a recipe: tensors of this role, when, get this type. The first row that applies
/// counts.
type Rule = (Role, When, GgmlType);

/// A way to quantize a whole model.
#[derive(Debug)]
pub struct Recipe {
    /// Its name: `Q4_K_M`.
    pub name: &'static str,
    /// llama.cpp's number for it, `general.file_type`.
    pub file_type: u32,
    /// The type of most matrices.
    pub base: GgmlType,
    /// What it is good for, in one line.
    pub about: &'static str,
    rules: &'static [Rule],
}

/// What llama.cpp's number for a quantization (`general.file_type`, `enum llama_ftype` in
/// llama.h) is called; `None` for a number it does not define.
pub fn file_type_name(number: u64) -> Option<&'static str> {
    let recipe = RECIPES
        .iter()
        .find(|recipe| u64::from(recipe.file_type) == number);
    let others = || READ_ONLY.iter().find(|(other, _)| *other == number);
    recipe
        .map(|recipe| recipe.name)
        .or_else(|| Some(others()?.1))
}

/// Quantizations that files have and no recipe here writes.
#[rustfmt::skip]
static READ_ONLY: &[(u64, &str)] = &[
    (19, "IQ2_XXS"), (20, "IQ2_XS"), (21, "Q2_K_S"), (22, "IQ3_XS"), (23, "IQ3_XXS"),
    (24, "IQ1_S"), (26, "IQ3_S"), (27, "IQ3_M"), (28, "IQ2_S"), (29, "IQ2_M"), (31, "IQ1_M"),
    (36, "TQ1_0"), (37, "TQ2_0"), (38, "MXFP4_MOE"), (39, "NVFP4"),
];

use GgmlType as T;
use Role::{AttentionOutput, AttentionValue, FfnDown};
use When::{
    Always, First, FirstPart, FirstPartUnweighted, FirstPartWeighted, GroupedHeads, MoreBits,
};

/// Every recipe, from the smallest to the largest.
#[rustfmt::skip]
pub static RECIPES: &[Recipe] = &[
    Recipe { name: "Q2_K", file_type: 10, base: T::Q2_K,
        about: "the smallest; visibly worse text",
        rules: &[
            (AttentionValue, GroupedHeads, T::Q4_K), (AttentionValue, Always, T::Q3_K),
            (AttentionOutput, Always, T::Q3_K), (FfnDown, Always, T::Q3_K),
        ] },
    Recipe { name: "Q3_K_S", file_type: 11, base: T::Q3_K,
        about: "very small, high loss", rules: &[] },
    Recipe { name: "Q3_K_M", file_type: 12, base: T::Q3_K,
        about: "very small, with more bits where they count",
        rules: &[
            (AttentionValue, First(2), T::Q5_K), (AttentionValue, Always, T::Q4_K),
            (AttentionOutput, Always, T::Q4_K),
            (FfnDown, FirstPart(16), T::Q5_K), (FfnDown, Always, T::Q4_K),
        ] },
    Recipe { name: "Q3_K_L", file_type: 13, base: T::Q3_K,
        about: "small, substantial loss",
        rules: &[
            (AttentionValue, Always, T::Q5_K), (AttentionOutput, Always, T::Q5_K),
            (FfnDown, Always, T::Q5_K),
        ] },
    Recipe { name: "IQ4_XS", file_type: 30, base: T::IQ4_XS,
        about: "smaller than Q4_K_S at like quality; slower on some CPUs",
        rules: &[
            (AttentionValue, GroupedHeads, T::Q5_K), (FfnDown, FirstPartUnweighted(8), T::Q5_K),
        ] },
    Recipe { name: "Q4_0", file_type: 2, base: T::Q4_0,
        about: "the plain 4 bits: fastest to convert and, repacked, to run",
        rules: &[(FfnDown, FirstPartWeighted(8), T::Q4_1)] },
    Recipe { name: "IQ4_NL", file_type: 25, base: T::IQ4_NL,
        about: "4 bits on a non-linear scale, for rows that are no multiple of 256",
        rules: &[
            (AttentionValue, GroupedHeads, T::Q5_K), (FfnDown, FirstPartUnweighted(8), T::Q5_K),
        ] },
    Recipe { name: "Q4_K_S", file_type: 14, base: T::Q4_K,
        about: "small, with little loss",
        rules: &[(AttentionValue, First(4), T::Q5_K), (FfnDown, FirstPart(8), T::Q5_K)] },
    Recipe { name: "Q4_K_M", file_type: 15, base: T::Q4_K,
        about: "the one to start with: small, fast, and close to the original",
        rules: &[(AttentionValue, MoreBits, T::Q6_K), (FfnDown, MoreBits, T::Q6_K)] },
    Recipe { name: "Q4_1", file_type: 3, base: T::Q4_1,
        about: "Q4_0 with an offset per block; Q4_K_S is better", rules: &[] },
    Recipe { name: "Q5_0", file_type: 8, base: T::Q5_0,
        about: "the plain 5 bits; Q5_K_S is better",
        rules: &[(FfnDown, FirstPartWeighted(8), T::Q5_1)] },
    Recipe { name: "Q5_K_S", file_type: 16, base: T::Q5_K,
        about: "low loss", rules: &[] },
    Recipe { name: "Q5_K_M", file_type: 17, base: T::Q5_K,
        about: "very low loss",
        rules: &[(AttentionValue, MoreBits, T::Q6_K), (FfnDown, MoreBits, T::Q6_K)] },
    Recipe { name: "Q5_1", file_type: 9, base: T::Q5_1,
        about: "Q5_0 with an offset per block; Q5_K_M is better", rules: &[] },
    Recipe { name: "Q6_K", file_type: 18, base: T::Q6_K,
        about: "hardly to be told from the original", rules: &[] },
    Recipe { name: "Q8_0", file_type: 7, base: T::Q8_0,
        about: "as good as the original, half its size", rules: &[] },
    Recipe { name: "F16", file_type: 1, base: T::F16,
        about: "half precision; exact for checkpoints in f16", rules: &[] },
    Recipe { name: "BF16", file_type: 32, base: T::BF16,
        about: "exact for checkpoints in bf16", rules: &[] },
    Recipe { name: "F32", file_type: 0, base: T::F32,
        about: "exact, twice the size of the checkpoint", rules: &[] },
];

impl Recipe {
    /// The recipe of that name, in capitals or not.
    pub fn find(name: &str) -> Option<&'static Self> {
        RECIPES
            .iter()
            .find(|recipe| recipe.name.eq_ignore_ascii_case(name))
    }
}

/// What recipes ask about a model.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Number of layers.
    pub layers: u32,
    /// Query heads per key and value head.
    pub heads_per_kv_head: u32,
    /// Whether llama.cpp counts the model among those of 70 billion weights. Many query heads share
    /// one value head there, so value matrices are small and get more bits.
    pub is_large: bool,
    /// Number of experts in a layer; 0 or 1 where there are none.
    pub experts: u32,
    /// Whether an importance matrix is given.
    pub imatrix: bool,
}

/// Types that were asked for by name instead of by recipe.
#[derive(Debug, Default)]
pub struct Overrides {
    /// Tensors whose GGUF name the expression is found in; the first match counts.
    pub tensors: Vec<(Regex, GgmlType)>,
    /// For `output.weight`, or the embedding that stands in for it.
    pub output: Option<GgmlType>,
    /// For `token_embd.weight`.
    pub token_embedding: Option<GgmlType>,
}

/// The type of one tensor and, in words, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The type.
    pub ty: GgmlType,
    /// Why.
    pub reason: String,
}

/// A type was asked for that the tensor's rows do not fit.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{tensor}` has rows of {columns} weights, which are no whole number of {ty} blocks of {block}"
)]
#[allow(missing_docs)]
pub struct Misfit {
    pub tensor: String,
    pub columns: u64,
    pub ty: GgmlType,
    pub block: u64,
}

/// Types with blocks of 256 and what stands in for them when rows are no multiple of 256.
static FALLBACKS: &[(GgmlType, GgmlType)] = &[
    (T::IQ4_XS, T::IQ4_NL),
    (T::Q2_K, T::Q4_0),
    (T::Q3_K, T::Q4_0),
    (T::Q4_K, T::Q5_0),
    (T::Q5_K, T::Q5_1),
    (T::Q6_K, T::Q8_0),
];

/// Whether a tensor becomes anything but F32: matrices that are no norms, routers or positions.
fn is_quantized(name: &str, dimensions: usize) -> bool {
    dimensions >= 2
        && name.ends_with("weight")
        && !name.contains("_norm.weight")
        && !name.contains("ffn_gate_inp.weight")
        && !matches!(name, "position_embd.weight" | "token_types.weight")
}

/// Decides the type of every tensor. `tensors` are names and shapes (GGUF order: columns first)
/// in llama.cpp's order, by layer and name: recipes count the tensors of a role as they come.
pub fn decide(
    recipe: &Recipe,
    overrides: &Overrides,
    facts: &Facts,
    tensors: &[(&str, &[u64])],
) -> Result<Vec<Decision>, Misfit> {
    let of_role = |role: Role| {
        tensors
            .iter()
            .filter(move |(name, _)| Role::of(name) == role)
    };
    let mut mix = Mix {
        recipe,
        overrides,
        facts,
        tied: of_role(Role::Output).count() == 0,
        values: of_role(AttentionValue).count() as u32,
        values_seen: 0,
        downs_seen: 0,
    };
    let each = tensors.iter();
    each.map(|(name, shape)| mix.decide(name, shape)).collect()
}

/// The state of a run over the tensors of a model.
struct Mix<'a> {
    recipe: &'a Recipe,
    overrides: &'a Overrides,
    facts: &'a Facts,
    /// Whether the token embedding stands in for the output.
    tied: bool,
    values: u32,
    values_seen: u32,
    downs_seen: u32,
}

impl Mix<'_> {
    fn decide(&mut self, name: &str, shape: &[u64]) -> Result<Decision, Misfit> {
        let because = |ty, reason: &str| {
            let reason = reason.to_owned();
            Ok(Decision { ty, reason })
        };
        if !is_quantized(name, shape.len()) {
            return because(T::F32, "norms and tables stay exact");
        }
        let columns = shape.first().copied().unwrap_or(0);
        let role = Role::of(name);
        let asked = match role {
            Role::TokenEmbedding => self.overrides.token_embedding,
            Role::Output => self.overrides.output,
            _ => None,
        };
        if let Some(ty) = asked {
            let block = ty.block_size().unwrap_or(1);
            if !columns.is_multiple_of(block) {
                return Err(Misfit {
                    tensor: name.to_owned(),
                    columns,
                    ty,
                    block,
                });
            }
            return because(ty, "asked for");
        }
        let base = self.recipe.base;
        if base.block_size() == Some(1) {
            return because(base, "the recipe's type");
        }
        let mut patterns = self.overrides.tensors.iter();
        let manual = patterns.find(|(pattern, _)| pattern.is_match(name));
        let wanted = match manual {
            Some((pattern, ty)) => Decision {
                ty: *ty,
                reason: format!("asked for by {pattern}"),
            },
            None => self.by_recipe(role, columns),
        };
        Ok(fit(wanted, columns))
    }

    fn by_recipe(&mut self, role: Role, columns: u64) -> Decision {
        let base = self.recipe.base;
        let because = |ty, reason: String| Decision { ty, reason };
        if role == Role::Output || (self.tied && role == Role::TokenEmbedding) {
            let what = match role {
                Role::Output => "the output",
                _ => "the embedding is the output too and",
            };
            let whole = columns.is_multiple_of(base.block_size().unwrap_or(1));
            return match (self.overrides.output, whole) {
                (Some(ty), _) => because(ty, "asked for".into()),
                (None, true) if base != T::Q8_0 => {
                    because(T::Q6_K, format!("{what} decides every token"))
                }
                _ => because(T::Q8_0, format!("{what} decides every token")),
            };
        }
        let (what, layer, n) = match role {
            AttentionValue => {
                self.values_seen += 1;
                ("attention values", self.values_seen - 1, self.values)
            }
            FfnDown => {
                self.downs_seen += 1;
                ("ffn_down", self.downs_seen - 1, self.facts.layers)
            }
            AttentionOutput => ("attention output", 0, 1),
            _ => ("", 0, 1),
        };
        let mut rules = self.recipe.rules.iter();
        let rule = rules.find(|(r, when, _)| *r == role && when.applies(layer, n, self.facts));
        let by_rule = rule.map_or(base, |(_, _, ty)| *ty);
        if self.facts.experts == EIGHT
            && let Some(ty) = self.beside_eight_experts(role)
        {
            return because(ty, "attention is a small part beside eight experts".into());
        }
        let small_values = role == AttentionValue && self.facts.is_large;
        match rule {
            _ if small_values && matches!(by_rule, T::Q3_K | T::Q4_K) => because(
                T::Q5_K,
                "attention values of so large a model are a small part of it".into(),
            ),
            Some((_, when, ty)) => because(*ty, format!("{what} {}", when.reason())),
            None => because(base, "the recipe's type".into()),
        }
    }
}

/// The number of experts that llama.cpp gives other types beside: Mixtral's.
const EIGHT: u32 = 8;

/// Recipes that store the output of attention in Q5_K beside eight experts.
static BESIDE_EIGHT: &[&str] = &[
    "Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "IQ4_XS", "Q4_K_S", "Q4_K_M",
];

impl Mix<'_> {
    /// The types of attention in a model with eight experts in each layer.
    fn beside_eight_experts(&self, role: Role) -> Option<GgmlType> {
        match role {
            AttentionValue | Role::AttentionKey => Some(T::Q8_0),
            AttentionOutput if BESIDE_EIGHT.contains(&self.recipe.name) => Some(T::Q5_K),
            AttentionOutput => Some(self.recipe.base),
            _ => None,
        }
    }
}

/// Replaces a type whose blocks the rows do not fill.
fn fit(wanted: Decision, columns: u64) -> Decision {
    let fits = |ty: GgmlType| columns.is_multiple_of(ty.block_size().unwrap_or(1));
    if fits(wanted.ty) {
        return wanted;
    }
    let fallback = FALLBACKS.iter().find(|(ty, _)| *ty == wanted.ty);
    let ty = match fallback {
        Some((_, ty)) if fits(*ty) => *ty,
        _ => T::F16,
    };
    let block = wanted.ty.block_size().unwrap_or(1);
    Decision {
        ty,
        reason: format!(
            "in place of {}: rows of {columns} are no multiple of {block}",
            wanted.ty
        ),
    }
}

#[cfg(test)]
#[path = "mix_tests.rs"]
mod tests;
