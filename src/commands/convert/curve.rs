//! `convert --curve`: divergence against size, of fixed recipes and of chosen mixes of their sizes. No
//! file is written: the types are put into a loaded model.

use std::io::Write as _;

use serde::Serialize;

use super::measure;
use super::proof;
use super::sized::{Job, survey};
use crate::base::human;
use crate::convert::sized::Limit;
use crate::convert::{Plan, Request};
use crate::output::{ACCENT, DIM, Output};
use crate::probe::effect::Predictions;
use crate::probe::html::Page;
use crate::probe::math::Mean;
use crate::progress::Unit;
use crate::quant::mix::Recipe;
use crate::runtime::Exchange;
use crate::table::{Columns, cell, plain};

/// The recipes of the curve: those whose types modelve encodes itself, below 8 bits.
const CURVE: [&str; 10] = [
    "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K",
];
/// The number of tokens of a window.
const WINDOW: usize = 256;

/// A recipe, and the mix that was chosen for its size.
#[derive(Debug, Serialize)]
pub(super) struct Point {
    recipe: &'static str,
    /// The size of the recipe's file.
    bytes: u64,
    bits_per_weight: f64,
    /// Mean divergence in nats from the checkpoint, and its standard error.
    kl: f64,
    kl_error: f64,
    /// The size of the mix.
    mix_bytes: u64,
    mix_kl: f64,
    mix_kl_error: f64,
    /// What was expected of it.
    mix_expected_kl: f64,
}

/// The curve.
#[derive(Debug, Serialize)]
pub(super) struct Curve {
    /// The text that types were chosen on, and the one that is compared on.
    chosen_on: String,
    text: String,
    /// The number of predictions compared.
    positions: usize,
    points: Vec<Point>,
}

/// Measures the curve. `given` is a conversion with no types chosen.
pub(super) fn measure(job: &Job<'_>, given: &Request<'_>) -> anyhow::Result<Curve> {
    let (reference, text, imatrix) = measure::calibrate(job, given)?;
    let request = Request {
        imatrix: given.imatrix.or(imatrix.as_ref()),
        ..*given
    };
    let mut survey = survey(job, &request)?;
    measure::measure(job, &request, &reference, &text, &mut survey)?;

    let held_out = proof::held_out(job, &reference.load(job)?)?;
    let mut exchange = measure::open(job, &reference, 1, WINDOW)?;
    let windows = held_out.ids.len().div_ceil(WINDOW) as u64;
    let progress = job.progress;
    progress.start("reading the text", Unit::Items("windows"), windows, 0);
    let mut on_window = || progress.advance(1);
    let read = Predictions::read(&mut exchange, &held_out.ids, WINDOW, &mut on_window);
    progress.finish();
    let predictions = read.map_err(|error| job.stopped(error))?;
    let mut points = Vec::new();
    let recipes = CURVE.iter().filter_map(|name| Recipe::find(name));
    progress.start("comparing", Unit::Items("files"), 2 * CURVE.len() as u64, 0);
    for recipe in recipes {
        let request = Request { recipe, ..request };
        let fixed = Plan::new(job.checkpoint, &request)?;
        let found = together(job, &request, &fixed, &mut exchange, &predictions)?;
        progress.advance(1);
        // A recipe may be smaller than any mix.
        let Ok(mixture) = survey.choose(Limit::Bytes(fixed.file_size())) else {
            progress.advance(1);
            continue;
        };
        let request = Request {
            types: Some(&mixture.types),
            ..request
        };
        let mix = Plan::new(job.checkpoint, &request)?;
        let mixed = together(job, &request, &mix, &mut exchange, &predictions)?;
        progress.advance(1);
        points.push(Point {
            recipe: recipe.name,
            bytes: fixed.file_size(),
            bits_per_weight: fixed.bits_per_weight(),
            kl: found.mean(),
            kl_error: found.error(),
            mix_bytes: mix.file_size(),
            mix_kl: mixed.mean(),
            mix_kl_error: mixed.error(),
            mix_expected_kl: mixture.loss,
        });
    }
    progress.finish();
    points.sort_by_key(|point| point.bytes);
    Ok(Curve {
        chosen_on: text.name().to_owned(),
        text: proof::text_name(job.args.held_out.as_deref()),
        positions: predictions.len(),
        points,
    })
}

/// The divergence with all types of a plan.
fn together(
    job: &Job<'_>,
    request: &Request<'_>,
    plan: &Plan,
    exchange: &mut Exchange,
    predictions: &Predictions,
) -> anyhow::Result<Mean> {
    for (index, tensor) in plan.tensors().iter().enumerate() {
        if exchange.ty(&tensor.name).is_some() {
            measure::put(job, request, plan, exchange, index, tensor.ty)?;
        }
    }
    let found = predictions.divergence(exchange);
    found.map_err(|error| job.stopped(error))
}

/// The page of a curve.
pub(super) const PAGE: Page = Page::new("convert --curve", include_str!("curve.js"));

/// Prints the curve.
pub(super) fn print(out: &mut Output, curve: &Curve) -> std::io::Result<()> {
    let header = [
        "recipe",
        "size>",
        "bits/weight>",
        "mean KL>",
        "of a mix>",
        "±>",
        "change>",
    ];
    let mut rows = Columns::new(out, &header);
    for point in &curve.points {
        let change = 100.0 * (point.mix_kl / point.kl.max(f64::MIN_POSITIVE) - 1.0);
        rows.add([
            cell(point.recipe, ACCENT),
            plain(human::bytes(point.bytes)),
            plain(format!("{:.2}", point.bits_per_weight)),
            plain(format!("{:.5}", point.kl)),
            plain(format!("{:.5}", point.mix_kl)),
            plain(format!("{:.5}", point.mix_kl_error)),
            plain(format!("{change:+.0} %")),
        ]);
    }
    out.write_all(rows.lines().as_bytes())?;
    let note = format!(
        "{} predictions of {}; types chosen on {}; KL in nats",
        human::count(curve.positions as u64),
        human::escape(curve.text.as_bytes()),
        human::escape(curve.chosen_on.as_bytes())
    );
    writeln!(out, "{}", out.paint(DIM, note))
}
