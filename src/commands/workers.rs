//! The flags that name other machines, the connections to them, and the plan that gives each its
//! layers.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use crate::base::memory::Memory;
use crate::base::{bandwidth, human};
use crate::gguf::Gguf;
use crate::hint::{UsageError, WithHint, hinted};
use crate::program;
use crate::runtime::placement::{self, Machine, Needs, Plan, Way};
use crate::runtime::{Facts, KvType, Remote, RemoteLayers, host};
use crate::workers::{Error, Key, Link};

/// The port of a worker whose port is not named.
pub const PORT: u16 = 7420;

/// The versions that must be the same on both sides.
pub const ENGINE: &str = concat!(
    "llama.cpp ",
    env!("MODELVE_LLAMA_VERSION"),
    ", ggml ",
    env!("MODELVE_GGML_VERSION")
);

/// The flags that name other machines.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct WorkersArgs {
    /// Other machines that compute layers, where `modelve worker` runs, by host and port
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        env = "MODELVE_WORKERS",
        hide_env_values = true,
        value_delimiter = ',',
        help_heading = "Engine",
        hide_short_help = true
    )]
    pub workers: Vec<String>,

    /// The file with the key that the workers have, too
    #[arg(
        long,
        value_name = "FILE",
        env = "MODELVE_KEY_FILE",
        hide_env_values = true,
        help_heading = "Engine",
        hide_short_help = true
    )]
    pub key_file: Option<PathBuf>,

    /// Number of layers of this machine and of each worker, such as 20,12 [default: what is fastest]
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        help_heading = "Engine",
        hide_short_help = true
    )]
    pub split: Vec<u32>,
}

/// The connections of this process, which models share: a worker has one client at a time.
static LINKS: Mutex<Vec<Weak<Link>>> = Mutex::new(Vec::new());

impl WorkersArgs {
    /// The workers' names, each with a port.
    pub fn names(&self) -> Vec<String> {
        let names = self.workers.iter().map(|name| name.trim());
        let names = names.filter(|name| !name.is_empty());
        names.map(with_port).collect()
    }

    /// Returns whether workers were named.
    pub fn any(&self) -> bool {
        !self.names().is_empty()
    }

    /// Reads the key, if there is one.
    pub fn key(&self) -> anyhow::Result<Option<Key>> {
        read_key(self.key_file.as_deref())
    }

    /// Connects to all workers that were named.
    pub fn connect(&self) -> anyhow::Result<Vec<Arc<Link>>> {
        let key = self.key()?;
        let names = self.names();
        if names.len() > placement::MOST_WORKERS {
            let most = placement::MOST_WORKERS;
            return Err(UsageError(format!("{} workers are more than {most}", names.len())).into());
        }
        let mut connected = Vec::new();
        for name in &names {
            if key.is_none() && !is_loopback(name) {
                let usage = UsageError(format!(
                    "the worker {name} is another machine, and there is no key"
                ));
                return Err(hinted(usage, NO_KEY));
            }
            connected.push(link(name, key.as_ref())?);
        }
        Ok(connected)
    }

    /// Connects to the workers, and gives them layers of a model, with room for `n_ctx` tokens.
    pub fn place(
        &self,
        gguf: &Gguf,
        facts: &Facts,
        kv_type: KvType,
        n_ctx: u64,
        threads: Option<u32>,
    ) -> anyhow::Result<Remote> {
        if !self.any() {
            return Ok(Remote::default());
        }
        let links = self.connect()?;
        let needs = Needs::of(gguf, facts, kv_type, n_ctx);
        let (machines, places) = machines(&links, threads);
        let plan = self.plan(&needs, &machines)?;
        let parts = plan.parts.iter().skip(1).zip(places);
        let layers = parts.filter(|(part, _)| part.layers > 0);
        let layers = layers.map(|(part, (link, device))| RemoteLayers {
            link: Arc::clone(&links[link]),
            device,
            layers: part.layers,
        });
        Ok(Remote {
            layers: layers.collect(),
            plan: Some(plan),
        })
    }

