//! Checkpoints of dense decoders other than Phi-3: which tensors, in which order of rows, and what is
//! refused.

use super::*;
use safetensors::tensor::TensorView;

const WIDTH: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const FFN: usize = 128;

/// A checkpoint of one layer. Row `i` of every matrix holds the number `i`.
pub(super) fn checkpoint(class: &str, change: impl FnOnce(&mut Value)) -> Bench {
    let bench = Bench::of(&toy::config(|_| {}), Dtype::F32, 1 << 40);
    let mut config = json!({
        "architectures": [class], "hidden_size": WIDTH, "intermediate_size": FFN,
        "num_hidden_layers": 1, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "head_dim": WIDTH / HEADS, "vocab_size": toy::VOCAB, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "eos_token_id": 290, "bos_token_id": 1,
        "tie_word_embeddings": true,
    });
    change(&mut config);
    fs::write(bench.path("in/config.json"), config.to_string()).unwrap();
    let (query, key) = (WIDTH, WIDTH / HEADS * KV_HEADS);
    let mut shapes = vec![
        (
            "model.embed_tokens.weight".to_owned(),
            vec![toy::VOCAB as usize, WIDTH],
        ),
        ("model.norm.weight".to_owned(), vec![WIDTH]),
    ];
    for (name, shape) in [
        ("input_layernorm", vec![WIDTH]),
        ("post_attention_layernorm", vec![WIDTH]),
        ("self_attn.q_proj", vec![query, WIDTH]),
        ("self_attn.k_proj", vec![key, WIDTH]),
        ("self_attn.v_proj", vec![key, WIDTH]),
        ("self_attn.o_proj", vec![WIDTH, query]),
        ("mlp.gate_proj", vec![FFN, WIDTH]),
        ("mlp.up_proj", vec![FFN, WIDTH]),
        ("mlp.down_proj", vec![WIDTH, FFN]),
    ] {
        shapes.push((format!("model.layers.0.{name}.weight"), shape.clone()));
        let biased = config["attention_bias"] == true || class == "Qwen2ForCausalLM";
        let [rows, _] = shape[..] else { continue };
        let takes_one = match name {
            "self_attn.q_proj" | "self_attn.k_proj" | "self_attn.v_proj" => biased,
            "self_attn.o_proj" => config["attention_bias"] == true,
            _ => false,
        };
        if takes_one {
            shapes.push((format!("model.layers.0.{name}.bias"), vec![rows]));
        }
    }
    let data: Vec<Vec<u8>> = shapes
        .iter()
        .map(|(_, shape)| {
            let columns = shape.get(1).copied().unwrap_or(1);
            let rows = (0..shape[0]).flat_map(|row| vec![row as f32; columns]);
            rows.flat_map(f32::to_le_bytes).collect()
        })
        .collect();
    let views = shapes.iter().zip(&data).map(|((name, shape), data)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap();
        (name.as_str(), view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(bench.path("in/model.safetensors"), bytes).unwrap();
    bench
}

/// The first number of each row of a tensor of an F32 file.
fn rows(bench: &Bench, name: &str) -> Vec<f32> {
    let gguf = Gguf::open(&bench.path("out/x.gguf")).unwrap();
    let tensor = gguf.tensor(name).unwrap_or_else(|| panic!("no {name}"));
    let columns = match tensor.shape[..] {
        [columns, _] => columns as usize,
        _ => 1,
    };
    let bytes = gguf.data(tensor);
    let numbers = bytes.chunks_exact(4);
    let numbers = numbers.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    numbers.step_by(columns).collect()
}

/// What numpy's `reshape(heads, 2, size / 2).swapaxes(1, 2)` makes of so many rows.
fn interleaved(heads: usize) -> Vec<f32> {
    let size = WIDTH / HEADS;
    let of = |row: usize| row / size * size + row % size / 2 + row % 2 * (size / 2);
    (0..heads * size).map(|row| of(row) as f32).collect()
}

fn in_order(rows: usize) -> Vec<f32> {
    (0..rows).map(|row| row as f32).collect()
}

#[test]
fn only_llamas_queries_and_keys_are_reordered() {
    let size = WIDTH / HEADS;
    let bench = checkpoint("LlamaForCausalLM", |c| c["attention_bias"] = json!(true));
    bench.good(&["in", "-q", "F32", "--verify", "-o", "out/x.gguf"]);
    for end in ["weight", "bias"] {
        assert_eq!(
            rows(&bench, &format!("blk.0.attn_q.{end}")),
            interleaved(HEADS)
        );
        assert_eq!(
            rows(&bench, &format!("blk.0.attn_k.{end}")),
            interleaved(KV_HEADS)
        );
        let values = rows(&bench, &format!("blk.0.attn_v.{end}"));
        assert_eq!(values, in_order(KV_HEADS * size));
    }
    assert_eq!(rows(&bench, "blk.0.ffn_down.weight"), in_order(WIDTH));

    let bench = checkpoint("Qwen2ForCausalLM", |_| {});
    bench.good(&["in", "-q", "F32", "--verify", "-o", "out/x.gguf"]);
    for end in ["weight", "bias"] {
        assert_eq!(
            rows(&bench, &format!("blk.0.attn_q.{end}")),
            in_order(WIDTH)
        );
    }
}

#[test]
fn what_llama_cpp_would_compute_otherwise_is_refused_or_told() {
    let refused = |key: &str, value: Value, expected: &str| {
        let bench = checkpoint("MistralForCausalLM", |c| c[key] = value);
        let said = bench.bad(&["in", "-o", "out/x.gguf"], 1);
        assert!(said.contains(expected), "{said}");
    };
    refused("hidden_act", json!("gelu"), "`hidden_act` is gelu");
    refused(
        "num_key_value_heads",
        json!(3),
        "it must divide num_attention_heads 4",
    );
    refused("head_dim", json!(7), "an even size is needed");
    let scaling = json!({"type": "dynamic", "factor": 2.0});
    refused(
        "rope_scaling",
        scaling,
        "supported: default, linear, yarn, llama3",
    );

    let bench = checkpoint("MistralForCausalLM", |c| c["sliding_window"] = json!(128));
    let output = bench.run(&["in", "--dry-run"]);
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(said.contains("texts of more than 128 tokens"), "{said}");
}
