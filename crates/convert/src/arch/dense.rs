//! What dense decoders have in common: a stack of layers of attention and a gated feed-forward
//! network, with rotary positions and RMS norms.
//!
//! Each architecture has a file that says what sets it apart, as a [`Dense`]. This one reads the
//! configuration, refuses what llama.cpp cannot compute, and writes metadata in the order of
//! `TextModel` in llama.cpp's converter (conversion/base.py).

use serde_json::Value as Json;

use super::{
    Architecture, Arrangement, Constant, Description, Error, Weight, names, optional, required,
};
use modelve_gguf::Value;

/// Maximum number of layers. Bounds the list of tensors that a damaged configuration asks for.
const MOST_LAYERS: u32 = 512;
/// Maximum number of rows or columns of a matrix, so that no size overflows 64 bits.
const MOST_ROWS: u64 = 1 << 24;

/// Where the norms of a layer are applied, which decides the names of their tensors.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Norms {
    /// To the input of attention and to the input of the feed-forward network.
    Before,
    /// To the output of both, as in OLMo 2.
    After,
}

/// How queries and keys are normed before attention.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum QueryKeyNorm {
    /// Not at all.
    None,
    /// Each head for itself; the weights have the size of a head and are shared by all heads.
    PerHead,
    /// All heads of a token as one vector.
    Whole,
}

/// What sets one architecture of dense decoders apart.
pub(super) struct Dense {
    /// `general.architecture`.
    pub(super) architecture: &'static str,
    /// The class names in `architectures` of `config.json`.
    pub(super) hub_names: &'static [&'static str],
    /// Whether llama.cpp's rotary embedding rotates components `2i` and `2i + 1` of a head, where
    /// transformers rotates `i` and `i + head size / 2`. The rows of the query and key matrices are
    /// then reordered.
    pub(super) interleaved_rope: bool,
    /// Whether query, key and value always have a bias. No key of the configuration says so.
    pub(super) has_qkv_bias: bool,
    /// Whether `attention_bias` and `mlp_bias` of the configuration are supported.
    pub(super) allows_bias: bool,
    pub(super) norms: Norms,
    pub(super) query_key_norm: QueryKeyNorm,
    /// The size of a head where the configuration has no `head_dim`. `None`: the hidden size divided
    /// by the number of heads.
    pub(super) head_size: Option<u64>,
    /// Whether the size of a head is written even where the configuration has no `head_dim`.
    pub(super) always_writes_head_size: bool,
    /// Whether the keys that only `LlamaModel` of the converter writes are written: `vocab_size`,
    /// `rope.dimension_count` and `tokenizer.ggml.add_space_prefix`.
    pub(super) writes_llama_keys: bool,
    /// The RoPE base that transformers uses where the configuration has none.
    pub(super) rope_theta: f64,
    /// The epsilon of norms that transformers uses where the configuration has none.
    pub(super) norm_epsilon: f64,
    /// Whether transformers ties embeddings and output where the configuration does not say.
    pub(super) ties_embeddings: bool,
    /// See [`Architecture::is_large`].
    pub(super) is_large: fn(layers: u64, heads: u64, kv_heads: u64) -> bool,
}

/// The sizes that everything else follows from.
struct Sizes {
    hidden: u64,
    ffn: u64,
    layers: u32,
    heads: u64,
    kv_heads: u64,
    head: u64,
    vocab: u64,
}

fn wrong(key: &'static str, value: impl ToString, expected: impl Into<String>) -> Error {
    Error::Value {
        key,
        value: value.to_string(),
        expected: expected.into(),
    }
}

fn within(key: &'static str, value: u64, most: u64) -> Result<u64, Error> {
    match value {
        1.. if value <= most => Ok(value),
        _ => Err(wrong(key, value, format!("1 to {most} are possible"))),
    }
}

