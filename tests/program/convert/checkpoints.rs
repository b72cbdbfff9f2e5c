//! Parts of a checkpoint that must be neither passed over nor taken for something else.

use super::*;

fn edit(bench: &Bench, file: &str, change: impl FnOnce(&mut Value)) {
    let path = bench.path(&format!("in/{file}"));
    let text = fs::read_to_string(&path).unwrap_or_else(|_| "{}".to_owned());
    let mut value = serde_json::from_str(&text).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn stop_tokens(bench: &Bench) -> Option<Vec<u64>> {
    bench.good(&["in", "-q", "Q8_0", "--force", "-o", "out/x.gguf"]);
    let gguf = Gguf::open(&bench.path("out/x.gguf")).unwrap();
    let list = gguf.get("modelve.stop_token_ids")?.as_array()?;
    Some(list.iter().filter_map(|id| id.as_u64()).collect())
}

#[test]
fn stop_tokens_are_those_the_checkpoint_lists_or_left_to_llama_cpp() {
    let bench = Bench::new();
    edit(&bench, "generation_config.json", |g| {
        *g = json!({"eos_token_id": [4, 5]})
    });
    edit(&bench, "config.json", |c| {
        c["eos_token_id"] = json!([4, 6, 7])
    });
    let of_both = stop_tokens(&bench).unwrap();
    assert!(
        [4, 5, 6, 7].iter().all(|id| of_both.contains(id)),
        "{of_both:?}"
    );
    // Without settings of generation, transformers goes by config.json.
    fs::remove_file(bench.path("in/generation_config.json")).unwrap();
    let of_config = stop_tokens(&bench).unwrap();
    assert!(
        [4, 6, 7].iter().all(|id| of_config.contains(id)),
        "{of_config:?}"
    );
    // One token, or none, says nothing of others: no list that would pass for a complete one.
    for one in [json!(4), json!(null)] {
        edit(&bench, "config.json", |c| c["eos_token_id"] = one);
        assert_eq!(stop_tokens(&bench), None);
    }
}

#[test]
fn additional_chat_templates_are_kept_by_their_names() {
    let bench = Bench::new();
    edit(&bench, "tokenizer_config.json", |c| {
        drop(c.as_object_mut().unwrap().remove("chat_template"))
    });
    fs::write(bench.path("in/chat_template.jinja"), "MAIN").unwrap();
    fs::create_dir(bench.path("in/additional_chat_templates")).unwrap();
    fs::write(
        bench.path("in/additional_chat_templates/tool_use.jinja"),
        "TOOLS",
    )
    .unwrap();
    fs::write(
        bench.path("in/additional_chat_templates/notes.txt"),
        "no template",
    )
    .unwrap();
    bench.good(&["in", "-q", "Q8_0", "-o", "out/x.gguf"]);
    let gguf = Gguf::open(&bench.path("out/x.gguf")).unwrap();
    let text = |key: &str| Some(gguf.get(key)?.as_str()?.into_owned());
    assert_eq!(text("tokenizer.chat_template").as_deref(), Some("MAIN"));
    assert_eq!(
        text("tokenizer.chat_template.tool_use").as_deref(),
        Some("TOOLS")
    );
    let names = gguf.get("tokenizer.chat_templates").unwrap();
    assert_eq!(names.as_array().unwrap().len(), 1);
}

#[test]
fn two_different_templates_are_noted() {
    let bench = Bench::new();
    edit(&bench, "tokenizer_config.json", |c| {
        c["chat_template"] = json!("ONE")
    });
    fs::write(bench.path("in/chat_template.jinja"), "OTHER").unwrap();
    let said = bench.good(&["in", "-q", "Q8_0", "--dry-run"]);
    assert!(said.contains("different chat templates"), "{said}");
}

#[test]
fn quantized_checkpoints_and_adapters_are_called_what_they_are() {
    for (stated, said) in [
        (
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
            "bitsandbytes, 4 bits",
        ),
        (
            json!({"quant_method": "mxfp4"}),
            "Mxfp4Config(dequantize=True)",
        ),
        (json!({"quant_method": "hqq"}), "(hqq, "),
        (json!({"quant_method": "gptq", "bits": 3}), "gptq, 3 bits"),
        (
            json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}),
            "gptq, in the format marlin",
        ),
        (
            json!({"quant_method": "gptq", "bits": 4, "group_size": 0}),
            "gptq, in groups of 0",
        ),
        (
            json!({"quant_method": "awq", "bits": 4, "version": "gemv"}),
            "awq, in the layout gemv",
        ),
        (
            json!({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 4}}}}),
            "compressed-tensors, in the format nvfp4-pack-quantized",
        ),
        (json!({"bits": 4}), "(unknown, 4 bits"),
    ] {
        let bench = Bench::new();
        edit(&bench, "config.json", |c| c["quantization_config"] = stated);
        let error = bench.bad(&["in", "-o", "out/x.gguf"], 1);
        assert!(
            error.contains(said) && error.contains("quantized already"),
            "{error}"
        );
    }
    let adapter = json!({"peft_type": "LORA", "base_model_name_or_path": "org/base"}).to_string();
    for with_config in [false, true] {
        let bench = Bench::new();
        fs::remove_dir_all(bench.path("in")).unwrap();
        fs::create_dir(bench.path("in")).unwrap();
        fs::write(bench.path("in/adapter_config.json"), &adapter).unwrap();
        fs::write(bench.path("in/adapter_model.safetensors"), "").unwrap();
        if with_config {
            fs::write(
                bench.path("in/config.json"),
                toy::config(|_| {}).to_string(),
            )
            .unwrap();
        }
        let error = bench.bad(&["in", "-o", "out/x.gguf"], 1);
        assert!(
            error.contains("an adapter (LORA)") && error.contains("org/base"),
            "{error}"
        );
    }
}

