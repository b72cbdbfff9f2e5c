//! Probes against transformers, against themselves, and on the command line.

use crate::support::probe_fixture::{both, exact, prompt};
use crate::support::tiny_gguf::Tiny;
use modelve::probe::math::Distribution;
use modelve::probe::next::{Options, candidate_ids, moved, next, one_token};
use modelve::probe::score::{Windows, score};
use modelve::probe::tree::{Branch, Shape};
use modelve::probe::{Error, Prompt, attention, lens};
use modelve::runtime::Cancel;
use modelve::runtime::{LoadOptions, Model, Session, Settings, Token};

fn random_model() -> (tempfile::TempDir, Model) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("random.gguf");
    Tiny::default().write(&path);
    let model = Model::load(&path, &LoadOptions::default()).unwrap();
    (dir, model)
}

fn top(n: usize) -> Options<'static> {
    Options {
        top: n,
        ..Options::default()
    }
}

#[test]
fn next_token_logprobs_are_those_of_transformers() {
    for fixture in both() {
        let model = fixture.model();
        let n = fixture.ids.len();
        for n_batch in [512, 3] {
            let settings = Settings { n_batch, ..exact() };
            let mut session = Session::new(&model, &settings).unwrap();
            let answer = next(&mut session, &prompt(&fixture, n), &top(352), &mut |_| {}).unwrap();
            let expected = Distribution::new(&fixture.lens[2][n - 1]);
            assert_eq!(answer.top.len(), 352);
            for choice in &answer.top {
                let difference = choice.logprob - expected.logprob(choice.id);
                assert!(difference.abs() < 1e-3, "{difference}");
            }
            let sum: f64 = answer.top.iter().map(|choice| choice.prob).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{sum}");
            assert!((answer.entropy_bits - expected.entropy_bits()).abs() < 1e-3);
        }
    }
}

#[test]
fn scores_are_those_of_transformers_in_one_batch_or_several() {
    for fixture in both() {
        let model = fixture.model();
        let n = fixture.ids.len();
        let windows = Windows {
            size: 64,
            stride: 32,
        };
        for n_batch in [512, 3] {
            let settings = Settings { n_batch, ..exact() };
            let mut session = Session::new(&model, &settings).unwrap();
            let result = score(&mut session, &prompt(&fixture, n), windows, &mut |_| {}).unwrap();
            assert!(result.complete);
            assert_eq!(
                (result.tokens[0].logprob, result.tokens[0].rank),
                (None, None)
            );
            let mut total = 0.0;
            for (i, token) in result.tokens.iter().enumerate().skip(1) {
                let expected = Distribution::new(&fixture.lens[2][i - 1]);
                let logprob = token.logprob.unwrap();
                assert!((logprob - expected.logprob(token.id)).abs() < 1e-3);
                assert_eq!(token.rank, Some(expected.rank(token.id)));
                total += logprob;
            }
            assert!((result.total_logprob - total).abs() < 1e-9);
            let mean = -total / (n - 1) as f64;
            assert!((result.perplexity - mean.exp()).abs() < 1e-6 * result.perplexity);
            assert!((result.bits_per_token - mean / 2f64.ln()).abs() < 1e-9);
        }
    }
}

#[test]
fn windows_see_what_they_hold_and_nothing_else() {
    let [fixture, _] = both();
    let model = fixture.model();
    let mut session = Session::new(&model, &exact()).unwrap();
    let windows = Windows { size: 8, stride: 3 };
    let n = fixture.ids.len();
    let mut seen = Vec::new();
    let whole = score(&mut session, &prompt(&fixture, n), windows, &mut |done| {
        seen.push(done)
    })
    .unwrap();
    assert_eq!(seen, (2..=n).collect::<Vec<_>>());
    // Token 9 is scored by the second window, which begins at token 3.
    let alone = Prompt {
        text: String::new(),
        ids: fixture.ids[3..10].to_vec(),
    };
    let alone = score(&mut session, &alone, windows, &mut |_| {}).unwrap();
    let (a, b) = (
        whole.tokens[9].logprob.unwrap(),
        alone.tokens[6].logprob.unwrap(),
    );
    assert!((a - b).abs() < 1e-4, "{a} {b}");
}

