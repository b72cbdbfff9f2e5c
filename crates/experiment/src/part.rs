//! Parts of a model, and their names.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::error::{Error, Result};

/// A part of a model that adds to the residual stream. Layers and heads are counted from 0. The
/// names are `embed`, `5.3`, `attn.5`, `mlp.5`, `layer.5`, `bias.5` and `bias.final`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The input of the first block: the embedding.
    Embed,
    /// One head of a layer's attention, with its columns of the output matrix.
    Head {
        /// The layer.
        layer: usize,
        /// The head within it.
        head: usize,
    },
    /// The whole attention block of a layer.
    Attention(usize),
    /// The MLP of a layer, or its experts.
    Mlp(usize),
    /// A whole layer: its attention and its MLP.
    Layer(usize),
    /// The bias of a layer's attention output matrix, which belongs to no head.
    Bias(usize),
    /// The biases of the final norm and the output matrix, which do not depend on the residual
    /// stream.
    FinalBias,
}

impl Part {
    /// Returns its layer, if it has one.
    pub fn layer(self) -> Option<usize> {
        match self {
            Part::Embed | Part::FinalBias => None,
            Part::Head { layer, .. }
            | Part::Attention(layer)
            | Part::Mlp(layer)
            | Part::Layer(layer)
            | Part::Bias(layer) => Some(layer),
        }
    }

    /// Returns its head, if it is one.
    pub fn head(self) -> Option<usize> {
        match self {
            Part::Head { head, .. } => Some(head),
            _ => None,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Embed => f.write_str("embed"),
            Part::Head { layer, head } => write!(f, "{layer}.{head}"),
            Part::Attention(layer) => write!(f, "attn.{layer}"),
            Part::Mlp(layer) => write!(f, "mlp.{layer}"),
            Part::Layer(layer) => write!(f, "layer.{layer}"),
            Part::Bias(layer) => write!(f, "bias.{layer}"),
            Part::FinalBias => f.write_str("bias.final"),
        }
    }
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<usize>().ok().filter(|_| digits)
        };
        let part = match text.split_once('.') {
            None => (text == "embed").then_some(Part::Embed),
            Some(("bias", "final")) => Some(Part::FinalBias),
            Some(("attn", layer)) => number(layer).map(Part::Attention),
            Some(("mlp", layer)) => number(layer).map(Part::Mlp),
            Some(("layer", layer)) => number(layer).map(Part::Layer),
            Some(("bias", layer)) => number(layer).map(Part::Bias),
            Some((layer, head)) => number(layer)
                .zip(number(head))
                .map(|(layer, head)| Part::Head { layer, head }),
        };
        part.ok_or_else(|| Error::NotAPart {
            text: text.to_owned(),
        })
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A part at one position or at all: `mlp.7` at all, `mlp.7@3`, `mlp.7@-1` at the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spot {
    /// The part.
    pub part: Part,
    /// The position, from 0; negative positions count from the end. `None` means all positions.
    pub position: Option<i32>,
}

impl Spot {
    /// Makes a part at every position.
    pub fn everywhere(part: Part) -> Self {
        Spot {
            part,
            position: None,
        }
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.part)?;
        match self.position {
            Some(position) => write!(f, "@{position}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Spot {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((part, position)) = text.split_once('@') else {
            return Ok(Spot::everywhere(text.parse()?));
        };
        let wrong = |_| Error::NotAPart {
            text: text.to_owned(),
        };
        Ok(Spot {
            part: part.parse()?,
            position: Some(position.parse().map_err(wrong)?),
        })
    }
}

impl Serialize for Spot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_written_as_they_are_read() {
        for text in [
            "embed",
            "5.3",
            "attn.5",
            "mlp.5",
            "layer.5",
            "bias.5",
            "bias.final",
            "5.3@7",
            "mlp.12@-1",
        ] {
            assert_eq!(text.parse::<Spot>().unwrap().to_string(), text);
        }
        assert_eq!(
            "0.11".parse::<Part>().unwrap(),
            Part::Head { layer: 0, head: 11 }
        );
    }

    #[test]
    fn other_texts_are_no_parts() {
        for text in [
            "",
            "5",
            "5.",
            ".3",
            "a.3",
            "5.b",
            "mlp",
            "mlp.",
            "mlp.x",
            "mlp.5.3",
            "-1.3",
            "+1.3",
            "embed.3",
            "bias.end",
            "5.3@",
            "5.3@x",
            "5.3@1@2",
            "99999999999999999999.1",
            "MLP.5",
        ] {
            assert!(text.parse::<Spot>().is_err(), "{text}");
        }
    }
}
