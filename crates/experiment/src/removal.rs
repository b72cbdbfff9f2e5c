//! Removal of parts of a model: which values of which nodes are replaced, and by what.

use std::sync::Arc;

use serde::Serialize;

use super::edit::{At, Edit, Keep, Slice, States, To};
use super::error::{Error, Result};
use super::heads::{check, n_head};
use super::part::{Part, Spot};
use modelve_runtime::Model;
use modelve_runtime::graph::{Role, Roles};

/// The values that replace a part's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum With {
    /// Zeros.
    #[default]
    Zero,
    /// The mean of its output over the prompt.
    Mean,
}

/// Returns the nodes that hold a part's output, and the values of their rows that belong to it.
fn nodes(model: &Model, part: Part) -> Result<Vec<(Role, Slice)>> {
    check(model, part)?;
    Ok(match part {
        Part::Embed => vec![(Role::Embedding, Slice::Whole)],
        Part::Head { layer, head } => {
            let of = n_head(model, layer);
            vec![(Role::HeadOutput(layer), Slice::Share { index: head, of })]
        }
        Part::Attention(layer) => vec![(Role::Attention(layer), Slice::Whole)],
        Part::Mlp(layer) => vec![(Role::Mlp(layer), Slice::Whole)],
        Part::Layer(layer) => vec![
            (Role::Attention(layer), Slice::Whole),
            (Role::Mlp(layer), Slice::Whole),
        ],
        Part::Bias(_) | Part::FinalBias => {
            return Err(Error::NotRemovable {
                part: part.to_string(),
            });
        }
    })
}

/// Checks that a part can be removed from a model whose graph has these roles.
///
/// # Errors
/// [`Error::NoPart`], [`Error::NotRemovable`], or the runtime's error that names the node missing
/// from the graph.
pub fn check_removable(model: &Model, roles: &Roles, part: Part) -> Result<()> {
    for (role, _) in nodes(model, part)? {
        roles.require(role)?;
    }
    Ok(())
}

/// Returns the values that have to be read from the prompt before parts are removed.
///
/// # Errors
/// See [`check_removable`].
pub fn needs(model: &Model, parts: &[Part], with: With) -> Result<Vec<(Role, Keep)>> {
    let mut needed = Vec::new();
    if with == With::Mean {
        for &part in parts {
            let nodes = nodes(model, part)?.into_iter();
            needed.extend(nodes.map(|(role, _)| (role, Keep::Mean)));
        }
    }
    Ok(needed)
}

/// Returns the edits that remove parts for a prompt of `len` tokens. `states` holds the values of
/// [`needs`].
///
/// # Errors
/// See [`check_removable`]; [`Error::NoPosition`].
pub fn edits(
    model: &Model,
    spots: &[Spot],
    len: usize,
    with: With,
    states: &States,
) -> Result<Vec<Edit>> {
    let mut edits = Vec::new();
    for spot in spots {
        let at = match spot.position {
            None => At::All,
            Some(position) => At::One(place(position, len)?),
        };
        for (role, slice) in nodes(model, spot.part)? {
            let to = match with {
                With::Zero => To::Zero,
                With::Mean => To::Vector(states.mean(role).unwrap_or_else(|| Arc::new([]))),
            };
            edits.push(Edit {
                role,
                at,
                slice,
                to,
            });
        }
    }
    Ok(edits)
}

/// Converts a position that may count from the end to one from 0.
///
/// # Errors
/// [`Error::NoPosition`].
pub fn place(position: i32, len: usize) -> Result<usize> {
    let at = match usize::try_from(position) {
        Ok(at) => Some(at),
        Err(_) => len.checked_sub(position.unsigned_abs() as usize),
    };
    at.filter(|&at| at < len)
        .ok_or(Error::NoPosition { position, len })
}

/// A kind of part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every head.
    Heads,
    /// Every layer's attention.
    Attention,
    /// Every layer's MLP.
    Mlps,
    /// Every layer.
    Layers,
}

/// Returns all parts of a kind that a model has, in the model's order.
pub fn all(model: &Model, roles: &Roles, kind: Kind) -> Vec<Part> {
    let n_layer = model.facts().n_layer as usize;
    let parts = (0..n_layer).flat_map(|layer| -> Vec<Part> {
        match kind {
            Kind::Heads => {
                let heads = 0..n_head(model, layer);
                heads.map(|head| Part::Head { layer, head }).collect()
            }
            Kind::Attention => vec![Part::Attention(layer)],
            Kind::Mlps => vec![Part::Mlp(layer)],
            Kind::Layers => vec![Part::Layer(layer)],
        }
    });
    parts
        .filter(|&part| check_removable(model, roles, part).is_ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_counted_from_either_end() {
        assert_eq!(place(0, 3).unwrap(), 0);
        assert_eq!(place(-1, 3).unwrap(), 2);
        assert_eq!(place(-3, 3).unwrap(), 0);
        for wrong in [3, -4, i32::MIN, i32::MAX] {
            assert!(place(wrong, 3).is_err(), "{wrong}");
        }
    }
}
