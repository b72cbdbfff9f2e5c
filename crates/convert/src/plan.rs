//! The plan of a conversion: everything that can be decided from headers, before any byte is
//! written.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use super::metadata::{self, Inputs};
use super::{Error, Imatrix, Provenance};
use crate::arch::{self, Arrangement, Description};
use crate::checkpoint::tokenizer::Tokenizer;
use crate::checkpoint::{Checkpoint, Dtype, SourceTensor};
use modelve_gguf::{GgmlType, Layout, Value};
use modelve_quant::imatrix;
use modelve_quant::mix::{self, Decision, Overrides, Recipe};

/// The options of a conversion.
pub struct Request<'a> {
    /// The quantization recipe.
    pub recipe: &'static Recipe,
    /// Types given for single tensors.
    pub overrides: &'a Overrides,
    /// Types chosen for single tensors in place of the recipe's, by GGUF name.
    pub types: Option<&'a BTreeMap<String, Decision>>,
    /// The importance matrix, if there is one.
    pub imatrix: Option<&'a Imatrix>,
    /// The origin of the checkpoint.
    pub provenance: &'a Provenance,
    /// Metadata to add to that of the model.
    pub extra: &'a [(String, Value)],
}

/// The source of a tensor's values.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Checkpoint tensors whose values follow one another, and what is done to them.
    Checkpoint(Vec<SourceTensor>, Arrangement),
    /// Values computed from the configuration.
    Computed(Vec<f32>),
}

/// A tensor of the file to write.
#[derive(Clone, Debug)]
pub struct PlannedTensor {
    /// Name in the GGUF.
    pub name: String,
    /// Shape in GGUF's order: columns first.
    pub shape: Vec<u64>,
    /// Type in the GGUF.
    pub ty: GgmlType,
    /// The reason for the type.
    pub reason: String,
    /// The source of its values.
    pub source: Source,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Length in the file, in bytes.
    pub bytes: u64,
}

impl PlannedTensor {
    /// Number of weights in a row.
    pub fn columns(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Number of weights.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Converts an encoder's error to positions in the whole tensor.
    pub(super) fn encode_error(&self, first_row: u64, error: modelve_quant::Error) -> Error {
        let name = self.name.clone();
        match error {
            modelve_quant::Error::NonFinite { row, column, value } => Error::NotFinite {
                tensor: name,
                value,
                row: first_row + row as u64,
                column: column as u64,
            },
            modelve_quant::Error::NeedsImatrix(ty) => Error::NeedsImatrix { tensor: name, ty },
            modelve_quant::Error::Overflow { ty, row, column } => Error::Encode {
                tensor: name,
                problem: format!(
                    "the weights in row {} from column {column} on are too large for {ty}",
                    first_row + row as u64
                ),
            },
            other => Error::Encode {
                tensor: name,
                problem: other.to_string(),
            },
        }
    }

    /// The part of an importance matrix's weights that belongs to a row: each expert has its own.
    pub(super) fn weights_of_row<'a>(&self, weights: &'a [f32], row: u64) -> Option<&'a [f32]> {
        let expert = row / self.shape.get(1).copied().unwrap_or(1).max(1);
        let columns = self.columns() as usize;
        let at = expert as usize * columns;
        weights.get(at..at + columns)
    }

    /// Number of matrices: the number of experts, or 1.
    pub fn slices(&self) -> u64 {
        self.shape.get(2).copied().unwrap_or(1).max(1)
    }
}

/// The file to write, with all offsets.
#[derive(Debug)]
pub struct Plan {
    tensors: Vec<PlannedTensor>,
    metadata: Vec<(String, Value)>,
    layout: Layout,
    source_bytes: u64,
    notes: Vec<String>,
}

