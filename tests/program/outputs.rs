//! Files that commands write: nothing of the user's is lost, whatever the output is named.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::support::tiny_gguf::Tiny;
use assert_cmd::cargo::CommandCargoExt;

/// A folder with a model and a text in it, and the program run there.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Tiny::default().write(&dir.path().join("own.gguf"));
        fs::write(dir.path().join("in.txt"), "the ball hit the bat").unwrap();
        Bench { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("modelve").unwrap();
        command
            .current_dir(self.dir.path())
            .env("MODELVE_MODEL", "./own.gguf")
            .env("MODELVE_HOME", self.path("home"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must be refused before it prints anything, with what it says.
    fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        said
    }

    /// Runs a command that must do its work.
    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The bytes of a file stay, and no temporary file is left beside it.
    fn keeps(&self, name: &str, work: impl FnOnce()) {
        let before = fs::read(self.path(name)).unwrap();
        work();
        assert!(
            fs::read(self.path(name)).unwrap() == before,
            "{name} was changed"
        );
        let names = fs::read_dir(self.dir.path()).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        let part = |name: &std::ffi::OsString| name.to_string_lossy().ends_with(".part");
        assert!(!names.iter().any(part), "{names:?}");
    }
}

/// Every command that writes a page.
const WRITERS: [&[&str]; 5] = [
    &["next", "the ball"],
    &["score", "the ball hit"],
    &["lens", "the ball"],
    &["attention", "the ball"],
    &["compare", "own.gguf", "own.gguf", "--text", "the ball hit"],
];

#[test]
fn a_page_does_not_replace_the_model_it_is_about() {
    let bench = Bench::new();
    fs::hard_link(bench.path("own.gguf"), bench.path("hard.html")).unwrap();
    symlink("own.gguf", bench.path("soft.html")).unwrap();
    for writer in WRITERS {
        for name in ["own.gguf", "hard.html", "soft.html"] {
            bench.keeps("own.gguf", || {
                let said = bench.refusal(&[writer, &["--html", name]].concat());
                assert!(
                    said.contains(&format!("{name} is read by this command")),
                    "{said}"
                );
                assert!(said.contains("hint: choose another name"), "{said}");
            });
        }
    }
}

#[test]
fn a_page_does_not_replace_the_text_it_is_about() {
    let bench = Bench::new();
    for command in [&["score"][..], &["compare", "own.gguf", "own.gguf"]] {
        bench.keeps("in.txt", || {
            let said =
                bench.refusal(&[command, &["--file", "in.txt", "--html", "in.txt"]].concat());
            assert!(said.contains("in.txt is read by this command"), "{said}");
        });
    }
    bench.keeps("in.txt", || {
        let mut command = bench.command(&["score", "--html", "in.txt"]);
        command.stdin(fs::File::open(bench.path("in.txt")).unwrap());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("in.txt is read by this command"), "{said}");
    });
}

#[test]
fn a_page_replaces_an_earlier_page_and_nothing_else() {
    let bench = Bench::new();
    fs::write(bench.path("notes.html"), "<!doctype html><p>mine</p>").unwrap();
    for writer in WRITERS {
        bench.keeps("notes.html", || {
            let said = bench.refusal(&[writer, &["--html", "notes.html"]].concat());
            assert!(said.contains("notes.html exists"), "{said}");
            assert!(
                said.contains("hint: it is not a page that modelve made"),
                "{said}"
            );
        });
        // One page after another, and over the empty file that `mktemp` makes.
        fs::write(bench.path("page.html"), "").unwrap();
        for _ in 0..2 {
            bench.good(&[writer, &["--html", "page.html"]].concat());
            let page = fs::read_to_string(bench.path("page.html")).unwrap();
            assert!(page.ends_with("</html>\n"));
        }
    }
}

#[test]
fn links_to_pages_are_followed_and_stay() {
    let bench = Bench::new();
    fs::create_dir(bench.path("site")).unwrap();
    symlink("site/page.html", bench.path("latest.html")).unwrap();
    for _ in 0..2 {
        bench.good(&["next", "the ball", "--html", "latest.html"]);
        assert!(
            fs::symlink_metadata(bench.path("latest.html"))
                .unwrap()
                .is_symlink()
        );
        assert!(
            fs::metadata(bench.path("site/page.html"))
                .unwrap()
                .is_file()
        );
    }
    fs::write(bench.path("site/page.html"), "mine").unwrap();
    bench.keeps("site/page.html", || {
        bench.refusal(&["next", "the ball", "--html", "latest.html"]);
    });
}

#[test]
fn devices_and_pipes_are_written_to_and_stay_what_they_are() {
    let bench = Bench::new();
    let null = || {
        fs::metadata("/dev/null")
            .unwrap()
            .file_type()
            .is_char_device()
    };
    bench.good(&["next", "the ball", "--html", "/dev/null"]);
    assert!(null(), "/dev/null is a device no longer");
    let pipe = bench.path("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    bench.good(&["next", "the ball", "--html", "pipe"]);
    assert!(reader.join().unwrap().ends_with("</html>\n"));
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[test]
fn a_dash_is_standard_output_which_then_carries_the_page_alone() {
    let bench = Bench::new();
    for writer in WRITERS {
        for name in ["-", "/dev/stdout"] {
            let page = bench.good(&[writer, &["--html", name]].concat());
            assert!(
                page.starts_with("<!doctype html>"),
                "{writer:?}: {page:.60}"
            );
            assert!(page.ends_with("</html>\n"), "{writer:?}");
        }
    }
    assert!(!bench.path("-").exists());
    let both = bench.run(&["next", "the ball", "--json", "--html", "-"]);
    assert_eq!(both.status.code(), Some(2));
    // The shell has made this file, and the text goes there.
    let output = bench
        .command(&["next", "the ball", "--html", "log.txt"])
        .stdout(fs::File::create(bench.path("log.txt")).unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("log.txt is where standard output goes"),
        "{said}"
    );
}

#[test]
fn a_folder_that_is_not_there_is_said_before_the_work() {
    let bench = Bench::new();
    for writer in WRITERS {
        let said = bench.refusal(&[writer, &["--html", "no/such/page.html"]].concat());
        assert!(said.contains("cannot write no/such/page.html"), "{said}");
        assert!(said.contains("hint: mkdir -p no/such"), "{said}");
    }
    let said = bench.refusal(&["next", "the ball", "--html", "."]);
    assert!(said.contains("cannot write ."), "{said}");
}
