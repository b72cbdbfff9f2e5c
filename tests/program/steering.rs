//! `heads`, `steer` and `dump` on the command line: schemas, manners, files, pages.

use std::path::{Path, PathBuf};
use std::process::{Command as Plain, Stdio};

use crate::support::asking::{self, array, said};
use crate::support::tiny_gguf::Tiny;
use assert_cmd::Command;
use safetensors::SafeTensors;
use serde_json::Value;

struct Bench {
    dir: tempfile::TempDir,
    model: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("random.gguf");
        Tiny {
            layers: 4,
            ..Tiny::default()
        }
        .write(&model);
        Bench { dir, model }
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("modelve").unwrap();
        command.args(arguments).current_dir(&self.dir);
        command.env("MODELVE_MODEL", &self.model);
        command
    }

    fn said(&self, arguments: &[&str]) -> String {
        said(&mut self.command(arguments))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.said(&[arguments, &["--json"]].concat())).unwrap()
    }

    fn refusal(&self, arguments: &[&str]) -> (String, i32) {
        asking::refusal(&mut self.command(arguments))
    }

    /// A vector for layer 2, learned from two texts.
    fn learn(&self, name: &str) -> String {
        let file = self.file(name);
        self.said(&[
            "steer", "learn", "--plus", "the ball", "--minus", "the cave", "-o", &file,
        ]);
        file
    }
}

