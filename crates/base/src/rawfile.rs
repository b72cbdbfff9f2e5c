//! Reads and writes at an offset, from many threads through one handle, and allocation of space on
//! disk.

use std::fs::File;
use std::io;
use std::path::Path;

/// Fills `buffer` with the file's bytes from `offset` on.
///
/// # Errors
/// The system cannot read, or the file ends before the buffer is full.
pub fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset);
    #[cfg(windows)]
    {
        let (mut done, mut offset) = (0, offset);
        while done < buffer.len() {
            match std::os::windows::fs::FileExt::seek_read(file, &mut buffer[done..], offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => (done, offset) = (done + n, offset + n as u64),
            }
        }
        Ok(())
    }
}

/// Writes all of `buffer` at `offset`.
///
/// # Errors
/// The system cannot write.
pub fn write_all_at(file: &File, buffer: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, buffer, offset);
    #[cfg(windows)]
    {
        let (mut done, mut offset) = (0, offset);
        while done < buffer.len() {
            match std::os::windows::fs::FileExt::seek_write(file, &buffer[done..], offset)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => (done, offset) = (done + n, offset + n as u64),
            }
        }
        Ok(())
    }
}

/// Advises the system that this range will be read soon, so that it can begin to read ahead. It is
/// only a hint, and systems other than Linux are not told.
pub fn will_need(file: &File, offset: u64, len: u64) {
    #[cfg(target_os = "linux")]
    {
        use std::num::NonZeroU64;
        let _ = rustix::fs::fadvise(
            file,
            offset,
            NonZeroU64::new(len),
            rustix::fs::Advice::WillNeed,
        );
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, len);
}

/// Sets the size of a new file and, where the file system can, allocates its blocks, so that a full
/// disk is an error before any work is done.
///
/// # Errors
/// The disk lacks space, or the system cannot set the size.
pub fn allocate(file: &File, size: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::io::Errno;
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size) {
            Ok(()) => return Ok(()),
            Err(e @ (Errno::NOSPC | Errno::FBIG | Errno::DQUOT)) => return Err(e.into()),
            // Not every file system can; without it blocks are allocated as data is written.
            Err(_) => {}
        }
    }
    file.set_len(size)
}

/// Bytes that can still be written to the file system of a folder; `None` where the system does not
/// say.
pub fn available(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(folder).ok()?;
        // Pseudo file systems have no blocks, so their count of free ones means nothing.
        let real = stat.f_blocks > 0;
        real.then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}
