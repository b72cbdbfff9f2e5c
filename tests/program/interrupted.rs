//! Experiments that are stopped: what was computed by then is shown, marked as a part, and the exit
//! code is 130. Ctrl-C is pressed once the progress says that something was computed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::terminal;
use crate::support::tiny_gguf::Tiny;

/// A model that computes slowly enough to be stopped.
struct Slow {
    dir: tempfile::TempDir,
    model: PathBuf,
}

impl Slow {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("slow.gguf");
        Tiny {
            layers: 8,
            width: 512,
            heads: 8,
            heads_kv: 8,
            feed_forward: 1024,
            original: 4096,
            ..Tiny::default()
        }
        .write(&model);
        Slow { dir, model }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_modelve"));
        command.args(arguments).arg("-m").arg(&self.model);
        command.args(["--threads", "1"]).env("NO_COLOR", "1");
        command.env("MODELVE_HOME", self.dir.path());
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What is on a terminal after Ctrl-C was pressed when `at` was seen there; none without a
    /// terminal to try it on.
    #[allow(clippy::print_stderr)]
    fn stopped(&self, arguments: &[&str], at: &str) -> Option<String> {
        let shown = terminal::run(&self.command(arguments), 100, at);
        let Some((shown, code)) = shown else {
            eprintln!("skipped: no Python to make a terminal with");
            return None;
        };
        assert_eq!(code, 130, "{shown}");
        Some(shown)
    }
}

/// The object that was printed among what else came to the screen.
fn object(shown: &str) -> Value {
    let lines = terminal::lines(shown);
    let line = lines
        .iter()
        .find_map(|line| line.find('{').map(|at| &line[at..]));
    serde_json::from_str(line.unwrap_or_else(|| panic!("no object: {shown}"))).unwrap()
}

const DONE: &str = r"regex:\b([5-9]|[1-9][0-9]+) of [0-9,]+ ";

#[test]
fn heads_that_were_tried_by_then_are_ranked() {
    let slow = Slow::new();
    let prompt = "the ball hit the bat ".repeat(20);
    let at = format!("{DONE}passes");
    let Some(shown) = slow.stopped(&["ablate", &prompt, "--all", "heads"], &at) else {
        return;
    };
    assert!(shown.contains("interrupted: results so far"), "{shown}");
    let shown = slow.stopped(&["ablate", &prompt, "--all", "heads", "--json"], &at);
    let found = object(&shown.unwrap());
    let tried = found["parts"].as_array().unwrap().len();
    assert_eq!(found["complete"], false);
    assert!((4..64).contains(&tried), "{tried}");
}

#[test]
fn places_that_were_patched_by_then_have_a_share() {
    let slow = Slow::new();
    let (clean, corrupt) = (
        "the ball ".to_owned() + &"hit the bat ".repeat(30),
        "the cave ".to_owned() + &"hit the bat ".repeat(30),
    );
    let at = format!("{DONE}places");
    let arguments = ["patch", &clean, &corrupt];
    let Some(shown) = slow.stopped(&arguments, &at) else {
        return;
    };
    assert!(shown.contains("interrupted: results so far"), "{shown}");
    let page = slow.file("part.html");
    let more = ["--json", "--html", page.to_str().unwrap()];
    let shown = slow.stopped(&[&arguments[..], &more].concat(), &at);
    let found = object(&shown.unwrap());
    assert_eq!(found["complete"], false);
    let values = found["values"].as_array().unwrap().iter();
    let values: Vec<&Value> = values.flat_map(|row| row.as_array().unwrap()).collect();
    let missing = values.iter().filter(|value| value.is_null()).count();
    assert!(missing > 0 && missing < values.len() - 4, "{missing}");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains(r#""complete":false"#));
}

#[test]
fn draws_that_were_read_by_then_have_scores() {
    let slow = Slow::new();
    let at = r"regex:\b[0-9]{3,} of [0-9,]+ tokens";
    let arguments = ["heads", "--length", "20", "--draws", "2000", "--json"];
    let Some(shown) = slow.stopped(&arguments, at) else {
        return;
    };
    let found = object(&shown);
    assert_eq!(found["complete"], false);
    let draws = found["random"].as_array().unwrap().len();
    assert!((1..2000).contains(&draws), "{draws}");
    assert_eq!(found["induction"].as_array().unwrap().len(), 8);
    let shown = slow.stopped(&arguments[..5], at).unwrap();
    assert!(shown.contains("interrupted: results so far"), "{shown}");
}

/// A text of so many words, in a file.
fn text(slow: &Slow, words: usize) -> PathBuf {
    let file = slow.file(&format!("text-{words}.txt"));
    std::fs::write(&file, "the ball hit the bat\n".repeat(words / 5)).unwrap();
    file
}

/// The metadata and the tensors of a safetensors file.
fn header(file: &Path) -> Value {
    let bytes = std::fs::read(file).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    let tensors = header.as_object().unwrap().values();
    let ends = tensors.filter_map(|t| t["data_offsets"][1].as_u64());
    assert_eq!(8 + n as u64 + ends.max().unwrap(), bytes.len() as u64);
    header
}

#[test]
fn activations_computed_by_then_are_a_file_that_says_so() {
    let slow = Slow::new();
    let (texts, out) = (text(&slow, 100_000), slow.file("acts.safetensors"));
    let (texts, name) = (texts.to_str().unwrap(), out.to_str().unwrap());
    let arguments = ["dump", "--file", texts, "--lines", "-o", name];
    let Some(shown) = slow.stopped(&arguments, "regex:\\b[0-9]{3,} of [0-9,]+ tokens") else {
        return;
    };
    assert!(shown.contains(", a part"), "{shown}");
    let header = header(&out);
    assert_eq!(header["__metadata__"]["complete"], "false");
    let rows = header["ids"]["shape"][0].as_u64().unwrap();
    assert!((100..100_000).contains(&rows), "{rows}");
    assert_eq!(header["residual.7"]["shape"][0], rows);
    assert!(parts(&slow).is_empty());
}

/// Files that wait for their name.
fn parts(slow: &Slow) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(slow.dir.path()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|e| e == "part"))
        .collect()
}

#[test]
fn what_a_killed_dump_leaves_the_next_one_removes() {
    let slow = Slow::new();
    let (long, short) = (text(&slow, 100_000), text(&slow, 10));
    let out = slow.file("acts.safetensors");
    let dump = |texts: &Path| {
        let (texts, out) = (texts.to_str().unwrap(), out.to_str().unwrap());
        let mut command = slow.command(&["dump", "--lines", "--file", texts, "-o", out]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let mut child = dump(&long).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(100);
    // It is being written once it has a length.
    while !parts(&slow)
        .iter()
        .any(|part| part.metadata().is_ok_and(|of| of.len() > 0))
    {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(parts(&slow).len(), 1);
    assert!(!out.exists());
    assert!(dump(&short).status().unwrap().success());
    assert!(parts(&slow).is_empty());
    assert_eq!(header(&out)["__metadata__"]["complete"], "true");
}
