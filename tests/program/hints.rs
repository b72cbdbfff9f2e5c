//! Hints: what they say, and that the commands in them work when they are pasted.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use modelve::gguf::Value;

use crate::support::tiny_gguf::Tiny;

/// Runs a line in a shell that finds the program, in an empty home, with no network.
fn run(home: &Path, line: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_modelve"));
    let mut path = program.parent().unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command
        .args(["-c", line])
        .current_dir(home)
        .env("PATH", path)
        .env("MODELVE_HOME", home.join("store"))
        .env("HF_HOME", home.join("hub"))
        .env("HF_HUB_OFFLINE", "1")
        .env_remove("MODELVE_MODEL")
        .env_remove("MODELVE_ISA")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    command.output().unwrap()
}

/// A line that must work; what it prints.
pub fn shell(home: &Path, line: &str) -> String {
    let output = run(home, line);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// A line that must fail; what it says.
fn fails(home: &Path, line: &str, code: i32) -> String {
    let output = run(home, line);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{line}: {said}");
    said
}

/// The commands in hints: what follows the last colon of a line, from the program's name on.
fn commands(said: &str) -> Vec<String> {
    let hints = said.lines().filter_map(|line| line.strip_prefix("hint: "));
    let command = |hint: &str| {
        let (_, last) = hint.rsplit_once(": ")?;
        let first = last.split_whitespace().next()?;
        let known = ["modelve", "printf", "iconv", "mkdir"];
        known.contains(&first).then(|| last.to_owned())
    };
    hints.filter_map(command).collect()
}

/// Fails as it must, and what the hint proposes then works.
fn helps(home: &Path, line: &str, code: i32) -> String {
    let said = fails(home, line, code);
    let commands = commands(&said);
    assert!(!commands.is_empty(), "{line}: no command in {said}");
    shell(home, &commands[0]);
    said
}

#[test]
fn proposed_commands_work_when_pasted() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    shell(home, "modelve complete -m tiny 'Today is' -n 1");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checkpoint = root.join("models/tiny-phi3");
    let copy = format!("cp -r '{}' 'my model'", checkpoint.display());
    shell(home, &copy);
    shell(
        home,
        "cp \"$(find store -name '*.gguf' | head -1)\" it.gguf",
    );
    std::fs::write(home.join("book.txt"), "the ball").unwrap();
    std::fs::write(home.join("latin"), b"caf\xe9").unwrap();
    for (line, code) in [
        // The default model is not here.
        ("modelve complete 'Today is'", 1),
        ("modelve next 'Today is' -n 3", 1),
        ("modelve score 'Today is it'", 1),
        ("modelve lens 'Today is'", 1),
        ("modelve attention 'Today is'", 1),
        ("modelve meta", 1),
        ("modelve vocab 1", 1),
        // A model, a file or several words where a text is meant.
        ("modelve complete it.gguf \"Today's\" -n 1", 2),
        ("modelve score it.gguf -f book.txt", 2),
        ("modelve complete tiny 'Today is'", 2),
        ("modelve next book.txt -m tiny", 2),
        ("modelve score nosuch.txt -m tiny", 2),
        ("modelve complete -m tiny -f latin", 1),
        ("modelve convert 'my model' -q Q9", 2),
        // No text, or the wrong number of them; the model stays the one that was named.
        ("modelve complete -m tiny -n 1", 2),
        ("modelve next -m tiny", 2),
        ("modelve score -m tiny", 2),
        ("modelve lens -m it.gguf", 2),
        ("modelve why -m tiny", 2),
        ("modelve patch -m tiny", 2),
        ("modelve patch -m tiny 'Today is'", 2),
        (
            "modelve patch -m tiny 'Today is' a day --noise 1 --noised ball",
            2,
        ),
        ("modelve attention the ball hit -m tiny", 2),
        ("modelve ablate -m tiny 'Today is'", 2),
        ("modelve ablate -m tiny --part 2.1", 2),
        ("modelve dump -m tiny -o acts.safetensors", 2),
        // A checkpoint where a GGUF is meant; then there is one.
        ("modelve complete -m 'my model' 'Today is'", 1),
        ("modelve convert 'my model'", 1),
    ] {
        helps(home, line, code);
    }
    let said = fails(home, "modelve complete 'Today is'", 1);
    let hint = said.lines().find(|line| line.starts_with("hint:")).unwrap();
    assert!(
        hint.contains("modelve complete -m tiny 'Today is'"),
        "{said}"
    );
}

