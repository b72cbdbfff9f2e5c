//! The types and bytes of what `convert` writes are llama.cpp's: the same library's quantizer
//! works on our own unquantized file, and every tensor is compared.

use crate::support::llama_quantize_ffi as llama;
use crate::support::toy;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::support::synthetic::Dtype;
use modelve::convert::checkpoint::Checkpoint;
use modelve::convert::{self, Imatrix, Options, Plan, Provenance, Request};
use modelve::gguf::{Array, GgmlType, Gguf, Layout, Value};
use modelve::progress::Silent;
use modelve::quant::mix::{Overrides, RECIPES, Recipe};
use regex::Regex;
use serde_json::{Value as Json, json};

fn convert(
    folder: &Path,
    recipe: &'static Recipe,
    overrides: &Overrides,
    imatrix: Option<&Imatrix>,
    output: &Path,
) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let request = Request {
        recipe,
        overrides,
        types: None,
        imatrix,
        provenance: &Provenance::default(),
        extra: &[],
    };
    let plan = Plan::new(&checkpoint, &request).unwrap();
    let options = Options {
        threads: 2,
        force: true,
        cancel: &AtomicBool::new(false),
    };
    convert::write(&plan, &checkpoint, &request, output, &options, &Silent).unwrap();
    convert::check(&plan, output).unwrap();
}

fn assert_same_tensors(ours: &Path, theirs: &Path, what: &str) {
    let (ours, theirs) = (Gguf::open(ours).unwrap(), Gguf::open(theirs).unwrap());
    assert_eq!(ours.tensors().len(), theirs.tensors().len(), "{what}");
    for (a, b) in ours.tensors().iter().zip(theirs.tensors()) {
        let what = format!("{what}, {}", a.name);
        assert_eq!((&a.name, &a.shape), (&b.name, &b.shape), "{what}");
        assert_eq!(a.ty, b.ty, "{what}");
        assert_eq!(a.bytes, b.bytes, "{what}");
        // Not assert_eq: nobody wants to see the bytes.
        assert!(
            ours.data(a) == theirs.data(b),
            "{what}: {} bytes differ",
            a.ty
        );
    }
}

/// Every recipe of more than 3 bits, and those of 2 and 3 that have an encoder of our own, on one
/// configuration.
fn every_recipe(config: &Json, dtype: Dtype) {
    let dir = tempfile::tempdir().unwrap();
    let folder = toy::write(config, dtype, 1_000_000, &dir.path().join("checkpoint"));
    let path = |name: &str| dir.path().join(name);
    let none = Overrides::default();
    // The unquantized file that llama.cpp's converter would write without loss.
    let exact = match dtype {
        Dtype::Bf16 => "BF16",
        Dtype::F16 => "F16",
        Dtype::F32 => "F32",
    };
    let base = path("base.gguf");
    convert(&folder, Recipe::find(exact).unwrap(), &none, None, &base);
    // ggml's encoders of few bits are slow; their recipes are compared further below.
    let is_quick =
        |recipe: &&Recipe| !recipe.name.starts_with("IQ2") && !recipe.name.starts_with("IQ3");
    for recipe in RECIPES.iter().filter(is_quick) {
        let (ours, theirs) = (path("ours.gguf"), path("theirs.gguf"));
        convert(&folder, recipe, &none, None, &ours);
        let request = llama::Request {
            file_type: recipe.file_type,
            threads: 2,
            ..llama::Request::default()
        };
        assert!(llama::quantize(&base, &theirs, &request), "{}", recipe.name);
        assert_same_tensors(&ours, &theirs, recipe.name);
    }
}

#[test]
fn phi3_mini_in_small() {
    every_recipe(
        &toy::config(|c| c["num_hidden_layers"] = json!(16)),
        Dtype::Bf16,
    );
}

#[test]
fn grouped_heads() {
    every_recipe(
        &toy::config(|c| {
            c["num_attention_heads"] = json!(8);
            c["num_key_value_heads"] = json!(2);
        }),
        Dtype::Bf16,
    );
}

#[test]
fn rows_that_are_no_multiple_of_256_or_of_32() {
    every_recipe(
        &toy::config(|c| {
            c["hidden_size"] = json!(96);
            c["intermediate_size"] = json!(136);
        }),
        Dtype::F16,
    );
}

