//! Checkpoints with random weights in the Hub's layout, of any size, written in a stream.
//!
//! The weights are Gaussian with the scales a trained model starts from; value `i` of a tensor
//! depends on the seed, the tensor's name and `i` alone, so the number of threads and the
//! cutting into shards change nothing.

use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;

/// Element type of the checkpoint's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    Bf16,
    F16,
    F32,
}

impl Dtype {
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "bf16" => Some(Self::Bf16),
            "f16" => Some(Self::F16),
            "f32" => Some(Self::F32),
            _ => None,
        }
    }

    fn bytes(self) -> u64 {
        if self == Self::F32 { 4 } else { 2 }
    }

    fn safetensors(self) -> &'static str {
        match self {
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::F32 => "F32",
        }
    }

    fn torch(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
        }
    }
}

/// One tensor to write: its name and shape (rows first, as in safetensors), mean and deviation.
pub struct Tensor {
    pub name: String,
    pub shape: Vec<u64>,
    mean: f32,
    deviation: f32,
}

impl Tensor {
    /// A tensor of small numbers around zero; a vector's lie around one.
    #[allow(dead_code)]
    pub fn new(name: &str, shape: Vec<u64>) -> Self {
        Self {
            name: name.to_owned(),
            mean: if shape.len() == 1 { 1.0 } else { 0.0 },
            deviation: 0.02,
            shape,
        }
    }
}

/// What was written.
pub struct Summary {
    pub parameters: u64,
    pub bytes: u64,
    pub shards: usize,
}

fn number(config: &Value, key: &str) -> io::Result<u64> {
    config[key]
        .as_u64()
        .ok_or_else(|| io::Error::other(format!("config.json: {key} is missing or no number")))
}

/// The tensors of a `Phi3ForCausalLM` of this configuration, in the Hub's order.
pub fn phi3_tensors(config: &Value) -> io::Result<Vec<Tensor>> {
    let hidden = number(config, "hidden_size")?;
    let feed_forward = number(config, "intermediate_size")?;
    let layers = number(config, "num_hidden_layers")?;
    let heads = number(config, "num_attention_heads")?;
    let kv_heads = config["num_key_value_heads"].as_u64().unwrap_or(heads);
    let vocab = number(config, "vocab_size")?;
    let deviation = config["initializer_range"].as_f64().unwrap_or(0.02) as f32;
    let qkv_rows = hidden + 2 * kv_heads * (hidden / heads);
    // GPT-2's rule: what adds to the residual stream starts smaller the deeper the model.
    let into_residual = deviation / ((2 * layers) as f32).sqrt();

    let matrix = |name: String, rows: u64, columns: u64, deviation: f32| Tensor {
        name,
        shape: vec![rows, columns],
        mean: 0.0,
        deviation,
    };
    let norm = |name: String| Tensor {
        name,
        shape: vec![hidden],
        mean: 1.0,
        deviation: 0.05,
    };
    let mut tensors = vec![matrix(
        "model.embed_tokens.weight".into(),
        vocab,
        hidden,
        deviation,
    )];
    for layer in 0..layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        tensors.extend([
            norm(name("input_layernorm")),
            matrix(name("self_attn.qkv_proj"), qkv_rows, hidden, deviation),
            matrix(name("self_attn.o_proj"), hidden, hidden, into_residual),
            norm(name("post_attention_layernorm")),
            matrix(
                name("mlp.gate_up_proj"),
                2 * feed_forward,
                hidden,
                deviation,
            ),
            matrix(name("mlp.down_proj"), hidden, feed_forward, into_residual),
        ]);
    }
    tensors.push(norm("model.norm.weight".into()));
    if !config["tie_word_embeddings"].as_bool().unwrap_or(false) {
        tensors.push(matrix("lm_head.weight".into(), vocab, hidden, deviation));
    }
    Ok(tensors)
}

/// Makes the LongRoPE factor lists fit the configuration's rotary dimensions, by repeating the
/// last factor or cutting the list.
pub fn fit_rope_factors(config: &mut Value) {
    let hidden = config["hidden_size"].as_u64().unwrap_or(0) as f64;
    let heads = config["num_attention_heads"].as_u64().unwrap_or(1).max(1);
    let share = config["partial_rotary_factor"].as_f64().unwrap_or(1.0);
    let wanted = ((share * hidden) as u64 / heads / 2) as usize;
    for key in ["long_factor", "short_factor"] {
        if let Some(list) = config["rope_scaling"][key].as_array_mut() {
            let last = list.last().cloned().unwrap_or(json!(1.0));
            list.resize(wanted, last);
        }
    }
}