impl Plan {
    /// Plans the conversion of a checkpoint.
    pub fn new(checkpoint: &Checkpoint, request: &Request<'_>) -> Result<Self, Error> {
        checkpoint.method()?;
        let description = arch::describe(checkpoint.config())?;
        let mut sources = sources(checkpoint, &description)?;
        let left_out = left_out(checkpoint, &description);
        sources.sort_by(|a, b| order(&a.name).cmp(&order(&b.name)));

        let named: Vec<(&str, &[u64])> = sources
            .iter()
            .map(|sourced| (sourced.name.as_str(), sourced.shape.as_slice()))
            .collect();
        let facts = description.facts(request.imatrix.is_some());
        let mut decisions = mix::decide(request.recipe, request.overrides, &facts, &named)?;
        for ((name, _), decision) in named.iter().zip(&mut decisions) {
            if let Some(chosen) = request.types.and_then(|types| types.get(*name)) {
                decision.clone_from(chosen);
            }
        }
        check_patterns(request.overrides, &named)?;
        check_imatrix(request.imatrix, &named)?;
        check_few_bits(request.imatrix, &named, &decisions)?;

        let tokenizer = Tokenizer::read(checkpoint, description.vocab_size)?;
        let mut metadata = metadata::metadata(&Inputs {
            checkpoint,
            description: &description,
            tokenizer: &tokenizer,
            recipe: request.recipe,
            imatrix: request.imatrix,
            provenance: request.provenance,
            weights: named
                .iter()
                .map(|(_, shape)| shape.iter().product::<u64>())
                .sum(),
        });
        metadata.extend_from_slice(request.extra);
        let to_place: Vec<(String, Vec<u64>, GgmlType)> = named
            .iter()
            .zip(&decisions)
            .map(|((name, shape), decision)| (name.to_string(), shape.to_vec(), decision.ty))
            .collect();
        let layout = Layout::new(&metadata, &to_place)?;
        let tensors: Vec<PlannedTensor> = sources
            .into_iter()
            .zip(decisions)
            .zip(layout.tensors())
            .map(|((sourced, decision), placed)| PlannedTensor {
                shape: placed.shape.clone(),
                ty: decision.ty,
                reason: decision.reason,
                name: sourced.name,
                source: sourced.source,
                offset: placed.offset,
                bytes: placed.bytes.unwrap_or(0),
            })
            .collect();
        let source_bytes = tensors.iter().map(|tensor| match &tensor.source {
            Source::Checkpoint(parts, _) => parts.iter().map(SourceTensor::stored_bytes).sum(),
            Source::Computed(_) => 0,
        });
        Ok(Self {
            source_bytes: source_bytes.sum(),
            tensors,
            metadata,
            layout,
            notes: [
                description.notes,
                left_out.into_iter().collect(),
                tokenizer.notes,
                other_base(checkpoint, request.provenance)
                    .into_iter()
                    .collect(),
            ]
            .concat(),
        })
    }

    /// The tensors in the order of the file.
    pub fn tensors(&self) -> &[PlannedTensor] {
        &self.tensors
    }

    /// The metadata.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// The value of one metadata key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let (_, value) = self.metadata.iter().find(|(k, _)| k == key)?;
        Some(value)
    }

    /// The file's header, up to the start of the data.
    pub fn header(&self) -> &[u8] {
        self.layout.header()
    }

    /// Size of the file in bytes.
    pub fn file_size(&self) -> u64 {
        self.layout.file_size()
    }

    /// Size of the checkpoint tensors that are read, in bytes.
    pub fn source_bytes(&self) -> u64 {
        self.source_bytes
    }

    /// Number of weights.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(PlannedTensor::elements).sum()
    }

    /// Average number of bits of tensor data per weight.
    pub fn bits_per_weight(&self) -> f64 {
        let bytes: u64 = self.tensors.iter().map(|tensor| tensor.bytes).sum();
        bytes as f64 * 8.0 / self.weights().max(1) as f64
    }

    /// Notes for the user.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// Returns a note if an adapter says that it was trained for a model of another name. Its tensors
