//! What comes from elsewhere and means harm: texts without end, names that drive a terminal, files
//! that shrink in use.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::terminal;
use crate::support::tiny_gguf::{Parts, Tiny};
use assert_cmd::cargo::CommandCargoExt;
use modelve::gguf::{GgmlType, Value};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("modelve").unwrap();
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile-home");
    command.env("MODELVE_HOME", home);
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
    let vocab = command(&["vocab", "-m", "tiny", "--decode", "30", "12"])
        .output()
        .unwrap();
    assert_eq!(vocab.stdout, b"\x1b\t\n", "ids 3 to 258 are the bytes");
    let mut shown = command(&["vocab", "-m", "tiny", "--decode", "30", "12"]);
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

/// A file of another architecture that holds what a Phi-3 holds: what is checked by the table of
/// architectures is found before the tensors.
fn of_arch(arch: &str, change: impl FnOnce(&mut Parts)) -> (tempfile::TempDir, String) {
    let mut parts = Tiny::default().parts();
    for (key, _) in &mut parts.metadata {
        if let Some(rest) = key.strip_prefix("phi3.") {
            *key = format!("{arch}.{rest}");
        }
    }
    parts.set("general.architecture", Value::String(arch.to_owned()));
    change(&mut parts);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile.gguf");
    parts.write(&path);
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

/// What `complete` says of a file that must be refused in words, and fast.
fn refusal(path: &str) -> String {
    let output = command(&["complete", "-m", path, "-n", "2", "the bat"])
        .output()
        .unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: "), "{said}");
    assert!(
        !said.contains("/registry/") && !said.contains("llama.cpp/src"),
        "{said}"
    );
    said
}

#[test]
fn what_architectures_take_for_granted_is_checked() {
    for arch in ["gptneox", "phi2", "command-r", "gemma3", "phi3"] {
        let (_dir, path) = of_arch(arch, |parts| {
            parts.set(&format!("{arch}.rope.dimension_count"), Value::U32(0));
        });
        let said = refusal(&path);
        assert!(
            said.contains(&format!("{arch}.rope.dimension_count is 0")),
            "{said}"
        );
    }
    for arch in ["olmo2", "phimoe", "phi3"] {
        let key = format!("{arch}.attention.head_count");
        let (_dir, path) = of_arch(arch, |parts| parts.remove(&key));
        let said = refusal(&path);
        assert!(said.contains(&format!("{key} is missing")), "{said}");
    }
    let (_dir, path) = of_arch("phi3", |parts| {
        parts
            .tensors
            .retain(|tensor| tensor.0 != "blk.1.attn_qkv.weight");
    });
    assert!(refusal(&path).contains("tensor blk.1.attn_qkv.weight is missing"));
}

#[test]
fn rwkv_is_checked_for_heads_and_mixes() {
    let sound = |change: &dyn Fn(&mut Parts)| {
        let (dir, path) = (tempfile::tempdir().unwrap(), "hostile.gguf");
        let mut parts = rwkv6();
        change(&mut parts);
        let path = dir.path().join(path);
        parts.write(&path);
        let path = path.to_str().unwrap().to_owned();
        (dir, path)
    };
    let (_dir, path) = sound(&|_| {});
    let output = command(&["complete", "-m", &path, "-n", "2", "the bat"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let (_dir, path) = sound(&|parts| parts.set("rwkv6.wkv.head_size", Value::U32(0)));
    assert!(refusal(&path).contains("rwkv6.wkv.head_size is 0"));
    let (_dir, path) = sound(&|parts| {
        parts
            .tensors
            .retain(|tensor| tensor.0 != "blk.0.time_mix_lerp_k.weight");
    });
    assert!(refusal(&path).contains("tensor blk.0.time_mix_lerp_k.weight is missing"));
    let (_dir, path) = of_arch("rwkv7", |parts| {
        parts.set("rwkv7.wkv.head_size", Value::U32(16))
    });
    assert!(refusal(&path).contains("be a multiple of 64"));
    // What no check knows is found out by a process of its own, which ends instead of this one.
    let (_dir, path) = sound(&|parts| parts.set("rwkv6.token_shift_count", Value::U32(1)));
    let said = refusal(&path);
    assert!(said.contains("cannot compute with this file"), "{said}");
    assert!(said.contains("it aborted: rwkv6.cpp:"), "{said}");
    // Who trusts the file meets llama.cpp's own end, in words as well.
    let trusting = ["complete", "-m", &path, "--trust", "-n", "2", "the bat"];
    let output = command(&trusting).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = crate::hostile::said(&output);
    assert!(
        said.starts_with("error: llama.cpp aborted: rwkv6.cpp:"),
        "{said}"
    );
}

/// A sound RWKV 6 of one layer.
fn rwkv6() -> Parts {
    const WIDTH: u64 = 64;
    let mut parts = Tiny {
        layers: 1,
        ..Tiny::default()
    }
    .parts();
    parts.metadata.retain(|(key, _)| !key.starts_with("phi3."));
    parts.set("general.architecture", Value::String("rwkv6".to_owned()));
    for (key, value) in [
        ("context_length", 512),
        ("embedding_length", WIDTH as u32),
        ("block_count", 1),
        ("feed_forward_length", 96),
        ("attention.head_count", 0),
        ("wkv.head_size", 16),
        ("time_mix_extra_dim", 8),
        ("time_decay_extra_dim", 8),
        ("rescale_every_n_layers", 2),
    ] {
        parts.set(&format!("rwkv6.{key}"), Value::U32(value));
    }
    parts.set("rwkv6.attention.layer_norm_epsilon", Value::F32(1e-5));
    parts.tensors.retain(|(name, ..)| {
        ["token_embd.weight", "output.weight", "output_norm.weight"].contains(&name.as_str())
    });
    let mut add = |name: &str, shape: &[u64]| {
        let n = shape.iter().product::<u64>();
        let data = (0..n).flat_map(|i| (0.01 + 0.001 * (i % 17) as f32).to_le_bytes());
        parts.tensors.push((
            name.to_owned(),
            shape.to_vec(),
            GgmlType::F32,
            data.collect(),
        ));
    };
    for name in [
        "token_embd_norm.weight",
        "token_embd_norm.bias",
        "output_norm.bias",
    ] {
        add(name, &[WIDTH]);
    }
    for part in ["attn_norm", "attn_norm_2", "time_mix_ln"] {
        add(&format!("blk.0.{part}.weight"), &[WIDTH]);
        add(&format!("blk.0.{part}.bias"), &[WIDTH]);
    }
    let mut add = |part: &str, shape: &[u64]| add(&format!("blk.0.{part}.weight"), shape);
    for part in ["x", "w", "k", "v", "r", "g"] {
        add(&format!("time_mix_lerp_{part}"), &[WIDTH, 1, 1]);
    }
    for part in ["channel_mix_lerp_k", "channel_mix_lerp_r"] {
        add(part, &[WIDTH, 1, 1]);
    }
    add("time_mix_w1", &[WIDTH, 40]);
    add("time_mix_w2", &[8, WIDTH, 5]);
    add("time_mix_first", &[16, 4]);
    add("time_mix_decay", &[WIDTH]);
    add("time_mix_decay_w1", &[WIDTH, 8]);
    add("time_mix_decay_w2", &[8, WIDTH]);
    for part in ["key", "value", "receptance", "gate", "output"] {
        add(&format!("time_mix_{part}"), &[WIDTH, WIDTH]);
    }
    add("channel_mix_key", &[WIDTH, 96]);
    add("channel_mix_value", &[96, WIDTH]);
    add("channel_mix_receptance", &[WIDTH, WIDTH]);
    parts
}

#[test]
fn a_file_is_tried_once_and_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rwkv.gguf");
    let run = || {
        let mut command = command(&[
            "complete",
            "-m",
            path.to_str().unwrap(),
            "-n",
            "2",
            "the bat",
        ]);
        command
            .env("MODELVE_HOME", dir.path().join("home"))
            .output()
            .unwrap()
    };
    let passed = || {
        let versions = fs::read_dir(dir.path().join("home/tried"))
            .into_iter()
            .flatten();
        let stamps = versions.flat_map(|version| fs::read_dir(version.unwrap().path()).unwrap());
        stamps.count()
    };
    rwkv6().write(&path);
    for _ in 0..2 {
        let output = run();
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(passed(), 1);
    }
    let mut parts = rwkv6();
    parts.set("rwkv6.token_shift_count", Value::U32(1));
    parts.write(&path);
    let said = said(&run());
    assert!(said.contains("cannot compute with this file"), "{said}");
    assert_eq!(passed(), 1);
}

#[test]
fn vocabularies_that_would_end_llama_cpp_are_refused() {
    let spoiled = |change: &dyn Fn(&mut Parts)| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hostile.gguf");
        let mut parts = Tiny::default().parts();
        change(&mut parts);
        parts.write(&path);
        let path = path.to_str().unwrap().to_owned();
        (dir, path)
    };
    let long = |parts: &mut Parts| {
        let (mut texts, ..) = crate::support::tiny_gguf::vocabulary();
        texts[300] = "z".repeat(200_000);
        parts.set(
            "tokenizer.ggml.tokens",
            Value::Array(texts.iter().collect()),
        );
    };
    let other = |parts: &mut Parts| parts.set("tokenizer.ggml.model", Value::String("bert".into()));
    for (change, words) in [
        (&long as &dyn Fn(&mut Parts), "tokens[300] has 200000 bytes"),
        (
            &other,
            "is not a byte token of a vocabulary of kind \"bert\"",
        ),
    ] {
        let (_dir, path) = spoiled(change);
        assert!(refusal(&path).contains(words));
        let output = command(&["vocab", "-m", &path, "--encode", "a"])
            .output()
            .unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn results_that_are_no_numbers_are_errors() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut parts = Tiny::default().parts();
        let (_, _, _, data) = parts
            .tensors
            .iter_mut()
            .find(|(name, ..)| name == "blk.0.ffn_norm.weight")
            .unwrap();
        data[..4].copy_from_slice(&bad.to_le_bytes());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nan.gguf");
        parts.write(&path);
        let path = path.to_str().unwrap();
        for arguments in [
            &["complete", "the ball"][..],
            &["next", "the ball"],
            &["score", "the ball hit"],
            &["lens", "the ball"],
            &["attention", "the ball"],
        ] {
            let output = command(&[arguments, &["-m", path]].concat())
                .output()
                .unwrap();
            let said = said(&output);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
            assert!(said.contains("not finite"), "{arguments:?}: {said}");
        }
    }
}

#[test]
fn numbers_of_any_size_are_taken_or_refused() {
    let most = u64::MAX.to_string();
    let good = [
        &[
            "complete",
            "-m",
            "tiny",
            "The ball",
            "--ctx-size",
            "64",
            "-n",
            &most,
        ][..],
        &["next", "-m", "tiny", "The ball", "-n", &most],
    ];
    for arguments in good {
        let output = command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    }
    for (arguments, words) in [
        (
            &["compare", "tiny", "tiny", "--greedy", &most][..],
            "tokens are more than",
        ),
        (
            &["complete", "-m", "tiny", "hi", "--temp", "1e-45"],
            "temperature cannot be",
        ),
        (
            &["complete", "-m", "tiny", "hi", "--temp", "nan"],
            "a number of 0 or more",
        ),
    ] {
        let output = command(arguments).output().unwrap();
        let said = said(&output);
        assert!(
            matches!(output.status.code(), Some(1 | 2)),
            "{arguments:?}: {said}"
        );
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}
