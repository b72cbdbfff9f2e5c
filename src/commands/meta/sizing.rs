//! Sizes: bytes by quantization, bytes of KV cache by context, and whether they fit into memory.

use serde::Serialize;

use super::subject::Subject;
use crate::base::memory::Memory;
use crate::convert::arch::{self, names};
use crate::gguf::GgmlType;
use crate::quant::mix::{self, Overrides, Recipe};
use crate::runtime::kv::{CONTEXT_STEP, Header, KvShape};
use crate::runtime::working::Working;

/// The quantizations to compare.
const RECIPES: [&str; 5] = ["F32", "F16", "Q8_0", "Q4_K_M", "Q4_0"];
/// The contexts to compare, in addition to the model's own.
const CONTEXTS: [u64; 3] = [2048, 4096, 32_768];
/// The sizes of a model.
#[derive(Debug, Serialize)]
pub struct Sizing {
    /// Size of the file in other quantizations.
    pub quantizations: Vec<Quantized>,
    /// The KV cache, if the metadata determines its size.
    pub kv_cache: Option<KvCache>,
    /// Bytes of weights in memory.
    pub weight_bytes: u64,
    /// Bytes that a pass needs in addition to weights and KV cache.
    pub working_bytes: u64,
    /// Bytes that each token of the context adds to `working_bytes`.
    pub working_bytes_per_token: u64,
    /// The memory of the machine, if known.
    pub memory: Option<Memory>,
    /// The largest context that fits into it.
    pub largest_context: Option<LargestContext>,
}

/// One quantization.
#[derive(Debug, Serialize)]
pub struct Quantized {
    /// Its name.
    pub name: &'static str,
    /// Size of the file in bytes; `None` if the rows of a tensor fit no type of the recipe.
    pub bytes: Option<u64>,
}

/// Sizes of the KV cache.
#[derive(Debug, Serialize)]
pub struct KvCache {
    /// For one token.
    pub per_token: KvBytes,
    /// Whether this is an upper bound, because some layers keep a state of fixed size instead of
    /// tokens.
    pub upper_bound: bool,
    /// Sizes for some contexts, the last of them the model's own.
    pub contexts: Vec<Context>,
}

/// Bytes by the type of the cache; `None` if a head is not a whole number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KvBytes {
    /// With 16 bits, the default.
    pub f16: Option<u64>,
    /// With 8 bits.
    pub q8_0: Option<u64>,
}

/// The KV cache of one context.
#[derive(Debug, Serialize)]
pub struct Context {
    /// Length in tokens.
    pub tokens: u64,
    /// Bytes.
    #[serde(flatten)]
    pub bytes: KvBytes,
}

/// The largest context that fits, in tokens; 0 if the weights alone do not fit.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct LargestContext {
    /// With an f16 KV cache.
    pub f16: Option<u64>,
    /// With a q8_0 KV cache.
    pub q8_0: Option<u64>,
}

impl Sizing {
    /// Computes the sizes of a model, and what fits into `memory`.
    pub fn of(subject: &Subject<'_>, memory: Option<Memory>) -> Self {
        let weight_bytes = subject.tensor_bytes();
        let working = Working::of(subject);
        let kv_cache = kv_cache(subject);
        let largest_context = kv_cache.as_ref().zip(memory).map(|(cache, memory)| {
            let free = room(weight_bytes, working, memory);
            largest_context(cache, free, subject.number("context_length"))
        });
        Self {
            quantizations: quantizations(subject),
            kv_cache,
            weight_bytes,
            working_bytes: working.fixed,
            working_bytes_per_token: Working::PER_TOKEN,
            memory,
            largest_context,
        }
    }
}

/// Returns the bytes left for a KV cache.
pub fn room(weight_bytes: u64, working: Working, memory: Memory) -> u64 {
    let free = memory.available.saturating_sub(weight_bytes);
    free.saturating_sub(working.fixed)
}

/// Returns the largest context that fits into `free` bytes; `full` is the model's own.
pub fn largest_context(cache: &KvCache, free: u64, full: Option<u64>) -> LargestContext {
    let most = full.unwrap_or(u64::MAX);
    let step = u64::from(CONTEXT_STEP);
    let fits = |per_token: Option<u64>| match per_token? {
        0 => Some(most),
        per_token => {
            let per_token = per_token.saturating_add(Working::PER_TOKEN);
            let whole = free / per_token / step * step;
            Some(whole.min(most))
        }
    };
    LargestContext {
        f16: fits(cache.per_token.f16),
        q8_0: fits(cache.per_token.q8_0),
    }
}

