//! How much memory this process may use: the machine's, or less where a control group limits it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Amounts of memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The machine's memory, or the control group's limit where that is lower.
    pub total: u64,
    /// What a new program could allocate now without swapping.
    pub available: u64,
    /// The control group's limit, where there is one below the machine's memory.
    pub limit: Option<u64>,
}

impl Memory {
    /// A machine with `total` bytes and nothing else running.
    pub fn of_size(total: u64) -> Self {
        Self {
            total,
            available: total,
            limit: None,
        }
    }

    /// The memory of this machine; `None` where the system does not say.
    pub fn of_this_machine() -> Option<Self> {
        let (total, available) = physical()?;
        let groups = control_groups(Path::new("/"));
        Some(limited(total, available, groups.into_iter()))
    }
}

/// Narrows the machine's memory to the tightest of `groups`, each a limit in bytes and the use of
/// it that cannot be reclaimed.
fn limited(total: u64, available: u64, groups: impl Iterator<Item = (u64, u64)>) -> Memory {
    let mut memory = Memory {
        total,
        available,
        limit: None,
    };
    for (limit, used) in groups {
        if limit < memory.total {
            memory.total = limit;
            memory.limit = Some(limit);
        }
        memory.available = memory.available.min(limit.saturating_sub(used));
    }
    memory
}

#[cfg(target_os = "linux")]
fn physical() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some((field("MemTotal:")?, field("MemAvailable:")?))
}

/// Total and available memory on macOS, from the programs `sysctl` and `vm_stat`: they are part of
/// the system, and asking the kernel directly would need unsafe code.
#[cfg(target_os = "macos")]
fn physical() -> Option<(u64, u64)> {
    let ask = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output();
        String::from_utf8(output.ok()?.stdout).ok()
    };
    let total = ask("/usr/sbin/sysctl", &["-n", "hw.memsize"])?;
    let total: u64 = total.trim().parse().ok()?;
    let available = ask("/usr/bin/vm_stat", &[]).and_then(|text| {
        let page: u64 = text
            .split_once("page size of ")?
            .1
            .split(' ')
            .next()?
            .parse()
            .ok()?;
        let pages = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches('.').parse().ok()
        };
        let free = pages("Pages free:")? + pages("Pages inactive:")? + pages("Pages purgeable:")?;
        free.checked_mul(page)
    });
    Some((total, available.unwrap_or(total)))
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn physical() -> Option<(u64, u64)> {
    None
}

/// Limit and use in bytes of every control group that this process is in, from its own up to the
/// root group. Both version 2 and the memory controller of version 1 are read. `root` is `/`
/// except in tests. Inactive page cache counts as unused, because the kernel reclaims it.
fn control_groups(root: &Path) -> Vec<(u64, u64)> {
    let Ok(membership) = fs::read_to_string(root.join("proc/self/cgroup")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (mount, limit, usage, cache) = if controllers.is_empty() {
            let mount = "sys/fs/cgroup";
            (mount, "memory.max", "memory.current", "inactive_file")
        } else if controllers.split(',').any(|name| name == "memory") {
            let mount = "sys/fs/cgroup/memory";
            let (limit, usage) = ("memory.limit_in_bytes", "memory.usage_in_bytes");
            (mount, limit, usage, "total_inactive_file")
        } else {
            continue;
        };
        let mount = root.join(mount);
        // Inside a container the path is often the host's and does not exist here: then
        // the root of the mount is the container's own group.
        let own = mount.join(path.trim_start_matches('/'));
        let mut group = if own.is_dir() { own } else { mount.clone() };
        loop {
            if let Some(limit) = number(&group.join(limit)) {
                let used = number(&group.join(usage)).unwrap_or(0);
                let cache = stat(&group.join("memory.stat"), cache).unwrap_or(0);
                found.push((limit, used.saturating_sub(cache)));
            }
            if group == mount || !group.pop() {
                break;
            }
        }
    }
    found
}

/// The number that a file consists of; `None` for `max`, which means no limit.
fn number(file: &PathBuf) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number after `name` in a file whose lines are a name and a number.
fn stat(file: &PathBuf, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let file = root.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn the_tightest_group_above_counts_and_its_cache_is_free() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/self/cgroup", "0::/a/b\n");
        write(root.path(), "sys/fs/cgroup/a/b/memory.max", "max\n");
        write(root.path(), "sys/fs/cgroup/a/memory.max", "4096\n");
        write(root.path(), "sys/fs/cgroup/a/memory.current", "3000\n");
        let stat = "anon 1\ninactive_file 1000\n";
        write(root.path(), "sys/fs/cgroup/a/memory.stat", stat);
        let groups = control_groups(root.path());
        assert_eq!(groups, [(4096, 2000)]);
        let memory = limited(1 << 20, 1 << 19, groups.into_iter());
        assert_eq!(memory.total, 4096);
        assert_eq!(memory.available, 2096);
        assert_eq!(memory.limit, Some(4096));
    }

    #[test]
    fn version_1_and_a_path_that_belongs_to_the_host() {
        let root = tempfile::tempdir().unwrap();
        let membership = "5:cpu:/x\n4:memory:/docker/abc\n";
        write(root.path(), "proc/self/cgroup", membership);
        let mount = "sys/fs/cgroup/memory";
        write(
            root.path(),
            &format!("{mount}/memory.limit_in_bytes"),
            "512\n",
        );
        write(
            root.path(),
            &format!("{mount}/memory.usage_in_bytes"),
            "100\n",
        );
        assert_eq!(control_groups(root.path()), [(512, 100)]);
    }

    #[test]
    fn a_limit_above_the_machine_is_none() {
        // Version 1 writes "no limit" as a number near 2^63.
        let memory = limited(1000, 800, [(9_223_372_036_854_771_712, 100)].into_iter());
        assert_eq!(memory.total, 1000);
        assert_eq!(memory.available, 800);
        assert_eq!(memory.limit, None);
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    fn this_machine_has_memory() {
        let memory = Memory::of_this_machine().unwrap();
        assert!(memory.available > 0 && memory.available <= memory.total);
    }
}