    /// The plan for these machines, the local one first.
    pub fn plan(&self, needs: &Needs, machines: &[Machine]) -> anyhow::Result<Plan> {
        if self.split.is_empty() {
            return placement::fastest(needs, machines).with_hint(|| {
                "name more workers, or a shorter text: a smaller --ctx-size or --max-tokens, or --kv-type q8_0"
            });
        }
        placement::given(needs, machines, &self.split)
            .with_hint(|| "without --split, the layers are put where they fit".to_owned())
    }
}

const NO_KEY: &str = "make a key, copy it to all machines, and name it on all of them: modelve worker --new-key workers.key";

/// Reads a key file.
pub fn read_key(path: Option<&std::path::Path>) -> anyhow::Result<Option<Key>> {
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(None);
    };
    let read = Key::read(path);
    match read {
        Ok(key) => Ok(Some(key)),
        Err(error @ Error::KeyFile { .. }) => Err(hinted(
            error,
            format!(
                "to make a key: modelve worker --new-key {}",
                super::command_line::quote(&path.to_string_lossy())
            ),
        )),
        Err(error) if error.to_string().contains("mode ") => Err(hinted(
            error,
            format!(
                "chmod 600 {}",
                super::command_line::quote(&path.to_string_lossy())
            ),
        )),
        Err(error) => Err(error.into()),
    }
}

fn with_port(name: &str) -> String {
    let has_port = match name.rsplit_once(':') {
        // An address of IPv6 has a port after its brackets.
        Some((host, port)) => {
            port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
        }
        None => false,
    };
    match (has_port, name.contains(':') && !name.starts_with('[')) {
        (true, _) => name.to_owned(),
        (false, true) => format!("[{name}]:{PORT}"),
        (false, false) => format!("{name}:{PORT}"),
    }
}

/// Returns whether all addresses of a worker are this machine's own.
pub fn is_loopback(name: &str) -> bool {
    match name.to_socket_addrs() {
        Ok(mut addresses) => addresses.all(|address| address.ip().is_loopback()),
        // It cannot be reached, which is reported then.
        Err(_) => true,
    }
}

/// Returns whether the command line or the environment names a worker on this machine.
pub fn any_here() -> bool {
    const FLAG: &str = "--workers";
    let words: Vec<String> = program::arguments();
    let after = words.iter().position(|word| word == FLAG).map(|at| at + 1);
    let joined = |word: &String| Some(word.strip_prefix(FLAG)?.strip_prefix('=')?.to_owned());
    let named = after.and_then(|at| words.get(at).cloned());
    let named = named.or_else(|| words.iter().find_map(joined));
    let named = named.or_else(|| std::env::var("MODELVE_WORKERS").ok());
    let named = named.unwrap_or_default();
    let names = named
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    names.map(with_port).any(|name| is_loopback(&name))
}

/// The connection to a worker: the one that this process has, or a new one.
fn link(name: &str, key: Option<&Key>) -> anyhow::Result<Arc<Link>> {
    let mut links = LINKS
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    links.retain(|link| link.strong_count() > 0);
    let known = links.iter().filter_map(Weak::upgrade);
    let mut usable = known.filter(|link| link.name() == name && link.fault().is_none());
    if let Some(link) = usable.next() {
        return Ok(link);
    }
    drop(usable);
    let link = Link::connect(name, key, ENGINE).map_err(explain)?;
    let link = Arc::new(link);
    links.push(Arc::downgrade(&link));
    Ok(link)
}

/// Attaches a hint to an error about a worker.
pub fn explain(error: Error) -> anyhow::Error {
    let hint = match &error {
        Error::Unreachable { .. } => {
            "start it there: modelve worker --listen ADDRESS:PORT --key-file FILE".to_owned()
        }
        Error::Refused { .. } | Error::Impostor { .. } => {
            "the same key file must be named on both sides, by --key-file or MODELVE_KEY_FILE; a worker that listens on loopback only may have none".to_owned()
        }
        Error::Busy { .. } => "a worker serves one program at a time".to_owned(),
        Error::Version { .. } => "install the same version of modelve on both machines".to_owned(),
        Error::Lost { worker, .. } => lost_hint(worker),
        _ => return error.into(),
    };
    hinted(error, hint)
}

/// What to do about a worker that is lost.
pub fn lost_hint(worker: &str) -> String {
    format!(
        "start `modelve worker` there again and repeat the command, or leave {worker} out of --workers"
    )
}

