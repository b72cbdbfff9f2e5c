//! Rotary positions: the base of the frequencies and their scaling.

use serde_json::Value as Json;

use super::{Constant, Error, optional, wrong};
use modelve_gguf::Value;

/// The rotary position embedding.
pub(super) struct Rope {
    pub(super) theta: f64,
    /// Metadata of the scaling, without the prefix of the architecture.
    pub(super) keys: Vec<(&'static str, Value)>,
    /// What llama.cpp computes otherwise.
    pub(super) note: Option<String>,
    llama3: Option<Llama3>,
}

/// The scaling of Llama 3.1: low frequencies are divided by a factor, high frequencies stay, and
/// those between are interpolated.
struct Llama3 {
    factor: f32,
    low: f32,
    high: f32,
    original: f32,
}

impl Rope {
    /// Reads `rope_parameters`, or `rope_scaling` and `rope_theta` as older configurations have them.
    pub(super) fn read(config: &Json, default_theta: f64, context: u64) -> Result<Self, Error> {
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
            note: None,
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
                if scaling["truncate"] == false {
                    rope.note = Some(
                        "llama.cpp rounds the ends of YaRN's ramp to whole numbers, though \
                         `truncate` of rope_parameters is false: it turns some components of \
                         queries and keys by slightly other angles"
                            .to_owned(),
                    );
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

    /// Returns the factors of the frequencies, one for each pair of components of a head. They are
    /// computed in 32 bits, as by the converter.
    pub(super) fn constant(&self, head: u64) -> Option<Constant> {
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
