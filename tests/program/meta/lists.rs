//! The lists of `modelve meta`: metadata, tensors, JSON.

use super::*;

#[test]
fn json_has_the_documented_keys_and_says_what_the_reader_says() {
    let (_dir, model) = write(&Tiny::default().parts());
    let report = json(meta(&model).arg("--full"));
    let keys: Vec<_> = report
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "file",
            "kind",
            "gguf_version",
            "alignment",
            "size_bytes",
            "n_params",
            "summary",
            "sizing",
            "metadata",
            "shape_order",
            "tensors"
        ]
    );
    let gguf = Gguf::open(&model).unwrap();
    assert_eq!(report["file"], model.to_str().unwrap());
    assert_eq!(report["gguf_version"], 3);
    assert_eq!(
        report["size_bytes"],
        std::fs::metadata(&model).unwrap().len()
    );
    assert_eq!(report["n_params"], gguf.n_params());
    let tensors = report["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), gguf.tensors().len());
    for (json, tensor) in tensors.iter().zip(gguf.tensors()) {
        let expected = serde_json::json!({
            "name": tensor.name, "shape": tensor.shape, "type": tensor.ty.name(),
            "n_elements": tensor.n_elements(), "bytes": tensor.bytes, "offset": tensor.offset,
        });
        assert_eq!(*json, expected);
    }
    assert_eq!(
        report["metadata"]["phi3.block_count"],
        serde_json::json!({"type": "uint32", "value": 2})
    );
    let tokens = &report["metadata"]["tokenizer.ggml.tokens"];
    assert_eq!(tokens["element_type"], "string");
    assert_eq!(tokens["value"].as_array().unwrap().len(), tokens["length"]);
}

#[test]
fn long_arrays_are_cut_unless_full() {
    let (_dir, model) = write(&Tiny::default().parts());
    let size = tiny_gguf::vocabulary().0.len();
    let cut = &json(&mut meta(&model))["metadata"]["tokenizer.ggml.tokens"];
    assert_eq!(cut["length"], size);
    assert_eq!(cut["cut"], true);
    assert_eq!(cut["value"].as_array().unwrap().len(), 8);

    let text = stdout(meta(&model).arg("--kv"));
    let line = |text: &str| {
        text.lines()
            .find(|l| l.contains("ggml.tokens"))
            .unwrap()
            .to_owned()
    };
    assert!(
        line(&text).ends_with(&format!("… {} more]", size - 8)),
        "{}",
        line(&text)
    );
    assert!(line(&text).contains(&format!("string[{size}]")));
    let full = stdout(meta(&model).arg("--full"));
    assert!(line(&full).ends_with(r#""<|user|>"]"#));
}

#[test]
fn filter_and_sort_apply_to_lists_and_json() {
    let (_dir, model) = write(&Tiny::default().parts());
    let text = stdout(meta(&model).args(["--filter", r"blk\.1\.attn_q|block_count"]));
    let names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(
        names,
        ["phi3.block_count", "", "name", "blk.1.attn_qkv.weight"]
    );

    let report = json(meta(&model).args(["--filter", "block_count|output_norm"]));
    assert_eq!(report["metadata"].as_object().unwrap().len(), 1);
    assert_eq!(report["tensors"].as_array().unwrap().len(), 1);

    let order = |sort: &str| -> Vec<String> {
        let text = stdout(meta(&model).args(["--sort", sort]));
        let rows = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split(' ').next());
        rows.map(str::to_owned).collect()
    };
    assert_eq!(order("file")[0], "token_embd.weight");
    assert_eq!(order("name")[0], "blk.0.attn_norm.weight");
    let gguf = Gguf::open(&model).unwrap();
    let sizes: Vec<_> = order("size")
        .iter()
        .map(|name| gguf.tensor(name).unwrap().bytes)
        .collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b));
    assert_eq!(sizes.len(), gguf.tensors().len());
}
