//! What heads do, against transformers.

use crate::support::heads_fixture::{Fixture, N_HEAD, N_LAYER, all};
use crate::support::probe_fixture::{N_VOCAB, exact};
use modelve::experiment::detect::{self, Heads, Options, Table};
use modelve::probe::Prompt;
use modelve::runtime::{Session, Settings};

fn session(fixture: &Fixture, n_batch: u32) -> Session {
    let settings = detect::settings(&fixture.model(), 64, exact());
    let settings = Settings {
        n_batch,
        n_outputs: n_batch,
        ..settings
    };
    Session::new(&fixture.model(), &settings).unwrap()
}

#[test]
fn scores_on_repeated_tokens_are_those_of_transformers() {
    for fixture in all() {
        for n_batch in [64, 7] {
            let mut session = session(&fixture, n_batch);
            let text = [fixture.ids()];
            let mut seen = Vec::new();
            let mut progress = |done| seen.push(done);
            let (scores, n) =
                detect::scores(&mut session, &text, fixture.length, &mut progress).unwrap();
            assert_eq!((n, seen.last()), (1, Some(&text[0].len())));
            let tables: [(&str, &Table); 5] = [
                ("induction", &scores.induction),
                ("previous", &scores.previous),
                ("duplicate", &scores.duplicate),
                ("first", &scores.first),
                ("entropy_bits", &scores.entropy_bits),
            ];
            for (name, table) in tables {
                let expected = fixture.floats(name);
                assert_eq!(table.0.len(), N_LAYER);
                let found: Vec<f64> = table.0.iter().flatten().copied().collect();
                assert_eq!(found.len(), N_LAYER * N_HEAD);
                for (at, (x, y)) in found.iter().zip(&expected).enumerate() {
                    let off = (x - f64::from(*y)).abs();
                    assert!(off < 1e-4, "{}, {name} of head {at}: {x} {y}", fixture.name);
                }
            }
        }
    }
}

fn said(fixture: &Fixture, n_batch: u32) -> Heads {
    let prompt = Prompt {
        text: String::new(),
        ids: fixture.ids(),
    };
    let options = Options {
        length: 8,
        draws: 1,
        top: N_VOCAB,
        ..Options::default()
    };
    let mut session = session(fixture, n_batch);
    detect::heads(&mut session, Some(&prompt), &options, &mut |_| {}).unwrap()
}

#[test]
fn what_heads_write_is_what_transformers_says() {
    for fixture in all() {
        let expected = fixture.floats("writes");
        let found = said(&fixture, 64);
        let said = found.said.unwrap();
        assert_eq!(said.writes_missing, None, "{}", fixture.name);
        for (layer, heads) in said.last.iter().enumerate() {
            assert_eq!(heads.len(), N_HEAD);
            for (head, last) in heads.iter().enumerate() {
                let row = &expected[(layer * N_HEAD + head) * N_VOCAB..][..N_VOCAB];
                assert_eq!(last.writes.len(), N_VOCAB);
                let largest = row.iter().fold(0f32, |a, x| a.max(x.abs()));
                for write in &last.writes {
                    let y = f64::from(row[write.id.index()]);
                    let off = (write.logit - y).abs();
                    let place = format!("{}, {layer}.{head}", fixture.name);
                    assert!(off < 1e-3 * f64::from(largest.max(1.0)), "{place}: {off}");
                }
                let order = last.writes.windows(2).all(|w| w[0].logit >= w[1].logit);
                assert!(order, "the highest first");
                let answer = last.writes.iter().find(|w| w.id == said.answer.id);
                assert_eq!(last.to_answer, answer.map(|w| w.logit));
                let sum: f32 = last.weights.iter().sum();
                assert!((sum - 1.0).abs() < 1e-4 && last.weights.len() == said.ids.len());
            }
        }
        let logits = fixture.floats("logits");
        let best = (0..N_VOCAB).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        assert_eq!(Some(said.answer.id.index()), best);
    }
}

#[test]
fn the_same_seed_draws_the_same_tokens() {
    let fixture = &all()[0];
    let mut session = session(fixture, 64);
    let mut draw = |seed| {
        let options = Options {
            seed,
            length: 10,
            draws: 3,
            top: 1,
        };
        detect::heads(&mut session, None, &options, &mut |_| {}).unwrap()
    };
    let (a, b, other) = (draw(5), draw(5), draw(6));
    assert_eq!(a.random, b.random);
    assert_eq!(a.scores.first, b.scores.first);
    assert_ne!(a.random, other.random);
    assert_eq!(a.random.len(), 3);
    assert_ne!(a.random[0], a.random[1]);
    for text in &a.random {
        let (first, second) = text[text.len() - 20..].split_at(10);
        assert_eq!(first, second);
        let distinct: std::collections::HashSet<_> = first.iter().collect();
        assert_eq!(distinct.len(), 10);
    }
    // More than the vocabulary has are refused.
    let options = Options {
        length: 5000,
        ..Options::default()
    };
    let error = detect::heads(&mut session, None, &options, &mut |_| {}).unwrap_err();
    assert!(
        error.to_string().starts_with("5000 different tokens"),
        "{error}"
    );
}

#[test]
fn after_ctrl_c_there_is_what_was_done() {
    let fixture = &all()[0];
    let mut session = session(fixture, 8);
    let cancel = session.settings().cancel.clone();
    let options = Options {
        length: 10,
        draws: 3,
        ..Options::default()
    };
    let found = detect::heads(&mut session, None, &options, &mut |done| {
        if done > 25 {
            cancel.set();
        }
    });
    let found = found.unwrap();
    assert!(!found.complete);
    assert_eq!(found.random.len(), 1);
    assert!(found.scores.first.0.iter().flatten().all(|x| x.is_finite()));
}
