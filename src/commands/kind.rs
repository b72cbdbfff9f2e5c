//! Recognizes GGUF files that are not models, and gives hints for files that do not run.

use std::path::Path;

use anyhow::anyhow;

use super::command_line::{CommandLine, quote};
use crate::base::human;
use crate::convert::arch;
use crate::convert::checkpoint::Checkpoint;
use crate::gguf::{self, Gguf, Problem};
use crate::hint::hinted;
use crate::hub::locate;

/// The contents of a GGUF file that is not a whole model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Low-rank changes to a model's weights.
    Adapter,
    /// The part of a model that converts images or sound to embeddings for its text part.
    Projector,
    /// An importance matrix: the importance of the columns of a model's matrices.
    Imatrix,
    /// A control vector: directions to add to the residual stream.
    ControlVector,
    /// A tokenizer without weights.
    Vocabulary,
}

impl Kind {
    /// The kind of a file; `None` for a model. It is recognized by `general.type`, or by what
    /// writers of older files set instead.
    pub fn of(gguf: &Gguf) -> Option<Self> {
        let text = |key: &str| gguf.get(key).and_then(|value| value.as_str());
        let stated = text("general.type").unwrap_or_default();
        let architecture = text("general.architecture").unwrap_or_default();
        match (&*stated, &*architecture) {
            ("adapter", _) => Some(Self::Adapter),
            ("mmproj", _) | (_, "clip") => Some(Self::Projector),
            ("imatrix", _) | (_, "imatrix") => Some(Self::Imatrix),
            (_, "controlvector") => Some(Self::ControlVector),
            _ if gguf.tensors().is_empty() && gguf.get("tokenizer.ggml.model").is_some() => {
                Some(Self::Vocabulary)
            }
            _ => None,
        }
    }

    /// A name for JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adapter => "adapter",
            Self::Projector => "mmproj",
            Self::Imatrix => "imatrix",
            Self::ControlVector => "controlvector",
            Self::Vocabulary => "vocabulary",
        }
    }

    /// A name for messages, such as `an adapter (LoRA)`.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Adapter => "an adapter (LoRA)",
            Self::Projector => "a projector for pictures or sound (mmproj)",
            Self::Imatrix => "an importance matrix",
            Self::ControlVector => "a control vector",
            Self::Vocabulary => "a vocabulary without weights",
        }
    }

    fn hint(self, path: &Path) -> String {
        let file = quote(&path.to_string_lossy());
        let meta = format!("modelve meta {file}");
        match self {
            Self::Adapter => format!("modelve does not apply adapters; what is in it: {meta}"),
            Self::Projector => format!("modelve runs the text part alone; what is in it: {meta}"),
            Self::Imatrix => {
                format!("`convert` weighs columns by it with --imatrix; what is in it: {meta}")
            }
            Self::ControlVector => {
                format!(
                    "`complete` and `steer run` add it to a model (--control-vector, --vector); \
                     what is in it: {meta}"
                )
            }
            Self::Vocabulary => format!("to look into it: modelve vocab -m {file}"),
        }
    }
}

/// The error about the file at `path`: if it is not a model, one that says what it is, else
/// `error`.
pub fn instead_of(error: anyhow::Error, path: &Path) -> anyhow::Error {
    let Some(kind) = Gguf::open(path).ok().and_then(|gguf| Kind::of(&gguf)) else {
        return error;
    };
    let name = human::escape(path.display().to_string().as_bytes());
    hinted(
        anyhow!("{name} is {}, not a model", kind.in_words()),
        kind.hint(path),
    )
}

/// The hint for a GGUF file that cannot be read.
pub fn unread(error: &gguf::Error) -> Option<&'static str> {
    match error.problem {
        Problem::Io(_) => None,
        Problem::Magic(_) => Some(locate::KINDS),
        _ => Some(DAMAGED),
    }
}

/// The hint for a damaged or incomplete file.
const DAMAGED: &str = "the file is damaged, or was cut off: fetch, copy or convert it again";

/// The hint for a file that can be read but that llama.cpp does not run.
pub fn does_not_run(path: &Path) -> String {
    let file = quote(&path.to_string_lossy());
    format!(
        "the file is damaged, or not a text model that llama.cpp runs; what is in it: modelve meta {file}"
    )
}

/// The hint for a checkpoint where a GGUF is needed: a command that converts it, with `flags`, if
/// that is possible.
pub fn checkpoint_hint(folder: &Path, flags: &str) -> String {
    let place = quote(&folder.to_string_lossy());
    let described = Checkpoint::open_description(folder)
        .map_err(anyhow::Error::from)
        .and_then(|checkpoint| Ok(arch::describe(checkpoint.config())?));
    match described {
        Ok(_) => format!("convert it: modelve convert {place}{flags}"),
        Err(error) => format!(
            "it cannot be converted: {error}; a GGUF of it from elsewhere may run, and the built-in \
             model does: {}",
            CommandLine::typed().on_model("tiny")
        ),
    }
}
