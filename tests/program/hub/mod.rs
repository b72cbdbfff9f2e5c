//! Models on the Hub by the names that people type, and the commands that errors propose: each
//! is run as it is printed.

mod get;
mod preview;
mod tls;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use assert_cmd::cargo::CommandCargoExt;

use crate::support::hub_server::HubServer;

const REPO: &str = "org/Phi-GGUF";
const LABELS: [&str; 5] = ["q4", "fp16", "UD-Q4_K_XL", "IQ2_M", "MXFP4_MOE"];

/// A Hub with GGUF files of a repository, and a place for what is fetched from it.
struct Bench {
    server: HubServer,
    dir: tempfile::TempDir,
}

/// What a command did.
struct Ran {
    code: Option<i32>,
    out: String,
    said: String,
}

impl Bench {
    fn new() -> Bench {
        let server = HubServer::start();
        let tiny = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/crates/hub/tiny/tiny-phi3-Q4_K_M.gguf"
        );
        let tiny = fs::read(tiny).unwrap();
        server.repo(REPO);
        for label in LABELS {
            server.large(REPO, &file(label), &tiny);
        }
        Bench::of(server)
    }

    fn of(server: HubServer) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        Bench { server, dir }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::cargo_bin("modelve").unwrap();
        command.args(arguments);
        self.run_command(command)
    }

    /// Runs a line as it is printed, in a shell.
    fn paste(&self, line: &str) -> Ran {
        let program = PathBuf::from(Command::cargo_bin("modelve").unwrap().get_program());
        let mut folders = vec![program.parent().unwrap().to_owned()];
        folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command.env("PATH", std::env::join_paths(folders).unwrap());
        self.run_command(command)
    }

    fn run_command(&self, mut command: Command) -> Ran {
        self.prepare(&mut command);
        Self::finish(command)
    }

    /// Gives a command this Hub, and places of its own.
    fn prepare(&self, command: &mut Command) {
        command
            .current_dir(self.dir.path())
            .env("HF_ENDPOINT", self.server.endpoint())
            .env("HF_HOME", self.dir.path().join("hf"))
            .env("MODELVE_HOME", self.dir.path().join("home"))
            .env("NO_COLOR", "1")
            .env_remove("HF_HUB_OFFLINE")
            .env_remove("HF_HUB_CACHE")
            .env_remove("HF_TOKEN")
            .env_remove("MODELVE_MODEL")
            .stdin(Stdio::null());
    }

    fn finish(mut command: Command) -> Ran {
        let output = command.output().unwrap();
        Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            said: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn good(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.said);
        ran.out
    }

    /// Runs what must fail, then each command that its hints propose, none of which may. Returns what
    /// was said, and the first of the commands.
    fn hinted(&self, arguments: &[&str]) -> (String, String) {
        let ran = self.run(arguments);
        assert_ne!(ran.code, Some(0), "{arguments:?}");
        let commands = self.paste_all(&ran.said);
        (ran.said, commands[0].clone())
    }

    /// Runs every command that lines end with.
    fn paste_all(&self, said: &str) -> Vec<String> {
        let commands = said
            .lines()
            .filter_map(|line| line.split_once(": modelve "));
        let commands: Vec<String> = commands
            .map(|(_, command)| format!("modelve {}", command.rsplit(": modelve ").next().unwrap()))
            .collect();
        for command in &commands {
            let ran = self.paste(command);
            assert_eq!(ran.code, Some(0), "{command}: {}", ran.said);
        }
        commands
    }
}

fn file(label: &str) -> String {
    format!("Phi-3-mini-4k-instruct-{label}.gguf")
}

