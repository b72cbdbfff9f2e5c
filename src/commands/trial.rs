//! Tries a model's file in a child process before this process loads it.
//!
//! llama.cpp trusts its files. Known causes of crashes are checked beforehand (the table of checks
//! in `modelve_runtime`), but these checks are complete only for some architectures and kinds of
//! vocabulary. A file of any other kind is first loaded by a child process, which computes two
//! tokens under limits of time and memory, so that a crash, an endless loop or excessive memory
//! becomes an error message. The child is this program with a hidden command. The program remembers
//! which files have passed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use crate::base::{human, infile};
use crate::hint::{Interrupted, hinted};
use crate::hub::store::Store;
use crate::program;
use crate::runtime::{
    self, Cancel, Facts, GpuLayers, LoadOptions, Model, Options, Reading, Request, Setup, Vocab,
};

/// The hidden command.
pub const COMMAND: &str = "try-file";

/// Flags of the hidden command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file to try
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Read no weights, and cut standard input into tokens
    #[arg(long)]
    vocabulary: bool,

    /// Memory for everything but mapped files, in bytes
    #[arg(long, value_name = "BYTES")]
    memory: u64,
}

/// The child's exit code for a regular error, which this process will get and report itself.
const REFUSED: u8 = 3;

/// A text with characters of several scripts, a digit, punctuation and a line feed.
const SAMPLE: &str = "The bat, 3 + é 中 ▁\n";

/// The time limit in seconds. It is extended by a second for each of these numbers of bytes of the
/// file, which a slow disk reads per second.
const SECONDS: u64 = 30;
const BYTES_PER_SECOND: u64 = 20 << 20;

/// The memory limit in bytes, besides the mapped file: the graph's buffers, a small KV cache, the
/// vocabulary.
const MEMORY: u64 = 4 << 30;

/// Maximum number of bytes that are read of the child's standard error.
const MOST_SAID: u64 = 64 << 10;

/// Tries a model's file, unless the checks for it are complete.
///
/// # Errors
/// With this file llama.cpp crashes, does not finish, or needs more memory than the file's size
/// explains.
pub fn model(path: &Path, facts: &Facts, cancel: &Cancel) -> anyhow::Result<()> {
    if facts.covered {
        return Ok(());
    }
    let stamp = Stamp::of(path);
    if stamp.as_ref().is_some_and(Stamp::is_there) {
        return Ok(());
    }
    let passed = Trial::new(path, facts.tensor_bytes).run(&[], cancel)?;
    if let (true, Some(stamp)) = (passed, stamp) {
        stamp.leave();
    }
    Ok(())
}

/// Tries a vocabulary with the text to tokenize, unless the checks for its kind are complete.
///
/// # Errors
/// See [`model`].
pub fn vocabulary(path: &Path, covered: bool, text: &[u8]) -> anyhow::Result<()> {
    if covered {
        return Ok(());
    }
    let mut trial = Trial::new(path, 0);
    trial.command.arg("--vocabulary");
    trial.run(text, &Cancel::new())?;
    Ok(())
}

/// The record that a file has passed: an empty file in the store, whose name identifies the file
/// and its version. Only the system sets a file's change time, so a file with other contents gets
/// another name here.
struct Stamp(PathBuf);

impl Stamp {
    /// The record of a file; `None` on systems without such times, and for models in several files.
    fn of(path: &Path) -> Option<Stamp> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            if path.to_string_lossy().contains("-of-") {
                return None;
            }
            let file = std::fs::metadata(path).ok()?;
            let name = format!(
                "{:x}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
                file.dev(),
                file.ino(),
                file.len(),
                file.mtime(),
                file.mtime_nsec(),
                file.ctime(),
                file.ctime_nsec()
            );
            let store = Store::from_env().ok()?;
            let program = concat!(env!("CARGO_PKG_VERSION"), "-", env!("MODELVE_COMMIT"));
            Some(Stamp(store.root().join("tried").join(program).join(name)))
        }
        #[cfg(not(unix))]
        {
            let _ = path;
            None
        }
    }

    fn is_there(&self) -> bool {
        self.0.is_file()
    }

    /// Writes the record. If that fails, the next start just tries the file again.
    fn leave(&self) {
        let folder = self.0.parent().unwrap_or(Path::new("."));
        let left = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&self.0, ""));
        if let Err(error) = left {
            tracing::debug!("cannot remember that a file passed: {error}");
        }
    }
}

