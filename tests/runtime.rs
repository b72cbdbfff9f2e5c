//! The runtime as a library, on a tiny Phi-3 of random weights.

#[path = "support/tiny_gguf.rs"]
mod tiny_gguf;

use std::ops::ControlFlow;
use std::path::PathBuf;

use modelve::gguf::{GgmlType, Value};
use modelve::runtime::{
    Cancel, Entry, Error, Event, Finish, FlashAttention, KvType, LoadOptions, Model, NamedTensor,
    Observer, Options, Report, Session, Settings, Vocab, Want, complete,
};
use tiny_gguf::Tiny;

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
    let tokens = vocab.tokenize("the ball é€", false, false).unwrap();
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

    let end = vocab.tokenize("<|end|>", false, true).unwrap();
    let [.., end] = end[..] else {
        panic!("no tokens")
    };
    assert!(vocab.is_end(end));
    assert!(vocab.tokenize("<|end|>", false, false).unwrap().len() > 2);
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
fn rejects_files_that_lie() {
    type Spoil = fn(&mut tiny_gguf::Parts);
    let cases: [(&str, Spoil); 18] = [
        ("repeats the token", |p| {
            let (mut texts, _, _) = tiny_gguf::vocabulary();
            texts[300] = format!("{}\0b", texts[301]);
            p.set(
                "tokenizer.ggml.tokens",
                Value::Array(texts.iter().collect()),
            );
        }),
        ("repeats the token", |p| {
            let (mut texts, _, _) = tiny_gguf::vocabulary();
            (texts[300], texts[301]) = ("[EMPTY_301]".to_owned(), String::new());
            p.set(
                "tokenizer.ggml.tokens",
                Value::Array(texts.iter().collect()),
            );
        }),
        ("repeats the token", |p| {
            let (mut texts, _, _) = tiny_gguf::vocabulary();
            texts[300] = texts[301].clone();
            p.set(
                "tokenizer.ggml.tokens",
                Value::Array(texts.iter().collect()),
            );
        }),
        ("tokenizer.ggml.tokens is missing", |p| {
            p.remove("tokenizer.ggml.tokens")
        }),
        ("tokenizer.ggml.model is missing", |p| {
            p.remove("tokenizer.ggml.model")
        }),
        ("general.architecture is not a string", |p| {
            p.set("general.architecture", Value::U32(1))
        }),
        ("block_count is 4000000000", |p| {
            p.set("phi3.block_count", Value::U32(4_000_000_000))
        }),
        ("block_count is 0", |p| {
            p.set("phi3.block_count", Value::U32(0))
        }),
        ("context_length is not a whole number", |p| {
            p.set("phi3.context_length", Value::String("long".to_owned()))
        }),
        ("do not divide", |p| {
            p.set("phi3.attention.head_count_kv", Value::U32(3))
        }),
        ("do not make a width", |p| {
            p.set("phi3.attention.key_length", Value::U32(32))
        }),
        ("rope.dimension_count", |p| {
            p.set("phi3.rope.dimension_count", Value::U32(30))
        }),
        ("rms_epsilon", |p| {
            p.set(
                "phi3.attention.layer_norm_rms_epsilon",
                Value::F32(f32::NAN),
            )
        }),
        ("expert_count", |p| {
            p.set("phi3.expert_count", Value::U32(8))
        }),
        ("rope.scaling.type", |p| {
            p.set("phi3.rope.scaling.type", Value::String("other".to_owned()))
        }),
        ("is a vector of F16", |p| {
            let norm = p
                .tensors
                .iter_mut()
                .find(|t| t.0 == "output_norm.weight")
                .unwrap();
            norm.2 = GgmlType::F16;
            norm.3.truncate(norm.3.len() / 2);
        }),
        ("tensor 'blk.1.ffn_down.weight' not found", |p| {
            p.tensors.retain(|t| t.0 != "blk.1.ffn_down.weight")
        }),
        ("wrong shape", |p| {
            let matrix = p
                .tensors
                .iter_mut()
                .find(|t| t.0 == "blk.0.ffn_up.weight")
                .unwrap();
            matrix.1.reverse();
        }),
    ];
    for (expected, spoil) in cases {
        let file = file(|path| {
            let mut parts = Tiny::default().parts();
            spoil(&mut parts);
            parts.write(path);
        });
        match Model::load(&file.path, &LoadOptions::default()) {
            Ok(_) => panic!("loaded: {expected}"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(expected), "expected {expected:?} in {text:?}");
            }
        }
    }
    let no_model = file(|path| std::fs::write(path, b"once upon a time").unwrap());
    assert!(matches!(
        Model::load(&no_model.path, &LoadOptions::default()),
        Err(Error::Gguf(_))
    ));
}

