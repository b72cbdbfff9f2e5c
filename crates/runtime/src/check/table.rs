//! Checks a file against the table of llama.cpp's assumptions about its architecture.

use super::super::error::Result;
use super::super::families::{Need, family};
use super::File;

/// Checks llama.cpp's assumptions about the file's architecture. Returns whether the table covers
/// everything that must be checked.
pub(super) fn check(file: &File<'_>, n_layer: u64, n_embd: u64) -> Result<bool> {
    let arch = file.arch.as_str();
    let Some(family) = family(arch) else {
        return Ok(false);
    };
    for &(key, need) in family.keys {
        check_key(file, key, need, n_layer, n_embd)?;
    }
    for layer in 0..n_layer {
        check_tensors(file, layer, family.tensors)?;
    }
    Ok(family.covered)
}

fn check_tensors(file: &File<'_>, layer: u64, alternatives: &[&[&'static str]]) -> Result<()> {
    let name = |part: &str| format!("blk.{layer}.{part}.weight");
    let missing = |parts: &[&'static str]| -> Vec<&'static str> {
        let absent = |part: &&&str| file.gguf.tensor(&name(part)).is_none();
        parts.iter().filter(absent).copied().collect()
    };
    // Report the first missing tensor of the alternative that is most nearly complete.
    let nearest = alternatives
        .iter()
        .map(|parts| (missing(parts), parts.len()))
        .min_by_key(|(missing, all)| (missing.len() == *all, missing.len()))
        .map(|(missing, _)| missing);
    match nearest.as_deref() {
        Some([part, ..]) => file.fault(format!("tensor {} is missing", name(part))),
        _ => Ok(()),
    }
}

fn check_key(file: &File<'_>, key: &str, need: Need, n_layer: u64, n_embd: u64) -> Result<()> {
    let arch = &file.arch;
    let values = file.per_layer(key, n_layer)?;
    match (need, values) {
        (Need::PositiveIfAny, None) => Ok(()),
        (Need::Positive | Need::DividesWidth { .. }, None) => {
            file.fault(format!("{arch}.{key} is missing"))
        }
        (_, Some(values)) => {
            for value in values {
                if value == 0 {
                    return file.fault(format!("{arch}.{key} is 0"));
                }
                if let Need::DividesWidth { multiple } = need
                    && !(n_embd.is_multiple_of(value) && value.is_multiple_of(multiple))
                {
                    let also = match multiple {
                        1 => String::new(),
                        n => format!(" and be a multiple of {n}"),
                    };
                    return file.fault(format!(
                        "{arch}.{key} is {value}, which must divide the width of {n_embd}{also}"
                    ));
                }
            }
            Ok(())
        }
    }
}
