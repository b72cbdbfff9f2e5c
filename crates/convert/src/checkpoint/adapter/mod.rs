//! A LoRA of PEFT, merged into the checkpoint that it was trained for.
//!
//! The rest of the program does not see the adapter: a matrix that it changes becomes a tensor
//! whose rows are computed when they are read. Tensors that the adapter holds whole
//! (`modules_to_save`, trained biases) replace those of the base.

mod config;
mod delta;

pub use delta::Merged;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::Dtype;
use serde_json::{Map, Value};

use super::packed::Packed;
use super::{ADAPTER, Checkpoint, Error, Problem, SourceTensor, read_optional, shard};
use config::Config;

/// The file with the adapter's weights.
const WEIGHTS: &str = "adapter_model.safetensors";

/// Floating-point types of weights.
const FLOATS: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::BF16];

/// An adapter that was merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// Its folder.
    pub folder: PathBuf,
    /// The model that it was trained for, as the adapter states it.
    pub base: Option<String>,
}

impl Adapter {
    /// The name of its folder.
    pub fn name(&self) -> String {
        let folder = self.folder.canonicalize();
        let folder = folder.as_deref().unwrap_or(&self.folder);
        let name = folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// Makes the error for a folder that holds only an adapter, which changes the weights of another
/// model.
pub(super) fn not_a_model(folder: &Path, adapter: &Map<String, Value>) -> Error {
    let problem = Problem::Adapter {
        kind: match adapter.get("peft_type").and_then(Value::as_str) {
            Some(kind) => kind.to_owned(),
            None => "PEFT".to_owned(),
        },
        base: base_of(adapter),
    };
    Error::new(folder, problem)
}

fn base_of(adapter: &Map<String, Value>) -> Option<String> {
    let base = adapter.get("base_model_name_or_path")?.as_str()?;
    (!base.is_empty()).then(|| base.to_owned())
}

/// The two matrices of a LoRA, by the name of the tensor that they change.
#[derive(Default)]
struct Pair {
    /// The path of the module in the adapter.
    module: String,
    a: Option<SourceTensor>,
    b: Option<SourceTensor>,
    is_embedding: bool,
}

impl Checkpoint {
    /// Merges the LoRA in `folder` into the weights. `is_turned` says of a tensor of the base whether
    /// its rows are inputs, as those of GPT-2 are; like PEFT this goes by what the base is, whatever
    /// `fan_in_fan_out` of the adapter says.
    ///
    /// # Errors
    /// The folder holds no LoRA or one of a kind that is not supported, or a tensor of it is
    /// unknown or does not fit the base.
    pub fn merge(mut self, folder: &Path, is_turned: impl Fn(&str) -> bool) -> Result<Self, Error> {
        let path = folder.join(ADAPTER);
        let Some(adapter) = read_optional(&path)? else {
            return Err(Error::new(folder, Problem::Absent { what: ADAPTER }));
        };
        let wrong = |problem: String| Error::new(&path, Problem::Lora(problem));
        let config = Config::read(&adapter).map_err(wrong)?;
        let weights = folder.join(WEIGHTS);
        if !weights.is_file() {
            return Err(Error::new(folder, Problem::Absent { what: WEIGHTS }));
        }
        let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
        let mut whole: BTreeMap<String, SourceTensor> = BTreeMap::new();
        for tensor in shard::read_header(&weights, self.shards.len())? {
            let error = |problem: &str| tensor_error(&weights, &tensor, problem);
            if !FLOATS.contains(&tensor.dtype) {
                let problem = format!("is of type {:?}, not of {FLOATS:?}", tensor.dtype);
                return Err(error(&problem));
            }
            let twice = match part(&tensor.name) {
                Some(Part::Matrix {
                    of,
                    is_b,
                    is_embedding,
                }) => {
                    let name = self.base_name(&of).ok_or_else(|| error(NOT_IN_BASE))?;
                    let pair = pairs.entry(name).or_default();
                    pair.is_embedding |= is_embedding;
                    pair.module = of.strip_suffix(".weight").unwrap_or(&of).to_owned();
                    let place = if is_b { &mut pair.b } else { &mut pair.a };
                    place.replace(tensor.clone()).is_some()
                }
                Some(Part::Whole { of }) => {
                    let name = self.base_name(&of).ok_or_else(|| error(NOT_IN_BASE))?;
                    let base = &self.tensors[&name];
                    if base.shape != tensor.shape {
                        let (found, needed) = (&tensor.shape, &base.shape);
                        let problem = format!("has shape {found:?}; the base's has {needed:?}");
                        return Err(error(&problem));
                    }
                    whole.insert(name, tensor.clone()).is_some()
                }
                None => return Err(error("is not a tensor of a LoRA")),
            };
            if twice {
                return Err(error("occurs twice, under two names"));
            }
        }
        for (name, tensor) in whole {
            self.idle.remove(&name);
            self.tensors
                .insert(name.clone(), SourceTensor { name, ..tensor });
        }
        for (name, pair) in pairs {
            let merged = merged(&self.tensors[&name], &pair, &config, is_turned(&name))
                .map_err(|(tensor, problem)| tensor_error(&weights, tensor, &problem))?;
            self.tensors.insert(name, merged);
        }
        self.shards.push(weights);
        self.adapter = Some(Adapter {
            folder: folder.to_owned(),
            base: base_of(&adapter),
        });
        Ok(self)
    }

    /// Returns the name in this checkpoint of a tensor that an adapter names by its module's path.
    /// Some checkpoints leave out the first component of the path.
    fn base_name(&self, path: &str) -> Option<String> {
        let short = path.split_once('.').map(|(_, short)| short);
        let mut names = [Some(path), short].into_iter().flatten();
        let found = names.find(|name| self.tensors.contains_key(*name));
        found.map(str::to_owned)
    }
}

const NOT_IN_BASE: &str = "changes a tensor that the base does not have";

fn tensor_error(path: &Path, tensor: &SourceTensor, problem: &str) -> Error {
    let problem = Problem::Tensor {
        tensor: tensor.name.clone(),
        problem: problem.to_owned(),
    };
    Error::new(path, problem)
}

/// The role of an adapter's tensor.
enum Part {
    /// One of the two matrices for the tensor `of`.
    Matrix {
        of: String,
        is_b: bool,
        is_embedding: bool,
    },
    /// A replacement of the tensor `of`.
    Whole { of: String },
}

/// Reads the name of an adapter's tensor.
fn part(name: &str) -> Option<Part> {
    let name = name.strip_prefix("base_model.model.")?;
    for (end, is_b, is_embedding) in [
        (".lora_A.weight", false, false),
        (".lora_B.weight", true, false),
        (".lora_embedding_A", false, true),
        (".lora_embedding_B", true, true),
    ] {
        if let Some(module) = name.strip_suffix(end) {
            return Some(Part::Matrix {
                of: format!("{module}.weight"),
                is_b,
                is_embedding,
            });
        }
    }
    let of = name.replace(".base_layer.", ".");
    let of = of.replace(".modules_to_save.", ".");
    (!of.contains("lora_")).then_some(Part::Whole { of })
}

/// Returns the base's tensor with the two matrices of a LoRA added, or the matrix at fault and the
/// reason.
fn merged<'a>(
    base: &SourceTensor,
    pair: &'a Pair,
    config: &Config,
    is_turned: bool,
) -> Result<SourceTensor, (&'a SourceTensor, String)> {
    let lonely = |tensor, one, other| {
        let problem = format!("is matrix {one} of a LoRA whose matrix {other} is missing");
        Err((tensor, problem))
    };
    let (a, b) = match (&pair.a, &pair.b) {
        (Some(a), Some(b)) => (a, b),
        (Some(a), None) => return lonely(a, "A", "B"),
        (None, Some(b)) => return lonely(b, "B", "A"),
        (None, None) => return Ok(base.clone()),
    };
    let [rows, columns] = base.shape[..] else {
        return Err((
            a,
            "changes a tensor of the base that is not a matrix".into(),
        ));
    };
    if !FLOATS.contains(&base.dtype) {
        return Err((a, format!("changes a tensor of type {:?}", base.dtype)));
    }
    let is_turned = is_turned || pair.is_embedding;
    let (outputs, inputs) = match is_turned {
        true => (columns, rows),
        false => (rows, columns),
    };
    let rank = config.rank(&pair.module);
    if rank == 0 || rank > outputs.min(inputs) {
        let problem = format!("has rank {rank} in a matrix of {outputs} × {inputs}");
        return Err((a, problem));
    }
    for (tensor, needed) in [(a, [rank, inputs]), (b, [outputs, rank])] {
        if tensor.shape != needed {
            let found = &tensor.shape;
            let why = format!("rank {rank} and the base's {outputs} × {inputs} need {needed:?}");
            return Err((tensor, format!("has shape {found:?} where {why}")));
        }
    }
    let merged = Merged {
        scale: config.scale(&pair.module),
        base: base.clone(),
        a: a.clone(),
        b: b.clone(),
        is_turned,
    };
    Ok(SourceTensor {
        dtype: Dtype::F32,
        bytes: rows * columns * 4,
        packed: Some(Arc::new(Packed::Merged(Box::new(merged)))),
        ..base.clone()
    })
}
