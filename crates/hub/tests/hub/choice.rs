//! Which files of a repository are fetched.

use super::*;

#[test]
fn rejects_a_weight_map_that_leaves_the_folder() {
    for name in [
        "../evil",
        "/etc/evil",
        "a/../../evil",
        "..\\\\evil",
        "C:evil",
    ] {
        let bench = Bench::new();
        let index = format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#);
        bench
            .server
            .small(REPO, "model.safetensors.index.json", index.as_bytes());
        bench
            .server
            .large(REPO, &name.replace("\\\\", "\\"), b"evil");
        let error = bench.fail();
        assert!(matches!(error, Error::Select { .. }), "{name}: {error:?}");
        assert!(bench.server.ranges("evil").is_empty());
    }
}

#[test]
fn an_index_must_fit_the_repository() {
    let bench = Bench::new();
    bench.server.remove(REPO, SHARD_2);
    let error = bench.fail();
    assert!(
        matches!(&error, Error::NoShard { shard, .. } if shard == SHARD_2),
        "{error:?}"
    );

    let bench = Bench::new();
    bench.server.remove(REPO, "model.safetensors.index.json");
    let error = bench.fail();
    assert!(
        error
            .to_string()
            .starts_with("org/phi has no safetensors, only README.md"),
        "{error}"
    );
}

#[test]
fn an_unsharded_checkpoint_needs_no_index() {
    let bench = Bench::new();
    bench
        .server
        .repo("o/one")
        .small("o/one", "config.json", b"{}");
    bench.server.large("o/one", "model.safetensors", &shard(5));
    let fetched = bench.try_fetch("o/one", Wanted::Any).unwrap();
    assert_eq!(
        fs::read(fetched.folder.join("model.safetensors")).unwrap(),
        shard(5)
    );
    assert_eq!(fetched.gguf, None);
}

#[test]
fn a_gguf_is_fetched_by_its_quantization() {
    let bench = Bench::new();
    let repo = "o/phi-GGUF";
    bench.server.repo(repo);
    for name in [
        "phi-Q4_K_M.gguf",
        "phi-Q8_0.gguf",
        "big/phi-BF16-00001-of-00002.gguf",
        "big/phi-BF16-00002-of-00002.gguf",
    ] {
        bench.server.large(repo, name, name.as_bytes());
    }
    let fetched = bench.try_fetch("o/phi-GGUF:q8_0", Wanted::Any).unwrap();
    assert_eq!(fetched.gguf, Some(fetched.folder.join("phi-Q8_0.gguf")));
    assert_eq!(names(&fetched.folder), ["phi-Q8_0.gguf"]);

    let fetched = bench.try_fetch("o/phi-GGUF:BF16", Wanted::Gguf).unwrap();
    let first = fetched.gguf.unwrap();
    assert!(first.ends_with("big/phi-BF16-00001-of-00002.gguf"));
    assert_eq!(names(first.parent().unwrap()).len(), 2);

    let fetched = bench.try_fetch("o/phi-GGUF", Wanted::Any).unwrap();
    assert!(
        fetched.gguf.unwrap().ends_with("phi-Q4_K_M.gguf"),
        "the default"
    );

    let error = bench.try_fetch("o/phi-GGUF:Q5_0", Wanted::Any).unwrap_err();
    assert_eq!(
        error.to_string(),
        "o/phi-GGUF has no GGUF file Q5_0, only BF16, Q4_K_M, Q8_0"
    );
    assert_eq!(
        error.hint().unwrap(),
        "choose one of them: modelve get o/phi-GGUF:Q8_0"
    );
    bench.server.remove(repo, "phi-Q4_K_M.gguf");
    let error = bench.try_fetch("o/phi-GGUF", Wanted::Any).unwrap_err();
    assert!(
        matches!(&error, Error::WhichGguf { names, .. } if names == &["BF16", "Q8_0"]),
        "{error:?}"
    );
    assert_eq!(
        error.hint().unwrap(),
        "name one: modelve get o/phi-GGUF:BF16"
    );
    bench
        .server
        .remove(repo, "big/phi-BF16-00002-of-00002.gguf");
    let error = bench.try_fetch("o/phi-GGUF:BF16", Wanted::Any).unwrap_err();
    assert!(
        error.to_string().contains("complete set of the parts"),
        "{error}"
    );
}

#[test]
fn a_label_is_matched_against_names_as_people_write_them() {
    let mut bench = Bench::new();
    let repo = "org/Phi-GGUF";
    bench.server.repo(repo);
    for label in ["q4", "fp16", "UD-Q4_K_XL", "IQ2_M", "MXFP4_MOE"] {
        let name = format!("Phi-3-mini-4k-instruct-{label}.gguf");
        bench.server.large(repo, &name, name.as_bytes());
    }
    for offline in [false, true] {
        bench.options.offline = offline;
        for (label, file) in [
            ("FP16", "fp16"),
            ("q4", "q4"),
            ("UD-Q4_K_XL", "UD-Q4_K_XL"),
            ("IQ2_M", "IQ2_M"),
            ("MXFP4", "MXFP4_MOE"),
        ] {
            let fetched = bench
                .try_fetch(&format!("{repo}:{label}"), Wanted::Gguf)
                .unwrap();
            let name = format!("Phi-3-mini-4k-instruct-{file}.gguf");
            assert!(fetched.gguf.unwrap().ends_with(&name), "{label}");
        }
        let error = bench
            .try_fetch("org/Phi-GGUF:4k", Wanted::Gguf)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "org/Phi-GGUF holds several GGUF files that 4K fits: IQ2_M, MXFP4_MOE, UD-Q4_K_XL, fp16, q4"
        );
    }
}
