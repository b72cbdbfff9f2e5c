//! An error message for SIGBUS, which ends a program whose mapped file was truncated while in use.
//!
//! Model files are mapped. If one is truncated, or its disk fails, the next access to the missing
//! part raises SIGBUS, because the system has no other way to report it. The default action ends
//! the program silently. The program cannot continue, so it reports what happened and exits.

#![allow(unsafe_code)]

/// Makes the program print a message and exit with code 1 on SIGBUS. Has no effect on systems
/// without this signal, or if the handler cannot be set.
pub fn explain() {
    #[cfg(unix)]
    {
        const MESSAGE: &[u8] = b"error: a file in use was cut short, or its disk failed (SIGBUS)\n\
            hint: whatever wrote to the model file must replace it by a rename; start again with a whole file\n";
        // SAFETY: the action runs in a signal handler, where only async-signal-safe functions may
        // be called. It calls two, `write` and `_exit`, reads only a constant, and never returns.
        // This program does not close descriptor 2.
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
