//! What is refused: outputs, weights, tensors, flags.

use super::*;

#[test]
fn rejects_what_makes_no_sense() {
    let bench = Bench::new();
    let said = bench.bad(&["in", "-q", "Q4", "-o", "out/x"], 2);
    assert!(
        said.contains("Q4_K_M") && said.contains("--list-quants"),
        "{said}"
    );
    let said = bench.bad(&["in", "--tensor-type", "ffn=Q4_K_M", "-o", "out/x"], 2);
    assert!(said.contains("a recipe"), "{said}");
    let said = bench.bad(&["in", "--tensor-type", "nothing=Q8_0", "-o", "out/x"], 1);
    assert!(said.contains("nothing"), "{said}");
    let said = bench.bad(&["in/config.json", "-o", "out/x"], 2);
    assert!(said.contains("is a file"), "{said}");
    let said = bench.bad(&["./absent", "-o", "out/x"], 2);
    assert!(said.contains("does not exist"), "{said}");
}

#[test]
fn a_mistyped_folder_is_guessed_whatever_it_looks_like() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("models/my-phi3")).unwrap();
    // This could be a Hub id.
    let said = bench.bad(&["models/my-phi", "--offline", "-o", "out/x"], 1);
    assert!(said.contains("did you mean models/my-phi3?"), "{said}");
    let said = bench.bad(&["./models/my-ph3", "-o", "out/x"], 2);
    assert!(said.contains("did you mean ./models/my-phi3?"), "{said}");
    // A file of a checkpoint is not a Hub id either.
    let said = bench.bad(&["in/model-0001.safetensors", "-o", "out/x"], 2);
    assert!(said.contains("did you mean in/model-00001-of-"), "{said}");
}

#[test]
fn a_file_of_another_kind_is_not_offered_for_replacement() {
    let bench = Bench::new();
    fs::write(bench.path("notes.txt"), "mine").unwrap();
    let said = bench.bad(&["in", "-o", "notes.txt"], 1);
    assert!(said.contains("notes.txt exists"), "{said}");
    assert!(
        said.contains("that file is not a GGUF: choose another name"),
        "{said}"
    );
    assert_eq!(fs::read(bench.path("notes.txt")).unwrap(), b"mine");
}

#[test]
fn the_output_may_not_be_an_input() {
    let bench = Bench::of(&toy::config(|_| {}), Dtype::Bf16, 1 << 40);
    let before = bench.sha256("in/model.safetensors");
    fs::hard_link(bench.path("in/model.safetensors"), bench.path("link.gguf")).unwrap();
    std::os::unix::fs::symlink("in/tokenizer.model", bench.path("symlink.gguf")).unwrap();
    for output in [
        "in/model.safetensors",
        "link.gguf",
        "symlink.gguf",
        "in/config.json",
    ] {
        let said = bench.bad(&["in", "--force", "-o", output], 1);
        assert!(said.contains("is read by this command"), "{said}");
        assert!(said.contains("hint: choose another name"), "{said}");
    }
    assert_eq!(bench.sha256("in/model.safetensors"), before);
}

#[test]
fn what_is_no_file_is_not_replaced_by_one() {
    let bench = Bench::new();
    let pipe = bench.path("pipe");
    Command::new("mkfifo").arg(&pipe).status().unwrap();
    for force in [&[][..], &["--force"]] {
        let said = bench.bad(&[&["in", "-o", "pipe"], force].concat(), 1);
        assert!(said.contains("pipe is not a regular file"), "{said}");
        let said = bench.bad(&[&["in", "-o", "out/new/"], force].concat(), 1);
        assert!(said.contains("cannot write out/new/"), "{said}");
    }
    let kind = fs::metadata(&pipe).unwrap().file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kind));
}

#[test]
fn a_model_goes_neither_to_standard_output_nor_to_a_device() {
    let bench = Bench::new();
    for name in ["-", "/dev/stdout", "/dev/null"] {
        let said = bench.bad(&["in", "--force", "-o", name], 1);
        assert!(
            said.contains(&format!("{name} is not a regular file")),
            "{said}"
        );
        assert!(said.contains("hint: choose another name"), "{said}");
    }
    assert!(!bench.path("-").exists());
    let null = fs::metadata("/dev/null").unwrap().file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&null));
}

