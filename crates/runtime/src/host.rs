//! What this machine lets the process use: cores and memory, limits of containers included.

use std::path::Path;
use std::time::Duration;

use modelve_base::memory::Memory;

/// Threads worth starting: cores this process may run on, a container's quota included
/// (at least 1).
pub fn threads() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

/// Returns whether others keep the cores busy: the kernel counts as running, besides this thread,
/// at least a quarter as many as there are cores, not only for a moment. `false` where the system
/// does not say.
pub fn is_busy() -> bool {
    let busy = || {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        crowded(&text)
    };
    // Three looks: who started this process may have been running still.
    (0..3).all(|look| {
        std::thread::sleep(Duration::from_micros(500 * look));
        busy()
    })
}

/// The same of one reading of `/proc/stat`.
fn crowded(stat: &str) -> bool {
    let is_core = |line: &&str| {
        let number = line.strip_prefix("cpu");
        number.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let cores = stat.lines().filter(is_core).count() as u64;
    let running = field(stat, "procs_running").unwrap_or(0);
    running.saturating_sub(1) >= cores.div_ceil(4).max(1)
}

/// Bytes of memory that can still be taken without swapping, limits of containers included;
/// `None` where the system does not say.
pub fn free_memory() -> Option<u64> {
    Memory::of_this_machine().map(|memory| memory.available)
}

/// Bytes of memory this process holds now, mapped files included, and the most it ever held.
pub fn resident() -> Option<(u64, u64)> {
    let status = Path::new("/proc/self/status");
    Some((
        read_field(status, "VmRSS:")? * 1024,
        read_field(status, "VmHWM:")? * 1024,
    ))
}

/// The number after `name` at the beginning of a line.
fn read_field(path: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    field(&text, name)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_field_of_the_kernels_tables() {
        let text = "MemTotal:       24000 kB\nMemAvailable:    1234 kB\n";
        assert_eq!(field(text, "MemAvailable:"), Some(1234));
        assert_eq!(field(text, "Swap:"), None);
    }

    #[test]
    fn a_machine_is_crowded_when_others_run_on_a_quarter_of_its_cores() {
        let stat = |cores: usize, running: u64| {
            let cores: String = (0..cores).map(|n| format!("cpu{n} 1 2 3\n")).collect();
            format!("cpu  1 2 3\n{cores}intr 9\nprocs_running {running}\nprocs_blocked 7\n")
        };
        assert!(!crowded(&stat(2, 1)));
        assert!(crowded(&stat(2, 2)));
        assert!(!crowded(&stat(16, 4)));
        assert!(crowded(&stat(16, 5)));
        assert!(!crowded(""));
    }

    #[test]
    fn this_machine_has_memory_and_cores() {
        assert!(threads() >= 1);
        if cfg!(target_os = "linux") {
            assert!(free_memory().unwrap() > 1 << 20);
            let (now, most) = resident().unwrap();
            assert!(now > 0 && most >= now);
        }
    }
}
