use super::*;
use serde_json::json;
use std::fs;
use tempfile::TempDir;

/// A folder with `config.json` and the files given.
fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// A safetensors file: length, header, data.
fn shard(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 1);
    bytes
}

const A: &str = r#"{"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#;

fn error_of(dir: &TempDir) -> String {
    Checkpoint::open(dir.path()).unwrap_err().to_string()
}

fn rejected(header: &str, data: usize, said: &str) {
    let dir = folder(&[("model.safetensors", shard(header, data))]);
    let error = error_of(&dir);
    assert!(error.contains(said), "{error}");
    assert!(error.contains("model.safetensors"), "{error}");
}

#[test]
fn one_file_needs_no_index() {
    let dir = folder(&[("model.safetensors", shard(A, 12))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let tensor = checkpoint.tensor("a").unwrap();
    assert_eq!((tensor.dtype, tensor.bytes), (Dtype::BF16, 12));
    assert_eq!(tensor.shape, [2, 3]);
    assert_eq!(tensor.offset, 8 + A.len() as u64);
    assert_eq!(checkpoint.data_bytes(), 12);
}

#[test]
fn rejects_a_header_longer_than_the_file() {
    for len in [60u64, 1 << 20, 200_000_000, 1 << 40, u64::MAX - 7, u64::MAX] {
        let mut bytes = shard(A, 0);
        bytes[..8].copy_from_slice(&len.to_le_bytes());
        let dir = folder(&[("model.safetensors", bytes)]);
        let error = error_of(&dir);
        assert!(error.contains("header"), "{len}: {error}");
    }
    let dir = folder(&[("model.safetensors", vec![1, 2, 3])]);
    assert!(error_of(&dir).contains("8 bytes"), "{}", error_of(&dir));
    let dir = folder(&[("model.safetensors", Vec::new())]);
    assert!(error_of(&dir).contains("8 bytes"), "{}", error_of(&dir));
}

#[test]
fn rejects_duplicate_keys() {
    let twice = r#"{"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"a":{"dtype":"BF16","shape":[3,2],"data_offsets":[0,12]}}"#;
    rejected(twice, 12, "`a` occurs twice");
}

#[test]
fn rejects_overlaps_and_holes() {
    let two = |begin: u64| {
        format!(
            r#"{{"a":{{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}},"b":{{"dtype":"BF16","shape":[2,3],"data_offsets":[{begin},{}]}}}}"#,
            begin + 12
        )
    };
    rejected(&two(4), 24, "overlaps");
    rejected(&two(0), 24, "overlaps");
    rejected(&two(16), 28, "overlaps");
    Checkpoint::open(folder(&[("model.safetensors", shard(&two(12), 24))]).path()).unwrap();
}

#[test]
fn rejects_a_length_that_is_not_shape_times_type() {
    rejected(&A.replace("[2,3]", "[2,4]"), 12, "shape");
    rejected(
        &A.replace("[2,3]", "[4294967296,4294967296]"),
        12,
        "overflow",
    );
    rejected(&A.replace("[0,12]", "[12,0]"), 12, "overlaps");
    rejected(&A.replace("BF16", "BF17"), 12, "header");
    rejected("[]", 12, "header");
    rejected("{", 12, "header");
}

#[test]
fn rejects_data_cut_off_or_left_over() {
    rejected(A, 11, "truncated");
    rejected(A, 13, "not as long");
}

fn index(map: serde_json::Value) -> (&'static str, Vec<u8>) {
    (
        INDEX,
        serde_json::to_vec(&json!({"weight_map": map})).unwrap(),
    )
}

#[test]
fn rejects_an_index_that_leads_out_of_the_folder() {
    for name in [
        "../model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        "",
        "C:x",
        "a\\b",
        "x\u{0}",
    ] {
        let dir = folder(&[
            index(json!({"a": name})),
            ("model.safetensors", shard(A, 12)),
        ]);
        let error = error_of(&dir);
        assert!(error.contains("not a plain file name"), "{name}: {error}");
    }
}

#[test]
fn rejects_an_index_that_does_not_fit_its_shards() {
    let good = ("m-1.safetensors", shard(A, 12));
    let cases = [
        (
            json!({"a": "m-1.safetensors", "b": "m-2.safetensors"}),
            "`m-2.safetensors`, which is missing",
        ),
        (
            json!({"a": "m-1.safetensors", "b": "m-1.safetensors"}),
            "does not hold the tensor `b`",
        ),
        (
            json!({"b": "m-1.safetensors"}),
            "which the index does not name",
        ),
        (json!(7), "JSON"),
    ];
    for (map, said) in cases {
        let error = error_of(&folder(&[index(map), good.clone()]));
        assert!(error.contains(said), "{error}");
    }
    let b = A.replace("\"a\"", "\"b\"");
    let map = json!({"a": "m-2.safetensors", "b": "m-1.safetensors"});
    let dir = folder(&[index(map), good.clone(), ("m-2.safetensors", shard(&b, 12))]);
    assert!(
        error_of(&dir).contains("expects in m-2"),
        "{}",
        error_of(&dir)
    );
    let twice = (
        INDEX,
        br#"{"weight_map": {"a": "m-1.safetensors", "a": "m-1.safetensors"}}"#.to_vec(),
    );
    assert!(error_of(&folder(&[twice, good])).contains("`a` occurs twice"));
}

#[test]
fn rejects_a_tensor_that_stands_in_two_files() {
    let dir = folder(&[
        ("model-1.safetensors", shard(A, 12)),
        ("model-2.safetensors", shard(A, 12)),
    ]);
    assert!(error_of(&dir).contains("is in two files"));
}

#[test]
fn says_what_a_folder_lacks() {
    let empty = tempfile::tempdir().unwrap();
    assert!(error_of(&empty).contains("no config.json"));
    let dir = folder(&[]);
    assert!(error_of(&dir).contains("has no weights"));
    let dir = folder(&[("pytorch_model.bin", vec![0])]);
    assert!(error_of(&dir).contains("saved as safetensors"));
    let dir = folder(&[("model.safetensors", shard(A, 12))]);
    fs::write(dir.path().join("config.json"), "[1, 2").unwrap();
    assert!(error_of(&dir).contains("config.json"));
}
