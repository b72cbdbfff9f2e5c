//! `modelve doctor`: what this build can do on this machine.

use std::io::Write;

use serde::Serialize;

use crate::human;
use crate::memory::Memory;
use crate::model;
use crate::output::{ACCENT, BOLD, DIM, GOOD, Output, WARN};
use crate::runtime;
use crate::store::Store;
use crate::table::{Columns, cell, plain};

/// Flags of `modelve doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  modelve doctor --json | jq .devices")]
pub struct Args {
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// Everything that matters when something is slow or missing.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    commit: &'static str,
    llama_cpp: &'static str,
    ggml: &'static str,
    target: &'static str,
    backends: Vec<&'static str>,
    devices: Vec<Device>,
    features: Vec<Features>,
    threads: u32,
    memory: Option<Memory>,
    store: Option<String>,
    default_model: String,
}

#[derive(Debug, Serialize)]
struct Device {
    name: String,
    description: String,
    gpu: bool,
    free_bytes: Option<u64>,
}

/// What one backend makes use of.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Features {
    backend: String,
    on: Vec<String>,
}

/// Prints the report.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let report = report();
    let mut out = Output::stdout();
    match args.json {
        true => out.json(&report)?,
        false => print(&report, &mut out)?,
    }
    out.flush()?;
    Ok(())
}

fn report() -> Report {
    let memory = Memory::of_this_machine();
    let devices = runtime::devices().into_iter().map(|device| Device {
        name: device.name,
        description: device.description,
        gpu: device.gpu,
        // What ggml calls the processor's free memory is all of it.
        free_bytes: match device.gpu {
            true => Some(device.free),
            false => memory.map(|memory| memory.available),
        },
    });
    let default_model = std::env::var("MODELVE_MODEL").ok();
    Report {
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("MODELVE_COMMIT"),
        llama_cpp: env!("MODELVE_LLAMA_VERSION"),
        ggml: env!("MODELVE_GGML_VERSION"),
        target: env!("MODELVE_TARGET"),
        backends: backends(),
        devices: devices.collect(),
        features: features(&runtime::system_info()),
        threads: runtime::host::threads(),
        memory,
        store: Store::from_env()
            .ok()
            .map(|store| store.root().display().to_string()),
        default_model: default_model
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| model::DEFAULT.to_owned()),
    }
}

/// What was compiled in.
fn backends() -> Vec<&'static str> {
    let compiled = [
        ("cpu", true),
        ("metal", cfg!(feature = "metal")),
        ("cuda", cfg!(feature = "cuda")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("rocm", cfg!(feature = "rocm")),
    ];
    let on = compiled.into_iter().filter(|(_, on)| *on);
    on.map(|(name, _)| name).collect()
}

/// Takes llama.cpp's line apart: `CPU : AVX2 = 1 | FMA = 0 | CUDA : ARCHS = 900 | `.
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
    let title = out.paint(BOLD, format!("modelve {}", super::VERSION));
    writeln!(out, "{title}")?;
    let mut rows = Columns::new(out, &["", ""]);
    let mut add = |name: &str, value| rows.add([cell(name, DIM), value]);
    add("built for", plain(report.target));
    add("backends", plain(report.backends.join(", ")));
    for device in &report.devices {
        // The processor's has a line of its own.
        let memory = match device.free_bytes {
            Some(free) if device.gpu => format!(", {} free", human::bytes(free)),
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
    for features in &report.features {
        let name = format!("{} features", features.backend);
        add(&name, plain(features.on.join(" ")));
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
            None => cell("this system does not say", WARN),
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
    Ok(write!(out, "{}", rows.lines())?)
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
