//! `modelve doctor`: what this build can do on this machine.

mod auto;
mod machines;

use std::io::Write;

use comfy_table::Cell;
use serde::Serialize;

use self::auto::Auto;
use self::machines::Machines;
use crate::base::human;
use crate::base::isa::Isa;
use crate::base::memory::Memory;
use crate::commands::workers::WorkersArgs;
use crate::hub::locate;
use crate::hub::store::Store;
use crate::output::{ACCENT, BOLD, DIM, GOOD, Output, WARN};
use crate::runtime::{self, backends};
use crate::table::{Columns, cell, plain};
use crate::version::VERSION;

/// Flags of `modelve doctor`.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "Example:
  modelve doctor --json | jq .devices
  modelve doctor --workers 10.0.0.2,10.0.0.3 --key-file workers.key")]
pub struct Args {
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,

    /// Also ask these machines, and show which layers of the default model each would compute
    #[command(flatten)]
    pub workers: WorkersArgs,
}

/// The report.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    commit: &'static str,
    llama_cpp: &'static str,
    ggml: &'static str,
    target: &'static str,
    backends: Vec<&'static str>,
    libraries: Vec<Library>,
    devices: Vec<Device>,
    cpu_variant: Option<String>,
    features: Vec<Features>,
    own_kernels: Vec<String>,
    isa: &'static str,
    threads: u32,
    memory: Option<Memory>,
    store: Option<String>,
    default_model: String,
    auto: Option<Auto>,
    auto_unknown: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    machines: Option<Machines>,
}

#[derive(Debug, Serialize)]
struct Device {
    name: String,
    description: String,
    gpu: bool,
    free_bytes: Option<u64>,
    total_bytes: Option<u64>,
}

/// A backend that is a separate library, or that has a problem.
#[derive(Debug, Serialize)]
struct Library {
    backend: String,
    path: Option<String>,
    devices: usize,
    problem: Option<String>,
    remedy: Option<&'static str>,
}

/// The features that a backend uses.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Features {
    backend: String,
    on: Vec<String>,
}

/// Prints the report.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let report = report(&args.workers);
    let mut out = Output::stdout();
    match args.json {
        true => out.json(&report)?,
        false => print(&report, &mut out)?,
    }
    out.flush()?;
    Ok(())
}

fn report(workers: &WorkersArgs) -> Report {
    let memory = Memory::of_this_machine();
    let devices = runtime::devices().into_iter().map(|device| Device {
        name: device.name,
        description: device.description,
        gpu: device.gpu,
        // For the CPU, ggml reports all memory as free.
        free_bytes: match device.gpu {
            true => Some(device.free),
            false => memory.map(|memory| memory.available),
        },
        total_bytes: match device.gpu {
            true => Some(device.total),
            false => memory.map(|memory| memory.total),
        },
    });
    let (auto, auto_unknown) = match Auto::of_default() {
        Ok(auto) => (Some(auto), None),
        Err(reason) => (None, Some(reason)),
    };
    let default_model = std::env::var("MODELVE_MODEL").ok();
    Report {
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("MODELVE_COMMIT"),
        llama_cpp: env!("MODELVE_LLAMA_VERSION"),
        ggml: env!("MODELVE_GGML_VERSION"),
        target: env!("MODELVE_TARGET"),
        backends: compiled(),
        libraries: libraries(),
        devices: devices.collect(),
        cpu_variant: cpu_variant(),
        features: features(&runtime::system_info()),
        own_kernels: runtime::own_kernels().map(|ty| ty.to_string()).collect(),
        isa: Isa::detect().name(),
        threads: runtime::host::threads(),
        memory,
        store: Store::from_env()
            .ok()
            .map(|store| store.root().display().to_string()),
        default_model: default_model
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| locate::DEFAULT.to_owned()),
        auto,
        auto_unknown,
        machines: workers.any().then(|| Machines::ask(workers)),
    }
}

/// The backends to report: those that were loaded from libraries or have a problem.
fn libraries() -> Vec<Library> {
    backends::backends()
        .iter()
        .filter(|backend| backend.library.is_some() || backend.problem.is_some())
        .map(|backend| Library {
            backend: backend.name.clone(),
            path: backend
                .library
                .as_ref()
                .map(|path| path.display().to_string()),
            devices: backend.devices,
            problem: backend.problem.clone(),
            remedy: backend.remedy(),
        })
        .collect()
}

/// The variant of the CPU backend that was loaded: `haswell` for `libggml-cpu-haswell.so`.
fn cpu_variant() -> Option<String> {
    let cpu = backends::backends()
        .iter()
        .find(|backend| backend.name == "CPU")?;
    let stem = cpu.library.as_ref()?.file_stem()?.to_str()?;
    Some(stem.split_once("ggml-cpu-")?.1.to_owned())
}

/// The backends that were compiled in or built as libraries.
fn compiled() -> Vec<&'static str> {
    let compiled = [
        ("cpu", true),
        ("metal", cfg!(feature = "metal")),
        ("cuda", cfg!(feature = "cuda")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("rocm", cfg!(feature = "rocm")),
        ("rpc", backends::computes_elsewhere()),
    ];
    let on = compiled.into_iter().filter(|(_, on)| *on);
    on.map(|(name, _)| name).collect()
}

