//! Free space of a disk.

use std::path::Path;

/// The bytes that this user can still write in `folder`, or in the nearest folder above it
/// that exists. `None` where the system does not say.
pub fn free_space(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.is_dir())?;
    available(there)
}

#[cfg(unix)]
fn available(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn available(_: &Path) -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    #[test]
    fn a_folder_that_does_not_exist_yet_has_the_space_of_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let free = super::free_space(&dir.path().join("a/b/c")).unwrap();
        assert!(free > 0);
    }
}