#[test]
fn a_cancelled_score_keeps_what_is_done() {
    let [fixture, _] = both();
    let model = fixture.model();
    let settings = Settings {
        n_batch: 4,
        ..exact()
    };
    let mut session = Session::new(&model, &settings).unwrap();
    let cancel = settings.cancel.clone();
    let text = prompt(&fixture, fixture.ids.len());
    let windows = Windows {
        size: 64,
        stride: 32,
    };
    let result = score(&mut session, &text, windows, &mut |done| {
        if done == 5 {
            cancel.set();
        }
    });
    let result = result.unwrap();
    assert!(!result.complete);
    assert_eq!(result.n_scored, 4);
    assert!(result.tokens[4].logprob.is_some() && result.tokens[5].logprob.is_none());
}

#[test]
fn a_candidate_of_several_tokens_is_their_product() {
    let (_dir, model) = random_model();
    let mut session = Session::new(&model, &exact()).unwrap();
    let text = Prompt::new(model.vocab(), "the ball hit the bat").unwrap();
    let words = ["cave hit".to_owned(), "of".to_owned(), ", and".to_owned()];
    let options = Options {
        top: 3,
        candidates: &words,
        tree: None,
    };
    let answer = next(&mut session, &text, &options, &mut |_| {}).unwrap();
    for candidate in &answer.candidates {
        let spelled: String = candidate.pieces.iter().map(|p| &**p).collect();
        assert_eq!(candidate.text.trim_start(), spelled.trim_start());
        let mut ids = text.ids.clone();
        let mut sum = 0.0;
        for &id in &candidate.ids {
            let here = Prompt {
                text: String::new(),
                ids: ids.clone(),
            };
            let step = next(&mut session, &here, &top(0), &mut |_| {}).unwrap();
            sum += Distribution::new(&step.logits).logprob(id);
            ids.push(id);
        }
        assert!(
            (candidate.logprob - sum).abs() < 1e-4,
            "{} {sum}",
            candidate.logprob
        );
    }
    assert_eq!(answer.candidates[0].ids.len(), 2);
    assert_eq!(&*answer.candidates[0].pieces[0], " cave");
    let words = ["of".to_owned(), String::new()];
    let options = Options {
        candidates: &words,
        ..options
    };
    let empty = next(&mut session, &text, &options, &mut |_| {});
    assert!(matches!(empty, Err(Error::EmptyCandidate { index: 2 })));
    // Directly after an opening mark there is no space.
    let open = Prompt::new(model.vocab(), "the (").unwrap();
    let ids = candidate_ids(model.vocab(), &open, "ball", 1).unwrap();
    assert_eq!(model.vocab().piece(ids[0], false).unwrap()[0], b'b');
}

#[test]
fn a_token_is_named_by_id_or_text() {
    let (_dir, model) = random_model();
    let vocab = model.vocab();
    let ball = one_token(vocab, "ball").unwrap();
    assert_eq!(vocab.piece(ball, false).unwrap(), b" ball");
    assert_eq!(one_token(vocab, " ball").unwrap(), ball);
    assert_eq!(one_token(vocab, &ball.to_string()).unwrap(), ball);
    assert_eq!(
        vocab
            .piece(one_token(vocab, "<|end|>").unwrap(), true)
            .unwrap(),
        b"<|end|>"
    );
    assert!(matches!(
        one_token(vocab, "ball cave"),
        Err(Error::NotOneToken { .. })
    ));
    assert!(matches!(
        one_token(vocab, "999999"),
        Err(Error::NoToken { .. })
    ));
    assert!(Prompt::new(vocab, "").is_err());
}

#[test]
fn a_tree_holds_what_walking_it_step_by_step_gives() {
    let (_dir, model) = random_model();
    let shape = Shape { depth: 3, width: 3 };
    let (n_seq, _) = shape.room();
    let mut session = Session::new(&model, &Settings { n_seq, ..exact() }).unwrap();
    let text = Prompt::new(model.vocab(), "the ball hit").unwrap();
    let words = ["hit the cave".to_owned()];
    let options = Options {
        top: 3,
        candidates: &words,
        tree: Some(shape),
    };
    let root = next(&mut session, &text, &options, &mut |_| {}).unwrap();
    let branches = root.tree.unwrap();
    let mut alone = Session::new(&model, &exact()).unwrap();
    check(&mut alone, &text.ids, &branches, 0.0, 3);
    assert_eq!(branches.len(), 3);

    fn check(session: &mut Session, ids: &[Token], branches: &[Branch], joint: f64, depth: usize) {
        let here = Prompt {
            text: String::new(),
            ids: ids.to_vec(),
        };
        let step = next(session, &here, &top(3), &mut |_| {}).unwrap();
        for (branch, choice) in branches.iter().zip(&step.top) {
            assert_eq!(branch.choice.id, choice.id);
            assert!((branch.choice.logprob - choice.logprob).abs() < 1e-4);
            assert!((branch.joint_logprob - joint - choice.logprob).abs() < 1e-3);
            if depth > 1 && !session.model().vocab().is_end(choice.id) {
                assert_eq!(branch.branches.len(), 3);
                let ids = [ids, &[choice.id]].concat();
                check(
                    session,
                    &ids,
                    &branch.branches,
                    branch.joint_logprob,
                    depth - 1,
                );
            }
        }
    }
}

