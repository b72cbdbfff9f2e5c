//! Requests that come and go.

use super::completion::{exact_options, greedy, setup};
use super::*;
use modelve::runtime::engine::{self, Capacity, Engine, RequestId, State};
use modelve::runtime::{Completion, Sampling, Token};

/// A Phi-3 whose short factors reach as far as it was trained.
fn long_tiny() -> Model {
    let file = file(|path| {
        let tiny = Tiny {
            original: 8192,
            context: 8192,
            ..Tiny::default()
        };
        tiny.write(path);
    });
    Model::load(&file.path, &LoadOptions::default()).unwrap()
}

fn of(cells: u32, sequences: u32) -> Setup {
    Setup {
        capacity: Some(Capacity { cells, sequences }),
        ..setup()
    }
}

fn ask(prompt: &[Token], max_tokens: usize) -> Request {
    Request {
        prompt: prompt.to_vec(),
        seed: 0,
        options: exact_options(max_tokens),
    }
}

fn text(n: usize, seed: usize) -> Vec<Token> {
    (0..n)
        .map(|i| Token::at(260 + (i * 7 + i * i * seed + seed) % 120))
        .collect()
}

type Events = Vec<(RequestId, engine::Event)>;

fn step(engine: &mut Engine) -> (State, Events) {
    let mut events = Vec::new();
    let state = engine.step(&mut events).unwrap();
    (state, events)
}

/// Steps until all have ended; their completions by their number.
fn run(engine: &mut Engine) -> Vec<Option<Completion>> {
    let mut done = Vec::new();
    loop {
        let (state, events) = step(engine);
        for (id, event) in events {
            if let engine::Event::Done(completion) = event {
                done.resize(done.len().max(id.index() + 1), None);
                done[id.index()] = Some(completion);
            }
        }
        if state == State::Idle {
            return done;
        }
    }
}

fn tokens(completion: &Completion) -> Vec<Token> {
    completion.steps.iter().map(|step| step.token).collect()
}

#[test]
fn a_long_prompt_does_not_stop_those_who_generate() {
    let model = long_tiny();
    let mut engine = Engine::new(&model, of(6000, 4)).unwrap();
    let short = engine.submit(ask(&text(5, 1), 60)).unwrap();
    let has_token = |events: &Events, of: RequestId| {
        let mut events = events.iter();
        events.any(|(id, event)| *id == of && matches!(event, engine::Event::Token { .. }))
    };
    for _ in 0..3 {
        assert!(has_token(&step(&mut engine).1, short));
    }
    let long = engine.submit(ask(&text(4000, 3), 3)).unwrap();
    // Every decode until the long one's first token has a token of the short one.
    let mut decodes = 0;
    loop {
        let (_, events) = step(&mut engine);
        decodes += 1;
        assert!(has_token(&events, short), "decode {decodes}");
        if has_token(&events, long) {
            break;
        }
    }
    assert!(decodes >= 4000 / 512, "{decodes} decodes");
    let done = run(&mut engine);
    assert_eq!(done[0].as_ref().unwrap().steps.len(), 60);
    // Both say what they say alone.
    for (i, prompt) in [text(5, 1), text(4000, 3)].into_iter().enumerate() {
        let n = [60, 3][i];
        let (alone, _) = greedy(&model, vec![prompt], &exact_options(n));
        assert_eq!(tokens(done[i].as_ref().unwrap()), alone[0]);
    }
}

