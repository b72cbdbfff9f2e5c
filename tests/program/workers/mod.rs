//! `modelve worker` and `--workers`, over loopback.

mod door;
mod equal;
mod faults;
mod keys;
mod plans;
mod script;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::tiny_gguf::Tiny;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program without settings of the machine that the tests run on.
fn modelve() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modelve"));
    command
        .env("HF_HUB_OFFLINE", "1")
        .env("NO_COLOR", "1")
        .env("OMP_WAIT_POLICY", "passive")
        .env_remove("MODELVE_WORKERS")
        .env_remove("MODELVE_KEY_FILE")
        .env_remove("MODELVE_MODEL")
        .stdin(Stdio::null());
    command
}

/// A worker, ended with the test.
struct Worker {
    child: Child,
    address: String,
    notes: Arc<Mutex<Vec<String>>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Worker {
    fn start(arguments: &[&str]) -> Worker {
        Self::at("127.0.0.1:0", arguments)
    }

    fn at(listen: &str, arguments: &[&str]) -> Worker {
        let mut child = modelve()
            .args(["worker", "--listen", listen, "--threads", "1"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let notes = Arc::new(Mutex::new(Vec::new()));
        let mut said = Vec::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it ended: {said:?}"));
            let line = line.unwrap();
            if let Some(address) = line.strip_prefix("listening on ") {
                break address.to_owned();
            }
            said.push(line);
        };
        let kept = Arc::clone(&notes);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        Worker {
            child,
            address,
            notes,
        }
    }

    fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap().clone()
    }

    /// The first note with these words.
    fn note(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(note) = self.notes().iter().find(|note| note.contains(words)) {
                return note.clone();
            }
            assert!(
                Instant::now() < deadline,
                "no {words:?} in {:?}",
                self.notes()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A model with six layers in which each token takes some milliseconds.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        Tiny {
            layers: 6,
            width: 256,
            heads: 8,
            heads_kv: 4,
            feed_forward: 768,
            original: 4096,
            ..Tiny::default()
        }
        .write(&dir.path().join("model.gguf"));
        Bench { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command on this model.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = modelve();
        command
            .args(arguments)
            .arg("-m")
            .arg(self.path("model.gguf"))
            .args(["--threads", "1"])
            .env("MODELVE_HOME", self.path("home"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

/// What a command that must succeed prints.
fn printed(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a command that must fail says, and its exit code.
fn refused(output: &Output) -> (String, i32) {
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (
        said,
        output.status.code().expect("it is not ended by a signal"),
    )
}

fn new_key(path: &Path) {
    let made = modelve().arg("worker").arg("--new-key").arg(path).output();
    printed(&made.unwrap());
}
