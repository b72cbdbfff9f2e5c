//! `--adapter`: a LoRA merged into its base. `scripts/compare_adapter.py` compares with PEFT.

use super::dense::checkpoint;
use super::packed::{Tensors, read, store};
use super::*;
use safetensors::Dtype as Stored;

const QUERY: &str = "base_model.model.model.layers.0.self_attn.q_proj";
const DOWN: &str = "base_model.model.model.layers.0.mlp.down_proj";

/// Numbers that look random and are the same each time.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(shape: &[usize], values: &[f32]) -> (Stored, Vec<usize>, Vec<u8>) {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    (Stored::F32, shape.to_vec(), bytes)
}

fn pair(tensors: &mut Tensors, module: &str, [outputs, inputs]: [usize; 2], rank: usize) {
    let a = tensor(&[rank, inputs], &numbers(rank * inputs, 1));
    let b = tensor(&[outputs, rank], &numbers(outputs * rank, 2));
    tensors.insert(format!("{module}.lora_A.weight"), a);
    tensors.insert(format!("{module}.lora_B.weight"), b);
}

/// A base in `in`, and in `poet` an adapter of rank 4 for two of its matrices.
fn bench(settings: impl FnOnce(&mut Value), change: impl FnOnce(&mut Tensors)) -> Bench {
    let bench = checkpoint("MistralForCausalLM", |_| {});
    let mut config = json!({"peft_type": "LORA", "base_model_name_or_path": "org/in",
        "r": 4, "lora_alpha": 6, "init_lora_weights": true, "bias": "none"});
    settings(&mut config);
    let mut tensors = Tensors::new();
    pair(&mut tensors, QUERY, [64, 64], 4);
    pair(&mut tensors, DOWN, [64, 128], 4);
    change(&mut tensors);
    fs::create_dir(bench.path("poet")).unwrap();
    fs::write(bench.path("poet/adapter_config.json"), config.to_string()).unwrap();
    store(&bench.path("poet/adapter_model.safetensors"), &tensors);
    bench
}

