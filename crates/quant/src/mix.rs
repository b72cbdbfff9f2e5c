//! Which type for which tensor: recipes as data, and the decisions they lead to.
//!
//! A recipe such as `Q4_K_M` gives most matrices its base type and a few, by what they do and
//! in which layer, another one. The tables and the order of decisions reproduce
//! `llama_tensor_get_type` and `tensor_type_fallback` of llama.cpp (src/llama-quant.cpp), so
//! that the same model gets the same types; a test compares them with llama.cpp's own.

mod recipes;

pub use recipes::RECIPES;

use regex::Regex;

use modelve_gguf::GgmlType;
use recipes::{BESIDE_EIGHT, READ_ONLY};

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
    /// The query projection, where it stands alone.
    AttentionQuery,
    /// Back from the heads to the residual stream.
    AttentionOutput,
    /// The gate of the feed-forward network.
    FfnGate,
    /// The matrix that widens the state, of the feed-forward network.
    FfnUp,
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
            _ if name.contains("attn_q.weight") => Self::AttentionQuery,
            _ if name.contains("attn_output.weight") => Self::AttentionOutput,
            _ if name.contains("ffn_up") => Self::FfnUp,
            _ if name.contains("ffn_gate") => Self::FfnGate,
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
    /// As `MoreBits`, in a model with eight experts.
    MoreBitsBesideEight,
    /// In all but the first and the last eighth of the layers.
    Middle,
    /// If at least four query heads share one key and value head.
    GroupedHeads,
    /// If at least four query heads share one key and value head, or there are at least four experts.
    GroupedHeadsOrExperts,
    /// In a model with eight experts.
    BesideEight,
}

