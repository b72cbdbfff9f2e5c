//! Files that a command writes: nothing that belongs to the user is lost to one.
//!
//! [`Outfile::judge`] decides, before any work is done, what may happen under a name that the user
//! gave. [`Outfile::begin`] and [`Outfile::write`] then do it:
//!
//! - A regular file, or a name that nothing has, is written as a temporary file beside it, pushed to
//!   the disk and renamed. After an error nothing has changed. What stands there by then must be
//!   what stood there when it was judged.
//! - A symbolic link is followed: what it points to is judged and replaced, and the link stays.
//! - `-` and `/dev/stdout` are standard output.
//! - Pipes, sockets and character devices are written to and never renamed over. Block devices,
//!   which hold file systems, are refused.
//!
//! A file that the command reads is refused whatever its name here, by device and inode.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

mod error;
mod folder;
mod identity;
mod pending;

pub use error::Error;
pub use folder::TemporaryFolder;
pub use identity::folder_of;
pub use pending::Pending;

use identity::{Identity, file_id, follow, is_block_device, standard_stream};

/// What may happen to a regular file that has the name of the output.
///
/// An empty file holds nothing to lose, such as those `mktemp` makes, and is always replaced.
#[derive(Debug, Clone, Copy)]
pub enum Existing {
    /// It stays, and the output is refused.
    Keep,
    /// It is replaced.
    Replace,
    /// It is replaced if its first [`MARK_BYTES`] bytes are recognized.
    ReplaceIf(fn(&[u8]) -> bool),
}

/// As much of an existing file as [`Existing::ReplaceIf`] gets to see.
pub const MARK_BYTES: usize = 4096;

/// A place for an output that has been judged and found harmless.
#[derive(Debug, Clone)]
pub struct Outfile {
    asked: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Stdout,
    /// A pipe, a socket or a character device.
    Stream,
    /// The path with links followed, and what stood there.
    File(PathBuf, Option<Identity>),
}

impl Outfile {
    /// Decides whether `path` may be written by a command that reads `inputs`.
    ///
    /// # Errors
    /// See [`Error`]; a folder that is not there is an [`Error::Io`] of kind `NotFound`.
    pub fn judge<I, P>(path: &Path, existing: Existing, inputs: I) -> Result<Self, Error>
    where
        I: IntoIterator<Item = P>,
        P: AsRef<Path>,
    {
        let asked = path.to_owned();
        if ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"]
            .map(Path::new)
            .contains(&path)
        {
            let kind = Kind::Stdout;
            return Ok(Outfile { asked, kind });
        }
        let io = |source: io::Error| Error::Io {
            path: path.to_owned(),
            source,
        };
        let target = follow(path).map_err(io)?;
        let file = |there| Outfile {
            asked: asked.clone(),
            kind: Kind::File(target.clone(), there),
        };
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
                    return Err(io(io::ErrorKind::NotADirectory.into()));
                }
                return Ok(file(None));
            }
            Err(error) => return Err(io(error)),
        };
        if found.is_dir() {
            return Err(io(io::ErrorKind::IsADirectory.into()));
        }
        let identity = Identity::of(path, &found);
        let is_same = |other: &Path| {
            fs::metadata(other).is_ok_and(|metadata| file_id(other, &metadata) == identity.file)
        };
        if inputs.into_iter().any(|input| is_same(input.as_ref())) {
            return Err(Error::IsInput { path: asked });
        }
        if !found.is_file() {
            return match is_block_device(&found) {
                true => Err(Error::NotAFile { path: asked }),
                false => Ok(Outfile {
                    asked,
                    kind: Kind::Stream,
                }),
            };
        }
        match standard_stream(&identity.file) {
            Some("standard input") => return Err(Error::IsInput { path: asked }),
            Some(stream) => {
                return Err(Error::IsStream {
                    path: asked,
                    stream,
                });
            }
            None => {}
        }
        // A path of /proc may lead to a file that has no name any more.
        if !is_same(&target) {
            return Err(Error::NotAFile { path: asked });
        }
        let replaced = found.len() == 0
            || match existing {
                Existing::Keep => false,
                Existing::Replace => true,
                Existing::ReplaceIf(is_ours) => is_ours(&head(&target).map_err(io)?),
            };
        match replaced {
            true => Ok(file(Some(identity))),
            false => Err(Error::Exists { path: asked }),
        }
    }

    /// The path as the user gave it.
    pub fn path(&self) -> &Path {
        &self.asked
    }

    /// The folder that a regular file is made in, links followed; for all else the one it is named in.
    pub fn folder(&self) -> &Path {
        match &self.kind {
            Kind::File(target, _) => folder_of(target),
            Kind::Stdout | Kind::Stream => folder_of(&self.asked),
        }
    }

    /// Whether the bytes go to standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(self.kind, Kind::Stdout)
    }

    /// Refuses standard output and streams, for outputs that are not written from begin to end.
    ///
    /// # Errors
    /// [`Error::NotAFile`].
    pub fn only_a_file(self) -> Result<Self, Error> {
        match self.kind {
            Kind::File(..) => Ok(self),
            Kind::Stdout | Kind::Stream => Err(Error::NotAFile { path: self.asked }),
        }
    }

    /// Finds out whether a file can be made there, and leaves nothing behind.
    ///
    /// # Errors
    /// [`Error::Io`]: a folder that is not there or cannot be written.
    pub fn try_begin(&self) -> Result<(), Error> {
        match &self.kind {
            Kind::File(..) => self.begin().map(drop),
            Kind::Stdout | Kind::Stream => Ok(()),
        }
    }

    /// Begins a file that is written at any offset.
    ///
    /// # Errors
    /// [`Error::NotAFile`] for standard output and streams; [`Error::Io`].
    pub fn begin(&self) -> Result<Pending, Error> {
        let Kind::File(target, there) = &self.kind else {
            return Err(Error::NotAFile {
                path: self.asked.clone(),
            });
        };
        Pending::create(target, there.clone(), &self.asked)
    }

    /// Writes all of a small output at once.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Changed`], [`Error::Exists`].
    pub fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        let io = |source| self.io(source);
        match &self.kind {
            Kind::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout
                    .write_all(bytes)
                    .and_then(|()| stdout.flush())
                    .map_err(io)
            }
            Kind::Stream => {
                let mut stream = File::options().write(true).open(&self.asked).map_err(io)?;
                stream.write_all(bytes).map_err(io)
            }
            Kind::File(..) => {
                let pending = self.begin()?;
                pending.file().write_all(bytes).map_err(io)?;
                pending.commit()
            }
        }
    }

    fn io(&self, source: io::Error) -> Error {
        Error::Io {
            path: self.asked.clone(),
            source,
        }
    }
}

/// The first [`MARK_BYTES`] bytes of a file.
fn head(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MARK_BYTES as u64)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(all(test, unix))]
mod tests;
