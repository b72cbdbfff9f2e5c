//! `adapter_config.json` of PEFT: what is read from it, and what is refused.

use regex::Regex;
use serde_json::{Map, Value};

/// The configuration of a LoRA.
pub(super) struct Config {
    rank: u64,
    alpha: f64,
    /// Whether the scale is alpha over the root of the rank (rsLoRA) instead of alpha over the
    /// rank.
    rank_stabilized: bool,
    ranks: Vec<(Regex, f64)>,
    alphas: Vec<(Regex, f64)>,
}

/// Options that change the mathematics and are not supported. Each must be absent, false or empty.
const REFUSED: &[(&str, &str)] = &[
    ("use_dora", "DoRA"),
    ("use_qalora", "QA-LoRA"),
    ("use_bdlora", "BD-LoRA"),
    ("alora_invocation_tokens", "activated LoRA"),
    ("arrow_config", "Arrow"),
    ("kasa_config", "KaSA"),
    ("monteclora_config", "MonteCLoRA"),
    ("velora_config", "VeLoRA"),
    ("layer_replication", "replicated layers"),
    ("lora_bias", "LoRA with biases"),
    ("target_parameters", "LoRA of single parameters"),
    ("trainable_token_indices", "trained tokens"),
];

/// Initializations that leave the base unchanged. Others, such as PiSSA, change the base, so the
/// adapter is not a difference to the original.
const STARTS: &[&str] = &["gaussian", "eva", "orthogonal"];

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// Names the option that is not supported.
    pub(super) fn read(adapter: &Map<String, Value>) -> Result<Self, String> {
        let value = |key: &str| adapter.get(key).unwrap_or(&Value::Null);
        let kind = value("peft_type").as_str().unwrap_or("unknown");
        if kind != "LORA" {
            return Err(format!(
                "the adapter is of the kind {kind}; LORA can be merged"
            ));
        }
        for (key, what) in REFUSED {
            let is_empty = match value(key) {
                Value::Null | Value::Bool(false) => true,
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            if !is_empty {
                return Err(format!(
                    "the adapter is {what} (`{key}`), which cannot be merged here; \
                     `merge_and_unload` of PEFT can, and what it saves can be converted"
                ));
            }
        }
        match value("init_lora_weights") {
            Value::Null | Value::Bool(_) => {}
            Value::String(start) if STARTS.contains(&start.as_str()) => {}
            other => {
                return Err(format!(
                    "the adapter was started by {other} (`init_lora_weights`), which changes its \
                     base; save it with PEFT's `path_initial_model_for_weight_conversion`"
                ));
            }
        }
        Ok(Self {
            rank: match value("r") {
                Value::Null => 8,
                rank => rank
                    .as_u64()
                    .ok_or_else(|| format!("`r` is {rank}; a number is needed"))?,
            },
            alpha: match value("lora_alpha") {
                Value::Null => 8.0,
                alpha => alpha
                    .as_f64()
                    .ok_or_else(|| format!("`lora_alpha` is {alpha}; a number is needed"))?,
            },
            rank_stabilized: value("use_rslora") == true,
            ranks: patterns("rank_pattern", value("rank_pattern"))?,
            alphas: patterns("alpha_pattern", value("alpha_pattern"))?,
        })
    }

    /// Returns the rank of a module's matrices.
    pub(super) fn rank(&self, module: &str) -> u64 {
        first(&self.ranks, module).map_or(self.rank, |rank| rank as u64)
    }

    /// Returns the factor of the product of the two matrices.
    pub(super) fn scale(&self, module: &str) -> f32 {
        let alpha = first(&self.alphas, module).unwrap_or(self.alpha);
        let rank = self.rank(module) as f64;
        let scale = match self.rank_stabilized {
            true => alpha / rank.sqrt(),
            false => alpha / rank,
        };
        scale as f32
    }
}

fn first(patterns: &[(Regex, f64)], module: &str) -> Option<f64> {
    let mut patterns = patterns.iter();
    let found = patterns.find(|(pattern, _)| pattern.is_match(module));
    found.map(|(_, value)| *value)
}

/// Reads numbers by regular expression, each of which matches the end of a module's name after a
/// dot (`get_pattern_key` of PEFT).
fn patterns(key: &str, stated: &Value) -> Result<Vec<(Regex, f64)>, String> {
    let Value::Object(map) = stated else {
        return match stated {
            Value::Null => Ok(Vec::new()),
            _ => Err(format!("`{key}` is not an object")),
        };
    };
    let mut patterns = Vec::new();
    for (pattern, value) in map {
        let number = value.as_f64().filter(|number| *number >= 0.0);
        let number = number
            .ok_or_else(|| format!("`{key}` gives {value} for `{pattern}`; a number is needed"))?;
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
            .map_err(|error| format!("`{key}`: {error}"))?;
        patterns.push((regex, number));
    }
    Ok(patterns)
}
