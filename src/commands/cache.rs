//! `--cache`: what is computed of long texts stays on disk, for a later process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::human;
use crate::hint::{UsageError, WithHint, hinted};
use crate::hub::store::Store;
use crate::runtime::StateStore;

/// The flags of a command that can keep the states of long texts.
#[derive(Debug, Clone, clap::Args)]
pub struct CacheArgs {
    /// Keep what is computed of long texts in a folder, by default one of the user's cache: a later
    /// text that starts like one of them continues from there
    #[arg(
        long,
        value_name = "FOLDER",
        num_args = 0..=1,
        help_heading = "Engine",
        hide_short_help = true
    )]
    cache: Option<Option<PathBuf>>,

    /// The most that this folder holds, in GiB; the least recently used texts are removed first
    #[arg(
        long,
        value_name = "GIB",
        help_heading = "Engine",
        hide_short_help = true,
        default_value_t = 8.0,
        value_parser = gibibytes
    )]
    cache_size: f64,
}

fn gibibytes(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|&n: &f64| n > 0.0 && n <= 1e6);
    number.ok_or_else(|| "a number of GiB, such as 8 or 0.5".to_owned())
}

impl CacheArgs {
    /// Opens the store, if one is wanted.
    ///
    /// # Errors
    /// A folder that is not named as one, or that cannot be created or written to.
    pub fn open(&self) -> anyhow::Result<Option<Arc<StateStore>>> {
        let folder = match &self.cache {
            None => return Ok(None),
            Some(Some(folder)) => named(folder)?,
            Some(None) => Store::from_env()
                .with_hint(|| "name a folder: --cache=/path/of/a/folder")?
                .root()
                .join("states"),
        };
        let bytes = (self.cache_size * f64::from(1 << 30)) as u64;
        let store = StateStore::open(&folder, bytes)
            .with_hint(|| "name a folder that can be written to: --cache=/path/of/a/folder")?;
        Ok(Some(Arc::new(store)))
    }
}

/// A folder that the command line names. As the name may be left out, whatever stands after the flag
/// is only taken as one if it exists, or is a path in a folder that does.
fn named(folder: &Path) -> anyhow::Result<PathBuf> {
    let parent = folder.parent().filter(|parent| *parent != Path::new(""));
    if folder.is_dir() || parent.is_some_and(Path::is_dir) {
        return Ok(folder.to_owned());
    }
    let name = human::escape(folder.display().to_string().as_bytes());
    let error = UsageError(format!("--cache: there is no folder {name}"));
    Err(hinted(
        error,
        "a new folder is named by a path, as in --cache=./states; without a name, write --cache last",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_not_taken_for_a_folder() {
        let home = tempfile::tempdir().unwrap();
        let inside = |name: &str| home.path().join(name);
        assert!(named(home.path()).is_ok());
        assert!(named(&inside("new")).is_ok());
        assert!(named(Path::new("./new")).is_ok());
        assert!(named(&inside("no/such")).is_err());
        for prompt in ["What is a bat?", "new", "and/or", ""] {
            assert!(named(Path::new(prompt)).is_err(), "{prompt}");
        }
    }
}
