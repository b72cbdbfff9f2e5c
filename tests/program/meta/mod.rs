//! `modelve meta` from the command line, on files of our own.

use crate::support::terminal;
use crate::support::tiny_gguf;
use std::path::{Path, PathBuf};

use crate::support::tiny_gguf::{Parts, Tiny};
use assert_cmd::Command;
use modelve::gguf::{Array, GgmlType, Gguf, Value};
use serde_json::Value as Json;

mod checkpoints;
mod lists;
mod memory;

fn write(parts: &Parts) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    parts.write(&path);
    (dir, path)
}

fn meta(model: &Path) -> Command {
    let mut command = Command::cargo_bin("modelve").unwrap();
    command.arg("meta").arg(model);
    command
}

fn stdout(command: &mut Command) -> String {
    let output = command.assert().success().get_output().clone();
    assert!(output.stderr.is_empty(), "stderr is for trouble");
    String::from_utf8(output.stdout).unwrap()
}

fn json(command: &mut Command) -> Json {
    serde_json::from_str(&stdout(command.arg("--json"))).unwrap()
}

/// A row of the tree: what stands after `name`, split at runs of spaces.
fn row(text: &str, name: &str) -> Vec<String> {
    let found = text
        .lines()
        .find_map(|line| line.split_once(&format!("─ {name} ")));
    let (_, rest) = found.unwrap_or_else(|| panic!("no line for {name} in\n{text}"));
    let cells = rest
        .split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty());
    cells.map(str::to_owned).collect()
}

#[test]
fn the_summary_folds_layers_and_knows_both_names() {
    let (_dir, model) = write(&Tiny::default().parts());
    let text = stdout(&mut meta(&model));
    assert!(text.starts_with("tiny-phi3-random\nphi3 · "), "{text}");
    assert!(text.contains("context 4,096 · vocabulary "));
    assert!(
        text.contains(
            "2 layers · width 64 · feed-forward 96 · 4 heads of 16, 2 for keys and values"
        )
    );
    assert!(text.contains("layers (0–1): 2 ×"));
    assert!(text.contains("Phi3ForCausalLM"));
    let qkv = row(&text, "qkv_proj");
    assert_eq!(qkv[..3], ["attn_qkv", "Linear 64 → 128", "F32"]);
    assert_eq!(row(&text, "gate_up_proj")[0], "ffn_up");
    assert_eq!(row(&text, "lm_head")[0], "output");
    assert!(!text.contains("blk.1."), "layers are drawn once");
    assert!(!text.contains('\x1b'), "no colour off a terminal");
}

#[test]
fn the_tree_fits_the_terminal_and_a_pipe_gets_all_of_it() {
    let (_dir, model) = write(&Tiny::default().parts());
    let whole = stdout(&mut meta(&model));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_modelve"));
    command
        .arg("meta")
        .arg(&model)
        .env_remove("NO_COLOR")
        .env("TERM", "xterm");
    let tree = |columns: u16| -> Option<Vec<String>> {
        let (shown, code) = terminal::run(&command, columns, "")?;
        assert_eq!(code, 0, "{shown}");
        assert!(shown.contains("\x1b["), "colour on a terminal");
        let lines = terminal::lines(&shown).into_iter();
        Some(lines.filter(|line| line.contains('─')).collect())
    };
    let longest = |lines: &[String]| lines.iter().map(|line| line.chars().count()).max().unwrap();
    let Some(wide) = tree(200) else {
        eprintln!("skipped: no python3 to make a terminal with");
        return;
    };
    let piped: Vec<_> = whole.lines().filter(|line| line.contains('─')).collect();
    assert_eq!(wide, piped, "room for everything");
    let medium = tree(90).unwrap();
    assert!(longest(&wide) > 90 && longest(&medium) <= 90, "{medium:#?}");
    let qkv = |lines: &[String]| {
        let found = lines.iter().find(|line| line.contains("qkv_proj"));
        found.unwrap().clone()
    };
    assert!(qkv(&medium).contains("Linear 64 → 128"), "{medium:#?}");
    assert!(!qkv(&medium).contains("attn_qkv"), "{medium:#?}");
    let narrow = tree(70).unwrap();
    assert!(longest(&narrow) <= 70, "{narrow:#?}");
    let line = qkv(&narrow);
    assert!(
        line.contains(" 64 → 128") && line.contains("KiB") && !line.contains("Linear"),
        "{line}"
    );
    assert_eq!(narrow.len(), piped.len(), "no line is lost");
}

