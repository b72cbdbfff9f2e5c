//! Files and folders that are opened for writing only where they belong to this user alone.
//!
//! A cache can be in a folder that several people share. Somebody who plants a link where a part
//! file or a lock is expected must not make this program write to another file of its user's.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Opens a file for reading and appending, creating it where there is none. A link is replaced and
/// never followed, and so is anything that is not a regular file or has a second name.
///
/// # Errors
/// The system cannot open or replace it, as where a folder has its name.
pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    }
    match options.open(path) {
        Ok(file) if is_own(&file.metadata()?) => return Ok(file),
        Err(e) if fs::symlink_metadata(path).map_or(true, |m| m.is_file() || m.is_dir()) => {
            return Err(e);
        }
        Ok(_) | Err(_) => {}
    }
    fs::remove_file(path)?;
    options.create_new(true).open(path)
}

/// Returns whether a file is a regular file with a single name, that is without further hard links.
fn is_own(meta: &fs::Metadata) -> bool {
    #[cfg(unix)]
    let one_name = std::os::unix::fs::MetadataExt::nlink(meta) == 1;
    #[cfg(not(unix))]
    let one_name = true;
    meta.is_file() && one_name
}

/// Creates a folder that only this user can enter, or checks that an existing one is such.
///
/// # Errors
/// The path is a link, another user's folder, or one that others can write to, or the system cannot
/// create it.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt};
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let meta = fs::symlink_metadata(path)?;
        let ours = meta.uid() == rustix::process::geteuid().as_raw();
        match meta.is_dir() && ours && meta.mode() & 0o022 == 0 {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "somebody else made it, or can write to it",
            )),
        }
    }
    // On other systems each user has a folder for temporary files of their own.
    #[cfg(not(unix))]
    fs::create_dir_all(path)
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_planted_is_replaced_and_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let path = dir.path().join("part");
        type Plant<'a> = &'a dyn Fn();
        let plants: [Plant<'_>; 4] = [
            &|| symlink(&victim, &path).unwrap(),
            &|| symlink(dir.path().join("nowhere"), &path).unwrap(),
            &|| fs::hard_link(&victim, &path).unwrap(),
            &|| rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap(),
        ];
        for plant in plants {
            plant();
            open_to_append(&path).unwrap().write_all(b"new").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert!(fs::symlink_metadata(&path).unwrap().is_file());
            assert_eq!(fs::read(&victim).unwrap(), b"precious");
            assert!(!dir.path().join("nowhere").exists());
            open_to_append(&path).unwrap().write_all(b"er").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"newer", "a file of ours goes on");
            fs::remove_file(&path).unwrap();
        }
        fs::create_dir(&path).unwrap();
        assert!(open_to_append(&path).is_err());
    }

    #[test]
    fn a_private_folder_is_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        private_folder(&path).unwrap();
        private_folder(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(private_folder(&path).is_err());
        let link = dir.path().join("link");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        symlink(&path, &link).unwrap();
        assert!(private_folder(&link).is_err());
    }
}