#[test]
fn tied_embeddings_and_partial_rotation() {
    every_recipe(
        &toy::config(|c| {
            c["tie_word_embeddings"] = json!(true);
            c["partial_rotary_factor"] = json!(0.75);
            c["num_key_value_heads"] = json!(1);
        }),
        Dtype::F32,
    );
}

/// An importance matrix in llama.cpp's format, and its weights. `matrices` are names, columns and the
/// number of experts.
fn imatrix(path: &Path, matrices: &[(String, u64, u64)]) -> Vec<(String, Vec<f32>)> {
    let mut weights = Vec::new();
    let mut tensors = Vec::new();
    let mut data: Vec<Vec<f32>> = Vec::new();
    for (i, (name, columns, experts)) in matrices.iter().enumerate() {
        let sums: Vec<f32> = (0..columns * experts)
            .map(|c| ((c * 37 + i as u64 * 11) % 101) as f32 * 0.7 + 0.01)
            .collect();
        weights.push((name.clone(), sums.iter().map(|sum| sum / 12.0).collect()));
        let (sum, count) = (format!("{name}.in_sum2"), format!("{name}.counts"));
        tensors.push((sum, vec![*columns, *experts], GgmlType::F32));
        tensors.push((count, vec![1, *experts], GgmlType::F32));
        data.extend([sums, vec![12.0; *experts as usize]]);
    }
    let texts = |list: &[&str]| Value::Array(list.iter().collect::<Array>());
    let metadata = [
        ("general.type".to_owned(), Value::String("imatrix".into())),
        ("imatrix.datasets".to_owned(), texts(&["a.txt"])),
        ("imatrix.chunk_count".to_owned(), Value::U32(3)),
        ("imatrix.chunk_size".to_owned(), Value::U32(512)),
    ];
    let layout = Layout::new(&metadata, &tensors).unwrap();
    let mut bytes = layout.header().to_vec();
    bytes.resize(layout.file_size() as usize, 0);
    for (tensor, values) in layout.tensors().iter().zip(data) {
        let values: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        bytes[tensor.offset as usize..][..values.len()].copy_from_slice(&values);
    }
    std::fs::write(path, bytes).unwrap();
    weights
}

/// Some recipes on one configuration, with an importance matrix.
fn weighted(config: &Json, recipes: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let folder = toy::write(config, Dtype::Bf16, 1 << 30, &dir.path().join("checkpoint"));
    let path = |name: &str| dir.path().join(name);
    let base = path("base.gguf");
    let none = Overrides::default();
    convert(&folder, Recipe::find("BF16").unwrap(), &none, None, &base);
    let matrices: Vec<(String, u64, u64)> = Gguf::open(&base)
        .unwrap()
        .tensors()
        .iter()
        .filter(|tensor| tensor.name.starts_with("blk.") && tensor.shape.len() >= 2)
        .map(|tensor| {
            let experts = tensor.shape.get(2).copied().unwrap_or(1);
            (tensor.name.clone(), tensor.shape[0], experts)
        })
        .collect();
    let weights = imatrix(&path("imatrix.gguf"), &matrices);
    let imatrix = Imatrix::open(&path("imatrix.gguf")).unwrap();
    assert_eq!(imatrix.entries().len(), matrices.len());
    for name in recipes {
        let recipe = Recipe::find(name).unwrap();
        let (ours, theirs) = (path("ours.gguf"), path("theirs.gguf"));
        convert(&folder, recipe, &none, Some(&imatrix), &ours);
        let request = llama::Request {
            file_type: recipe.file_type,
            threads: 1,
            imatrix: weights
                .iter()
                .map(|(n, w)| (n.as_str(), w.as_slice()))
                .collect(),
            ..llama::Request::default()
        };
        assert!(llama::quantize(&base, &theirs, &request), "{}", recipe.name);
        assert_same_tensors(&ours, &theirs, recipe.name);
    }
    let gguf = Gguf::open(&path("ours.gguf")).unwrap();
    let chunks = gguf.get("quantize.imatrix.chunks_count");
    assert_eq!(chunks.and_then(|value| value.as_u64()), Some(3));
}

#[test]
fn an_imatrix_weighs_columns_as_in_llama_cpp() {
    weighted(
        &toy::config(|_| {}),
        &[
            "Q4_0", "Q5_0", "Q4_K_M", "Q2_K", "Q3_K_M", "Q6_K", "IQ4_XS", "IQ4_NL", "IQ3_XXS",
            "Q8_0",
        ],
    );
}

