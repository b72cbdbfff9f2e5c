//! Checkpoints whose weights are packed: fp8, compressed-tensors, GPTQ, AWQ.
//!
//! `tests/fixtures/packed` holds one matrix in each form, with the SHA-256 of what llama.cpp's converter
//! (of AWQ: AutoAWQ) makes of it; `scripts/compare_packed.py` writes them.

use super::dense::checkpoint;
use super::*;
use safetensors::tensor::{Dtype as Stored, SafeTensors, TensorView};
use std::collections::BTreeMap;

/// The matrix of the fixtures.
const MODULE: &str = "model.layers.0.mlp.down_proj";

/// Tensors of a checkpoint, by name.
pub(super) type Tensors = BTreeMap<String, (Stored, Vec<usize>, Vec<u8>)>;

pub(super) fn read(bytes: &[u8]) -> Tensors {
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let owned = tensors.iter().map(|(name, view)| {
        let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        (name.to_owned(), tensor)
    });
    owned.collect()
}

pub(super) fn store(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        let view = TensorView::new(*dtype, shape.clone(), data).unwrap();
        (name.as_str(), view)
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// What a fixture says of itself.
struct Fixture {
    tensors: Tensors,
    quantization: Value,
    sha256: String,
}

fn fixture(name: &str) -> Fixture {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/packed");
    let bytes = fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let about = metadata.metadata().clone().unwrap();
    Fixture {
        tensors: read(&bytes),
        quantization: serde_json::from_str(&about["quantization_config"]).unwrap(),
        sha256: about["sha256"].clone(),
    }
}

/// A checkpoint with a fixture in the place of one matrix, after `change`.
fn with(name: &str, change: impl FnOnce(&mut Tensors)) -> Bench {
    let fixture = fixture(name);
    let bench = checkpoint("MistralForCausalLM", |config| {
        config["quantization_config"] = fixture.quantization;
    });
    let path = bench.path("in/model.safetensors");
    let mut tensors = read(&fs::read(&path).unwrap());
    tensors.remove(&format!("{MODULE}.weight")).unwrap();
    tensors.extend(fixture.tensors);
    change(&mut tensors);
    store(&path, &tensors);
    bench
}

const FIXTURES: [&str; 9] = [
    "awq",
    "float-channel",
    "fp8-odd-blocks",
    "gptq-8",
    "gptq-act-order",
    "gptq-v2",
    "gptq-without-index",
    "int8-channel",
    "packed-4-zero",
];

#[test]
fn packed_weights_are_those_of_other_implementations() {
    for name in FIXTURES {
        let bench = with(name, |_| {});
        let said = bench.good(&["in", "-q", "F32", "--verify", "-o", "out/x.gguf"]);
        let gguf = Gguf::open(&bench.path("out/x.gguf")).unwrap();
        let tensor = gguf.tensor("blk.0.ffn_down.weight").unwrap();
        let sha256 = format!("{:x}", Sha256::digest(gguf.data(tensor)));
        assert_eq!(sha256, fixture(name).sha256, "{name}: {said}");
        // All types start from the same numbers.
        bench.good(&["in", "-q", "Q4_0", "--verify", "-o", "out/y.gguf"]);
    }
}

#[test]
fn a_plan_says_what_the_weights_are_packed_in() {
    for (name, form) in [
        ("awq", "AWQ-4"),
        ("fp8-odd-blocks", "F8_E4M3"),
        ("gptq-8", "GPTQ-8"),
    ] {
        let plan = with(name, |_| {}).good(&["in", "--dry-run"]);
        let row = plan.lines().find(|line| line.contains("ffn_down")).unwrap();
        assert!(row.contains(form), "{row}");
    }
}

#[test]
fn meta_shows_what_the_weights_are_packed_in() {
    for (name, form) in [
        ("awq", "AWQ-4"),
        ("fp8-odd-blocks", "F8_E4M3"),
        ("packed-4-zero", "packed-4"),
    ] {
        let bench = with(name, |_| {});
        let mut meta = Command::cargo_bin("modelve").unwrap();
        let told = meta.current_dir(bench.dir.path()).args(["meta", "in"]);
        let told = String::from_utf8(told.output().unwrap().stdout).unwrap();
        let row = told.lines().find(|line| line.contains("ffn_down")).unwrap();
        assert!(row.contains(form) && !row.contains("F32"), "{row}");
    }
}

/// Replaces the bytes of one element.
fn set(tensors: &mut Tensors, name: &str, at: usize, bytes: &[u8]) {
    let (_, _, data) = tensors.get_mut(&format!("{MODULE}.{name}")).unwrap();
    data[at..at + bytes.len()].copy_from_slice(bytes);
}

fn drop_part(tensors: &mut Tensors, name: &str) {
    tensors.remove(&format!("{MODULE}.{name}")).unwrap();
}

/// Turns a tensor into one of another shape with as many elements.
fn reshape(tensors: &mut Tensors, name: &str, shape: &[usize]) {
    let (_, of, _) = tensors.get_mut(&format!("{MODULE}.{name}")).unwrap();
    assert_eq!(
        of.iter().product::<usize>(),
        shape.iter().product::<usize>()
    );
    *of = shape.to_vec();
}

#[test]
fn packed_weights_that_cannot_be_meant_are_refused_by_name() {
    type Change = fn(&mut Tensors);
    let cases: &[(&str, Change, &[&str])] = &[
        (
            "gptq-act-order",
            |t| set(t, "g_idx", 4 * 77, &4i32.to_le_bytes()),
            &["down_proj.g_idx", "input 77", "group 4"],
        ),
        (
            "gptq-act-order",
            |t| set(t, "g_idx", 0, &(-1i32).to_le_bytes()),
            &["down_proj.g_idx", "input 0", "group -1"],
        ),
        (
            "gptq-act-order",
            |t| reshape(t, "g_idx", &[2, 64]),
            &["down_proj.g_idx", "[2, 64]", "[128]"],
        ),
        (
            "gptq-act-order",
            |t| set(t, "scales", 2 * 65, &[0x00, 0x7e]),
            &["down_proj.scales", "NaN", "row 1, column 1"],
        ),
        (
            "awq",
            |t| set(t, "scales", 0, &[0x00, 0xfc]),
            &["down_proj.scales", "-inf"],
        ),
        (
            "awq",
            |t| drop_part(t, "qzeros"),
            &["down_proj.qweight", "down_proj.qzeros", "missing"],
        ),
        (
            "gptq-v2",
            |t| drop_part(t, "scales"),
            &["down_proj.scales", "missing"],
        ),
        (
            "gptq-v2",
            |t| reshape(t, "qweight", &[64, 16]),
            &["down_proj.scales", "[4, 64]", "[4, 16]"],
        ),
        (
            "gptq-without-index",
            |t| {
                for (name, columns) in [("scales", 64), ("qzeros", 8)] {
                    let (_, shape, data) = t.get_mut(&format!("{MODULE}.{name}")).unwrap();
                    *shape = vec![2, columns];
                    data.truncate(data.len() / 2);
                }
            },
            &["down_proj.scales", "2 group(s)", "need 4"],
        ),
        (
            "fp8-odd-blocks",
            |t| drop_part(t, "weight_scale_inv"),
            &["down_proj.weight", "scales are missing"],
        ),
        (
            "fp8-odd-blocks",
            |t| set(t, "weight_scale_inv", 2, &[0xc0, 0x7f]),
            &["down_proj.weight_scale_inv", "NaN", "row 0, column 1"],
        ),
        (
            "fp8-odd-blocks",
            |t| reshape(t, "weight_scale_inv", &[4, 1]),
            &["down_proj.weight_scale_inv", "[4, 1]", "[2, 2]"],
        ),
        (
            "float-channel",
            |t| reshape(t, "weight_scale", &[8, 8]),
            &["down_proj.weight_scale", "[8, 8]", "each of 64 rows"],
        ),
        (
            "float-channel",
            |t| set(t, "weight", 130, &[0x7f]),
            &["blk.0.ffn_down.weight", "NaN", "row 1, column 2"],
        ),
        (
            "packed-4-zero",
            |t| set(t, "weight_shape", 8, &i64::MAX.to_le_bytes()),
            &["down_proj.weight_shape", "[64, 9223372036854775807]"],
        ),
        (
            "packed-4-zero",
            |t| set(t, "weight_shape", 8, &0i64.to_le_bytes()),
            &["down_proj.weight_shape", "[64, 0]"],
        ),
        (
            "packed-4-zero",
            |t| {
                let empty = (Stored::I32, vec![0, 16], Vec::new());
                t.insert(format!("{MODULE}.weight_packed"), empty);
            },
            &["down_proj.weight_packed", "[0, 16]"],
        ),
        (
            "awq",
            |t| {
                let twice = (Stored::F32, vec![64, 128], vec![0; 4 * 64 * 128]);
                t.insert(format!("{MODULE}.weight"), twice);
            },
            &["down_proj.weight", "packed and unpacked"],
        ),
        (
            "gptq-v2",
            |t| {
                let bias = (Stored::F16, vec![64], vec![1; 128]);
                t.insert(format!("{MODULE}.bias"), bias);
            },
            &["down_proj.bias", "does not know"],
        ),
    ];
    for (name, change, words) in cases {
        let said = with(name, change).bad(&["in", "-q", "Q8_0", "-o", "out/x.gguf"], 1);
        for word in *words {
            assert!(said.contains(word), "{name}, {word}: {said}");
        }
    }
}

/// Exporters of 2023 stated the method in a file of its own.
#[test]
fn the_method_may_stand_in_a_file_of_its_own() {
    for (name, file, stated) in [
        (
            "gptq-act-order",
            "quantize_config.json",
            json!({"bits": 4, "group_size": 32, "desc_act": true}),
        ),
        (
            "awq",
            "quant_config.json",
            json!({"zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}),
        ),
    ] {
        let bench = with(name, |_| {});
        bench.good(&["in", "-q", "F32", "-o", "out/x.gguf"]);
        let path = bench.path("in/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config
            .as_object_mut()
            .unwrap()
            .remove("quantization_config");
        fs::write(&path, config.to_string()).unwrap();
        fs::write(bench.path("in").join(file), stated.to_string()).unwrap();
        bench.good(&["in", "-q", "F32", "-o", "out/y.gguf"]);
        assert_eq!(bench.sha256("out/x.gguf"), bench.sha256("out/y.gguf"));
    }
}

#[test]
fn biases_of_zero_that_exporters_add_are_left_out() {
    let bench = with("gptq-v2", |tensors| {
        let bias = (Stored::F16, vec![64], vec![0; 128]);
        tensors.insert(format!("{MODULE}.bias"), bias);
    });
    bench.good(&["in", "-q", "Q8_0", "--verify", "-o", "out/x.gguf"]);
    let gguf = Gguf::open(&bench.path("out/x.gguf")).unwrap();
    assert!(gguf.tensor("blk.0.ffn_down.bias").is_none());
}

#[test]
fn scales_of_activations_are_not_weights() {
    let bench = with("float-channel", |tensors| {
        for name in ["mlp.down_proj.input_scale", "self_attn.k_scale"] {
            let scale = (Stored::F32, vec![1], 0.5f32.to_le_bytes().to_vec());
            tensors.insert(format!("model.layers.0.{name}"), scale);
        }
    });
    bench.good(&["in", "-q", "Q8_0", "-o", "out/x.gguf"]);
}
