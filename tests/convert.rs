//! `modelve convert` from outside: what it writes, and that it writes all or nothing.
#![allow(clippy::print_stderr)]

#[path = "support/hub_server.rs"]
#[allow(dead_code)]
mod hub_server;
#[path = "support/synthetic.rs"]
#[allow(dead_code)]
mod synthetic;
#[path = "support/terminal.rs"]
mod terminal;
#[path = "support/toy.rs"]
mod toy;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::CommandCargoExt;
use modelve::gguf::Gguf;
use modelve::runtime::Vocab;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use synthetic::Dtype;
use tempfile::TempDir;

/// A folder with a checkpoint in it, and the program run there.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::of(&toy::config(|_| {}), Dtype::Bf16, 2_000_000)
    }

    fn of(config: &Value, dtype: Dtype, shard_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        toy::write(config, dtype, shard_bytes, &dir.path().join("in"));
        fs::create_dir(dir.path().join("out")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("modelve").unwrap();
        command
            .current_dir(self.dir.path())
            .env("MODELVE_HOME", self.path("home"))
            .env("HF_HOME", self.path("hf"))
            .env("HF_HUB_OFFLINE", "0")
            .env_remove("MODELVE_MODEL")
            .args(["convert"])
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn bad(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert_eq!(self.outputs(), [""; 0], "{stderr}");
        stderr
    }

    /// Names in the output folder, temporary files included.
    fn outputs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("out")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn sha256(&self, name: &str) -> String {
        format!("{:x}", Sha256::digest(fs::read(self.path(name)).unwrap()))
    }
}

#[test]
fn the_bytes_are_the_same_for_any_number_of_threads() {
    let bench = Bench::new();
    for quant in ["Q4_K_M", "q4_0"] {
        let mut sums = Vec::new();
        for (threads, name) in [
            ("1", "out/a"),
            ("2", "out/b"),
            ("3", "out/c"),
            ("3", "out/d"),
        ] {
            bench.good(&["in", "-q", quant, "-o", name, "--threads", threads]);
            sums.push(bench.sha256(name));
            fs::remove_file(bench.path(name)).unwrap();
        }
        assert!(sums.iter().all(|sum| *sum == sums[0]), "{quant}: {sums:?}");
    }
}

#[test]
fn shards_and_one_file_give_the_same() {
    let one = Bench::of(&toy::config(|_| {}), Dtype::Bf16, 1 << 40);
    let many = Bench::of(&toy::config(|_| {}), Dtype::Bf16, 300_000);
    assert!(many.path("in/model.safetensors.index.json").is_file());
    assert!(one.path("in/model.safetensors").is_file());
    for bench in [&one, &many] {
        bench.good(&["in", "-o", "out/x.gguf"]);
    }
    assert_eq!(one.sha256("out/x.gguf"), many.sha256("out/x.gguf"));
}

#[test]
fn the_output_is_where_a_user_looks_for_it() {
    let bench = Bench::new();
    let text = bench.good(&["in", "-q", "Q8_0"]);
    assert!(
        bench.path("Phi-3-toy-instruct-Q8_0.gguf").is_file(),
        "{text}"
    );
    assert!(
        text.contains("modelve complete -m Phi-3-toy-instruct-Q8_0.gguf"),
        "{text}"
    );
    bench.good(&["in", "-q", "Q8_0", "-o", "out"]);
    assert_eq!(bench.outputs(), ["Phi-3-toy-instruct-Q8_0.gguf"]);

    let again = bench.run(&["in", "-q", "Q8_0", "-o", "out"]);
    let stderr = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        stderr.contains("exists") && stderr.contains("--force"),
        "{stderr}"
    );
    bench.good(&["in", "-q", "Q8_0", "-o", "out", "--force"]);
}

#[test]
fn metadata_keeps_the_name_and_every_stop_token() {
    let bench = Bench::new();
    bench.good(&["in", "-o", "out/x.gguf"]);
    let gguf = Gguf::open(&bench.path("out/x.gguf")).unwrap();
    let text = |key: &str| gguf.get(key).unwrap().as_str().unwrap().into_owned();
    let number = |key: &str| gguf.get(key).and_then(|value| value.as_u64());
    assert_eq!(text("general.name"), "Phi-3-toy-instruct");
    assert_eq!(text("general.basename"), "Phi-3-toy");
    assert_eq!(text("general.finetune"), "instruct");
    assert_eq!(text("general.organization"), "Toy");
    assert_eq!(text("tokenizer.ggml.model"), "llama");
    assert_eq!(text("tokenizer.chat_template"), "{{ messages }}");
    assert_eq!(number("general.file_type"), Some(15));
    assert_eq!(number("tokenizer.ggml.eos_token_id"), Some(290));
    assert_eq!(number("tokenizer.ggml.eot_token_id"), Some(292));
    assert_eq!(number("tokenizer.ggml.eom_token_id"), Some(291));
    assert_eq!(number("tokenizer.ggml.unknown_token_id"), Some(0));
    let add_bos = gguf.get("tokenizer.ggml.add_bos_token").unwrap().as_bool();
    assert_eq!(add_bos, Some(false));

    let vocab = Vocab::load(&bench.path("out/x.gguf")).unwrap();
    for id in [290, 291, 292] {
        assert!(vocab.is_end(id), "{id}");
    }
    assert!(!vocab.is_end(280));
}