#[test]
fn who_does_not_fit_waits_in_order_and_who_never_can_is_refused() {
    let model = long_tiny();
    let mut engine = Engine::new(&model, of(256, 8)).unwrap();
    let refused = engine.submit(ask(&text(250, 1), 20));
    assert!(
        matches!(
            refused,
            Err(Error::ContextFull {
                need: 269,
                n_ctx: 256
            })
        ),
        "{refused:?}"
    );
    let beyond = engine.submit(ask(&text(9000, 1), 1));
    assert!(matches!(
        beyond,
        Err(Error::ContextFull {
            need: 9000,
            n_ctx: 8192
        })
    ));
    // 119 cells each: two at a time.
    let ids: Vec<RequestId> = (0..5)
        .map(|i| engine.submit(ask(&text(100, i + 1), 20)).unwrap())
        .collect();
    let mut ends = Vec::new();
    let mut most = 0;
    loop {
        let (state, events) = step(&mut engine);
        let tokens = events
            .iter()
            .filter(|(_, e)| matches!(e, engine::Event::Token { .. }));
        most = most.max(tokens.count());
        let done = events
            .iter()
            .filter(|(_, e)| matches!(e, engine::Event::Done(_)));
        let mut done: Vec<RequestId> = done.map(|(id, _)| *id).collect();
        done.sort();
        ends.extend(done);
        if state == State::Idle {
            break;
        }
    }
    assert_eq!(most, 2);
    assert_eq!(ends, ids, "in the order they came");
    // A text of another length goes on at any time.
    engine.submit(ask(&text(3, 9), 2)).unwrap();
    assert_eq!(
        run(&mut engine)
            .last()
            .unwrap()
            .as_ref()
            .unwrap()
            .steps
            .len(),
        2
    );
}

#[test]
fn a_beginning_that_was_computed_is_taken_over_and_changes_no_text() {
    let model = long_tiny();
    let system = text(300, 2);
    let with = |tail: &[Token]| [&system[..], tail].concat();
    let mut engine = Engine::new(&model, of(4096, 8)).unwrap();
    engine
        .submit(ask(&with(&[301, 302].map(Token)), 12))
        .unwrap();
    let first = run(&mut engine).remove(0).unwrap();
    assert_eq!((first.reused, engine.report().prefilled), (0, 302));
    // The next turn of the same conversation, and another that begins alike.
    let turn = [
        &with(&[301, 302].map(Token)),
        &tokens(&first)[..],
        &[310, 311, 312].map(Token),
    ]
    .concat();
    let other = with(&[305, 306, 307].map(Token));
    engine.submit(ask(&turn, 12)).unwrap();
    engine.submit(ask(&other, 12)).unwrap();
    let done = run(&mut engine);
    let (of_turn, of_other) = (done[1].as_ref().unwrap(), done[2].as_ref().unwrap());
    // The last token chosen was never fed.
    assert_eq!(of_turn.reused, 302 + 11);
    assert_eq!(of_other.reused, 300);
    assert_eq!(engine.report().prefilled, 302 + 4 + 3);
    assert_eq!(engine.report().reused, 313 + 300);
    for (prompt, done) in [(turn, of_turn), (other, of_other)] {
        let (alone, _) = greedy(&model, vec![prompt], &exact_options(12));
        assert_eq!(tokens(done), alone[0]);
    }
}

#[test]
fn the_least_recently_used_leaves_first() {
    let model = long_tiny();
    let mut engine = Engine::new(&model, of(1024, 3)).unwrap();
    let texts: Vec<Vec<Token>> = (0..4).map(|i| text(60, 5 + i)).collect();
    let reused = |engine: &mut Engine, which: usize| {
        engine.submit(ask(&texts[which], 2)).unwrap();
        run(engine).pop().unwrap().unwrap().reused
    };
    for which in 0..3 {
        assert_eq!(reused(&mut engine, which), 0);
    }
    // All three sequences are kept. 0 is used and so stays; 1 leaves for it, 2 for the next.
    assert_eq!(reused(&mut engine, 0), 59);
    assert_eq!(reused(&mut engine, 2), 59);
    assert_eq!(reused(&mut engine, 1), 0);
}

#[test]
fn what_all_share_does_not_keep_the_last_place() {
    let model = long_tiny();
    // One sequence: whoever comes first takes the beginning over as it is.
    let mut engine = Engine::new(&model, of(512, 1)).unwrap();
    let system = text(100, 2);
    for i in 0..3 {
        let prompt = [&system[..], &[300 + i, 310].map(Token)].concat();
        engine.submit(ask(&prompt, 3)).unwrap();
    }
    step(&mut engine);
    assert_eq!(engine.report().prefilled, 100, "the beginning");
    // This one begins otherwise, and needs nearly all there is.
    engine.submit(ask(&text(500, 7), 3)).unwrap();
    let done = run(&mut engine);
    assert!(done.iter().flatten().all(|done| done.steps.len() == 3));
    assert_eq!(done.len(), 4);
    assert_eq!(done[0].as_ref().unwrap().reused, 100);
}

