//! `modelve imatrix`: what is measured, and that nothing of it or of the user's is lost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use modelve::quant::imatrix::Imatrix;
use serde_json::Value;

use crate::support::terminal;
use crate::support::tiny_gguf::Tiny;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Bench {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_modelve"));
        command.args(arguments).current_dir(self.dir.path());
        command.env("MODELVE_HOME", self.path("home"));
        command.env("HF_HUB_OFFLINE", "1").env("NO_COLOR", "1");
        command.env_remove("MODELVE_MODEL");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Standard output of a command that succeeds.
    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a command that fails.
    fn bad(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.good(arguments)).unwrap()
    }

    /// The names of the files in the folder.
    fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.dir.path()).unwrap();
        let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<String> = files.filter(|name| name != "home").collect();
        files.sort();
        files
    }
}

fn checkpoint() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("models/tiny-phi3").display().to_string()
}

const STORY: &str = "Once there was a small boat on the lake, and every day the boat went to the \
    island and came back before it was dark. A boy and a girl sat in it. They had bread, a red \
    ball and a dog, and the dog was afraid of the water.\n";

#[test]
fn squares_of_what_enters_a_matrix_are_added_up() {
    let bench = Bench::new();
    let text = bench.path("text.txt");
    std::fs::write(&text, STORY.repeat(2)).unwrap();
    let arguments = ["-m", "tiny", "--file", "text.txt"];
    // What the heads wrote is what enters the matrix behind them.
    let dump = ["--no-special", "--role", "heads", "-o", "heads.safetensors"];
    bench.good(&[&["dump"], &arguments[..], &dump].concat());
    let measure = [
        "-w",
        "64",
        "-n",
        "64",
        "--flash-attn",
        "off",
        "--kv-type",
        "f32",
        "-o",
        "m.gguf",
    ];
    let said = bench.json(&[&["imatrix", "--json"], &arguments[..], &measure].concat());
    assert_eq!(
        (&said["chunks"], &said["complete"]),
        (&Value::from(1), &Value::from(true))
    );

    let bytes = std::fs::read(bench.path("heads.safetensors")).unwrap();
    let dumped = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let file = Imatrix::open(&bench.path("m.gguf")).unwrap();
    assert_eq!(
        file.entries().len() as u64,
        said["matrices"].as_u64().unwrap()
    );
    for layer in 0..file.entries().len() / 4 {
        let heads = dumped.tensor(&format!("heads.{layer}")).unwrap();
        let width = heads.shape()[1];
        let values = heads.data().as_chunks::<4>().0.iter();
        let values: Vec<f64> = values.map(|x| f64::from(f32::from_le_bytes(*x))).collect();
        let entry = &file.entries()[&format!("blk.{layer}.attn_output.weight")];
        assert_eq!(entry.counts(), [64.0]);
        assert_eq!(entry.sums().len(), width);
        for (column, &sum) in entry.sums().iter().enumerate() {
            let rows = values.chunks(width).take(64);
            let expected: f64 = rows.map(|row| row[column] * row[column]).sum();
            let error = (f64::from(sum) - expected).abs();
            assert!(
                error <= 1e-3 * expected + 1e-9,
                "{layer} {column}: {sum} {expected}"
            );
        }
    }
}

#[test]
fn convert_weighs_by_what_was_measured_of_the_checkpoint() {
    let bench = Bench::new();
    let checkpoint = checkpoint();
    let said = bench.good(&["imatrix", &checkpoint, "-n", "1100"]);
    assert!(said.contains("4 chunks of 256 tokens"), "{said}");
    assert!(said.contains("--imatrix tiny-phi3.imatrix.gguf"), "{said}");
    // The file that was made on the way is gone.
    assert_eq!(bench.files(), ["tiny-phi3.imatrix.gguf"]);
    let convert = ["convert", &checkpoint, "-q", "Q3_K_S", "-o"];
    bench.good(&[&convert[..], &["plain.gguf"]].concat());
    let imatrix = ["weighted.gguf", "--imatrix", "tiny-phi3.imatrix.gguf"];
    bench.good(&[&convert[..], &imatrix].concat());
    let meta = bench.json(&["meta", "weighted.gguf", "--json"]);
    let value = |key: &str| meta["metadata"][key]["value"].clone();
    assert_eq!(value("quantize.imatrix.chunks_count"), 4);
    assert_eq!(
        value("quantize.imatrix.dataset"),
        "modelve calibration text 1"
    );
    let read = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert_ne!(read("plain.gguf"), read("weighted.gguf"));

    let meta = bench.json(&["meta", "tiny-phi3.imatrix.gguf", "--json"]);
    assert_eq!(meta["kind"], "imatrix");
    let imatrix = &meta["imatrix"];
    assert_eq!(
        (&imatrix["chunks"], &imatrix["chunk_size"]),
        (&Value::from(4), &Value::from(256))
    );
    let matrices = imatrix["matrices"].as_array().unwrap();
    let shares: Vec<f64> = matrices
        .iter()
        .map(|m| m["largest_hundredth"].as_f64().unwrap())
        .collect();
    assert!(
        shares.is_sorted_by(|a, b| a >= b) && shares[0] > 0.01,
        "{shares:?}"
    );
    assert_eq!(matrices[0]["count"], 1024.0);
    let said = bench.good(&["meta", "tiny-phi3.imatrix.gguf"]);
    assert!(
        said.contains("measured on modelve calibration text 1: 4 chunks"),
        "{said}"
    );
    assert!(said.contains("blk."), "{said}");
}