struct Trial<'a> {
    path: &'a Path,
    command: Command,
    time: Duration,
    memory: u64,
}

impl<'a> Trial<'a> {
    fn new(path: &'a Path, bytes: u64) -> Self {
        let memory = MEMORY + bytes / 4;
        // Where the program is not installed, starting it fails with this name.
        let mut command = Command::new(program::path().unwrap_or_else(|| "modelve".into()));
        command
            .arg(COMMAND)
            .arg("--memory")
            .arg(memory.to_string())
            // A crash must not start a debugger, and threads should not spin while they wait.
            .env("GGML_NO_BACKTRACE", "1")
            .env("OMP_WAIT_POLICY", "passive");
        Trial {
            path,
            command,
            time: Duration::from_secs(SECONDS + bytes / BYTES_PER_SECOND),
            memory,
        }
    }

    /// Runs the child with `text` on its standard input. Returns false if it reported a regular
    /// error, which this process will get as well.
    fn run(mut self, text: &[u8], cancel: &Cancel) -> anyhow::Result<bool> {
        let mut child = self
            .command
            .arg("--")
            .arg(self.path.as_os_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start this program again to try the file")?;
        let stdin = child.stdin.take();
        let stderr = child.stderr.take();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A child that has ended no longer reads; its exit status is what matters.
                if let Some(mut stdin) = stdin {
                    let _ = stdin.write_all(text);
                }
            });
            let said = scope.spawn(move || {
                let said = stderr.map(|stderr| infile::bounded(stderr, MOST_SAID));
                said.and_then(Result::ok).unwrap_or_default()
            });
            let ended = wait(&mut child, self.time, cancel);
            let said = said.join().unwrap_or_default();
            self.judge(ended?, &String::from_utf8_lossy(&said))
        })
    }

    fn judge(&self, status: Option<ExitStatus>, said: &str) -> anyhow::Result<bool> {
        let path = self.path.display();
        let limits = "if the file is sound and this machine slow or the model unusual, --trust loads it without this trial";
        let Some(status) = status else {
            let error = anyhow!(
                "{path}: llama.cpp did not compute two tokens within {} seconds",
                self.time.as_secs()
            );
            return Err(hinted(error, limits));
        };
        let code = status.code();
        if code == Some(0) || code == Some(i32::from(REFUSED)) {
            return Ok(code == Some(0));
        }
        let memory = [
            "bad_alloc",
            "alloc failed",
            "failed to allocate",
            "memory allocation",
        ];
        if memory.iter().any(|words| said.contains(words)) {
            let error = anyhow!(
                "{path}: llama.cpp needs more than {} of memory in addition to the file to compute two tokens",
                human::bytes(self.memory)
            );
            return Err(hinted(error, limits));
        }
        let reason = said.lines().find_map(|line| line.strip_prefix(GAVE_UP));
        let how = match reason {
            Some(reason) => format!("it aborted: {}", reason.trim()),
            None if said.contains("overflowed its stack") => "its stack overflowed".to_owned(),
            None => format!("it ended by {}", ending(status)),
        };
        let error = anyhow!(
            "{path}: llama.cpp cannot compute with this file, which is damaged or of an unknown kind: {how}"
        );
        Err(hinted(
            error,
            "convert or fetch the file again; `modelve meta` shows what is in it",
        ))
    }
}

/// Describes how a process ended unexpectedly.
fn ending(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return match signal_hook::low_level::signal_name(signal) {
            Some(name) => name.to_owned(),
            None => format!("signal {signal}"),
        };
    }
    status.to_string()
}

