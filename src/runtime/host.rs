//! What this machine lets the process use: cores and memory, limits of containers included.

use std::path::{Path, PathBuf};

/// Threads worth starting: cores this process may run on, a container's quota included
/// (at least 1).
pub fn threads() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

/// Bytes of memory that can still be taken without swapping: what the system says is available,
/// or what the container's limit leaves, whichever is less. `None` where the system does not say.
pub fn free_memory() -> Option<u64> {
    let system = read_field(Path::new("/proc/meminfo"), "MemAvailable:").map(|kib| kib * 1024);
    match (system, cgroup_free()) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
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

/// The least that any control group above this process leaves (version 2, else version 1).
fn cgroup_free() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut least = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let (root, limit, used, cache) = match controllers {
            "" => (
                "/sys/fs/cgroup",
                "memory.max",
                "memory.current",
                "inactive_file",
            ),
            list if list.split(',').any(|c| c == "memory") => (
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            ),
            _ => continue,
        };
        // A container often sees its own group as the root, so look at every level.
        let mut group = PathBuf::from(path.trim_start_matches('/'));
        loop {
            let dir = Path::new(root).join(&group);
            if let Some(free) = group_free(&dir, limit, used, cache) {
                least = Some(least.map_or(free, |l: u64| l.min(free)));
            }
            if !group.pop() {
                break;
            }
        }
    }
    least
}

fn group_free(dir: &Path, limit: &str, used: &str, cache: &str) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        std::fs::read_to_string(dir.join(name))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    // "max" does not parse: no limit here.
    let limit = number(limit)?;
    let used = number(used)?;
    let stat = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let cache = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == cache)
        .and_then(|(_, n)| n.parse().ok())
        .unwrap_or(0);
    // Pages of files count as used but go when memory is wanted.
    Some(limit.saturating_sub(used.saturating_sub(cache)))
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
    fn a_group_leaves_its_limit_less_what_is_used_and_not_cache() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("memory.max"), "1000\n").unwrap();
        std::fs::write(dir.path().join("memory.current"), "700\n").unwrap();
        std::fs::write(
            dir.path().join("memory.stat"),
            "anon 400\ninactive_file 250\n",
        )
        .unwrap();
        let free = group_free(dir.path(), "memory.max", "memory.current", "inactive_file");
        assert_eq!(free, Some(550));
        std::fs::write(dir.path().join("memory.max"), "max\n").unwrap();
        assert_eq!(
            group_free(dir.path(), "memory.max", "memory.current", "inactive_file"),
            None
        );
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