impl When {
    fn applies(self, layer: u32, n: u32, facts: &Facts) -> bool {
        let beside_eight = facts.experts == EIGHT;
        match self {
            Self::Always => true,
            Self::First(count) => layer < count,
            Self::FirstPart(part) => layer < n / part,
            Self::FirstPartWeighted(part) => facts.imatrix && layer < n / part,
            Self::FirstPartUnweighted(part) => !facts.imatrix && layer < n / part,
            Self::MoreBits => {
                layer < n / 8 || layer >= 7 * n / 8 || (layer.saturating_sub(n / 8)) % 3 == 2
            }
            Self::MoreBitsBesideEight => beside_eight && Self::MoreBits.applies(layer, n, facts),
            Self::Middle => layer >= n / 8 && layer < 7 * n / 8,
            Self::GroupedHeads => facts.heads_per_kv_head >= 4,
            Self::GroupedHeadsOrExperts => facts.heads_per_kv_head >= 4 || facts.experts >= 4,
            Self::BesideEight => beside_eight,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Always => "everywhere",
            Self::First(_) | Self::FirstPart(_) => "in the first layers",
            Self::FirstPartWeighted(_) => "in the first layers, with an imatrix",
            Self::FirstPartUnweighted(_) => "in the first layers, without an imatrix",
            Self::MoreBits | Self::MoreBitsBesideEight => {
                "in the outer layers and every third between"
            }
            Self::Middle => "in the middle layers",
            Self::GroupedHeads => "shared by several heads",
            Self::GroupedHeadsOrExperts => "shared by several heads or experts",
            Self::BesideEight => "beside eight experts",
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

use GgmlType as T;
use Role::{
    AttentionKey, AttentionOutput, AttentionQuery, AttentionValue, FfnDown, FfnGate, FfnUp,
};
use Role::{Output, TokenEmbedding};

impl Recipe {
    /// The recipe of that name, in capitals or not.
    pub fn find(name: &str) -> Option<&'static Self> {
        RECIPES
            .iter()
            .find(|recipe| recipe.name.eq_ignore_ascii_case(name))
    }

    /// Returns whether a model of this recipe needs an importance matrix.
    pub fn needs_imatrix(&self) -> bool {
        let inner = |(role, ..): &&Rule| !matches!(role, Output | TokenEmbedding);
        let rules = self.rules.iter().filter(inner).map(|(.., ty)| *ty);
        rules.chain([self.base]).any(|ty| FEW_BITS.contains(&ty))
    }

    /// Returns whether llama.cpp counts it among the recipes of about 2 bits, which have rules of their
    /// own for large models and for experts.
    fn is_of_two_bits(&self) -> bool {
        matches!(self.base, T::IQ2_XXS | T::IQ2_XS | T::IQ2_S)
    }
}

/// Types whose search needs to know which columns count.
static FEW_BITS: &[GgmlType] = &[
    T::IQ1_S,
    T::IQ1_M,
    T::IQ2_XXS,
    T::IQ2_XS,
    T::IQ2_S,
    T::IQ3_XXS,
];

/// Returns whether a tensor of this type needs an importance matrix (`tensor_requires_imatrix`). None
/// is measured for the embedding; what of it ggml cannot do without is an error of the encoder.
pub fn needs_imatrix(tensor: &str, ty: GgmlType) -> bool {
    !matches!(Role::of(tensor), Output | TokenEmbedding) && FEW_BITS.contains(&ty)
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

impl Overrides {
    /// Returns whether a type is given for this tensor. `tied` says that the token embedding is the
    /// output, too.
    pub fn pins(&self, tensor: &str, tied: bool) -> bool {
        let by_role = match Role::of(tensor) {
            Role::TokenEmbedding => self.token_embedding.or(self.output.filter(|_| tied)),
            Role::Output => self.output,
            _ => None,
        };
        by_role.is_some() || (self.tensors.iter()).any(|(pattern, _)| pattern.is_match(tensor))
    }
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
    (T::IQ1_S, T::IQ4_NL),
    (T::IQ1_M, T::IQ4_NL),
    (T::IQ2_XXS, T::IQ4_NL),
    (T::IQ2_XS, T::IQ4_NL),
    (T::IQ2_S, T::IQ4_NL),
    (T::IQ3_XXS, T::IQ4_NL),
    (T::IQ3_S, T::IQ4_NL),
    (T::IQ4_XS, T::IQ4_NL),
    (T::Q2_K, T::Q4_0),
    (T::Q3_K, T::Q4_0),
    (T::Q4_K, T::Q5_0),
    (T::Q5_K, T::Q5_1),
    (T::Q6_K, T::Q8_0),
];

/// Returns whether a tensor becomes anything but F32: matrices other than norms, routers and
/// positions.
pub fn is_quantized(name: &str, dimensions: usize) -> bool {
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
        gates_seen: 0,
        ups_seen: 0,
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
    gates_seen: u32,
    ups_seen: u32,
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
        if role == Output || (self.tied && role == TokenEmbedding) {
            let what = match role {
                Role::Output => "the output",
                _ => "the embedding is the output too and",
            };
            let whole = columns.is_multiple_of(base.block_size().unwrap_or(1));
            return match (self.overrides.output, whole) {
                (Some(ty), _) => because(ty, "asked for".into()),
                (None, true) if base != T::Q8_0 => {
                    let rule = self.recipe.rules.iter().find(|(role, ..)| *role == Output);
                    let ty = rule.map_or(T::Q6_K, |(.., ty)| *ty);
                    because(ty, format!("{what} decides every token"))
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
            FfnGate => {
                self.gates_seen += 1;
                ("ffn_gate", self.gates_seen - 1, self.facts.layers)
            }
            FfnUp => {
                self.ups_seen += 1;
                ("ffn_up", self.ups_seen - 1, self.facts.layers)
            }
            AttentionOutput => ("attention output", 0, 1),
            AttentionKey => ("attention keys", 0, 1),
            AttentionQuery => ("attention queries", 0, 1),
            TokenEmbedding => ("the embedding", 0, 1),
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
        let small_values =
            role == AttentionValue && self.facts.is_large && !self.recipe.is_of_two_bits();
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

impl Mix<'_> {
    /// The types of attention in a model with eight experts in each layer.
    fn beside_eight_experts(&self, role: Role) -> Option<GgmlType> {
        match role {
            _ if self.recipe.is_of_two_bits() => None,
            AttentionValue | AttentionKey => Some(T::Q8_0),
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