fn values(bench: &Bench, file: &str, name: &str) -> Vec<f32> {
    let gguf = Gguf::open(&bench.path(file)).unwrap();
    let bytes = gguf.data(gguf.tensor(name).unwrap()).to_vec();
    let numbers = bytes.chunks_exact(4);
    numbers
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

const MERGE: [&str; 7] = ["in", "--adapter", "poet", "-q", "F32", "-o", "out/x.gguf"];

/// Converts with and without the adapter, and compares the down projection with the product computed
/// in 64 bits.
fn merges(bench: &Bench, rank: usize, scale: f64) {
    bench.good(&[&MERGE[..], &["--verify"]].concat());
    bench.good(&["in", "-q", "F32", "-o", "out/plain.gguf"]);
    let (a, b) = (numbers(rank * 128, 1), numbers(64 * rank, 2));
    let name = "blk.0.ffn_down.weight";
    let (plain, merged) = (
        values(bench, "out/plain.gguf", name),
        values(bench, "out/x.gguf", name),
    );
    for (at, (plain, merged)) in plain.iter().zip(&merged).enumerate() {
        let (row, column) = (at / 128, at % 128);
        let products =
            (0..rank).map(|j| f64::from(b[row * rank + j]) * f64::from(a[j * 128 + column]));
        let wanted = f64::from(*plain) + scale * products.sum::<f64>();
        let bound = 4e-6 * (1.0 + f64::from(plain.abs()));
        assert!(
            (f64::from(*merged) - wanted).abs() < bound,
            "{at}: {merged}, not {wanted}"
        );
    }
    for same in ["blk.0.ffn_up.weight", "token_embd.weight"] {
        let plain = values(bench, "out/plain.gguf", same);
        assert_eq!(plain, values(bench, "out/x.gguf", same));
    }
}

#[test]
fn a_lora_is_added_with_the_scale_that_its_configuration_means() {
    let unchanged = |_: &mut Tensors| {};
    merges(&bench(|_| {}, unchanged), 4, 6.0 / 4.0);
    merges(&bench(|c| c["use_rslora"] = json!(true), unchanged), 4, 3.0);
    // As in PEFT: these matrices are not turned, whatever the adapter says.
    merges(
        &bench(|c| c["fan_in_fan_out"] = json!(true), unchanged),
        4,
        1.5,
    );
    // The first expression that matches the end of a module's name counts.
    let alphas = json!({"proj": 100, "mlp.down_proj": 2, "down_proj": 7});
    merges(&bench(|c| c["alpha_pattern"] = alphas, unchanged), 4, 0.5);
    let ranked = bench(
        |c| c["rank_pattern"] = json!({r".*\.0\.mlp\.down_proj": 3}),
        |tensors| pair(tensors, DOWN, [64, 128], 3),
    );
    merges(&ranked, 3, 2.0);
}

/// Llama's query rows are reordered after the adapter was added.
#[test]
fn a_merged_matrix_is_reordered_like_any_other() {
    let bench = bench(|_| {}, |_| {});
    bench.good(&MERGE);
    bench.good(&["in", "-q", "F32", "-o", "out/plain.gguf"]);
    let (a, b) = (numbers(4 * 64, 1), numbers(64 * 4, 2));
    let name = "blk.0.attn_q.weight";
    let plain = values(&bench, "out/plain.gguf", name);
    let merged = values(&bench, "out/x.gguf", name);
    for at in 0..64 * 64 {
        // Row i of this file is row `plain[i * 64]` of the checkpoint, by how that was made.
        let (row, column) = (plain[at] as usize, at % 64);
        let products = (0..4).map(|j| b[row * 4 + j] * a[j * 64 + column]);
        let wanted = plain[at] + 1.5 * products.sum::<f32>();
        assert!((merged[at] - wanted).abs() < 1e-4, "{at}");
    }
}

#[test]
fn rows_of_gpt2s_matrices_are_inputs() {
    for stated in [true, false] {
        let bench = super::families::checkpoint(&json!({
            "architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_head": 4, "n_layer": 2,
            "n_positions": 64, "vocab_size": toy::VOCAB, "eos_token_id": 290, "bos_token_id": 1,
        }));
        let mut tensors = Tensors::new();
        // A square one, whose shape does not tell.
        let module = "base_model.model.transformer.h.1.attn.c_proj";
        pair(&mut tensors, module, [64, 64], 4);
        fs::create_dir(bench.path("poet")).unwrap();
        let config = json!({"peft_type": "LORA", "base_model_name_or_path": "org/in", "r": 4,
            "lora_alpha": 6, "fan_in_fan_out": stated});
        fs::write(bench.path("poet/adapter_config.json"), config.to_string()).unwrap();
        store(&bench.path("poet/adapter_model.safetensors"), &tensors);
        bench.good(&[&MERGE[..], &["--verify"]].concat());
        bench.good(&["in", "-q", "F32", "-o", "out/plain.gguf"]);
        let name = "blk.1.attn_output.weight";
        let (plain, merged) = (
            values(&bench, "out/plain.gguf", name),
            values(&bench, "out/x.gguf", name),
        );
        let (a, b) = (numbers(4 * 64, 1), numbers(64 * 4, 2));
        for (at, (plain, merged)) in plain.iter().zip(&merged).enumerate() {
            let (output, input) = (at / 64, at % 64);
            let products = (0..4).map(|j| b[output * 4 + j] * a[j * 64 + input]);
            let wanted = plain + 1.5 * products.sum::<f32>();
            assert!(
                (merged - wanted).abs() < 1e-4,
                "{at}: {merged}, not {wanted}"
            );
        }
    }
}

#[test]
fn tensors_that_an_adapter_holds_whole_replace_those_of_the_base() {
    let norm = numbers(64, 9);
    let bench = bench(
        |c| c["modules_to_save"] = json!(["norm"]),
        |tensors| {
            let name = "base_model.model.model.norm.weight".to_owned();
            tensors.insert(name, tensor(&[64], &norm));
        },
    );
    bench.good(&MERGE);
    assert_eq!(values(&bench, "out/x.gguf", "output_norm.weight"), norm);
}

#[test]
fn rows_of_an_embedding_are_inputs() {
    let vocab = toy::VOCAB as usize;
    let module = "base_model.model.model.embed_tokens";
    let bench = bench(
        |_| {},
        |tensors| {
            let a = tensor(&[4, vocab], &numbers(4 * vocab, 1));
            let b = tensor(&[64, 4], &numbers(64 * 4, 2));
            tensors.insert(format!("{module}.lora_embedding_A"), a);
            tensors.insert(format!("{module}.lora_embedding_B"), b);
        },
    );
    bench.good(&MERGE);
    let merged = values(&bench, "out/x.gguf", "token_embd.weight");
    let (a, b) = (numbers(4 * vocab, 1), numbers(64 * 4, 2));
    for (at, merged) in merged.iter().take(vocab * 64).enumerate() {
        let (row, column) = (at / 64, at % 64);
        let products = (0..4).map(|j| b[column * 4 + j] * a[j * vocab + row]);
        let wanted = row as f32 + 1.5 * products.sum::<f32>();
        assert!((merged - wanted).abs() < 1e-4, "{at}");
    }
}

#[test]
fn without_an_output_the_file_is_named_after_both() {
    let bench = bench(|_| {}, |_| {});
    let said = bench.good(&["in", "--adapter", "poet", "-q", "Q8_0"]);
    // The base has Phi-3's tokenizer, which llama.cpp recognizes by the name.
    let file = "in--Phi-3--poet-Q8_0.gguf";
    assert!(said.contains(file), "{said}");
    let gguf = Gguf::open(&bench.path(file)).unwrap();
    let adapter = gguf.get("modelve.source.adapter").unwrap();
    assert_eq!(adapter.as_str().as_deref(), Some("poet"));
    // The adapter's own files are never written over.
    let weights = "poet/adapter_model.safetensors";
    let before = bench.sha256(weights);
    let arguments = ["in", "--adapter", "poet", "--force", "-o", weights];
    assert_eq!(bench.run(&arguments).status.code(), Some(1));
    assert_eq!(bench.sha256(weights), before);
}

#[test]
fn a_mistyped_adapter_is_told_before_anything_is_read() {
    let bench = bench(|_| {}, |_| {});
    let said = bench.bad(&["org/model", "--adapter", "poets", "--offline"], 1);
    assert!(said.contains("no such folder: poets"), "{said}");
    assert!(said.contains("did you mean poet?"), "{said}");
    let said = bench.bad(&["in", "--adapter", "in"], 1);
    assert!(
        said.contains("has no adapter_config.json") && said.contains("save_pretrained"),
        "{said}"
    );
}

#[test]
fn an_adapter_for_another_model_is_noted() {
    let same = bench(|_| {}, |_| {});
    let said = same.good(&["in", "--adapter", "poet", "--dry-run"]);
    assert!(!said.contains("was trained for"), "{said}");
    let other = bench(
        |c| c["base_model_name_or_path"] = json!("org/other"),
        |_| {},
    );
    let said = other.good(&["in", "--adapter", "poet", "--dry-run"]);
    assert!(said.contains("was trained for org/other"), "{said}");
}

#[test]
fn an_adapter_that_is_converted_alone_is_called_one_with_the_command_that_merges_it() {
    let bench = bench(|c| c["base_model_name_or_path"] = json!("in"), |_| {});
    let said = bench.bad(&["poet", "-o", "out/x.gguf"], 1);
    let hint = "modelve convert in --adapter poet";
    assert!(
        said.contains("an adapter (LORA)") && said.contains(hint),
        "{said}"
    );
    let words: Vec<&str> = hint.split(' ').skip(2).collect();
    bench.good(&[&words[..], &["-q", "Q8_0", "-o", "out/x.gguf"]].concat());
}

#[test]
fn adapters_that_cannot_be_merged_are_refused_by_name() {
    let refused = |key: &str, value: Value, words: &[&str]| {
        let bench = bench(|c| c[key] = value, |_| {});
        let said = bench.bad(&MERGE, 1);
        for word in words {
            assert!(said.contains(word), "{key}, {word}: {said}");
        }
    };
    refused("peft_type", json!("IA3"), &["kind IA3"]);
    refused("use_dora", json!(true), &["DoRA", "merge_and_unload"]);
    refused(
        "target_parameters",
        json!(["experts"]),
        &["target_parameters"],
    );
    refused(
        "init_lora_weights",
        json!("pissa"),
        &["pissa", "changes its base"],
    );
    refused("r", json!(0), &["rank 0"]);
    refused("r", json!(1_000_000), &["rank 1000000", "a matrix of 64 ×"]);
    refused("r", json!("8"), &["`r`"]);
    refused("alpha_pattern", json!({"(": 1}), &["alpha_pattern"]);
    refused("rank_pattern", json!({"q_proj": -1}), &["rank_pattern"]);

    let refused = |change: fn(&mut Tensors), words: &[&str]| {
        let said = bench(|_| {}, change).bad(&MERGE, 1);
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
    };
    refused(
        |t| drop(t.remove(&format!("{DOWN}.lora_B.weight"))),
        &["down_proj.lora_A.weight", "matrix B is missing"],
    );
    refused(
        |t| pair(t, DOWN, [64, 96], 4),
        &["down_proj.lora_A.weight", "[4, 96]", "[4, 128]"],
    );
    refused(
        |t| pair(t, DOWN, [64, 128], 5),
        &["down_proj.lora_A.weight", "rank 4"],
    );
    refused(
        |t| {
            pair(
                t,
                "base_model.model.model.layers.7.mlp.up_proj",
                [128, 64],
                4,
            )
        },
        &["layers.7.mlp.up_proj.lora_A.weight", "does not have"],
    );
    refused(
        |t| {
            let magnitude = tensor(&[64], &[0.0; 64]);
            t.insert(format!("{DOWN}.lora_magnitude_vector"), magnitude);
        },
        &["lora_magnitude_vector", "is not a tensor of a LoRA"],
    );
    refused(
        |t| {
            let norm = tensor(&[32], &[0.0; 32]);
            t.insert("base_model.model.model.norm.weight".into(), norm);
        },
        &["model.norm.weight", "[32]", "[64]"],
    );
    refused(
        |t| {
            let (_, shape, data) = t[&format!("{DOWN}.lora_A.weight")].clone();
            let integers = (Stored::I32, shape, data);
            t.insert(format!("{DOWN}.lora_A.weight"), integers);
        },
        &["down_proj.lora_A.weight", "I32"],
    );
    let nothing = bench(|_| {}, |_| {});
    fs::remove_file(nothing.path("poet/adapter_model.safetensors")).unwrap();
    let said = nothing.bad(&MERGE, 1);
    assert!(said.contains("no adapter_model.safetensors"), "{said}");
    fs::remove_file(nothing.path("poet/adapter_config.json")).unwrap();
    let said = nothing.bad(&MERGE, 1);
    assert!(said.contains("no adapter_config.json"), "{said}");
    assert!(read(&fs::read(nothing.path("in/model.safetensors")).unwrap()).len() > 2);
}
