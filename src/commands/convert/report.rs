//! The output of `convert`: the plan, the list of types, the result.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use super::proof::Quality;
use super::size;
use super::sized::Outlook;
use crate::base::human;
use crate::commands::command_line::quote;
use crate::convert::{Deviation, Plan, PlannedTensor, Source};
use crate::gguf::Value;
use crate::output::{ACCENT, BOLD, DIM, GOOD, Output, WARN};
use crate::table::{Columns, cell, plain};

/// A row of `--list-quants`.
#[derive(Serialize)]
pub(super) struct QuantRow {
    pub(super) name: &'static str,
    pub(super) bits_per_weight: f64,
    pub(super) bytes: u64,
    pub(super) about: &'static str,
}

/// Prints the types that can be written.
pub(super) fn quants(
    out: &mut Output,
    rows: &[QuantRow],
    model: &str,
    as_json: bool,
) -> anyhow::Result<()> {
    if as_json {
        out.json(&json!({"model": model, "quants": rows}))?;
        return Ok(out.flush()?);
    }
    let mut text = Columns::new(out, &["type", "bits/weight>", "size>", "use"]);
    for row in rows {
        let style = match row.name {
            crate::hub::locate::DEFAULT_QUANT => GOOD,
            _ => ACCENT,
        };
        text.add([
            cell(row.name, style),
            plain(format!("{:.2}", row.bits_per_weight)),
            plain(human::bytes(row.bytes)),
            plain(row.about),
        ]);
    }
    writeln!(out, "Sizes are those of {model}.\n")?;
    out.write_all(text.lines().as_bytes())?;
    Ok(out.flush()?)
}

/// A conversion that was planned.
pub(super) struct Planned<'a> {
    pub(super) plan: &'a Plan,
    pub(super) quant: &'a str,
    pub(super) output: &'a Path,
    /// Bytes of memory that it takes.
    pub(super) memory: u64,
    /// Whether the weights are on this machine.
    pub(super) complete: bool,
    /// What is expected of chosen types.
    pub(super) outlook: Option<&'a Outlook>,
}

/// Prints the plan.
pub(super) fn plan(out: &mut Output, planned: &Planned<'_>, as_json: bool) -> anyhow::Result<()> {
    let &Planned {
        plan,
        quant,
        output,
        memory,
        complete,
        outlook,
    } = planned;
    if as_json {
        let tensors: Vec<Json> = plan.tensors().iter().map(tensor_json).collect();
        let mut result = json!({
            "output": output,
            "quant": quant,
            "weights_here": complete,
            "file_bytes": plan.file_size(),
            "source_bytes": plan.source_bytes(),
            "weights": plan.weights(),
            "bits_per_weight": plan.bits_per_weight(),
            "memory_bytes": memory,
            "disk_bytes": plan.file_size(),
            "notes": plan.notes(),
            "metadata": metadata_json(plan),
            "tensors": tensors,
        });
        if let Some(outlook) = outlook {
            result["mix"] = serde_json::to_value(outlook)?;
        }
        out.json(&result)?;
        return Ok(out.flush()?);
    }
    let mut rows = Columns::new(out, &["tensor", "shape>", "from", "to", "bytes>", "why"]);
    for tensor in plan.tensors() {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        rows.add([
            plain(&tensor.name),
            plain(shape.join(" × ")),
            cell(source_type(tensor), DIM),
            cell(tensor.ty, ACCENT),
            plain(human::count(tensor.bytes)),
            cell(&tensor.reason, DIM),
        ]);
    }
    out.write_all(rows.lines().as_bytes())?;
    writeln!(out)?;
    let mut facts = Columns::new(out, &["", ""]);
    let mut fact = |name: &str, value: String| {
        facts.add([cell(name, DIM), plain(value)]);
    };
    fact("would write", output.display().to_string());
    fact("size", size(plan.file_size(), plan.bits_per_weight()));
    let from = format!(
        "{} in {} tensors, {} weights",
        human::bytes(plan.source_bytes()),
        plan.tensors().len(),
        human::quantity(plan.weights())
    );
    fact("from", from);
    fact("types", type_counts(plan));
    for (name, value) in outlook.into_iter().flat_map(expected) {
        fact(name, value);
    }
    fact("disk needed", human::bytes(plan.file_size()));
    fact("memory needed", human::bytes(memory));
    out.write_all(facts.lines().as_bytes())?;
    if !complete {
        let note = format!(
            "The weights are not here yet: planned from config.json; converting would fetch {}.",
            human::bytes(plan.source_bytes())
        );
        writeln!(out, "\n{}", out.paint(WARN, note))?;
    }
    for note in plan.notes() {
        writeln!(out, "{} {note}", out.paint(WARN, "note:"))?;
    }
    Ok(out.flush()?)
}

