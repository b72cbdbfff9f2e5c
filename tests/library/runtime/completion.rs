//! Completing many prompts, across the RoPE boundary, until cancelled.

use super::*;

fn requests(prompts: Vec<Vec<Token>>, options: &Arc<Options>) -> Vec<Request> {
    let request = |prompt| Request {
        prompt,
        seed: 0,
        options: Arc::clone(options),
    };
    prompts.into_iter().map(request).collect()
}

pub(super) fn setup() -> Setup {
    Setup {
        settings: exact(),
        ..Setup::default()
    }
}

fn completed(
    model: &Model,
    prompts: Vec<Vec<Token>>,
    options: &Arc<Options>,
    setup: Setup,
) -> (Vec<Vec<Token>>, Report) {
    let mut out = vec![Vec::new(); prompts.len()];
    let report = complete(model, requests(prompts, options), setup, &mut |event| {
        if let Event::Done { index, completion } = event {
            out[index] = completion.steps.iter().map(|step| step.token).collect();
        }
        ControlFlow::Continue(())
    });
    (out, report.unwrap())
}

pub(super) fn greedy(
    model: &Model,
    prompts: Vec<Vec<Token>>,
    options: &Arc<Options>,
) -> (Vec<Vec<Token>>, Report) {
    completed(model, prompts, options, setup())
}

pub(super) fn exact_options(max_tokens: usize) -> Arc<Options> {
    Arc::new(Options {
        max_tokens,
        ignore_end: true,
        ..Options::default()
    })
}

/// Greedy tokens by the plainest means: every token from a context of its own, whose size is
/// the text's.
fn fresh_runs(model: &Model, prompt: &[Token], n: usize) -> Vec<Token> {
    let mut tokens = prompt.to_vec();
    for _ in 0..n {
        let long = tokens.len() > model.rope().unwrap().original as usize;
        let n_ctx = if long { 1024 } else { 256 };
        let mut session = Session::new(model, &Settings { n_ctx, ..exact() }).unwrap();
        let mut best = Token(0);
        let mut pick = |_: usize, row: &[f32]| {
            let ends = |id: usize| model.vocab().is_end(Token::at(id));
            let ids = (0..row.len()).filter(|&id| !ends(id));
            best = Token::at(ids.max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap());
        };
        let seq = session.open().unwrap();
        session
            .feed(&seq, &tokens, WantLogits::Last, &mut pick)
            .unwrap();
        tokens.push(best);
    }
    tokens.split_off(prompt.len())
}

