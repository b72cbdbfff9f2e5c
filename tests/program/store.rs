//! `--cache`: what one process computes of a long text, the next one continues.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The model that comes along in F32, where a text is the same however it is computed.
fn model(folder: &Path) -> PathBuf {
    let path = folder.join("model.gguf");
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-phi3");
    let output = Command::new(env!("CARGO_BIN_EXE_modelve"))
        .args(["convert", "--quant", "F32", "-o"])
        .arg(&path)
        .arg(checkpoint)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    path
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn command(model: &Path, prompt: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modelve"));
    command
        .args(["complete", prompt, "-n", "12", "--kv-type", "f32"])
        .args(["--json", "--stats", "-m"])
        .arg(model)
        .args(more);
    command
}

/// The text of a completion, and the number of tokens of its prompt that were not computed.
fn complete(model: &Path, prompt: &str, more: &[&str]) -> (String, u64) {
    read(&command(model, prompt, more).output().unwrap())
}

fn read(output: &Output) -> (String, u64) {
    let said = said(output);
    assert!(output.status.success(), "{said}");
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    let reused = match said.split_once(" of them computed before") {
        None => 0,
        Some((before, _)) => before.rsplit(' ').next().unwrap().parse().unwrap(),
    };
    (line["text"].as_str().unwrap().to_owned(), reused)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    entries.map(|entry| entry.path()).collect()
}

const DOCUMENT: &str = "They were playing cricket in the park. The ball hit the bat, and it flew to the boundary. \
    It was night in the cave. A bat opened its wings and flew away, and the children ran out of the park. ";

#[test]
fn a_second_question_continues_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let cache = folder.path().join("cache");
    let flags = ["--cache", cache.to_str().unwrap()];
    let document = DOCUMENT.repeat(3);
    let (first, second) = (
        format!("{document}The ball"),
        format!("{document}The old bat"),
    );
    let alone = [
        complete(&model, &first, &[]),
        complete(&model, &second, &[]),
    ];
    assert_eq!([alone[0].1, alone[1].1], [0, 0]);
    assert_eq!(complete(&model, &first, &flags), alone[0]);
    assert_eq!(files(&cache).len(), 1);
    let (text, reused) = complete(&model, &second, &flags);
    assert_eq!(text, alone[1].0);
    assert!(reused > 100, "{reused} tokens");
    // What the first question saved serves the second as well.
    assert_eq!(files(&cache).len(), 1);
    // So do both at once, which share a prefix.
    let both = [&flags[..], &[&second]].concat();
    let output = command(&model, &first, &both).output().unwrap();
    let lines = String::from_utf8(output.stdout.clone()).unwrap();
    let texts = lines.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["text"].as_str().unwrap().to_owned()
    });
    assert_eq!(
        texts.collect::<Vec<_>>(),
        [alone[0].0.clone(), alone[1].0.clone()]
    );
    assert!(said(&output).contains(" of them computed before"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        for (path, mode) in [(&cache, 0o700), (&files(&cache)[0], 0o600)] {
            let found = fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{}", path.display());
        }
    }
    // Another way to compute has states of its own.
    let other = [&flags[..], &["--flash-attn", "off"]].concat();
    assert_eq!(complete(&model, &second, &other).1, 0);
    assert_eq!(files(&cache).len(), 2);
}

#[test]
fn damaged_states_are_removed_and_their_text_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let cache = folder.path().join("cache");
    let flags = ["--cache", cache.to_str().unwrap()];
    let document = DOCUMENT.repeat(2);
    let first = complete(&model, &document, &flags);
    let state = files(&cache).remove(0);
    let sound = fs::read(&state).unwrap();
    let damage = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        bytes
    };
    let n = sound.len();
    for (what, bytes) in [
        ("a bit of the values", damage(&|bytes| bytes[n / 2] ^= 1)),
        ("a bit of a token", damage(&|bytes| bytes[60] ^= 1)),
        ("another model", damage(&|bytes| bytes[20] ^= 1)),
        ("too many tokens", damage(&|bytes| bytes[48..52].fill(0xff))),
        ("more tokens", damage(&|bytes| bytes[48] += 1)),
        ("the end", damage(&|bytes| bytes.truncate(n - 1))),
        ("all but a little", damage(&|bytes| bytes.truncate(60))),
        ("everything", Vec::new()),
    ] {
        fs::write(&state, bytes).unwrap();
        assert_eq!(complete(&model, &document, &flags), first, "{what}");
        // What was computed took its place.
        let mended = fs::read(&state).unwrap();
        assert_eq!(mended.len(), n, "{what}");
        let (text, reused) = complete(&model, &document, &flags);
        assert_eq!(text, first.0, "{what}");
        assert!(reused > 60, "{reused} tokens after {what}");
    }
}