#[test]
fn what_moved_most_comes_first() {
    let (_dir, model) = random_model();
    let n = model.vocab().len() as usize;
    let (mut a, mut b) = (vec![0f32; n], vec![0f32; n]);
    a[300] = 8.0;
    b[310] = 7.0;
    let moved = moved(model.vocab(), &a, &b, 2);
    assert_eq!((moved[0].id, moved[1].id), (Token(300), Token(310)));
    assert!(moved[0].prob_first > 0.8 && moved[0].prob < 0.01);
}

#[test]
fn every_layer_through_the_lens_is_what_transformers_says() {
    for fixture in both() {
        let model = fixture.model();
        let n = fixture.ids.len();
        let options = lens::Options {
            top: 352,
            token: Some(Token(17)),
            ..lens::Options::default()
        };
        for n_batch in [64, 7] {
            let settings = Settings {
                n_batch,
                ..lens::settings(&model, exact())
            };
            let mut session = Session::new(&model, &settings).unwrap();
            let found =
                lens::lens(&mut session, &prompt(&fixture, n), &options, &mut |_| {}).unwrap();
            assert!(found.complete && found.n_layers == 3);
            assert_eq!(found.cells.len(), 3 * n);
            for cell in &found.cells {
                let expected = &fixture.lens[cell.layer][cell.position];
                let d = Distribution::new(expected);
                let end = Distribution::new(&fixture.lens[2][cell.position]);
                assert_eq!(cell.top.len(), 352);
                for choice in &cell.top {
                    let difference = (choice.logprob - d.logprob(choice.id)).abs();
                    assert!(difference < 1e-3, "layer {}: {difference}", cell.layer);
                }
                assert!((cell.entropy_bits - d.entropy_bits()).abs() < 1e-3);
                let kl = end.kl(&d);
                assert!((cell.kl_to_final - kl).abs() < 1e-3 * (1.0 + kl));
                assert!((cell.token_logprob.unwrap() - d.logprob(Token(17))).abs() < 1e-3);
            }
            for answer in &found.answers {
                let at = answer.position;
                let best = |layer: usize| Distribution::new(&fixture.lens[layer][at]).best();
                assert_eq!(answer.choice.id, best(2));
                let first = (0..3).find(|&layer| best(layer) == best(2));
                assert_eq!(answer.first_layer, first);
            }
        }
    }
}

#[test]
fn the_lens_looks_where_it_is_told() {
    let [fixture, _] = both();
    let model = fixture.model();
    let mut session = Session::new(&model, &lens::settings(&model, exact())).unwrap();
    let text = prompt(&fixture, 12);
    let all = lens::lens(&mut session, &text, &lens::Options::default(), &mut |_| {}).unwrap();
    let options = lens::Options {
        layers: Some(vec![1]),
        positions: Some(vec![11, 3]),
        ..lens::Options::default()
    };
    let some = lens::lens(&mut session, &text, &options, &mut |_| {}).unwrap();
    let places: Vec<_> = some.cells.iter().map(|c| (c.layer, c.position)).collect();
    assert_eq!(places, [(1, 3), (1, 11)]);
    for cell in &some.cells {
        let same = all
            .cells
            .iter()
            .find(|c| (c.layer, c.position) == (cell.layer, cell.position));
        assert!((same.unwrap().kl_to_final - cell.kl_to_final).abs() < 1e-6);
    }
    let wrong = |layers, positions| {
        let options = lens::Options {
            layers,
            positions,
            ..lens::Options::default()
        };
        let mut session = Session::new(&model, &lens::settings(&model, exact())).unwrap();
        lens::lens(&mut session, &text, &options, &mut |_| {})
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        wrong(Some(vec![99]), None),
        "layer 99 of a model with 3 layers, 0 to 2"
    );
    assert_eq!(
        wrong(None, Some(vec![12])),
        "position 12 of a prompt with 12 tokens, 0 to 11"
    );
}

