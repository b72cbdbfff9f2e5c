//! The `portable` build: a program and a folder of libraries, wherever the two are put.
#![cfg(all(feature = "portable", target_os = "linux"))]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use modelve::matmul;
use serde_json::Value;
use tempfile::TempDir;

const PROMPTS: [&str; 4] = ["Today is", "India is a", "Oracle is a", "June 21 is a"];

/// The program unpacked somewhere, with the libraries that it is linked with.
struct Unpacked {
    dir: TempDir,
}

fn built() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_modelve")).with_file_name("backends")
}

/// The libraries of a kind that were built, by what they are called after.
fn built_for(prefix: &str) -> Vec<String> {
    let files = fs::read_dir(built()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names
        .filter(|name| name.starts_with(prefix) && name.ends_with(".so"))
        .collect();
    names.sort();
    names
}

impl Unpacked {
    fn with(libraries: &[String]) -> Self {
        let unpacked = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(unpacked.path("backends")).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_modelve"), unpacked.path("modelve")).unwrap();
        for file in fs::read_dir(built()).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            if name.contains(".so.") || libraries.contains(&name) {
                let to = unpacked.path("backends").join(&name);
                fs::copy(built().join(&name), to).unwrap();
            }
        }
        unpacked
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn modelve(&self) -> Command {
        modelve(&self.path("modelve"))
    }

    fn doctor(&self) -> Value {
        let output = self.modelve().args(["doctor", "--json"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// A program that finds nothing by the help of cargo or of this checkout.
fn modelve(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_remove("LD_LIBRARY_PATH")
        .env("NO_COLOR", "1")
        .current_dir("/");
    // ggml leaves out devices that are a processor in truth unless they are asked for.
    if std::env::var_os("GGML_VK_VISIBLE_DEVICES").is_none() {
        command.env("GGML_VK_VISIBLE_DEVICES", "0");
    }
    command
}

fn texts(command: &mut Command) -> String {
    let output = command
        .args(["complete", "-m", "tiny", "--kv-type", "f32"])
        .args(["--flash-attn", "off", "-n", "24"])
        .args(PROMPTS)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_variant_of_the_processor_says_the_same() {
    let variants = built_for("libggml-cpu");
    let all = Unpacked::with(&variants);
    let expected = texts(&mut all.modelve());
    assert!(expected.contains("a great day to be alive"), "{expected}");
    let by_ggml = texts(all.modelve().env("MODELVE_ISA", "plain"));
    let own: Vec<_> = matmul::types().map(|ty| ty.to_string()).collect();
    let mut ran = 0;
    for variant in &variants {
        let one = Unpacked::with(std::slice::from_ref(variant));
        let report = one.doctor();
        let library = &report["libraries"][0];
        if library["problem"] == "is not supported on this system" {
            let output = one
                .modelve()
                .args(["complete", "-m", "tiny", "x"])
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(1), "{variant}");
            eprintln!("skipped: this processor cannot run {variant}");
            continue;
        }
        assert_eq!(library["problem"], Value::Null, "{variant}");
        let path = one.path("backends").canonicalize().unwrap().join(variant);
        assert_eq!(library["path"], path.to_str().unwrap());
        assert_eq!(report["own_kernels"], Value::from(own.clone()), "{variant}");
        assert_eq!(texts(&mut one.modelve()), expected, "{variant}");
        let plain = texts(one.modelve().env("MODELVE_ISA", "plain"));
        assert_eq!(plain, by_ggml, "{variant}");
        ran += 1;
    }
    assert!(ran > 0);
    if ran < 2 {
        eprintln!("skipped: one variant was built (or runs here), so none was compared");
    }
}

#[test]
fn libraries_are_found_beside_the_program_wherever_it_lies() {
    let unpacked = Unpacked::with(&built_for("libggml-cpu"));
    let expected = texts(&mut unpacked.modelve());
    let link = unpacked.path("link");
    symlink(unpacked.path("modelve"), &link).unwrap();
    assert_eq!(texts(&mut modelve(&link)), expected);

    // As a distribution would install it.
    for folder in ["usr/bin", "usr/lib"] {
        fs::create_dir_all(unpacked.path(folder)).unwrap();
    }
    let installed = unpacked.path("usr/bin/modelve");
    fs::copy(unpacked.path("modelve"), &installed).unwrap();
    let library = unpacked.path("usr/lib/modelve");
    fs::rename(unpacked.path("backends"), &library).unwrap();
    assert_eq!(texts(&mut modelve(&installed)), expected);
}

#[test]
fn libraries_are_not_taken_from_the_current_folder_or_the_build() {
    let unpacked = Unpacked::with(&[]);
    let elsewhere = Unpacked::with(&built_for("libggml-cpu"));
    let mut command = unpacked.modelve();
    command.current_dir(elsewhere.path("backends"));
    let output = command.args(["complete", "-m", "tiny", "x"]).output();
    let output = output.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let folder = unpacked.path("backends").canonicalize().unwrap();
    assert!(said.contains(folder.to_str().unwrap()), "{said}");
    assert!(said.contains("hint: unpack the program together"), "{said}");
    assert_eq!(unpacked.doctor()["devices"], Value::Array(Vec::new()));
}

#[test]
fn a_library_that_does_not_load_says_why_and_harms_nobody() {
    let unpacked = Unpacked::with(&built_for("libggml-cpu"));
    let broken = unpacked.path("backends/libggml-vulkan.so");
    fs::write(&broken, "no library").unwrap();
    assert!(texts(&mut unpacked.modelve()).contains("a great day"));
    let report = unpacked.doctor();
    let libraries = report["libraries"].as_array().unwrap();
    let vulkan = libraries.iter().find(|l| l["backend"] == "vulkan").unwrap();
    assert_eq!(vulkan["devices"], 0);
    let problem = vulkan["problem"].as_str().unwrap();
    assert!(problem.contains("file too short"), "{problem}");
    assert!(
        libraries
            .iter()
            .any(|l| l["backend"] == "CPU" && l["devices"] == 1)
    );
}

/// A GPU's library is used once it lies in the folder; where its driver is missing it says so.
#[test]
fn a_gpus_library_is_dropped_into_the_folder() {
    let gpus: Vec<_> = ["libggml-vulkan", "libggml-cuda"]
        .iter()
        .flat_map(|name| built_for(name))
        .collect();
    if gpus.is_empty() {
        eprintln!("skipped: no library for a GPU was built; add a feature such as `vulkan`");
        return;
    }
    let unpacked = Unpacked::with(&built_for("libggml-cpu"));
    let without = texts(&mut unpacked.modelve());
    for gpu in gpus {
        let to = unpacked.path("backends").join(&gpu);
        fs::copy(built().join(&gpu), &to).unwrap();
        let report = unpacked.doctor();
        let libraries = report["libraries"].as_array().unwrap();
        let path = to.canonicalize().unwrap();
        let library = libraries
            .iter()
            .find(|l| l["path"] == path.to_str().unwrap());
        let library = library.unwrap_or_else(|| panic!("{gpu} in {report}"));
        if library["devices"] == 0 {
            assert!(library["problem"].is_string(), "{library}");
            assert!(library["remedy"].is_string(), "{library}");
            eprintln!("{gpu} found nothing to compute on: {}", library["problem"]);
        }
        let texts = texts(&mut unpacked.modelve());
        assert_eq!(texts, without, "{gpu}");
    }
}