#[test]
fn files_of_a_checkpoint_that_are_pipes_or_devices_are_not_read() {
    for name in [
        "README.md",
        "tokenizer_config.json",
        "generation_config.json",
    ] {
        let bench = Bench::new();
        let path = bench.path(&format!("in/{name}"));
        drop(fs::remove_file(&path));
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let error = bench.bad(&["in", "-o", "out/x.gguf"], 1);
        assert!(
            error.contains(name) && error.contains("is a pipe or a device"),
            "{error}"
        );
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let error = bench.bad(&["in", "-o", "out/x.gguf"], 1);
        assert!(
            error.contains(name) && error.contains("is a pipe or a device"),
            "{error}"
        );
    }
}

#[test]
fn factors_beside_default_parameters_are_taken_and_noted() {
    let bench = Bench::new();
    edit(&bench, "config.json", |c| {
        c["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 10000.0});
        if c["rope_scaling"].is_null() {
            let heads = c["num_attention_heads"].as_u64().unwrap();
            let pairs = (c["hidden_size"].as_u64().unwrap() / heads / 2) as usize;
            let factors = |x: f32| vec![x; pairs];
            c["rope_scaling"] = json!({"type": "longrope", "long_factor": factors(2.0), "short_factor": factors(1.0)});
        }
    });
    let said = bench.good(&["in", "-q", "Q8_0", "-o", "out/x.gguf"]);
    assert!(said.contains("its factors are used"), "{said}");
    let gguf = Gguf::open(&bench.path("out/x.gguf")).unwrap();
    assert!(gguf.tensor("rope_factors_long.weight").is_some());
}

#[test]
fn weights_that_no_block_can_hold_are_refused() {
    for quant in ["Q6_K", "IQ4_XS", "Q3_K_M", "Q4_K_M", "Q8_0", "F16"] {
        let bench = Bench::of(&toy::config(|_| {}), Dtype::Bf16, 1 << 40);
        // 3.39e38 as BF16.
        poison(
            &bench,
            "model.layers.5.mlp.down_proj.weight",
            300,
            [0x7f, 0x7f],
        );
        let said = bench.bad(&["in", "-q", quant, "-o", "out/x"], 1);
        assert!(said.contains("blk.5.ffn_down.weight"), "{quant}: {said}");
        assert!(said.contains("too large"), "{quant}: {said}");
    }
}

#[test]
fn importance_matrices_that_hold_no_numbers_are_refused() {
    use modelve::gguf::{GgmlType, Layout, Value as Kv};
    let bench = Bench::new();
    let write = |sum: f32, count: f32| {
        let metadata = vec![
            ("general.type".to_owned(), Kv::String("imatrix".into())),
            (
                "imatrix.datasets".to_owned(),
                Kv::Array(["text"].into_iter().collect()),
            ),
            ("imatrix.chunk_count".to_owned(), Kv::U32(1)),
            ("imatrix.chunk_size".to_owned(), Kv::U32(512)),
        ];
        let name = "blk.0.ffn_down.weight";
        let infos = vec![
            (format!("{name}.in_sum2"), vec![4], GgmlType::F32),
            (format!("{name}.counts"), vec![1], GgmlType::F32),
        ];
        let layout = Layout::new(&metadata, &infos).unwrap();
        let mut file = layout.header().to_vec();
        for (info, values) in layout.tensors().iter().zip([vec![sum; 4], vec![count]]) {
            file.resize(info.offset as usize, 0);
            file.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        }
        file.resize(layout.file_size() as usize, 0);
        fs::write(bench.path("imatrix.gguf"), file).unwrap();
    };
    for (sum, count, what) in [
        (1.0, f32::NAN, "a count of NaN"),
        (1.0, -1.0, "a count of -1"),
        (f32::INFINITY, 1.0, "a sum of inf"),
        (-2.0, 1.0, "a sum of -2"),
    ] {
        write(sum, count);
        let said = bench.bad(&["in", "--imatrix", "imatrix.gguf", "-o", "out/x"], 1);
        assert!(said.contains(what), "{said}");
    }
    // An output that is the importance matrix stays what it is.
    write(1.0, 1.0);
    let before = bench.sha256("imatrix.gguf");
    let arguments = [
        "in",
        "-q",
        "Q8_0",
        "--imatrix",
        "imatrix.gguf",
        "--force",
        "-o",
        "imatrix.gguf",
    ];
    let output = bench.run(&arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(bench.sha256("imatrix.gguf"), before);
}
