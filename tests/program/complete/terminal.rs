//! `modelve complete` on a terminal, asked line by line.

use super::*;
use pseudo_terminal::converse;

/// What the line editor writes when it is ready for a line.
const READY: &str = "\x1b[?2004h";
const UP: &str = "\x1b[A\r";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

const NO_TERMINAL: &str = "skipped: no python3 to make a terminal with";

/// The program without a prompt, its history in `home`.
fn asking(model: &std::path::Path, home: &std::path::Path, n: &str) -> Command {
    let mut command = modelve(model);
    command.args(["-n", n, "--ignore-eos"]).env("TERM", "xterm");
    command.env("MODELVE_HOME", home);
    command
}

/// The answer in one line, as it can be found on a screen.
fn answer(prompt: &str, n: &str) -> String {
    let output = run(small().args([prompt, "-n", n, "--ignore-eos"]));
    let text = stdout(&output).trim_end_matches('\n').to_owned();
    assert!(!text.contains('\n') && text.len() > 3, "{text:?}");
    text
}

#[test]
#[allow(clippy::print_stderr)]
fn it_asks_answers_remembers_and_ends_with_ctrl_d() {
    let home = tempfile::tempdir().unwrap();
    let command = asking(&files().small, home.path(), "6");
    let keys = [
        (READY, "the ball\r"),
        (READY, UP),
        (READY, "\r"),
        (READY, CTRL_C),
        (READY, CTRL_D),
    ];
    let Some((shown, code)) = converse(&command, 200, &keys) else {
        return eprintln!("{NO_TERMINAL}");
    };
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("> "), "{shown}");
    let expected = answer("the ball", "6");
    assert_eq!(
        shown.matches(&expected).count(),
        2,
        "{expected:?} in {shown:?}"
    );

    // The next day it is still there.
    let (shown, code) = converse(&command, 200, &[(READY, UP), (READY, CTRL_D)]).unwrap();
    assert_eq!(code, 0, "{shown}");
    assert_eq!(shown.matches(&expected).count(), 1, "{shown:?}");
}

#[test]
#[allow(clippy::print_stderr)]
fn ctrl_c_stops_the_answer_and_the_next_question_is_heard() {
    let home = tempfile::tempdir().unwrap();
    let (texts, _, _) = tiny_gguf::vocabulary();
    let id = texts
        .iter()
        .position(|text| text == "\u{2581}ball")
        .unwrap();
    let beginning = " ball ball";
    let mut command = asking(&files().large, home.path(), "100000");
    command.args(["--logit-bias", &format!("{id}=1000")]);
    let keys = [
        (READY, "the\r"),
        (beginning, CTRL_C),
        (READY, "the\r"),
        (beginning, CTRL_C),
        (READY, CTRL_D),
    ];
    let Some((shown, code)) = converse(&command, 200, &keys) else {
        return eprintln!("{NO_TERMINAL}");
    };
    assert_eq!(code, 0, "{shown}");
    assert!(shown.matches(beginning).count() >= 2, "{shown:?}");
}

#[test]
#[allow(clippy::print_stderr)]
fn a_mistake_does_not_end_the_conversation() {
    let home = tempfile::tempdir().unwrap();
    let mut command = asking(&files().small, home.path(), "6");
    command.args(["--ctx-size", "8"]);
    let keys = [
        (
            READY,
            "the ball hit the bat in the cave and today is sunny\r",
        ),
        (READY, "a\r"),
        (READY, CTRL_D),
    ];
    let Some((shown, code)) = converse(&command, 200, &keys) else {
        return eprintln!("{NO_TERMINAL}");
    };
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("do not fit into a context of 8"), "{shown}");
    assert!(shown.contains(&answer("a", "6")), "{shown:?}");
}

#[test]
#[allow(clippy::print_stderr)]
fn only_texts_go_to_a_file() {
    let home = tempfile::tempdir().unwrap();
    let inner = asking(&files().small, home.path(), "6");
    let file = home.path().join("out.txt");
    let mut command = Command::new("sh");
    command
        .args(["-c", "out=$1; shift; exec \"$@\" > \"$out\"", "sh"])
        .arg(&file)
        .arg(inner.get_program())
        .args(inner.get_args());
    for (key, value) in inner.get_envs() {
        command.env(key, value.unwrap_or_default());
    }
    let keys = [(READY, "the ball\r"), (READY, CTRL_D)];
    let Some((shown, code)) = converse(&command, 200, &keys) else {
        return eprintln!("{NO_TERMINAL}");
    };
    assert_eq!(code, 0, "{shown}");
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(written, answer("the ball", "6") + "\n");
}

#[test]
#[allow(clippy::print_stderr)]
fn a_conversation_remembers_what_was_said() {
    let home = tempfile::tempdir().unwrap();
    let read = |more: &[&str]| -> Option<Vec<usize>> {
        let mut command = asking(&files().small, home.path(), "6");
        command.arg("--stats").args(more);
        // Long enough that it is worth being taken over.
        let question =
            "the ball hit the bat in the cave and today is sunny and a bat is in the cave\r";
        let keys = [(READY, question), (READY, question), (READY, CTRL_D)];
        let (shown, code) = converse(&command, 200, &keys)?;
        assert_eq!(code, 0, "{shown}");
        // The second question begins with what was computed for the first.
        let taken_over = shown.matches(" of them computed before").count();
        assert_eq!(taken_over, 1, "{shown}");
        let counts = shown.split("prompts    1 of ").skip(1).map(|rest| {
            let number = rest.split(' ').next().unwrap();
            number.parse().unwrap()
        });
        Some(counts.collect())
    };
    let Some(apart) = read(&[]) else {
        return eprintln!("{NO_TERMINAL}");
    };
    assert_eq!(apart.len(), 2);
    assert_eq!(apart[0], apart[1], "each line is a prompt of its own");
    let talk = read(&["--chat"]).unwrap();
    // The second time the first question, its answer and the question again.
    assert!(talk[1] > 2 * talk[0], "{talk:?}");
    let told = read(&["--system", "the cave"]).unwrap();
    assert!(
        told[0] > talk[0] && told[1] > told[0] + talk[0],
        "{told:?} {talk:?}"
    );
}
