//! The backends of ggml in this build, the libraries that they are loaded from, and the reasons why
//! one is missing.
//!
//! Most builds are linked with their backends. With the feature `portable`, backends are libraries
//! in a folder beside the program: one per instruction set for the CPU, of which the best is
//! loaded, and any number for GPUs. Every library in the folder is used.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::ffi;

/// A backend, or a library in the folder of backends that does not load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// ggml's name for it, such as `CPU` or `Vulkan`; for a library that does not load, the part of
    /// its file name after `ggml-`.
    pub name: String,
    /// The file it was loaded from; `None` if it is part of the program.
    pub library: Option<PathBuf>,
    /// The number of devices it found, including those that modelve does not use.
    pub devices: usize,
    /// Why it did not load, or found no device, in its own words.
    pub problem: Option<String>,
}

impl Backend {
    /// What the user can do about the problem, if that is known.
    pub fn remedy(&self) -> Option<&'static str> {
        let problem = self.problem.as_deref()?;
        REMEDIES
            .iter()
            .find(|(word, _)| problem.contains(word))
            .map(|(_, remedy)| *remedy)
    }
}

/// Words in the message of a loader or a backend, and what the user can do about that problem.
const REMEDIES: [(&str, &str); 10] = [
    (
        "libvulkan",
        "install the Vulkan loader (libvulkan1) and a driver (mesa-vulkan-drivers, or the GPU maker's)",
    ),
    (
        "No devices found",
        "install the GPU's driver (for Vulkan mesa-vulkan-drivers, or the GPU maker's)",
    ),
    // The Vulkan backend says this if there is a loader but no driver.
    (
        "returned NULL",
        "install the GPU's driver (for Vulkan mesa-vulkan-drivers, or the GPU maker's)",
    ),
    ("libcuda.so", "install NVIDIA's driver"),
    (
        "libcudart",
        "put NVIDIA's libcudart.so.13 beside it (`scripts/setup --cuda` fetches it)",
    ),
    (
        "libcublas",
        "put NVIDIA's libcublas.so.13 and libcublasLt.so.13 beside it (`scripts/setup --cuda` fetches them)",
    ),
    (
        "CUDA",
        "it needs an NVIDIA GPU and a driver for CUDA 13 (580 or later)",
    ),
    (
        "hip",
        "install AMD's ROCm, the version this library was built with",
    ),
    (
        "API version",
        "take the library from the same version of modelve",
    ),
    (
        "undefined symbol",
        "take the library from the same version of modelve",
    ),
];

/// The backends of this program. The first call finds and loads them.
pub fn backends() -> &'static [Backend] {
    static BACKENDS: OnceLock<Vec<Backend>> = OnceLock::new();
    BACKENDS.get_or_init(find)
}

/// The library that a backend was loaded from; `None` if it is part of the program.
pub(super) fn library(name: &str) -> Option<&'static Path> {
    let backend = backends().iter().find(|backend| backend.name == name)?;
    backend.library.as_deref()
}

/// Adds the folders of an installation for Python to those that are searched: this code is part of
/// a module at `file`, and the program of this process is the interpreter. Call it before
/// [`backends`].
pub fn search_beside(file: &Path) {
    let folder = file.parent().unwrap_or(Path::new(""));
    // From `site-packages/modelve` of an environment, of one with `lib64`, and of a folder that was
    // installed into with `pip install --target`.
    let places = [
        "../../../modelve",
        "../../../../lib/modelve",
        "../lib/modelve",
    ];
    let places = places.iter().map(|place| folder.join(place)).collect();
    // Another call has the same to say.
    let _ = BESIDE.set(places);
}

/// See [`search_beside`].
static BESIDE: OnceLock<Vec<PathBuf>> = OnceLock::new();

/// The folders that are searched for libraries; none in a build that is linked with its backends.
pub fn folders() -> Vec<PathBuf> {
    #[cfg(feature = "portable")]
    return libraries::folders();
    #[cfg(not(feature = "portable"))]
    Vec::new()
}

#[cfg(not(feature = "portable"))]
fn find() -> Vec<Backend> {
    let mut found = Vec::new();
    let said = ffi::listen(|| found = ffi::registered());
    let backends = found.into_iter().map(|(name, devices)| Backend {
        problem: is_lame(&name, devices).then(|| about(&said, &name)),
        name,
        library: None,
        devices,
    });
    let mut backends: Vec<_> = backends.collect();
    // The Vulkan backend is the only one that does not register itself if there is no driver.
    if cfg!(feature = "vulkan") && !backends.iter().any(|backend| backend.name == "Vulkan") {
        backends.push(Backend {
            name: "Vulkan".to_owned(),
            library: None,
            devices: 0,
            problem: Some("No devices found: Vulkan does not start".to_owned()),
        });
    }
    backends
}

#[cfg(feature = "portable")]
use libraries::find;

/// The name of the backend that computes on other machines, which has no devices before one is named.
const REMOTE: &str = "RPC";

/// Returns whether this build can use other machines.
pub fn computes_elsewhere() -> bool {
    backends()
        .iter()
        .any(|backend| backend.name == REMOTE && backend.problem.is_none())
}

/// Returns whether a backend should have found a device and did not.
fn is_lame(name: &str, devices: usize) -> bool {
    devices == 0 && name != REMOTE
}

