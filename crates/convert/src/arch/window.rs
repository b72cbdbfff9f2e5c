//! Sliding windows: which layers attend to a window of the text and which to all of it.

use serde_json::Value as Json;

use super::{Error, optional, wrong};
use modelve_gguf::{Array, Value};

/// The name of a layer with a window in `layer_types`.
const SLIDING: &str = "sliding_attention";
/// The name of a layer without a window.
const FULL: &str = "full_attention";

/// Returns the metadata of the window, without the prefix of the architecture: its size and, unless
/// it is llama.cpp's default, the layers that have it.
///
/// `every` describes the default of both llama.cpp and transformers: every `every`th layer has no
/// window, all others have one.
pub(super) fn keys(
    config: &Json,
    layers: u32,
    every: u32,
) -> Result<Vec<(&'static str, Value)>, Error> {
    let window: Option<u32> = optional(config, "sliding_window")?;
    let stated: Option<Vec<String>> = optional(config, "layer_types")?;
    let pattern: Option<u32> = optional(config, "sliding_window_pattern")?;
    let pattern = pattern.or(optional(config, "_sliding_window_pattern")?);
    let by_pattern = |every: u32| -> Vec<bool> {
        let layers = 1..=layers;
        layers
            .map(|layer| every == 0 || layer % every != 0)
            .collect()
    };
    let sliding = match stated {
        Some(types) => {
            if types.len() != layers as usize {
                let found = format!("a list of {}", types.len());
                let expected = format!("one for each of the {layers} layers is needed");
                return Err(wrong("layer_types", found, expected));
            }
            if let Some(other) = types.iter().find(|ty| *ty != SLIDING && *ty != FULL) {
                let expected = format!("{SLIDING} and {FULL} are known");
                return Err(wrong("layer_types", other, expected));
            }
            types.iter().map(|ty| ty == SLIDING).collect()
        }
        None => by_pattern(pattern.unwrap_or(every)),
    };
    if !sliding.contains(&true) {
        return Ok(Vec::new());
    }
    let window = match window {
        Some(window) if window > 0 => window,
        _ => {
            return Err(wrong(
                "sliding_window",
                "missing",
                "some layers have a window",
            ));
        }
    };
    let mut keys = vec![("attention.sliding_window", Value::U32(window))];
    if sliding != by_pattern(every) {
        let layers = Value::Array(Array::Bool(sliding));
        keys.push(("attention.sliding_window_pattern", layers));
    }
    Ok(keys)
}
