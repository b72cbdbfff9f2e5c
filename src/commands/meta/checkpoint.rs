//! Describes a checkpoint as the GGUF that it would be converted to.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::Place;
use super::lists::{Show, Sort, natural};
use super::remote::Remote;
use super::sizing::Sizing;
use super::subject::{Fact, Facts, Identity, Subject, Tensor};
use crate::base::human;
use crate::convert::arch::{self, Description, Weight};
use crate::convert::checkpoint::{Checkpoint, SourceTensor};
use crate::gguf::Value;
use crate::output::{ACCENT, DIM, Output};
use crate::table::{Columns, cell, plain};

/// A checkpoint and the description of its architecture.
pub struct Source {
    checkpoint: Checkpoint,
    description: Description,
    name: Option<String>,
    license: Option<String>,
}

impl Source {
    /// Reads the configuration and the shards' headers.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        let description =
            arch::describe(checkpoint.config()).with_context(|| folder.display().to_string())?;
        let stated = checkpoint.config()["_name_or_path"].as_str();
        let folder_name = || {
            Some(
                folder
                    .canonicalize()
                    .ok()?
                    .file_name()?
                    .to_string_lossy()
                    .into_owned(),
            )
        };
        let name = stated
            .and_then(|path| path.rsplit('/').next())
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .or_else(folder_name);
        let license = checkpoint.card().get("license").map(str::to_owned);
        Ok(Self {
            checkpoint,
            description,
            name,
            license,
        })
    }

    /// Returns the checkpoint's tensors under their GGUF names.
    pub fn subject(&self) -> anyhow::Result<Subject<'_>> {
        let mut tensors = Vec::new();
        for weight in &self.description.weights {
            let sources = weight.sources.iter();
            let mut parts =
                sources.filter_map(|name| self.description.find(&self.checkpoint, name));
            let Some(first) = parts.next() else {
                continue;
            };
            let stored = first.stored_bytes() + parts.map(SourceTensor::stored_bytes).sum::<u64>();
            let (shape, bytes) = match first.shape == weight.source_shape() {
                true => (
                    weight.shape.iter().rev().copied().collect(),
                    share(stored, weight),
                ),
                // Another than the configuration asks for; `convert` refuses it.
                false => (first.shape.iter().rev().copied().collect(), stored),
            };
            tensors.push(Tensor {
                name: weight.name.clone(),
                shape,
                form: first.form(),
                bytes: Some(bytes),
            });
        }
        let mut size = 0;
        for path in self.checkpoint.shards() {
            size += path
                .metadata()
                .with_context(|| path.display().to_string())?
                .len();
        }
        Ok(Subject::new(tensors, size, self))
    }

    /// Returns the tensors that the architecture expects, in its order, without those that the
    /// checkpoint does not have.
    fn named(&self) -> impl Iterator<Item = (&SourceTensor, &str)> {
        let weights = self.description.weights.iter();
        weights.flat_map(|weight| {
            let sources = weight.sources.iter();
            let sources =
                sources.filter_map(|source| self.description.find(&self.checkpoint, source));
            sources.map(|source| (source, weight.name.as_str()))
        })
    }

    fn shown(&self, show: &Show<'_>) -> Vec<(&SourceTensor, &str)> {
        let all = self.named();
        let mut rows: Vec<_> = all
            .filter(|(source, name)| show.wants(&source.name) || show.wants(name))
            .collect();
        match show.sort {
            Sort::File => {}
            Sort::Size => rows.sort_by_key(|(source, _)| std::cmp::Reverse(source.stored_bytes())),
            Sort::Name => rows.sort_by_cached_key(|(source, _)| natural(&source.name)),
        }
        rows
    }

    /// Prints one row per tensor, with both names.
    pub fn print_tensors(&self, show: &Show<'_>, out: &mut Output) -> anyhow::Result<()> {
        let titles = [
            "name",
            "GGUF",
            "shape (slowest first)",
            "type",
            "bytes>",
            "offset>",
            "shard>",
        ];
        let mut rows = Columns::new(out, &titles);
        for (source, name) in self.shown(show) {
            let sizes: Vec<String> = source.shape.iter().map(u64::to_string).collect();
            rows.add([
                plain(human::escape(source.name.as_bytes())),
                cell(name, ACCENT),
                plain(sizes.join(" × ")),
                plain(source.form()),
                plain(human::count(source.stored_bytes())),
                cell(source.offset, DIM),
                plain(source.shard + 1),
            ]);
        }
        match rows.is_empty() {
            true => writeln!(out, "no tensors")?,
            false => write!(out, "{}", rows.lines())?,
        }
        Ok(())
    }

    /// Prints the object that docs/json.md describes for checkpoints.
    pub fn print_json(
        &self,
        place: &Place<'_>,
        show: &Show<'_>,
        identity: &Identity,
        sizing: &Sizing,
        out: &mut Output,
    ) -> anyhow::Result<()> {
        let tensors = self
            .shown(show)
            .into_iter()
            .map(|(source, name)| JsonTensor {
                name: &source.name,
                gguf_name: name,
                shape: &source.shape,
                ty: source.form(),
                n_elements: source.shape.iter().product(),
                bytes: source.stored_bytes(),
                offset: source.offset,
                shard: source.shard + 1,
            });
        Ok(out.json(&Json {
            folder: place.shown(place.path).to_string_lossy().into_owned(),
            remote: place.remote,
            size_bytes: identity.size_bytes,
            n_params: identity.n_params,
            summary: identity,
            sizing,
            config: self.checkpoint.config(),
            shape_order: "slowest dimension first",
            tensors: tensors.collect(),
        })?)
    }
}

/// Of the bytes of the tensors that a weight is made of, those that are its own: two weights can be
/// columns of one matrix.
fn share(stored: u64, weight: &Weight) -> u64 {
    let count = |shape: &[u64]| shape.iter().map(|&n| u128::from(n)).product::<u128>();
    let all = count(&weight.source_shape()) * weight.sources.len() as u128;
    let own = u128::from(stored) * count(&weight.shape) / all.max(1);
    u64::try_from(own).unwrap_or(stored)
}

impl Facts for Source {
    fn fact(&self, key: &str) -> Option<Fact> {
        let text = |text: &Option<String>| text.clone().map(Fact::Text);
        match key {
            "general.architecture" => Some(Fact::Text(self.description.architecture.to_owned())),
            "general.name" => text(&self.name),
            "general.license" => text(&self.license),
            _ => {
                let (_, value) = self.description.metadata.iter().find(|(k, _)| k == key)?;
                match value {
                    Value::String(text) => Some(Fact::Text(text.clone())),
                    Value::U32(number) => Some(Fact::Integer(u64::from(*number))),
                    Value::U64(number) => Some(Fact::Integer(*number)),
                    _ => None,
                }
            }
        }
    }
}

#[derive(Serialize)]
struct Json<'a> {
    folder: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<&'a Remote>,
    size_bytes: u64,
    n_params: u64,
    summary: &'a Identity,
    sizing: &'a Sizing,
    config: &'a serde_json::Value,
    shape_order: &'static str,
    tensors: Vec<JsonTensor<'a>>,
}

#[derive(Serialize)]
struct JsonTensor<'a> {
    name: &'a str,
    gguf_name: &'a str,
    shape: &'a [u64],
    #[serde(rename = "type")]
    ty: String,
    n_elements: u64,
    bytes: u64,
    offset: u64,
    shard: usize,
}
