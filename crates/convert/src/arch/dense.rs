//! What dense decoders have in common: a stack of layers of attention and a gated feed-forward
//! network, with rotary positions and RMS norms.
//!
//! Each architecture has a file that says what sets it apart, as a [`Dense`]. This one reads the
//! configuration, refuses what llama.cpp cannot compute, and writes metadata in the order of
//! `TextModel` in llama.cpp's converter (conversion/base.py).

use serde_json::Value as Json;

use super::names::Name;
use super::rope::Rope;
use super::{Architecture, Arrangement, Description, Error, MOST_ROWS, Weight};
use super::{optional, required, within, wrong};
use modelve_gguf::Value;

/// Maximum number of experts of all layers, for the same reason as [`super::MOST_LAYERS`].
const MOST_EXPERTS: u64 = 1 << 16;

/// Where the norms of a layer are applied, which decides the names of their tensors.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Norms {
    /// To the input of attention and to the input of the feed-forward network.
    Before,
    /// To the output of both, as in OLMo 2.
    After,
    /// To the input and to the output of both, as in Gemma 2.
    Around,
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

/// Experts in place of one feed-forward network; each token goes through a few of them.
#[derive(Clone, Copy)]
pub(super) struct Experts {
    /// The key of the configuration that has the rows of an expert's matrices.
    pub(super) width_key: &'static str,
    /// Whether that number has a key of its own, in addition to `feed_forward_length`.
    pub(super) writes_width: bool,
    /// The key that says whether the weights of the chosen experts are normalized to sum to one, as
    /// llama.cpp does; `None` where they always are.
    pub(super) share_key: Option<&'static str>,
}

/// What sets one architecture of decoders apart.
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
    /// What transformers adds to the weights of norms before it multiplies by them. llama.cpp adds
    /// nothing, so the GGUF holds the sums.
    pub(super) norm_offset: f32,
    /// The key of the configuration that names the activation of the feed-forward network.
    pub(super) activation_key: &'static str,
    /// Names of the activation that llama.cpp computes, the most common first.
    pub(super) activations: &'static [&'static str],
    /// Whether llama.cpp attends to a window where the configuration has one.
    pub(super) has_window: bool,
    /// See [`Architecture::names`].
    pub(super) names: &'static [Name],
    /// Whether there are experts.
    pub(super) experts: Option<Experts>,
    pub(super) query_key_norm: QueryKeyNorm,
    /// The size of a head where the configuration has no `head_dim`. `None` means the hidden size
    /// divided by the number of heads.
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
pub(super) struct Sizes {
    pub(super) hidden: u64,
    pub(super) ffn: u64,
    pub(super) layers: u32,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) head: u64,
    pub(super) vocab: u64,
    /// Number of experts in a layer, and the rows of their matrices.
    pub(super) experts: Option<(u64, u64)>,
}

impl Architecture for Dense {
    fn hub_names(&self) -> &'static [&'static str] {
        self.hub_names
    }

    fn gguf_name(&self) -> &'static str {
        self.architecture
    }

    fn names(&self) -> &'static [Name] {
        self.names
    }

    fn is_large(&self, layers: u64, heads: u64, kv_heads: u64) -> bool {
        (self.is_large)(layers, heads, kv_heads)
    }

    fn describe(&self, config: &Json) -> Result<Description, Error> {
        self.check_activation(config)?;
        let sizes = self.sizes(config)?;
        let context = super::context(config, 2048)?;
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
        if let (Some(experts), Some((count, width))) = (&self.experts, sizes.experts) {
            let used: u64 = required(config, "num_experts_per_tok")?;
            let used = within("num_experts_per_tok", used, count)?;
            keys.push(("expert_count", number(count)));
            keys.push(("expert_used_count", number(used)));
            if experts.writes_width {
                keys.push(("expert_feed_forward_length", number(width)));
            }
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
            experts: sizes.experts.map_or(0, |(count, _)| count as u32),
            notes: match self.has_window {
                true => rope.note.into_iter().collect(),
                false => unused_window(config, context)?
                    .into_iter()
                    .chain(rope.note)
                    .collect(),
            },
            ..Description::default()
        })
    }
}

impl Experts {
    /// The number of experts in a layer, and the rows of their matrices.
    fn sizes(&self, config: &Json, layers: u32) -> Result<(u64, u64), Error> {
        const COUNT: &str = "num_local_experts";
        if let Some(key) = self.share_key
            && !optional(config, key)?.unwrap_or(false)
        {
            let expected = "llama.cpp scales the shares of the chosen experts to make one";
            return Err(wrong(key, false, expected));
        }
        let count: Option<u64> = optional(config, COUNT)?;
        let count = match count.or(optional(config, "num_experts")?) {
            Some(count) => within(COUNT, count, MOST_EXPERTS / u64::from(layers))?,
            None => return Err(Error::Missing { key: COUNT }),
        };
        let width = required(config, self.width_key)?;
        Ok((count, within(self.width_key, width, MOST_ROWS)?))
    }
}

