//! Chooses how threads wait for each other while a model computes.
//!
//! After every operation of a graph, the threads wait for the slowest of them. OpenMP's runtime
//! lets them spin for milliseconds before they sleep, which is fastest as long as each has a core
//! of its own. On a busy machine, spinning threads take the time from the thread that they wait
//! for: a small model became a hundred times slower. The runtime reads the setting from the
//! environment before `main`, so the program must execute itself again to change it.

use std::env;

use super::workers;
use crate::runtime::host;

/// OpenMP's variable and that of GNU's runtime. If one of them is set, the user has decided.
const DECIDES: [&str; 2] = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"];

/// Lets threads sleep while they wait if the machine is busy with other work, or if a worker on it
/// computes in turn with this process. Must be called before
/// anything is read or written, because it may execute the program again.
pub fn suit_the_machine() {
    let decided = DECIDES.iter().any(|name| env::var_os(name).is_some());
    if !decided && (host::is_busy() || workers::any_here()) {
        begin_again();
    }
}

/// Returns whether threads sleep while they wait, by this program's choice or the user's.
pub fn sleeps() -> bool {
    env::var_os(DECIDES[0]).is_some_and(|policy| policy.eq_ignore_ascii_case("passive"))
}

/// Executes the program again. Returns only if that fails, and the program then continues
/// unchanged.
#[cfg(unix)]
fn begin_again() {
    use std::os::unix::process::CommandExt;

    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut arguments = env::args_os();
    let mut command = std::process::Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let error = command.args(arguments).env(DECIDES[0], "passive").exec();
    tracing::debug!("cannot execute the program again: {error}");
}

#[cfg(not(unix))]
fn begin_again() {}
