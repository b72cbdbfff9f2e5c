//! Prints maps of `modelve patch` on a terminal.

use std::io::Write;

use anstyle::{Ansi256Color, Style};

use crate::base::human;
use crate::commands::experiments::{measured, partial, signed};
use crate::commands::probing::{clip, pad, percent, quoted, tail};
use crate::experiment::mean::MeanPatch;
use crate::experiment::patch::{Patch, What};
use crate::output::{self, BOLD, DIM, Output, WARN};

/// Width of a cell in columns, with the space after it.
const WIDE: usize = 8;

pub(super) fn print(out: &mut Output, found: &Patch) -> std::io::Result<()> {
    let width = output::width();
    let prompt = |text: &str| tail(text, width.saturating_sub(12));
    let answer = |top: &[crate::probe::Choice]| {
        let top = top.first();
        top.map_or(String::new(), |c| {
            format!("{} {}", quoted(&c.piece), percent(c.prob).trim())
        })
    };
    let corrupt = match &found.noise {
        Some(noise) => {
            let of: Vec<String> = noise.positions.iter().map(usize::to_string).collect();
            format!("noise of {} deviations on {}", noise.scale, of.join(", "))
        }
        None => prompt(&found.corrupt),
    };
    for (name, text, value, top) in [
        (
            "clean",
            prompt(&found.clean),
            found.clean_value,
            &found.clean_top,
        ),
        ("corrupt", corrupt, found.corrupt_value, &found.corrupt_top),
    ] {
        writeln!(
            out,
            "{} {}",
            out.paint(DIM, pad(name, 8)),
            out.paint(BOLD, text)
        )?;
        writeln!(
            out,
            "{:8} says {}, measure {}",
            "",
            answer(top),
            signed(value)
        )?;
    }
    writeln!(out, "\nmeasured: {}", measured(&found.measure))?;
    if let Some(sentence) = &found.unaligned {
        writeln!(out, "{}", human::escape(sentence.as_bytes()))?;
    }
    writeln!(
        out,
        "share of the difference that is restored when {} is the clean prompt's; 1 is all of it\n",
        replaced(found.what)
    )?;
    let titles: Vec<String> = match &found.heads {
        Some(heads) => heads.iter().map(|head| format!("head {head}")).collect(),
        None => {
            let pieces = found
                .positions
                .iter()
                .map(|&at| quoted(&found.corrupt_pieces[at]));
            pieces.collect()
        }
    };
    let together = found.together.as_deref();
    print_map(out, &found.layers, &found.recovered, together, &titles)?;
    if found.clean_value == found.corrupt_value {
        let note = "the measure is the same for both prompts, so there is no share to show";
        writeln!(out, "{}", out.paint(DIM, note))?;
    }
    if let Some(doubt) = &found.doubt {
        writeln!(out, "{}", out.paint(WARN, doubt))?;
    }
    partial(out, found.complete)
}

fn replaced(what: What) -> &'static str {
    match what {
        What::Residual => "the residual stream after a layer",
        What::Attention => "the output of a layer's attention",
        What::Mlp => "the output of a layer's MLP",
        What::Head => "the output of one head, at all positions",
    }
}

pub(super) fn print_mean(out: &mut Output, mean: &MeanPatch) -> std::io::Result<()> {
    let n = mean.pairs.len();
    let of = match mean.pairs.iter().any(|pair| pair.noise.is_some()) {
        true => "draws of noise",
        false => "pairs",
    };
    writeln!(out, "{}", out.paint(BOLD, format!("the mean of {n} {of}")))?;
    if !mean.alike.is_empty() {
        let pairs: Vec<String> = mean.alike.iter().map(usize::to_string).collect();
        let note = format!(
            "left out, because the measure is the same for both prompts: {}",
            pairs.join(", ")
        );
        writeln!(out, "{}", out.paint(WARN, note))?;
    }
    if n == 0 {
        return Ok(());
    }
    writeln!(
        out,
        "share of the difference that is restored when {} is the clean prompt's; 1 is all of it\n",
        replaced(mean.what)
    )?;
    let titles: Vec<String> = match &mean.heads {
        Some(heads) => heads.iter().map(|head| format!("head {head}")).collect(),
        None => mean.pieces.iter().map(quoted).collect(),
    };
    print_map(out, &mean.layers, &mean.recovered, None, &titles)?;
    let halves = mean.interval.iter().flatten().flatten();
    let widest = halves.copied().fold(0.0, f64::max);
    let note = format!("95 % intervals are at most ± {widest:.2}; --json and --html have each");
    writeln!(out, "{}", out.paint(DIM, note))?;
    partial(out, mean.complete)
}

/// Prints layers by columns, the last layer at the top, with as many of the last columns as fit.
fn print_map(
    out: &mut Output,
    layers: &[usize],
    recovered: &[Vec<Option<f64>>],
    together: Option<&[Option<f64>]>,
    titles: &[String],
) -> std::io::Result<()> {
    let first = format!("layer {}", layers.last().unwrap_or(&0)).len() + 2;
    let extra = usize::from(together.is_some());
    let fit = (output::width().saturating_sub(first) / WIDE).saturating_sub(extra);
    let skipped = titles.len().saturating_sub(fit.max(1));
    let mut line = pad("", first);
    for title in &titles[skipped..] {
        line += &pad(&clip(title, WIDE - 1), WIDE);
    }
    if extra > 0 {
        line += "all";
    }
    writeln!(out, "{}", out.paint(BOLD, line.trim_end()))?;
    for (i, layer) in layers.iter().enumerate().rev() {
        let mut line = out.paint(DIM, pad(&format!("layer {layer}"), first));
        let cells = recovered[i][skipped..].iter();
        for share in cells.chain(together.map(|all| &all[i])) {
            let text = share.map_or("–".to_owned(), told_share);
            line += &out.paint(shade(share.unwrap_or(0.0)), format!("{text:>6} "));
            line.push(' ');
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    if skipped > 0 {
        let note = format!(
            "the last {} of {} columns; --positions selects others, --html shows all",
            titles.len() - skipped,
            titles.len()
        );
        writeln!(out, "{}", out.paint(DIM, note))?;
    }
    Ok(())
}

/// Formats a share as `0.73`, without the sign of zero.
fn told_share(share: f64) -> String {
    let share = (100.0 * share).round() / 100.0;
    // Adding 0 turns −0 into 0.
    format!("{:.2}", share + 0.0)
}

/// Returns the background for a share: blue for a positive, red for a negative one.
fn shade(share: f64) -> Style {
    const BLUES: [u8; 5] = [0, 17, 18, 19, 20];
    const REDS: [u8; 3] = [0, 52, 88];
    let colour = |n: u8| {
        Style::new()
            .bg_color(Some(Ansi256Color(n).into()))
            .fg_color(Some(Ansi256Color(231).into()))
    };
    let step = (share.abs().min(1.0) * 5.0) as usize;
    match (share < 0.0, step) {
        (_, 0) if share.abs() < 0.005 => DIM,
        (_, 0) => Style::new(),
        (false, step) => colour(BLUES[step.min(4)]),
        (true, step) => colour(REDS[step.min(2)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_no_negative_zero() {
        assert_eq!(told_share(-0.001), "0.00");
        assert_eq!(told_share(-0.126), "-0.13");
        assert_eq!(told_share(1.0), "1.00");
    }
}
