//! The runtime as a library, on a tiny Phi-3 of random weights.

mod completion;
mod files;
mod lies;

use crate::support::tiny_gguf;
use std::ops::ControlFlow;
use std::path::PathBuf;

use crate::support::tiny_gguf::Tiny;
use modelve::gguf::{GgmlType, Value};
use modelve::runtime::{
    Cancel, Entry, Error, Event, Finish, FlashAttention, KvType, LoadOptions, Model, NamedTensor,
    Observer, Options, Reading, Report, Session, Settings, Vocab, Want, complete,
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

fn all_logits(session: &mut Session, seq: u32, tokens: &[i32]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    session
        .feed(seq, tokens, Want::All, &mut |_, row| {
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
    for out in [-1, n, i32::MAX] {
        assert!(matches!(
            vocab.piece(out, true),
            Err(Error::TokenRange { .. })
        ));
    }
}

#[test]
fn one_batch_or_several_give_the_same_logits() {
    let model = tiny();
    let tokens: Vec<i32> = (0..40).map(|i| 260 + i * 3 % 90).collect();
    let mut whole = Session::new(&model, &exact()).unwrap();
    let reference = all_logits(&mut whole, 0, &tokens);
    assert_eq!(reference.len(), tokens.len());
    let mut parts = Session::new(
        &model,
        &Settings {
            n_batch: 7,
            ..exact()
        },
    )
    .unwrap();
    let rows = all_logits(&mut parts, 0, &tokens);
    for (a, b) in rows.iter().zip(&reference) {
        assert!(distance(a, b) < 1e-5, "{}", distance(a, b));
    }
    assert!(
        distance(&reference[0], &reference[1]) > 0.1,
        "positions differ"
    );
    // Taking back and feeding again, alone or as a copy, changes nothing either.
    parts.truncate(0, 20);
    assert_eq!(parts.len(0), 20);
    let again = all_logits(&mut parts, 0, &tokens[20..]);
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
    let (a, b) = ([270, 280, 290], [300, 310, 320]);
    let alone = all_logits(&mut Session::new(&model, &exact()).unwrap(), 0, &b);
    all_logits(&mut session, 0, &a);
    let beside = all_logits(&mut session, 1, &b);
    assert!(distance(&beside[2], &alone[2]) < 1e-5);
    session.fork(1, 2, 2);
    assert_eq!(session.len(2), 2);
    let mut forked = Vec::new();
    let entry = Entry {
        seq: 2,
        token: b[2],
        output: true,
    };
    session
        .step(&[entry], &mut |_, row| forked = row.to_vec())
        .unwrap();
    assert!(distance(&forked, &alone[2]) < 1e-5);
}

#[test]
fn what_does_not_fit_is_an_error_and_changes_nothing() {
    let model = tiny();
    let mut session = Session::new(&model, &exact()).unwrap();
    let mut ignore = |_: usize, _: &[f32]| {};
    session
        .feed(0, &[270, 271], Want::None, &mut ignore)
        .unwrap();
    let long = vec![270; 600];
    let full = session.feed(0, &long, Want::Last, &mut ignore);
    assert!(
        matches!(full, Err(Error::ContextFull { need: 602, .. })),
        "{full:?}"
    );
    let range = session.feed(0, &[270, 1 << 20], Want::Last, &mut ignore);
    assert!(matches!(range, Err(Error::TokenRange { .. })));
    let negative = session.feed(0, &[-1], Want::Last, &mut ignore);
    assert!(matches!(negative, Err(Error::TokenRange { token: -1, .. })));
    let entry = Entry {
        seq: 9,
        token: 270,
        output: true,
    };
    assert!(session.step(&[entry], &mut ignore).is_err());
    assert!(session.step(&[], &mut ignore).is_err());
    let mut narrow = Session::new(
        &model,
        &Settings {
            n_outputs: 2,
            ..exact()
        },
    )
    .unwrap();
    let three = [Entry {
        seq: 0,
        token: 270,
        output: true,
    }; 3];
    assert!(narrow.step(&three, &mut ignore).is_err());
    assert!(narrow.step(&three[..2], &mut ignore).is_ok());
    assert_eq!(session.len(0), 2);
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
    let stopped = session.feed(0, &[270], Want::Last, &mut ignore);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!(session.len(0), 0);
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
        let tokens: Vec<i32> = (0..20).map(|i| 262 + i).collect();
        let mut sessions = [original, original + 1, 2048]
            .map(|n_ctx| Session::new(&model, &Settings { n_ctx, ..exact() }).unwrap());
        // Up to the boundary short; a context between two steps may still be short.
        assert_eq!(sessions[0].uses_long_rope(), Some(false));
        assert_eq!(sessions[0].longest(), original as usize);
        assert_eq!(sessions[2].uses_long_rope(), Some(true));
        assert_eq!(sessions[2].longest(), 2048);
        let rows = sessions
            .each_mut()
            .map(|s| all_logits(s, 0, &tokens)[19].clone());
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
    let tokens = [270, 280, 290, 300];
    let reference = all_logits(&mut Session::new(&model, &exact()).unwrap(), 0, &tokens);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let settings = Settings {
                    threads: Some(1),
                    ..exact()
                };
                let mut session = Session::new(&model, &settings).unwrap();
                let rows = all_logits(&mut session, 0, &tokens);
                assert!(distance(&rows[3], &reference[3]) < 1e-5);
            });
        }
    });
}

