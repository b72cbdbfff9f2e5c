//! The program of this process: modelve itself, or another one that modelve is a module of, as the
//! interpreter of Python is. The command line of such a program is not one of modelve's.

use std::path::PathBuf;
use std::sync::OnceLock;

static EMBEDDED: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Says that this process is another program. `program` is the path of modelve's own, where that is
/// installed.
pub fn embed(program: Option<PathBuf>) {
    // A process loads the module once; another call says the same.
    let _ = EMBEDDED.set(program);
}

/// The path of modelve's program; `None` if this process is another one and modelve's is not there.
pub fn path() -> Option<PathBuf> {
    match EMBEDDED.get() {
        Some(program) => program.clone().filter(|program| program.is_file()),
        None => Some(std::env::current_exe().unwrap_or_else(|_| "modelve".into())),
    }
}

/// The arguments that modelve was started with; none if this process is another program.
pub fn arguments() -> Vec<String> {
    let words = std::env::args_os().skip(1);
    match EMBEDDED.get() {
        Some(_) => Vec::new(),
        None => words
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
    }
}