#[test]
fn a_vocabulary_without_byte_tokens_refuses_what_it_cannot_spell() {
    let file = file(|path| {
        let mut parts = Tiny::default().parts();
        let (mut texts, _, mut types) = tiny_gguf::vocabulary();
        for byte in 0..=255 {
            texts[3 + byte] = format!("[unused{byte}]");
            types[3 + byte] = 5;
        }
        parts.set(
            "tokenizer.ggml.tokens",
            Value::Array(texts.iter().collect()),
        );
        parts.set(
            "tokenizer.ggml.token_type",
            Value::Array(modelve::gguf::Array::I32(types)),
        );
        parts.write(path);
    });
    let vocab = Vocab::load(&file.path).unwrap();
    assert!(
        !vocab
            .tokenize("the ball é", false, false)
            .unwrap()
            .is_empty()
    );
    let error = vocab.tokenize("100 €", false, false).unwrap_err();
    assert!(error.to_string().contains('€'), "{error}");
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

fn greedy(model: &Model, prompts: Vec<Vec<i32>>, options: &Options) -> (Vec<Vec<i32>>, Report) {
    let mut out = vec![Vec::new(); prompts.len()];
    let report = complete(model, prompts, options, &mut |event| {
        if let Event::Done { index, completion } = event {
            out[index] = completion.steps.iter().map(|step| step.token).collect();
        }
        ControlFlow::Continue(())
    });
    (out, report.unwrap())
}

fn exact_options(max_tokens: usize) -> Options {
    Options {
        max_tokens,
        ignore_end: true,
        settings: exact(),
        ..Options::default()
    }
}

/// Greedy tokens by the plainest means: every token from a context of its own, whose size is
/// the text's.
fn fresh_runs(model: &Model, prompt: &[i32], n: usize) -> Vec<i32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..n {
        let long = tokens.len() > model.rope().unwrap().original as usize;
        let n_ctx = if long { 1024 } else { 256 };
        let mut session = Session::new(model, &Settings { n_ctx, ..exact() }).unwrap();
        let mut best = 0;
        let mut pick = |_: usize, row: &[f32]| {
            let ends = |id: usize| model.vocab().is_end(id as i32);
            let ids = (0..row.len()).filter(|&id| !ends(id));
            best = ids.max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as i32;
        };
        session.feed(0, &tokens, Want::Last, &mut pick).unwrap();
        tokens.push(best);
    }
    tokens.split_off(prompt.len())
}

#[test]
fn a_text_that_crosses_the_rope_boundary_goes_on_as_a_fresh_run_would() {
    let model = tiny();
    let prompt: Vec<i32> = (0..250).map(|i| 260 + i * 7 % 120).collect();
    let (texts, report) = greedy(&model, vec![prompt.clone()], &exact_options(20));
    assert_eq!(texts[0], fresh_runs(&model, &prompt, 20));
    let regimes: Vec<_> = report
        .contexts
        .iter()
        .map(|c| (c.n_ctx, c.long_rope))
        .collect();
    assert_eq!(regimes, [(256, Some(false)), (512, Some(true))]);
    // Beside others, which stay short or begin long, it is the same.
    let long: Vec<i32> = (0..300).map(|i| 260 + i * 11 % 120).collect();
    let prompts = vec![
        vec![270, 280],
        prompt.clone(),
        long.clone(),
        prompt[..240].to_vec(),
    ];
    let (together, report) = greedy(&model, prompts.clone(), &exact_options(20));
    for (prompt, text) in prompts.iter().zip(&together) {
        assert_eq!(
            *text,
            fresh_runs(&model, prompt, 20),
            "prompt of {}",
            prompt.len()
        );
    }
    assert_eq!(report.contexts.len(), 2);
}

#[test]
fn a_larger_limit_does_not_change_a_short_answer() {
    let model = tiny();
    let prompt = vec![270, 280, 290];
    let (expected, _) = greedy(&model, vec![prompt.clone()], &exact_options(30));
    for ctx_size in [64, 257, 4096] {
        let options = Options {
            ctx_size: Some(ctx_size),
            ..exact_options(30)
        };
        let (texts, report) = greedy(&model, vec![prompt.clone()], &options);
        assert_eq!(texts, expected);
        assert_eq!(report.contexts[0].n_ctx, 256);
        assert_eq!(report.contexts[0].long_rope, Some(false));
    }
}

#[test]
fn a_beginning_that_prompts_share_is_computed_once() {
    let model = tiny();
    let system: Vec<i32> = (0..50).map(|i| 262 + i).collect();
    let prompts: Vec<Vec<i32>> = (0..6)
        .map(|i| [&system[..], &[300 + i, 320 - i]].concat())
        .collect();
    let (together, report) = greedy(&model, prompts.clone(), &exact_options(8));
    assert_eq!(report.prefilled, 50 + 6 * 2);
    for (prompt, text) in prompts.into_iter().zip(&together) {
        let (alone, report) = greedy(&model, vec![prompt], &exact_options(8));
        assert_eq!(alone[0], *text);
        assert_eq!(report.prefilled, 52);
    }
}

#[test]
fn many_prompts_take_turns_in_a_small_context() {
    let model = tiny();
    let prompts: Vec<Vec<i32>> = (0..500)
        .map(|i| {
            (0..1 + i % 9)
                .map(|k| 260 + (i * 13 + k * 5) % 140)
                .collect()
        })
        .collect();
    let (texts, report) = greedy(&model, prompts.clone(), &exact_options(4));
    assert!(texts.iter().all(|text| text.len() == 4));
    assert!(report.contexts[0].n_seq >= 20 && report.contexts[0].n_ctx == 256);
    assert!(report.calls < 500, "{} calls", report.calls);
    for i in [0, 250, 499] {
        let (alone, _) = greedy(&model, vec![prompts[i].clone()], &exact_options(4));
        assert_eq!(alone[0], texts[i]);
    }
}

#[test]
fn cancelling_gives_what_there_is() {
    let model = tiny();
    let cancel = Cancel::new();
    let settings = Settings {
        cancel: cancel.clone(),
        ..exact()
    };
    let options = Options {
        settings,
        ..exact_options(100)
    };
    let mut tokens = 0;
    let mut ends = Vec::new();
    complete(&model, vec![vec![270]; 40], &options, &mut |event| {
        match event {
            Event::Token { .. } => {
                tokens += 1;
                if tokens == 60 {
                    cancel.set();
                }
            }
            Event::Done { index, completion } => {
                ends.push((index, completion.finish, completion.steps.len()))
            }
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(ends.len(), 40);
    assert!(
        ends.iter()
            .all(|(_, finish, _)| *finish == Finish::Cancelled)
    );
    assert!(ends[0].2 >= 1 && tokens < 100, "{tokens}");
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
