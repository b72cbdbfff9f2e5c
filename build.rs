//! Records what `modelve --version` prints, warns about a build that would be slow, and lays out
//! the libraries of a `portable` build.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

fn main() {
    run_again_after_changes();
    println!("cargo::rustc-env=MODELVE_COMMIT={}", git_commit());
    println!(
        "cargo::rustc-env=MODELVE_TARGET={}",
        env::var("TARGET").unwrap_or_default()
    );
    let (llama, ggml) = llama_versions();
    println!("cargo::rustc-env=MODELVE_LLAMA_VERSION={llama}");
    println!("cargo::rustc-env=MODELVE_GGML_VERSION={ggml}");
    warn_about_missing_vector_instructions();
    if env::var_os("CARGO_FEATURE_PORTABLE").is_some() {
        lay_out_backends().expect("the backends that llama.cpp's build left behind");
    }
}

/// Puts the libraries of a `portable` build into a folder `backends` beside the program and its
/// tests, and sets the program's library search path to it.
fn lay_out_backends() -> std::io::Result<()> {
    match env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("windows") => {}
        Ok("macos") => {
            for place in ["backends", "../lib/modelve"] {
                println!("cargo::rustc-link-arg=-Wl,-rpath,@loader_path/{place}");
            }
        }
        _ => println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/backends:$ORIGIN/../lib/modelve"),
    }
    let from = |variable: &str| Path::new(&env::var_os(variable).unwrap_or_default()).to_owned();
    let loaded = from("DEP_LLAMA_BACKENDS_DIR");
    let linked = from("DEP_LLAMA_GGML_CMAKE_DIR").join("..");
    let out = from("OUT_DIR");
    // target/debug/build/modelve-0123/out
    let programs = out.ancestors().nth(3).unwrap_or(&out);
    for place in [
        programs.to_owned(),
        programs.join("deps"),
        programs.join("examples"),
    ] {
        let folder = place.join("backends");
        fs::create_dir_all(&folder)?;
        remove_links_to_nothing(&place)?;
        for entry in fs::read_dir(&loaded)?.chain(fs::read_dir(&linked)?) {
            let file = entry?.path();
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            // Programs are linked to names like `libllama.so.0`; other names of a file are left
            // out.
            let versions = name.split_once(".so.").map(|(_, numbers)| numbers);
            let wanted = versions.is_some_and(|numbers| !numbers.contains('.'))
                || name.ends_with(".dylib")
                || file.parent() == Some(&loaded) && versions.is_none();
            if wanted {
                link(&fs::canonicalize(&file)?, &folder.join(&*name))?;
            }
        }
    }
    Ok(())
}

/// Removes dangling links. The bindings' build leaves links in this folder whose targets it does
/// not copy, and fails on them when it runs again with other features.
fn remove_links_to_nothing(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_symlink() && !path.exists() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Gives a file another name, replacing a file of that name.
fn link(file: &Path, name: &Path) -> std::io::Result<()> {
    let temporary = name.with_extension("new");
    drop(fs::remove_file(&temporary));
    fs::hard_link(file, &temporary).or_else(|_| fs::copy(file, &temporary).map(drop))?;
    fs::rename(&temporary, name)?;
    // If both were already names of the same file, renaming does nothing and leaves this name.
    drop(fs::remove_file(&temporary));
    Ok(())
}

/// Makes this script run again after each change of a file or commit, so that the recorded commit
/// is that of the compiled tree.
fn run_again_after_changes() {
    let tree = ["Cargo.toml", "Cargo.lock", "build.rs", "src", "crates"];
    let more = ["benches", "docs", "examples", "models", "scripts", "tests"];
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    let paths = tree.into_iter().chain(more).chain(log.as_deref());
    // Cargo treats a path that does not exist as changed on each build.
    for path in paths.filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
}

/// The checked-out commit, followed by `+` if the tree differs from it, or `unknown` if there is no
/// git, as in a source archive.
fn git_commit() -> String {
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".into();
    };
    let changed = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
    if changed { commit + "+" } else { commit }
}

/// The output of a git command; `None` if it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The versions of llama.cpp and ggml, from the CMake packages that the bindings install.
fn llama_versions() -> (String, String) {
    let cmake = env::var("DEP_LLAMA_GGML_CMAKE_DIR").unwrap_or_default();
    let version = |package: &str| {
        let file = Path::new(&cmake)
            .join(package)
            .join(format!("{package}-version.cmake"));
        let alternative = Path::new(&cmake)
            .join(package)
            .join(format!("{package}-config-version.cmake"));
        let text = fs::read_to_string(file)
            .or_else(|_| fs::read_to_string(alternative))
            .ok()?;
        let line = text
            .lines()
            .find(|line| line.starts_with("set(PACKAGE_VERSION "))?;
        Some(line.split('"').nth(1)?.to_owned())
    };
    let or_unknown = |version: Option<String>| version.unwrap_or_else(|| "unknown".into());
    (or_unknown(version("llama")), or_unknown(version("ggml")))
}

/// Warns if the target has no AVX2. Without `target-cpu=native` the bindings compile ggml's CPU
/// kernels for the oldest CPUs of the architecture.
fn warn_about_missing_vector_instructions() {
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let has = |feature: &str| features.split(',').any(|f| f == feature);
    let portable = env::var_os("CARGO_FEATURE_PORTABLE").is_some();
    let x86 = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    if x86 && !portable && !has("avx2") {
        println!(
            "cargo::warning=this build of llama.cpp does not use AVX2 and will be several times slower; \
             build inside the checkout (its .cargo/config.toml sets target-cpu=native), \
             set RUSTFLAGS=\"-C target-cpu=native\", or use `--features portable`"
        );
    }
}