#[test]
fn a_file_that_is_there_stays_unless_told_otherwise() {
    let bench = Bench::new();
    std::fs::write(bench.path("mine"), "mine").unwrap();
    std::fs::write(bench.path("text.txt"), STORY.repeat(30)).unwrap();
    let measure = ["imatrix", "tiny", "-f", "text.txt", "-w", "64"];
    let to =
        |name: &'static str, more: &[&'static str]| [&measure[..], &["-o", name], more].concat();
    let said = bench.bad(&to("mine", &[]), 1);
    // It is no importance matrix, so it cannot be gone on with.
    assert!(
        said.contains("--force") && !said.contains("--resume"),
        "{said}"
    );
    let said = bench.bad(&to("mine", &["--resume"]), 1);
    assert!(said.contains("neither a GGUF file"), "{said}");
    assert_eq!(std::fs::read(bench.path("mine")).unwrap(), b"mine");
    let said = bench.bad(&to("text.txt", &["--force"]), 1);
    assert!(said.contains("text.txt"), "{said}");
    bench.good(&to("mine", &["--force"]));
    let whole = std::fs::read(bench.path("mine")).unwrap();
    assert_ne!(whole, b"mine");
    let said = bench.bad(&to("mine", &[]), 1);
    assert!(
        said.contains("--force") && said.contains("--resume"),
        "{said}"
    );
    // All of it was measured: nothing is left to do, and nothing changes.
    bench.good(&to("mine", &["--resume"]));
    assert_eq!(std::fs::read(bench.path("mine")).unwrap(), whole);
    let said = bench.bad(&to("mine", &["--resume", "-n", "128"]), 1);
    assert!(said.contains("on another text"), "{said}");
    let other = [
        "imatrix", "tiny", "-f", "text.txt", "-o", "mine", "--resume",
    ];
    let said = bench.bad(&[&other[..], &["-w", "32"]].concat(), 1);
    assert!(said.contains("another --window"), "{said}");
    assert_eq!(std::fs::read(bench.path("mine")).unwrap(), whole);
}

#[test]
fn a_text_too_short_is_said_to_be() {
    let bench = Bench::new();
    std::fs::write(bench.path("text.txt"), STORY).unwrap();
    let said = bench.bad(&["imatrix", "tiny", "-f", "text.txt"], 1);
    assert!(said.contains("fewer than a window of 256"), "{said}");
    assert!(said.contains("shorter window: modelve imatrix"), "{said}");
    // Too short for any window.
    std::fs::write(bench.path("text.txt"), "bat").unwrap();
    let said = bench.bad(&["imatrix", "tiny", "-f", "text.txt"], 1);
    assert!(!said.contains("shorter window"), "{said}");
    assert!(said.contains("a longer text; without --text"), "{said}");
    assert_eq!(bench.files(), ["text.txt"]);
    // A file that is no importance matrix is not proposed to be gone on with.
    let said = bench.bad(&["imatrix", "tiny", "-o", "text.txt"], 1);
    assert!(
        said.contains("--force") && !said.contains("--resume"),
        "{said}"
    );
}

/// Ctrl-C keeps the chunks that were read, and going on gives the bytes of a run without it.
#[test]
#[cfg(unix)]
fn what_a_killed_run_left_is_removed_by_the_next() {
    let bench = Bench::new();
    let arguments = ["imatrix", &checkpoint(), "-o", "m.gguf"];
    let folders = || {
        let files = bench.files().into_iter();
        let ours =
            |name: &String| name.starts_with(".modelve-") && bench.path(name).join("lock").exists();
        files.filter(ours).count()
    };
    let mut killed = bench.command(&arguments);
    killed.stdout(Stdio::null()).stderr(Stdio::null());
    let mut killed = killed.spawn().unwrap();
    while folders() == 0 && killed.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(folders(), 1, "it was killed while it had a folder");
    bench.good(&[
        "imatrix",
        &checkpoint(),
        "-o",
        "m.gguf",
        "-w",
        "64",
        "-n",
        "64",
    ]);
    assert_eq!(bench.files(), ["m.gguf"]);
}

#[test]
fn an_interrupted_measurement_goes_on() {
    let bench = Bench::new();
    let model = bench.path("slow.gguf");
    Tiny {
        layers: 8,
        width: 512,
        heads: 8,
        heads_kv: 8,
        feed_forward: 1024,
        ..Tiny::default()
    }
    .write(&model);
    std::fs::write(bench.path("text.txt"), "the ball hit the bat ".repeat(3000)).unwrap();
    let measure = [
        "imatrix",
        "slow.gguf",
        "-f",
        "text.txt",
        "-w",
        "64",
        "-t",
        "1",
        "-o",
    ];
    let part = [&measure[..], &["part.gguf"]].concat();
    let at = r"regex:\b([2-9]|[1-9][0-9]+) of [0-9,]+ chunks";
    let Some((shown, code)) = terminal::run(&bench.command(&part), 100, at) else {
        eprintln!("skipped: no Python to make a terminal with");
        return;
    };
    assert_eq!(code, 130, "{shown}");
    assert!(shown.contains("--resume"), "{shown}");
    let read = |name: &str| Imatrix::open(&bench.path(name)).unwrap();
    let some = read("part.gguf");
    let planned = some.origin().unwrap().planned;
    assert!(
        (2..planned).contains(&some.chunks()),
        "{} of {planned}",
        some.chunks()
    );
    let said = bench.good(&["meta", "part.gguf"]);
    assert!(said.contains("interrupted: "), "{said}");

    bench.good(&[&part[..], &["--resume"]].concat());
    bench.good(&[&measure[..], &["whole.gguf"]].concat());
    let entries: BTreeMap<_, _> = read("whole.gguf").entries().clone();
    assert_eq!(read("part.gguf").entries(), &entries);
    let bytes = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert_eq!(bytes("part.gguf"), bytes("whole.gguf"));
}
