//! `modelve worker`: lets other machines compute with this one's devices.

use std::io::{BufRead, ErrorKind, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::anyhow;

use super::command_line::quote;
use super::{flags, trial, workers};
use crate::base::memory::Memory;
use crate::base::{bandwidth, human};
use crate::hint::{UsageError, WithHint, hinted};
use crate::output;
use crate::program;
use crate::runtime::{self, Device, host};
use crate::workers::{Door, DoorConfig, Error, Key, Offer, OfferedDevice};

/// The hidden command that runs ggml's server.
pub const CHILD: &str = "serve-devices";

/// Flags of `modelve worker`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve worker --new-key workers.key                              once; copy the file to all machines
  modelve worker --listen 0.0.0.0:7420 --key-file workers.key       on the machine that helps
  modelve complete \"Today is\" --workers HOST --key-file workers.key on the machine that asks

docs/several-machines.md says what is protected, and what is not.")]
pub struct Args {
    /// The address to listen on; one that other machines reach needs a key
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7420")]
    listen: String,

    /// The file with the key that clients must have, too
    #[arg(
        long,
        value_name = "FILE",
        env = "MODELVE_KEY_FILE",
        hide_env_values = true
    )]
    key_file: Option<PathBuf>,

    /// Write a new key to a file and end
    #[arg(long, value_name = "FILE", exclusive = true)]
    new_key: Option<PathBuf>,

    /// The devices to offer, by name [default: the GPUs, else CPU]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    device: Vec<String>,

    /// Memory to offer, such as 12GiB [default: nine tenths of what is free]
    #[arg(long, value_name = "SIZE", value_parser = human::parse_bytes)]
    memory: Option<u64>,

    /// Keep tensors in a folder, so that the same model is not sent again
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,

    /// Number of threads [default: the cores this process may use]
    #[arg(short, long, value_name = "N", value_parser = flags::threads)]
    threads: Option<u32>,
}

/// Flags of the hidden command.
#[derive(Debug, clap::Args)]
pub struct ChildArgs {
    /// The port of loopback to listen on
    #[arg(long, value_name = "PORT")]
    port: u16,

    /// The devices to serve
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    device: Vec<String>,

    /// Memory for everything, in bytes
    #[arg(long, value_name = "BYTES")]
    memory: Option<u64>,

    /// Number of threads
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
}

/// Writes a new key. One that is there already is kept, as other machines may have it.
fn make_key(path: &Path) -> anyhow::Result<()> {
    let Err(error) = Key::create(path) else {
        return Ok(());
    };
    let name = path.display().to_string();
    match &error {
        Error::KeyFile { source, .. } if source.kind() == ErrorKind::AlreadyExists => Err(hinted(
            anyhow!("{name} exists, and a key is never replaced"),
            format!("to use it: modelve worker --key-file {}", quote(&name)),
        )),
        _ => Err(anyhow::Error::new(error).context(format!("cannot make the key {name}"))),
    }
}

/// Runs the command: serves until the process is ended.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(path) = &args.new_key {
        make_key(path)?;
        output::note(&format!(
            "{} is the key: copy it to all machines, where only its owner may read it",
            human::escape(path.display().to_string().as_bytes())
        ));
        return Ok(());
    }
    if args.memory == Some(0) {
        return Err(UsageError("--memory 0 leaves nothing to offer".to_owned()).into());
    }
    let listen = resolve(&args.listen)?;
    let key = workers::read_key(args.key_file.as_deref())?;
    if key.is_none() && !listen.ip().is_loopback() {
        let usage = UsageError(format!(
            "{listen} can be reached by other machines, and there is no key"
        ));
        return Err(hinted(
            usage,
            format!(
                "make a key, and name it here and there: modelve worker --new-key workers.key\n\
                 then: modelve worker --listen {} --key-file workers.key",
                quote(&args.listen)
            ),
        ));
    }
    let has_key = key.is_some();
    let devices = chosen(&args.device)?;
    let threads = args.threads.unwrap_or_else(host::threads);
    let memory = Memory::of_this_machine().map(|memory| memory.available);
    // Measured once, while nothing is computed.
    let measured = bandwidth::measure(threads as usize, memory.unwrap_or(1 << 30));
    let (names, cap) = (
        devices.iter().map(|device| device.name.clone()).collect(),
        args.memory,
    );
    let offer = move || make_offer(&devices, cap, measured);
    for device in &offer().devices {
        output::note(&format!(
            "offers {}: {}, {}{}",
            device.name,
            human::escape(device.description.trim().as_bytes()),
            human::bytes(device.memory),
            match device.bytes_per_second {
                Some(rate) => format!(" read at {}/s", human::bytes(rate as u64)),
                None => String::new(),
            }
        ));
    }
    let child = child_command(args, names, listen);
    let door = Door::open(DoorConfig {
        listen,
        key,
        offer: Box::new(offer),
        child: Box::new(child),
        cache: args.cache.clone(),
        log: Box::new(output::note),
    });
    let door = door.map_err(|error| match error {
        Error::Listen { .. } => hinted(
            anyhow::Error::new(error),
            "another port: modelve worker --listen 127.0.0.1:7421",
        ),
        error => error.into(),
    })?;
    output::note(&format!("listening on {}", door.address()));
    if !has_key {
        output::note("without a key: every user of this machine can use it");
    }
    door.run();
    Ok(())
}