/// The message about a backend that found no device, among what ggml logged.
fn about(said: &[String], name: &str) -> String {
    let name = name.to_lowercase();
    let line = said
        .iter()
        .find(|line| line.to_lowercase().contains(&name) && !line.contains("loaded"));
    match line {
        // The C function that the line starts with means nothing to users.
        Some(line) => match line.split_once(": ") {
            Some((function, rest)) if !function.contains(' ') => rest.to_owned(),
            _ => line.clone(),
        },
        None => "it found no device".to_owned(),
    }
}

#[cfg(feature = "portable")]
mod libraries {
    use std::ffi::CString;
    use std::path::{Path, PathBuf};
    use std::{env, fs};

    use super::{BESIDE, Backend, about, ffi, is_lame};

    /// The folder `backends` beside the program, and `lib/modelve` if the program is installed in a
    /// `bin`. Never the current folder, where anybody may have put a library.
    pub fn folders() -> Vec<PathBuf> {
        if let Some(beside) = BESIDE.get() {
            return beside.clone();
        }
        let program = env::current_exe().and_then(fs::canonicalize);
        let Some(beside) = program
            .ok()
            .and_then(|path| Some(path.parent()?.to_owned()))
        else {
            return Vec::new();
        };
        let mut folders = vec![beside.join("backends")];
        if let Some(prefix) = beside.parent().filter(|_| beside.ends_with("bin")) {
            folders.push(prefix.join("lib/modelve"));
        }
        folders
    }

    pub fn find() -> Vec<Backend> {
        let Some(folder) = folders().into_iter().find(|folder| folder.is_dir()) else {
            return Vec::new();
        };
        let mut backends = loaded(&folder);
        for (name, path) in files(&folder) {
            // There are several libraries for the CPU, and ggml loads only one of them.
            let variant = name.split('-').next() == Some("cpu");
            let known = |backend: &Backend| {
                backend.library.as_ref() == Some(&path)
                    || (variant && backend.name.eq_ignore_ascii_case("cpu"))
            };
            if !backends.iter().any(known) {
                backends.push(unfit(name, path));
            }
        }
        backends
    }

    /// Loads the backends in a folder. Only ggml's log tells from which file each was loaded.
    fn loaded(folder: &Path) -> Vec<Backend> {
        let Ok(path) = CString::new(folder.as_os_str().as_encoded_bytes()) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let said = ffi::listen(|| {
            ffi::load_folder(&path);
            found = ffi::registered();
        });
        let place = |name: &str| {
            let words = format!("loaded {name} backend from ");
            let line = said.iter().find_map(|line| line.split_once(&words));
            line.map(|(_, path)| PathBuf::from(path))
        };
        let backends = found.into_iter().map(|(name, devices)| Backend {
            library: place(&name),
            problem: is_lame(&name, devices).then(|| about(&said, &name)),
            name,
            devices,
        });
        backends.collect()
    }

    /// Loads a library that ggml skipped silently once more, by itself, to learn the reason.
    fn unfit(name: String, path: PathBuf) -> Backend {
        let mut said = Vec::new();
        if let Ok(library) = CString::new(path.as_os_str().as_encoded_bytes()) {
            said = ffi::listen(|| ffi::load_one(&library));
        }
        let shown = path.display().to_string();
        let line = said.iter().find(|line| line.contains(&shown));
        let problem = match line.and_then(|line| line.split_once(&shown)) {
            Some((_, reason)) => reason.trim_start_matches(": ").trim().to_owned(),
            None => "it does not load".to_owned(),
        };
        Backend {
            name,
            library: Some(path),
            devices: 0,
            problem: Some(problem),
        }
    }

    /// The backend libraries in a folder, with the part of their names after `ggml-`, sorted.
    fn files(folder: &Path) -> Vec<(String, PathBuf)> {
        let (prefix, suffix) = match cfg!(windows) {
            true => ("ggml-", ".dll"),
            false => ("libggml-", ".so"),
        };
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries
            .filter_map(|entry| {
                let file = entry.file_name();
                let name = file.to_str()?.strip_prefix(prefix)?.strip_suffix(suffix)?;
                (name != "base").then(|| (name.to_owned(), entry.path()))
            })
            .collect();
        files.sort();
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_a_backend_of_every_build() {
        let cpu = backends().iter().find(|backend| backend.name == "CPU");
        let cpu = cpu.expect("a backend for the processor");
        assert_eq!((cpu.devices, &cpu.problem), (1, &None));
        assert_eq!(cpu.library.is_some(), cfg!(feature = "portable"));
    }

    #[test]
    fn what_is_missing_has_a_remedy() {
        let lacks = |problem: &str| Backend {
            name: "x".to_owned(),
            library: None,
            devices: 0,
            problem: Some(problem.to_owned()),
        };
        let missing = "libvulkan.so.1: cannot open shared object file: No such file or directory";
        assert!(lacks(missing).remedy().unwrap().contains("libvulkan1"));
        let old = "incompatible API version (backend: 1, current: 2)";
        assert!(lacks(old).remedy().unwrap().contains("same version"));
        assert_eq!(lacks("it found no device").remedy(), None);
    }

    #[test]
    fn a_backend_without_devices_is_quoted() {
        let said = [
            "load_backend: loaded CUDA backend from /x/libggml-cuda.so".to_owned(),
            "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"
                .to_owned(),
        ];
        assert_eq!(
            about(&said, "CUDA"),
            "failed to initialize CUDA: no CUDA-capable device is detected"
        );
        assert_eq!(about(&said, "Vulkan"), "it found no device");
    }
}
