//! `modelve complete` as people run it, on a tiny Phi-3 of random weights.

mod choice;
#[cfg(unix)]
mod end;
mod output;
mod refusal;
mod scale;
#[cfg(unix)]
mod terminal;
#[cfg(target_os = "linux")]
mod waiting;

use crate::support::terminal as pseudo_terminal;
use crate::support::tiny_gguf;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::support::tiny_gguf::Tiny;
use serde_json::Value;

/// Near the reference, so that equal means equal.
const EXACT: [&str; 4] = ["--kv-type", "f32", "--flash-attn", "off"];

struct Files {
    _dir: tempfile::TempDir,
    small: PathBuf,
    /// Slow enough to be interrupted.
    large: PathBuf,
}

fn files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (small, large) = (dir.path().join("small.gguf"), dir.path().join("large.gguf"));
        Tiny {
            context: 4_000_000_000,
            ..Tiny::default()
        }
        .write(&small);
        let wide = Tiny {
            width: 512,
            heads: 8,
            heads_kv: 8,
            feed_forward: 1024,
            ..Tiny::default()
        };
        Tiny {
            layers: 8,
            context: 131_072,
            original: 4096,
            ..wide
        }
        .write(&large);
        Files {
            _dir: dir,
            small,
            large,
        }
    })
}

fn modelve(model: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modelve"));
    command
        .arg("complete")
        .arg("-m")
        .arg(model)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    command
}

fn small() -> Command {
    modelve(&files().small)
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    stdout(output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Exit code, and what was said on standard error.
fn failure(command: &mut Command) -> (i32, String) {
    let output = run(command);
    assert!(
        output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}
