//! Measures the parts of modelve that touch no weights: reading a header, planning a conversion,
//! assembling text from the bytes of tokens.
//!
//! `cargo bench --profile dev --bench parts`

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use modelve::convert::checkpoint::Checkpoint;
use modelve::convert::{Plan, Provenance, Request};
use modelve::gguf::vocab::Vocabulary;
use modelve::gguf::{Array, Gguf, Layout, Value};
use modelve::quant::mix::{Overrides, Recipe};
use modelve::runtime::text::Assembler;
use tempfile::TempDir;

#[path = "../tests/support"]
#[allow(dead_code)]
mod support {
    pub mod synthetic;
    pub mod toy;
}
use support::{synthetic::Dtype, toy};

/// The number of tokens of Phi-3's vocabulary.
const VOCAB: usize = 32_064;

fn main() {
    divan::main();
}

/// A checkpoint with as many layers and tensors as Phi-3-mini's, with small tensors.
fn checkpoint(dir: &Path) -> PathBuf {
    let config = toy::config(|config| config["num_hidden_layers"] = 32.into());
    toy::write(&config, Dtype::Bf16, 1 << 40, dir)
}

fn plan(checkpoint: &Checkpoint) -> Plan {
    let request = Request {
        recipe: Recipe::find("Q4_K_M").expect("a recipe"),
        overrides: &Overrides::default(),
        types: None,
        imatrix: None,
        provenance: &Provenance::default(),
        extra: &[],
    };
    Plan::new(checkpoint, &request).expect("a plan")
}

/// A GGUF with 197 tensors and 32,064 tokens, whose data is a hole in a sparse file.
fn gguf(dir: &TempDir) -> PathBuf {
    let plan = plan(&Checkpoint::open(&checkpoint(&dir.path().join("in"))).expect("a checkpoint"));
    let mut metadata = plan.metadata().to_vec();
    for (key, value) in &mut metadata {
        let array = match key.as_str() {
            "tokenizer.ggml.tokens" => Array::String(
                (0..VOCAB)
                    .map(|id| format!("\u{2581}word{id}").into_bytes())
                    .collect(),
            ),
            "tokenizer.ggml.scores" => Array::F32((0..VOCAB).map(|id| -(id as f32)).collect()),
            "tokenizer.ggml.token_type" => Array::I32(vec![1; VOCAB]),
            _ => continue,
        };
        *value = Value::Array(array);
    }
    let tensors: Vec<_> = plan
        .tensors()
        .iter()
        .map(|tensor| (tensor.name.clone(), tensor.shape.clone(), tensor.ty))
        .collect();
    assert_eq!(tensors.len(), 197);
    let layout = Layout::new(&metadata, &tensors).expect("a layout");
    let path = dir.path().join("model.gguf");
    fs::write(&path, layout.header()).expect("room for a header");
    let file = File::options().write(true).open(&path);
    file.and_then(|file| file.set_len(layout.file_size()))
        .expect("a hole");
    path
}

/// Reads a header of 197 tensors and 32,064 tokens, checking every count and copying nothing.
#[divan::bench]
fn read_header(bencher: Bencher<'_, '_>) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = gguf(&dir);
    bencher.bench_local(|| Gguf::open(black_box(&path)).expect("a model"));
}

/// Reads the same header, and builds the tables to look up tokens.
#[divan::bench]
fn read_vocabulary(bencher: Bencher<'_, '_>) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = gguf(&dir);
    bencher.counter(ItemsCount::new(VOCAB)).bench_local(|| {
        let gguf = Gguf::open(black_box(&path)).expect("a model");
        let vocabulary = Vocabulary::new(&gguf).expect("a vocabulary");
        vocabulary.find("\u{2581}word1001".as_bytes())
    });
}

/// Plans the names, types, offsets and metadata of 197 tensors from the checkpoint's headers.
#[divan::bench]
fn build_plan(bencher: Bencher<'_, '_>) {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = checkpoint(&dir.path().join("in"));
    bencher.bench_local(|| plan(&Checkpoint::open(black_box(&folder)).expect("a checkpoint")));
}

const TEXT: &str = "The ball hit the bat, und der Schläger fiel — 球がバットに当たった。 🏏 ";

/// Assembles text from pieces of three bytes, which split characters anywhere, with up to four stop
/// strings.
#[divan::bench(args = [0, 4])]
fn assemble_text(bencher: Bencher<'_, '_>, stops: usize) {
    let text = TEXT.repeat(100);
    let stops: Vec<String> = (0..stops).map(|n| format!("The bell {n}")).collect();
    bencher
        .counter(BytesCount::new(text.len()))
        .bench_local(|| {
            let mut assembler = Assembler::new(&stops);
            let mut out = String::with_capacity(text.len());
            for piece in black_box(&text).as_bytes().chunks(3) {
                out += &assembler.push(piece).0;
            }
            out += &assembler.finish();
            assert_eq!(out.len(), text.len());
            out
        });
}
