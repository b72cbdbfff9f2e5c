//! `modelve convert` from outside: what it writes, and that it writes all or nothing.

mod adapter;
mod checkpoints;
mod dense;
mod ends;
mod families;
mod packed;
mod refusal;
mod sized;
mod vocabularies;

use crate::support::hub_server;
use crate::support::terminal;
use crate::support::toy;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::synthetic::Dtype;
use assert_cmd::cargo::CommandCargoExt;
use modelve::gguf::Gguf;
use modelve::runtime::{Reading, Token, Vocab};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
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
fn verbose_says_what_encodes_each_type() {
    let bench = Bench::new();
    let convert = ["in", "-o", "out/m.gguf", "-q", "Q8_0", "--verbose"];
    let output = bench
        .command(&convert)
        .env("MODELVE_ISA", "plain")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let expected = match cfg!(target_arch = "x86_64") {
        true => "Q8_0: encoded by plain code",
        // There ggml may have been compiled to fuse what we do not.
        false => "Q8_0: encoded by",
    };
    assert!(said.contains(expected), "{said}");
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
        assert!(vocab.is_end(Token(id)), "{id}");
    }
    assert!(!vocab.is_end(Token(280)));
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
        .tokenize("<|end|>\n<|assistant|>", Reading::PromptPart)
        .unwrap();
    assert_eq!(tokens, [292, 291].map(Token));
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
    let tokens = vocab.tokenize(text, Reading::Prompt).unwrap();
    assert_eq!(tokens, [256, 257, 292, i32::from(b'\n')].map(Token));
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
    assert_eq!(quants["quants"].as_array().unwrap().len(), 27);
    // From the smallest to the largest, but for the plain types beside those of their bits.
    assert_eq!(quants["quants"][0]["name"], "IQ2_XXS");
}

#[test]
fn types_of_few_bits_are_not_written_without_an_importance_matrix() {
    let bench = Bench::new();
    for arguments in [
        ["in", "-q", "IQ2_M", "-o", "out/x.gguf"],
        ["in", "--tensor-type", "ffn_up=IQ3_XXS", "-o", "out/x.gguf"],
    ] {
        let said = bench.bad(&arguments, 1);
        assert!(said.contains("imatrix"), "{said}");
    }
    // This one knows how to do without.
    bench.good(&["in", "-q", "IQ3_M", "-o", "out/x.gguf", "--verify"]);
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
