//! What `modelve imatrix` prints.

use std::io::Write;

use serde::Serialize;

use crate::base::human;
use crate::output::{BOLD, DIM, Output, WARN};
use crate::quant::imatrix::Imatrix;
use crate::table::{Columns, cell, plain};

/// What was measured and written.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    pub(super) output: String,
    pub(super) model: String,
    /// Chunks in the file, of all runs together.
    pub(super) chunks: usize,
    /// Chunks of the whole text.
    pub(super) planned_chunks: usize,
    /// Tokens of a chunk.
    pub(super) chunk_size: usize,
    /// Tokens that this run has read.
    pub(super) tokens: usize,
    /// Seconds that this run has read for.
    pub(super) seconds: f64,
    /// Matrices, those of all experts of a layer counted as one.
    pub(super) matrices: usize,
    /// Experts of all layers that no token was sent to.
    pub(super) unseen_experts: usize,
    pub(super) complete: bool,
}

/// The number of experts of all layers that no token was sent to, by the matrices that have most.
pub(super) fn unseen_experts(file: &Imatrix) -> usize {
    let unseen = |name: &str| {
        let entries = file.entries().iter();
        let of_kind = entries.filter(|(other, _)| other.ends_with(name));
        let counts = of_kind.flat_map(|(_, entry)| entry.counts());
        counts.filter(|&&count| count == 0.0).count()
    };
    let kinds = [
        "ffn_down_exps.weight",
        "ffn_gate_exps.weight",
        "ffn_up_exps.weight",
    ];
    kinds.into_iter().map(unseen).max().unwrap_or(0)
}

pub(super) fn print(out: &mut Output, measured: &Measured, next: &str) -> std::io::Result<()> {
    let count = |n: usize| human::count(n as u64);
    let chunks = match measured.complete {
        true => count(measured.chunks),
        false => format!(
            "{} of {}",
            count(measured.chunks),
            count(measured.planned_chunks)
        ),
    };
    let speed = measured.tokens as f64 / measured.seconds.max(1e-9);
    let mut rows = Columns::new(out, &["", ""]);
    rows.add([
        cell("wrote", BOLD),
        plain(human::escape(measured.output.as_bytes())),
    ]);
    rows.add([
        cell("text", BOLD),
        plain(format!(
            "{chunks} chunks of {} tokens",
            count(measured.chunk_size)
        )),
    ]);
    rows.add([cell("matrices", BOLD), plain(count(measured.matrices))]);
    rows.add([
        cell("time", BOLD),
        plain(format!("{:.1} s, {speed:.0} tokens/s", measured.seconds)),
    ]);
    out.write_all(rows.lines().as_bytes())?;
    if measured.unseen_experts > 0 {
        let note = format!(
            "{} experts got no token: their columns will weigh alike; a longer text reaches more",
            count(measured.unseen_experts)
        );
        writeln!(out, "{}", out.paint(WARN, note))?;
    }
    if measured.complete {
        writeln!(out, "\n{}", out.paint(DIM, format!("next: {next}")))?;
    }
    Ok(())
}