#[test]
fn a_split_model_is_one_model_and_a_part_that_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let whole = Tiny::default().parts();
    let path = |no: usize| dir.path().join(format!("tiny-{no:05}-of-00003.gguf"));
    for no in 0..3u16 {
        let mut part = Tiny::default().parts();
        // As llama.cpp splits: all metadata in the first part, the keys of the split in each.
        if no > 0 {
            part.metadata.clear();
        }
        part.set("split.no", Value::U16(no));
        part.set("split.count", Value::U16(3));
        part.set(
            "split.tensors.count",
            Value::I32(whole.tensors.len() as i32),
        );
        let tensors = part.tensors.into_iter().enumerate();
        let share = tensors.filter(|(index, _)| index * 3 / whole.tensors.len() == usize::from(no));
        part.tensors = share.map(|(_, tensor)| tensor).collect();
        part.write(&path(usize::from(no) + 1));
    }
    let (_dir, single) = write(&whole);
    let of = |model: &Path| json(meta(model).args(["--memory", "1GiB"]));
    let alone = of(&single);
    for no in 1..=3 {
        let report = of(&path(no));
        for key in ["n_params", "summary"] {
            let (mut split, mut alone) = (report[key].clone(), alone[key].clone());
            // Three headers instead of one.
            for summary in [&mut split, &mut alone] {
                if let Some(summary) = summary.as_object_mut() {
                    summary.retain(|name, _| {
                        !["size_bytes", "bits_per_weight"].contains(&name.as_str())
                    });
                }
            }
            assert_eq!(split, alone, "{key} from part {no}");
        }
        let sizes: u64 = (1..=3).map(|no| path(no).metadata().unwrap().len()).sum();
        assert_eq!(report["size_bytes"], sizes);
        let parts: Vec<_> = (1..=3)
            .map(|no| Json::from(path(no).to_str().unwrap()))
            .collect();
        assert_eq!(report["parts"], Json::from(parts));
        let tensors = report["tensors"].as_array().unwrap();
        assert_eq!(tensors.len(), whole.tensors.len());
        assert_eq!(tensors.last().unwrap()["part"], 3);
        let text = stdout(meta(&path(no)).args(["--memory", "1GiB"]));
        assert!(text.contains("layers (0–1): 2 ×"), "{text}");
    }
    std::fs::remove_file(path(2)).unwrap();
    for no in [1, 3] {
        let output = meta(&path(no)).assert().code(1).get_output().clone();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("tiny-00002-of-00003.gguf"), "{said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_fold_says_which_layers_have_another_type() {
    let mut parts = Tiny {
        layers: 4,
        width: 256,
        ..Tiny::default()
    }
    .parts();
    for (name, shape, ty, data) in &mut parts.tensors {
        if name == "blk.2.attn_output.weight" {
            *ty = GgmlType::Q8_0;
            *data = vec![0; (shape[1] * ty.row_bytes(shape[0]).unwrap()) as usize];
        }
    }
    let (_dir, model) = write(&parts);
    let text = stdout(&mut meta(&model));
    assert_eq!(row(&text, "o_proj")[2], "3 F32, 1 Q8_0");
    assert!(text.contains("o_proj is Q8_0 in layers 2, F32 in the others"));
}

#[test]
fn explain_has_a_word_for_every_part() {
    let (_dir, model) = write(&Tiny::default().parts());
    let plain = stdout(&mut meta(&model));
    let explained = stdout(meta(&model).arg("--explain"));
    assert!(!plain.contains("queries, keys and values in one matrix"));
    for word in [
        "queries, keys and values in one matrix",
        "gate and up in one matrix",
        "for contexts longer than the original training",
    ] {
        assert!(explained.contains(word), "{word}");
    }
    assert!(!explained.contains("ffn_gate_exps"), "only what is there");
}

