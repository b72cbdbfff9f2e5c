//! The small random Phi-3 checkpoints of `scripts/make_probe_fixtures.py` as F32 GGUF files, and
//! what transformers computes from them.

#![allow(dead_code)] // each test binary uses a part of it

use std::path::{Path, PathBuf};

use modelve::gguf::{Array, GgmlType, Value};
use modelve::probe::Prompt;
use modelve::runtime::{FlashAttention, KvType, LoadOptions, Model, Settings, Token};
use safetensors::SafeTensors;

use super::tiny_gguf::{Parts, Tiny, vocabulary};

pub const N_VOCAB: usize = 352;
pub const N_LAYER: usize = 3;
pub const N_HEAD: usize = 4;

pub struct Fixture {
    _dir: tempfile::TempDir,
    pub path: PathBuf,
    pub ids: Vec<Token>,
    /// `[layer][position][token]`
    pub lens: Vec<Vec<Vec<f32>>>,
    /// `[layer][head][query][key]`
    pub attention: Vec<Vec<Vec<Vec<f32>>>>,
}

/// The first `n` tokens.
pub fn prompt(fixture: &Fixture, n: usize) -> Prompt {
    Prompt {
        text: String::new(),
        ids: fixture.ids[..n].to_vec(),
    }
}

/// The computation that is nearest to the reference.
pub fn exact() -> Settings {
    Settings {
        // Within the reach of the short RoPE factors, as texts of such a length are.
        n_ctx: 256,
        kv_type: KvType::F32,
        flash_attention: FlashAttention::Off,
        n_outputs: 512,
        hooks: true,
        ..Settings::default()
    }
}

pub fn both() -> [Fixture; 2] {
    [load("grouped", 2), load("even", 4)]
}

fn read(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/probe");
    std::fs::read(folder.join(name)).unwrap()
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = tensors.tensor(name).unwrap().data().chunks_exact(4);
    bytes
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn rows(flat: &[f32], n: usize) -> Vec<Vec<f32>> {
    flat.chunks_exact(n).map(<[f32]>::to_vec).collect()
}

/// A checkpoint's name for a tensor as a GGUF spells it.
fn gguf_name(name: &str) -> String {
    let table = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ];
    table
        .iter()
        .rev()
        .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

pub fn parts(name: &str, heads_kv: u32) -> Parts {
    let tiny = Tiny {
        layers: N_LAYER as u32,
        heads: N_HEAD as u32,
        heads_kv,
        feed_forward: 80,
        ..Tiny::default()
    };
    let mut parts = tiny.parts();
    parts.set("phi3.rope.scaling.attn_factor", Value::F32(1.5f32.sqrt()));
    // A name with "phi3" in it makes llama.cpp ask for the control tokens, which are cut off.
    parts.set("general.name", Value::String(name.to_owned()));
    let (mut texts, scores, types) = vocabulary();
    texts.truncate(N_VOCAB);
    parts.set(
        "tokenizer.ggml.tokens",
        Value::Array(texts.iter().collect()),
    );
    parts.set(
        "tokenizer.ggml.scores",
        Value::Array(Array::F32(scores[..N_VOCAB].to_vec())),
    );
    parts.set(
        "tokenizer.ggml.token_type",
        Value::Array(Array::I32(types[..N_VOCAB].to_vec())),
    );
    parts.set("tokenizer.ggml.eos_token_id", Value::U32(2));
    parts
        .tensors
        .retain(|(name, ..)| name.starts_with("rope_factors"));
    for (name, shape, ty, data) in &mut parts.tensors {
        assert_eq!((shape[0], *ty), (8, GgmlType::F32));
        let step: f32 = if name.contains("short") { 0.05 } else { 3.0 };
        *data = (0..8)
            .flat_map(|i| (1.0 + step * i as f32).to_le_bytes())
            .collect();
    }
    let bytes = read(&format!("{name}-weights.safetensors"));
    for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        let shape: Vec<u64> = view.shape().iter().rev().map(|&n| n as u64).collect();
        // bfloat16 is the upper half of an f32.
        let data = view
            .data()
            .chunks_exact(2)
            .flat_map(|b| [0, 0, b[0], b[1]])
            .collect();
        parts
            .tensors
            .push((gguf_name(&name), shape, GgmlType::F32, data));
    }
    parts
}

fn load(name: &str, heads_kv: u32) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("{name}.gguf"));
    parts(name, heads_kv).write(&path);
    let bytes = read(&format!("{name}-expected.safetensors"));
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let ids = tensors.tensor("ids").unwrap().data().chunks_exact(4);
    let ids: Vec<Token> = ids
        .map(|b| Token(i32::from_le_bytes(b.try_into().unwrap())))
        .collect();
    let n = ids.len();
    let lens = floats(&tensors, "lens");
    let attention = floats(&tensors, "attention");
    Fixture {
        _dir: dir,
        path,
        lens: lens
            .chunks_exact(n * N_VOCAB)
            .map(|layer| rows(layer, N_VOCAB))
            .collect(),
        attention: attention
            .chunks_exact(N_HEAD * n * n)
            .map(|layer| {
                layer
                    .chunks_exact(n * n)
                    .map(|head| rows(head, n))
                    .collect()
            })
            .collect(),
        ids,
    }
}

impl Fixture {
    pub fn model(&self) -> Model {
        Model::load(&self.path, &LoadOptions::default()).unwrap()
    }
}
