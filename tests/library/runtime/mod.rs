//! The runtime as a library, on a tiny Phi-3 of random weights.

mod aborts;
mod chat;
mod completion;
mod engine;
mod exchange;
mod files;
mod grammar;
mod hooks;
mod hostile;
mod lies;
mod schema;
mod state;

use crate::support::tiny_gguf;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use crate::support::tiny_gguf::Tiny;
use modelve::gguf::{GgmlType, Value};
use modelve::runtime::{
    Cancel, Engine, Entry, Error, Event, Finish, FlashAttention, KvType, LoadOptions, Model,
    Options, Reading, Report, Request, Sampling, Seq, Session, Settings, Setup, Token, Vocab,
    WantLogits, complete,
};

struct File {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn file(write: impl FnOnce(&std::path::Path)) -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    write(&path);
    File { _dir: dir, path }
}

fn tiny() -> Model {
    let file = file(|path| Tiny::default().write(path));
    Model::load(&file.path, &LoadOptions::default()).unwrap()
}

fn exact() -> Settings {
    Settings {
        kv_type: KvType::F32,
        flash_attention: FlashAttention::Off,
        ..Settings::default()
    }
}

/// Norm of the difference over the norm of the reference.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    difference / norm(&mut b.iter().map(|&b| f64::from(b)))
}

/// The logits after every token, in a sequence of their own.
fn alone(session: &mut Session, tokens: &[Token]) -> Vec<Vec<f32>> {
    let seq = session.open().unwrap();
    all_logits(session, &seq, tokens)
}

fn all_logits(session: &mut Session, seq: &Seq, tokens: &[Token]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    session
        .feed(seq, tokens, WantLogits::All, &mut |_, row| {
            rows.push(row.to_vec())
        })
        .unwrap();
    rows
}

#[test]
fn a_vocabulary_alone_turns_text_into_tokens_and_back() {
    let file = file(|path| Tiny::default().write(path));
    let vocab = Vocab::load(&file.path).unwrap();
    let tokens = vocab.tokenize("the ball é€", Reading::TextPart).unwrap();
    let pieces: Vec<_> = tokens
        .iter()
        .map(|&t| vocab.piece(t, false).unwrap())
        .collect();
    assert_eq!(pieces.concat(), " the ball é€".as_bytes());
    assert_eq!(&pieces[..3], [&b" the"[..], b" ball", b" "]);
    assert_eq!(
        pieces.last().unwrap().len(),
        1,
        "the euro sign has no token and is spelled in bytes"
    );
    assert_eq!(
        vocab.detokenize(&tokens, false).unwrap(),
        "the ball é€".as_bytes()
    );

    let end = vocab.tokenize("<|end|>", Reading::PromptPart).unwrap();
    let [.., end] = end[..] else {
        panic!("no tokens")
    };
    assert!(vocab.is_end(end));
    assert!(vocab.tokenize("<|end|>", Reading::TextPart).unwrap().len() > 2);
    assert_eq!(vocab.piece(end, false).unwrap(), b"");
    assert_eq!(vocab.piece(end, true).unwrap(), b"<|end|>");
    let n = vocab.len() as i32;
    for out in [-1, n, i32::MAX].map(Token) {
        assert!(matches!(
            vocab.piece(out, true),
            Err(Error::TokenRange { .. })
        ));
    }
}