fn quantizations(subject: &Subject<'_>) -> Vec<Quantized> {
    let recipes = RECIPES.iter().filter_map(|name| Recipe::find(name));
    recipes
        .filter(|_| !subject.tensors.is_empty())
        .map(|recipe| Quantized {
            name: recipe.name,
            bytes: bytes_as(subject, recipe),
        })
        .collect()
}

/// Returns the size of the file in another quantization, with the same header.
fn bytes_as(subject: &Subject<'_>, recipe: &Recipe) -> Option<u64> {
    let layers = subject.layers().unwrap_or(0);
    let max = |key| subject.per_layer(key, layers)?.into_iter().max();
    let heads = max("attention.head_count").unwrap_or(1);
    let kv_heads = max("attention.head_count_kv").unwrap_or(heads).max(1);
    let facts = mix::Facts {
        layers: u32::try_from(layers).ok()?,
        heads_per_kv_head: u32::try_from(heads / kv_heads).ok()?,
        is_large: arch::is_large(subject.architecture(), layers, heads, kv_heads),
        experts: u32::try_from(subject.number("expert_count").unwrap_or(0)).ok()?,
        imatrix: false,
    };
    let mut tensors: Vec<(&str, &[u64])> = subject
        .tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()))
        .collect();
    // Recipes count the layers in order.
    tensors.sort_by_key(|(name, _)| (names::layer(name).map(|(layer, _)| layer), *name));
    let decisions = mix::decide(recipe, &Overrides::default(), &facts, &tensors).ok()?;
    let header = subject.size_bytes.saturating_sub(subject.tensor_bytes());
    let mut bytes = header;
    for ((_, shape), decision) in tensors.iter().zip(decisions) {
        let columns = shape.first().copied().unwrap_or(1);
        let rows: u64 = shape.iter().skip(1).product();
        bytes = bytes.checked_add(decision.ty.row_bytes(columns)?.checked_mul(rows)?)?;
    }
    Some(bytes)
}

impl Header for Subject<'_> {
    fn architecture(&self) -> &str {
        Subject::architecture(self)
    }

    fn number(&self, key: &str) -> Option<u64> {
        match key {
            // Also known from the names of tensors.
            "block_count" => self.layers(),
            _ => Subject::number(self, key),
        }
    }

    fn per_layer(&self, key: &str, layers: u64) -> Option<Vec<u64>> {
        Subject::per_layer(self, key, layers)
    }

    fn entries(&self, key: &str) -> Option<u64> {
        self.len(key).or_else(|| {
            let embedding = self.tensors.iter().find(|t| t.name == "token_embd.weight");
            let rows = embedding.and_then(|tensor| tensor.shape.get(1).copied());
            // The tokenizer of a checkpoint is not read; most have one merge for each token.
            rows.filter(|_| !self.has_vocabulary() && key.starts_with("tokenizer.ggml."))
        })
    }

    fn flags(&self, key: &str, layers: u64) -> Option<Vec<bool>> {
        Subject::flags(self, key, layers)
    }

    fn is_recurrent(&self) -> bool {
        let of_state = ["ssm.state_size", "wkv.head_size"];
        (of_state.iter()).any(|key| Subject::number(self, key).is_some())
    }
}