/// The machines that can hold layers, this one first, and for each of the others the number of its
/// link and of its device.
pub fn machines(links: &[Arc<Link>], threads: Option<u32>) -> (Vec<Machine>, Vec<(usize, usize)>) {
    let memory = Memory::of_this_machine().map(|memory| memory.available);
    let threads = threads.unwrap_or_else(host::threads) as usize;
    let measured = bandwidth::measure(threads, memory.unwrap_or(1 << 30));
    let mut machines = vec![Machine {
        name: "here".to_owned(),
        memory: memory.unwrap_or(u64::MAX / 4),
        bytes_per_second: measured.unwrap_or(placement::CPU_BYTES_PER_SECOND),
        way: None,
    }];
    let mut places = Vec::new();
    for (i, link) in links.iter().enumerate() {
        let devices = &link.offer().devices;
        for (number, device) in devices.iter().enumerate() {
            let unmeasured = match device.gpu {
                true => placement::GPU_BYTES_PER_SECOND,
                false => placement::CPU_BYTES_PER_SECOND,
            };
            machines.push(Machine {
                name: match devices.len() {
                    1 => link.name().to_owned(),
                    _ => format!("{} {}", link.name(), device.name),
                },
                memory: device.memory,
                bytes_per_second: device.bytes_per_second.unwrap_or(unmeasured),
                way: Some(Way {
                    round_trip: link.round_trip().as_secs_f64(),
                    bytes_per_second: link.bytes_per_second(),
                }),
            });
            places.push((i, number));
        }
    }
    (machines, places)
}

/// Lines that show a plan.
pub fn plan_lines(plan: &Plan) -> Vec<String> {
    let part = |part: &placement::Part| {
        let layers = match part.layers {
            0 if part.travelling == 0.0 && part.weights == 0 => {
                return format!("{}: not used", part.name);
            }
            1 => "1 layer".to_owned(),
            n => format!("{n} layers"),
        };
        let way = match part.travelling > 0.0 {
            true => format!(" + {:.2} ms on the way", part.travelling * 1e3),
            false => String::new(),
        };
        format!(
            "{}: {layers}, {} of weights, {} of cache, {} to compute in, of {}; {:.2} ms a token{way}",
            part.name,
            human::bytes(part.weights),
            human::bytes(part.cache),
            human::bytes(part.working),
            human::bytes(part.memory),
            part.reading * 1e3,
        )
    };
    let mut lines: Vec<String> = plan.parts.iter().map(part).collect();
    lines.push(format!(
        "{:.2} ms a token at least, with a context of {} tokens",
        plan.seconds() * 1e3,
        human::count(plan.n_ctx)
    ));
    lines
}

/// Lines that show what went over the network.
pub fn traffic_lines(remote: &Remote) -> Vec<String> {
    let mut seen: Vec<&str> = Vec::new();
    let mut lines = Vec::new();
    for layers in &remote.layers {
        let link = &layers.link;
        if seen.contains(&link.name()) {
            continue;
        }
        seen.push(link.name());
        let traffic = link.traffic();
        lines.push(format!(
            "{}: {} bytes sent, {} received; {:.2} ms there and back, {}/s",
            link.name(),
            human::count(traffic.sent),
            human::count(traffic.received),
            link.round_trip().as_secs_f64() * 1e3,
            human::bytes(link.bytes_per_second() as u64),
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_the_usual_port() {
        let args = WorkersArgs {
            workers: ["a", " b:1 ", "", "[::1]:2", "::1", "10.0.0.2"]
                .map(str::to_owned)
                .into(),
            ..WorkersArgs::default()
        };
        assert_eq!(
            args.names(),
            ["a:7420", "b:1", "[::1]:2", "[::1]:7420", "10.0.0.2:7420"]
        );
        assert!(!WorkersArgs::default().any());
    }

    #[test]
    fn loopback_is_told_from_other_machines() {
        assert!(is_loopback("127.0.0.1:1") && is_loopback("[::1]:1"));
        assert!(!is_loopback("10.0.0.1:1") && !is_loopback("0.0.0.0:1"));
    }
}
