//! Measures what experiments cost, compared with one separate prefill for each position that
//! `patch` changes: `cargo run --example experiment_cost -- MODEL.gguf [TOKENS]`

#![allow(clippy::print_stdout)]

use std::path::Path;
use std::time::Instant;

use modelve::experiment::patch::{self, Corrupt, patch};
use modelve::experiment::why::{self, why};
use modelve::experiment::{room, settings};
use modelve::probe::{Prompt, SAMPLE};
use modelve::runtime::{LoadOptions, Model, Session, Settings, WantLogits, host};

/// Seconds since the start of a piece of work, by the clock and of all cores of this process. The
/// latter, on Linux alone, tells about the same while other programs run.
struct Watch {
    clock: Instant,
    cores: Option<f64>,
}

impl Watch {
    fn start() -> Self {
        Watch {
            clock: Instant::now(),
            cores: cores(),
        }
    }

    fn stop(&self) -> [f64; 2] {
        let cores = self.cores.zip(cores()).map_or(f64::NAN, |(a, b)| b - a);
        [self.clock.elapsed().as_secs_f64(), cores]
    }
}

/// The CPU seconds of this process, from `/proc/self/stat`: fields 14 and 15, in hundredths.
fn cores() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let behind_name = stat.rsplit_once(')')?.1;
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

/// The number of prefills that are timed; the time of all of them is extrapolated.
const TIMED: usize = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("a model is missing")?;
    let n: usize = arguments.next().map_or(Ok(15), |n| n.parse())?;
    let model = Model::load(Path::new(&path), &LoadOptions::default())?;
    let mut clean = Prompt::plain(model.vocab(), SAMPLE)?;
    clean.ids.truncate(n);
    let n = clean.ids.len();
    // Prompts that differ from the first token on, so that no place is idle but behind the last
    // layer.
    let mut corrupt = clean.clone();
    corrupt.ids[0] = clean.ids[n - 1];
    let places = n * model.facts().n_layer as usize;

    let plain = Settings {
        n_ctx: n as u32,
        n_outputs: 1,
        ..Settings::default()
    };
    let mut plain = Session::new(&model, &plain)?;
    let mut prefills = |times: usize| -> Result<[f64; 2], modelve::runtime::Error> {
        let start = Watch::start();
        for _ in 0..times {
            let seq = plain.open()?;
            plain.feed(&seq, &clean.ids, WantLogits::Last, &mut |_, _| {})?;
        }
        Ok(start.stop())
    };
    // The first prefill reads the weights from the disk.
    prefills(1)?;
    let base = Settings {
        n_ctx: (n + room(n)) as u32,
        ..Settings::default()
    };
    let mut session = Session::new(&model, &settings(&model, base))?;

    let before = prefills(TIMED)?;
    let start = Watch::start();
    let options = patch::Options {
        top: 5,
        ..patch::Options::default()
    };
    let other = Corrupt::Prompt(corrupt.clone());
    let map = patch(&mut session, &clean, &other, &options, &mut |_, _| {})?;
    let patched = start.stop();
    // Half of the prefills are timed before and half after, to average over other load.
    let after = prefills(TIMED)?;
    for (i, of) in ["by the clock", "of all cores"].into_iter().enumerate() {
        let separate = (before[i] + after[i]) / (2 * TIMED) as f64 * places as f64;
        println!(
            "patch of {n} tokens, {places} places: {:.2} s, {:.3} x that many prefills ({separate:.2} s), {of}",
            patched[i],
            patched[i] / separate
        );
    }
    let last = map.recovered.last().and_then(|row| row.last());
    if let Some(Some(share)) = last {
        println!("the last place restores {share:.4}");
    }
    let start = Instant::now();
    let found = why(
        &mut session,
        &clean,
        &why::Options::default(),
        &mut |_, _| {},
    )?;
    println!("why of {n} tokens: {:.2} s", start.elapsed().as_secs_f64());
    println!(
        "the sum of {} parts misses {:.4} of {:.4}",
        found.attribution.parts.len(),
        found.attribution.error,
        found.value
    );
    if let Some((_, most)) = host::resident() {
        println!("peak memory {:.2} GiB", most as f64 / f64::from(1 << 30));
    }
    Ok(())
}
