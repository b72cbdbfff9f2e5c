//! Compiles `ggml.cpp`, which makes ggml prefer these kernels, against the headers of the llama.cpp
//! that was built. Sets `cfg(matmul)` if these headers were found, or if the build is portable.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/ggml.cpp");
    println!("cargo::rustc-check-cfg=cfg(matmul)");
    // A portable build has `ggml.cpp` inside its libraries, see scripts/ggml.cmake.
    let portable = env::var_os("CARGO_FEATURE_PORTABLE").is_some();
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64")
        && (portable || compile().is_some())
    {
        println!("cargo::rustc-cfg=matmul");
    }
}

fn compile() -> Option<()> {
    // .../out/lib/cmake, beside .../out/build
    let installed = PathBuf::from(env::var_os("DEP_LLAMA_GGML_CMAKE_DIR")?);
    let cache = installed.ancestors().nth(2)?.join("build/CMakeCache.txt");
    let cache = fs::read_to_string(cache).ok()?;
    let key = "CMAKE_HOME_DIRECTORY:INTERNAL=";
    let home = cache.lines().find_map(|line| line.strip_prefix(key))?;
    let ggml = Path::new(home).join("ggml");
    if !ggml.join("src/ggml-cpu/traits.h").exists() {
        return None;
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("src/ggml.cpp")
        .include(ggml.join("include"))
        .include(ggml.join("src"))
        .include(ggml.join("src/ggml-cpu"))
        .warnings(false)
        .compile("modelve_matmul");
    Some(())
}