#[test]
fn one_batch_or_several_give_the_same_logits() {
    let model = tiny();
    let tokens: Vec<Token> = (0..40).map(|i| Token(260 + i * 3 % 90)).collect();
    let mut whole = Session::new(&model, &exact()).unwrap();
    let reference = alone(&mut whole, &tokens);
    assert_eq!(reference.len(), tokens.len());
    let mut parts = Session::new(
        &model,
        &Settings {
            n_batch: 7,
            ..exact()
        },
    )
    .unwrap();
    let seq = parts.open().unwrap();
    let rows = all_logits(&mut parts, &seq, &tokens);
    for (a, b) in rows.iter().zip(&reference) {
        assert!(distance(a, b) < 1e-5, "{}", distance(a, b));
    }
    assert!(
        distance(&reference[0], &reference[1]) > 0.1,
        "positions differ"
    );
    // Taking back and feeding again, alone or as a copy, changes nothing either.
    parts.truncate(&seq, 20).unwrap();
    assert_eq!(parts.tokens(&seq).unwrap(), &tokens[..20]);
    let again = all_logits(&mut parts, &seq, &tokens[20..]);
    assert!(distance(&again[19], &reference[39]) < 1e-5);
}

#[test]
fn sequences_in_one_context_do_not_see_each_other() {
    let model = tiny();
    let mut session = Session::new(
        &model,
        &Settings {
            n_seq: 3,
            ..exact()
        },
    )
    .unwrap();
    let (a, b) = ([270, 280, 290].map(Token), [300, 310, 320].map(Token));
    let expected = alone(&mut Session::new(&model, &exact()).unwrap(), &b);
    let first = session.open().unwrap();
    all_logits(&mut session, &first, &a);
    let second = session.open().unwrap();
    let beside = all_logits(&mut session, &second, &b);
    assert!(distance(&beside[2], &expected[2]) < 1e-5);
    assert_eq!(session.free_cells(), session.n_ctx() - 6);
    let fork = session.fork(&second, 2).unwrap();
    assert_eq!(session.len(&fork).unwrap(), 2);
    assert_eq!(session.free_cells(), session.n_ctx() - 6, "shared");
    let mut forked = Vec::new();
    let entry = Entry {
        seq: &fork,
        token: b[2],
        output: true,
    };
    session
        .step(&[entry], &mut |_, row| forked = row.to_vec())
        .unwrap();
    assert!(distance(&forked, &expected[2]) < 1e-5);
}

#[test]
fn sequences_are_handed_out_and_taken_back() {
    let model = tiny();
    let settings = Settings {
        n_seq: 2,
        ..exact()
    };
    let mut session = Session::new(&model, &settings).unwrap();
    let first = session.open().unwrap();
    let second = session.open().unwrap();
    assert_ne!(first.id(), second.id());
    assert!(matches!(
        session.open(),
        Err(Error::NoSequence { n_seq: 2 })
    ));
    assert!(matches!(
        session.fork(&first, 0),
        Err(Error::NoSequence { n_seq: 2 })
    ));
    let expected = all_logits(&mut session, &first, &[270, 280].map(Token));
    all_logits(&mut session, &second, &[290, 300, 310].map(Token));
    // One that is dropped gives its cells back, and whoever comes next finds it empty.
    drop(first);
    assert_eq!(session.free_cells(), session.n_ctx() - 3);
    assert_eq!(session.free_sequences(), 1);
    let third = session.open().unwrap();
    assert!(session.is_empty(&third).unwrap());
    let again = all_logits(&mut session, &third, &[270, 280].map(Token));
    assert!(distance(&again[1], &expected[1]) < 1e-5);
    session.close(third);
    assert_eq!(session.free_cells(), session.n_ctx() - 3);

    // One of another session is no one here, though both have a first.
    let mut other = Session::new(&model, &settings).unwrap();
    let foreign = other.open().unwrap();
    let mut ignore = |_: usize, _: &[f32]| {};
    let entry = Entry {
        seq: &foreign,
        token: Token(270),
        output: true,
    };
    let errors = [
        session.feed(&foreign, &[Token(270)], WantLogits::Last, &mut ignore),
        session.step(&[entry], &mut ignore),
        session.truncate(&foreign, 0),
        session.fork(&foreign, 0).map(drop),
        session.len(&foreign).map(drop),
    ];
    for error in errors {
        assert!(matches!(error, Err(Error::ForeignSequence)), "{error:?}");
    }
    session.close(foreign);
    assert_eq!(session.tokens(&second).unwrap(), [290, 300, 310].map(Token));
    assert_eq!(other.free_sequences(), 2);
}

