//! Words for the end of a program whose mapped file became shorter while it was in use.
//!
//! Model files are mapped. When one is truncated, or the disk under it fails, the next read of what
//! is gone raises SIGBUS: the system has no other way to report it, and by itself ends the program
//! without a word. There is nothing to go on with, so the program says what happened and exits.

#![allow(unsafe_code)]

/// Prints a message and exits with code 1 on SIGBUS. Where the system has no such signal, or keeps
/// the handler from being set, nothing changes.
pub fn explain() {
    #[cfg(unix)]
    {
        const MESSAGE: &[u8] = b"error: a file in use was cut short, or its disk failed (SIGBUS)\n\
            hint: whatever wrote to the model file must replace it by a rename; start again with a whole file\n";
        // SAFETY: the action runs in a signal handler, where only async-signal-safe functions may be
        // called: it makes two, `write` and `_exit`, touches no memory but a constant and never
        // returns. Descriptor 2 is not closed by this program.
        let registered = unsafe {
            signal_hook::low_level::register(signal_hook::consts::SIGBUS, || {
                let stderr = std::os::fd::BorrowedFd::borrow_raw(2);
                let _ = rustix::io::write(stderr, MESSAGE);
                signal_hook::low_level::exit(1);
            })
        };
        drop(registered);
    }
}
