//! Two files of one model: positions, perplexities, weights and swaps, against what they are
//! defined as.

use crate::support::probe_fixture;
use crate::support::probe_fixture::{both, exact, prompt};
use crate::support::tiny_gguf::Tiny;
use modelve::gguf::Gguf;
use modelve::probe::compare::Side;
use modelve::probe::math::Distribution;
use modelve::probe::score::Windows;
use modelve::probe::swap::{Baseline, Parts};
use modelve::probe::weights::tensor_errors;
use modelve::probe::{Error, compare};
use modelve::runtime::{Cancel, LoadOptions, Model, Session, Settings};

fn side(name: &str, path: &std::path::Path) -> Side {
    let model = Model::load(path, &LoadOptions::default()).unwrap();
    let settings = compare::settings(Settings {
        n_ctx: 256,
        ..exact()
    });
    Side {
        name: name.to_owned(),
        bytes: std::fs::metadata(path).unwrap().len(),
        session: Session::new(&model, &settings).unwrap(),
    }
}

/// The grouped fixture with its weights rounded to Q8_0 where `choose` says so.
fn rounded(path: &std::path::Path, choose: &dyn Fn(&str) -> bool) {
    let mut parts = probe_fixture::parts("grouped", 2);
    for (name, shape, ty, data) in &mut parts.tensors {
        if shape.len() < 2 || shape[0] % 32 != 0 || !choose(name) {
            continue;
        }
        let weights: Vec<f32> = data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        // A block: a scale in f16, 32 whole numbers.
        *data = weights
            .chunks_exact(32)
            .flat_map(|block| {
                let most = block.iter().fold(0f32, |most, w| most.max(w.abs()));
                let scale = half::f16::from_f32(most / 127.0);
                let whole = |w: &f32| (w / scale.to_f32()).round() as i8 as u8;
                let numbers: Vec<u8> = block.iter().map(whole).collect();
                [&scale.to_le_bytes()[..], &numbers].concat()
            })
            .collect();
        *ty = modelve::gguf::GgmlType::Q8_0;
    }
    parts.write(path);
}

#[test]
fn a_comparison_is_what_both_models_say_position_by_position() {
    let [fixture, _] = both();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q8.gguf");
    rounded(&path, &|_| true);
    let mut sides = [
        side("a", &fixture.path),
        side("b", &path),
        side("a again", &fixture.path),
    ];
    let text = prompt(&fixture, fixture.ids.len());
    let windows = Windows {
        size: 64,
        stride: 32,
    };
    let found = compare::compare(&mut sides, &text, windows, 100, &mut |_| {}).unwrap();
    let [b, again] = &found[..] else {
        panic!("two comparisons")
    };
    assert!(again.kl_mean < 1e-12 && again.same_top == 1.0);

    let rows = |side: &mut Side| {
        let mut rows = Vec::new();
        let seq = side.session.open().unwrap();
        let mut keep = |_: usize, row: &[f32]| rows.push(row.to_vec());
        let want = modelve::runtime::WantLogits::All;
        side.session.feed(&seq, &text.ids, want, &mut keep).unwrap();
        rows
    };
    let (of_a, of_b) = (rows(&mut sides[0]), rows(&mut sides[1]));
    let n = text.ids.len() - 1;
    let kl: Vec<f64> = (0..n)
        .map(|i| Distribution::new(&of_a[i]).kl(&Distribution::new(&of_b[i])))
        .collect();
    let mean = kl.iter().sum::<f64>() / n as f64;
    assert!(mean > 1e-7, "Q8_0 is not F32");
    assert!(
        (b.kl_mean - mean).abs() < 1e-3 * mean,
        "{} {mean}",
        b.kl_mean
    );
    assert_eq!((b.n_tokens, b.worst.len(), b.complete), (n, n, true));
    let largest = kl.iter().copied().fold(0.0, f64::max);
    assert!((b.worst[0].kl - largest).abs() < 1e-3 * largest);
    assert!(b.worst.is_sorted_by(|x, y| x.kl >= y.kl));
    let loss = |rows: &[Vec<f32>]| {
        let of = |i: usize| -Distribution::new(&rows[i]).logprob(text.ids[i + 1]);
        ((0..n).map(of).sum::<f64>() / n as f64).exp()
    };
    assert!((b.perplexity_a / loss(&of_a) - 1.0).abs() < 1e-4);
    assert!((b.perplexity_b / loss(&of_b) - 1.0).abs() < 1e-4);

    let (first, others) = sides.split_at_mut(1);
    let start = prompt(&fixture, 5);
    let same = compare::parting(&mut first[0].session, &mut others[1].session, &start, 9).unwrap();
    assert!(same.a.is_none() && same.n_same > 0);
}

#[test]
fn models_of_different_vocabularies_are_not_compared() {
    let [fixture, _] = both();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.gguf");
    Tiny::default().write(&path);
    let mut sides = [side("a", &fixture.path), side("b", &path)];
    let windows = Windows { size: 8, stride: 4 };
    let text = prompt(&fixture, 9);
    let error = compare::compare(&mut sides, &text, windows, 1, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Vocabularies { .. }), "{error}");
}

#[test]
fn weights_are_compared_decoded() {
    let [fixture, _] = both();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q8.gguf");
    rounded(&path, &|name| name.contains("ffn_down"));
    let (a, b) = (
        Gguf::open(&fixture.path).unwrap(),
        Gguf::open(&path).unwrap(),
    );
    assert_eq!(tensor_errors(&a, &a, &Cancel::new(), &|_| {}), []);
    // Rows of 80 weights are no whole blocks, so ffn_down stays as it is.
    assert_eq!(tensor_errors(&a, &b, &Cancel::new(), &|_| {}), []);
    rounded(&path, &|name| name.contains("ffn_up"));
    let b = Gguf::open(&path).unwrap();
    let errors = tensor_errors(&a, &b, &Cancel::new(), &|_| {});
    assert_eq!(errors.len(), 3);
    for error in errors {
        assert_eq!((&*error.type_a, &*error.type_b), ("F32", "Q8_0"));
        // Rounding to 1/127 of the largest of 32 Gaussian weights.
        let relative = error.error.unwrap();
        assert!((0.003..0.01).contains(&relative), "{relative}");
    }
}

#[test]
fn swapping_every_tensor_that_differs_makes_the_other_model() {
    let [fixture, _] = both();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q8.gguf");
    let chosen = [
        "blk.0.ffn_up.weight".to_owned(),
        "blk.2.attn_qkv.weight".to_owned(),
    ];
    rounded(&path, &|name| chosen.iter().any(|chosen| chosen == name));
    let (a, b) = (
        Gguf::open(&fixture.path).unwrap(),
        Gguf::open(&path).unwrap(),
    );
    let parts = Parts::write(&a, &b, &chosen[..1], &mut |_| {}).unwrap();
    let baseline = Baseline::new(&mut side("a", &fixture.path).session, &fixture.ids).unwrap();
    let kl = |path: &std::path::Path| baseline.kl(&mut side("", path).session).unwrap().mean();
    let none = kl(&parts.with(None).unwrap());
    assert!(none < 1e-12, "the first model in parts: {none}");
    let one = kl(&parts.with(Some(0)).unwrap());
    let all = kl(&path);
    assert!(one > 0.0 && one != all, "{one} {all}");
    rounded(&path, &|name| name == chosen[0]);
    assert!(
        (kl(&path) - one).abs() < 1e-9,
        "one tensor swapped is one tensor rounded"
    );
}