#[test]
fn the_cache_and_the_largest_context_are_those_of_the_arithmetic() {
    // 2 layers × (keys + values) × 2 heads × 16 wide × 2 bytes.
    let per_token = 2 * 2 * 2 * 16 * 2;
    let (_dir, model) = write(&Tiny::default().parts());
    let report = json(meta(&model).args(["--memory", "1GiB"]));
    let sizing = &report["sizing"];
    assert_eq!(sizing["kv_cache"]["per_token"]["f16"], per_token);
    let contexts = sizing["kv_cache"]["contexts"].as_array().unwrap();
    let tokens: Vec<u64> = contexts
        .iter()
        .map(|c| c["tokens"].as_u64().unwrap())
        .collect();
    assert_eq!(tokens, [2048, 4096], "none beyond the model's own");
    assert_eq!(contexts[1]["f16"], 4096 * per_token);
    assert_eq!(sizing["largest_context"]["f16"], 4096);
    assert_eq!(sizing["memory"]["total"], 1 << 30);

    // Room for 1000 tokens, so for three steps of 256.
    let weights = sizing["weight_bytes"].as_u64().unwrap();
    let working = sizing["working_bytes"].as_u64().unwrap();
    let each = per_token + sizing["working_bytes_per_token"].as_u64().unwrap();
    let room = weights + working + 1000 * each;
    let report = json(meta(&model).args(["--memory", &room.to_string()]));
    assert_eq!(report["sizing"]["largest_context"]["f16"], 768);
    let text = stdout(meta(&model).args(["--memory", &room.to_string()]));
    assert!(text.contains("fits; largest context 768 of 4,096 tokens with an f16 KV cache"));
    let text = stdout(meta(&model).args(["--memory", "1MiB"]));
    assert!(text.contains("does not fit"), "{text}");
}

#[test]
fn an_output_matrix_that_is_the_embedding_is_shown_as_such() {
    let mut parts = Tiny::default().parts();
    let (_dir, model) = write(&parts);
    let summary = &json(&mut meta(&model))["summary"];
    assert_eq!(summary["head_size"], 16);
    assert_eq!(summary["activation"], "silu");
    assert_eq!(summary["tied_output"], false);
    parts.tensors.retain(|tensor| tensor.0 != "output.weight");
    parts.set("phi3.attention.sliding_window", Value::U32(128));
    let (_dir, model) = write(&parts);
    let report = json(&mut meta(&model));
    assert_eq!(report["kind"], "model");
    assert_eq!(report["summary"]["tied_output"], true);
    assert_eq!(report["summary"]["sliding_window"], 128);
    let text = stdout(&mut meta(&model));
    assert!(
        text.contains("lm_head") && text.contains(", tied"),
        "{text}"
    );
    assert!(text.contains("window 128"), "{text}");
}

#[test]
fn of_experts_those_count_that_a_token_goes_through() {
    let mut parts = Tiny::default().parts();
    parts.set("phi3.expert_count", Value::U32(4));
    parts.set("phi3.expert_used_count", Value::U32(1));
    let name = "blk.0.ffn_up_exps.weight".to_owned();
    let (shape, bytes) = (vec![64, 32, 4], vec![0; 64 * 32 * 4 * 4]);
    parts.tensors.push((name, shape, GgmlType::F32, bytes));
    let (_dir, model) = write(&parts);
    let summary = &json(&mut meta(&model))["summary"];
    let all = summary["n_params"].as_u64().unwrap();
    assert_eq!(summary["n_active_params"], all - 3 * 64 * 32);
    assert_eq!(summary["experts"], serde_json::json!([4, 1]));
    let text = stdout(&mut meta(&model));
    assert!(text.contains("of them for a token"), "{text}");
    let (_dir, model) = write(&Tiny::default().parts());
    assert!(json(&mut meta(&model))["summary"]["n_active_params"].is_null());
}

#[test]
fn layers_that_slide_have_a_cache_as_long_as_the_others() {
    let mut parts = Tiny::default().parts();
    let per_token = |parts: &_| {
        let (_dir, model) = write(parts);
        let cache = json(&mut meta(&model))["sizing"]["kv_cache"].clone();
        assert_eq!(cache["upper_bound"], false);
        cache["per_token"]["f16"].as_u64().unwrap()
    };
    // Two layers of two heads for keys and values, 16 numbers each.
    assert_eq!(per_token(&parts), 2 * 2 * 2 * 16 * 2);
    parts.set("phi3.attention.sliding_window", Value::U32(128));
    assert_eq!(per_token(&parts), 2 * 2 * 2 * 16 * 2);
    let pattern = Array::Bool(vec![true, false]);
    parts.set(
        "phi3.attention.sliding_window_pattern",
        Value::Array(pattern),
    );
    parts.set("phi3.attention.key_length_swa", Value::U32(8));
    parts.set("phi3.attention.value_length_swa", Value::U32(8));
    assert_eq!(per_token(&parts), 2 * (2 * 16 + 2 * 32));
    parts.set("phi3.attention.shared_kv_layers", Value::U32(1));
    assert_eq!(per_token(&parts), 2 * 2 * 16);
}

