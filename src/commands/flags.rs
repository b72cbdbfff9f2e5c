//! Flags that several commands share, so that their names and meanings are the same everywhere.

use crate::hint::UsageError;

/// The model of a command whose subject is a model: the first argument, or `-m`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Subject {
    /// A .gguf file, a checkpoint folder, a Hub id such as org/name:Q4_K_M, or `tiny`
    /// [default: $MODELVE_MODEL, else Phi-3-mini-128k-instruct]
    #[arg(value_name = "MODEL")]
    positional: Option<String>,

    /// The same MODEL as a flag, like in the commands whose arguments are texts
    #[arg(
        short,
        long,
        value_name = "MODEL",
        conflicts_with = "positional",
        hide_short_help = true
    )]
    model: Option<String>,
}

impl Subject {
    /// The model that was named, if any.
    pub fn name(&self) -> Option<&str> {
        self.positional.as_deref().or(self.model.as_deref())
    }
}

/// The flag `-m` of the commands whose subject is text or tokens.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ModelFlag {
    /// A .gguf file, a Hub id such as org/name:Q4_K_M, or `tiny`
    /// [default: $MODELVE_MODEL, else Phi-3-mini-128k-instruct]
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<String>,
}

impl ModelFlag {
    /// Returns whether the command line names a model.
    pub fn is_given(&self) -> bool {
        self.model.is_some()
    }
}

/// The flag `--layers` of the commands that work layer by layer.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Layers {
    /// Layers from 0, such as 0-5,9 or -1 for the last [default: all]
    #[arg(
        short,
        long,
        visible_alias = "layer",
        value_name = "LIST",
        allow_hyphen_values = true
    )]
    pub layers: Option<String>,
}

impl Layers {
    /// The layers that were named, for a model of `n_layer` layers; `None` if none were named.
    ///
    /// # Errors
    /// The value is not a list, or names a layer that the model does not have.
    pub fn of(&self, n_layer: usize) -> anyhow::Result<Option<Vec<usize>>> {
        let list = self.layers.as_deref();
        list.map(|list| numbers(list, n_layer, "layer")).transpose()
    }
}

/// Parses a list of numbers below `len`, such as `3`, `0-5,9`, or `-1` for the last.
pub fn numbers(text: &str, len: usize, what: &str) -> anyhow::Result<Vec<usize>> {
    let wrong = || {
        UsageError(format!(
            "{text:?} is not a list of {what}s, such as 0-5,9 or -1"
        ))
    };
    let mut list = Vec::new();
    for item in text.split(',').map(str::trim) {
        if let Some(back) = item.strip_prefix('-') {
            let back: usize = back.parse().map_err(|_| wrong())?;
            let Some(at) = len.checked_sub(back).filter(|&at| at < len) else {
                return Err(UsageError(format!("{what} {item} of {len}")).into());
            };
            list.push(at);
            continue;
        }
        let (from, to) = item.split_once('-').unwrap_or((item, item));
        let from: usize = from.trim().parse().map_err(|_| wrong())?;
        let to: usize = to.trim().parse().map_err(|_| wrong())?;
        if from > to {
            return Err(wrong().into());
        }
        if to >= len {
            let last = len.saturating_sub(1);
            return Err(UsageError(format!("{what} {to} of {len}, which are 0 to {last}")).into());
        }
        list.extend(from..=to);
    }
    Ok(list)
}

/// Parses the value of `-t`, `--threads`.
///
/// # Errors
/// The value is not a number from 1 to 512. For a shape such as 3x4 the error proposes `--tree`.
pub fn threads(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(n @ 1..=512) => Ok(n),
        _ if text.split_once('x').is_some() => {
            Err(format!("a number of threads; for a tree: --tree {text}"))
        }
        _ => Err("a number of threads from 1 to 512".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers() {
        assert_eq!(numbers("0-2, 5,-1", 8, "layer").unwrap(), [0, 1, 2, 5, 7]);
        for bad in ["", "a", "3-1", "8", "0-8", "-9", "-0", "1-", "--1"] {
            assert!(numbers(bad, 8, "layer").is_err(), "{bad}");
        }
        let error = numbers("99", 32, "layer").unwrap_err();
        assert_eq!(error.to_string(), "layer 99 of 32, which are 0 to 31");
    }

    #[test]
    fn threads_are_a_number() {
        assert_eq!(threads("8"), Ok(8));
        assert!(threads("3x4").unwrap_err().contains("--tree 3x4"));
        for bad in ["0", "513", "-1", "a"] {
            assert!(threads(bad).is_err(), "{bad}");
        }
    }
}