#[test]
fn heads_tell_scores_and_what_they_write() {
    let bench = Bench::new();
    let options = ["--length", "12", "--draws", "3", "--seed", "7"];
    let alone = bench.json(&[&["heads"], &options[..]].concat());
    assert_eq!((&alone["layers"], &alone["heads"]), (&4.into(), &4.into()));
    assert_eq!(array(&alone["random"]).len(), 3);
    assert_eq!(
        (&alone["seed"], &alone["complete"]),
        (&7.into(), &true.into())
    );
    for key in [
        "induction",
        "previous",
        "duplicate",
        "first",
        "entropy_bits",
    ] {
        let layers = array(&alone[key]);
        assert_eq!(layers.len(), 4, "{key}");
        for x in layers.iter().flat_map(array).map(|x| x.as_f64().unwrap()) {
            assert!(
                x >= 0.0 && (x <= 1.0 || key == "entropy_bits"),
                "{key}: {x}"
            );
        }
    }
    assert!(alone.get("last").is_none());
    // A prompt changes nothing of the scores, and its attention is that of `attention`.
    let text = "the ball hit the bat";
    let exact = ["--kv-type", "f32"];
    let with = bench.json(&[&["heads", text, "-n", "3"], &options[..], &exact].concat());
    assert_eq!(with["prompt"], text);
    for (layer, heads) in array(&with["last"]).iter().enumerate() {
        let layer = layer.to_string();
        let found = bench.json(&[&["attention", text, "--layer", &layer], &exact[..]].concat());
        for (last, head) in array(heads).iter().zip(array(&found["heads"])) {
            assert_eq!(array(&last["writes"]).len(), 3);
            let row = array(&head["weights"]).last().unwrap();
            for (a, b) in array(&last["weights"]).iter().zip(array(row)) {
                assert!((a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-5);
            }
        }
    }
    let next = bench.json(&[&["next", text, "-n", "1"], &exact[..]].concat());
    assert_eq!(with["answer"]["id"], next["top"][0]["id"]);
    let shown = bench.said(&["heads", text]);
    for part in [
        "I induction",
        "layer  0 1 2 3",
        "to answer",
        "looks at",
        "writes",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    for (arguments, expected) in [
        (&["heads", "--flash-attn", "on"][..], "flash attention"),
        (&["heads", "--kv-type", "q8_0"], "quantized KV cache"),
        (&["heads", "--length", "1"], "a number of 2 or more"),
        (&["heads", "--draws", "0"], "a number of 1 or more"),
        (
            &["heads", "--length", "1000"],
            "1000 different tokens cannot be drawn",
        ),
        (&["heads", "a", "b"], "takes one prompt"),
    ] {
        let (said, code) = bench.refusal(arguments);
        assert!(
            said.contains(expected) && code == 2,
            "{arguments:?}: {code} {said}"
        );
    }
}

#[test]
fn the_built_in_model_has_heads_of_the_token_before() {
    let home = tempfile::tempdir().unwrap();
    let output = Plain::new(env!("CARGO_BIN_EXE_modelve"))
        .args(["heads", "-m", "tiny", "--json"])
        .env("MODELVE_HOME", home.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let best = |key: &str| {
        let all = array(&found[key]).iter().flat_map(array);
        all.map(|x| x.as_f64().unwrap()).fold(0.0, f64::max)
    };
    assert!(best("previous") > 0.4, "{}", best("previous"));
    assert!(best("induction") < 0.2, "{}", best("induction"));
}

#[test]
fn what_is_learned_steers_and_completes() {
    let bench = Bench::new();
    let vector = bench.file("v.gguf");
    let pairs = bench.file("pairs.jsonl");
    std::fs::write(
        &pairs,
        "{\"plus\": \"the bat\", \"minus\": \"the cave\"}\n\n",
    )
    .unwrap();
    let learned = bench.json(&[
        "steer", "learn", "--plus", "the ball", "--minus", "a cave", "--pairs", &pairs, "--layers",
        "1,3", "-o", &vector,
    ]);
    assert_eq!(
        (&learned["plus"], &learned["minus"]),
        (&2.into(), &2.into())
    );
    assert_eq!(learned["written"], serde_json::json!([1, 3]));
    assert_eq!(array(&learned["layers"]).len(), 3, "layer 0 can have none");
    let meta = bench.json(&["meta", &vector]);
    assert_eq!(meta["kind"], "controlvector");

    let text = "the ball hit";
    let run = |more: &[&str]| {
        let arguments = ["steer", "run", text, "--vector", &vector, "-n", "6"];
        bench.json(&[&arguments, more].concat())
    };
    let found = run(&["--scale=-2,0,3"]);
    let runs = array(&found["runs"]);
    let scales: Vec<f64> = runs.iter().map(|r| r["scale"].as_f64().unwrap()).collect();
    assert_eq!(scales, [0.0, -2.0, 0.0, 3.0]);
    assert_eq!(found["layers"], serde_json::json!([1, 3]));
    // Without, and with nothing of it, is the same.
    let kl = |run: &Value| run["kl"].as_f64().unwrap();
    assert!(kl(&runs[2]) < 1e-6 && kl(&runs[1]) > 1e-4 && kl(&runs[3]) > 1e-4);
    assert_eq!(runs[0]["text"], runs[2]["text"]);
    // Experiments compute in 32 bits and unfused unless they are told otherwise.
    let exact = ["--kv-type", "f32", "--flash-attn", "off"];
    let next = bench.json(&[&["next", text, "-n", "8"][..], &exact].concat());
    assert_eq!(runs[0]["next"]["top"], next["top"]);
    // One layer of it is another vector.
    let one = run(&["--scale", "3", "--layers", "3"]);
    assert_eq!(one["layers"], serde_json::json!([3]));
    assert_ne!(one["runs"][1]["next"]["top"], runs[3]["next"]["top"]);

    // `complete` adds the same, and several add up.
    let complete = |vectors: &[&str]| {
        let mut arguments = vec!["complete", text, "-n", "6"];
        vectors
            .iter()
            .for_each(|v| arguments.extend(["--control-vector", *v]));
        bench.json(&arguments)["text"].clone()
    };
    let scaled = |scale: &str| format!("{vector}:{scale}");
    assert_eq!(complete(&[&scaled("3")]), runs[3]["text"]);
    assert_eq!(complete(&[&scaled("-2")]), runs[1]["text"]);
    assert_eq!(complete(&[&vector, &scaled("2")]), runs[3]["text"]);
    assert_eq!(complete(&[&scaled("0")]), runs[0]["text"]);
    let shown = bench.said(&["steer", "run", text, "--vector", &vector, "--scale=-2,3"]);
    assert!(
        shown.contains(" none ") && shown.contains("-2") && shown.contains("+3"),
        "{shown}"
    );
}

#[test]
fn a_vector_is_not_lost_and_a_wrong_one_is_refused() {
    let bench = Bench::new();
    let vector = bench.learn("v.gguf");
    let before = std::fs::read(&vector).unwrap();
    let again = [
        "steer", "learn", "--plus", "the bat", "--minus", "a cave", "-o", &vector,
    ];
    let (said, code) = bench.refusal(&again);
    assert!(
        said.contains("v.gguf exists") && said.contains("--force") && code == 1,
        "{said}"
    );
    // What is read is not written, forced or not.
    let (said, _) = bench.refusal(&[
        "steer", "run", "the", "--vector", &vector, "--html", &vector, "--force",
    ]);
    assert!(said.contains("is read by this command"), "{said}");
    assert_eq!(std::fs::read(&vector).unwrap(), before);
    bench.said(&[&again[..], &["--force"]].concat());
    assert_ne!(std::fs::read(&vector).unwrap(), before);

    // A model, a vector of another model, and a damaged one.
    let other = bench.file("other.gguf");
    Tiny {
        width: 128,
        layers: 4,
        ..Tiny::default()
    }
    .write(Path::new(&other));
    let wide = bench.file("wide.gguf");
    bench.said(&[
        "steer", "learn", "-m", &other, "--plus", "the ball", "--minus", "the cave", "-o", &wide,
    ]);
    let damaged = bench.file("damaged.gguf");
    std::fs::write(&damaged, &before[..before.len() / 2]).unwrap();
    let model = bench.model.to_str().unwrap();
    for (file, expected) in [
        (
            model,
            "is not a control vector: its architecture is \"phi3\"",
        ),
        (
            &wide,
            "has directions of 128 values, and the states of this model (phi3) have 64",
        ),
        (&damaged, "damaged.gguf"),
        (&bench.file("absent.gguf"), "absent.gguf"),
    ] {
        for arguments in [
            &["complete", "the", "--control-vector", file][..],
            &["steer", "run", "the", "--vector", file],
        ] {
            let (said, code) = bench.refusal(arguments);
            assert!(said.contains(expected) && code == 1, "{code} {said}");
            // A file that is not a control vector at all is refused with the command that makes one.
            let unread = *file == *damaged || *file == *bench.file("absent.gguf");
            assert!(!unread || said.contains("modelve steer learn"), "{said}");
        }
    }
    for (arguments, expected) in [
        (
            &["steer", "learn", "--plus", "the", "-o", "x.gguf"][..],
            "one side has none",
        ),
        (&["steer", "run", "the"], "--vector"),
        (
            &[
                "steer", "run", "the", "--vector", &vector, "--scale", "much",
            ],
            "is not a number",
        ),
    ] {
        let (said, code) = bench.refusal(arguments);
        assert!(
            said.contains(expected) && code == 2,
            "{arguments:?}: {code} {said}"
        );
    }
    let zero = [
        "steer", "learn", "--plus", "a", "--minus", "the", "--layer", "0", "-o", "x.gguf",
    ];
    let (said, code) = bench.refusal(&zero);
    assert!(
        said.contains("layer 0 cannot have a direction") && code == 2,
        "{said}"
    );
    std::fs::write(bench.file("pairs"), "{\"plus\": \"a\"}").unwrap();
    let (said, _) = bench.refusal(&["steer", "learn", "--pairs", "pairs", "-o", "x.gguf"]);
    assert!(said.contains("line 1 of pairs is not a pair"), "{said}");
    assert!(!Path::new(&bench.file("x.gguf")).exists());
}

#[test]
fn activations_go_to_a_file_that_others_read() {
    let bench = Bench::new();
    let texts = bench.file("texts.txt");
    std::fs::write(&texts, "the ball hit\nthe cave in the bat\n\n").unwrap();
    let acts = bench.file("acts.safetensors");
    let arguments = [
        "dump", "--file", &texts, "--lines", "--layers", "1,-1", "-o", &acts,
    ];
    let roles = ["--role", "residual,mlp", "--role", "final"];
    let told = bench.json(&[&arguments[..], &roles].concat());
    let bytes = std::fs::read(&acts).unwrap();
    assert_eq!(told["bytes"], bytes.len());
    assert_eq!(
        (&told["texts"], &told["complete"]),
        (&2.into(), &true.into())
    );
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let names: Vec<&str> = (array(&told["tensors"]).iter())
        .map(|tensor| tensor["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "residual.1",
            "residual.3",
            "mlp.1",
            "mlp.3",
            "final",
            "ids",
            "text",
            "position"
        ]
    );
    let tokens = told["tokens"].as_u64().unwrap() as usize;
    for tensor in array(&told["tensors"]) {
        let view = tensors.tensor(tensor["name"].as_str().unwrap()).unwrap();
        let shape: Vec<u64> = view.shape().iter().map(|&n| n as u64).collect();
        assert_eq!(tensor["shape"], serde_json::json!(shape));
        assert_eq!(shape[0] as usize, tokens);
    }
    let ids = tensors.tensor("ids").unwrap().data().chunks_exact(4);
    let ids: Vec<i32> = ids
        .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let next = |text| array(&bench.json(&["next", text])["ids"]).to_vec();
    let expected = [next("the ball hit"), next("the cave in the bat")].concat();
    assert_eq!(serde_json::json!(ids), Value::Array(expected));
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    let pieces: Value = serde_json::from_str(&metadata["pieces"]).unwrap();
    assert!(ids.iter().all(|id| pieces.get(id.to_string()).is_some()));
    assert_eq!(metadata["architecture"], "phi3");

    let (said, code) = bench.refusal(&arguments);
    assert!(
        said.contains("acts.safetensors exists") && code == 1,
        "{said}"
    );
    assert_eq!(std::fs::read(&acts).unwrap(), bytes);
    let (said, _) = bench.refusal(&["dump", "--file", &texts, "-o", &texts, "--force"]);
    assert!(said.contains("is read by this command"), "{said}");
    for (arguments, expected) in [
        (&["dump", "the", "-o", "-"][..], "not a regular file"),
        (&["dump", "the"], "--output"),
        (
            &["dump", "the", "--role", "states", "-o", "x"],
            "is none of embedding, residual",
        ),
        (&["dump", "the", "--layers", "9", "-o", "x"], "layer 9 of 4"),
    ] {
        let (said, code) = bench.refusal(arguments);
        assert!(
            said.contains(expected) && code == 2,
            "{arguments:?}: {code} {said}"
        );
    }
    assert!(!Path::new(&bench.file("x")).exists());
    python_reads(&acts, tokens);
}

/// Python's safetensors, where there is one.
fn python_reads(file: &str, tokens: usize) {
    let script = "import sys; from safetensors.numpy import load_file; t = load_file(sys.argv[1]); \
        print(t['residual.1'].shape, t['residual.1'].dtype, t['ids'].shape)";
    let run = Plain::new("python3").args(["-c", script, file]).output();
    match run {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(said.trim(), format!("({tokens}, 64) float32 ({tokens},)"));
        }
        _ => eprintln!("skipped: no python3 with safetensors and numpy"),
    }
}

#[test]
fn pages_hold_what_json_tells() {
    let bench = Bench::new();
    let vector = bench.learn("v.gguf");
    for (arguments, key) in [
        (&["heads", "the ball hit"][..], "\"to_answer\""),
        (&["heads"], "\"induction\""),
        (
            &[
                "steer", "run", "the ball", "--vector", &vector, "--scale", "1,2",
            ],
            "\"kl\"",
        ),
    ] {
        let page = bench.file("page.html");
        bench.said(&[arguments, &["--html", &page]].concat());
        let page = std::fs::read_to_string(&page).unwrap();
        assert!(
            page.starts_with("<!doctype html>") && page.contains(key),
            "{arguments:?}"
        );
        assert!(page.contains("random.gguf") || page.contains("tiny-phi3-random"));
    }
}