#[test]
fn a_text_that_crosses_the_rope_boundary_goes_on_as_a_fresh_run_would() {
    let model = tiny();
    let prompt: Vec<Token> = (0..250).map(|i| Token(260 + i * 7 % 120)).collect();
    let (texts, report) = greedy(&model, vec![prompt.clone()], &exact_options(20));
    assert_eq!(texts[0], fresh_runs(&model, &prompt, 20));
    let regimes: Vec<_> = report
        .contexts
        .iter()
        .map(|c| (c.n_ctx, c.long_rope))
        .collect();
    assert_eq!(regimes, [(256, Some(false)), (512, Some(true))]);
    // Beside others, which stay short or begin long, it is the same.
    let long: Vec<Token> = (0..300).map(|i| Token(260 + i * 11 % 120)).collect();
    let prompts = vec![
        vec![Token(270), Token(280)],
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
    let prompt = vec![Token(270), Token(280), Token(290)];
    let (expected, _) = greedy(&model, vec![prompt.clone()], &exact_options(30));
    for ctx_size in [64, 257, 4096] {
        let setup = Setup {
            ctx_size: Some(ctx_size),
            ..setup()
        };
        let (texts, report) = completed(&model, vec![prompt.clone()], &exact_options(30), setup);
        assert_eq!(texts, expected);
        assert_eq!(report.contexts[0].n_ctx, 256);
        assert_eq!(report.contexts[0].long_rope, Some(false));
    }
}

#[test]
fn a_beginning_that_prompts_share_is_computed_once() {
    let model = tiny();
    let system: Vec<Token> = (0..50).map(|i| Token(262 + i)).collect();
    let prompts: Vec<Vec<Token>> = (0..6)
        .map(|i| [&system[..], &[300 + i, 320 - i].map(Token)].concat())
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
    let prompts: Vec<Vec<Token>> = (0..500)
        .map(|i| {
            (0..1 + i % 9)
                .map(|k| Token(260 + (i * 13 + k * 5) % 140))
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
fn what_the_vocabulary_lacks_is_refused_before_anything_is_computed() {
    let model = tiny();
    for token in [-1, model.vocab().len() as i32, i32::MAX, i32::MIN].map(Token) {
        let prompts = requests(
            vec![vec![Token(270)], vec![Token(271), token]],
            &exact_options(4),
        );
        let mut heard = 0;
        let outcome = complete(&model, prompts, setup(), &mut |_| {
            heard += 1;
            ControlFlow::Continue(())
        });
        assert!(
            matches!(outcome, Err(Error::TokenRange { token: t, .. }) if t == token),
            "{outcome:?}"
        );
        assert_eq!(heard, 0);
    }
}

#[test]
fn a_load_that_is_cancelled_ends() {
    let file = file(|path| Tiny::default().write(path));
    let options = LoadOptions::default();
    options.cancel.set();
    let outcome = Model::load(&file.path, &options);
    assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
    options.cancel.clear();
    Model::load(&file.path, &options).unwrap();
}

#[test]
fn cancelling_gives_what_there_is() {
    let model = tiny();
    let cancel = Cancel::new();
    let settings = Settings {
        cancel: cancel.clone(),
        ..exact()
    };
    let setup = Setup {
        settings,
        ..setup()
    };
    let prompts = requests(vec![vec![Token(270)]; 40], &exact_options(100));
    let mut tokens = 0;
    let mut ends = Vec::new();
    complete(&model, prompts, setup, &mut |event| {
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
            Event::Failed { index, error } => panic!("{index}: {error}"),
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
fn a_request_that_fails_ends_alone() {
    let model = tiny();
    let nothing_is_left = Options {
        sampling: Sampling {
            logit_bias: (model.vocab().all().map(|token| (token, f32::NEG_INFINITY))).collect(),
            ..Sampling::default()
        },
        ..(*exact_options(5)).clone()
    };
    let mut asked = requests(
        vec![vec![Token(270)], vec![Token(280)], vec![Token(290)]],
        &exact_options(5),
    );
    asked[1].options = Arc::new(nothing_is_left);
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    let mut engine = Engine::new(&model, setup()).unwrap();
    let mut note = |event| {
        match event {
            Event::Token { .. } => {}
            Event::Done { index, completion } => done.push((index, completion.steps.len())),
            Event::Failed { index, .. } => failed.push(index),
        }
        ControlFlow::Continue(())
    };
    engine.complete(asked.clone(), &mut note).unwrap();
    // The engine goes on, and counts anew.
    engine.complete(asked[..1].to_vec(), &mut note).unwrap();
    done.sort_unstable();
    assert_eq!((done, failed), (vec![(0, 5), (0, 5), (2, 5)], vec![1]));
}

#[test]
fn break_stops_everything_is_not_called_again_and_raises_nobodys_flag() {
    let model = tiny();
    let cancel = Cancel::new();
    let settings = Settings {
        cancel: cancel.clone(),
        ..exact()
    };
    let setup = Setup {
        settings,
        ..setup()
    };
    let prompts = requests(
        vec![
            vec![Token(270)],
            vec![Token(280), Token(290)],
            vec![Token(300)],
        ],
        &exact_options(50),
    );
    let mut calls = 0;
    let report = complete(&model, prompts, setup, &mut |_| {
        calls += 1;
        match calls {
            7 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert_eq!(calls, 7);
    assert!(report.unwrap().calls < 5, "nothing was computed after it");
    assert!(!cancel.is_set());
}
