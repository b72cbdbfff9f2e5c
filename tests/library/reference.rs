//! Small Phi-3 checkpoints, converted to F32, against what transformers says of them: logits,
//! choices at every position, greedy texts, with short and with long RoPE factors.
//!
//! The fixtures are written by `scripts/make_fixtures.py`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use modelve::runtime::{
    Event, FlashAttention, KvType, LoadOptions, Model, Options, Request, Session, Settings, Setup,
    Token, WantLogits, complete,
};
use serde_json::Value;

/// A checkpoint and the folder with what the reference says of it.
struct Case {
    checkpoint: PathBuf,
    fixtures: PathBuf,
}

#[allow(clippy::print_stderr)]
fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixtures = root.join("tests/fixtures");
    let both = |path: PathBuf| Case {
        checkpoint: path.clone(),
        fixtures: path,
    };
    let all = [
        Case {
            checkpoint: root.join("models/tiny-phi3"),
            fixtures: fixtures.join("tiny"),
        },
        both(fixtures.join("random/grouped")),
        both(fixtures.join("random/partial-tied")),
    ];
    let (here, absent): (Vec<_>, Vec<_>) = all.into_iter().partition(|case| {
        case.checkpoint.join("config.json").exists() && case.fixtures.join("logits.json").exists()
    });
    for case in absent {
        eprintln!("skipped: {} is not there", case.fixtures.display());
    }
    here
}