#[test]
fn who_leaves_sequences_open_stops_nobody_for_ever() {
    let model = long_tiny();
    let mut engine = Engine::new(&model, of(512, 1)).unwrap();
    let session = engine.session(10).unwrap();
    let forgotten = session.open().unwrap();
    engine.submit(ask(&text(5, 1), 3)).unwrap();
    let (state, events) = step(&mut engine);
    assert_eq!(state, State::Idle);
    assert!(matches!(
        events[..],
        [(_, engine::Event::Failed(Error::ContextFull { .. }))]
    ));
    drop(forgotten);
    engine.submit(ask(&text(5, 1), 3)).unwrap();
    let done = run(&mut engine);
    assert_eq!(done[1].as_ref().unwrap().steps.len(), 3);
}

#[test]
fn requests_end_alone() {
    let model = long_tiny();
    let mut engine = Engine::new(&model, of(1024, 8)).unwrap();
    let (a, b) = (text(20, 1), text(30, 2));
    engine.submit(ask(&a, 30)).unwrap();
    let leaves = engine.submit(ask(&text(25, 4), 30)).unwrap();
    engine.submit(ask(&b, 30)).unwrap();
    let waits = engine.submit(ask(&text(900, 4), 30)).unwrap();
    for _ in 0..5 {
        step(&mut engine);
    }
    let left = engine.cancel(leaves).unwrap();
    assert_eq!((left.finish, left.steps.len()), (Finish::Cancelled, 5));
    let left = engine.cancel(waits).unwrap();
    assert_eq!((left.finish, left.steps.len()), (Finish::Cancelled, 0));
    assert!(engine.cancel(leaves).is_none());
    // A token that no one has, and numbers that make no sense.
    let bad = engine.submit(ask(&[270, 1 << 20].map(Token), 5));
    assert!(matches!(bad, Err(Error::TokenRange { .. })));
    let nonsense = Request {
        options: Arc::new(Options {
            sampling: Sampling {
                top_p: 7.0,
                ..Sampling::default()
            },
            ..Options::default()
        }),
        ..ask(&a, 1)
    };
    assert!(matches!(
        engine.submit(nonsense),
        Err(Error::Sampling { name: "top-p", .. })
    ));
    let done = run(&mut engine);
    for (i, prompt) in [(0, a), (2, b)] {
        let (alone, _) = greedy(&model, vec![prompt], &exact_options(30));
        assert_eq!(tokens(done[i].as_ref().unwrap()), alone[0]);
    }
}

#[test]
fn a_step_that_is_cancelled_loses_nobody() {
    let model = long_tiny();
    let cancel = Cancel::new();
    let settings = Settings {
        cancel: cancel.clone(),
        ..exact()
    };
    let setup = Setup {
        settings,
        ..of(1024, 8)
    };
    let mut engine = Engine::new(&model, setup).unwrap();
    let prompt = text(20, 1);
    engine.submit(ask(&prompt, 10)).unwrap();
    step(&mut engine);
    cancel.set();
    assert!(matches!(
        engine.step(&mut Vec::new()),
        Err(Error::Cancelled)
    ));
    cancel.clear();
    let done = run(&mut engine).remove(0).unwrap();
    let (alone, _) = greedy(&model, vec![prompt], &exact_options(10));
    assert_eq!(tokens(&done), alone[0]);
}

