//! A Phi-3 of random weights in a few hundred kilobytes, written with the crate's own writer:
//! enough for everything that does not depend on what the text says.

#![allow(dead_code)] // each test binary uses a part of it

use std::path::Path;

use modelve::gguf::{Array, GgmlType, Layout, Value};

/// What to make.
#[derive(Debug, Clone)]
pub struct Tiny {
    pub layers: u32,
    pub heads: u32,
    pub heads_kv: u32,
    pub width: u32,
    pub feed_forward: u32,
    /// Where the RoPE factors change.
    pub original: u32,
    pub context: u32,
    pub seed: u64,
}

impl Default for Tiny {
    fn default() -> Self {
        Tiny {
            layers: 2,
            heads: 4,
            heads_kv: 2,
            width: 64,
            feed_forward: 96,
            original: 256,
            context: 4096,
            seed: 1,
        }
    }
}

pub const END_OF_TEXT: &str = "<|endoftext|>";
const CONTROL: [&str; 5] = [
    END_OF_TEXT,
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
    "<|user|>",
];

const TEMPLATE: &str = "{% for message in messages %}\
    {{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}";

/// Texts, scores and types of a SentencePiece vocabulary: bytes, characters, the beginnings of
/// some words (so that each can be merged step by step), control tokens.
pub fn vocabulary() -> (Vec<String>, Vec<f32>, Vec<i32>) {
    let mut texts = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    let mut types = vec![2, 3, 3];
    for byte in 0..=255u8 {
        texts.push(format!("<0x{byte:02X}>"));
        types.push(6);
    }
    let words = "the today is ball bat hit and cave in of boundary weather sunny number a to";
    let mut add = |text: String| {
        if !texts.contains(&text) {
            texts.push(text);
            types.push(1);
        }
    };
    for word in words.split(' ') {
        let word = format!("\u{2581}{word}");
        let ends = word.char_indices().map(|(at, c)| at + c.len_utf8());
        for end in ends {
            add(word[..end].to_owned());
        }
    }
    for c in (b'!'..=b'~').map(char::from).chain(['é', 'ü', '\u{2581}']) {
        add(c.to_string());
    }
    for control in CONTROL {
        texts.push(control.to_owned());
        types.push(3);
    }
    let scores = (0..texts.len()).map(|i| -(i as f32)).collect();
    (texts, scores, types)
}

/// The file as metadata and tensors, for tests that spoil it before it is written.
pub struct Parts {
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<(String, Vec<u64>, GgmlType, Vec<u8>)>,
}

impl Parts {
    pub fn set(&mut self, key: &str, value: Value) {
        match self.metadata.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
    }

    pub fn remove(&mut self, key: &str) {
        self.metadata.retain(|(k, _)| k != key);
    }

    pub fn write(&self, path: &Path) {
        let infos: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, shape, ty, _)| (name.clone(), shape.clone(), *ty))
            .collect();
        let layout = Layout::new(&self.metadata, &infos).unwrap();
        let mut file = layout.header().to_vec();
        for (info, (_, _, _, data)) in layout.tensors().iter().zip(&self.tensors) {
            file.resize(info.offset as usize, 0);
            file.extend(data);
        }
        file.resize(layout.file_size() as usize, 0);
        std::fs::write(path, file).unwrap();
    }
}

/// Uniform numbers of mean 0 and the given deviation (xorshift64*).
fn random(state: &mut u64, n: u64, deviation: f32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(n as usize * 4);
    for _ in 0..n {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        let bits = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40;
        let unit = bits as f32 / (1u64 << 24) as f32 - 0.5;
        bytes.extend((unit * deviation * 12f32.sqrt()).to_le_bytes());
    }
    bytes
}

impl Tiny {
    pub fn parts(&self) -> Parts {
        let (texts, scores, types) = vocabulary();
        let n_vocab = texts.len() as u64;
        let id = |text: &str| texts.iter().position(|t| t == text).unwrap() as u32;
        let text = |s: &str| Value::String(s.to_owned());
        let head = self.width / self.heads;
        let metadata = vec![
            ("general.architecture", text("phi3")),
            ("general.name", text("tiny-phi3-random")),
            ("phi3.context_length", Value::U32(self.context)),
            (
                "phi3.rope.scaling.original_context_length",
                Value::U32(self.original),
            ),
            ("phi3.embedding_length", Value::U32(self.width)),
            ("phi3.feed_forward_length", Value::U32(self.feed_forward)),
            ("phi3.block_count", Value::U32(self.layers)),
            ("phi3.attention.head_count", Value::U32(self.heads)),
            ("phi3.attention.head_count_kv", Value::U32(self.heads_kv)),
            ("phi3.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("phi3.rope.dimension_count", Value::U32(head)),
            ("phi3.rope.freq_base", Value::F32(10000.0)),
            ("phi3.rope.scaling.attn_factor", Value::F32(1.19)),
            ("tokenizer.ggml.model", text("llama")),
            ("tokenizer.ggml.eos_token_id", Value::U32(id(END_OF_TEXT))),
            ("tokenizer.ggml.bos_token_id", Value::U32(1)),
            ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
            ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
            ("tokenizer.chat_template", text(TEMPLATE)),
            (
                "tokenizer.ggml.tokens",
                Value::Array(texts.iter().collect()),
            ),
            ("tokenizer.ggml.scores", Value::Array(Array::F32(scores))),
            ("tokenizer.ggml.token_type", Value::Array(Array::I32(types))),
        ];
        let metadata = metadata
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v))
            .collect();

        let (width, ff) = (u64::from(self.width), u64::from(self.feed_forward));
        let kv = u64::from(self.heads_kv * head);
        let mut state = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: Vec<u64>, data: Vec<u8>| {
            tensors.push((name, shape, GgmlType::F32, data));
        };
        let near_one = |n: u64, state: &mut u64| -> Vec<u8> {
            let noise = random(state, n, 0.1);
            let values = noise
                .chunks_exact(4)
                .map(|b| 1.0 + f32::from_le_bytes(b.try_into().unwrap()));
            values.flat_map(f32::to_le_bytes).collect()
        };
        let mut matrix = |name: &str, rows: u64, columns: u64, deviation: f32, state: &mut u64| {
            add(
                name.to_owned(),
                vec![columns, rows],
                random(state, rows * columns, deviation),
            );
        };
        matrix("token_embd.weight", n_vocab, width, 1.0, &mut state);
        matrix("output.weight", n_vocab, width, 0.4, &mut state);
        for layer in 0..self.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            matrix(&name("attn_qkv"), width + 2 * kv, width, 0.2, &mut state);
            matrix(&name("attn_output"), width, width, 0.1, &mut state);
            matrix(&name("ffn_up"), 2 * ff, width, 0.15, &mut state);
            matrix(&name("ffn_down"), width, ff, 0.15, &mut state);
        }
        add(
            "output_norm.weight".to_owned(),
            vec![width],
            near_one(width, &mut state),
        );
        for layer in 0..self.layers {
            for part in ["attn_norm", "ffn_norm"] {
                let name = format!("blk.{layer}.{part}.weight");
                add(name, vec![width], near_one(width, &mut state));
            }
        }
        let pairs = u64::from(head / 2);
        for (name, step) in [("short", 0.1), ("long", 3.0)] {
            let factors = (0..pairs).flat_map(|i| (1.0 + step * i as f32).to_le_bytes());
            add(
                format!("rope_factors_{name}.weight"),
                vec![pairs],
                factors.collect(),
            );
        }
        Parts { metadata, tensors }
    }

    pub fn write(&self, path: &Path) {
        self.parts().write(path);
    }
}
