//! Small checkpoints for tests: every form of Phi-3, with a tokenizer made up here.

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use serde_json::{Map, Value, json};

use super::synthetic::{self, Dtype};

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

/// Rows of the embedding: 3 special pieces, 256 bytes, some letters, 3 added tokens, padding.
pub const VOCAB: u64 = 320;

/// A configuration of 256 hidden units in 8 layers; the closure changes what it wants.
pub fn config(change: impl FnOnce(&mut Value)) -> Value {
    let mut config = json!({
        "_name_or_path": "toy/Phi-3-toy-instruct",
        "architectures": ["Phi3ForCausalLM"],
        "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": VOCAB,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 262144,
        "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 290,
        "rope_scaling": {"type": "longrope", "long_factor": [1.5], "short_factor": [1.0]},
    });
    change(&mut config);
    synthetic::fit_rope_factors(&mut config);
    config
}

/// Writes a checkpoint of any architecture with a SentencePiece tokenizer to `folder`.
pub fn write(config: &Value, dtype: Dtype, shard_bytes: u64, folder: &Path) -> PathBuf {
    let tensors = match config["architectures"][0] == "Phi3ForCausalLM" {
        true => synthetic::phi3_tensors(config).unwrap(),
        false => described(config),
    };
    synthetic::write(config, &tensors, dtype, 7, shard_bytes, folder).unwrap();
    sentencepiece(folder);
    let stop = json!({"eos_token_id": [290, 291, 292]});
    put(folder, "generation_config.json", &stop);
    folder.to_owned()
}

/// The tensors that a configuration asks for.
fn described(config: &Value) -> Vec<synthetic::Tensor> {
    let description = modelve::convert::arch::describe(config).unwrap();
    let needed = description.weights.iter().filter(|weight| !weight.optional);
    let each = needed.flat_map(|weight| {
        let sources = weight.sources.iter();
        sources.map(|name| synthetic::Tensor::new(name, weight.source_shape()))
    });
    each.collect()
}

fn put(folder: &Path, name: &str, value: &Value) {
    fs::write(folder.join(name), serde_json::to_vec(value).unwrap()).unwrap();
}

fn sentencepiece(folder: &Path) {
    let mut pieces = vec![
        ("<unk>".to_owned(), 2),
        ("<s>".into(), 3),
        ("</s>".into(), 3),
    ];
    pieces.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 6)));
    pieces.extend(('a'..='z').map(|letter| (letter.to_string(), 1)));
    pieces.push(("\u{2581}".into(), 1));
    let model = ModelProto {
        pieces: pieces
            .into_iter()
            .enumerate()
            .map(|(id, (text, kind))| Piece {
                piece: Some(text),
                score: Some(-(id as f32)),
                kind: Some(kind),
            })
            .collect(),
    };
    fs::write(folder.join("tokenizer.model"), model.encode_to_vec()).unwrap();
    let mut added = Map::new();
    for (id, text) in [
        (290, "<|endoftext|>"),
        (291, "<|assistant|>"),
        (292, "<|end|>"),
    ] {
        let token = json!({"content": text, "special": true, "rstrip": id > 290});
        added.insert(id.to_string(), token);
    }
    let config = json!({
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": false, "add_eos_token": false,
        "bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": {"content": "<unk>"},
        "chat_template": "{{ messages }}", "added_tokens_decoder": added,
    });
    put(folder, "tokenizer_config.json", &config);
}

/// Replaces the tokenizer by byte-level BPE with the pattern of Phi-4.
#[allow(dead_code)]
pub fn byte_level(folder: &Path) {
    fs::remove_file(folder.join("tokenizer.model")).unwrap();
    // GPT-2's alphabet: printable bytes stand for themselves, the others from U+0100 on.
    let plain = |b: &u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let mut vocab = Map::new();
    for byte in 0..=255u8 {
        let letter = match plain(&byte) {
            true => char::from(byte),
            false => {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        };
        vocab.insert(letter.to_string(), json!(byte));
    }
    vocab.insert("he".into(), json!(256));
    vocab.insert("Ġhe".into(), json!(257));
    let pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let added: Vec<Value> = [
        (290, "<|endoftext|>"),
        (291, "<|im_start|>"),
        (292, "<|im_end|>"),
    ]
    .iter()
    .map(|(id, text)| json!({"id": id, "content": text, "special": true}))
    .collect();
    let tokenizer = json!({
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
        "post_processor": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": [["h", "e"], "Ġ he"]},
    });
    put(folder, "tokenizer.json", &tokenizer);
    let config = json!({
        "tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
    });
    put(folder, "tokenizer_config.json", &config);
}