#[test]
fn who_looks_inside_shares_the_engines_session() {
    let model = long_tiny();
    let mut engine = Engine::new(&model, of(1024, 4)).unwrap();
    let prompt = text(20, 1);
    engine.submit(ask(&prompt, 20)).unwrap();
    for _ in 0..4 {
        step(&mut engine);
    }
    let looked = text(30, 2);
    let rows = alone(engine.session(30).unwrap(), &looked);
    let mut own = Session::new(&model, &exact()).unwrap();
    assert!(distance(&rows[29], &alone(&mut own, &looked)[29]) < 1e-5);
    assert!(matches!(
        engine.session(1020),
        Err(Error::ContextFull { need: 1020, .. })
    ));
    let done = run(&mut engine).remove(0).unwrap();
    let (expected, _) = greedy(&model, vec![prompt], &exact_options(20));
    assert_eq!(tokens(&done), expected[0]);
}

#[test]
fn a_prompt_is_judged_as_a_session_judges_it_beside_those_who_generate() {
    let model = long_tiny();
    let mut engine = Engine::new(&model, of(4000, 4)).unwrap();
    let prompt = text(300, 3);
    let mut own = Session::new(
        &model,
        &Settings {
            n_ctx: 512,
            ..exact()
        },
    )
    .unwrap();
    let rows = alone(&mut own, &prompt);
    let judged = |max_tokens| Request {
        options: Arc::new(Options {
            prompt_logprobs: true,
            top: 2,
            ..(*exact_options(max_tokens)).clone()
        }),
        ..ask(&prompt, 0)
    };
    engine.submit(ask(&text(5, 1), 40)).unwrap();
    // The second finds the first in the cache, and computes all of it again.
    for max_tokens in [0, 3] {
        let id = engine.submit(judged(max_tokens)).unwrap();
        let mut told = None;
        let done = 'done: loop {
            for (of, event) in step(&mut engine).1 {
                match event {
                    engine::Event::Prompt(steps) if of == id => told = Some(steps),
                    engine::Event::Done(completion) if of == id => break 'done completion,
                    engine::Event::Token { .. } if of == id => assert!(told.is_some()),
                    _ => {}
                }
            }
        };
        let told = told.expect("the prompt is told of");
        assert_eq!((told.len(), done.reused), (prompt.len() - 1, 0));
        assert_eq!((&done.prompt, done.steps.len()), (&told, max_tokens));
        for (i, step) in told.iter().enumerate() {
            assert_eq!(step.token, prompt[i + 1]);
            let row = &rows[i];
            let expected = row[step.token.index()] - modelve::runtime::log_sum_exp(row);
            assert!(
                (step.logprob - expected).abs() < 1e-4,
                "{i}: {} {expected}",
                step.logprob
            );
            assert_eq!(step.top.len(), 2);
        }
    }
}

#[test]
fn judged_prompts_are_no_beginning_for_others_and_take_none() {
    let model = long_tiny();
    let prompt = text(100, 3);
    let judged = Request {
        options: Arc::new(Options {
            prompt_logprobs: true,
            ..(*exact_options(2)).clone()
        }),
        ..ask(&prompt, 0)
    };
    // Without a capacity the context is made for those who wait, who all begin alike.
    let requests = vec![judged.clone(), ask(&prompt, 2), ask(&prompt, 2), judged];
    let mut told = vec![Vec::new(); 4];
    complete(&model, requests, setup(), &mut |event| {
        if let Event::Done { index, completion } = event {
            told[index] = completion.prompt;
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    let lengths: Vec<usize> = told.iter().map(Vec::len).collect();
    assert_eq!(lengths, [99, 0, 0, 99]);
    for (a, b) in told[0].iter().zip(&told[3]) {
        assert!((a.logprob - b.logprob).abs() < 1e-4);
    }
}

#[test]
fn no_more_than_asked_for_are_computed_at_once() {
    let model = long_tiny();
    let setup = Setup {
        parallel: Some(2),
        ..of(4000, 8)
    };
    let mut engine = Engine::new(&model, setup).unwrap();
    for seed in 0..5 {
        engine.submit(ask(&text(20, seed), 6)).unwrap();
    }
    step(&mut engine);
    let load = engine.load();
    assert_eq!((load.active, load.waiting), (2, 3));
    assert_eq!(run(&mut engine).into_iter().flatten().count(), 5);
    assert_eq!(engine.load(), engine::Load::default());
}
