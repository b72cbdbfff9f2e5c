use super::*;

/// Models by the names of their files.
fn models(names: &[&str]) -> Vec<GgufModel> {
    gguf_models(names.iter().copied())
}

/// The first file of what a label means, or the labels of what it could mean.
fn chosen(models: &[GgufModel], label: &str) -> Result<String, Vec<String>> {
    match choose(models, Some(label)) {
        Choice::One(model) => Ok(model.files[0].clone()),
        Choice::Several(several) => Err(unique_labels(models, several)),
        Choice::None => Err(Vec::new()),
    }
}

#[test]
fn labels_are_found_in_the_names_people_use() {
    for (stem, label) in [
        ("Phi-3-mini-4k-instruct-q4", Some("q4")),
        ("Phi-3-mini-128k-instruct.Q4_K_M", Some("Q4_K_M")),
        ("Phi-3-mini-128k-instruct.i1-IQ4_XS", Some("IQ4_XS")),
        ("model_q8_0", Some("q8_0")),
        ("Phi-3-mini-4k-instruct-fp16", Some("fp16")),
        ("x-UD-Q4_K_XL", Some("UD-Q4_K_XL")),
        ("gpt-oss-20b-MXFP4_MOE", Some("MXFP4_MOE")),
        ("x-Q4_0_4_4", Some("Q4_0_4_4")),
        ("ggml-model-i2_s", Some("i2_s")),
        ("Qwen2-0.5B-Q8-merge-Q4_K_M", Some("Q4_K_M")),
        ("x-Q4_K_M-v2", Some("Q4_K_M-v2")),
        ("Phi-3-mini-128k-instruct", None),
        ("Q4_K_M", Some("Q4_K_M")),
        ("Qwen2", None),
        ("cloud-UD", None),
        ("", None),
    ] {
        assert_eq!(label_of(stem), label, "{stem}");
    }
}

#[test]
fn a_label_means_one_file_as_its_publisher_named_it() {
    let microsoft = models(&[
        "Phi-3-mini-4k-instruct-fp16.gguf",
        "Phi-3-mini-4k-instruct-q4.gguf",
    ]);
    let unsloth = models(&[
        "Qwen3-8B-UD-Q4_K_XL.gguf",
        "Qwen3-8B-Q4_K_M.gguf",
        "Qwen3-8B-Q4_0.gguf",
        "Qwen3-8B-IQ4_XS.gguf",
        "Qwen3-8B-Q6_K.gguf",
        "Qwen3-8B-MXFP4_MOE.gguf",
        "Qwen3-8B-IQ2_M.gguf",
        "BF16/Qwen3-8B-BF16-00001-of-00002.gguf",
        "BF16/Qwen3-8B-BF16-00002-of-00002.gguf",
    ]);
    let others = models(&[
        "x.i1-Q4_K_S.gguf",
        "x.Q4_K_S.gguf",
        "x-Q4_0_4_4.gguf",
        "x-Q5_K_M-v2.gguf",
        "Q8_0/model-00001-of-00001.gguf",
    ]);
    for (models, label, file) in [
        (&microsoft, "FP16", "Phi-3-mini-4k-instruct-fp16.gguf"),
        (&microsoft, "F16", "Phi-3-mini-4k-instruct-fp16.gguf"),
        (&microsoft, "q4", "Phi-3-mini-4k-instruct-q4.gguf"),
        (
            &microsoft,
            "Phi-3-mini-4k-instruct-q4",
            "Phi-3-mini-4k-instruct-q4.gguf",
        ),
        (&unsloth, "UD-Q4_K_XL", "Qwen3-8B-UD-Q4_K_XL.gguf"),
        (&unsloth, "Q4_K_XL", "Qwen3-8B-UD-Q4_K_XL.gguf"),
        (&unsloth, "q4-k-m", "Qwen3-8B-Q4_K_M.gguf"),
        (&unsloth, "UD", "Qwen3-8B-UD-Q4_K_XL.gguf"),
        (&unsloth, "K_M", "Qwen3-8B-Q4_K_M.gguf"),
        (&unsloth, "q4km", "Qwen3-8B-Q4_K_M.gguf"),
        (&unsloth, "iq4", "Qwen3-8B-IQ4_XS.gguf"),
        (&unsloth, "IQ2_M", "Qwen3-8B-IQ2_M.gguf"),
        (&unsloth, "mxfp4_moe", "Qwen3-8B-MXFP4_MOE.gguf"),
        (&unsloth, "MXFP4", "Qwen3-8B-MXFP4_MOE.gguf"),
        (&unsloth, "q6", "Qwen3-8B-Q6_K.gguf"),
        (&unsloth, "bf16", "BF16/Qwen3-8B-BF16-00001-of-00002.gguf"),
        (&others, "i1-q4_k_s", "x.i1-Q4_K_S.gguf"),
        (&others, "x.Q4_K_S.gguf", "x.Q4_K_S.gguf"),
        (&others, "Q5_K_M", "x-Q5_K_M-v2.gguf"),
        (&others, "q8_0", "Q8_0/model-00001-of-00001.gguf"),
        (
            &others,
            "Q8_0/model-00001-of-00001",
            "Q8_0/model-00001-of-00001.gguf",
        ),
    ] {
        assert_eq!(chosen(models, label), Ok(file.to_owned()), "{label}");
    }
    for (models, label, could) in [
        // Only `F16` has another spelling: bfloat16 is another type.
        (&microsoft, "bf16", vec![]),
        (&microsoft, "Q4_K_M", vec![]),
        (&unsloth, "q4", vec!["Q4_0", "Q4_K_M", "UD-Q4_K_XL"]),
        (&unsloth, "Q4_K", vec![]),
        (&others, "Q4_0", vec![]),
        (&others, "Q4_K_S", vec!["x.Q4_K_S", "i1-Q4_K_S"]),
        (&microsoft, "4k", vec!["fp16", "q4"]),
        (&others, "nothing", vec![]),
    ] {
        let could = could.into_iter().map(str::to_owned).collect();
        assert_eq!(chosen(models, label), Err(could), "{label}");
    }
}