impl Architecture for Dense {
    fn hub_names(&self) -> &'static [&'static str] {
        self.hub_names
    }

    fn gguf_name(&self) -> &'static str {
        self.architecture
    }

    fn is_large(&self, layers: u64, heads: u64, kv_heads: u64) -> bool {
        (self.is_large)(layers, heads, kv_heads)
    }

    fn describe(&self, config: &Json) -> Result<Description, Error> {
        check_activation(config)?;
        let sizes = self.sizes(config)?;
        let context: u64 = optional(config, "max_position_embeddings")?.unwrap_or(2048);
        let context = within("max_position_embeddings", context, u64::from(u32::MAX))?;
        let epsilon: f64 = optional(config, "rms_norm_eps")?.unwrap_or(self.norm_epsilon);

        let number = |value: u64| Value::U32(value as u32);
        let float = |value: f64| Value::F32(value as f32);
        let mut keys: Vec<(&str, Value)> = vec![
            ("block_count", Value::U32(sizes.layers)),
            ("context_length", number(context)),
            ("embedding_length", number(sizes.hidden)),
            ("feed_forward_length", number(sizes.ffn)),
            ("attention.head_count", number(sizes.heads)),
            ("attention.head_count_kv", number(sizes.kv_heads)),
        ];
        let rope = Rope::read(config, self.rope_theta, context)?;
        keys.extend(rope.keys.iter().cloned());
        keys.push(("rope.freq_base", float(rope.theta)));
        keys.push(("attention.layer_norm_rms_epsilon", float(epsilon)));
        let stated: Option<u64> = optional(config, "head_dim")?;
        if stated.is_some() || self.always_writes_head_size {
            keys.push(("attention.key_length", number(sizes.head)));
            keys.push(("attention.value_length", number(sizes.head)));
        }
        if self.writes_llama_keys {
            keys.push(("vocab_size", number(sizes.vocab)));
            keys.push(("rope.dimension_count", number(sizes.head)));
        }
        Ok(Description {
            architecture: self.architecture,
            metadata: keys
                .into_iter()
                .map(|(key, value)| (format!("{}.{key}", self.architecture), value))
                .collect(),
            weights: self.weights(config, &sizes)?,
            constants: rope.constant(sizes.head).into_iter().collect(),
            ignored: &[".rotary_emb.inv_freq"],
            layers: sizes.layers,
            heads_per_kv_head: (sizes.heads / sizes.kv_heads) as u32,
            is_large: self.is_large(sizes.layers.into(), sizes.heads, sizes.kv_heads),
            states_space_prefix: self.writes_llama_keys,
            vocab_size: sizes.vocab,
            notes: unused_window(config, context)?.into_iter().collect(),
        })
    }
}

