use super::*;

fn touch(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "x").unwrap();
}

fn id(text: &str) -> HubId {
    text.parse().unwrap()
}

/// A store and a cache in a temporary folder, which exists as long as the first value.
fn places() -> (tempfile::TempDir, Store, Cache) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::in_folder(dir.path().join("store"));
    let cache = Cache::in_folder(dir.path().join("hub"));
    (dir, store, cache)
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn touch_cached(cache: &Cache, repo: &str, file: &str) -> PathBuf {
    let repo = cache
        .root()
        .join(format!("models--{}", repo.replace('/', "--")));
    touch(&repo.join("refs/main"));
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    let path = repo.join("snapshots").join(COMMIT).join(file);
    touch(&path);
    path
}

#[test]
fn arguments_are_paths_ids_or_tiny() {
    assert_eq!(ModelRef::parse("tiny"), ModelRef::Tiny);
    assert_eq!(
        ModelRef::parse("o/n@v1:q4_0"),
        ModelRef::Hub(id("o/n@v1:Q4_0"))
    );
    for path in [
        "./o/n",
        "/o/n",
        "o/n.gguf",
        "o\\n",
        "src/store.rs",
        "word",
        "a/b/c",
    ] {
        assert_eq!(ModelRef::parse(path), ModelRef::Path(path.into()), "{path}");
    }
}

#[test]
fn a_folder_is_a_checkpoint_or_its_only_gguf() {
    let (dir, ..) = places();
    let folder = dir.path().join("m");
    touch(&folder.join("config.json"));
    let error = locate_path(&folder, &[]).unwrap_err();
    assert!(error.to_string().contains("only config.json"), "{error}");

    touch(&folder.join("x-Q4_0.gguf"));
    let gguf = Located::Gguf(folder.join("x-Q4_0.gguf"));
    assert_eq!(locate_path(&folder, &[]).unwrap(), gguf);

    touch(&folder.join("model.safetensors"));
    let checkpoint = Located::Checkpoint(folder.clone());
    assert_eq!(locate_path(&folder, &[]).unwrap(), checkpoint);
    for file in ["config.json", "model.safetensors"] {
        assert_eq!(locate_path(&folder.join(file), &[]).unwrap(), checkpoint);
    }
}

#[test]
fn several_ggufs_in_a_folder_are_listed() {
    let (dir, ..) = places();
    for name in [
        "a-Q4_0.gguf",
        "a-Q8_0-00001-of-00002.gguf",
        "a-Q8_0-00002-of-00002.gguf",
    ] {
        touch(&dir.path().join(name));
    }
    match locate_path(dir.path(), &[]).unwrap_err() {
        Error::SeveralInFolder { names, .. } => {
            assert_eq!(names, ["a-Q4_0.gguf", "a-Q8_0-00001-of-00002.gguf"]);
        }
        error => panic!("{error}"),
    }
}

#[test]
fn any_part_of_a_split_model_leads_to_the_first() {
    let (dir, ..) = places();
    let part = |n| dir.path().join(format!("a-0000{n}-of-00003.gguf"));
    touch(&part(2));
    let error = locate_path(&part(2), &[]).unwrap_err();
    assert!(
        matches!(&error, Error::NoFirstPart { path } if *path == part(1)),
        "{error}"
    );
    touch(&part(1));
    assert_eq!(locate_path(&part(2), &[]).unwrap(), Located::Gguf(part(1)));
}

#[test]
fn a_mistyped_path_gets_suggestions() {
    let (dir, ..) = places();
    touch(&dir.path().join("Phi-3-mini-Q4_K_M.gguf"));
    let error = locate_path(&dir.path().join("Phi-3-mini-Q4_KM.gguf"), &[]).unwrap_err();
    let hint = error.hint().unwrap();
    assert!(hint.contains("Phi-3-mini-Q4_K_M.gguf?"), "{hint}");

    let known = ["microsoft/Phi-3-mini-128k-instruct".to_owned()];
    let error = locate_path(Path::new("phi-3-mini-128k-instruct"), &known).unwrap_err();
    assert!(
        error.hint().unwrap().contains(&known[0]),
        "{:?}",
        error.hint()
    );
}

#[test]
fn a_hub_id_is_found_in_the_store_before_the_cache() {
    let (_dir, store, cache) = places();
    let cached = touch_cached(&cache, "o/n", "sub/n-Q4_K_M.gguf");
    let want = id("o/n:Q4_K_M");
    assert_eq!(
        locate_hub(&want, &store, &cache).unwrap(),
        Located::Gguf(cached)
    );
    let stored = store.gguf_path(&want, "Q4_K_M");
    touch(&stored);
    assert_eq!(
        locate_hub(&want, &store, &cache).unwrap(),
        Located::Gguf(stored)
    );
}

