//! A file on its way to its name: written beside it, pushed to the disk, renamed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::error::Error;
use super::identity::{Identity, folder_of};

/// A file that does not have its name yet. Dropped, it is removed.
#[derive(Debug)]
pub struct Pending {
    temporary: NamedTempFile,
    target: PathBuf,
    there: Option<Identity>,
    asked: PathBuf,
}

impl Pending {
    /// Creates the temporary file for `target`. `there` is what stood at `target` when it was judged,
    /// `asked` the path as the user gave it.
    pub(super) fn create(
        target: &Path,
        there: Option<Identity>,
        asked: &Path,
    ) -> Result<Self, Error> {
        remove_abandoned(target);
        let temporary = temporary_file(target).map_err(|source| Error::Io {
            path: asked.to_owned(),
            source,
        })?;
        Ok(Pending {
            temporary,
            target: target.to_owned(),
            there,
            asked: asked.to_owned(),
        })
    }

    /// The file.
    pub fn file(&self) -> &File {
        self.temporary.as_file()
    }

    /// The path that the file has for now.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Pushes the file to the disk and gives it its name.
    ///
    /// # Errors
    /// [`Error::Changed`] or [`Error::Exists`] if something else has the name by now.
    pub fn commit(self) -> Result<(), Error> {
        let Pending {
            temporary,
            target,
            there,
            asked,
        } = self;
        let path = asked.clone();
        let io = move |source: io::Error| Error::Io {
            path: path.clone(),
            source,
        };
        let now = fs::symlink_metadata(&target).ok();
        let is = now.as_ref().map(|metadata| Identity::of(&target, metadata));
        let changed = match (&there, &is) {
            (None, None) => false,
            (None, Some(_)) => return Err(Error::Exists { path: asked }),
            (there, is) => there != is,
        };
        if changed {
            return Err(Error::Changed { path: asked });
        }
        if let Some(metadata) = now {
            // Who may read the file is the user's choice, and survives it.
            temporary
                .as_file()
                .set_permissions(metadata.permissions())
                .map_err(&io)?;
        }
        temporary.as_file().sync_all().map_err(&io)?;
        let persisted = match there {
            Some(_) => temporary.persist(&target),
            None => temporary.persist_noclobber(&target),
        };
        match persisted {
            Ok(_) => {}
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::Exists { path: asked });
            }
            Err(error) => return Err(io(error.error)),
        }
        sync_folder(folder_of(&target)).map_err(&io)
    }
}

/// The prefix and suffix of the temporary names for `target`.
fn temporary_name(target: &Path) -> (String, &'static str) {
    // Names have up to 255 bytes in most file systems, and more is added to this one.
    const MOST_CHARS: usize = 50;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().take(MOST_CHARS).collect();
    (format!(".{name}."), ".part")
}

fn temporary_file(target: &Path) -> io::Result<NamedTempFile> {
    let (prefix, suffix) = temporary_name(target);
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(suffix);
    // The final file is for others to read too, as far as the umask allows.
    #[cfg(unix)]
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(permissions);
    let temporary = builder.tempfile_in(folder_of(target))?;
    // Held as long as this process lives: a locked file is no abandoned one.
    let _ = temporary.as_file().try_lock();
    Ok(temporary)
}

/// Removes what earlier runs for the same output left when they were killed.
fn remove_abandoned(target: &Path) {
    let (prefix, suffix) = temporary_name(target);
    let entries = fs::read_dir(folder_of(target)).into_iter().flatten();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && name.starts_with(&prefix) && name.ends_with(suffix) {
            let unused = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
            if unused {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Makes a rename in `folder` last through a loss of power.
fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    return File::open(folder)?.sync_all();
    #[cfg(not(unix))]
    {
        let _ = folder;
        Ok(())
    }
}