/// fit this model's, but models of the same shape can have different weights.
fn other_base(checkpoint: &Checkpoint, provenance: &Provenance) -> Option<String> {
    let stated = checkpoint.adapter()?.base.as_deref()?;
    let folder = checkpoint.folder();
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let folder = folder.to_string_lossy();
    let config = checkpoint.config()["_name_or_path"].as_str();
    let repository = provenance.repository.as_deref();
    let last = |name: &str| name.rsplit(['/', '\\']).next().map(str::to_lowercase);
    let mut names = [repository, config, Some(folder.as_ref())]
        .into_iter()
        .flatten();
    if names.any(|name| last(name) == last(stated)) {
        return None;
    }
    let here = repository.unwrap_or(&folder);
    Some(format!(
        "the adapter was trained for {stated}; it was merged into {here}"
    ))
}

/// Returns the bytes of tensor data that a model takes in a recipe, and its number of weights.
pub fn estimate(description: &Description, recipe: &Recipe) -> Result<(u64, u64), Error> {
    let mut tensors: Vec<(&str, Vec<u64>)> = description
        .weights
        .iter()
        .filter(|weight| !weight.optional)
        .map(|weight| {
            let shape = weight.shape.iter().rev().copied().collect();
            (weight.name.as_str(), shape)
        })
        .collect();
    tensors.sort_by(|(a, _), (b, _)| order(a).cmp(&order(b)));
    let named: Vec<(&str, &[u64])> = tensors
        .iter()
        .map(|(name, shape)| (*name, shape.as_slice()))
        .collect();
    let facts = description.facts(recipe.needs_imatrix());
    let decisions = mix::decide(recipe, &Overrides::default(), &facts, &named)?;
    let (mut bytes, mut weights) = (0, 0);
    for ((_, shape), decision) in named.iter().zip(decisions) {
        let columns = shape.first().copied().unwrap_or(1).max(1);
        let elements: u64 = shape.iter().product();
        let row_bytes = decision.ty.row_bytes(columns).unwrap_or(0);
        bytes += elements / columns * row_bytes;
        weights += elements;
    }
    Ok((bytes, weights))
}

/// Returns the sort key of llama.cpp's order of tensors: those outside the layers first, then layer
/// by layer, each by name.
fn order(name: &str) -> (Option<u64>, &str) {
    let layer = name
        .strip_prefix("blk.")
        .and_then(|rest| rest.split('.').next()?.parse().ok());
    (layer, name)
}

/// A tensor to write and its source.
struct Sourced {
    name: String,
    /// In GGUF's order: columns first.
    shape: Vec<u64>,
    source: Source,
}

/// Finds a source for every tensor of the architecture, and checks that every tensor of the
/// checkpoint is used.
fn sources(checkpoint: &Checkpoint, description: &Description) -> Result<Vec<Sourced>, Error> {
    let mut sources = Vec::new();
    for weight in &description.weights {
        let mut parts = Vec::with_capacity(weight.sources.len());
        let shape = weight.source_shape();
        for name in &weight.sources {
            match description.find(checkpoint, name) {
                Some(tensor) => parts.push(checked(tensor, &shape)?.clone()),
                None if weight.optional => break,
                None => {
                    let tensor = name.clone();
                    return Err(Error::Missing { tensor });
                }
            }
        }
        if !parts.is_empty() {
            sources.push(Sourced {
                name: weight.name.clone(),
                shape: weight.shape.iter().rev().copied().collect(),
                source: Source::Checkpoint(parts, weight.arrangement),
            });
        }
    }
    let known: HashSet<&str> = description
        .weights
        .iter()
        .flat_map(|weight| weight.sources.iter().map(String::as_str))
        .collect();
    let ignored = |name: &str| {
        description.ignored.iter().any(|end| name.ends_with(end))
            || description
                .left_out
                .iter()
                .any(|start| name.starts_with(start))
    };
    let is_known = |name: &str| description.meant(name).any(|name| known.contains(&*name));
    let surplus: Vec<&str> = checkpoint
        .tensors()
        .map(|tensor| tensor.name.as_str())
        .filter(|name| !is_known(name) && !ignored(name) && !checkpoint.is_idle(name))
        .collect();
    if !surplus.is_empty() {
        let mut names = surplus[..surplus.len().min(3)].join(", ");
        if surplus.len() > 3 {
            names.push_str(", …");
        }
        return Err(Error::Surplus {
            count: surplus.len(),
            names,
        });
    }
    for constant in &description.constants {
        sources.push(Sourced {
            name: constant.name.to_owned(),
            shape: vec![constant.values.len() as u64],
            source: Source::Computed(constant.values.clone()),
        });
    }
    Ok(sources)
}