#[test]
fn a_fine_tune_by_another_name_still_strips_after_special_tokens() {
    let bench = Bench::of(
        &toy::config(|c| c["_name_or_path"] = json!("me/poet")),
        Dtype::Bf16,
        1 << 40,
    );
    bench.good(&["in", "-o", "out/x.gguf"]);
    let gguf = Gguf::open(&bench.path("out/x.gguf")).unwrap();
    let name = gguf.get("general.name").unwrap();
    assert_eq!(name.as_str().as_deref(), Some("poet (Phi-3)"));
    let vocab = Vocab::load(&bench.path("out/x.gguf")).unwrap();
    let tokens = vocab
        .tokenize("<|end|>\n<|assistant|>", false, true)
        .unwrap();
    assert_eq!(tokens, [292, 291]);
}

#[test]
fn a_byte_level_vocabulary_is_read_and_understood_by_llama_cpp() {
    let bench = Bench::new();
    toy::byte_level(&bench.path("in"));
    bench.good(&["in", "-q", "Q4_0", "-o", "out/x.gguf"]);
    let gguf = Gguf::open(&bench.path("out/x.gguf")).unwrap();
    let pre = gguf.get("tokenizer.ggml.pre").unwrap();
    assert_eq!(pre.as_str().as_deref(), Some("dbrx"));
    // By "phi-3" llama.cpp would look for </s> in it, and fail.
    let name = gguf.get("general.name").unwrap();
    assert_eq!(name.as_str().as_deref(), Some("Phi 3-toy-instruct"));
    let vocab = Vocab::load(&bench.path("out/x.gguf")).unwrap();
    let text = "he he<|im_end|>\n";
    let tokens = vocab.tokenize(text, true, true).unwrap();
    assert_eq!(tokens, [256, 257, 292, i32::from(b'\n')]);
    assert_eq!(vocab.detokenize(&tokens, true).unwrap(), text.as_bytes());
}

#[test]
fn a_plan_is_shown_and_nothing_written() {
    let bench = Bench::new();
    let plan: Value = serde_json::from_str(&bench.good(&["in", "--dry-run", "--json"])).unwrap();
    assert_eq!(bench.outputs(), [""; 0]);
    let tensors = plan["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 5 + 8 * 6);
    assert_eq!(tensors[0]["name"], "output.weight");
    assert_eq!(tensors[0]["type"], "Q6_K");
    assert!(
        tensors
            .iter()
            .all(|tensor| !tensor["reason"].as_str().unwrap().is_empty())
    );
    bench.good(&["in", "-o", "out/x.gguf"]);
    let size = fs::metadata(bench.path("out/x.gguf")).unwrap().len();
    assert_eq!(plan["file_bytes"], size);

    let table = bench.good(&["in", "--dry-run", "--tensor-type", "ffn_up=q8_0"]);
    assert!(table.contains("asked for by ffn_up"), "{table}");
    let quants: Value =
        serde_json::from_str(&bench.good(&["in", "--list-quants", "--json"])).unwrap();
    assert_eq!(quants["quants"].as_array().unwrap().len(), 19);
}

#[test]
fn verifying_measures_every_tensor() {
    let bench = Bench::new();
    let result = bench.good(&["in", "-q", "Q8_0", "-o", "out/x.gguf", "--verify", "--json"]);
    let result: Value = serde_json::from_str(&result).unwrap();
    let tensors = result["verified"]["tensors"].as_array().unwrap();
    let errors: Vec<f64> = tensors
        .iter()
        .map(|t| t["relative_rmse"].as_f64().unwrap())
        .collect();
    assert!(errors.is_sorted_by(|a, b| a >= b), "{errors:?}");
    // 8 bits per weight: steps of 1/127 of the largest of 32, so about 0.5 %.
    assert!((0.003..0.008).contains(&errors[0]), "{errors:?}");
    assert_eq!(errors.last(), Some(&0.0), "norms are exact");
}

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
        assert!(said.contains("one of the files to convert"), "{said}");
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
        assert!(said.contains("out/new/: cannot write"), "{said}");
    }
    let kind = fs::metadata(&pipe).unwrap().file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kind));
}

