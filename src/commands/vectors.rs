//! Control vectors on the command line: any number of `FILE` or `FILE:SCALE`, which are added.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use super::engine::explain;
use crate::hint::hinted;
use crate::runtime::ControlVector;

/// A file and its scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// The file.
    pub file: PathBuf,
    /// The factor for its directions.
    pub scale: f32,
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The part after the last colon is a scale only if it is a number.
        let scaled = text.rsplit_once(':').and_then(|(file, scale)| {
            let scale = scale.parse().ok().filter(|x: &f32| x.is_finite())?;
            Some((file, scale))
        });
        let (file, scale) = scaled.unwrap_or((text, 1.0));
        match file.is_empty() {
            true => Err("a file, or a file, `:` and a scale: calm.gguf:0.5".to_owned()),
            false => Ok(Share {
                file: file.into(),
                scale,
            }),
        }
    }
}

/// The sum of control vectors; `None` if there are none.
///
/// # Errors
/// A file is not a control vector, or the vectors have different widths.
pub fn sum(shares: &[Share]) -> anyhow::Result<Option<ControlVector>> {
    let mut sum: Option<ControlVector> = None;
    for share in shares {
        let read = ControlVector::read(&share.file);
        let vector = read.and_then(|vector| vector.scaled(share.scale));
        let vector = vector.map_err(|error| unread(explain(error)))?;
        sum = Some(match sum {
            Some(sum) => sum.plus(vector).map_err(explain)?,
            None => vector,
        });
    }
    Ok(sum)
}

/// Attaches a hint to an error of reading a control vector: what it is and how to make one.
fn unread(error: anyhow::Error) -> anyhow::Error {
    hinted(
        error,
        "a control vector is FILE.gguf or FILE.gguf:SCALE, a number; to make one: \
         modelve steer learn --plus 'I love it' --minus 'I hate it' -o love.gguf",
    )
}

/// Returns the [`sum`] in the form for a session's settings.
///
/// # Errors
/// See [`sum`].
pub fn control(shares: &[Share]) -> anyhow::Result<Option<Arc<ControlVector>>> {
    Ok(sum(shares)?.map(Arc::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_stands_behind_the_last_colon() {
        let parse = |text: &str| {
            let share: Share = text.parse().unwrap();
            (share.file.to_str().unwrap().to_owned(), share.scale)
        };
        assert_eq!(parse("v.gguf"), ("v.gguf".to_owned(), 1.0));
        assert_eq!(parse("v.gguf:-0.5"), ("v.gguf".to_owned(), -0.5));
        assert_eq!(parse("a:b.gguf:2"), ("a:b.gguf".to_owned(), 2.0));
        assert_eq!(parse(r"C:\v.gguf"), (r"C:\v.gguf".to_owned(), 1.0));
        assert_eq!(parse("v.gguf:nan"), ("v.gguf:nan".to_owned(), 1.0));
        for bad in ["", ":1"] {
            assert!(bad.parse::<Share>().is_err(), "{bad:?}");
        }
    }
}
