//! The built-in model through the probes: in F32 against transformers, quantized against F32.
//!
//! The fixture is written by `scripts/make_probe_fixtures.py`.

use std::path::{Path, PathBuf};
use std::process::Command;

use modelve::probe::compare::Side;
use modelve::probe::math::Distribution;
use modelve::probe::next::{Options, next};
use modelve::probe::score::{Windows, score};
use modelve::probe::{Prompt, attention, compare, lens};
use modelve::runtime::{FlashAttention, KvType, LoadOptions, Model, Session, Settings, Token};
use safetensors::SafeTensors;

/// Every so many tokens of the vocabulary the fixture holds one.
const SAMPLED: usize = 8;
const N_LAYER: usize = 6;
const N_VOCAB: usize = 2112;

struct Expected {
    ids: Vec<Token>,
    /// `[layer][position][token / SAMPLED]`, log-probabilities.
    lens: Vec<f32>,
    /// `[layer][position]`
    best: Vec<Token>,
    /// `[layer][head][query][key]`
    attention: Vec<f32>,
    long_ids: Vec<Token>,
    long_scores: Vec<f32>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn expected() -> Expected {
    let path = root().join("tests/fixtures/probe/tiny-expected.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    fn read<T>(tensors: &SafeTensors<'_>, name: &str, from: fn([u8; 4]) -> T) -> Vec<T> {
        let bytes = tensors.tensor(name).unwrap().data().chunks_exact(4);
        bytes.map(|b| from(b.try_into().unwrap())).collect()
    }
    let floats = |name| read(&tensors, name, f32::from_le_bytes);
    let whole = |name| read(&tensors, name, |id| Token(i32::from_le_bytes(id)));
    let sums = floats("log_sum");
    let mut lens = floats("lens");
    for (row, sum) in lens.chunks_exact_mut(N_VOCAB / SAMPLED).zip(sums) {
        row.iter_mut().for_each(|logit| *logit -= sum);
    }
    Expected {
        ids: whole("ids"),
        lens,
        best: whole("best"),
        attention: floats("attention"),
        long_ids: whole("long_ids"),
        long_scores: floats("long_scores"),
    }
}

pub fn converted(dir: &Path, quant: &str) -> PathBuf {
    let path = dir.join(format!("{quant}.gguf"));
    let output = Command::new(env!("CARGO_BIN_EXE_modelve"))
        .arg("convert")
        .arg(root().join("models/tiny-phi3"))
        .args(["-q", quant, "-o"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    path
}

fn load(path: &Path) -> Model {
    Model::load(path, &LoadOptions::default()).unwrap()
}

/// The computation that is nearest to the reference.
fn exact(tokens: usize) -> Settings {
    Settings {
        n_ctx: tokens as u32,
        kv_type: KvType::F32,
        flash_attention: FlashAttention::Off,
        ..Settings::default()
    }
}

fn prompt(ids: &[Token]) -> Prompt {
    Prompt {
        text: String::new(),
        ids: ids.to_vec(),
    }
}

#[test]
fn probes_say_what_transformers_says() {
    let dir = tempfile::tempdir().unwrap();
    let model = load(&converted(dir.path(), "F32"));
    let expected = expected();
    let n = expected.ids.len();
    let text = prompt(&expected.ids);
    let sampled = N_VOCAB / SAMPLED;
    let row = |layer: usize, position: usize| {
        &expected.lens[(layer * n + position) * sampled..][..sampled]
    };

    let mut session = Session::new(&model, &exact(n)).unwrap();
    let all = Options {
        top: N_VOCAB,
        ..Options::default()
    };
    let answer = next(&mut session, &text, &all, &mut |_| {}).unwrap();
    let sum: f64 = answer.top.iter().map(|choice| choice.prob).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    let d = Distribution::new(&answer.logits);
    for (i, &logprob) in row(N_LAYER - 1, n - 1).iter().enumerate() {
        let difference = d.logprob(Token::at(i * SAMPLED)) - f64::from(logprob);
        assert!(difference.abs() < 1e-3, "{difference}");
    }

    let options = lens::Options {
        top: N_VOCAB,
        ..lens::Options::default()
    };
    let mut session = Session::new(&model, &lens::settings(&model, exact(n))).unwrap();
    let found = lens::lens(&mut session, &text, &options, &mut |_| {}).unwrap();
    assert_eq!(found.cells.len(), N_LAYER * n);
    for cell in &found.cells {
        let (layer, position) = (cell.layer, cell.position);
        assert_eq!(cell.top[0].id, expected.best[layer * n + position]);
        let row = row(layer, position);
        let (mut difference, mut square) = (0.0, 0.0);
        for choice in &cell.top {
            if choice.id.index().is_multiple_of(SAMPLED) {
                let logprob = f64::from(row[choice.id.index() / SAMPLED]);
                difference += (choice.logprob - logprob).powi(2);
                square += logprob.powi(2);
                assert!((choice.logprob - logprob).abs() < 1e-3);
            }
        }
        assert!(square > 0.0 && difference < 1e-6 * square);
    }

    let settings = attention::settings(&model, n, exact(n));
    let mut session = Session::new(&model, &settings).unwrap();
    let mut weights = expected.attention.iter();
    for layer in 0..N_LAYER {
        let options = attention::Options {
            layer: Some(layer),
            ..attention::Options::default()
        };
        let found = attention::attention(&mut session, &text, options, &mut |_| {}).unwrap();
        let found = found.heads.iter().flat_map(|head| &head.weights).flatten();
        for weight in found {
            assert!((weight - weights.next().unwrap()).abs() < 1e-3);
        }
    }
    assert_eq!(weights.next(), None);
}

#[test]
fn scores_beyond_the_original_context_are_those_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let model = load(&converted(dir.path(), "F32"));
    let expected = expected();
    let n = expected.long_ids.len();
    let windows = Windows {
        size: n,
        stride: n / 2,
    };
    for n_batch in [512, 100] {
        let settings = Settings {
            n_batch,
            ..exact(n)
        };
        let mut session = Session::new(&model, &settings).unwrap();
        assert_eq!(session.uses_long_rope(), Some(true));
        let text = prompt(&expected.long_ids);
        let result = score(&mut session, &text, windows, &mut |_| {}).unwrap();
        for (token, score) in result.tokens[1..].iter().zip(&expected.long_scores) {
            let difference = token.logprob.unwrap() - f64::from(*score);
            assert!(difference.abs() < 1e-3, "{difference}");
        }
    }
}

/// What quantization may cost of the same probes, on text like what the model was trained on:
/// the bounds that docs/thinking.md states.
#[test]
fn quantized_weights_stay_within_their_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let text = "It was night in the cave. The ball hit the bat, and it opened its wings. \
        They were playing cricket in the park. The ball hit the bat, and it was made of good willow. \
        India is a large country in South Asia. Its capital is New Delhi.";
    let files = [
        converted(dir.path(), "F32"),
        converted(dir.path(), "Q8_0"),
        root().join("crates/hub/tiny/tiny-phi3-Q4_K_M.gguf"),
    ];
    let models = files.each_ref().map(|path| load(path));
    let text = Prompt::plain(models[0].vocab(), text).unwrap();
    let n = text.ids.len();
    let mut sides = models.each_ref().map(|model| Side {
        name: String::new(),
        bytes: 0,
        session: Session::new(model, &compare::settings(exact(n))).unwrap(),
    });
    let windows = Windows {
        size: n,
        stride: n / 2,
    };
    let found = compare::compare(&mut sides, &text, windows, 1, &mut |_| {}).unwrap();
    let looks = models.each_ref().map(|model| {
        let mut session = Session::new(model, &lens::settings(model, exact(n))).unwrap();
        let options = lens::Options {
            top: N_VOCAB,
            ..lens::Options::default()
        };
        let lens = lens::lens(&mut session, &text, &options, &mut |_| {}).unwrap();
        let settings = attention::settings(model, n, exact(n));
        let mut session = Session::new(model, &settings).unwrap();
        let weights: Vec<f32> = (0..N_LAYER)
            .flat_map(|layer| {
                let options = attention::Options {
                    layer: Some(layer),
                    ..attention::Options::default()
                };
                let found = attention::attention(&mut session, &text, options, &mut |_| {});
                let heads = found.unwrap().heads.into_iter();
                heads
                    .flat_map(|head| head.weights)
                    .flatten()
                    .collect::<Vec<_>>()
            })
            .collect();
        (lens, weights)
    });
    // Mean KL in nats; share of equal first choices; largest relative error of a layer's
    // log-probabilities; sum over a row of the differences of attention weights, in the mean.
    let bounds = [(1e-4, 0.98, 0.006, 0.02), (0.005, 0.95, 0.04, 0.12)];
    for ((comparison, looked), (kl, same, layers, weights)) in
        found.iter().zip(&looks[1..]).zip(bounds)
    {
        assert!(comparison.kl_mean < kl, "{}", comparison.kl_mean);
        assert!(comparison.same_top >= same, "{}", comparison.same_top);
        let error = (0..N_LAYER)
            .map(|layer| relative_error(&looks[0].0, &looked.0, layer))
            .fold(0.0, f64::max);
        assert!(error < layers, "{error}");
        let pairs = looks[0].1.iter().zip(&looked.1);
        let sum: f64 = pairs.map(|(a, b)| f64::from((a - b).abs())).sum();
        // Rows of n weights, of which each sums to 1.
        let mean = sum / (looks[0].1.len() / n) as f64;
        assert!(mean < weights, "{mean}");
    }
}

/// Norm of the difference over the norm, of a layer's log-probabilities at all positions.
fn relative_error(a: &lens::Lens, b: &lens::Lens, layer: usize) -> f64 {
    let by_id = |cell: &lens::Cell| {
        let mut row = vec![0.0; N_VOCAB];
        for choice in &cell.top {
            row[choice.id.index()] = choice.logprob;
        }
        row
    };
    let (mut difference, mut square) = (0.0, 0.0);
    for (a, b) in a
        .cells
        .iter()
        .zip(&b.cells)
        .filter(|(a, _)| a.layer == layer)
    {
        for (x, y) in by_id(a).into_iter().zip(by_id(b)) {
            difference += (x - y).powi(2);
            square += x.powi(2);
        }
    }
    (difference / square).sqrt()
}
