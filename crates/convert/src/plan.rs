//! The plan: everything that can be decided from headers, before a byte is written.

use std::collections::HashSet;
use std::path::Path;

use super::metadata::{self, Inputs};
use super::{Error, Imatrix, Provenance};
use crate::arch::{self, Arrangement, Description};
use crate::checkpoint::tokenizer::Tokenizer;
use crate::checkpoint::{Checkpoint, Dtype, SourceTensor};
use modelve_gguf::{GgmlType, Layout, Value};
use modelve_quant::imatrix;
use modelve_quant::mix::{self, Overrides, Recipe};

/// What is asked for.
pub struct Request<'a> {
    /// How to quantize.
    pub recipe: &'static Recipe,
    /// Types asked for by name.
    pub overrides: &'a Overrides,
    /// Weights of columns.
    pub imatrix: Option<&'a Imatrix>,
    /// Where the checkpoint came from.
    pub provenance: &'a Provenance,
}

/// Where a tensor's values come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Tensors of the checkpoint, one or several whose values follow one another, and what is done
    /// to them.
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
    /// Why that type.
    pub reason: String,
    /// Where its values come from.
    pub source: Source,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Length in the file, in bytes.
    pub bytes: u64,
}

impl PlannedTensor {
    /// Weights per row.
    pub fn columns(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Number of weights.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Number of matrices: 1, or that of the experts.
    pub fn slices(&self) -> u64 {
        self.shape.get(2).copied().unwrap_or(1).max(1)
    }
}

/// The file to write, down to the last offset.
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
        let decisions = mix::decide(request.recipe, request.overrides, &facts, &named)?;
        check_patterns(request.overrides, &named)?;
        check_imatrix(request.imatrix, &named)?;

        let tokenizer = Tokenizer::read(checkpoint, description.vocab_size)?;
        let metadata = metadata::metadata(&Inputs {
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

    /// The tensors in the order in which they stand in the file.
    pub fn tensors(&self) -> &[PlannedTensor] {
        &self.tensors
    }

    /// The metadata.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// The value of one key of the metadata.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let (_, value) = self.metadata.iter().find(|(k, _)| k == key)?;
        Some(value)
    }

    /// The file's header, up to where the data starts.
    pub fn header(&self) -> &[u8] {
        self.layout.header()
    }

    /// Bytes of the file.
    pub fn file_size(&self) -> u64 {
        self.layout.file_size()
    }

    /// Bytes of the checkpoint's tensors that are read.
    pub fn source_bytes(&self) -> u64 {
        self.source_bytes
    }

    /// Number of weights.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(PlannedTensor::elements).sum()
    }

    /// Bits of tensor data per weight.
    pub fn bits_per_weight(&self) -> f64 {
        let bytes: u64 = self.tensors.iter().map(|tensor| tensor.bytes).sum();
        bytes as f64 * 8.0 / self.weights().max(1) as f64
    }

    /// What a careful reader should know about the tokenizer.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// A note where an adapter says that it was trained for a model of another name. What its tensors
/// need has been checked; models of one shape can still differ in their weights.
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

/// Bytes of tensor data that a model of this description takes in a recipe, and its weights.
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
    let facts = description.facts(false);
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

/// llama.cpp's order of tensors: those of no layer first, then layer by layer, each by name.
fn order(name: &str) -> (Option<u64>, &str) {
    let layer = name
        .strip_prefix("blk.")
        .and_then(|rest| rest.split('.').next()?.parse().ok());
    (layer, name)
}

/// A tensor to be, and where it comes from.
struct Sourced {
    name: String,
    /// In GGUF's order: columns first.
    shape: Vec<u64>,
    source: Source,
}

/// Finds a source for every tensor of the architecture, and an architecture's tensor for every
/// one of the checkpoint.
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

/// A note on the parts of the checkpoint that are no part of the text model.
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
        format!("{count} tensors that see pictures are left out: the text part is converted")
    })
}

/// A tensor of the checkpoint, if it has the shape that the configuration asks for and a type that
/// can be converted.
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

/// A `--tensor-type` that matches nothing is a mistake in typing.
fn check_patterns(overrides: &Overrides, tensors: &[(&str, &[u64])]) -> Result<(), Error> {
    for (pattern, _) in &overrides.tensors {
        if !tensors.iter().any(|(name, _)| pattern.is_match(name)) {
            let pattern = pattern.to_string();
            return Err(Error::UnusedPattern { pattern });
        }
    }
    Ok(())
}

/// An importance matrix must fit every matrix that it has weights for.
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

/// The name to write a checkpoint to beside the caller: `NAME-QUANT.gguf`, `NAME-ADAPTER-QUANT.gguf`.
pub fn file_name(plan: &Plan, recipe: &Recipe, folder: &Path) -> String {
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
    format!("{name}-{}.gguf", recipe.name)
}
