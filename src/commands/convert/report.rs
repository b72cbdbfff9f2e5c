//! The output of `convert`: the plan, the list of types, the result.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use super::size;
use crate::base::human;
use crate::commands::command_line::quote;
use crate::convert::{Deviation, Plan, PlannedTensor, Source};
use crate::gguf::Value;
use crate::output::{ACCENT, BOLD, DIM, GOOD, Output, WARN};
use crate::quant::mix::Recipe;
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

/// Prints the plan.
pub(super) fn plan(
    out: &mut Output,
    plan: &Plan,
    recipe: &Recipe,
    output: &Path,
    memory: u64,
    complete: bool,
    as_json: bool,
) -> anyhow::Result<()> {
    if as_json {
        let tensors: Vec<Json> = plan.tensors().iter().map(tensor_json).collect();
        out.json(&json!({
            "output": output,
            "quant": recipe.name,
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
        }))?;
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
    pub(super) recipe: &'a Recipe,
    pub(super) output: &'a Path,
    /// The argument MODEL for the other commands.
    pub(super) reference: String,
    pub(super) seconds: f64,
    pub(super) threads: usize,
    pub(super) verified: Option<(Vec<Deviation>, Loaded)>,
}

/// Prints the result.
pub(super) fn done(out: &mut Output, done: &Done<'_>, as_json: bool) -> anyhow::Result<()> {
    let plan = done.plan;
    let speed = plan.source_bytes() as f64 / done.seconds.max(1e-9);
    if as_json {
        let mut result = json!({
            "output": done.output,
            "model": done.reference,
            "quant": done.recipe.name,
            "file_bytes": plan.file_size(),
            "source_bytes": plan.source_bytes(),
            "weights": plan.weights(),
            "bits_per_weight": plan.bits_per_weight(),
            "seconds": done.seconds,
            "source_bytes_per_second": speed,
            "threads": done.threads,
        });
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
    let entries = plan.metadata().iter().map(|(key, value)| {
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
