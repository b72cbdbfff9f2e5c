//! Families whose checkpoints are not what llama.cpp wants: matrices stored as columns, norms without
//! the one that is added to them, an expert for each of several tensors.

use super::*;
use modelve::convert::arch;
use safetensors::tensor::TensorView;

const HIDDEN: u64 = 64;

fn config(class: &str, more: Value) -> Value {
    let mut config = json!({
        "architectures": [class], "hidden_size": HIDDEN, "intermediate_size": 96,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": toy::VOCAB, "max_position_embeddings": 512, "eos_token_id": 290,
        "bos_token_id": 1,
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// One of each family.
fn families() -> Vec<Value> {
    let gemma = json!({"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16});
    let experts = json!({"num_local_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "norm_topk_prob": true, "head_dim": 16});
    vec![
        config("Gemma2ForCausalLM", gemma.clone()),
        config("Gemma3ForCausalLM", gemma),
        config(
            "GPT2LMHeadModel",
            json!({"n_embd": HIDDEN, "n_head": 4, "n_layer": 2, "n_positions": 64}),
        ),
        config("PhiForCausalLM", json!({"num_key_value_heads": 4})),
        config("SmolLM3ForCausalLM", json!({})),
        config("MixtralForCausalLM", experts.clone()),
        config("Qwen3MoeForCausalLM", experts.clone()),
        config("GptOssForCausalLM", {
            let mut config = experts;
            config["sliding_window"] = json!(16);
            config
        }),
    ]
}

/// The numbers of a tensor of a checkpoint: all different, small, and other ones in each tensor.
fn numbers(name: &str, shape: &[u64]) -> Vec<f32> {
    let start: usize = name.bytes().map(usize::from).sum();
    let count = shape.iter().product::<u64>() as usize;
    let number = |i: usize| ((start * 7919 + i) % 10_007) as f32 / 100_000.0;
    (0..count).map(number).collect()
}

pub(super) fn checkpoint(config: &Value) -> Bench {
    let bench = Bench::of(&toy::config(|_| {}), Dtype::F32, 1 << 40);
    fs::write(bench.path("in/config.json"), config.to_string()).unwrap();
    let description = arch::describe(config).unwrap();
    let weights = description.weights.iter();
    // Two matrices may come from one tensor.
    let mut seen = std::collections::HashSet::new();
    let tensors: Vec<(&String, Vec<usize>, Vec<u8>)> = weights
        .filter(|weight| !weight.optional)
        .flat_map(|weight| {
            let shape = weight.source_shape();
            weight.sources.iter().map(move |source| {
                let numbers = numbers(source, &shape);
                let bytes = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
                (source, shape.iter().map(|&n| n as usize).collect(), bytes)
            })
        })
        .filter(|(source, _, _): &(&String, Vec<usize>, Vec<u8>)| seen.insert(source.to_string()))
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(bench.path("in/model.safetensors"), bytes).unwrap();
    bench
}

fn written(bench: &Bench, name: &str) -> (Vec<u64>, Vec<f32>) {
    let gguf = Gguf::open(&bench.path("out/x.gguf")).unwrap();
    let tensor = gguf.tensor(name).unwrap_or_else(|| panic!("no {name}"));
    let bytes = gguf.data(tensor).chunks_exact(4);
    let numbers = bytes.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (tensor.shape.clone(), numbers.collect())
}

#[test]
fn every_family_is_converted_verified_and_completed() {
    for config in families() {
        let bench = checkpoint(&config);
        for quant in ["F32", "Q8_0"] {
            let arguments = ["in", "-q", quant, "--verify", "-o", "out/x.gguf", "--force"];
            bench.good(&arguments);
            let mut command = Command::cargo_bin("modelve").unwrap();
            let output = command
                .args(["complete", "-n", "2", "-m"])
                .arg(bench.path("out/x.gguf"))
                .arg("a b")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "{}: {said}",
                config["architectures"]
            );
        }
    }
}

#[test]
fn meta_draws_a_checkpoint_as_the_file_that_it_becomes() {
    for config in families() {
        let bench = checkpoint(&config);
        bench.good(&["in", "-q", "F32", "-o", "out/x.gguf"]);
        let meta = |file: &str| -> Value {
            let mut meta = Command::cargo_bin("modelve").unwrap();
            let told = meta.current_dir(bench.dir.path());
            let told = told.args(["meta", file, "--json"]).output().unwrap();
            serde_json::from_slice(&told.stdout).unwrap()
        };
        let (before, after) = (meta("in"), meta("out/x.gguf"));
        for key in ["n_params", "bits_per_weight", "vocab_size", "quantization"] {
            let class = &config["architectures"];
            assert_eq!(
                before["summary"][key], after["summary"][key],
                "{class} {key}"
            );
        }
    }
    let bench = checkpoint(&families()[2]);
    let mut meta = Command::cargo_bin("modelve").unwrap();
    let told = meta.current_dir(bench.dir.path()).args(["meta", "in"]);
    let told = String::from_utf8(told.output().unwrap().stdout).unwrap();
    assert!(told.contains("Linear 64 → 192"), "{told}");
}

#[test]
fn columns_become_rows() {
    let bench = checkpoint(&families()[2]);
    bench.good(&["in", "-q", "F32", "-o", "out/x.gguf"]);
    let (shape, turned) = written(&bench, "blk.1.ffn_up.weight");
    let (rows, columns) = (4 * HIDDEN as usize, HIDDEN as usize);
    assert_eq!(shape, [HIDDEN, 4 * HIDDEN]);
    let source = numbers("transformer.h.1.mlp.c_fc.weight", &[HIDDEN, 4 * HIDDEN]);
    for (at, number) in turned.iter().enumerate() {
        assert_eq!(*number, source[at % columns * rows + at / columns]);
    }
    let (_, positions) = written(&bench, "position_embd.weight");
    assert_eq!(positions, numbers("transformer.wpe.weight", &[64, HIDDEN]));
}

#[test]
fn norms_get_their_one_and_nothing_else_does() {
    let bench = checkpoint(&families()[1]);
    bench.good(&["in", "-q", "F32", "-o", "out/x.gguf"]);
    let plus = |name: &str, size: u64, number: f32| -> Vec<f32> {
        let numbers = numbers(name, &[size]).into_iter();
        numbers.map(|n| n + number).collect()
    };
    let layer = "model.layers.3";
    for (gguf, source, size) in [
        ("post_ffw_norm", "post_feedforward_layernorm", HIDDEN),
        ("ffn_norm", "pre_feedforward_layernorm", HIDDEN),
        ("attn_q_norm", "self_attn.q_norm", 32),
    ] {
        let (_, norm) = written(&bench, &format!("blk.3.{gguf}.weight"));
        assert_eq!(norm, plus(&format!("{layer}.{source}.weight"), size, 1.0));
    }
    let (_, values) = written(&bench, "blk.3.attn_v.weight");
    let source = format!("{layer}.self_attn.v_proj.weight");
    assert_eq!(values, plus(&source, 64 * HIDDEN, 0.0));
}

#[test]
fn experts_follow_one_another_in_one_tensor() {
    let bench = checkpoint(&families()[5]);
    let json = bench.good(&["in", "-q", "F32", "-o", "out/x.gguf", "--dry-run", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let tensors = json["tensors"].as_array().unwrap().iter();
    let mut experts = tensors.filter(|tensor| tensor["name"] == "blk.2.ffn_up_exps.weight");
    let sources = experts.next().unwrap()["source"].as_array().unwrap();
    assert_eq!(sources.len(), 4);
    bench.good(&["in", "-q", "F32", "-o", "out/x.gguf"]);
    let (shape, joined) = written(&bench, "blk.2.ffn_down_exps.weight");
    assert_eq!(shape, [96, HIDDEN, 4]);
    let each = (96 * HIDDEN) as usize;
    for (expert, numbers_of) in joined.chunks(each).enumerate() {
        let source = format!("model.layers.2.block_sparse_moe.experts.{expert}.w2.weight");
        assert_eq!(numbers_of, numbers(&source, &[HIDDEN, 96]));
    }
}

#[test]
fn gates_and_widening_matrices_are_taken_out_of_one() {
    let bench = checkpoint(&families()[7]);
    bench.good(&["in", "-q", "F32", "-o", "out/x.gguf"]);
    let both = numbers(
        "model.layers.1.mlp.experts.gate_up_proj",
        &[4, HIDDEN, 2 * 96],
    );
    let biases = numbers("model.layers.1.mlp.experts.gate_up_proj_bias", &[4, 2 * 96]);
    for (name, first) in [("gate", 0), ("up", 1)] {
        let (shape, matrix) = written(&bench, &format!("blk.1.ffn_{name}_exps.weight"));
        assert_eq!(shape, [HIDDEN, 96, 4]);
        let (hidden, ffn) = (HIDDEN as usize, 96);
        for (at, number) in matrix.iter().enumerate() {
            let (expert, row, column) = (at / hidden / ffn, at / hidden % ffn, at % hidden);
            let there = (expert * hidden + column) * 2 * ffn + 2 * row + first;
            assert_eq!(*number, both[there], "{name} {at}");
        }
        let (_, bias) = written(&bench, &format!("blk.1.ffn_{name}_exps.bias"));
        let there = biases.iter().skip(first).step_by(2).copied();
        assert_eq!(bias, there.collect::<Vec<f32>>());
    }
}

#[test]
fn pictures_are_left_out_and_that_is_said() {
    let mut with_pictures = families()[1].clone();
    with_pictures["architectures"] = json!(["Gemma3ForConditionalGeneration"]);
    let bench = checkpoint(&with_pictures);
    let path = bench.path("in/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let text = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let picture = [0u8; 16];
    let view = TensorView::new(safetensors::Dtype::F32, vec![4], &picture).unwrap();
    let prefixed = text
        .iter()
        .map(|(name, view)| (format!("language_model.{name}"), view));
    let all = prefixed.chain([("vision_tower.patch.bias".to_owned(), view)]);
    let all = safetensors::serialize(all, None).unwrap();
    fs::write(&path, all).unwrap();
    let output = bench.run(&["in", "-q", "F32", "-o", "out/x.gguf"]);
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("1 tensors of the vision part are left out"),
        "{said}"
    );
}