#[test]
fn an_observer_sees_layers_and_attention() {
    struct Watch(Vec<(String, [usize; 4], Vec<f32>)>);
    impl Observer for Watch {
        fn wants(&mut self, name: &str) -> bool {
            name.starts_with("l_out-") || name.starts_with("kq_soft_max-") || name == "result_norm"
        }
        fn tensor(&mut self, tensor: &NamedTensor<'_>) -> ControlFlow<()> {
            self.0
                .push((tensor.name.to_owned(), tensor.shape, tensor.data.to_vec()));
            ControlFlow::Continue(())
        }
    }
    let model = tiny();
    let tokens = [270, 280, 290, 300, 310];
    let plain = all_logits(&mut Session::new(&model, &exact()).unwrap(), 0, &tokens);
    let settings = Settings {
        observe: true,
        ..exact()
    };
    let mut session = Session::new(&model, &settings).unwrap();
    let mut watch = Watch(Vec::new());
    let mut rows = Vec::new();
    session
        .feed_observed(0, &tokens, Want::All, &mut watch, &mut |_, row| {
            rows.push(row.to_vec())
        })
        .unwrap();
    assert!(
        distance(&rows[4], &plain[4]) < 1e-6,
        "looking on changes nothing"
    );
    let find = |name: &str| watch.0.iter().find(|(n, _, _)| n == name).unwrap();
    for layer in 0..2 {
        assert_eq!(find(&format!("l_out-{layer}")).1, [64, 5, 1, 1]);
        let (_, shape, weights) = find(&format!("kq_soft_max-{layer}"));
        assert_eq!(shape[1..], [5, 4, 1]);
        for (i, row) in weights.chunks(shape[0]).enumerate() {
            let sum: f32 = row.iter().sum();
            assert!((sum - 1.0).abs() < 1e-5, "{sum}");
            assert!(row[i % 5 + 1..].iter().all(|&w| w == 0.0), "causal");
        }
    }
    assert!(
        session
            .feed_observed(0, &[1; 600], Want::None, &mut watch, &mut |_, _| {})
            .is_err()
    );
    let mut blind = Session::new(&model, &exact()).unwrap();
    assert!(
        blind
            .feed_observed(0, &tokens, Want::None, &mut watch, &mut |_, _| {})
            .is_err()
    );
}
