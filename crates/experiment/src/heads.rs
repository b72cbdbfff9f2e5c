//! The number of heads of a layer.

use modelve_runtime::Model;

use super::error::{Error, Result};
use super::part::Part;

/// Number of attention heads in a layer; 0 where it has none.
pub fn n_head(model: &Model, layer: usize) -> usize {
    let value = model.gguf().arch("attention.head_count");
    let listed = value.and_then(|value| match value.as_array() {
        Some(array) => array.get(layer)?.as_u64(),
        None => value.as_u64(),
    });
    let n = listed.unwrap_or_else(|| u64::from(model.facts().n_head));
    usize::try_from(n).unwrap_or(0)
}

/// Checks that the model has a part.
///
/// # Errors
/// [`Error::NoPart`].
pub fn check(model: &Model, part: Part) -> Result<()> {
    let n_layer = model.facts().n_layer as usize;
    let missing = |why: String| {
        Err(Error::NoPart {
            part: part.to_string(),
            why,
        })
    };
    if part.layer().is_some_and(|layer| layer >= n_layer) {
        let last = n_layer.saturating_sub(1);
        return missing(format!("the model has {n_layer} layers, 0 to {last}"));
    }
    if let Part::Head { layer, head } = part {
        let n = n_head(model, layer);
        if head >= n {
            return missing(match n {
                0 => format!("layer {layer} has no heads"),
                n => format!("layer {layer} has {n} heads, 0 to {}", n - 1),
            });
        }
    }
    Ok(())
}