/// Waits for the child. Kills it if the time is up, and then returns `None`, or if the user
/// cancels.
fn wait(child: &mut Child, time: Duration, cancel: &Cancel) -> anyhow::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            // Ctrl-C is also sent to the child.
            return match cancel.is_set() {
                true => Err(Interrupted.into()),
                false => Ok(Some(status)),
            };
        }
        let late = begun.elapsed() > time;
        if late || cancel.is_set() {
            let _ = child.kill();
            child.wait()?;
            return match late {
                true => Ok(None),
                false => Err(Interrupted.into()),
            };
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// The start of the line that reports an abort of llama.cpp.
pub const GAVE_UP: &str = "error: llama.cpp aborted: ";

/// The hidden command, which the child runs. Exits with 0 if the file passes.
pub fn run(args: &Args) -> anyhow::Result<()> {
    limit(Some(args.memory));
    end_with_parent();
    let done = match args.vocabulary {
        true => try_vocabulary(&args.file),
        false => try_model(&args.file),
    };
    if let Err(error) = done {
        crate::output::note(&format!("{error:#}"));
        std::process::exit(REFUSED.into());
    }
    Ok(())
}

/// Limits this process's memory, and disables core files.
pub(super) fn limit(memory: Option<u64>) {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let to = |most| Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        // Mapped files do not count as data.
        if let Some(memory) = memory {
            let _ = setrlimit(Resource::Data, to(memory));
        }
        let _ = setrlimit(Resource::Core, to(0));
    }
    let _ = memory;
}

/// Makes this process end together with the thread that started it.
fn end_with_parent() {
    #[cfg(target_os = "linux")]
    {
        let signal = Some(rustix::process::Signal::KILL);
        let _ = rustix::process::set_parent_process_death_signal(signal);
    }
}

fn try_vocabulary(path: &Path) -> anyhow::Result<()> {
    let text = infile::bounded(std::io::stdin().lock(), infile::MAX_TEXT_BYTES)?;
    let vocab = Vocab::load(path)?;
    use_vocabulary(&vocab)?;
    vocab.tokenize(&text, Reading::Prompt)?;
    vocab.tokenize(&text, Reading::TextPart)?;
    Ok(())
}

/// Tokenizes the sample and decodes every token of the vocabulary.
fn use_vocabulary(vocab: &Vocab) -> anyhow::Result<Vec<runtime::Token>> {
    for token in vocab.all() {
        vocab.piece(token, true)?;
    }
    let tokens = vocab.tokenize(SAMPLE, Reading::Prompt)?;
    vocab.detokenize(&tokens, true)?;
    Ok(tokens)
}

fn try_model(path: &Path) -> anyhow::Result<()> {
    let options = LoadOptions {
        gpu_layers: GpuLayers::Count(0),
        ..LoadOptions::default()
    };
    let model = Model::load(path, &options)?;
    let prompt = use_vocabulary(model.vocab())?;
    let options = Options {
        max_tokens: 2,
        ignore_end: true,
        ..Options::default()
    };
    let request = Request {
        prompt,
        seed: 0,
        options: Arc::new(options),
    };
    runtime::complete(&model, vec![request], Setup::default(), &mut |_| {
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn judged(raw: i32, said: &str) -> String {
        let trial = Trial::new(Path::new("x.gguf"), 0);
        let status = Some(ExitStatus::from_raw(raw));
        trial.judge(status, said).unwrap_err().to_string()
    }

    #[test]
    fn every_end_of_a_trial_has_its_words() {
        let trial = Trial::new(Path::new("x.gguf"), 0);
        for sound in [0, i32::from(REFUSED) << 8] {
            trial.judge(Some(ExitStatus::from_raw(sound)), "").unwrap();
        }
        let late = trial.judge(None, "").unwrap_err().to_string();
        assert!(late.contains("within 30 seconds"), "{late}");
        assert!(judged(11, "").contains("it ended by SIGSEGV"));
        assert!(judged(8, "").contains("it ended by SIGFPE"));
        assert!(
            judged(6, "thread 'main' has overflowed its stack").contains("its stack overflowed")
        );
        assert!(judged(6, "what():  std::bad_alloc").contains("more than 4.00 GiB of memory"));
        let said = format!("{GAVE_UP}llama-vocab.cpp:1: fatal error\n");
        assert!(judged(1 << 8, &said).contains("it aborted: llama-vocab.cpp:1: fatal error"));
    }

    #[test]
    fn a_child_that_does_not_end_is_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let ended = wait(&mut child, Duration::from_millis(50), &Cancel::new()).unwrap();
        assert!(ended.is_none());
        let cancel = Cancel::new();
        cancel.set();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(wait(&mut child, Duration::from_secs(60), &cancel).is_err());
    }
}