/// Returns the size of the keys and values of one token in all layers.
fn kv_cache(subject: &Subject<'_>) -> Option<KvCache> {
    let shape = KvShape::of(subject)?;
    let per_token = KvBytes {
        f16: shape.token_bytes(GgmlType::F16),
        q8_0: shape.token_bytes(GgmlType::Q8_0),
    };
    let full = subject.number("context_length");
    let mut tokens: Vec<u64> = CONTEXTS.iter().copied().chain(full).collect();
    // A context beyond the model's own is useless.
    tokens.retain(|&n| n <= full.unwrap_or(u64::MAX));
    tokens.sort_unstable();
    tokens.dedup();
    let contexts = tokens.into_iter().map(|tokens| Context {
        tokens,
        bytes: KvBytes {
            f16: per_token.f16.and_then(|n| n.checked_mul(tokens)),
            q8_0: per_token.q8_0.and_then(|n| n.checked_mul(tokens)),
        },
    });
    Some(KvCache {
        per_token,
        upper_bound: !shape.exact,
        contexts: contexts.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::subject::{Fact, Facts, Tensor};
    use super::*;

    /// The metadata of Phi-3-mini-128k.
    struct Phi3;

    impl Facts for Phi3 {
        fn fact(&self, key: &str) -> Option<Fact> {
            Some(match key.strip_prefix("phi3.").unwrap_or(key) {
                "general.architecture" => Fact::Text("phi3".to_owned()),
                "block_count" | "attention.head_count" | "attention.head_count_kv" => {
                    Fact::Integer(32)
                }
                "embedding_length" => Fact::Integer(3072),
                "context_length" => Fact::Integer(131_072),
                _ => return None,
            })
        }
    }

    /// The tensors of Phi-3-mini-128k.
    fn phi3() -> Vec<Tensor> {
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: &[u64]| {
            let shape = shape.to_vec();
            let bytes = Some(shape.iter().product::<u64>() * 2);
            let form = "F16".to_owned();
            tensors.push(Tensor {
                name,
                shape,
                form,
                bytes,
            });
        };
        for name in ["token_embd.weight", "output.weight"] {
            add(name.to_owned(), &[3072, 32_064]);
        }
        for layer in 0..32 {
            let mut part = |name: &str, shape| add(format!("blk.{layer}.{name}.weight"), shape);
            part("attn_norm", &[3072]);
            part("attn_qkv", &[3072, 9216]);
            part("attn_output", &[3072, 3072]);
            part("ffn_norm", &[3072]);
            part("ffn_up", &[3072, 16_384]);
            part("ffn_down", &[8192, 3072]);
        }
        add("output_norm.weight".to_owned(), &[3072]);
        tensors
    }

    #[test]
    fn phi3s_cache_is_what_llama_cpp_allocates() {
        let subject = Subject::new(phi3(), 0, &Phi3);
        let cache = kv_cache(&subject).unwrap();
        assert_eq!(cache.per_token.f16, Some(384 << 10));
        assert_eq!(cache.per_token.q8_0, Some(204 << 10));
        assert!(!cache.upper_bound);
        let last = cache.contexts.last().unwrap();
        assert_eq!(last.tokens, 131_072);
        assert_eq!(last.bytes.f16, Some(48 << 30));
    }

    #[test]
    fn the_largest_context_fits_and_the_next_does_not() {
        let subject = Subject::new(phi3(), 0, &Phi3);
        let weights = subject.tensor_bytes();
        let working = Working::of(&subject).fixed;
        let free = 1000 * (387 << 10);
        let memory = Memory::of_size(weights + working + free);
        let largest = Sizing::of(&subject, Some(memory)).largest_context.unwrap();
        assert_eq!(largest.f16, Some(768));
        assert_eq!(largest.q8_0, Some(1792));
        let none = Sizing::of(&subject, Some(Memory::of_size(weights)));
        assert_eq!(none.largest_context.unwrap().f16, Some(0));
        let all = Sizing::of(&subject, Some(Memory::of_size(1 << 50)));
        assert_eq!(all.largest_context.unwrap().f16, Some(131_072));
    }

    #[test]
    fn quantizations_follow_the_recipes() {
        let subject = Subject::new(phi3(), 0, &Phi3);
        let sizing = Sizing::of(&subject, None);
        let bytes = |name: &str| {
            let all = sizing.quantizations.iter();
            all.filter(|q| q.name == name)
                .find_map(|q| q.bytes)
                .unwrap()
        };
        let params = subject.n_params();
        assert_eq!(bytes("F32"), params * 4);
        let norms = 65 * 3072;
        assert_eq!(bytes("Q8_0"), (params - norms) / 32 * 34 + norms * 4);
        assert!(bytes("Q4_0") < bytes("Q4_K_M") && bytes("Q4_K_M") < bytes("Q8_0"));
        // 97 matrices Q4_K, 33 Q6_K: the size of the published file minus its metadata.
        let gib = bytes("Q4_K_M") as f64 / f64::from(1 << 30);
        assert!((2.2..2.25).contains(&gib), "{gib}");
    }
}