#[test]
fn what_does_not_fit_is_an_error_and_changes_nothing() {
    let model = tiny();
    let mut session = Session::new(&model, &exact()).unwrap();
    let seq = session.open().unwrap();
    let mut ignore = |_: usize, _: &[f32]| {};
    session
        .feed(&seq, &[270, 271].map(Token), WantLogits::None, &mut ignore)
        .unwrap();
    let long = vec![Token(270); 600];
    let full = session.feed(&seq, &long, WantLogits::Last, &mut ignore);
    assert!(
        matches!(full, Err(Error::ContextFull { need: 602, .. })),
        "{full:?}"
    );
    let range = session.feed(
        &seq,
        &[270, 1 << 20].map(Token),
        WantLogits::Last,
        &mut ignore,
    );
    assert!(matches!(range, Err(Error::TokenRange { .. })));
    let negative = session.feed(&seq, &[Token(-1)], WantLogits::Last, &mut ignore);
    assert!(matches!(
        negative,
        Err(Error::TokenRange {
            token: Token(-1),
            ..
        })
    ));
    assert!(matches!(
        session.step(&[], &mut ignore),
        Err(Error::BatchSize { n: 0, .. })
    ));
    let mut narrow = Session::new(
        &model,
        &Settings {
            n_outputs: 2,
            ..exact()
        },
    )
    .unwrap();
    let own = narrow.open().unwrap();
    let three = [Entry {
        seq: &own,
        token: Token(270),
        output: true,
    }; 3];
    assert!(narrow.step(&three, &mut ignore).is_err());
    assert!(narrow.step(&three[..2], &mut ignore).is_ok());
    assert_eq!(session.len(&seq).unwrap(), 2);
    let cancel = Cancel::new();
    let mut session = Session::new(
        &model,
        &Settings {
            cancel: cancel.clone(),
            ..exact()
        },
    )
    .unwrap();
    cancel.set();
    let seq = session.open().unwrap();
    let stopped = session.feed(&seq, &[Token(270)], WantLogits::Last, &mut ignore);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!(session.len(&seq).unwrap(), 0);
}

#[test]
fn the_size_of_a_context_decides_between_rope_factors() {
    // 300 is no multiple of 256: llama.cpp alone would change factors at the wrong length.
    for original in [256, 300] {
        let file = file(|path| {
            Tiny {
                original,
                ..Tiny::default()
            }
            .write(path)
        });
        let model = Model::load(&file.path, &LoadOptions::default()).unwrap();
        let tokens: Vec<Token> = (0..20).map(|i| Token(262 + i)).collect();
        let mut sessions = [original, original + 1, 2048]
            .map(|n_ctx| Session::new(&model, &Settings { n_ctx, ..exact() }).unwrap());
        // Up to the boundary short; a context between two steps may still be short.
        assert_eq!(sessions[0].uses_long_rope(), Some(false));
        assert_eq!(sessions[0].longest(), original as usize);
        assert_eq!(sessions[2].uses_long_rope(), Some(true));
        assert_eq!(sessions[2].longest(), 2048);
        let rows = sessions.each_mut().map(|s| alone(s, &tokens)[19].clone());
        assert!(
            distance(&rows[2], &rows[0]) > 1e-3,
            "{}",
            distance(&rows[2], &rows[0])
        );
    }
}

#[test]
fn threads_share_a_model() {
    let model = tiny();
    let tokens = [270, 280, 290, 300].map(Token);
    let reference = alone(&mut Session::new(&model, &exact()).unwrap(), &tokens);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let settings = Settings {
                    threads: Some(1),
                    ..exact()
                };
                let mut session = Session::new(&model, &settings).unwrap();
                let rows = alone(&mut session, &tokens);
                assert!(distance(&rows[3], &reference[3]) < 1e-5);
            });
        }
    });
}