impl Dense {
    fn sizes(&self, config: &Json) -> Result<Sizes, Error> {
        let size = |key| within(key, required(config, key)?, MOST_ROWS);
        let (hidden, heads) = (size("hidden_size")?, size("num_attention_heads")?);
        let kv_heads: u64 = optional(config, "num_key_value_heads")?.unwrap_or(heads);
        let kv_heads = within("num_key_value_heads", kv_heads, MOST_ROWS)?;
        if !heads.is_multiple_of(kv_heads) {
            let expected = format!("it must divide num_attention_heads {heads}");
            return Err(wrong("num_key_value_heads", kv_heads, expected));
        }
        let stated: Option<u64> = optional(config, "head_dim")?;
        let head = match stated.or(self.head_size) {
            Some(head) => within("head_dim", head, 1 << 16)?,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let expected = format!("it must divide hidden_size {hidden}");
                return Err(wrong("num_attention_heads", heads, expected));
            }
        };
        if !head.is_multiple_of(2) || head * heads > MOST_ROWS {
            let expected = "an even size is needed, and all heads below 2^24 rows together";
            return Err(wrong("head_dim", head, expected));
        }
        let layers: u32 = required(config, "num_hidden_layers")?;
        within("num_hidden_layers", layers.into(), MOST_LAYERS.into())?;
        Ok(Sizes {
            hidden,
            ffn: size("intermediate_size")?,
            layers,
            heads,
            kv_heads,
            head,
            vocab: size("vocab_size")?,
        })
    }

    fn weights(&self, config: &Json, sizes: &Sizes) -> Result<Vec<Weight>, Error> {
        let biased = |key| Ok::<bool, Error>(optional(config, key)?.unwrap_or(false));
        let (attention_bias, mlp_bias) = (biased("attention_bias")?, biased("mlp_bias")?);
        if attention_bias && !self.allows_bias {
            return Err(wrong(
                "attention_bias",
                true,
                "llama.cpp has no place for it",
            ));
        }
        if mlp_bias && !self.allows_bias {
            return Err(wrong("mlp_bias", true, "llama.cpp has no place for it"));
        }
        let qkv_bias = self.has_qkv_bias || attention_bias;
        let tied = optional(config, "tie_word_embeddings")?.unwrap_or(self.ties_embeddings);

        let weight = |name: String, shape: &[u64]| Weight {
            source: names::in_checkpoint(self.architecture, &name),
            name,
            shape: shape.to_vec(),
            optional: false,
            arrangement: Arrangement::AsIs,
        };
        let (hidden, ffn) = (sizes.hidden, sizes.ffn);
        let (query, key) = (sizes.heads * sizes.head, sizes.kv_heads * sizes.head);
        let mut weights = vec![
            weight("token_embd.weight".into(), &[sizes.vocab, hidden]),
            weight("output_norm.weight".into(), &[hidden]),
            Weight {
                optional: tied,
                ..weight("output.weight".into(), &[sizes.vocab, hidden])
            },
        ];
        let reordered = |heads| match self.interleaved_rope {
            true => Arrangement::InterleaveHalves { heads },
            false => Arrangement::AsIs,
        };
        for layer in 0..sizes.layers {
            let mut add = |name: &str, shape: &[u64], arrangement| {
                let name = format!("blk.{layer}.{name}");
                weights.push(Weight {
                    arrangement,
                    ..weight(name, shape)
                });
            };
            for (name, rows, columns, bias, arrangement) in [
                ("attn_q", query, hidden, qkv_bias, reordered(sizes.heads)),
                ("attn_k", key, hidden, qkv_bias, reordered(sizes.kv_heads)),
                ("attn_v", key, hidden, qkv_bias, Arrangement::AsIs),
                (
                    "attn_output",
                    hidden,
                    query,
                    attention_bias,
                    Arrangement::AsIs,
                ),
                ("ffn_gate", ffn, hidden, mlp_bias, Arrangement::AsIs),
                ("ffn_up", ffn, hidden, mlp_bias, Arrangement::AsIs),
                ("ffn_down", hidden, ffn, mlp_bias, Arrangement::AsIs),
            ] {
                add(&format!("{name}.weight"), &[rows, columns], arrangement);
                if bias {
                    add(&format!("{name}.bias"), &[rows], arrangement);
                }
            }
            let norms = match self.norms {
                Norms::Before => ["attn_norm", "ffn_norm"],
                Norms::After => ["post_attention_norm", "post_ffw_norm"],
            };
            for name in norms {
                add(&format!("{name}.weight"), &[hidden], Arrangement::AsIs);
            }
            let normed = match self.query_key_norm {
                QueryKeyNorm::None => None,
                QueryKeyNorm::PerHead => Some((sizes.head, sizes.head)),
                QueryKeyNorm::Whole => Some((query, key)),
            };
            if let Some((query, key)) = normed {
                add("attn_q_norm.weight", &[query], Arrangement::AsIs);
                add("attn_k_norm.weight", &[key], Arrangement::AsIs);
            }
        }
        Ok(weights)
    }
}

/// The gated feed-forward network of these graphs uses SiLU; llama.cpp would compute any other
/// activation wrongly without a word.
fn check_activation(config: &Json) -> Result<(), Error> {
    let activation: Option<String> = optional(config, "hidden_act")?;
    match activation.as_deref() {
        None | Some("silu" | "swish") => Ok(()),
        Some(other) => Err(wrong(
            "hidden_act",
            other,
            "llama.cpp computes silu for this architecture",
        )),
    }
}

/// A note on a sliding window: llama.cpp attends to the whole text with these architectures.
fn unused_window(config: &Json, context: u64) -> Result<Option<String>, Error> {
    let window: Option<u64> = optional(config, "sliding_window")?;
    let used: bool = optional(config, "use_sliding_window")?.unwrap_or(true);
    Ok(window.filter(|&window| used && window < context).map(|window| {
        format!(
            "llama.cpp has no sliding window for this architecture: texts of more than {window} \
             tokens are attended to as a whole"
        )
    }))
}

