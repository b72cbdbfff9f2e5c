//! Stops the build with one plain sentence, before anything large is compiled, if a backend was
//! chosen that this machine or target cannot build.

use std::env;
use std::path::{Path, PathBuf};
use std::process::exit;

fn main() {
    for variable in [
        "PATH",
        "CUDACXX",
        "CUDA_PATH",
        "VULKAN_SDK",
        "ROCM_PATH",
        "HIP_PATH",
    ] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=build.rs");

    let apple = env::var("CARGO_CFG_TARGET_VENDOR").is_ok_and(|vendor| vendor == "apple");
    if wanted("METAL") && !apple {
        refuse(
            "the feature `metal` needs macOS on Apple hardware; build here without it, or with `--features cuda` or `--features vulkan`",
        );
    }
    if wanted("CUDA") && apple {
        refuse("the feature `cuda` does not exist on Apple machines; use `--features metal`");
    }
    if wanted("CUDA") && !has_nvcc() {
        refuse(
            "the feature `cuda` needs NVIDIA's CUDA toolkit and `nvcc` was not found; set CUDA_PATH to an installed toolkit, or run `scripts/setup --cuda`",
        );
    }
    if wanted("CUDA") && !wanted("PORTABLE") && lacks_static_cublas() {
        refuse(
            "the feature `cuda` by itself links cuBLAS into the program, and the toolkit at CUDA_PATH has no libcublas_static.a (NVIDIA's wheels never do); use `--features portable,cuda`",
        );
    }
    if wanted("VULKAN") && !on_path("glslc") && !below("VULKAN_SDK", "bin/glslc") {
        refuse(
            "the feature `vulkan` needs the shader compiler `glslc` and the Vulkan headers; run `scripts/setup --vulkan`, or set VULKAN_SDK",
        );
    }
    if wanted("ROCM") && !rocm_is_there() {
        refuse(
            "the feature `rocm` needs AMD's ROCm and it was not found; set ROCM_PATH to where it is installed",
        );
    }
}

fn wanted(feature: &str) -> bool {
    env::var_os(format!("CARGO_FEATURE_{feature}")).is_some()
}

fn has_nvcc() -> bool {
    env::var_os("CUDACXX").is_some_and(|nvcc| on_path(nvcc.to_string_lossy().as_ref()))
        || below("CUDA_PATH", "bin/nvcc")
        || on_path("nvcc")
        || Path::new("/usr/local/cuda/bin/nvcc").exists()
}

/// Returns whether the toolkit that `CUDA_PATH` names has no static cuBLAS.
fn lacks_static_cublas() -> bool {
    let linux = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    let folders = [
        "lib64",
        "lib",
        "targets/x86_64-linux/lib",
        "targets/sbsa-linux/lib",
    ];
    let has = |folder: &str| below("CUDA_PATH", &format!("{folder}/libcublas_static.a"));
    linux && env::var_os("CUDA_PATH").is_some() && !folders.iter().any(|folder| has(folder))
}

fn rocm_is_there() -> bool {
    below("ROCM_PATH", "lib") || below("HIP_PATH", "lib") || Path::new("/opt/rocm/lib").exists()
}

/// Returns whether a shell would find `program`, a name or a path.
fn on_path(program: &str) -> bool {
    let found = |path: PathBuf| path.is_file() || path.with_extension("exe").is_file();
    if program.contains(std::path::MAIN_SEPARATOR) {
        return found(PathBuf::from(program));
    }
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|dir| found(dir.join(program))))
}

/// Returns whether the folder that `variable` names contains `relative`.
fn below(variable: &str, relative: &str) -> bool {
    env::var_os(variable).is_some_and(|dir| {
        let path = Path::new(&dir).join(relative);
        path.exists() || path.with_extension("exe").exists()
    })
}

fn refuse(sentence: &str) -> ! {
    println!("cargo::error={sentence}");
    exit(1);
}