fn resolve(listen: &str) -> anyhow::Result<SocketAddr> {
    let found = listen.to_socket_addrs().ok().and_then(|mut all| all.next());
    found.ok_or_else(|| {
        UsageError(format!(
            "{listen:?} is not an address and a port of this machine, such as 127.0.0.1:7420"
        ))
        .into()
    })
}

/// The devices to offer.
fn chosen(names: &[String]) -> anyhow::Result<Vec<Device>> {
    let devices = runtime::devices();
    let have = || {
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        names.join(", ")
    };
    if names.is_empty() {
        let gpus: Vec<Device> = devices
            .iter()
            .filter(|device| device.gpu)
            .cloned()
            .collect();
        let cpu = devices
            .iter()
            .filter(|device| device.name.eq_ignore_ascii_case("cpu"));
        let offered = match gpus.is_empty() {
            true => cpu.cloned().collect(),
            false => gpus,
        };
        return match offered.is_empty() {
            true => Err(anyhow!("there is no device to offer, only {}", have())),
            false => Ok(offered),
        };
    }
    let find = |name: &String| {
        let found = devices.iter().find(|d| d.name.eq_ignore_ascii_case(name));
        found.cloned().ok_or_else(|| {
            UsageError(format!(
                "no device {name} in this build, which has {}",
                have()
            ))
        })
    };
    let found: Result<Vec<Device>, UsageError> = names.iter().map(find).collect();
    found.with_hint(|| "what there is: modelve doctor".to_owned())
}

/// What the devices have to offer at this moment.
fn make_offer(devices: &[Device], cap: Option<u64>, measured: Option<f64>) -> Offer {
    let now = runtime::devices();
    let free = Memory::of_this_machine().map(|memory| memory.available);
    let offered = devices.iter().map(|device| {
        let own = now.iter().find(|now| now.name == device.name);
        let free = match device.gpu {
            true => own.map_or(device.free, |now| now.free),
            // For the CPU, ggml reports all memory as free.
            false => free.unwrap_or(device.total),
        };
        let memory = free / 10 * 9;
        OfferedDevice {
            name: device.name.clone(),
            description: device.description.trim().to_owned(),
            gpu: device.gpu,
            memory: cap.map_or(memory, |cap| cap.min(memory)),
            bytes_per_second: measured.filter(|_| !device.gpu),
        }
    });
    Offer::new(
        env!("CARGO_PKG_VERSION"),
        workers::ENGINE,
        offered.collect(),
        false,
    )
}

/// Makes the command of the child for a port.
fn child_command(
    args: &Args,
    devices: Vec<String>,
    listen: SocketAddr,
) -> impl Fn(u16) -> Command + Send + Sync + use<> {
    let (cap, threads) = (args.memory, args.threads);
    let only_cpu = devices.iter().all(|name| name.eq_ignore_ascii_case("cpu"));
    move |port| {
        let mut command = Command::new(program::path().unwrap_or_else(|| "modelve".into()));
        command.arg(CHILD).args(["--port", &port.to_string()]);
        command.args(["--device", &devices.join(",")]);
        if let Some(threads) = threads {
            command.args(["--threads", &threads.to_string()]);
        }
        // Drivers of GPUs reserve more memory than there is.
        let free = Memory::of_this_machine().map(|memory| memory.available);
        if let Some(memory) = cap.or(free).filter(|_| only_cpu) {
            command.args(["--memory", &limit(memory).to_string()]);
        }
        // A crash must start no debugger. RDMA would go around the encrypted stream.
        command.env("GGML_NO_BACKTRACE", "1");
        command.env("GGML_RPC_NO_RDMA", "1");
        command.env_remove("MODELVE_KEY_FILE");
        // On one machine, threads that spin while they wait take the time of their own client.
        if listen.ip().is_loopback() && std::env::var_os("OMP_WAIT_POLICY").is_none() {
            command.env("OMP_WAIT_POLICY", "passive");
        }
        command
    }
}

/// The limit for a process that is offered with this much memory: ggml holds a tensor twice while it
/// arrives, and the process needs some, too.
fn limit(memory: u64) -> u64 {
    memory.saturating_add(memory / 4).saturating_add(1 << 30)
}

/// The hidden command: runs ggml's server, and does what the door asks for on standard input.
pub fn run_child(args: &ChildArgs) -> anyhow::Result<()> {
    trial::limit(args.memory);
    let port = args.port;
    std::thread::Builder::new()
        .name("door".to_owned())
        .spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if line.trim() == "shut" {
                    // Only Linux lets a process close a socket to which it listens in another thread.
                    let shut = runtime::stop_serving(port) || !cfg!(target_os = "linux");
                    let mut out = std::io::stdout().lock();
                    let said = writeln!(out, "{}", if shut { "shut" } else { "open" });
                    let _ = said.and_then(|()| out.flush());
                }
            }
            // The door is gone. Another thread computes, so nothing is tidied up.
            signal_hook::low_level::exit(0);
        })?;
    Ok(runtime::serve_devices(port, &args.device, args.threads)?)
}