#[test]
fn a_label_fetches_its_file_and_finds_it_again() {
    let bench = Bench::new();
    for (label, publisher) in [
        ("FP16", "fp16"),
        ("q4", "q4"),
        ("UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("IQ2_M", "IQ2_M"),
        ("mxfp4", "MXFP4_MOE"),
    ] {
        let id = format!("{REPO}:{label}");
        let out = bench.good(&["convert", &id]);
        assert!(out.contains(&file(publisher)), "{label}: {out}");
        let out = bench.good(&["convert", REPO, "-q", label, "--offline", "--json"]);
        assert!(out.contains(&file(publisher)), "{label}: {out}");
        let out = bench.good(&["meta", &id]);
        assert!(out.contains("phi3"), "{out}");
    }
}

#[test]
fn commands_that_hints_print_work() {
    let bench = Bench::new();
    let (said, command) = bench.hinted(&["convert", REPO]);
    assert!(said.contains("holds several GGUF files"), "{said}");
    assert_eq!(command, format!("modelve get {REPO}:IQ2_M"));

    let (said, command) = bench.hinted(&["convert", &format!("{REPO}:Q4_K_XS")]);
    assert!(said.contains("has no GGUF file Q4_K_XS"), "{said}");
    assert_eq!(command, format!("modelve get {REPO}:UD-Q4_K_XL"));
    // A type that is made here, of a repository where there is nothing to make it of.
    let (said, _) = bench.hinted(&["convert", REPO, "-q", "Q8_0"]);
    assert!(said.contains("has no GGUF file Q8_0"), "{said}");

    // Looked up here: the first is here, the second is not, of the last nothing is.
    let (said, command) = bench.hinted(&["vocab", "-m", &format!("{REPO}:FP16")]);
    assert!(said.contains("not on this machine as FP16"), "{said}");
    assert_eq!(command, format!("modelve get {REPO}:FP16"));
    bench.good(&["vocab", "-m", &format!("{REPO}:FP16")]);
    fs::remove_dir_all(bench.dir.path().join("hf")).unwrap();
    let (_, command) = bench.hinted(&["vocab", "-m", &format!("{REPO}:q4")]);
    assert_eq!(command, format!("modelve get {REPO}:Q4"));
}

#[test]
fn a_label_that_nothing_fits_is_no_type() {
    let bench = Bench::new();
    bench
        .server
        .repo("org/phi")
        .small("org/phi", "config.json", b"{}");
    let ran = bench.run(&["convert", "org/phi:Q4_X"]);
    assert_eq!(ran.code, Some(2), "{}", ran.said);
    assert!(
        ran.said.contains("no type `Q4_X`; there are"),
        "{}",
        ran.said
    );
    let ran = bench.run(&["convert", &format!("{REPO}:q4"), "--dry-run"]);
    assert_eq!(ran.code, Some(2), "{}", ran.said);
    assert!(bench.server.ranges("gguf").is_empty(), "nothing is fetched");
    let ran = bench.run(&["convert", REPO, "--dry-run"]);
    assert_eq!(ran.code, Some(1), "{}", ran.said);
    assert!(ran.said.contains("holds GGUF files"), "{}", ran.said);
    assert!(
        ran.said.contains("fetch one of them: modelve get"),
        "{}",
        ran.said
    );
    bench.paste_all(&ran.said);
}

#[test]
fn an_output_that_is_not_written_is_an_error_with_a_way_out() {
    let bench = Bench::new();
    let ran = bench.run(&["convert", &format!("{REPO}:q4"), "-o", "x.gguf"]);
    assert_eq!(ran.code, Some(1), "{}", ran.said);
    let (_, copy) = ran.said.split_once("copy it: cp ").unwrap();
    let mut paths = copy.split_whitespace().map(PathBuf::from);
    let (from, to) = (paths.next().unwrap(), paths.next().unwrap());
    assert!(from.ends_with(file("q4")) && from.is_file(), "{copy}");
    assert_eq!(to, PathBuf::from("x.gguf"));
}

#[test]
fn a_listing_without_end_or_sense_ends_in_words() {
    use crate::support::hub_server::Fault;
    let sizes = r#"[{"type":"file","path":"config.json","size":1},
        {"type":"file","path":"model.safetensors","size":18446744073709551615}]"#;
    let hashed = sizes.replace("}", &format!(r#","oid":"{}"}}"#, "a".repeat(40)));
    for (fault, said) in [
        (Fault::Endless, "it is longer than 64"),
        (Fault::Body(hashed, Vec::new()), "impossible sizes"),
    ] {
        let bench = Bench::new();
        bench.server.fault("GET", "/tree/", 9, fault);
        let ran = bench.run(&["convert", REPO]);
        assert_eq!(ran.code, Some(1), "{}", ran.said);
        assert!(ran.said.contains(said), "{}", ran.said);
    }
}