/// The rotary position embedding.
struct Rope {
    theta: f64,
    /// Metadata of the scaling, without the prefix of the architecture.
    keys: Vec<(&'static str, Value)>,
    llama3: Option<Llama3>,
}

/// The scaling of Llama 3.1: long wavelengths are multiplied by a factor, short ones stay, and
/// those between are interpolated.
struct Llama3 {
    factor: f32,
    low: f32,
    high: f32,
    original: f32,
}

impl Rope {
    fn read(config: &Json, default_theta: f64, context: u64) -> Result<Self, Error> {
        const KIND: &str = "rope_scaling.rope_type";
        let new = &config["rope_parameters"];
        let scaling = match new.is_null() {
            true => &config["rope_scaling"],
            false => new,
        };
        let theta: Option<f64> = optional(scaling, "rope_theta")?;
        let theta = match theta {
            Some(theta) => theta,
            None => optional(config, "rope_theta")?.unwrap_or(default_theta),
        };
        if !(theta.is_finite() && theta > 0.0) {
            return Err(wrong("rope_theta", theta, "a positive number is needed"));
        }
        let mut rope = Self {
            theta,
            keys: Vec::new(),
            llama3: None,
        };
        let kind: Option<String> = optional(scaling, "rope_type")?.or(optional(scaling, "type")?);
        let number = |key| -> Result<Option<f64>, Error> {
            match optional::<f64>(scaling, key)? {
                Some(value) if !(value.is_finite() && value > 0.0) => {
                    Err(wrong(key, value, "a positive number is needed"))
                }
                value => Ok(value),
            }
        };
        let factor = number("factor")?;
        let needed = || factor.ok_or(wrong(KIND, "without a factor", "`factor` is needed"));
        let original = number("original_max_position_embeddings")?;
        let mut add = |key, value| rope.keys.push((key, value));
        let float = |value: f64| Value::F32(value as f32);
        match kind.as_deref().unwrap_or("default") {
            "default" => {}
            "linear" => {
                add("rope.scaling.type", Value::String("linear".into()));
                add("rope.scaling.factor", float(needed()?));
            }
            "yarn" => {
                add("rope.scaling.type", Value::String("yarn".into()));
                add("rope.scaling.factor", float(needed()?));
                let original = original.unwrap_or(context as f64) as u32;
                add("rope.scaling.original_context_length", Value::U32(original));
                for (source, key) in [
                    ("extrapolation_factor", "rope.scaling.yarn_ext_factor"),
                    ("attention_factor", "rope.scaling.yarn_attn_factor"),
                    ("beta_fast", "rope.scaling.yarn_beta_fast"),
                    ("beta_slow", "rope.scaling.yarn_beta_slow"),
                ] {
                    if let Some(value) = number(source)? {
                        add(key, float(value));
                    }
                }
            }
            "llama3" => {
                let value = |key, default| Ok::<f32, Error>(number(key)?.unwrap_or(default) as f32);
                let scaling = Llama3 {
                    factor: factor.unwrap_or(8.0) as f32,
                    low: value("low_freq_factor", 1.0)?,
                    high: value("high_freq_factor", 4.0)?,
                    original: original.unwrap_or(8192.0) as f32,
                };
                if scaling.high <= scaling.low {
                    let expected = "it must be larger than low_freq_factor";
                    return Err(wrong("high_freq_factor", scaling.high, expected));
                }
                rope.llama3 = Some(scaling);
            }
            other => {
                let expected = "supported: default, linear, yarn, llama3";
                return Err(wrong(KIND, other, expected));
            }
        }
        Ok(rope)
    }

