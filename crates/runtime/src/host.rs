//! The cores and the memory that this process may use, including the limits of containers.

use std::path::Path;
use std::time::Duration;

use modelve_base::memory::Memory;

/// The number of threads worth starting: the cores that this process may run on, limited by a
/// container's quota, and at least 1.
pub fn threads() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

/// Returns whether other processes keep the cores busy: besides this thread, the number of running
/// threads is at least a quarter of the number of cores, in several samples. Returns false if the
/// system does not report it.
pub fn is_busy() -> bool {
    let busy = || {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        crowded(&text)
    };
    // Three samples, because the parent process may still have been running in the first.
    (0..3).all(|look| {
        std::thread::sleep(Duration::from_micros(500 * look));
        busy()
    })
}

/// [`is_busy`] for one sample of `/proc/stat`.
fn crowded(stat: &str) -> bool {
    let is_core = |line: &&str| {
        let number = line.strip_prefix("cpu");
        number.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let cores = stat.lines().filter(is_core).count() as u64;
    let running = field(stat, "procs_running").unwrap_or(0);
    running.saturating_sub(1) >= cores.div_ceil(4).max(1)
}

/// The number of bytes of memory that can still be allocated without swapping, within the limits of
/// containers; `None` if the system does not report it.
pub fn free_memory() -> Option<u64> {
    Memory::of_this_machine().map(|memory| memory.available)
}

/// The bytes of memory that this process holds now, including mapped files, and its peak.
pub fn resident() -> Option<(u64, u64)> {
    let status = Path::new("/proc/self/status");
    Some((
        read_field(status, "VmRSS:")? * 1024,
        read_field(status, "VmHWM:")? * 1024,
    ))
}

/// The number after `name` at the start of a line of a file.
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