#[test]
fn without_a_quantization_the_default_or_the_only_one_is_taken() {
    let (_dir, store, cache) = places();
    let n = id("o/n");
    touch(&store.gguf_path(&n, "Q4_0"));
    let only = locate_hub(&n, &store, &cache).unwrap();
    assert_eq!(only, Located::Gguf(store.gguf_path(&n, "Q4_0")));
    touch(&store.gguf_path(&n, "Q8_0"));
    let error = locate_hub(&n, &store, &cache).unwrap_err();
    assert!(
        matches!(&error, Error::WhichQuant { have, .. } if have == &["Q4_0", "Q8_0"]),
        "{error}"
    );
    touch(&store.gguf_path(&n, "Q4_K_M"));
    let default = locate_hub(&n, &store, &cache).unwrap();
    assert_eq!(default, Located::Gguf(store.gguf_path(&n, "Q4_K_M")));
}

#[test]
fn a_cached_gguf_needs_no_quantization_in_its_name() {
    let (_dir, store, cache) = places();
    let file = touch_cached(&cache, "o/n", "n.gguf");
    let found = locate_hub(&id("o/n"), &store, &cache).unwrap();
    assert_eq!(found, Located::Gguf(file));
    let error = locate_hub(&id("o/n:Q4_0"), &store, &cache).unwrap_err();
    assert!(error.to_string().ends_with("as Q4_0, only as n"), "{error}");
}

#[test]
fn a_cached_checkpoint_is_a_checkpoint() {
    let (_dir, store, cache) = places();
    touch_cached(&cache, "o/n", "config.json");
    assert!(
        locate_hub(&id("o/n"), &store, &cache).is_err(),
        "no weights yet"
    );
    let file = touch_cached(&cache, "o/n", "model.safetensors");
    let folder = file.parent().unwrap().to_owned();
    assert_eq!(
        locate_hub(&id("o/n"), &store, &cache).unwrap(),
        Located::Checkpoint(folder)
    );
    assert!(locate_hub(&id("o/n:Q4_0"), &store, &cache).is_err());
}

#[test]
fn what_is_missing_comes_with_the_command_that_gets_it() {
    let (_dir, store, cache) = places();
    let hint = |text: &str| {
        locate_hub(&id(text), &store, &cache)
            .unwrap_err()
            .hint()
            .unwrap()
    };
    assert_eq!(hint("o/n:Q4_K_M"), "get it: modelve convert o/n");
    assert_eq!(
        hint("o/n@v2:Q5_K_M"),
        "get it: modelve convert o/n@v2:Q5_K_M"
    );
    assert_eq!(
        hint("o/n-GGUF:Q5_K_M"),
        "get it: modelve get o/n-GGUF:Q5_K_M"
    );

    touch(&store.gguf_path(&id("o/n"), "Q4_0"));
    let error = locate_hub(&id("o/n:Q8_0"), &store, &cache).unwrap_err();
    assert_eq!(
        error.to_string(),
        "o/n is not on this machine as Q8_0, only as Q4_0"
    );
    assert!(
        error
            .hint()
            .unwrap()
            .ends_with("get it: modelve convert o/n:Q8_0")
    );

    touch(&store.gguf_path(&id("microsoft/Phi-3-mini"), "Q4_0"));
    let near = locate_hub(&id("microsft/Phi-3-mini"), &store, &cache).unwrap_err();
    assert!(
        near.hint()
            .unwrap()
            .starts_with("did you mean microsoft/Phi-3-mini?")
    );
}

#[test]
fn a_label_means_here_what_it_means_on_the_hub() {
    let (_dir, store, cache) = places();
    let q4 = touch_cached(&cache, "o/n-GGUF", "n-4k-q4.gguf");
    let fp16 = touch_cached(&cache, "o/n-GGUF", "n-4k-fp16.gguf");
    let ud = touch_cached(&cache, "o/n-GGUF", "n-4k-UD-Q4_K_XL.gguf");
    for (label, path) in [
        ("FP16", &fp16),
        ("f16", &fp16),
        ("q4", &q4),
        ("UD-Q4_K_XL", &ud),
        ("q4_k_xl", &ud),
        ("n-4k-fp16.gguf", &fp16),
    ] {
        let found = locate_hub(&id(&format!("o/n-GGUF:{label}")), &store, &cache);
        assert_eq!(found.unwrap(), Located::Gguf(path.clone()), "{label}");
    }
    let error = locate_hub(&id("o/n-GGUF"), &store, &cache).unwrap_err();
    assert_eq!(
        error.to_string(),
        "o/n-GGUF is on this machine as UD-Q4_K_XL, fp16, q4: name one"
    );
}