impl Case {
    /// The checkpoint converted to a type and loaded.
    fn model(&self, dir: &Path, quant: &str) -> Model {
        let path = dir.join(format!("{quant}.gguf"));
        let output = Command::new(env!("CARGO_BIN_EXE_modelve"))
            .arg("convert")
            .arg(&self.checkpoint)
            .args(["-q", quant, "-o"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Model::load(&path, &LoadOptions::default()).unwrap()
    }

    /// The stored rows of logits, end to end.
    fn logits(&self) -> Vec<f32> {
        let bytes = std::fs::read(self.fixtures.join("logits.f32")).unwrap();
        let floats = bytes.chunks_exact(4);
        floats
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    fn json(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.fixtures.join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn name(&self) -> String {
        self.fixtures
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned()
    }
}

fn ids(value: &Value) -> Vec<Token> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| Token(id.as_i64().unwrap() as i32))
        .collect()
}

/// Norm of the difference over norm of the reference.
fn distance(ours: &[f32], reference: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let pairs = ours.iter().zip(reference);
    let off: f64 = pairs
        .map(|(&a, &b)| square(f64::from(a) - f64::from(b)))
        .sum();
    let norm: f64 = reference.iter().map(|&b| square(f64::from(b))).sum();
    (off / norm).sqrt()
}

/// A context that computes with the factors the reference used.
fn session(model: &Model, long: bool, len: usize, settings: Settings) -> Session {
    let short_context = model.rope().unwrap().short_context;
    let n_ctx = if long { short_context + 1 } else { 1 }.max(len as u32);
    let session = Session::new(model, &Settings { n_ctx, ..settings }).unwrap();
    assert_eq!(session.uses_long_rope(), Some(long));
    session
}

fn exact() -> Settings {
    Settings {
        kv_type: KvType::F32,
        flash_attention: FlashAttention::Off,
        ..Settings::default()
    }
}

#[test]
fn logits_are_those_of_transformers() {
    for case in cases() {
        let dir = tempfile::tempdir().unwrap();
        let model = case.model(dir.path(), "F32");
        let n_vocab = model.vocab().len() as usize;
        let floats = case.logits();
        let (mut worst, mut worst_default) = (0f64, 0f64);
        for prompt in case.json("logits.json") {
            let tokens = ids(&prompt["ids"]);
            let long = prompt["factors"] == "long";
            let feed = |settings: Settings| {
                let mut rows = Vec::new();
                let mut session = session(&model, long, tokens.len(), settings);
                let seq = session.open().unwrap();
                let mut keep = |_: usize, row: &[f32]| rows.push(row.to_vec());
                session
                    .feed(&seq, &tokens, WantLogits::All, &mut keep)
                    .unwrap();
                rows
            };
            let (ours, by_default) = (feed(exact()), feed(Settings::default()));
            for row in prompt["rows"].as_array().unwrap() {
                let at = row["position"].as_u64().unwrap() as usize;
                let from = row["row"].as_u64().unwrap() as usize * n_vocab;
                let reference = &floats[from..from + n_vocab];
                worst = worst.max(distance(&ours[at], reference));
                worst_default = worst_default.max(distance(&by_default[at], reference));
            }
            // Two tokens can be as likely as each other to within what f32 tells apart.
            let argmax = ids(&prompt["argmax"]);
            let best = |row: &Vec<f32>| {
                let best = (0..n_vocab).max_by(|&a, &b| row[a].total_cmp(&row[b]));
                Token::at(best.unwrap())
            };
            let other = ours
                .iter()
                .zip(&argmax)
                .filter(|(row, id)| best(row) != **id);
            for (row, &id) in other {
                let lead = row[best(row).index()] - row[id.index()];
                assert!(lead < 1e-3, "{} {}: {lead}", case.name(), prompt["name"]);
            }
        }
        assert!(worst < 1e-4, "{}: {worst}", case.name());
        assert!(
            worst_default < 1e-2,
            "{} by default: {worst_default}",
            case.name()
        );
    }
}

#[test]
fn greedy_texts_are_those_of_transformers() {
    for case in cases() {
        let dir = tempfile::tempdir().unwrap();
        let model = case.model(dir.path(), "F32");
        let original = model.rope().unwrap().original as usize;
        for prompt in case.json("greedy.json") {
            let tokens = ids(&prompt["ids"]);
            let long = prompt["factors"] == "long";
            if long != (tokens.len() > original) {
                // A short text with the long factors is never asked for.
                continue;
            }
            let expected = ids(&prompt["new_ids"]);
            let stopped = prompt["finish_reason"] == "stop";
            let options = Options {
                max_tokens: expected.len() + usize::from(stopped),
                ..Options::default()
            };
            let request = Request {
                prompt: tokens,
                seed: 0,
                options: options.into(),
            };
            let setup = Setup {
                settings: exact(),
                ..Setup::default()
            };
            let mut steps = Vec::new();
            complete(&model, vec![request], setup, &mut |event| {
                if let Event::Done { completion, .. } = event {
                    steps = completion.steps.iter().map(|step| step.token).collect();
                }
                ControlFlow::Continue(())
            })
            .unwrap();
            assert_eq!(steps, expected, "{} {}", case.name(), prompt["name"]);
        }
    }
}

/// What quantizing the weights may do to the logits of the trained model: the mean over rows of
/// the distance, and the share of positions whose likeliest token stays the same.
#[test]
fn quantized_logits_stay_within_bounds() {
    let Some(case) = cases().into_iter().find(|case| case.name() == "tiny") else {
        return;
    };
    let floats = case.logits();
    for (quant, bound, same) in [("Q8_0", 0.01, 0.99), ("Q4_K_M", 0.06, 0.97)] {
        let dir = tempfile::tempdir().unwrap();
        let model = case.model(dir.path(), quant);
        let n_vocab = model.vocab().len() as usize;
        let (mut off, mut rows, mut equal, mut positions) = (0.0, 0, 0, 0);
        for prompt in case.json("logits.json") {
            let tokens = ids(&prompt["ids"]);
            let long = prompt["factors"] == "long";
            let mut ours = Vec::new();
            let mut session = session(&model, long, tokens.len(), exact());
            let seq = session.open().unwrap();
            let mut keep = |_: usize, row: &[f32]| ours.push(row.to_vec());
            session
                .feed(&seq, &tokens, WantLogits::All, &mut keep)
                .unwrap();
            for row in prompt["rows"].as_array().unwrap() {
                let at = row["position"].as_u64().unwrap() as usize;
                let from = row["row"].as_u64().unwrap() as usize * n_vocab;
                off += distance(&ours[at], &floats[from..from + n_vocab]);
                rows += 1;
            }
            for (row, id) in ours.iter().zip(ids(&prompt["argmax"])) {
                positions += 1;
                equal += usize::from(row.iter().all(|x| *x <= row[id.index()]));
            }
        }
        let (mean, share) = (off / f64::from(rows), equal as f64 / f64::from(positions));
        assert!(mean < bound, "{quant}: mean distance {mean}");
        assert!(
            share > same,
            "{quant}: {share} of first choices are the same"
        );
    }
}
