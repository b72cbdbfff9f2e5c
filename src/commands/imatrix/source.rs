//! The model to measure: a GGUF file, or a checkpoint, of which one is made on the way.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::base::outfile::{Outfile, TemporaryFolder};
use crate::commands::command_line::quote;
use crate::commands::convert::plain;
use crate::commands::engine::EngineArgs;
use crate::commands::find;
use crate::commands::probing::work;
use crate::convert::checkpoint::Checkpoint;
use crate::gguf::Gguf;
use crate::hub::locate::Located;
use crate::progress;
use crate::runtime::{Cancel, Model, host};

/// The recipe of the file that is made of a checkpoint. What it rounds away is far below what another
/// text would change, and it takes half the room of 16 bits and runs faster.
const RECIPE: &str = "Q8_0";

/// What MODEL names.
pub(super) struct Source(Located);

impl Source {
    /// Finds the model on this machine.
    pub(super) fn find(model: Option<&str>) -> anyhow::Result<Self> {
        Ok(Self(find::locate(model)?))
    }

    /// The name of the output where none is given: that of the model's file or folder.
    pub(super) fn default_name(&self) -> String {
        let path = self.0.path();
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let name = match self.0 {
            Located::Gguf(_) => path.file_stem(),
            Located::Checkpoint(_) => path.file_name(),
        };
        let name = name.unwrap_or_default().to_string_lossy();
        format!("{name}.imatrix.gguf")
    }

    /// The files that are read, none of which is ever written.
    pub(super) fn inputs(&self) -> Vec<PathBuf> {
        match &self.0 {
            Located::Gguf(path) => match Gguf::open(path) {
                Ok(gguf) => gguf.paths().map(Path::to_owned).collect(),
                Err(_) => vec![path.clone()],
            },
            Located::Checkpoint(folder) => {
                let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
                files.map(|entry| entry.path()).collect()
            }
        }
    }

    /// Loads the model. Of a checkpoint a file is made beside the output, in a folder that goes away
    /// when what is returned with the model is dropped.
    pub(super) fn load(
        &self,
        engine: &EngineArgs,
        output: &Outfile,
        cancel: &Cancel,
    ) -> anyhow::Result<(Model, Option<TemporaryFolder>)> {
        match &self.0 {
            // The text is read once, which does not pay for a repacked copy of the weights.
            Located::Gguf(path) => Ok((engine.load_file(path, work(0), cancel)?, None)),
            Located::Checkpoint(folder) => {
                let beside = output.folder();
                let temporary = TemporaryFolder::create(beside)
                    .with_context(|| format!("cannot write in {}", beside.display()))?;
                let path = temporary.path().join("model.gguf");
                make(folder, &path, engine, cancel)?;
                Ok((engine.load_file(&path, work(0), cancel)?, Some(temporary)))
            }
        }
    }

    /// The command that uses the result.
    pub(super) fn next(&self, imatrix: &Path) -> String {
        let imatrix = quote(&imatrix.to_string_lossy());
        match &self.0 {
            Located::Checkpoint(folder) => {
                let folder = quote(&folder.to_string_lossy());
                format!("modelve convert {folder} --imatrix {imatrix}")
            }
            Located::Gguf(_) => format!("modelve meta {imatrix}"),
        }
    }
}

/// Converts a checkpoint.
fn make(folder: &Path, path: &Path, engine: &EngineArgs, cancel: &Cancel) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(folder)?;
    let threads = engine.threads.unwrap_or_else(host::threads) as usize;
    let progress = progress::stderr(false);
    let cancel = cancel.flag();
    plain::write(
        &checkpoint,
        RECIPE,
        path,
        threads,
        &cancel,
        progress.as_ref(),
    )
}
