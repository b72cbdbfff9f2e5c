//! Control vectors: directions that are added to the residual stream while a model computes.
//!
//! A direction belongs to a layer and is added to the state after it, at every position. The file
//! format is llama.cpp's: a GGUF of the architecture `controlvector` with an F32 tensor
//! `direction.N` for each layer N, counted from 0. Layer 0 cannot have one, because llama.cpp adds
//! none there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::check::Facts;
use super::error::{Error, Result};
use super::kv::MAX_LAYERS;
use super::trace::RawNode;
use modelve_gguf::{GgmlType, Gguf, Layout, Value};

/// The value of `general.architecture` in a control vector's file.
pub const ARCHITECTURE: &str = "controlvector";
/// The prefix of the names of directions' tensors.
const DIRECTION: &str = "direction.";
/// Maximum width of the residual stream, in values.
const MAX_WIDTH: u64 = 1 << 17;

/// A control vector: directions by layer.
#[derive(Clone, PartialEq)]
pub struct ControlVector {
    width: usize,
    directions: BTreeMap<usize, Vec<f32>>,
}

impl fmt::Debug for ControlVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlVector")
            .field("width", &self.width)
            .field("layers", &self.directions.keys())
            .finish_non_exhaustive()
    }
}

impl ControlVector {
    /// Makes a control vector of `directions` by layer, each of `width` values.
    ///
    /// # Errors
    /// [`Error::ControlVector`] if there is no direction at all, one for layer 0, one of another
    /// width, or a value that is not finite.
    pub fn new(width: usize, directions: BTreeMap<usize, Vec<f32>>) -> Result<Self> {
        let wrong = |what: String| Err(Error::ControlVector { what });
        if directions.is_empty() {
            return wrong("has no direction".to_owned());
        }
        for (&layer, direction) in &directions {
            if layer == 0 {
                return wrong(
                    "has a direction for layer 0; the first that can have one is 1".to_owned(),
                );
            }
            if direction.len() != width {
                let n = direction.len();
                return wrong(format!(
                    "has {n} values for layer {layer} and {width} for others"
                ));
            }
            if direction.iter().any(|x| !x.is_finite()) {
                return wrong(format!("has a value for layer {layer} that is not finite"));
            }
        }
        Ok(ControlVector { width, directions })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Gguf`]; [`Error::Invalid`] for a file that llama.cpp would not accept as a control
    /// vector, or whose values are not finite.
    pub fn read(path: &Path) -> Result<Self> {
        let gguf = Gguf::open(path)?;
        read(&gguf).map_err(|what| Error::Invalid {
            path: path.to_owned(),
            what,
        })
    }

    /// Serializes the vector to the bytes of a GGUF file. `model` is the architecture it was made
    /// for.
    ///
    /// # Errors
    /// [`Error::Gguf`].
    pub fn to_bytes(&self, model: &str) -> Result<Vec<u8>> {
        let layers = i32::try_from(self.directions.len()).unwrap_or(i32::MAX);
        let metadata = [
            (
                "general.architecture".to_owned(),
                Value::String(ARCHITECTURE.to_owned()),
            ),
            (
                format!("{ARCHITECTURE}.model_hint"),
                Value::String(model.to_owned()),
            ),
            (format!("{ARCHITECTURE}.layer_count"), Value::I32(layers)),
        ];
        let tensors: Vec<_> = self
            .directions
            .keys()
            .map(|layer| {
                let shape = vec![self.width as u64];
                (format!("{DIRECTION}{layer}"), shape, GgmlType::F32)
            })
            .collect();
        let layout = Layout::new(&metadata, &tensors)?;
        let mut bytes = layout.header().to_vec();
        for (tensor, direction) in layout.tensors().iter().zip(self.directions.values()) {
            bytes.resize(usize::try_from(tensor.offset).unwrap_or(usize::MAX), 0);
            bytes.extend(direction.iter().flat_map(|x| x.to_le_bytes()));
        }
        bytes.resize(usize::try_from(layout.file_size()).unwrap_or(usize::MAX), 0);
        Ok(bytes)
    }

    /// The number of values of a direction: the width of the residual stream.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The directions by layer.
    pub fn directions(&self) -> impl ExactSizeIterator<Item = (usize, &[f32])> {
        let directions = self.directions.iter();
        directions.map(|(&layer, direction)| (layer, direction.as_slice()))
    }

    /// Multiplies all directions by `scale`.
    ///
    /// # Errors
    /// [`Error::ControlVector`] if a product is not finite.
    pub fn scaled(mut self, scale: f32) -> Result<Self> {
        let values = self.directions.values_mut().flatten();
        values.for_each(|x| *x *= scale);
        ControlVector::new(self.width, self.directions)
    }

    /// Adds two vectors. Where only one has a direction for a layer, the sum has that direction.
    ///
    /// # Errors
    /// [`Error::ControlVector`] if their widths differ.
    pub fn plus(mut self, other: ControlVector) -> Result<Self> {
        if other.width != self.width {
            return Err(Error::ControlVector {
                what: format!(
                    "has {} values and the one to be added to it {}",
                    self.width, other.width
                ),
            });
        }
        for (layer, direction) in other.directions {
            match self.directions.get_mut(&layer) {
                Some(sum) => sum.iter_mut().zip(direction).for_each(|(a, b)| *a += b),
                None => drop(self.directions.insert(layer, direction)),
            }
        }
        ControlVector::new(self.width, self.directions)
    }

    /// Keeps only the directions of these layers.
    ///
    /// # Errors
    /// [`Error::ControlVector`] if one of them has no direction.
    pub fn only(mut self, layers: &[usize]) -> Result<Self> {
        if let Some(layer) = layers
            .iter()
            .find(|layer| !self.directions.contains_key(layer))
        {
            let what = format!("has no direction for layer {layer}");
            return Err(Error::ControlVector { what });
        }
        self.directions.retain(|layer, _| layers.contains(layer));
        ControlVector::new(self.width, self.directions)
    }

    /// The SHA-256 of its layers and values, which identifies it.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (layer, direction) in self.directions() {
            hash.update((layer as u64).to_le_bytes());
            hash.update((direction.len() as u64).to_le_bytes());
            direction.iter().for_each(|x| hash.update(x.to_le_bytes()));
        }
        hash.finalize().into()
    }

    /// Checks that the vector fits a model.
    pub(super) fn check(&self, facts: &Facts) -> Result<()> {
        let (n_embd, n_layer) = (facts.n_embd as usize, facts.n_layer as usize);
        if self.width != n_embd {
            return Err(Error::ControlVector {
                what: format!(
                    "has directions of {} values, and the states of this model ({}) have {n_embd}",
                    self.width, facts.arch
                ),
            });
        }
        match self.directions.keys().next_back() {
            Some(&layer) if layer >= n_layer => Err(Error::ControlVector {
                what: format!(
                    "has a direction for layer {layer}, and the last of this model ({}) is {}",
                    facts.arch,
                    n_layer - 1
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The vector in llama.cpp's format: the directions of all layers from 1 to the last that has
    /// one, concatenated, with zeros for layers without one; and the first and last layer that have
    /// one.
    pub(super) fn flat(&self) -> (Vec<f32>, usize, usize) {
        let mut layers = self.directions.keys().copied();
        let first = layers.next().unwrap_or(1);
        let last = layers.next_back().unwrap_or(first);
        let mut data = vec![0.0; last * self.width];
        for (layer, direction) in self.directions() {
            data[(layer - 1) * self.width..][..self.width].copy_from_slice(direction);
        }
        (data, first, last)
    }
}

/// Reads the directions from a file; the error says what is wrong with it.
fn read(gguf: &Gguf) -> Result<ControlVector, String> {
    if let Some(arch) = gguf.get("general.architecture").and_then(|a| a.as_str())
        && arch != ARCHITECTURE
    {
        return Err(format!(
            "is not a control vector: its architecture is {arch:?}"
        ));
    }
    let mut vector: Option<ControlVector> = None;
    for tensor in gguf.tensors() {
        let name = &tensor.name;
        let layer = name.strip_prefix(DIRECTION);
        let layer = layer.and_then(|layer| layer.parse::<u64>().ok());
        let Some(layer) = layer.filter(|&layer| layer < MAX_LAYERS) else {
            return Err(format!("has the tensor {name:?}, not {DIRECTION}N alone"));
        };
        let width = tensor.n_elements();
        if tensor.ty != GgmlType::F32 || tensor.shape.first() != Some(&width) {
            return Err(format!(
                "has {name} as {} of shape {:?}, not as a row of F32",
                tensor.ty, tensor.shape
            ));
        }
        if width == 0 || width > MAX_WIDTH {
            return Err(format!("has {name} of {width} values"));
        }
        let values = gguf.data(tensor).chunks_exact(4);
        let values: Vec<f32> = values
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let layer = usize::try_from(layer).unwrap_or(usize::MAX);
        let told = |error: Error| match error {
            Error::ControlVector { what } => what,
            error => error.to_string(),
        };
        let one = ControlVector::new(width as usize, BTreeMap::from([(layer, values)]));
        let one = one.map_err(told)?;
        vector = Some(match vector {
            Some(vector) => vector.plus(one).map_err(told)?,
            None => one,
        });
    }
    vector.ok_or_else(|| format!("has no tensor {DIRECTION}N"))
}

/// The layers after which a graph adds a direction. llama.cpp's graphs give the state its name
/// after control vectors are added, so that this sum is the named state itself.
pub(super) fn layers_added(graph: &[RawNode], n_embd: usize) -> BTreeSet<usize> {
    let layer = |node: &RawNode| {
        let layer = node.name.strip_prefix("l_out-")?.parse().ok()?;
        let with = node.inputs.get(1).filter(|_| node.op == "ADD")?;
        // Weights have names with these endings; a direction is an unnamed row.
        let weight = with.name.ends_with(".weight") || with.name.ends_with(".bias");
        (with.leaf && !weight && with.shape == [n_embd, 1, 1, 1]).then_some(layer)
    };
    graph.iter().filter_map(layer).collect()
}

#[cfg(test)]
mod tests {
    use super::super::trace::RawInput;
    use super::*;

    fn vector(layers: &[(usize, [f32; 2])]) -> ControlVector {
        let directions = layers.iter().map(|(layer, row)| (*layer, row.to_vec()));
        ControlVector::new(2, directions.collect()).unwrap()
    }

    #[test]
    fn vectors_add_up_and_are_scaled() {
        let sum = vector(&[(1, [1.0, 2.0]), (3, [1.0, 1.0])])
            .scaled(2.0)
            .unwrap()
            .plus(vector(&[(2, [5.0, 5.0]), (3, [-1.0, 0.0])]))
            .unwrap();
        let expected = vector(&[(1, [2.0, 4.0]), (2, [5.0, 5.0]), (3, [1.0, 2.0])]);
        assert_eq!(sum, expected);
        assert_ne!(sum.digest(), vector(&[(1, [2.0, 4.0])]).digest());
        let (data, first, last) = vector(&[(2, [5.0, 6.0])]).flat();
        assert_eq!((data, first, last), (vec![0.0, 0.0, 5.0, 6.0], 2, 2));
        assert_eq!(sum.clone().only(&[2]).unwrap(), vector(&[(2, [5.0, 5.0])]));
        assert!(sum.clone().only(&[4]).is_err());
        assert!(sum.scaled(f32::MAX).is_err());
        let wide = ControlVector::new(3, BTreeMap::from([(1, vec![0.0; 3])])).unwrap();
        assert!(wide.plus(vector(&[(1, [0.0, 0.0])])).is_err());
    }

    #[test]
    fn what_is_no_vector_is_refused() {
        assert!(ControlVector::new(2, BTreeMap::new()).is_err());
        for (layer, row) in [
            (0, vec![0.0; 2]),
            (1, vec![0.0; 3]),
            (1, vec![f32::NAN, 0.0]),
        ] {
            assert!(ControlVector::new(2, BTreeMap::from([(layer, row)])).is_err());
        }
        let facts = |n_embd, n_layer| Facts {
            n_embd,
            n_layer,
            ..Facts::default()
        };
        let vector = vector(&[(3, [1.0, 1.0])]);
        assert!(vector.check(&facts(2, 4)).is_ok());
        assert!(vector.check(&facts(2, 3)).is_err());
        assert!(vector.check(&facts(4, 4)).is_err());
    }

    #[test]
    fn a_graph_tells_where_it_adds() {
        let node = |name: &str, op: &str, with: &str, leaf, shape| RawNode {
            id: 1,
            name: name.to_owned(),
            op: op.to_owned(),
            op_params: [0; 4],
            shape: [2, 5, 1, 1],
            ty: GgmlType::F32,
            inputs: [("before", false, [2, 5, 1, 1]), (with, leaf, shape)]
                .map(|(name, leaf, shape)| RawInput {
                    id: 0,
                    name: name.to_owned(),
                    leaf,
                    shape,
                })
                .to_vec(),
        };
        let (row, state) = ([2, 1, 1, 1], [2, 5, 1, 1]);
        let graph = [
            node("l_out-0", "ADD", "ffn_out-0", false, state),
            node("l_out-1", "ADD", "leaf_7", true, row),
            // A bias at the end of a layer is not a direction.
            node("l_out-2", "ADD", "blk.2.ffn_down.bias", true, row),
            node("ffn_out-3", "ADD", "leaf_9", true, row),
        ];
        assert_eq!(layers_added(&graph, 2), BTreeSet::from([1]));
    }
}
