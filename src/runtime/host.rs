//! What this machine lets the process use: cores and memory, limits of containers included.

use std::path::Path;

use crate::memory::Memory;

/// Threads worth starting: cores this process may run on, a container's quota included
/// (at least 1).
pub fn threads() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
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
    fn this_machine_has_memory_and_cores() {
        assert!(threads() >= 1);
        if cfg!(target_os = "linux") {
            assert!(free_memory().unwrap() > 1 << 20);
            let (now, most) = resident().unwrap();
            assert!(now > 0 && most >= now);
        }
    }
}