/// Returns a note on the tensors that do not belong to the text model.
fn left_out(checkpoint: &Checkpoint, description: &Description) -> Option<String> {
    let other = |name: &str| {
        description
            .left_out
            .iter()
            .any(|start| name.starts_with(start))
    };
    let count = checkpoint
        .tensors()
        .filter(|tensor| other(&tensor.name))
        .count();
    (count > 0).then(|| {
        format!("{count} tensors of the vision part are left out: only the text part is converted")
    })
}

/// Checks that a tensor of the checkpoint has the shape that the configuration implies and a type
/// that can be converted.
fn checked<'a>(tensor: &'a SourceTensor, shape: &[u64]) -> Result<&'a SourceTensor, Error> {
    if tensor.shape != shape {
        return Err(Error::Shape {
            tensor: tensor.name.clone(),
            found: tensor.shape.clone(),
            wanted: shape.to_vec(),
        });
    }
    if !matches!(tensor.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32) {
        return Err(Error::Dtype {
            tensor: tensor.name.clone(),
            dtype: format!("{:?}", tensor.dtype),
        });
    }
    Ok(tensor)
}

/// Checks that every `--tensor-type` matches a tensor; one that does not is a typing mistake.
fn check_patterns(overrides: &Overrides, tensors: &[(&str, &[u64])]) -> Result<(), Error> {
    for (pattern, _) in &overrides.tensors {
        if !tensors.iter().any(|(name, _)| pattern.is_match(name)) {
            let pattern = pattern.to_string();
            return Err(Error::UnusedPattern { pattern });
        }
    }
    Ok(())
}

/// Checks that an importance matrix fits every matrix for which it has weights.
fn check_imatrix(imatrix: Option<&Imatrix>, tensors: &[(&str, &[u64])]) -> Result<(), Error> {
    let Some(imatrix) = imatrix else {
        return Ok(());
    };
    let mut used = 0;
    for (name, shape) in tensors {
        used += usize::from(imatrix.weights(name, shape)?.is_some());
    }
    match used {
        0 => Err(Error::Imatrix(imatrix::Error::Invalid {
            path: imatrix.path().to_owned(),
            problem: "has weights for no tensor of this model".into(),
        })),
        _ => Ok(()),
    }
}

/// Checks that every tensor of a type of few bits has weights of its columns in the importance matrix.
fn check_few_bits(
    imatrix: Option<&Imatrix>,
    tensors: &[(&str, &[u64])],
    decisions: &[Decision],
) -> Result<(), Error> {
    for ((name, shape), decision) in tensors.iter().zip(decisions) {
        if !mix::needs_imatrix(name, decision.ty) {
            continue;
        }
        let Some(imatrix) = imatrix else {
            let tensor = name.to_string();
            let ty = decision.ty;
            return Err(Error::NeedsImatrix { tensor, ty });
        };
        if imatrix.weights(name, shape)?.is_none() {
            return Err(Error::Imatrix(imatrix::Error::Invalid {
                path: imatrix.path().to_owned(),
                problem: format!("has no weights for `{name}`, which {} needs", decision.ty),
            }));
        }
    }
    Ok(())
}

/// Returns the default file name of the output: `NAME-LABEL.gguf` or `NAME-ADAPTER-LABEL.gguf`. The
/// label is the name of a recipe, or a size.
pub fn file_name(plan: &Plan, label: &str, folder: &Path) -> String {
    let name = match plan.get("general.name") {
        Some(Value::String(name)) => name.clone(),
        _ => folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    };
    let adapter = match plan.get("modelve.source.adapter") {
        Some(Value::String(adapter)) => format!("-{adapter}"),
        _ => String::new(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name: String = name
        .chars()
        .chain(adapter.chars())
        .map(|c| if plain(c) { c } else { '-' })
        .collect();
    let name = name.trim_matches(['-', '.']);
    format!("{name}-{label}.gguf")
}
