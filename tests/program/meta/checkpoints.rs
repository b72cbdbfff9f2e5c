//! `modelve meta` of a checkpoint that is not converted yet.

use super::*;

/// A checkpoint of zeros in the Hub's layout, its tensors dealt out to `shards` files.
fn checkpoint(shards: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "architectures": ["Phi3ForCausalLM"], "hidden_size": 256, "intermediate_size": 512,
        "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 320,
        "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
    });
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let description = modelve::convert::arch::describe(&config).unwrap();
    let zeros = vec![0u8; 2 * 256 * 1024];
    let mut map = serde_json::Map::new();
    for shard in 0..shards {
        let file = match shards {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{shards:05}.safetensors", shard + 1),
        };
        let mine = description.weights.iter().skip(shard).step_by(shards);
        let views: Vec<_> = mine
            .map(|weight| {
                let shape: Vec<usize> = weight.shape.iter().map(|&n| n as usize).collect();
                let bytes = shape.iter().product::<usize>() * 2;
                let ty = safetensors::Dtype::BF16;
                let view = safetensors::tensor::TensorView::new(ty, shape, &zeros[..bytes]);
                map.insert(weight.sources[0].clone(), file.clone().into());
                (weight.sources[0].clone(), view.unwrap())
            })
            .collect();
        let path = dir.path().join(&file);
        safetensors::serialize_to_file(views, None, &path).unwrap();
    }
    if shards > 1 {
        let index = serde_json::json!({"metadata": {}, "weight_map": map});
        let path = dir.path().join("model.safetensors.index.json");
        std::fs::write(path, index.to_string()).unwrap();
    }
    dir
}

#[test]
fn a_checkpoint_is_drawn_as_its_gguf_will_be() {
    let one = checkpoint(1);
    let text = stdout(&mut meta(one.path()));
    assert!(text.contains("layers (0–2): 3 ×"), "{text}");
    assert_eq!(
        row(&text, "qkv_proj")[..3],
        ["attn_qkv", "Linear 256 → 768", "BF16"]
    );
    assert!(text.contains("context 8,192 · vocabulary 320 · 3 layers"));
    assert!(text.contains("quantized as") && text.contains("KV cache"));

    let folder = Path::new(one.path().file_name().unwrap());
    let beside = meta(folder)
        .current_dir(one.path().parent().unwrap())
        .assert()
        .success();
    let beside = String::from_utf8_lossy(&beside.get_output().stdout).into_owned();
    assert!(beside.contains("layers (0–2): 3 ×"), "by a relative path");

    let sharded = checkpoint(2);
    let tree = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.contains('─'));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(tree(&stdout(&mut meta(sharded.path()))), tree(&text));

    let report = json(&mut meta(sharded.path()));
    let tensors = report["tensors"].as_array().unwrap();
    assert_eq!(report["shape_order"], "slowest dimension first");
    let down = tensors
        .iter()
        .find(|t| t["name"] == "model.layers.1.mlp.down_proj.weight");
    let down = down.unwrap();
    assert_eq!(down["gguf_name"], "blk.1.ffn_down.weight");
    assert_eq!(down["shape"], serde_json::json!([256, 512]));
    assert_eq!(down["type"], "BF16");
    let text = stdout(meta(sharded.path()).args(["--sort", "size"]));
    assert!(
        text.lines().nth(1).unwrap().contains("gate_up_proj"),
        "{text}"
    );
    meta(one.path()).arg("--kv").assert().code(2);
}

#[test]
fn sizes_by_quantization_follow_the_recipes() {
    let (_dir, model) = write(
        &Tiny {
            width: 256,
            feed_forward: 512,
            ..Tiny::default()
        }
        .parts(),
    );
    let report = json(&mut meta(&model));
    let sizes = report["sizing"]["quantizations"].as_array().unwrap();
    let names: Vec<&str> = sizes.iter().map(|q| q["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["F32", "F16", "Q8_0", "Q4_K_M", "Q4_0"]);
    // The file is F32 as it stands, but for the padding between tensors.
    let f32 = sizes[0]["bytes"].as_u64().unwrap();
    assert_eq!(f32, report["size_bytes"].as_u64().unwrap());
    let bytes: Vec<u64> = sizes.iter().map(|q| q["bytes"].as_u64().unwrap()).collect();
    assert!(bytes.is_sorted_by(|a, b| a > b), "{bytes:?}");
}