#[test]
fn a_folder_that_cannot_be_written_is_said() {
    let bench = Bench::new();
    // Not even root makes files there.
    let said = bench.bad(&["in", "-o", "/proc/x.gguf"], 1);
    assert!(said.contains("/proc/x.gguf"), "{said}");
    let said = bench.bad(&["in", "-o", "absent/x.gguf"], 1);
    assert!(said.contains("absent/x.gguf"), "{said}");
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

/// Overwrites one bf16 weight of a checkpoint in one file.
fn poison(bench: &Bench, tensor: &str, index: u64, weight: [u8; 2]) {
    let path = bench.path("in/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let header: Value = serde_json::from_slice(&bytes[8..][..len as usize]).unwrap();
    let begin = header[tensor]["data_offsets"][0].as_u64().unwrap();
    let at = (8 + len + begin + 2 * index) as usize;
    bytes[at..at + 2].copy_from_slice(&weight);
    fs::write(path, bytes).unwrap();
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
        "supported: Phi3ForCausalLM",
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
fn a_disk_that_is_too_small_is_left_alone() {
    let bench = Bench::new();
    let program = bench.command(&[]).get_program().to_owned();
    // A disk of 1 MiB that this test alone sees; the shell says what lies on it in the end.
    let script = "mount -t tmpfs -o size=1m none out || exit 77
        \"$0\" convert in -q F32 -o out/x.gguf; code=$?; ls -A out; exit $code";
    let output = Command::new("unshare")
        .current_dir(bench.dir.path())
        .args(["--mount", "--map-root-user", "sh", "-c", script])
        .arg(program)
        .output();
    let output = match output {
        Ok(output) if ![Some(77), None].contains(&output.status.code()) => output,
        _ => return eprintln!("skipped: this user may not mount a disk of its own"),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("unshare") {
        return eprintln!("skipped: this user may not mount a disk of its own");
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("out has 1.00 MiB free; "), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{said}");
}

#[test]
fn a_full_disk_leaves_nothing_and_is_said() {
    let bench = Bench::new();
    // 1 MiB: less than the file, more than its header. The shell hands its limit down.
    let program = bench.command(&[]).get_program().to_owned();
    let output = Command::new("bash")
        .current_dir(bench.dir.path())
        .args([
            "-c",
            "ulimit -f 1024; exec \"$0\" convert in -q F32 -o out/x.gguf",
        ])
        .arg(program)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said} {:?}", output.status);
    assert!(
        said.contains("out/x.gguf") && said.contains("too large"),
        "{said}"
    );
    assert_eq!(bench.outputs(), [""; 0]);
}

/// A checkpoint that takes a while, being encoded by the slowest encoder on one thread.
fn slow() -> Bench {
    let config = toy::config(|c| {
        c["hidden_size"] = json!(512);
        c["intermediate_size"] = json!(2048);
    });
    Bench::of(&config, Dtype::Bf16, 1 << 40)
}

/// Starts a conversion and waits until its temporary file is there.
fn started(bench: &Bench) -> std::process::Child {
    let arguments = ["in", "-q", "IQ4_NL", "-o", "out/x.gguf", "--threads", "1"];
    let mut command = bench.command(&arguments);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while bench.outputs().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing begins");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

#[test]
fn killed_at_any_moment_it_leaves_no_model_and_the_next_run_cleans_up() {
    let bench = slow();
    for wait in [0, 30, 150] {
        let mut child = started(&bench);
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        assert_eq!(
            child.wait().unwrap().signal(),
            Some(9),
            "it was too fast to be killed"
        );
        let left = bench.outputs();
        assert!(left.iter().all(|name| name.ends_with(".part")), "{left:?}");
    }
    bench.good(&["in", "-q", "Q4_0", "-o", "out/x.gguf"]);
    assert_eq!(bench.outputs(), ["x.gguf"]);
}

#[test]
fn interrupted_it_cleans_up_and_says_so() {
    let bench = slow();
    for signal in ["INT", "TERM"] {
        let child = started(&bench);
        let id = child.id().to_string();
        Command::new("kill")
            .args(["-s", signal, &id])
            .status()
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains("interrupted"), "{said}");
        assert_eq!(bench.outputs(), [""; 0]);
    }
}

#[test]
fn ctrl_c_at_the_terminal_ends_the_bar_and_leaves_nothing() {
    let bench = slow();
    let arguments = ["in", "-q", "IQ4_NL", "-o", "out/x.gguf", "--threads", "1"];
    let mut command = bench.command(&arguments);
    command.env("TERM", "xterm");
    // The bar as it is drawn first: a share of the whole, with the speed.
    let Some((shown, code)) = terminal::run(&command, 100, " MiB, ") else {
        return eprintln!("skipped: no python3 to make a terminal with");
    };
    assert_eq!(code, 130, "{shown}");
    assert!(
        shown.contains("converting") && shown.contains("left"),
        "{shown}"
    );
    let said = terminal::lines(&shown).pop().unwrap_or_default();
    assert!(said.ends_with("interrupted"), "{shown}");
    assert_eq!(bench.outputs(), [""; 0], "{shown}");
}

#[test]
fn an_existing_model_survives_a_conversion_that_fails() {
    let bench = Bench::of(&toy::config(|_| {}), Dtype::Bf16, 1 << 40);
    bench.good(&["in", "-o", "out/x.gguf"]);
    let before = bench.sha256("out/x.gguf");
    poison(&bench, "lm_head.weight", 9, [0xc0, 0x7f]);
    let output = bench.run(&["in", "--force", "-o", "out/x.gguf"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(bench.outputs(), ["x.gguf"]);
    assert_eq!(bench.sha256("out/x.gguf"), before);
}

#[test]
fn by_id_it_comes_from_the_hub_into_the_store_with_its_provenance() {
    let bench = Bench::new();
    let server = hub_server::HubServer::start();
    server
        .folder("toy/Phi-3-toy-instruct", &bench.path("in"))
        .unwrap();
    server.small(
        "toy/Phi-3-toy-instruct",
        "README.md",
        b"---\nlicense: mit\nlanguage:\n- en\ntags: [toy]\n---\n# Toy\n",
    );
    let endpoint = server.endpoint();
    let by_id = |arguments: &[&str]| {
        let mut command = bench.command(arguments);
        let output = command.env("HF_ENDPOINT", &endpoint).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let plan = by_id(&["toy/Phi-3-toy-instruct", "--dry-run"]);
    assert!(plan.contains("not here yet"), "{plan}");
    let text = by_id(&["toy/Phi-3-toy-instruct", "-q", "q4_0"]);
    assert!(
        text.contains("modelve complete -m toy/Phi-3-toy-instruct:Q4_0"),
        "{text}"
    );
    let store = bench.path("home/models/toy/Phi-3-toy-instruct/Phi-3-toy-instruct-Q4_0.gguf");
    let ours = Gguf::open(&store).unwrap();
    let text = |key: &str| ours.get(key).unwrap().as_str().unwrap().into_owned();
    assert_eq!(text("modelve.source.repository"), "toy/Phi-3-toy-instruct");
    assert_eq!(text("modelve.source.commit"), hub_server::COMMIT);
    assert_eq!(text("general.license"), "mit");

    bench.good(&["in", "-q", "q4_0", "-o", "out/x.gguf"]);
    let local = Gguf::open(&bench.path("out/x.gguf")).unwrap();
    assert_eq!(ours.tensors().len(), local.tensors().len());
    for (a, b) in ours.tensors().iter().zip(local.tensors()) {
        assert!(
            a.name == b.name && ours.data(a) == local.data(b),
            "{}",
            a.name
        );
    }
    drop(server);
    let offline = by_id(&["toy/Phi-3-toy-instruct", "-q", "q8_0", "--offline"]);
    assert!(offline.contains("Q8_0"), "{offline}");
}

#[test]
fn the_environment_says_who_asks_the_hub_and_whether_it_is_asked() {
    let bench = Bench::new();
    let server = hub_server::HubServer::start();
    let id = "toy/private";
    server.folder(id, &bench.path("in")).unwrap();
    server.private(id, "hf_secret");
    let convert = |environment: &[(&str, &str)]| {
        let mut command = bench.command(&[id, "-q", "Q4_0", "--force"]);
        command.env("HF_ENDPOINT", server.endpoint());
        for key in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN"] {
            command.env_remove(key);
        }
        command.envs(environment.iter().copied());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = convert(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("set HF_TOKEN"), "{said}");
    let (code, said) = convert(&[("HF_TOKEN", "hf_wrong")]);
    assert_eq!(code, Some(1), "{said}");

    // The token of `hf auth login` lies in a file.
    fs::create_dir_all(bench.path("hf")).unwrap();
    fs::write(bench.path("hf/token"), "hf_secret\n").unwrap();
    let (code, said) = convert(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]);
    assert_eq!(code, Some(1), "{said}");
    let (code, said) = convert(&[]);
    assert_eq!(code, Some(0), "{said}");
    fs::remove_dir_all(bench.path("hf")).unwrap();
    fs::create_dir_all(bench.path("hf")).unwrap();

    let (code, said) = convert(&[("HF_TOKEN", "hf_secret"), ("HF_HUB_OFFLINE", "1")]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("HF_HUB_OFFLINE"), "{said}");
    let (code, said) = convert(&[("HF_TOKEN", "hf_secret")]);
    assert_eq!(code, Some(0), "{said}");
    server.requests();
    let (code, said) = convert(&[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(code, Some(0), "{said}");
    assert!(server.requests().is_empty(), "nobody was asked");
}

#[test]
fn an_importance_matrix_of_the_old_format_is_said_to_be_one() {
    let bench = Bench::new();
    // 1 entry, a name of 5 bytes: how llama.cpp's .dat files begin.
    fs::write(bench.path("old.dat"), b"\x01\0\0\0\x05\0\0\0blk.0").unwrap();
    let said = bench.bad(&["in", "--imatrix", "old.dat", "-o", "out/x"], 1);
    assert!(said.contains("not a GGUF file"), "{said}");
    assert!(
        said.contains("llama-imatrix --in-file old.dat -o"),
        "{said}"
    );
    let said = bench.bad(&["in", "--imatrix", "absent.gguf", "-o", "out/x"], 1);
    assert!(
        said.contains("absent.gguf") && !said.contains("old format"),
        "{said}"
    );
}

/// gguf-py, the reference reader, agrees on every key, tensor and type.
#[test]
fn gguf_py_reads_the_file() {
    let bench = Bench::new();
    bench.good(&["in", "-o", "out/x.gguf"]);
    let python = std::env::var("MODELVE_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = "import sys, gguf\n\
        r = gguf.GGUFReader(sys.argv[1])\n\
        print(len(r.tensors), len([k for k in r.fields if not k.startswith('GGUF.')]))\n\
        print(r.fields['general.name'].contents())\n\
        print(*sorted({t.tensor_type.name for t in r.tensors}))\n";
    let probe = Command::new(&python).args(["-c", "import gguf"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {python} has no module `gguf` (pip install gguf)");
        return;
    }
    let output = Command::new(&python)
        .args(["-c", script, &bench.path("out/x.gguf").to_string_lossy()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let ours = Gguf::open(&bench.path("out/x.gguf")).unwrap();
    let expected = format!("{} {}\n", ours.tensors().len(), ours.metadata().count());
    assert!(said.starts_with(&expected), "{said}");
    assert!(said.contains("Phi-3-toy-instruct\nF32 Q4_K Q6_K"), "{said}");
}

/// The real tokenizer, where its files are at hand: the vocabulary is that of llama.cpp's own
/// conversion.
#[test]
fn the_real_vocabulary_is_llama_cpps() {
    let phi3 = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/phi3");
    let reference = phi3.join("ggml-vocab-phi-3.gguf");
    if !reference.is_file() {
        eprintln!("skipped: {} is absent", reference.display());
        return;
    }
    let bench = Bench::of(
        &toy::config(|c| {
            c["vocab_size"] = json!(32064);
            c["num_hidden_layers"] = json!(1);
            c["hidden_size"] = json!(32);
            c["eos_token_id"] = json!(32000);
        }),
        Dtype::Bf16,
        1 << 40,
    );
    for name in [
        "tokenizer.model",
        "tokenizer_config.json",
        "added_tokens.json",
        "generation_config.json",
    ] {
        fs::write(
            bench.path("in").join(name),
            fs::read(phi3.join(name)).unwrap(),
        )
        .unwrap();
    }
    bench.good(&["in", "-q", "F16", "-o", "out/x.gguf"]);
    let (ours, theirs) = (
        Gguf::open(&bench.path("out/x.gguf")).unwrap(),
        Gguf::open(&reference).unwrap(),
    );
    for key in ["tokens", "scores"] {
        let list = |gguf: &Gguf| {
            let value = gguf.get(&format!("tokenizer.ggml.{key}")).unwrap();
            let values: Vec<String> = value
                .as_array()
                .unwrap()
                .iter()
                .map(|v| format!("{v:?}"))
                .collect();
            values
        };
        let (ours, theirs) = (list(&ours), list(&theirs));
        let different: Vec<_> = ours
            .iter()
            .zip(&theirs)
            .enumerate()
            .filter(|(_, (a, b))| a != b)
            .collect();
        assert!(
            ours.len() == theirs.len() && different.is_empty(),
            "{key}: {different:?}"
        );
    }
}