/// Of eight layers, for what recipes do in the first and the last eighth. ggml's encoders of few bits
/// are slow, so all matrices that may be are small: rows of 32 stand for the type that was meant, too,
/// by the type that takes its place.
fn decoder(class: &str, change: impl FnOnce(&mut Json)) -> Json {
    let mut config = json!({
        "architectures": [class], "hidden_size": 256, "intermediate_size": 32,
        "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64, "vocab_size": toy::VOCAB, "max_position_embeddings": 512,
        "bos_token_id": 1, "eos_token_id": 290,
    });
    change(&mut config);
    config
}

#[test]
fn types_of_few_bits_for_separate_projections() {
    weighted(
        &decoder("LlamaForCausalLM", |_| {}),
        &[
            "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M",
        ],
    );
}

#[test]
fn types_of_few_bits_for_grouped_heads() {
    let config = decoder("Qwen3ForCausalLM", |c| {
        c["num_key_value_heads"] = json!(1);
        c["tie_word_embeddings"] = json!(true);
    });
    weighted(&config, &["IQ2_XS", "IQ2_S", "IQ3_XS", "IQ3_S"]);
}

#[test]
fn types_of_few_bits_beside_eight_experts() {
    let config = decoder("MixtralForCausalLM", |c| {
        c["num_local_experts"] = json!(8);
        c["num_experts_per_tok"] = json!(2);
    });
    weighted(&config, &["IQ2_XXS", "IQ2_M", "IQ3_XXS", "IQ3_M"]);
}

#[test]
fn types_of_few_bits_where_rows_are_no_multiple_of_256() {
    let config = decoder("LlamaForCausalLM", |c| {
        c["hidden_size"] = json!(96);
        c["head_dim"] = json!(24);
        c["intermediate_size"] = json!(136);
    });
    weighted(&config, &["IQ2_XXS", "IQ2_S", "IQ3_XXS", "IQ3_M"]);
}

#[test]
fn types_asked_for_by_name_are_given_as_in_llama_cpp() {
    let dir = tempfile::tempdir().unwrap();
    let config = toy::config(|c| c["num_hidden_layers"] = json!(9));
    let folder = toy::write(
        &config,
        Dtype::Bf16,
        1 << 30,
        &dir.path().join("checkpoint"),
    );
    let path = |name: &str| dir.path().join(name);
    let base = path("base.gguf");
    convert(
        &folder,
        Recipe::find("BF16").unwrap(),
        &Overrides::default(),
        None,
        &base,
    );
    let tensors = [
        (r"blk\.[13]\.ffn_down", GgmlType::Q8_0),
        ("attn_qkv", GgmlType::F16),
    ];
    for (recipe, output, token_embedding) in [
        ("Q4_K_M", None, Some(GgmlType::Q3_K)),
        ("Q3_K_M", Some(GgmlType::Q5_K), None),
        ("BF16", Some(GgmlType::Q8_0), Some(GgmlType::Q4_0)),
    ] {
        let overrides = Overrides {
            tensors: tensors
                .iter()
                .map(|(p, t)| (Regex::new(p).unwrap(), *t))
                .collect(),
            output,
            token_embedding,
        };
        let recipe = Recipe::find(recipe).unwrap();
        let (ours, theirs) = (path("ours.gguf"), path("theirs.gguf"));
        convert(&folder, recipe, &overrides, None, &ours);
        let request = llama::Request {
            file_type: recipe.file_type,
            threads: 2,
            output: output.map(|ty| ty.0),
            token_embedding: token_embedding.map(|ty| ty.0),
            tensors: tensors.iter().map(|(p, t)| (*p, t.0)).collect(),
            imatrix: Vec::new(),
        };
        assert!(llama::quantize(&base, &theirs, &request), "{}", recipe.name);
        assert_same_tensors(&ours, &theirs, recipe.name);
    }
}

#[test]
fn both_sides_mean_the_same_by_a_type_and_a_file_type() {
    for recipe in RECIPES {
        let name = llama::type_name(recipe.base.0);
        assert!(name.eq_ignore_ascii_case(&recipe.base.name()), "{name}");
    }
}