    /// The factors on the frequencies, one for each pair of components of a head. Computed in 32
    /// bits, as the converter does.
    fn constant(&self, head: u64) -> Option<Constant> {
        let scaling = self.llama3.as_ref()?;
        let factor_of = |pair: u64| {
            let power = (2 * pair) as f32 / head as f32;
            let frequency = 1.0 / (self.theta as f32).powf(power);
            let wavelength = std::f32::consts::TAU / frequency;
            if wavelength < scaling.original / scaling.high {
                1.0
            } else if wavelength > scaling.original / scaling.low {
                scaling.factor
            } else {
                let smooth =
                    (scaling.original / wavelength - scaling.low) / (scaling.high - scaling.low);
                1.0 / ((1.0 - smooth) / scaling.factor + smooth)
            }
        };
        Some(Constant {
            name: "rope_freqs.weight",
            values: (0..head / 2).map(factor_of).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::arch::{Arrangement, Description, describe};
    use modelve_gguf::Value;
    use serde_json::{Value as Json, json};

    fn config(class: &str, change: impl FnOnce(&mut Json)) -> Json {
        let mut config = json!({"architectures": [class], "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 512});
        change(&mut config);
        config
    }

    fn key<'a>(description: &'a Description, name: &str) -> Option<&'a Value> {
        let mut keys = description.metadata.iter();
        let entry = keys.find(|(key, _)| key.split_once('.').is_some_and(|(_, k)| k == name));
        entry.map(|(_, value)| value)
    }

    fn has(description: &Description, name: &str) -> bool {
        description.weights.iter().any(|weight| weight.name == name)
    }

    /// `reshape(heads, 2, rows / heads / 2).swapaxes(1, 2)` of two heads of six rows.
    #[test]
    fn the_halves_of_a_head_are_interleaved() {
        let pairs = Arrangement::InterleaveHalves { heads: 2 };
        let mut rows: Vec<u8> = (0..12).collect();
        assert_eq!(pairs.group(12), 6);
        pairs.apply(&mut rows, 6, 1, &mut Vec::new());
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }

    #[test]
    fn only_llama_rearranges_and_only_query_and_key() {
        for (class, turned) in [
            ("LlamaForCausalLM", 4),
            ("MistralForCausalLM", 4),
            ("Qwen2ForCausalLM", 0),
            ("Qwen3ForCausalLM", 0),
            ("Olmo2ForCausalLM", 0),
        ] {
            let description = describe(&config(class, |_| {})).unwrap();
            let moved = description.weights.iter();
            let moved = moved.filter(|weight| weight.arrangement != Arrangement::AsIs);
            assert_eq!(moved.count(), turned, "{class}");
        }
    }

    #[test]
    fn each_has_the_tensors_of_its_kind() {
        let of = |class: &str| describe(&config(class, |_| {})).unwrap();
        assert!(has(&of("Qwen2ForCausalLM"), "blk.1.attn_k.bias"));
        assert!(!has(&of("LlamaForCausalLM"), "blk.1.attn_k.bias"));
        assert!(has(&of("Qwen3ForCausalLM"), "blk.0.attn_q_norm.weight"));
        assert_eq!(
            key(&of("Qwen3ForCausalLM"), "attention.key_length"),
            Some(&Value::U32(128))
        );
        assert!(has(&of("Olmo2ForCausalLM"), "blk.0.post_ffw_norm.weight"));
        assert!(!has(&of("Olmo2ForCausalLM"), "blk.0.ffn_norm.weight"));
    }

    #[test]
    fn scaled_positions_are_kept_or_refused() {
        let scaled = |scaling: Json| {
            describe(&config("LlamaForCausalLM", |c| {
                c["hidden_size"] = json!(512);
                c["rope_theta"] = json!(500_000.0);
                c["rope_scaling"] = scaling;
            }))
        };
        let llama3 = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
        let factors = &scaled(llama3).unwrap().constants[0].values;
        assert_eq!((factors.len(), factors[0], factors[63]), (64, 1.0, 32.0));
        assert!(factors.windows(2).all(|pair| pair[0] <= pair[1]));
        let linear = scaled(json!({"type": "linear", "factor": 2.0})).unwrap();
        assert_eq!(key(&linear, "rope.scaling.factor"), Some(&Value::F32(2.0)));
        let refused = |scaling| scaled(scaling).unwrap_err().to_string();
        assert!(refused(json!({"type": "dynamic", "factor": 2.0})).contains("supported: default"));
        assert!(refused(json!({"type": "yarn"})).contains("factor"));
    }
}