#[test]
fn the_folder_holds_no_more_than_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let cache = folder.path().join("cache");
    let flags = ["--cache", cache.to_str().unwrap()];
    let mut size = 0;
    let mut held: Vec<Vec<PathBuf>> = Vec::new();
    for word in ["cave", "park", "bat"] {
        let document = DOCUMENT.repeat(2).replace("They", word);
        let gib = match size {
            0 => "1".to_owned(),
            // Two of them have room.
            size => format!("{:.9}", 2.5 * size as f64 / f64::from(1 << 30)),
        };
        let limit = [&flags[..], &["--cache-size", &gib]].concat();
        complete(&model, &document, &limit);
        let now = files(&cache);
        size = fs::metadata(&now[0]).unwrap().len();
        held.push(now);
    }
    assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 2]);
    assert!(
        !held[2].contains(&held[0][0]),
        "the least recently used state is not removed"
    );
    // A state that is too large is not kept, and nothing but states is removed.
    fs::write(cache.join("notes.txt"), "mine").unwrap();
    let least = [&flags[..], &["--cache-size", "0.00001"]].concat();
    complete(&model, &DOCUMENT.repeat(3), &least);
    assert_eq!(files(&cache).len(), 3);
    // A file that was left half written is removed once nobody can still be writing it.
    let left = cache.join(".writing-abc");
    fs::write(&left, "half").unwrap();
    complete(&model, DOCUMENT, &flags);
    assert!(left.exists());
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    let file = fs::File::options().write(true).open(&left).unwrap();
    file.set_modified(old).unwrap();
    complete(&model, DOCUMENT, &flags);
    assert!(!left.exists());
}

#[test]
fn several_processes_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let cache = folder.path().join("cache");
    let prompts = ["The ball", "The bat", "My uncle", "The ball"]
        .map(|end| format!("{}{end}", DOCUMENT.repeat(2).replace("They", end)));
    complete(&model, &prompts[0], &["--cache", cache.to_str().unwrap()]);
    let size = fs::metadata(&files(&cache)[0]).unwrap().len();
    // Room for two states, so that they also remove each other's.
    let gib = format!("{:.9}", 2.5 * size as f64 / f64::from(1 << 30));
    let flags = ["--cache", cache.to_str().unwrap(), "--cache-size", &gib];
    let alone: Vec<String> = prompts.iter().map(|p| complete(&model, p, &[]).0).collect();
    for _ in 0..3 {
        let children: Vec<_> = prompts
            .iter()
            .map(|prompt| {
                let mut command = command(&model, prompt, &flags);
                command.stdout(std::process::Stdio::piped());
                command.stderr(std::process::Stdio::piped());
                command.spawn().unwrap()
            })
            .collect();
        for (child, alone) in children.into_iter().zip(&alone) {
            assert_eq!(&read(&child.wait_with_output().unwrap()).0, alone);
        }
    }
    let held = files(&cache);
    assert!((1..=2).contains(&held.len()), "{held:?}");
}

#[test]
fn without_a_name_the_folder_is_the_users() {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_modelve"));
        command.args(["complete", "-m", "tiny", "-n", "4"]);
        command.args(arguments).env("MODELVE_HOME", home.path());
        command.output().unwrap()
    };
    let output = run(&[&DOCUMENT.repeat(2), "--cache"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(files(&home.path().join("states")).len(), 1);
    // A prompt in the place of a name is not made a folder.
    let output = run(&["--cache", "What is a bat?"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("there is no folder What is a bat?"));
    assert!(said(&output).contains("hint: "), "{}", said(&output));
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_before_anything_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for command in ["complete", "serve"] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_modelve"));
        run.args([command, "-m", "tiny", "--cache"]).arg(&file);
        if command == "complete" {
            run.arg("Today");
        }
        let output = run.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(
            said(&output).contains("cannot keep states in ") && said(&output).contains("hint: "),
            "{}",
            said(&output)
        );
    }
}
