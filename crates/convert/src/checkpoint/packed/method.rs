//! Parses `quantization_config`, which says how weights are packed.

use std::path::Path;

use serde_json::{Value, json};

use super::{columns, rows};
use crate::checkpoint::{Error, read_optional};

/// How the weights of a checkpoint are packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// 8-bit numbers and scales: fp8, and the unpacked formats of compressed-tensors.
    Scaled {
        /// Rows and columns of the blocks that share a scale, where there are blocks.
        block: Option<[u64; 2]>,
    },
    /// GPTQ and AWQ.
    Columns(columns::Layout),
    /// The packed format of compressed-tensors.
    Rows(rows::Layout),
}

/// A way of packing that is not supported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the checkpoint is quantized already ({method}, says quantization_config), in a form that is not supported: {}",
    advice(method)
)]
pub struct Refused {
    /// Its name, and the variant where that matters.
    pub method: String,
}

/// Advice on what to do instead.
fn advice(method: &str) -> &'static str {
    match method.split(',').next().unwrap_or_default() {
        "bitsandbytes" => {
            "convert the checkpoint that it was made of, or what `model.dequantize()` and \
             `save_pretrained` of transformers make of this one"
        }
        "mxfp4" => {
            "load it with transformers' `Mxfp4Config(dequantize=True)`, and convert what \
             `save_pretrained` makes of it"
        }
        _ => "convert the checkpoint that it was made of, in BF16, F16 or F32",
    }
}

/// Returns the object in `config.json` that says how a checkpoint was quantized; null if there is
/// none.
pub(in crate::checkpoint) fn stated(config: &Value) -> &Value {
    let places = [
        &config["quantization_config"],
        &config["text_config"]["quantization_config"],
        &config["compression_config"],
    ];
    let mut stated = places.into_iter().filter(|place| place.is_object());
    stated.next().unwrap_or(&Value::Null)
}

/// Reads what older exporters write to a separate file: AutoGPTQ `quantize_config.json`, AutoAWQ
/// `quant_config.json`; null if there is neither.
pub(in crate::checkpoint) fn apart(folder: &Path) -> Result<Value, Error> {
    if let Some(mut gptq) = read_optional(&folder.join("quantize_config.json"))? {
        gptq.entry("quant_method").or_insert(json!("gptq"));
        return Ok(Value::Object(gptq));
    }
    Ok(match read_optional(&folder.join("quant_config.json"))? {
        Some(awq) => json!({
            "quant_method": "awq", "bits": awq.get("w_bit"),
            "group_size": awq.get("q_group_size"), "version": awq.get("version"),
        }),
        None => Value::Null,
    })
}

impl Method {
    /// Parses the method, then its options; `None` if the weights are not quantized.
    ///
    /// # Errors
    /// The method or a variant of it is not supported.
    pub fn of(quantization: &Value) -> Result<Option<Self>, Refused> {
        if quantization.is_null() {
            return Ok(None);
        }
        let name = quantization["quant_method"].as_str().unwrap_or("unknown");
        let name = name.to_ascii_lowercase();
        let refused = |what: &str| Refused {
            method: format!("{name}{what}"),
        };
        match name.as_str() {
            "fp8" => Ok(Some(Self::Scaled {
                block: block(&quantization["weight_block_size"]),
            })),
            "modelopt" if quantization["quant_algo"] == "FP8" => {
                Ok(Some(Self::Scaled { block: None }))
            }
            "gptq" => gptq(quantization).map(Some).map_err(|what| refused(&what)),
            "awq" => awq(quantization).map(Some).map_err(|what| refused(&what)),
            "compressed-tensors" => compressed(quantization)
                .map(Some)
                .map_err(|what| refused(&what)),
            _ => {
                let named = ["load_in_4bit", "load_in_8bit"].into_iter().zip([4, 8]);
                let mut named = named.filter(|(key, _)| quantization[*key] == true);
                let bits = named.next().map(|(_, bits)| bits);
                let bits = bits.or(quantization["bits"].as_u64());
                let algorithm = quantization["quant_algo"].as_str();
                Err(match (bits, algorithm) {
                    (Some(bits), _) => refused(&format!(", {bits} bits")),
                    (None, Some(algorithm)) => refused(&format!(", {algorithm}")),
                    (None, None) => refused(""),
                })
            }
        }
    }
}

