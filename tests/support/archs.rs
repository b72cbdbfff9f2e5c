//! Small random models of other architectures than Phi-3: with tied and own output matrices, either
//! kind of norm, capped logits, and no attention at all.

use std::path::{Path, PathBuf};

use super::tiny_gguf::{Parts, vocabulary};
use modelve::gguf::{Array, GgmlType, Value};

const WIDTH: u64 = 64;

/// `name columns×rows`, one tensor each; `blk.` stands for both layers. A name without rows is a
/// vector. What ends in `.bias` and `.weight` is spelled out.
fn write(path: &Path, arch: &str, keys: &[(&str, Value)], tensors: &str) {
    let (texts, scores, types) = vocabulary();
    let n_vocab = texts.len() as u64;
    let mut parts = Parts {
        metadata: Vec::new(),
        tensors: Vec::new(),
    };
    parts.set("general.architecture", Value::String(arch.to_owned()));
    for (key, value) in keys {
        parts.set(&format!("{arch}.{key}"), value.clone());
    }
    let tokens = Value::Array(texts.iter().collect());
    parts.set("tokenizer.ggml.model", Value::String("llama".to_owned()));
    parts.set("tokenizer.ggml.tokens", tokens);
    parts.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    parts.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    parts.set("tokenizer.ggml.bos_token_id", Value::U32(1));
    parts.set("tokenizer.ggml.eos_token_id", Value::U32(2));
    let mut state = 88_172_645_463_325_252u64;
    let mut add = |name: String, shape: Vec<u64>| {
        let (mean, deviation) = match () {
            () if name.contains("norm.weight") => (1.0, 0.1),
            () if name.contains("ssm_a") => (-1.0, 0.2),
            () if name.contains("token_embd") => (0.0, 1.0),
            () => (0.0, 0.3),
        };
        let n = shape.iter().product::<u64>();
        let data = (0..n).flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let unit = (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            (mean + deviation * 3.4 * unit).to_le_bytes()
        });
        let data = data.collect();
        parts.tensors.push((name, shape, GgmlType::F32, data));
    };
    let common = format!("token_embd.weight {WIDTH}×{n_vocab} output_norm.weight {WIDTH}");
    let words: Vec<&str> = common
        .split(' ')
        .chain(tensors.split_whitespace())
        .collect();
    for pair in words.chunks_exact(2) {
        let sizes = pair[1].split('×').map(|size| match size {
            "V" => n_vocab,
            size => size.parse().unwrap(),
        });
        let shape: Vec<u64> = sizes.collect();
        match pair[0].strip_prefix("blk.") {
            Some(name) => (0..2).for_each(|i| add(format!("blk.{i}.{name}"), shape.clone())),
            None => add(pair[0].to_owned(), shape),
        }
    }
    parts.write(path);
}

const GATED: &str = "blk.attn_norm.weight 64 blk.attn_q.weight 64×64 blk.attn_k.weight 64×32 \
    blk.attn_v.weight 64×32 blk.attn_output.weight 64×64 blk.ffn_norm.weight 64 \
    blk.ffn_gate.weight 64×96 blk.ffn_up.weight 64×96 blk.ffn_down.weight 96×64";

/// Architectures and their files.
pub fn models(dir: &Path) -> Vec<(&'static str, PathBuf)> {
    let sizes = [
        ("context_length", Value::U32(512)),
        ("embedding_length", Value::U32(WIDTH as u32)),
        ("block_count", Value::U32(2)),
    ];
    let rms = ("attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    let heads = [
        ("feed_forward_length", Value::U32(96)),
        ("attention.head_count", Value::U32(4)),
    ];
    let grouped = [("attention.head_count_kv", Value::U32(2)), rms.clone()];
    let mut made = Vec::new();
    let mut make = |arch: &'static str, keys: &[&[(&str, Value)]], tensors: &str| {
        let path = dir.join(format!("{arch}.gguf"));
        write(&path, arch, &[&sizes[..], &keys.concat()].concat(), tensors);
        made.push((arch, path));
    };
    let rope = [("rope.dimension_count", Value::U32(16))];
    let own = format!("output.weight 64×V {GATED}");
    make("llama", &[&heads, &grouped, &rope], &own);
    let caps = [
        ("attention.key_length", Value::U32(16)),
        ("attention.value_length", Value::U32(16)),
        ("attention.sliding_window", Value::U32(512)),
        ("attn_logit_softcapping", Value::F32(50.0)),
        ("final_logit_softcapping", Value::F32(5.0)),
    ];
    let twice = format!("blk.post_attention_norm.weight 64 blk.post_ffw_norm.weight 64 {GATED}");
    make("gemma2", &[&heads, &grouped, &caps], &twice);
    let norm = [("attention.layer_norm_epsilon", Value::F32(1e-5))];
    let biased = "output_norm.bias 64 position_embd.weight 64×512 blk.attn_norm.weight 64 \
        blk.attn_norm.bias 64 blk.attn_qkv.weight 64×192 blk.attn_qkv.bias 192 \
        blk.attn_output.weight 64×64 blk.attn_output.bias 64 blk.ffn_norm.weight 64 \
        blk.ffn_norm.bias 64 blk.ffn_up.weight 64×96 blk.ffn_up.bias 96 \
        blk.ffn_down.weight 96×64 blk.ffn_down.bias 64";
    make("gpt2", &[&heads, &norm], biased);
    let recurrent = [
        ("feed_forward_length", Value::U32(0)),
        ("attention.head_count", Value::U32(0)),
        ("ssm.conv_kernel", Value::U32(4)),
        ("ssm.inner_size", Value::U32(128)),
        ("ssm.state_size", Value::U32(16)),
        ("ssm.time_step_rank", Value::U32(4)),
        rms,
    ];
    let ssm = "blk.attn_norm.weight 64 blk.ssm_in.weight 64×256 blk.ssm_conv1d.weight 4×128 \
        blk.ssm_conv1d.bias 128 blk.ssm_x.weight 128×36 blk.ssm_dt.weight 4×128 \
        blk.ssm_dt.bias 128 blk.ssm_a 16×128 blk.ssm_d 128 blk.ssm_out.weight 128×64";
    make("mamba", &[&recurrent], ssm);
    made
}