/// Reports that a GGUF was fetched and nothing converted.
pub(super) fn gguf(out: &mut Output, path: &Path, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        out.json(&json!({"output": path, "fetched": true}))?;
        return Ok(out.flush()?);
    }
    writeln!(
        out,
        "{} is a GGUF file already: it was fetched, not converted",
        path.display()
    )?;
    Ok(out.flush()?)
}

/// The result of letting llama.cpp load the file.
pub(super) struct Loaded {
    pub(super) seconds: f64,
}

/// A conversion that succeeded.
pub(super) struct Done<'a> {
    pub(super) plan: &'a Plan,
    pub(super) quant: &'a str,
    pub(super) output: &'a Path,
    /// The argument MODEL for the other commands.
    pub(super) reference: String,
    pub(super) seconds: f64,
    pub(super) threads: usize,
    pub(super) verified: Option<(Vec<Deviation>, Loaded)>,
    /// What was expected of chosen types.
    pub(super) outlook: Option<&'a Outlook>,
    /// What was found.
    pub(super) quality: Option<Quality>,
}

/// Prints the result.
pub(super) fn done(out: &mut Output, done: &Done<'_>, as_json: bool) -> anyhow::Result<()> {
    let plan = done.plan;
    let speed = plan.source_bytes() as f64 / done.seconds.max(1e-9);
    if as_json {
        let mut result = json!({
            "output": done.output,
            "model": done.reference,
            "quant": done.quant,
            "file_bytes": plan.file_size(),
            "source_bytes": plan.source_bytes(),
            "weights": plan.weights(),
            "bits_per_weight": plan.bits_per_weight(),
            "seconds": done.seconds,
            "source_bytes_per_second": speed,
            "threads": done.threads,
        });
        if let Some(outlook) = done.outlook {
            result["mix"] = serde_json::to_value(outlook)?;
        }
        if let Some(quality) = &done.quality {
            result["quality"] = serde_json::to_value(quality)?;
        }
        if let Some((deviations, loaded)) = &done.verified {
            let tensors: Vec<Json> = deviations.iter().map(deviation_json).collect();
            result["verified"] = json!({"load_seconds": loaded.seconds, "tensors": tensors});
        }
        out.json(&result)?;
        return Ok(out.flush()?);
    }
    if let Some((deviations, loaded)) = &done.verified {
        verified(out, deviations, loaded)?;
    }
    let mut facts = Columns::new(out, &["", ""]);
    let mut fact = |name: &str, value: String| {
        facts.add([cell(name, DIM), plain(value)]);
    };
    fact("wrote", done.output.display().to_string());
    let bits = plan.bits_per_weight();
    let before = human::bytes(plan.source_bytes());
    let after = size(plan.file_size(), bits);
    let ratio = plan.source_bytes() as f64 / plan.file_size().max(1) as f64;
    let change = match ratio < 1.0 {
        true => format!("{:.1} times larger", 1.0 / ratio.max(1e-9)),
        false => format!("{ratio:.1} times smaller"),
    };
    fact("size", format!("{before} → {after}, {change}"));
    fact("types", type_counts(plan));
    for (name, value) in done.outlook.into_iter().flat_map(expected) {
        fact(name, value);
    }
    for (name, value) in done.quality.iter().flat_map(proven) {
        fact(name, value);
    }
    let rate = human::bytes(speed as u64);
    fact(
        "time",
        format!(
            "{:.1} s on {} thread(s), {rate}/s of the source",
            done.seconds, done.threads
        ),
    );
    out.write_all(facts.lines().as_bytes())?;
    for note in plan.notes() {
        writeln!(out, "{} {note}", out.paint(WARN, "note:"))?;
    }
    let next = format!(
        "modelve complete -m {} \"Today is\"",
        quote(&done.reference)
    );
    writeln!(out, "\nnext: {}", out.paint(BOLD, next))?;
    Ok(out.flush()?)
}

