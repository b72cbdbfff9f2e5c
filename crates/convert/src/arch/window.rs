//! Layers that attend to a window of the text, and layers that attend to all of it.

use serde_json::Value as Json;

use super::{Error, optional, wrong};
use modelve_gguf::{Array, Value};

/// What a layer with a window is called in `layer_types`.
const SLIDING: &str = "sliding_attention";
/// What a layer without one is called.
const FULL: &str = "full_attention";

/// Metadata of the window, without the prefix of the architecture: its size and, unless it is what
/// llama.cpp takes by itself, the layers that have it.
///
/// `every` is llama.cpp's own pattern and transformers': each so many layers one without a window,
/// the others with it.
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