#[test]
fn every_model_has_an_address_that_means_it() {
    let models = models(&[
        "x.Q4_K_S.gguf",
        "x.i1-Q4_K_S.gguf",
        "a/y-Q8_0.gguf",
        "b/y-Q8_0.gguf",
        "z.gguf",
        "z-f16.gguf",
        "z-fp16.gguf",
        "big/Q6_K/z.gguf",
    ]);
    let mut seen = std::collections::BTreeSet::new();
    for model in &models {
        let label = unique_label(&models, model);
        assert_eq!(
            chosen(&models, &label),
            Ok(model.files[0].clone()),
            "{label}"
        );
        assert!(seen.insert(label));
        let id: crate::HubId = format!("o/n:{}", unique_label(&models, model))
            .parse()
            .unwrap();
        assert_eq!(
            chosen(&models, id.quant.as_deref().unwrap()),
            Ok(model.files[0].clone()),
            "in capitals, too"
        );
    }
}

#[test]
fn without_a_label_the_default_or_the_only_one_is_meant() {
    let one = models(&["x-Q2_K.gguf"]);
    assert_eq!(choose(&one, None), Choice::One(&one[0]));
    let two = models(&["x-Q2_K.gguf", "x-q4_k_m.gguf"]);
    assert_eq!(choose(&two, None), Choice::One(&two[1]));
    let none = models(&["x-Q2_K.gguf", "x-Q8_0.gguf"]);
    assert!(matches!(choose(&none, None), Choice::Several(all) if all.len() == 2));
    assert_eq!(choose::<GgufModel>(&[], None), Choice::None);
}

#[test]
fn split_files_are_grouped_and_incomplete_ones_told() {
    let models = models(&[
        "b/x-Q4_0-00002-of-00002.gguf",
        "b/x-Q4_0-00001-of-00002.gguf",
        "x-Q4_K_M.gguf",
        "x-Q8_0-00001-of-00002.gguf",
        "x-Q8_0-00001-of-00002.GGUF",
        "mmproj-x-f16.gguf",
        "x.imatrix.gguf",
        "README.md",
        "x-Q4_K_S.GGUF",
        "../x-Q6_K.gguf",
    ]);
    let seen: Vec<_> = models
        .iter()
        .map(|m| (m.label(), m.files.len(), m.complete))
        .collect();
    assert_eq!(
        seen,
        [
            ("Q4_0", 2, true),
            ("Q4_K_M", 1, true),
            ("Q4_K_S", 1, true),
            ("Q8_0", 1, false)
        ]
    );
    assert_eq!(models[0].files[0], "b/x-Q4_0-00001-of-00002.gguf");
}

#[test]
fn a_message_names_a_dozen_models() {
    let names: Vec<String> = (0..5000).map(|n| format!("m{n}-Q8_0.gguf")).collect();
    let many = gguf_models(names.iter().map(String::as_str));
    let named = unique_labels(&many, &many);
    assert_eq!(named.len(), 13);
    assert_eq!(named[12], "4988 more");
}
