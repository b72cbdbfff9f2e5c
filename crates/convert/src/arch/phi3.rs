//! Phi-3, Phi-3.5, Phi-4 and related models: `Phi3ForCausalLM`.
//!
//! Keys, values and tensors are those of `Phi3MiniModel` in llama.cpp's converter
//! (conversion/phi.py). Query, key and value matrices are one tensor, as are the gate and up
//! matrices; llama.cpp uses both unchanged.

use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::names::{Module, Name, name};
use super::{Architecture, Constant, Description, Error, MOST_LAYERS, MOST_ROWS, Weight};
use super::{optional, required, wrong};
use modelve_gguf::Value;

/// `Phi3ForCausalLM`.
pub(super) struct Phi3;

/// GGUF's name for it.
const ARCHITECTURE: &str = "phi3";

/// Names that are missing from the common tables.
static NAMES: &[Name] = &[name(
    "ffn_up",
    "mlp.gate_up_proj",
    Module::Linear,
    "gate and up in one matrix: widens the vector into features, and says which are let through",
)];

/// The relevant keys of `config.json`, with transformers' defaults.
struct Config {
    hidden_size: u64,
    intermediate_size: u64,
    num_hidden_layers: u32,
    num_attention_heads: u64,
    num_key_value_heads: u64,
    vocab_size: u64,
    max_position_embeddings: u64,
    rms_norm_eps: f64,
    rope_theta: f64,
    partial_rotary_factor: f64,
    original_max_position_embeddings: u64,
    rope: Rope,
    sliding_window: u64,
    tie_word_embeddings: bool,
    note: Option<String>,
}

/// The scaling of rotary positions beyond the original context.
struct Rope {
    kind: Option<String>,
    long_factor: Option<Vec<f32>>,
    short_factor: Option<Vec<f32>>,
}

/// Context size of a model whose configuration has none.
const DEFAULT_CONTEXT: u64 = 4096;

impl Architecture for Phi3 {
    fn hub_names(&self) -> &'static [&'static str] {
        &["Phi3ForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        "phi3"
    }

    fn names(&self) -> &'static [Name] {
        NAMES
    }

    fn describe(&self, config: &Json) -> Result<Description, Error> {
        Config::read(config)?.describe()
    }
}

