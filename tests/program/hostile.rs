//! What comes from elsewhere and means harm: texts without end, names that drive a terminal, files
//! that shrink in use.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::support::terminal;
use crate::support::tiny_gguf::Tiny;
use assert_cmd::cargo::CommandCargoExt;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("modelve").unwrap();
    command.args(arguments).stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A model of random weights in a folder of its own.
fn model() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("random.gguf");
    Tiny::default().write(&path);
    (dir, path)
}

#[test]
fn texts_without_end_are_refused() {
    for arguments in [
        &["score", "-m", "tiny", "--file", "/dev/zero"][..],
        &["complete", "-m", "tiny", "--file", "/dev/zero"],
        &["complete", "-m", "tiny", "hi", "--grammar", "/dev/zero"],
        &["compare", "tiny", "tiny", "--file", "/dev/zero"],
    ] {
        let output = command(arguments).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("cannot read /dev/zero"), "{said}");
        assert!(said.contains("longer than the 256 MiB"), "{said}");
    }
    for arguments in [
        &["score", "-m", "tiny", "-"][..],
        &["next", "-m", "tiny"],
        &["vocab", "-m", "tiny", "--encode", "-"],
    ] {
        let zero = fs::File::open("/dev/zero").unwrap();
        let output = command(arguments).stdin(zero).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("longer than the 256 MiB"), "{said}");
    }
}

#[test]
fn messages_do_not_drive_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let name = "\u{1b}]0;owned\u{7}\u{1b}[31m\u{202e}.gguf";
    fs::write(dir.path().join(name), "not a model").unwrap();
    for arguments in [
        // A name in an error, in a hint, in an error of clap's, in a note.
        &["meta", name][..],
        &["complete", "-m", name, "hi"],
        &["next", "-m", "tiny", "hi", "--html", "\u{1b}[2J/page.html"],
        &[name],
        &[
            "complete",
            "-m",
            "tiny",
            "hi",
            name,
            "--kv-type",
            "\u{1b}[2J",
        ],
    ] {
        let output = command(arguments).current_dir(dir.path()).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        let said = said(&output);
        let bad = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!said.contains(bad), "{arguments:?}: {said:?}");
        assert!(said.contains("u{1b}"), "{arguments:?}: {said:?}");
    }
}

#[test]
fn a_message_of_several_lines_forges_no_hint() {
    let output = command(&["meta", "x\nhint: run this\n.gguf"])
        .output()
        .unwrap();
    let said = said(&output);
    assert!(
        !said.lines().any(|line| line.starts_with("hint: run this")),
        "{said}"
    );
}

#[test]
fn pieces_are_raw_in_a_pipe_and_escaped_on_a_terminal() {
    let vocab = command(&["vocab", "-m", "tiny", "--decode", "30,12"])
        .output()
        .unwrap();
    assert_eq!(vocab.stdout, b"\x1b\t\n", "ids 3 to 258 are the bytes");
    let mut shown = command(&["vocab", "-m", "tiny", "--decode", "30,12"]);
    shown.env("NO_COLOR", "1");
    match terminal::run(&shown, 80, "") {
        Some((screen, 0)) => assert_eq!(screen, "\\u{1b}\t\r\n"),
        Some((screen, code)) => panic!("{code}: {screen}"),
        None => eprintln!("skipped: no python3 to make a terminal with"),
    }
    let complete = ["complete", "-m", "tiny", "a\u{1b}[31m", "--echo", "-n", "1"];
    let piped = command(&complete).output().unwrap();
    assert!(piped.stdout.starts_with(b"a\x1b[31m"), "{piped:?}");
    if let Some((screen, code)) = terminal::run(&command(&complete), 80, "") {
        assert_eq!(code, 0, "{screen}");
        assert!(screen.contains("a\\u{1b}[31m"), "{screen:?}");
    }
}

#[test]
fn a_model_that_is_cut_short_in_use_ends_in_words() {
    let (_dir, path) = model();
    let file = path.to_str().unwrap();
    let mut child = command(&[
        "complete",
        "-m",
        file,
        "the ball",
        "-n",
        "4000",
        "--logit-bias",
        "2=-100",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut some = [0; 8];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut some)
        .unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(100)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cut short"), "{said}");
}