impl Dense {
    /// Refuses other activations, for which llama.cpp would silently compute wrong results.
    fn check_activation(&self, config: &Json) -> Result<(), Error> {
        let activation: Option<String> = optional(config, self.activation_key)?;
        match activation {
            Some(other) if !self.activations.contains(&other.as_str()) => {
                let known = self.activations[0];
                let expected = format!("llama.cpp computes {known} for this architecture");
                Err(wrong(self.activation_key, other, expected))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn sizes(&self, config: &Json) -> Result<Sizes, Error> {
        let size = |key| super::size(config, key);
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
        let layers = super::layers(config, "num_hidden_layers")?;
        Ok(Sizes {
            hidden,
            ffn: size("intermediate_size")?,
            layers,
            heads,
            kv_heads,
            head,
            vocab: size("vocab_size")?,
            experts: match &self.experts {
                Some(experts) => Some(experts.sizes(config, layers)?),
                None => None,
            },
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

        let weight = |name: String, shape: &[u64]| Weight::new(self.architecture, name, shape);
        let hidden = sizes.hidden;
        let (query, key) = (sizes.heads * sizes.head, sizes.kv_heads * sizes.head);
        let norm = match self.norm_offset {
            0.0 => Arrangement::AsIs,
            offset => Arrangement::Add(offset),
        };
        let mut weights = vec![
            weight("token_embd.weight".into(), &[sizes.vocab, hidden]),
            Weight {
                arrangement: norm,
                ..weight("output_norm.weight".into(), &[hidden])
            },
            Weight {
                optional: tied,
                ..weight("output.weight".into(), &[sizes.vocab, hidden])
            },
        ];
        let ffn: &[_] = match sizes.experts {
            Some(_) => &[],
            None => &[
                ("ffn_gate", sizes.ffn, hidden, mlp_bias, Arrangement::AsIs),
                ("ffn_up", sizes.ffn, hidden, mlp_bias, Arrangement::AsIs),
                ("ffn_down", hidden, sizes.ffn, mlp_bias, Arrangement::AsIs),
            ],
        };
        let reordered = |heads| match self.interleaved_rope {
            true => Arrangement::InterleaveHalves { heads },
            false => Arrangement::AsIs,
        };
        for layer in 0..sizes.layers {
            if let Some((count, width)) = sizes.experts {
                let name = |name: &str| format!("blk.{layer}.{name}.weight");
                weights.push(weight(name("ffn_gate_inp"), &[count, hidden]));
                for (part, shape) in [
                    ("ffn_gate_exps", [width, hidden]),
                    ("ffn_up_exps", [width, hidden]),
                    ("ffn_down_exps", [hidden, width]),
                ] {
                    let joined = Weight::of_experts(self.architecture, name(part), count, &shape);
                    weights.push(joined);
                }
            }
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
            ]
            .into_iter()
            .chain(ffn.iter().copied())
            {
                add(&format!("{name}.weight"), &[rows, columns], arrangement);
                if bias {
                    add(&format!("{name}.bias"), &[rows], arrangement);
                }
            }
            let (before, after) = (
                ["attn_norm", "ffn_norm"].as_slice(),
                ["post_attention_norm", "post_ffw_norm"].as_slice(),
            );
            let norms = match self.norms {
                Norms::Before => [before, &[]],
                Norms::After => [&[], after],
                Norms::Around => [before, after],
            };
            for name in norms.concat() {
                add(&format!("{name}.weight"), &[hidden], norm);
            }
            let normed = match self.query_key_norm {
                QueryKeyNorm::None => None,
                QueryKeyNorm::PerHead => Some((sizes.head, sizes.head)),
                QueryKeyNorm::Whole => Some((query, key)),
            };
            if let Some((query, key)) = normed {
                add("attn_q_norm.weight", &[query], norm);
                add("attn_k_norm.weight", &[key], norm);
            }
        }
        Ok(weights)
    }
}

/// Returns a note if the configuration has a sliding window: llama.cpp attends to the whole text
/// with these architectures.
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
    fn what_is_missing_of_an_architecture_is_said_where_it_is_known() {
        for (class, said) in [
            (
                "Gemma4ForConditionalGeneration",
                "each has an embedding of its own; supported:",
            ),
            ("Qwen3_5MoeForCausalLM", "linear attention"),
            ("BertModel", "BertModel is not supported; supported:"),
        ] {
            let error = describe(&config(class, |_| {})).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
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