#[test]
fn what_a_link_points_to_is_replaced_and_the_link_stays() {
    let bench = Bench::new();
    let (link, target) = (bench.path("latest.gguf"), bench.path("out/model.gguf"));
    std::os::unix::fs::symlink("out/model.gguf", &link).unwrap();
    bench.good(&["in", "-q", "Q8_0", "-o", "latest.gguf"]);
    let before = fs::read(&target).unwrap();
    let output = bench.run(&["in", "-q", "Q4_0", "-o", "latest.gguf"]);
    assert_eq!(output.status.code(), Some(1), "no --force");
    assert_eq!(fs::read(&target).unwrap(), before);
    bench.good(&["in", "-q", "Q4_0", "--force", "-o", "latest.gguf"]);
    assert_ne!(fs::read(&target).unwrap(), before);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(bench.outputs(), ["model.gguf"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_said() {
    let bench = Bench::new();
    // Not even root makes files there.
    let said = bench.bad(&["in", "-o", "/proc/x.gguf"], 1);
    assert!(said.contains("/proc/x.gguf"), "{said}");
    let said = bench.bad(&["in", "-o", "absent/x.gguf"], 1);
    assert!(said.contains("absent/x.gguf"), "{said}");
    assert!(said.contains("hint: mkdir -p absent"), "{said}");
    let mut permissions = fs::metadata(bench.path("out")).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(bench.path("out"), permissions).unwrap();
    if fs::write(bench.path("out/probe"), "").is_ok() {
        fs::remove_file(bench.path("out/probe")).unwrap();
        eprintln!("skipped: this user writes to read-only folders");
        return;
    }
    let said = bench.bad(&["in", "-o", "out/x.gguf"], 1);
    assert!(said.contains("ermission denied"), "{said}");
}

#[test]
fn rejects_weights_that_are_no_numbers() {
    for quant in ["Q4_K_M", "Q4_0", "BF16", "IQ4_NL"] {
        let bench = Bench::of(&toy::config(|_| {}), Dtype::Bf16, 1 << 40);
        // Row 300, column 7 of a matrix of 256 columns.
        let tensor = "model.layers.5.mlp.gate_up_proj.weight";
        poison(&bench, tensor, 300 * 256 + 7, [0xc0, 0x7f]);
        let said = bench.bad(&["in", "-q", quant, "-o", "out/x"], 1);
        assert!(said.contains("blk.5.ffn_up.weight"), "{said}");
        assert!(said.contains("NaN at row 300, column 7"), "{said}");
    }
    let bench = Bench::of(&toy::config(|_| {}), Dtype::Bf16, 1 << 40);
    poison(&bench, "lm_head.weight", 0, [0x80, 0x7f]);
    let said = bench.bad(&["in", "-o", "out/x"], 1);
    assert!(said.contains("inf at row 0, column 0"), "{said}");
}

#[test]
fn rejects_tensors_that_are_not_those_of_the_architecture() {
    let other = |config: Value, said: &str| {
        let bench = Bench::new();
        fs::write(bench.path("in/config.json"), config.to_string()).unwrap();
        let error = bench.bad(&["in", "-o", "out/x"], 1);
        assert!(error.contains(said), "{error}");
    };
    other(
        toy::config(|c| c["num_hidden_layers"] = json!(9)),
        "lacks the tensor `model.layers.8",
    );
    other(
        toy::config(|c| c["num_hidden_layers"] = json!(7)),
        "does not know: model.layers.7",
    );
    other(
        toy::config(|c| c["intermediate_size"] = json!(128)),
        "config.json asks for",
    );
    other(
        toy::config(|c| c["architectures"] = json!(["Gemma"])),
        "supported: Gemma2ForCausalLM, Gemma3ForCausalLM",
    );
    other(
        toy::config(|c| c["vocab_size"] = json!(4)),
        "asks for [4, 256]",
    );
}

#[test]
fn a_shard_that_ends_early_is_named() {
    let bench = Bench::of(&toy::config(|_| {}), Dtype::Bf16, 1 << 40);
    let shard = bench.path("in/model.safetensors");
    let len = fs::metadata(&shard).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&shard).unwrap();
    file.set_len(len - 1).unwrap();
    let said = bench.bad(&["in", "-o", "out/x"], 1);
    assert!(
        said.contains("model.safetensors") && said.contains("truncated"),
        "{said}"
    );
}

#[test]
fn a_damaged_importance_matrix_of_the_old_format_is_refused() {
    let bench = Bench::new();
    // 1 entry, a name of 5 bytes: how llama.cpp's .dat files begin.
    fs::write(bench.path("old.dat"), b"\x01\0\0\0\x05\0\0\0blk.0").unwrap();
    let said = bench.bad(&["in", "--imatrix", "old.dat", "-o", "out/x"], 1);
    assert!(
        said.contains("old.dat: ends within the entry `blk.0`"),
        "{said}"
    );
    fs::write(bench.path("old.dat"), b"no matrix at all").unwrap();
    let said = bench.bad(&["in", "--imatrix", "old.dat", "-o", "out/x"], 1);
    assert!(said.contains("neither a GGUF file nor"), "{said}");
    let said = bench.bad(&["in", "--imatrix", "absent.gguf", "-o", "out/x"], 1);
    assert!(
        said.contains("absent.gguf") && !said.contains("neither"),
        "{said}"
    );
}
