//! What the program does with whole files: `modelve.convert`, `modelve.compare`, `m.meta`.
//!
//! Each is the command of the same name in a process of its own, so that what takes minutes and
//! gigabytes ends with it, and Ctrl-C stops it without the interpreter. Its messages come on
//! `sys.stderr`, its JSON is the result, and its error is the exception.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use modelve::probe::html::{About, Page};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::Value;

use crate::error::{raised, with_hint};
use crate::model::one_or_all;
use crate::result::{Comparison, Look, Shown, Table};
use crate::value;
use crate::worker::LOOK;

/// How long the program may take to end after Ctrl-C.
const PATIENCE: Duration = Duration::from_secs(10);

const COMPARISON: Look = Look {
    page: Some(Page::COMPARE),
    listed: true,
    table: Table::Rows("worst"),
    brief: &["a", "b", "kl_mean", "same_top"],
};

/// What a running program says.
enum Said {
    /// A line on standard error.
    Note(String),
    /// All of standard output.
    Data(String),
}

/// Runs the program with these words; returns the JSON objects that it prints.
pub fn run(py: Python<'_>, words: &[String]) -> PyResult<Vec<Value>> {
    let failed = |error: anyhow::Error| raised(py, &error);
    let program = modelve::program::path().ok_or_else(|| {
        let what = anyhow!("the program modelve is not installed beside this module");
        failed(modelve::hint::hinted(what, "pip install modelve"))
    })?;
    let mut child = Command::new(&program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
        .map_err(failed)?;
    let (say, hear) = mpsc::channel();
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let notes = say.clone();
    std::thread::spawn(move || {
        for line in err.into_iter().flat_map(|err| BufReader::new(err).lines()) {
            let Ok(line) = line else { break };
            drop(notes.send(Said::Note(line)));
        }
    });
    std::thread::spawn(move || {
        let mut data = String::new();
        if let Some(mut out) = out {
            drop(out.read_to_string(&mut data));
        }
        drop(say.send(Said::Data(data)));
    });

    let hear = std::sync::Mutex::new(hear);
    let mut data = String::new();
    // An error is the last thing that the program says.
    let mut complaint: Vec<String> = Vec::new();
    loop {
        let said = py.detach(|| match hear.lock() {
            Ok(hear) => hear.recv_timeout(LOOK),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        });
        match said {
            Ok(Said::Data(all)) => data = all,
            Ok(Said::Note(line)) if line.starts_with("error: ") || !complaint.is_empty() => {
                complaint.push(line);
            }
            Ok(Said::Note(line)) => tell(py, &line)?,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                py.check_signals()
                    .inspect_err(|_| py.detach(|| stop(&mut child)))?;
            }
        }
    }
    let status = py.detach(|| child.wait())?;
    if !status.success() {
        py.check_signals()?;
        return Err(complained(py, &complaint, &status.to_string()));
    }
    let objects = serde_json::Deserializer::from_str(&data).into_iter();
    let objects: Result<Vec<Value>, _> = objects.collect();
    objects.map_err(|error| failed(error.into()))
}

/// Writes a line where Python's messages go.
fn tell(py: Python<'_>, line: &str) -> PyResult<()> {
    let err = py.import("sys")?.getattr("stderr")?;
    if !err.is_none() {
        err.call_method1("write", (format!("{line}\n"),))?;
        err.call_method0("flush")?;
    }
    Ok(())
}

/// Asks the program to stop, as Ctrl-C does, and ends it if it does not.
fn stop(child: &mut Child) {
    #[cfg(unix)]
    {
        let id = child.id().to_string();
        drop(Command::new("kill").args(["-INT", &id]).status());
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(LOOK),
                _ => return,
            }
        }
    }
    drop(child.kill());
    drop(child.wait());
}

/// The exception that the program's error is.
fn complained(py: Python<'_>, lines: &[String], status: &str) -> PyErr {
    let text = |lines: &[String], word: &str| {
        let of = lines.iter().find_map(|line| line.strip_prefix(word))?;
        Some(of.trim().to_owned())
    };
    let hint = lines.iter().position(|line| line.starts_with("hint: "));
    let (error, hint) = lines.split_at(hint.unwrap_or(lines.len()));
    let Some(mut what) = text(error, "error: ") else {
        return raised(py, &anyhow!("modelve ended with {status}"));
    };
    for cause in error.iter().skip(1) {
        let cause = cause.trim().trim_start_matches("caused by: ");
        what = format!("{what}: {cause}");
    }
    let hint: Vec<&str> = hint
        .iter()
        .map(|line| line.trim_start_matches("hint: ").trim())
        .collect();
    let hint = hint.join("\n");
    with_hint(py, what, (!hint.is_empty()).then_some(&hint))
}