/// Writes `config.json`, the shards and (with more than one) their index into `out`.
pub fn write(
    config: &Value,
    tensors: &[Tensor],
    dtype: Dtype,
    seed: u64,
    shard_bytes: u64,
    out: &Path,
) -> io::Result<Summary> {
    fs::create_dir_all(out)?;
    let mut config = config.clone();
    config["torch_dtype"] = json!(dtype.torch());
    fs::write(out.join("config.json"), serde_json::to_vec_pretty(&config)?)?;

    let size = |tensor: &Tensor| tensor.shape.iter().product::<u64>() * dtype.bytes();
    let mut shards: Vec<Vec<&Tensor>> = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        if filled > 0 && filled + size(tensor) > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += size(tensor);
        shards.last_mut().expect("one shard at least").push(tensor);
    }

    let total: u64 = tensors.iter().map(size).sum();
    let mut weight_map = Map::new();
    for (index, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", index + 1),
        };
        for tensor in shard {
            weight_map.insert(tensor.name.clone(), json!(name));
        }
        write_shard(&out.join(&name), shard, dtype, seed)?;
    }
    if shards.len() > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        fs::write(
            out.join("model.safetensors.index.json"),
            serde_json::to_vec_pretty(&index)?,
        )?;
    }
    Ok(Summary {
        parameters: total / dtype.bytes(),
        bytes: total,
        shards: shards.len(),
    })
}

fn write_shard(path: &Path, tensors: &[&Tensor], dtype: Dtype, seed: u64) -> io::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut end = 0;
    let mut jobs = Vec::new();
    for tensor in tensors {
        let begin = end;
        let elements: u64 = tensor.shape.iter().product();
        end += elements * dtype.bytes();
        header.insert(
            tensor.name.clone(),
            json!({"dtype": dtype.safetensors(), "shape": tensor.shape, "data_offsets": [begin, end]}),
        );
        let stream = seed ^ fnv1a(tensor.name.as_bytes());
        for first in (0..elements).step_by(CHUNK as usize) {
            let count = CHUNK.min(elements - first);
            jobs.push((*tensor, stream, first, count, begin + first * dtype.bytes()));
        }
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let data_start = 8 + header.len() as u64;

    let file = File::create(path)?;
    file.write_all_at(&(header.len() as u64).to_le_bytes(), 0)?;
    file.write_all_at(&header, 8)?;
    jobs.into_par_iter().try_for_each_init(
        Vec::new,
        |buffer: &mut Vec<u8>, (tensor, stream, first, count, offset)| {
            buffer.clear();
            for i in first..first + count {
                let x = tensor.mean + tensor.deviation * gaussian(stream, i);
                match dtype {
                    Dtype::Bf16 => buffer.extend_from_slice(&bf16::from_f32(x).to_le_bytes()),
                    Dtype::F16 => buffer.extend_from_slice(&f16::from_f32(x).to_le_bytes()),
                    Dtype::F32 => buffer.extend_from_slice(&x.to_le_bytes()),
                }
            }
            file.write_all_at(buffer, data_start + offset)
        },
    )
}

/// Elements generated and written at a time.
const CHUNK: u64 = 1 << 20;

/// Points of the table of the normal distribution's quantiles.
const QUANTILES: usize = 1 << 14;

/// Standard normal value `i` of a stream: a hash of the counter, through the inverse of the
/// distribution function, linear between the points of a table (tails cut at about 4.2).
fn gaussian(stream: u64, i: u64) -> f32 {
    static TABLE: OnceLock<Vec<f32>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let point = |i| quantile((i as f64 + 0.5) / (QUANTILES + 1) as f64) as f32;
        (0..=QUANTILES).map(point).collect()
    });
    let bits = mix(stream.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let at = (bits >> 50) as usize;
    let fraction = (bits as u32 >> 8) as f32 / (1 << 24) as f32;
    table[at] + (table[at + 1] - table[at]) * fraction
}

/// The finalizer of SplitMix64: a bijection whose output passes for random.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Inverse of the normal distribution function by bisection: slow, exact enough for a table.
fn quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-9.0f64, 9.0f64);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if distribution(middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

/// The normal distribution function: Zelen and Severo's approximation (Abramowitz and Stegun
/// 26.2.17), absolute error below 7.5e-8.
fn distribution(x: f64) -> f64 {
    if x < 0.0 {
        return 1.0 - distribution(-x);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * x);
    let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let polynomial = t
        * (0.319_381_530
            + t * (-0.356_563_782
                + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    1.0 - density * polynomial
}
