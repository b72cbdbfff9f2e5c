//! Gemma 3: `Gemma3ForCausalLM`, and the text part of `Gemma3ForConditionalGeneration`.
//!
//! `Gemma3Model` of llama.cpp's converter (conversion/gemma.py).

use serde_json::{Value as Json, json};

use super::dense::{Dense, QueryKeyNorm};
use super::names::Name;
use super::{Architecture, Description, Error, gemma2, optional, window, wrong};
use modelve_gguf::Value;

/// `Gemma3ForCausalLM` and `Gemma3ForConditionalGeneration`.
pub(super) struct Gemma3;

/// What differs from Gemma 2.
const DENSE: Dense = Dense {
    architecture: "gemma3",
    hub_names: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    query_key_norm: QueryKeyNorm::PerHead,
    ..gemma2::DENSE
};

/// The number of layers by which llama.cpp recognizes the model of 27 billion weights.
const LAYERS_OF_27B: u32 = 62;
/// Every sixth layer attends to the whole text.
const EVERY: u32 = 6;

impl Architecture for Gemma3 {
    fn hub_names(&self) -> &'static [&'static str] {
        DENSE.hub_names()
    }

    fn gguf_name(&self) -> &'static str {
        DENSE.gguf_name()
    }

    fn names(&self) -> &'static [Name] {
        DENSE.names()
    }

    fn describe(&self, config: &Json) -> Result<Description, Error> {
        let (config, local_theta) = complete(config)?;
        let mut description = DENSE.describe(&config)?;
        let sizes = DENSE.sizes(&config)?;
        gemma2::check_scale(&config, &sizes, LAYERS_OF_27B)?;
        for (key, expected) in [
            ("attn_logit_softcapping", "llama.cpp bounds no scores here"),
            ("use_bidirectional_attention", "llama.cpp looks back only"),
        ] {
            if !matches!(config[key], Json::Null | Json::Bool(false)) {
                return Err(wrong(key, &config[key], expected));
            }
        }
        let mut keys = vec![("rope.freq_base_swa", Value::F32(local_theta as f32))];
        let cap: Option<f64> = optional(&config, "final_logit_softcapping")?;
        keys.extend(cap.map(|cap| ("final_logit_softcapping", Value::F32(cap as f32))));
        keys.extend(window::keys(&config, sizes.layers, EVERY)?);
        gemma2::add(&mut description, keys);

        description.prefixes = &[
            ("model.language_model.", "model."),
            ("language_model.model.", "model."),
            ("language_model.lm_head.", "lm_head."),
        ];
        description.left_out = &[
            "model.vision_tower.",
            "vision_tower.",
            "model.multi_modal_projector.",
            "multi_modal_projector.",
        ];
        Ok(description)
    }
}

/// Returns the configuration of the text model, completed with transformers' defaults, and the RoPE
/// base of layers with a window.
fn complete(config: &Json) -> Result<(Json, f64), Error> {
    let mut complete = json!({
        "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216,
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 256, "max_position_embeddings": 131_072, "sliding_window": 4096,
    });
    let text = &config["text_config"];
    for (key, value) in [config, text]
        .into_iter()
        .filter_map(Json::as_object)
        .flatten()
    {
        complete[key] = value.clone();
    }

    let stated = match &complete["rope_parameters"] {
        Json::Null => &complete["rope_scaling"],
        stated => stated,
    };
    let mut full = stated.get("full_attention").unwrap_or(stated).clone();
    let local = &stated["sliding_attention"];
    let kind: Option<String> = optional(local, "rope_type")?;
    if let Some(kind) = kind.filter(|kind| kind != "default") {
        let expected = "llama.cpp scales positions in layers without a window only";
        return Err(wrong(
            "rope_parameters.sliding_attention.rope_type",
            kind,
            expected,
        ));
    }
    let local: Option<f64> = optional(local, "rope_theta")?;
    let local = local
        .or(optional(&complete, "rope_local_base_freq")?)
        .unwrap_or(10_000.0);
    if !full.is_object() {
        full = json!({});
    }
    if full["rope_theta"].is_null() {
        let theta: Option<f64> = optional(&complete, "rope_theta")?;
        full["rope_theta"] = json!(theta.unwrap_or(1_000_000.0));
    }
    complete["rope_parameters"] = full;
    Ok((complete, local))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{Arrangement, describe};
    use modelve_gguf::Array;

    /// The configuration of the model with 4 billion weights, which relies on most of transformers'
    /// defaults.
    fn with_pictures() -> Json {
        json!({"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {"hidden_size": 1152},
            "text_config": {"hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}})
    }

    fn key(description: &Description, name: &str) -> Option<Value> {
        let mut keys = description.metadata.iter();
        let entry = keys.find(|(key, _)| key.strip_prefix("gemma3.") == Some(name));
        entry.map(|(_, value)| value.clone())
    }

    #[test]
    fn the_text_part_is_described_and_pictures_are_left_out() {
        let description = describe(&with_pictures()).unwrap();
        assert_eq!(description.layers, 34);
        assert_eq!(
            key(&description, "attention.key_length"),
            Some(Value::U32(256))
        );
        assert_eq!(key(&description, "rope.freq_base"), Some(Value::F32(1e6)));
        assert_eq!(
            key(&description, "rope.freq_base_swa"),
            Some(Value::F32(1e4))
        );
        assert_eq!(
            key(&description, "rope.scaling.factor"),
            Some(Value::F32(8.0))
        );
        assert_eq!(
            key(&description, "attention.sliding_window"),
            Some(Value::U32(1024))
        );
        assert_eq!(key(&description, "attention.sliding_window_pattern"), None);
        let tensor = "language_model.model.layers.0.mlp.up_proj.weight";
        let mut meant = description.meant(tensor);
        assert!(meant.any(|name| name == "model.layers.0.mlp.up_proj.weight"));
        let norms = description.weights.iter();
        let norms = norms.filter(|weight| weight.arrangement == Arrangement::Add(1.0));
        assert_eq!(norms.count(), 6 * 34 + 1);
    }

    #[test]
    fn what_a_gguf_cannot_say_is_refused_and_other_windows_are_listed() {
        let with = |key: &str, value: Json| {
            let mut config = with_pictures();
            config["text_config"][key] = value;
            describe(&config)
        };
        let error = with("query_pre_attn_scalar", json!(168))
            .unwrap_err()
            .to_string();
        assert!(error.contains("computes with 256"), "{error}");
        let error = with("use_bidirectional_attention", json!(true))
            .unwrap_err()
            .to_string();
        assert!(error.contains("looks back"), "{error}");
        let every_other: Vec<&str> = ["full_attention", "sliding_attention"].repeat(17);
        let listed = key(
            &with("layer_types", json!(every_other)).unwrap(),
            "attention.sliding_window_pattern",
        );
        assert_eq!(
            listed,
            Some(Value::Array(Array::Bool([false, true].repeat(17))))
        );
    }
}