#[test]
fn other_kinds_of_file_are_called_what_they_are() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let write = |name: &str, kind: &str, architecture: &str| {
        let mut parts = Tiny::default().parts();
        parts.set("general.type", Value::String(kind.to_owned()));
        parts.set(
            "general.architecture",
            Value::String(architecture.to_owned()),
        );
        parts.remove("tokenizer.ggml.model");
        parts.remove("tokenizer.ggml.tokens");
        parts.write(&home.join(name));
    };
    write("lora.gguf", "adapter", "phi3");
    write("mmproj.gguf", "mmproj", "clip");
    write("imatrix.gguf", "imatrix", "none");
    write("direction.gguf", "", "controlvector");
    let mut parts = Tiny::default().parts();
    parts.tensors.clear();
    parts.write(&home.join("vocab.gguf"));
    for (file, expected) in [
        ("lora.gguf", "is an adapter (LoRA), not a model"),
        (
            "mmproj.gguf",
            "is a projector for pictures or sound (mmproj), not a model",
        ),
        ("imatrix.gguf", "is an importance matrix, not a model"),
        ("direction.gguf", "is a control vector, not a model"),
        ("vocab.gguf", "is a vocabulary without weights, not a model"),
    ] {
        let said = helps(home, &format!("modelve complete -m {file} hi"), 1);
        assert!(said.contains(expected), "{said}");
        assert!(!said.contains("modelve convert"), "{said}");
    }
    let said = fails(home, "modelve vocab -m lora.gguf", 1);
    assert!(said.contains("an adapter (LoRA)"), "{said}");
    let meta = shell(home, "modelve meta lora.gguf");
    assert!(meta.contains("an adapter (LoRA), not a model"), "{meta}");
    assert!(!meta.contains("fits"), "{meta}");
    let json: serde_json::Value =
        serde_json::from_str(&shell(home, "modelve meta mmproj.gguf --json")).unwrap();
    assert_eq!(json["kind"], "mmproj");
}

#[test]
fn nothing_is_proposed_that_cannot_work() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    // A checkpoint of another family.
    std::fs::create_dir(home.join("llama")).unwrap();
    std::fs::write(
        home.join("llama/config.json"),
        r#"{"architectures": ["BloomForCausalLM"]}"#,
    )
    .unwrap();
    std::fs::write(
        home.join("llama/model.safetensors"),
        b"\x02\0\0\0\0\0\0\0{}",
    )
    .unwrap();
    let said = helps(home, "modelve complete -m llama 'Today is'", 1);
    assert!(said.contains("cannot be converted"), "{said}");
    assert!(!said.contains("modelve convert"), "{said}");
    // A damaged file is not made again by converting another.
    let parts = Tiny::default().parts();
    parts.write(&home.join("whole.gguf"));
    let whole = std::fs::read(home.join("whole.gguf")).unwrap();
    std::fs::write(home.join("half.gguf"), &whole[..whole.len() / 2]).unwrap();
    let said = fails(home, "modelve complete -m half.gguf hi", 1);
    assert!(
        said.contains("cut off") && !said.contains("modelve convert"),
        "{said}"
    );
    // A link that leads nowhere is like itself, and that is no help.
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("gone.gguf", home.join("link.gguf")).unwrap();
        let said = fails(home, "modelve complete -m link.gguf hi", 1);
        assert!(!said.contains("did you mean link.gguf"), "{said}");
    }
}

#[test]
fn an_instruction_set_that_is_not_there_is_a_mistake() {
    let home = tempfile::tempdir().unwrap();
    let said = fails(home.path(), "MODELVE_ISA=avx9000 modelve doctor", 2);
    assert!(
        said.contains("MODELVE_ISA=avx9000 names no instruction set") && said.contains("plain"),
        "{said}"
    );
    shell(home.path(), "MODELVE_ISA= modelve meta tiny");
    shell(
        home.path(),
        "MODELVE_ISA=plain modelve score -m tiny 'Today is it'",
    );
}

#[test]
fn old_letters_say_where_they_went() {
    let home = tempfile::tempdir().unwrap();
    let said = fails(home.path(), "modelve next -m tiny 'Today is' -t 3x4", 2);
    assert!(said.contains("--tree 3x4"), "{said}");
    let said = fails(
        home.path(),
        "modelve next -m tiny 'Today is' --force the",
        2,
    );
    assert!(said.contains("--html"), "{said}");
}
