//! Measures what probing costs in addition to the prefill of the same tokens, in turns on one
//! model: `cargo run --example probe_cost -- MODEL.gguf [TOKENS] [ROUNDS]`

#![allow(clippy::print_stdout)]

use std::path::Path;
use std::time::Instant;

use modelve::probe::score::{Windows, score};
use modelve::probe::{Prompt, SAMPLE, attention, lens, next};
use modelve::runtime::{LoadOptions, Model, Session, Settings, WantLogits, host};

type Timed<'a> = (&'a str, Box<dyn FnMut() -> f64 + 'a>);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("a model is missing")?;
    let n: usize = arguments.next().map_or(Ok(200), |n| n.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(3), |n| n.parse())?;
    let model = Model::load(Path::new(&path), &LoadOptions::default())?;
    let mut prompt = Prompt::plain(model.vocab(), SAMPLE)?;
    prompt.ids.truncate(n);
    let n = prompt.ids.len();
    let n_ctx = n as u32;

    let session = |settings: Settings| Session::new(&model, &Settings { n_ctx, ..settings });
    let all = Settings {
        n_outputs: 512,
        ..Settings::default()
    };
    let mut plain = session(Settings::default())?;
    let mut asked = session(Settings::default())?;
    let mut scored = session(all)?;
    let mut looked = session(lens::settings(&model, Settings::default()))?;
    let watched = attention::settings(&model, n, Settings::default());
    let mut attended = session(watched)?;
    let seconds = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    let prompt = &prompt;
    let windows = Windows {
        size: n + 1,
        stride: n,
    };
    let mut works: Vec<Timed<'_>> = vec![
        (
            "prefill",
            Box::new(|| {
                let seq = plain.open().expect("a sequence");
                seconds(&mut || {
                    plain
                        .feed(&seq, &prompt.ids, WantLogits::Last, &mut |_, _| {})
                        .expect("prefill");
                })
            }),
        ),
        (
            "next",
            Box::new(|| {
                seconds(&mut || {
                    next::next(&mut asked, prompt, &next::Options::default(), &mut |_| {})
                        .expect("next");
                })
            }),
        ),
        (
            "score",
            Box::new(|| {
                seconds(&mut || {
                    score(&mut scored, prompt, windows, &mut |_| {}).expect("score");
                })
            }),
        ),
        (
            "lens",
            Box::new(|| {
                let options = lens::Options {
                    top: 5,
                    ..lens::Options::default()
                };
                seconds(&mut || {
                    lens::lens(&mut looked, prompt, &options, &mut |_| {}).expect("lens");
                })
            }),
        ),
        (
            "attention of one layer",
            Box::new(|| {
                let options = attention::Options::default();
                seconds(&mut || {
                    attention::attention(&mut attended, prompt, options, &mut |_| {})
                        .expect("attention");
                })
            }),
        ),
    ];
    let mut best = vec![f64::INFINITY; works.len()];
    for _ in 0..rounds {
        for (best, (_, work)) in best.iter_mut().zip(&mut works) {
            *best = best.min(work());
        }
    }
    println!("{n} tokens, best of {rounds} rounds");
    for (seconds, (name, _)) in best.iter().zip(&works) {
        println!(
            "{name:24} {seconds:8.4} s  {:5.2} x prefill",
            seconds / best[0]
        );
    }
    let facts = model.facts();
    println!(
        "the lens unembeds {} rows, {:.2} x the multiplications of the prefill",
        n * facts.n_layer as usize,
        unembedding_share(&model)
    );
    if let Some((_, most)) = host::resident() {
        println!("peak memory {:.2} GiB", most as f64 / f64::from(1 << 30));
    }
    Ok(())
}

/// The multiplications for unembedding every layer, divided by those of the layers themselves.
fn unembedding_share(model: &Model) -> f64 {
    let Ok(gguf) = modelve::gguf::Gguf::open(model.path()) else {
        return f64::NAN;
    };
    let facts = model.facts();
    let matrix = u64::from(facts.n_embd) * u64::from(model.vocab().len());
    let blocks = gguf.tensors().iter().filter(|t| t.name.starts_with("blk."));
    let blocks: u64 = blocks.map(|tensor| tensor.n_elements()).sum();
    (matrix * u64::from(facts.n_layer)) as f64 / blocks as f64
}
