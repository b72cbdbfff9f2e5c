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

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::NamedTempFile;

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The output is a file that the command reads, under this name or another.
    #[error("{} is read by this command, so it cannot be written by it", path.display())]
    IsInput {
        /// The output.
        path: PathBuf,
    },
    /// The output is the file that the shell sends standard output or standard error to.
    #[error("{} is where {stream} goes already", path.display())]
    IsStream {
        /// The output.
        path: PathBuf,
        /// `standard output` or `standard error`.
        stream: &'static str,
    },
    /// Something has the name that may not be replaced.
    #[error("{} exists", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// A pipe or a device where only a regular file will do, or a block device.
    #[error("{} is not a regular file, as this output must be", path.display())]
    NotAFile {
        /// The output.
        path: PathBuf,
    },
    /// What has the name is not what had it when the command began.
    #[error("{} was changed by another program, so it is left as it is", path.display())]
    Changed {
        /// The output.
        path: PathBuf,
    },
    /// The system's own reason.
    #[error("cannot write {}", path.display())]
    Io {
        /// The output.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

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

/// What makes a file the one that was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    file: FileId,
    len: u64,
    modified: Option<SystemTime>,
}

/// Device and inode; where there are none, the path without links.
#[cfg(unix)]
type FileId = (u64, u64);
#[cfg(not(unix))]
type FileId = PathBuf;

#[cfg(unix)]
fn file_id(_: &Path, metadata: &Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn file_id(path: &Path, _: &Metadata) -> FileId {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

impl Identity {
    fn of(path: &Path, metadata: &Metadata) -> Self {
        Identity {
            file: file_id(path, metadata),
            len: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }
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
        remove_abandoned(target);
        let temporary = temporary_file(target).map_err(|source| self.io(source))?;
        Ok(Pending {
            temporary,
            target: target.clone(),
            there: there.clone(),
            asked: self.asked.clone(),
        })
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

/// A file that does not have its name yet. Dropped, it is removed.
#[derive(Debug)]
pub struct Pending {
    temporary: NamedTempFile,
    target: PathBuf,
    there: Option<Identity>,
    asked: PathBuf,
}

impl Pending {
    /// The file.
    pub fn file(&self) -> &File {
        self.temporary.as_file()
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

/// The path that a chain of symbolic links ends at; nothing needs to be there.
fn follow(path: &Path) -> io::Result<PathBuf> {
    // As many as Linux follows.
    const MOST_LINKS: usize = 40;
    let mut at = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&at) {
            Ok(to) => at = folder_of(&at).join(to),
            Err(_) => return Ok(at),
        }
    }
    Err(io::Error::other("too many symbolic links"))
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

#[cfg(unix)]
fn is_block_device(metadata: &Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type())
}

#[cfg(not(unix))]
fn is_block_device(_: &Metadata) -> bool {
    false
}

/// Which of the standard streams leads to this file.
#[cfg(unix)]
fn standard_stream(file: &FileId) -> Option<&'static str> {
    let is = |stat: rustix::io::Result<rustix::fs::Stat>| {
        // The types of these fields differ from system to system.
        #[allow(clippy::unnecessary_cast)]
        stat.is_ok_and(|stat| (stat.st_dev as u64, stat.st_ino as u64) == *file)
    };
    if is(rustix::fs::fstat(io::stdin())) {
        Some("standard input")
    } else if is(rustix::fs::fstat(io::stdout())) {
        Some("standard output")
    } else if is(rustix::fs::fstat(io::stderr())) {
        Some("standard error")
    } else {
        None
    }
}

#[cfg(not(unix))]
fn standard_stream(_: &FileId) -> Option<&'static str> {
    None
}

/// The folder a path lies in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const NONE: [&Path; 0] = [];

    fn judge(path: &Path, existing: Existing) -> Result<Outfile, Error> {
        Outfile::judge(path, existing, NONE)
    }

    #[test]
    fn an_existing_file_is_replaced_only_where_that_was_decided() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "mine").unwrap();
        let ours: fn(&[u8]) -> bool = |head| head.starts_with(b"ours");
        for existing in [Existing::Keep, Existing::ReplaceIf(ours)] {
            let error = judge(&path, existing).unwrap_err();
            assert!(matches!(error, Error::Exists { .. }), "{error}");
        }
        judge(&path, Existing::Replace)
            .unwrap()
            .write(b"ours 1")
            .unwrap();
        judge(&path, Existing::ReplaceIf(ours))
            .unwrap()
            .write(b"ours 2")
            .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"ours 2");
        fs::write(&path, "").unwrap();
        judge(&path, Existing::Keep).unwrap().write(b"new").unwrap();
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn an_input_is_refused_under_every_name() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("in");
        fs::write(&input, "mine").unwrap();
        let (hard, soft) = (dir.path().join("hard"), dir.path().join("soft"));
        fs::hard_link(&input, &hard).unwrap();
        symlink("in", &soft).unwrap();
        for path in [&input, &hard, &soft] {
            let error = Outfile::judge(path, Existing::Replace, [&input]).unwrap_err();
            assert!(matches!(error, Error::IsInput { .. }), "{error}");
        }
    }

    #[test]
    fn links_stay_and_what_they_point_to_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (link, second) = (dir.path().join("link"), dir.path().join("second"));
        symlink("second", &link).unwrap();
        symlink("file", &second).unwrap();
        for text in ["made through a dangling link", "replaced through it"] {
            judge(&link, Existing::Replace)
                .unwrap()
                .write(text.as_bytes())
                .unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), text);
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert!(fs::symlink_metadata(&second).unwrap().is_symlink());
            assert_eq!(
                judge(&link, Existing::Replace).unwrap().folder(),
                dir.path()
            );
        }
        symlink("round", dir.path().join("round")).unwrap();
        assert!(judge(&dir.path().join("round"), Existing::Replace).is_err());
    }

    #[test]
    fn what_came_in_between_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let new = judge(&path, Existing::Replace).unwrap();
        fs::write(&path, "another's").unwrap();
        assert!(matches!(new.write(b"ours"), Err(Error::Exists { .. })));
        let old = judge(&path, Existing::Replace).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a third's").unwrap();
        assert!(matches!(old.write(b"ours"), Err(Error::Changed { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "a third's");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn folders_are_refused_and_devices_written_to() {
        let dir = tempfile::tempdir().unwrap();
        assert!(judge(dir.path(), Existing::Replace).is_err());
        let into = dir.path().join("absent").join("a");
        let error = judge(&into, Existing::Replace)
            .unwrap()
            .write(b"x")
            .unwrap_err();
        assert!(
            matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
        );
        let null = judge(Path::new("/dev/null"), Existing::Keep).unwrap();
        null.try_begin().unwrap();
        null.write(b"x").unwrap();
        assert!(matches!(null.begin(), Err(Error::NotAFile { .. })));
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn the_modes_of_a_replaced_file_stay() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        judge(&path, Existing::Replace)
            .unwrap()
            .write(b"new")
            .unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o640
        );
    }
}