/// Reads a value from the first object that has it.
fn first_of<T: DeserializeOwned>(
    objects: [&Json; 3],
    key: &'static str,
) -> Result<Option<T>, Error> {
    for object in objects {
        if let Some(value) = optional(object, key)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Returns the object with the scaling of positions, and a note on the choice if there is one.
///
/// Newer versions of transformers keep everything on RoPE in `rope_parameters`. Where that is
/// `default` beside an older `rope_scaling` with factors, the factors are used, because the model
/// was trained with them.
fn scaling(config: &Json) -> (&Json, Option<String>) {
    let (new, old) = (&config["rope_parameters"], &config["rope_scaling"]);
    let kind = new["rope_type"].as_str().or(new["type"].as_str());
    let scales = kind.is_some_and(|kind| kind != "default") || !new["long_factor"].is_null();
    match (new.is_null(), old.is_null()) {
        (true, _) => (old, None),
        (false, false) if !scales && !old["long_factor"].is_null() => {
            let note = "rope_parameters of config.json does not scale positions, but rope_scaling \
                        does: its factors are used";
            (old, Some(note.to_owned()))
        }
        (false, _) => (new, None),
    }
}

impl Config {
    fn read(config: &Json) -> Result<Self, Error> {
        let (rope, note) = scaling(config);
        let objects = [&config["rope_parameters"], rope, config];
        let heads = required(config, "num_attention_heads")?;
        Ok(Self {
            hidden_size: required(config, "hidden_size")?,
            intermediate_size: required(config, "intermediate_size")?,
            num_hidden_layers: required(config, "num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: optional(config, "num_key_value_heads")?.unwrap_or(heads),
            vocab_size: required(config, "vocab_size")?,
            max_position_embeddings: optional(config, "max_position_embeddings")?
                .unwrap_or(DEFAULT_CONTEXT),
            rms_norm_eps: optional(config, "rms_norm_eps")?.unwrap_or(1e-5),
            rope_theta: first_of(objects, "rope_theta")?.unwrap_or(10_000.0),
            partial_rotary_factor: first_of(objects, "partial_rotary_factor")?.unwrap_or(1.0),
            original_max_position_embeddings: first_of(
                objects,
                "original_max_position_embeddings",
            )?
            .unwrap_or(DEFAULT_CONTEXT),
            rope: Rope {
                kind: optional(rope, "rope_type")?.or(optional(rope, "type")?),
                long_factor: optional(rope, "long_factor")?,
                short_factor: optional(rope, "short_factor")?,
            },
            sliding_window: optional(config, "sliding_window")?.unwrap_or(0),
            tie_word_embeddings: optional(config, "tie_word_embeddings")?.unwrap_or(false),
            note,
        })
    }

    fn describe(&self) -> Result<Description, Error> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        for (key, value) in [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", heads),
            ("num_key_value_heads", kv_heads),
            ("vocab_size", self.vocab_size),
        ] {
            if value == 0 || value > MOST_ROWS {
                return Err(wrong(key, value, format!("1 to {MOST_ROWS} are possible")));
            }
        }
        let context = self.max_position_embeddings;
        if context == 0 || context > u64::from(u32::MAX) {
            let expected = "a 32-bit number of positions is needed";
            return Err(wrong("max_position_embeddings", context, expected));
        }
        if self.num_hidden_layers == 0 || self.num_hidden_layers > MOST_LAYERS {
            let expected = format!("1 to {MOST_LAYERS} are possible");
            return Err(wrong("num_hidden_layers", self.num_hidden_layers, expected));
        }
        if !self.hidden_size.is_multiple_of(heads) {
            let expected = format!("it must divide hidden_size {}", self.hidden_size);
            return Err(wrong("num_attention_heads", heads, expected));
        }
        if !heads.is_multiple_of(kv_heads) {
            let expected = format!("it must divide num_attention_heads {heads}");
            return Err(wrong("num_key_value_heads", kv_heads, expected));
        }

        let share = self.partial_rotary_factor;
        if !(share > 0.0 && share <= 1.0) {
            return Err(wrong("partial_rotary_factor", share, "0 to 1 are possible"));
        }
        let rope_dims = (share * self.hidden_size as f64) as u64 / heads;
        let original = self.original_max_position_embeddings;
        if original < 2 || original > u64::from(u32::MAX) {
            let expected = "a context of 2 or more is needed";
            return Err(wrong(
                "original_max_position_embeddings",
                original,
                expected,
            ));
        }
        let long = self.long_rope(rope_dims, original)?;

        let u32_of = |value: u64| Value::U32(value as u32);
        let mut metadata: Vec<(&str, Value)> = Vec::new();
        if let Some((factor, _)) = &long {
            metadata.push(("rope.scaling.attn_factor", Value::F32(*factor)));
        }
        metadata.extend([
            ("context_length", u32_of(self.max_position_embeddings)),
            ("rope.scaling.original_context_length", u32_of(original)),
            ("embedding_length", u32_of(self.hidden_size)),
            ("feed_forward_length", u32_of(self.intermediate_size)),
            ("block_count", Value::U32(self.num_hidden_layers)),
            ("attention.head_count", u32_of(heads)),
            ("attention.head_count_kv", u32_of(kv_heads)),
            (
                "attention.layer_norm_rms_epsilon",
                Value::F32(self.rms_norm_eps as f32),
            ),
            ("rope.dimension_count", u32_of(rope_dims)),
            ("rope.freq_base", Value::F32(self.rope_theta as f32)),
            // Zero tells llama.cpp that there is no window, as in Phi-4.
            (
                "attention.sliding_window",
                u32_of(self.sliding_window.min(u32::MAX.into())),
            ),
        ]);
        Ok(Description {
            architecture: ARCHITECTURE,
            metadata: metadata
                .into_iter()
                .map(|(key, value)| (format!("{ARCHITECTURE}.{key}"), value))
                .collect(),
            weights: self.weights(kv_heads),
            constants: long.map(|(_, tables)| tables.into()).unwrap_or_default(),
            ignored: &[".rotary_emb.inv_freq"],
            layers: self.num_hidden_layers,
            heads_per_kv_head: (heads / kv_heads) as u32,
            is_large: false,
            states_space_prefix: false,
            vocab_size: self.vocab_size,
            notes: self.note.iter().cloned().collect(),
            ..Description::default()
        })
    }

    /// Returns the attention factor of LongRoPE (Ding et al. 2024, equation in section 3.4 as
    /// implemented in the reference code) and the two tables of factors; `None` when positions are
    /// not scaled.
    fn long_rope(
        &self,
        rope_dims: u64,
        original: u64,
    ) -> Result<Option<(f32, [Constant; 2])>, Error> {
        const KEY: &str = "rope_scaling.type";
        let kind = self.rope.kind.as_ref().map(|kind| kind.to_lowercase());
        let (long, short) = match (kind, &self.rope) {
            (Some(kind), rope) if kind == "su" || kind == "longrope" => {
                match (&rope.long_factor, &rope.short_factor) {
                    (Some(long), Some(short)) => (long, short),
                    _ => return Err(wrong(KEY, kind, "long_factor and short_factor are missing")),
                }
            }
            (Some(kind), _) if kind != "default" => {
                return Err(wrong(
                    KEY,
                    kind,
                    "supported: longrope (once named su), or none",
                ));
            }
            (None, rope) if rope.long_factor.is_some() => {
                return Err(wrong(KEY, "missing", "factors without a type mean nothing"));
            }
            _ => return Ok(None),
        };
        for (key, list) in [
            ("rope_scaling.long_factor", long),
            ("rope_scaling.short_factor", short),
        ] {
            let wanted = rope_dims / 2;
            if list.len() as u64 != wanted {
                let found = format!("a list of {}", list.len());
                let expected =
                    format!("half the {rope_dims} rotary dimensions, {wanted}, are needed");
                return Err(wrong(key, found, expected));
            }
            if let Some(bad) = list.iter().find(|x| !x.is_finite() || **x <= 0.0) {
                return Err(wrong(
                    key,
                    format!("a list with {bad}"),
                    "factors are positive",
                ));
            }
        }
        let scale = self.max_position_embeddings as f64 / original as f64;
        let factor = match scale > 1.0 {
            true => (1.0 + scale.ln() / (original as f64).ln()).sqrt(),
            false => 1.0,
        };
        let table = |name, values: &[f32]| Constant {
            name,
            values: values.to_vec(),
        };
        let tables = [
            table("rope_factors_long.weight", long),
            table("rope_factors_short.weight", short),
        ];
        Ok(Some((factor as f32, tables)))
    }

    fn weights(&self, kv_heads: u64) -> Vec<Weight> {
        let (hidden, vocab) = (self.hidden_size, self.vocab_size);
        let head = hidden / self.num_attention_heads;
        let weight = |name: String, shape: &[u64]| Weight::new(ARCHITECTURE, name, shape);
        let mut weights = vec![
            weight("token_embd.weight".into(), &[vocab, hidden]),
            weight("output_norm.weight".into(), &[hidden]),
            Weight {
                optional: self.tie_word_embeddings,
                ..weight("output.weight".into(), &[vocab, hidden])
            },
        ];
        let qkv = hidden + 2 * kv_heads * head;
        let per_layer: [(&str, &[u64]); 6] = [
            ("attn_norm", &[hidden]),
            ("attn_qkv", &[qkv, hidden]),
            ("attn_output", &[hidden, hidden]),
            ("ffn_norm", &[hidden]),
            ("ffn_up", &[2 * self.intermediate_size, hidden]),
            ("ffn_down", &[hidden, self.intermediate_size]),
        ];
        for layer in 0..self.num_hidden_layers {
            let names = per_layer
                .iter()
                .map(|(name, shape)| weight(format!("blk.{layer}.{name}.weight"), shape));
            weights.extend(names);
        }
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::describe;
    use serde_json::json;

    fn phi4_mini() -> Json {
        json!({"architectures": ["Phi3ForCausalLM"], "hidden_size": 3072,
            "intermediate_size": 8192, "num_hidden_layers": 2, "num_attention_heads": 24,
            "num_key_value_heads": 8, "vocab_size": 200064, "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 262144,
            "tie_word_embeddings": true,
            "rope_scaling": {"type": "longrope", "long_factor": vec![1.5; 48], "short_factor": vec![1.0; 48]}})
    }

    fn value(description: &Description, key: &str) -> Option<Value> {
        let mut entries = description.metadata.iter();
        let entry = entries.find(|(k, _)| k.strip_prefix("phi3.") == Some(key));
        entry.map(|(_, value)| value.clone())
    }

    #[test]
    fn phi4_mini_has_grouped_heads_partial_rotation_and_one_embedding() {
        let description = describe(&phi4_mini()).unwrap();
        assert_eq!(
            value(&description, "rope.dimension_count"),
            Some(Value::U32(96))
        );
        assert_eq!(description.heads_per_kv_head, 3);
        let of = |name: &str| {
            let mut weights = description.weights.iter();
            weights.find(|weight| weight.name == name).unwrap()
        };
        assert_eq!(of("blk.1.attn_qkv.weight").shape, [5120, 3072]);
        assert!(of("output.weight").optional);
        let Some(Value::F32(factor)) = value(&description, "rope.scaling.attn_factor") else {
            panic!("no attention factor");
        };
        assert!((factor - 1.190_238).abs() < 1e-6, "{factor}");
        assert_eq!(description.constants[0].values, [1.5; 48]);
    }

    #[test]
    fn models_of_4k_have_no_tables_and_older_ones_say_su() {
        let mut config = phi4_mini();
        config["rope_scaling"]["type"] = json!("su");
        assert_eq!(describe(&config).unwrap().constants.len(), 2);
        config["rope_scaling"] = json!(null);
        let description = describe(&config).unwrap();
        assert!(description.constants.is_empty());
        assert_eq!(value(&description, "rope.scaling.attn_factor"), None);
    }

    #[test]
    fn newer_configurations_keep_rope_in_one_object() {
        let mut config = phi4_mini();
        let mut rope = config["rope_scaling"].take();
        rope["rope_type"] = json!("longrope");
        rope["partial_rotary_factor"] = json!(0.75);
        rope["rope_theta"] = json!(5e5);
        config["rope_parameters"] = rope;
        let description = describe(&config).unwrap();
        assert_eq!(value(&description, "rope.freq_base"), Some(Value::F32(5e5)));
        assert_eq!(description.constants.len(), 2);
    }

    #[test]
    fn factors_are_not_lost_to_parameters_that_say_default() {
        let mut config = phi4_mini();
        config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 5e5});
        let description = describe(&config).unwrap();
        assert_eq!(description.constants.len(), 2);
        assert_eq!(value(&description, "rope.freq_base"), Some(Value::F32(5e5)));
        assert!(
            description.notes[0].contains("rope_scaling"),
            "{:?}",
            description.notes
        );
        // Without factors nothing is lost, so there is no note.
        config["rope_scaling"] = json!(null);
        let description = describe(&config).unwrap();
        assert!(description.constants.is_empty() && description.notes.is_empty());
    }

    #[test]
    fn rejects_what_cannot_be_converted_by_name() {
        let rejected = |key: &str, value: Json, said: &str| {
            let mut config = phi4_mini();
            match key.split_once('.') {
                Some((outer, inner)) => config[outer][inner] = value,
                None => config[key] = value,
            }
            let error = describe(&config).unwrap_err().to_string();
            assert!(error.contains(said), "{key}: {error}");
        };
        rejected(
            "architectures",
            json!(["BloomForCausalLM"]),
            "Phi3ForCausalLM, Qwen2ForCausalLM",
        );
        rejected("architectures", json!(null), "none is named");
        rejected(
            "rope_scaling.type",
            json!("yarn"),
            "is yarn; supported: longrope",
        );
        rejected("rope_scaling.type", json!(null), "missing");
        rejected("rope_scaling.long_factor", json!([1.0]), "48");
        rejected("rope_scaling.short_factor", json!(null), "missing");
        rejected("num_key_value_heads", json!(7), "num_attention_heads 24");
        rejected("num_attention_heads", json!(0), "1 to");
        rejected("num_hidden_layers", json!(4_000_000), "512");
        rejected("hidden_size", json!("many"), "hidden_size");
        rejected("partial_rotary_factor", json!(-1), "0 to 1");
    }
}