/// Adds `--flag=value` for what was given.
fn flag(words: &mut Vec<String>, name: &str, value: Option<impl ToString>) {
    words.extend(value.map(|value| format!("--{name}={}", value.to_string())));
}

/// Converts a checkpoint, a folder or `org/name` on the Hub, to a quantized GGUF; returns what
/// `modelve convert --json` tells. `load(result["model"])` loads it.
#[pyfunction]
#[pyo3(signature = (model, *, quant=None, output=None, adapter=None, imatrix=None, force=false,
    dry_run=false, verify=false, threads=None, offline=false))]
#[allow(clippy::too_many_arguments)]
pub fn convert(
    py: Python<'_>,
    model: std::path::PathBuf,
    quant: Option<String>,
    output: Option<std::path::PathBuf>,
    adapter: Option<std::path::PathBuf>,
    imatrix: Option<std::path::PathBuf>,
    force: bool,
    dry_run: bool,
    verify: bool,
    threads: Option<u32>,
    offline: bool,
) -> PyResult<Py<PyAny>> {
    let mut words = vec!["convert".to_owned(), "--json".to_owned()];
    flag(&mut words, "quant", quant);
    flag(
        &mut words,
        "output",
        output.map(|path| path.display().to_string()),
    );
    flag(
        &mut words,
        "adapter",
        adapter.map(|path| path.display().to_string()),
    );
    flag(
        &mut words,
        "imatrix",
        imatrix.map(|path| path.display().to_string()),
    );
    flag(&mut words, "threads", threads);
    let switches = [
        ("--force", force),
        ("--dry-run", dry_run),
        ("--verify", verify),
        ("--offline", offline),
    ];
    let given = switches.into_iter().filter(|(_, given)| *given);
    words.extend(given.map(|(switch, _)| switch.to_owned()));
    words.extend(["--".to_owned(), model.display().to_string()]);
    let told = run(py, &words)?;
    value::plain(py, told.first().unwrap_or(&Value::Null))
}

/// Compares files of one model, the best first, over a text: a `Comparison`, or a list of one for
/// each file after the second.
#[pyfunction]
#[pyo3(signature = (models, *, text=None, file=None, tokens=None, window=None, stride=None, worst=10,
    greedy=32, threads=None))]
#[allow(clippy::too_many_arguments)]
pub fn compare<'py>(
    py: Python<'py>,
    models: Vec<std::path::PathBuf>,
    text: Option<String>,
    file: Option<std::path::PathBuf>,
    tokens: Option<u32>,
    window: Option<usize>,
    stride: Option<usize>,
    worst: usize,
    greedy: usize,
    threads: Option<u32>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut words = vec!["compare".to_owned(), "--json".to_owned()];
    flag(&mut words, "text", text);
    flag(
        &mut words,
        "file",
        file.map(|path| path.display().to_string()),
    );
    flag(&mut words, "tokens", tokens);
    flag(&mut words, "window", window);
    flag(&mut words, "stride", stride);
    flag(&mut words, "worst", Some(worst));
    flag(&mut words, "greedy", Some(greedy));
    flag(&mut words, "threads", threads);
    words.push("--".to_owned());
    words.extend(models.iter().map(|path| path.display().to_string()));
    let told = run(py, &words)?;
    let several = told.len() != 1;
    let shown = told.iter().map(|one| {
        let about = About {
            command: modelve::commands::command_line::CommandLine::of(
                words.iter().filter(|word| *word != "--json").cloned(),
            )
            .to_string(),
            date: chrono::Local::now().format("%Y-%m-%d %H:%M").to_string(),
            ..About::default()
        };
        Ok(Comparison(Shown::new(COMPARISON, about, one)?))
    });
    let shown: anyhow::Result<Vec<Comparison>> = shown.collect();
    one_or_all(py, shown.map_err(|error| raised(py, &error))?, several)
}

/// What `modelve meta FILE --json` tells.
///
/// # Errors
/// Those of the command.
pub fn meta(py: Python<'_>, path: &std::path::Path) -> PyResult<Py<PyDict>> {
    let words = ["meta".to_owned(), "--json".to_owned(), "--".to_owned()];
    let words = [&words[..], &[path.display().to_string()]].concat();
    let told = run(py, &words)?;
    match told.into_iter().next() {
        Some(Value::Object(object)) => {
            let told = value::plain(py, &Value::Object(object))?;
            Ok(told.bind(py).cast::<PyDict>()?.clone().unbind())
        }
        _ => Ok(PyDict::new(py).unbind()),
    }
}
