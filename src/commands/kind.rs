//! What a GGUF file is when it is no model, and what to do about a file that does not run.

use std::path::Path;

use anyhow::anyhow;

use super::again::{Again, quote};
use crate::base::human;
use crate::convert::arch;
use crate::convert::checkpoint::Checkpoint;
use crate::gguf::{self, Gguf, Problem};
use crate::hint::hinted;
use crate::hub::locate;

/// What a GGUF file holds, where that is no whole model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Low-rank changes to a model's weights.
    Adapter,
    /// The part of a model that turns pictures or sound into vectors for its text part.
    Projector,
    /// How much the columns of a model's matrices matter.
    Imatrix,
    /// Directions to add to the residual stream.
    ControlVector,
    /// A tokenizer without weights.
    Vocabulary,
}

impl Kind {
    /// What `gguf` is; `None` for a model. Goes by `general.type`, else by what writers of older
    /// files set instead of it.
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

    /// A word for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adapter => "adapter",
            Self::Projector => "mmproj",
            Self::Imatrix => "imatrix",
            Self::ControlVector => "controlvector",
            Self::Vocabulary => "vocabulary",
        }
    }

    /// `an adapter (LoRA)`.
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

/// `error` about the file at `path`; if it holds something else than a model, that instead.
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

/// What to do about a GGUF file that cannot be read.
pub fn unread(error: &gguf::Error) -> Option<&'static str> {
    match error.problem {
        Problem::Io(_) => None,
        Problem::Magic(_) => Some(locate::KINDS),
        _ => Some(DAMAGED),
    }
}

/// What to do about a file that cannot be a whole one.
const DAMAGED: &str =
    "the file is damaged, or was cut off: fetch, copy or convert it again from where it came";

/// What to do about a file that can be read and that llama.cpp does not run.
pub fn does_not_run(path: &Path) -> String {
    let file = quote(&path.to_string_lossy());
    format!(
        "the file is damaged, or no text model that llama.cpp runs; what is in it: modelve meta {file}"
    )
}

/// What to do with a checkpoint where a GGUF is wanted: convert it, if that is possible.
/// `flags` are put after the command.
pub fn checkpoint_hint(folder: &Path, flags: &str) -> String {
    let place = quote(&folder.to_string_lossy());
    let described = Checkpoint::open_description(folder)
        .map_err(anyhow::Error::from)
        .and_then(|checkpoint| Ok(arch::describe(checkpoint.config())?));
    match described {
        Ok(_) => format!("make a GGUF of it: modelve convert {place}{flags}"),
        Err(error) => format!(
            "it cannot be converted: {error}; a GGUF of it from elsewhere runs, and so does the \
             model that comes along: {}",
            Again::typed().on_model("tiny")
        ),
    }
}