/// What is expected of chosen types, line by line.
fn expected(outlook: &Outlook) -> Vec<(&'static str, String)> {
    let gap = match outlook.bound_kl > 0.0 {
        true => 100.0 * (outlook.expected_kl / outlook.bound_kl - 1.0),
        false => 0.0,
    };
    let mut lines = vec![(
        "expected",
        format!(
            "mean KL {:.4}, the sum of {} tensors; no choice is better by more than {gap:.1} %",
            outlook.expected_kl, outlook.tensors
        ),
    )];
    match &outlook.measured {
        Some(measured) => lines.push((
            "measured",
            format!(
                "mean KL {:.4} ± {:.4} together, on {} predictions of {}",
                measured.together_kl,
                measured.together_error,
                human::count(measured.positions as u64),
                human::escape(measured.text.as_bytes())
            ),
        )),
        None => lines.push((
            "",
            "estimated from the errors of the weights alone".to_owned(),
        )),
    }
    lines
}

/// What was found by comparing the file with its checkpoint, line by line.
fn proven(quality: &Quality) -> Vec<(&'static str, String)> {
    vec![
        (
            "quality",
            format!(
                "mean KL {:.4} ± {:.4}, 99 % below {:.3}, same first choice {:.1} %",
                quality.kl_mean,
                quality.kl_error,
                quality.kl_p99,
                100.0 * quality.same_top
            ),
        ),
        (
            "",
            format!(
                "perplexity {:.3} → {:.3}, on {} tokens of {}",
                quality.perplexity_source,
                quality.perplexity,
                human::count(quality.tokens.into()),
                human::escape(quality.text.as_bytes())
            ),
        ),
    ]
}

fn verified(out: &mut Output, deviations: &[Deviation], loaded: &Loaded) -> anyhow::Result<()> {
    let mut rows = Columns::new(out, &["tensor", "type", "relative RMSE>", "largest error>"]);
    for deviation in deviations {
        rows.add([
            plain(&deviation.tensor),
            cell(deviation.ty, ACCENT),
            plain(format!("{:.3} %", deviation.relative_rmse * 100.0)),
            plain(format!("{:.2e}", deviation.largest)),
        ]);
    }
    out.write_all(rows.lines().as_bytes())?;
    let text = format!(
        "llama.cpp accepts its metadata, its vocabulary and the shapes of its tensors ({:.1} s)",
        loaded.seconds
    );
    writeln!(out, "\n{}\n", out.paint(GOOD, text))?;
    Ok(())
}

/// Counts the tensors of each type: `97 Q4_K, 67 F32, 33 Q6_K`.
fn type_counts(plan: &Plan) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for tensor in plan.tensors() {
        *counts.entry(tensor.ty.to_string()).or_default() += 1;
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let texts: Vec<String> = counts
        .iter()
        .map(|(ty, count)| format!("{count} {ty}"))
        .collect();
    texts.join(", ")
}

fn source_type(tensor: &PlannedTensor) -> String {
    match &tensor.source {
        Source::Checkpoint(parts, _) => {
            let types = parts.iter().map(|part| part.form());
            types
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
                .join(", ")
        }
        Source::Computed(_) => "config".to_owned(),
    }
}

fn tensor_json(tensor: &PlannedTensor) -> Json {
    let source = match &tensor.source {
        Source::Checkpoint(parts, _) => match parts.as_slice() {
            [one] => Json::from(one.name.as_str()),
            parts => parts.iter().map(|part| part.name.as_str()).collect(),
        },
        Source::Computed(_) => Json::Null,
    };
    json!({
        "name": tensor.name,
        "shape": tensor.shape,
        "source": source,
        "source_type": source_type(tensor),
        "type": tensor.ty.to_string(),
        "offset": tensor.offset,
        "bytes": tensor.bytes,
        "reason": tensor.reason,
    })
}

fn deviation_json(deviation: &Deviation) -> Json {
    json!({
        "name": deviation.tensor,
        "type": deviation.ty.to_string(),
        "relative_rmse": deviation.relative_rmse,
        "largest_error": deviation.largest,
    })
}

/// The metadata as JSON, with long lists replaced by their length.
fn metadata_json(plan: &Plan) -> Json {
    // The quality is known once the file is written.
    let known = plan.metadata().iter();
    let known = known.filter(|(key, _)| !key.starts_with("modelve.quality."));
    let entries = known.map(|(key, value)| {
        let value = match value {
            Value::U32(v) => json!(v),
            Value::I32(v) => json!(v),
            Value::F32(v) => json!(v),
            Value::Bool(v) => json!(v),
            Value::String(v) => json!(v),
            Value::Array(v) => json!({"length": v.len()}),
            other => json!(format!("{other:?}")),
        };
        (key.clone(), value)
    });
    Json::Object(entries.collect::<Map<String, Json>>())
}