#[test]
fn attention_is_that_of_transformers() {
    for fixture in both() {
        let model = fixture.model();
        let n = fixture.ids.len();
        let text = prompt(&fixture, n);
        for n_batch in [64, 7] {
            let settings = Settings {
                n_batch,
                ..attention::settings(&model, n, exact())
            };
            let mut session = Session::new(&model, &settings).unwrap();
            for layer in 0..3 {
                let options = attention::Options {
                    layer: Some(layer),
                    overview: layer == 1,
                    ..attention::Options::default()
                };
                let found =
                    attention::attention(&mut session, &text, options, &mut |_| {}).unwrap();
                assert_eq!((found.layer, found.heads.len()), (layer, 4));
                assert_eq!(found.overview.len(), if layer == 1 { 3 } else { 0 });
                for head in &found.heads {
                    let expected = &fixture.attention[layer][head.head];
                    for (query, row) in head.weights.iter().enumerate() {
                        assert_eq!(row.len(), n);
                        let sum: f32 = row.iter().sum();
                        assert!((sum - 1.0).abs() < 1e-5);
                        assert!(row[query + 1..].iter().all(|&weight| weight == 0.0));
                        for (a, b) in row.iter().zip(&expected[query]) {
                            assert!((a - b).abs() < 1e-3, "{a} {b}");
                        }
                    }
                    let previous = (1..n).map(|i| f64::from(expected[i][i - 1])).sum::<f64>();
                    let mean = previous / (n - 1) as f64;
                    assert!((head.habits.to_previous - mean).abs() < 1e-3);
                    if let Some(layer) = found.overview.get(layer) {
                        assert_eq!(layer.heads[head.head], head.habits);
                    }
                }
                let mean: f32 = found.last_row().iter().sum();
                assert!((mean - 1.0).abs() < 1e-5 && found.complete);
            }
        }
        let mut session = Session::new(&model, &attention::settings(&model, n, exact())).unwrap();
        let mut ask = |layer, head| {
            let options = attention::Options {
                layer,
                head,
                ..attention::Options::default()
            };
            attention::attention(&mut session, &text, options, &mut |_| {})
        };
        assert_eq!(ask(None, Some(2)).unwrap().heads[0].head, 2);
        assert!(matches!(
            ask(Some(3), None),
            Err(Error::NoLayer { layer: 3, .. })
        ));
        assert!(matches!(
            ask(None, Some(4)),
            Err(Error::NoHead { head: 4, n_head: 4 })
        ));
    }
}

#[test]
fn attention_that_is_cut_short_is_that_of_the_tokens_done() {
    let [fixture, _] = both();
    let model = fixture.model();
    let text = prompt(&fixture, 20);
    for rows in [attention::Rows::All, attention::Rows::Last] {
        let options = attention::Options {
            overview: true,
            rows,
            ..attention::Options::default()
        };
        let look = |n: usize, stop_at: usize| {
            let settings = Settings {
                n_batch: 8,
                cancel: Cancel::new(),
                ..attention::settings(&model, 20, exact())
            };
            let mut session = Session::new(&model, &settings).unwrap();
            let text = Prompt {
                ids: text.ids[..n].to_vec(),
                ..text.clone()
            };
            let stop = &mut |done| {
                if done == stop_at {
                    settings.cancel.set()
                }
            };
            attention::attention(&mut session, &text, options, stop).unwrap()
        };
        let (cut, whole) = (look(20, 16), look(16, 0));
        assert!(!cut.complete && whole.complete);
        assert_eq!((&cut.ids, cut.last_row().len()), (&whole.ids, 16));
        let kept = if rows == attention::Rows::All { 16 } else { 1 };
        for (a, b) in cut.heads.iter().zip(&whole.heads) {
            assert_eq!(a.weights.len(), kept);
            for (a, b) in a.weights.iter().flatten().zip(b.weights.iter().flatten()) {
                assert!((a - b).abs() < 1e-5);
            }
        }
        for (a, b) in cut.overview.iter().zip(&whole.overview) {
            for (a, b) in a.heads.iter().zip(&b.heads) {
                assert!((a.entropy_bits - b.entropy_bits).abs() < 1e-4);
            }
        }
    }
}