/// Parses `[128, 128]` or `"128x128"`.
fn block(stated: &Value) -> Option<[u64; 2]> {
    let sizes: Vec<u64> = match stated {
        Value::Array(sizes) => sizes.iter().filter_map(Value::as_u64).collect(),
        Value::String(sizes) => sizes.split('x').filter_map(|n| n.parse().ok()).collect(),
        _ => return None,
    };
    <[u64; 2]>::try_from(sizes).ok()
}

/// Parses the size of a group; -1 and null mean a whole row.
fn group_size(stated: &Value) -> Result<Option<u64>, String> {
    match (stated.as_u64(), stated.as_i64()) {
        (Some(size @ 1..), _) => Ok(Some(size)),
        (_, Some(-1)) => Ok(None),
        _ if stated.is_null() => Ok(None),
        _ => Err(format!(", in groups of {stated}")),
    }
}

fn bits(stated: &Value, known: &[u32]) -> Result<u32, String> {
    let bits = stated.as_u64().and_then(|bits| u32::try_from(bits).ok());
    bits.filter(|bits| known.contains(bits))
        .ok_or_else(|| match stated.is_null() {
            true => ", without a number of bits".to_owned(),
            false => format!(", {stated} bits"),
        })
}

fn gptq(stated: &Value) -> Result<Method, String> {
    let format = stated["checkpoint_format"].as_str().unwrap_or("gptq");
    let zero_offset = match format {
        "gptq" => 1,
        "gptq_v2" => 0,
        other => return Err(format!(", in the format {other}")),
    };
    Ok(Method::Columns(columns::Layout {
        bits: bits(&stated["bits"], &[2, 4, 8])?,
        group_size: group_size(&stated["group_size"])?,
        zero_offset,
        is_awq: false,
    }))
}

fn awq(stated: &Value) -> Result<Method, String> {
    let version = stated["version"].as_str().unwrap_or("gemm");
    if !version.eq_ignore_ascii_case("gemm") {
        return Err(format!(", in the layout {version}"));
    }
    Ok(Method::Columns(columns::Layout {
        bits: bits(&stated["bits"], &[4])?,
        group_size: group_size(&stated["group_size"])?,
        zero_offset: 0,
        is_awq: true,
    }))
}

fn compressed(stated: &Value) -> Result<Method, String> {
    let groups: Vec<&Value> = match &stated["config_groups"] {
        Value::Object(groups) => groups.values().map(|group| &group["weights"]).collect(),
        _ => Vec::new(),
    };
    let [weights, others @ ..] = groups.as_slice() else {
        return Err(", without config_groups".into());
    };
    if others.iter().any(|other| other != weights) {
        return Err(", several groups that differ".into());
    }
    let format = stated["format"].as_str().unwrap_or("unknown");
    let is_sparse = |format: &Value| format.as_str().is_some_and(|format| format != "dense");
    if is_sparse(&stated["sparsity_config"]["format"]) {
        return Err(", sparse".into());
    }
    match format {
        "float-quantized" | "int-quantized" | "naive-quantized" => {
            bits(&weights["num_bits"], &[8])?;
            Ok(Method::Scaled {
                block: block(&weights["block_structure"]),
            })
        }
        "pack-quantized" => Ok(Method::Rows(rows::Layout {
            bits: bits(&weights["num_bits"], &[4, 8])?,
            group_size: group_size(&weights["group_size"])?,
        })),
        other => Err(format!(", in the format {other}")),
    }
}
