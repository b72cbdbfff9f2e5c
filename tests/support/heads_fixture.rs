//! The small random models of `scripts/make_heads_fixtures.py` as GGUF files, and what transformers
//! computes from them.

#![allow(dead_code)] // each test binary uses a part of it

use std::path::{Path, PathBuf};

use modelve::gguf::{Array, GgmlType, Value};
use modelve::runtime::{LoadOptions, Model, Token};
use safetensors::{Dtype, SafeTensors};

use super::probe_fixture::{N_VOCAB, parts as phi3_parts};
use super::tiny_gguf::{Parts, vocabulary};

pub const N_LAYER: usize = 3;
pub const N_HEAD: usize = 4;
pub const WIDTH: usize = 64;

pub struct Fixture {
    _dir: tempfile::TempDir,
    pub name: &'static str,
    pub path: PathBuf,
    bytes: Vec<u8>,
    /// A token, then as many as this, twice.
    pub length: usize,
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/heads")
}

/// Llama, GPT-2, Gemma 3, and Phi-3 with grouped heads and without.
pub fn all() -> Vec<Fixture> {
    let names = ["llama", "gpt2", "gemma3", "phi3-grouped", "phi3-even"];
    names.into_iter().map(load).collect()
}

fn load(name: &'static str) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("{name}.gguf"));
    let bytes = std::fs::read(folder().join(format!("{name}.safetensors"))).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    let parts = match name {
        "phi3-grouped" => phi3_parts("grouped", 2),
        "phi3-even" => phi3_parts("even", 4),
        _ => parts(&metadata["architecture"], &metadata["keys"], &bytes),
    };
    parts.write(&path);
    Fixture {
        _dir: dir,
        name,
        path,
        length: metadata["length"].parse().unwrap(),
        bytes,
    }
}

fn parts(arch: &str, keys: &str, bytes: &[u8]) -> Parts {
    let mut parts = Parts {
        metadata: Vec::new(),
        tensors: Vec::new(),
    };
    parts.set("general.architecture", Value::String(arch.to_owned()));
    let keys: serde_json::Value = serde_json::from_str(keys).unwrap();
    for (key, value) in keys.as_object().unwrap() {
        let value = match value.as_u64() {
            Some(number) => Value::U32(number as u32),
            None => Value::F32(value.as_f64().unwrap() as f32),
        };
        parts.set(&format!("{arch}.{key}"), value);
    }
    let (mut texts, scores, types) = vocabulary();
    texts.truncate(N_VOCAB);
    let tokens = Value::Array(texts.iter().collect());
    parts.set("tokenizer.ggml.model", Value::String("llama".to_owned()));
    parts.set("tokenizer.ggml.tokens", tokens);
    let scores = Array::F32(scores[..N_VOCAB].to_vec());
    parts.set("tokenizer.ggml.scores", Value::Array(scores));
    let types = Array::I32(types[..N_VOCAB].to_vec());
    parts.set("tokenizer.ggml.token_type", Value::Array(types));
    parts.set("tokenizer.ggml.bos_token_id", Value::U32(1));
    parts.set("tokenizer.ggml.eos_token_id", Value::U32(2));
    for (name, view) in SafeTensors::deserialize(bytes).unwrap().tensors() {
        let Some(name) = name.strip_prefix("weights.") else {
            continue;
        };
        let shape: Vec<u64> = view.shape().iter().rev().map(|&n| n as u64).collect();
        let data = match view.dtype() {
            Dtype::F32 => view.data().to_vec(),
            // bfloat16 is the upper half of an f32.
            Dtype::BF16 => {
                let values = view.data().chunks_exact(2);
                values.flat_map(|b| [0, 0, b[0], b[1]]).collect()
            }
            other => panic!("{name} is {other:?}"),
        };
        parts
            .tensors
            .push((name.to_owned(), shape, GgmlType::F32, data));
    }
    parts
}

impl Fixture {
    /// How far a value may be from the reference, as a share of the largest: ggml takes the
    /// GELU of GPT-2 and Gemma from a table of 16-bit floats.
    pub fn tolerance(&self) -> f32 {
        match self.name {
            "gpt2" | "gemma3" => 2e-3,
            _ => 1e-4,
        }
    }

    pub fn model(&self) -> Model {
        Model::load(&self.path, &LoadOptions::default()).unwrap()
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = tensors.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::F32);
        let values = view.data().chunks_exact(4);
        values
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    pub fn ids(&self) -> Vec<Token> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = tensors.tensor("ids").unwrap();
        let values = view.data().chunks_exact(4);
        values
            .map(|b| Token(i32::from_le_bytes(b.try_into().unwrap())))
            .collect()
    }
}