/// Parses llama.cpp's line of features: `CPU : AVX2 = 1 | FMA = 0 | CUDA : ARCHS = 900 | `.
fn features(line: &str) -> Vec<Features> {
    let mut found: Vec<Features> = Vec::new();
    for part in line
        .split('|')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let setting = match part.split_once(" : ") {
            Some((backend, setting)) => {
                found.push(Features {
                    backend: backend.trim().to_owned(),
                    on: Vec::new(),
                });
                setting
            }
            None => part,
        };
        let (name, value) = setting.split_once('=').unwrap_or((setting, "1"));
        let (name, value) = (name.trim(), value.trim());
        if let Some(last) = found.last_mut() {
            match value {
                "0" => {}
                "1" => last.on.push(name.to_owned()),
                _ => last.on.push(format!("{name}={value}")),
            }
        }
    }
    found
}

fn print(report: &Report, out: &mut Output) -> anyhow::Result<()> {
    let title = out.paint(BOLD, format!("modelve {}", VERSION));
    writeln!(out, "{title}")?;
    let mut rows = Columns::new(out, &["", ""]);
    let mut add = |name: &str, value| rows.add([cell(name, DIM), value]);
    add("built for", plain(report.target));
    add("backends", plain(report.backends.join(", ")));
    for library in &report.libraries {
        for (name, line) in library_lines(library) {
            add(name, line);
        }
    }
    if report.devices.iter().all(|device| device.gpu) {
        let folders = backends::folders();
        let folders: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
        let line = format!(
            "none for the processor in {}; unpack the program together with that folder",
            folders.join(" or ")
        );
        add("library", cell(human::escape(line.as_bytes()), WARN));
    }
    for device in &report.devices {
        // The memory of the CPU is on a line of its own.
        let memory = match (device.free_bytes, device.total_bytes) {
            (Some(free), Some(total)) if device.gpu => {
                format!(", {} free of {}", human::bytes(free), human::bytes(total))
            }
            _ => String::new(),
        };
        let text = format!("{}: {}{memory}", device.name, device.description.trim());
        let style = if device.gpu {
            GOOD
        } else {
            anstyle::Style::new()
        };
        add("device", cell(human::escape(text.as_bytes()), style));
    }
    if let Some(variant) = &report.cpu_variant {
        add("CPU variant", plain(variant));
    }
    for features in &report.features {
        let name = format!("{} features", features.backend);
        add(&name, plain(features.on.join(" ")));
    }
    if !report.own_kernels.is_empty() {
        let types = report.own_kernels.join(" ");
        add(
            "own kernels",
            plain(format!("{types}, up to {}", report.isa)),
        );
    }
    add("threads", plain(report.threads));
    add(
        "memory",
        match &report.memory {
            Some(memory) => {
                let (total, free) = (human::bytes(memory.total), human::bytes(memory.available));
                let limit = memory.limit.map_or("", |_| ", a control group's limit");
                plain(format!("{free} free of {total}{limit}"))
            }
            None => cell("unknown on this system", WARN),
        },
    );
    add(
        "store",
        match &report.store {
            Some(store) => plain(human::escape(store.as_bytes())),
            None => cell("none: neither MODELVE_HOME nor HOME is set", WARN),
        },
    );
    add(
        "default model",
        cell(human::escape(report.default_model.as_bytes()), ACCENT),
    );
    for (name, line) in auto_lines(report) {
        add(name, plain(human::escape(line.as_bytes())));
    }
    for (name, line) in report.machines.iter().flat_map(Machines::lines) {
        add(name, plain(human::escape(line.as_bytes())));
    }
    Ok(write!(out, "{}", rows.lines())?)
}

fn library_lines(library: &Library) -> Vec<(&'static str, Cell)> {
    let path = library.path.as_deref().unwrap_or("in the program");
    let state = match (&library.problem, library.devices) {
        (Some(problem), _) => problem.clone(),
        (None, 1) => "1 device".to_owned(),
        (None, n) => format!("{n} devices"),
    };
    let text = format!("{}: {path}: {state}", library.backend);
    let style = match library.problem {
        Some(_) => WARN,
        None => anstyle::Style::new(),
    };
    let mut lines = vec![("library", cell(human::escape(text.as_bytes()), style))];
    if let Some(remedy) = library.remedy {
        lines.push(("", cell(remedy.to_owned(), DIM)));
    }
    lines
}

fn auto_lines(report: &Report) -> Vec<(&'static str, String)> {
    let Some(auto) = &report.auto else {
        let reason = report.auto_unknown.as_deref().unwrap_or_default();
        return vec![("auto", format!("not known: {reason}"))];
    };
    let weights = match auto.repacked_from_tokens {
        Some(n) => format!("repacked for answers of {n} tokens or more, else in place"),
        None => "in place".to_owned(),
    };
    vec![
        (
            "auto: layers",
            format!(
                "{} of {} on a GPU, {} computes: {}",
                auto.gpu_layers, auto.layers, auto.device, auto.gpu_why
            ),
        ),
        ("auto: weights", format!("{weights}: {}", auto.weights_why)),
        (
            "auto: context",
            format!(
                "up to {} tokens: {}",
                human::count(auto.longest_text),
                auto.context_why
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_cpps_line_is_taken_apart() {
        let line = "CPU : SSE3 = 1 | AVX512 = 0 | LLAMAFILE = 1 | CUDA : ARCHS = 890,900 | ";
        let expected = [
            ("CPU", vec!["SSE3", "LLAMAFILE"]),
            ("CUDA", vec!["ARCHS=890,900"]),
        ];
        let expected = expected.map(|(backend, on)| Features {
            backend: backend.to_owned(),
            on: on.into_iter().map(str::to_owned).collect(),
        });
        assert_eq!(features(line), expected);
        assert_eq!(features(""), []);
    }
}