#[test]
fn a_type_from_the_future_is_listed_with_the_rest() {
    let parts = Tiny::default().parts();
    let (_dir, model) = write(&parts);
    // The type of the last tensor of the header stands 12 bytes before its end.
    let mut file = std::fs::read(&model).unwrap();
    let name = parts.tensors.last().unwrap().0.as_bytes();
    let at = file
        .windows(name.len())
        .rposition(|bytes| bytes == name)
        .unwrap();
    let ty = at + name.len() + 4 + 8;
    file[ty..ty + 4].copy_from_slice(&99u32.to_le_bytes());
    std::fs::write(&model, file).unwrap();

    let text = stdout(&mut meta(&model));
    assert!(
        row(&text, "long_factor").contains(&"type 99".to_owned()),
        "{text}"
    );
    let report = json(&mut meta(&model));
    let last = report["tensors"].as_array().unwrap().last().unwrap();
    assert_eq!(last["type"], "type 99");
    assert_eq!(last["bytes"], Json::Null);
    assert_eq!(report["summary"]["bits_per_weight"], Json::Null);
}

#[test]
fn sizes_without_end_do_not_overflow() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vast.gguf");
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend(3u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    for name in ["blk.0.a", "blk.0.b", "c"] {
        file.extend((name.len() as u64).to_le_bytes());
        file.extend(name.as_bytes());
        file.extend(2u32.to_le_bytes());
        file.extend((1u64 << 31).to_le_bytes());
        file.extend(((1u64 << 32) - 1).to_le_bytes());
        file.extend(99u32.to_le_bytes());
        file.extend(0u64.to_le_bytes());
    }
    file.resize(file.len().next_multiple_of(32), 0);
    std::fs::write(&path, file).unwrap();
    // Whether the reader takes it is its business; nobody panics.
    for arguments in [&[][..], &["--json"], &["--tensors"]] {
        let output = meta(&path).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn hostile_metadata_neither_breaks_the_summary_nor_reaches_the_terminal() {
    let text = |text: &str| Value::String(text.to_owned());
    for (key, value) in [
        ("general.name", text("\x1b[2Jname")),
        ("general.architecture", text("\x1b]0;x\x07")),
        ("general.architecture", Value::U32(7)),
        ("general.license", text("\x1b[31m")),
        ("phi3.block_count", Value::U64(u64::MAX)),
        ("phi3.attention.head_count", Value::U32(0)),
        ("phi3.attention.head_count_kv", Value::U64(u64::MAX)),
        ("phi3.context_length", Value::U64(u64::MAX)),
        ("phi3.embedding_length", text("wide")),
        ("general.file_type", Value::I32(-5)),
    ] {
        let mut parts = Tiny::default().parts();
        parts.set(key, value);
        let (_dir, model) = write(&parts);
        for arguments in [&[][..], &["--kv"], &["--tensors"], &["--explain"]] {
            assert!(
                !stdout(meta(&model).args(arguments)).contains('\x1b'),
                "{key}"
            );
        }
        json(&mut meta(&model));
    }
}

#[test]
fn the_model_may_be_named_as_for_the_other_commands() {
    let (_dir, model) = write(&Tiny::default().parts());
    let mut named = Command::cargo_bin("modelve").unwrap();
    named.args(["meta", "-m"]).arg(&model);
    assert_eq!(stdout(&mut named), stdout(&mut meta(&model)));
    named.arg(&model).assert().code(2);
}

#[test]
fn errors_name_the_file_and_exit_with_1_usage_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.gguf");
    std::fs::write(&path, b"GGML....").unwrap();
    let output = meta(&path).assert().code(1).get_output().clone();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("broken.gguf"), "{message}");
    assert!(output.stdout.is_empty());
    for arguments in [
        &["--filter", "("][..],
        &["--memory", "much"],
        &["--sort", "colour"],
    ] {
        meta(&path).args(arguments).assert().code(2);
    }
}

#[test]
fn only_the_header_of_a_large_file_is_read() {
    // A hole of a gibibyte in place of the weights: reading it would take time and memory.
    let mut parts = Tiny::default().parts();
    parts.tensors.push((
        "large.weight".to_owned(),
        vec![1 << 14, 1 << 14],
        GgmlType::F32,
        Vec::new(),
    ));
    let infos: Vec<_> = parts
        .tensors
        .iter()
        .map(|(name, shape, ty, _)| (name.clone(), shape.clone(), *ty))
        .collect();
    let layout = modelve::gguf::Layout::new(&parts.metadata, &infos).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.gguf");
    std::fs::write(&path, layout.header()).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(layout.file_size()).unwrap();
    let report = json(&mut meta(&path));
    assert!(report["size_bytes"].as_u64().unwrap() > 1 << 30);
}
