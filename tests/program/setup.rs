//! `scripts/setup` on machines that lack things: what it asks which package manager for. The
//! managers here are stand-ins that write down what they were asked.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A checkout, and a PATH with a shell's tools, Rust and what the test puts there.
struct Machine {
    dir: TempDir,
}

/// Hides libclang from the process that it becomes, which no other notices; 77 if it may not.
const HIDE: &str = r#"
for file in /usr/lib/llvm*/lib/libclang* /usr/lib64/llvm*/lib/libclang* /usr/lib/*-linux-*/libclang* \
    /usr/lib/libclang* /usr/lib64/libclang* /usr/local/lib/libclang* \
    /usr/include/vulkan/vulkan.hpp /usr/include/spirv/unified1/spirv.hpp /usr/local/cuda/bin/nvcc; do
    if [ -f "$file" ]; then mount --bind /dev/null "$file" || exit 77; fi
done
PATH=$STUBS exec /bin/sh scripts/setup "$@"
"#;

/// What a package manager does: it notes its arguments, and brings all that can be missing.
const MANAGER: &str = r#"#!/bin/sh
echo "${0##*/} $*" >>"$LOG"
case " $* " in
*" update "*) touch "$LOG.updated"; exit 0 ;;
*" -y -q "*) [ -e "$LOG.updated" ] || exit 100 ;;
esac
mkdir -p "$VULKAN_SDK/include/vulkan" "$VULKAN_SDK/include/spirv/unified1"
touch "$VULKAN_SDK/include/vulkan/vulkan.hpp" "$VULKAN_SDK/include/spirv/unified1/spirv.hpp"
for tool in c++ make cmake glslc; do ln -sf /bin/true "$STUBS/$tool"; done
mkdir -p "$LIBCLANG_PATH/clang/14/include"
touch "$LIBCLANG_PATH/libclang.so" "$LIBCLANG_PATH/clang/14/include/stddef.h"
"#;

impl Machine {
    fn with(manager: &str) -> Self {
        let machine = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in ["scripts", "bin"] {
            fs::create_dir(machine.path(folder)).unwrap();
        }
        for file in ["scripts/setup", "Cargo.toml"] {
            fs::copy(root.join(file), machine.path(file)).unwrap();
        }
        let tools = "sh sed awk mkdir cat dirname uname id env tail ln touch cargo rustc";
        for tool in tools.split(' ') {
            let script = format!("command -v {tool}");
            let found = Command::new("sh").args(["-c", &script]).output().unwrap();
            let found = String::from_utf8(found.stdout).unwrap();
            symlink(found.trim(), machine.path("bin").join(tool)).unwrap();
        }
        machine.add(manager, MANAGER);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts a program on the PATH.
    fn add(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        drop(fs::remove_file(&path));
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What it says and its exit code; `None` where this user may not hide files from it.
    fn setup(&self, arguments: &[&str]) -> Option<(String, i32)> {
        let output = Command::new("unshare")
            .args(["--mount", "--map-root-user", "/bin/sh", "-c", HIDE, "sh"])
            .args(arguments)
            .current_dir(self.dir.path())
            .env("STUBS", self.path("bin"))
            .env("LOG", self.path("log"))
            .env("LIBCLANG_PATH", self.path("libclang"))
            .env("VULKAN_SDK", self.path("vulkan"))
            .env_remove("CUDACXX")
            .env_remove("CUDA_PATH")
            .env_remove("CXX")
            .env_remove("BINDGEN_EXTRA_CLANG_ARGS")
            .output()
            .ok()?;
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        let code = output.status.code()?;
        (code != 77 && !said.contains("unshare:")).then_some((said, code))
    }

    /// What the package manager was asked.
    fn asked(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

fn skip() {
    eprintln!("skipped: this user may not hide the machine's libclang from the script");
}

#[test]
fn each_package_manager_is_asked_for_its_own_names() {
    for (manager, asked) in [
        ("dnf", "dnf install -y gcc-c++ make cmake clang-devel"),
        (
            "pacman",
            "pacman -S --needed --noconfirm gcc make cmake clang",
        ),
        (
            "zypper",
            "zypper --non-interactive install gcc-c++ make cmake clang-devel",
        ),
        ("apk", "apk add g++ linux-headers make cmake clang-dev"),
    ] {
        let machine = Machine::with(manager);
        let Some((said, code)) = machine.setup(&["--check"]) else {
            return skip();
        };
        assert_eq!(code, 1, "{said}");
        assert!(
            said.contains("missing: compiler make cmake libclang\n"),
            "{said}"
        );
        assert_eq!(machine.asked(), [""; 0], "--check installs nothing");

        let (said, code) = machine.setup(&[]).unwrap();
        assert_eq!(code, 0, "{manager}: {said}");
        assert_eq!(machine.asked(), [asked]);
        let words = asked
            .split_once(" gcc")
            .or(asked.split_once(" g++"))
            .unwrap();
        assert!(said.contains(words.1), "it says what it installs: {said}");

        assert_eq!(
            machine.setup(&[]).unwrap(),
            (String::new(), 0),
            "all is there"
        );
        assert_eq!(machine.asked().len(), 1);
        assert_eq!(machine.setup(&["--check"]).unwrap().1, 0);
    }
}

#[test]
fn apt_fetches_its_lists_when_they_are_stale() {
    let machine = Machine::with("apt-get");
    let Some((said, code)) = machine.setup(&[]) else {
        return skip();
    };
    assert_eq!(code, 0, "{said}");
    let asked = machine.asked();
    assert_eq!(asked.len(), 3, "{asked:?}");
    let install = " install --no-install-recommends g++ make cmake libclang-dev";
    assert!(
        asked[0].ends_with(install) && asked[2].ends_with(install),
        "{asked:?}"
    );
    assert!(asked[1].ends_with(" update"), "{asked:?}");
    assert!(said.contains("fetching them"), "{said}");
}

#[test]
fn homebrew_brings_what_apples_tools_do_not() {
    let machine = Machine::with("brew");
    machine.add("uname", "#!/bin/sh\necho Darwin\n");
    let Some((said, code)) = machine.setup(&[]) else {
        return skip();
    };
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("xcode-select --install"), "{said}");
    for tool in ["xcode-select", "c++", "make"] {
        machine.add(tool, "#!/bin/sh\n");
    }
    let (said, code) = machine.setup(&[]).unwrap();
    assert_eq!(code, 0, "{said}");
    assert_eq!(machine.asked(), ["brew install cmake llvm"]);
}

#[test]
fn without_root_it_asks_sudo_then_pypi_and_else_says_what_to_install() {
    let machine = Machine::with("dnf");
    machine.add("id", "#!/bin/sh\necho 1000\n");
    let Some((said, code)) = machine.setup(&[]) else {
        return skip();
    };
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("as root, with a network, install: gcc-c++ make cmake clang-devel"),
        "{said}"
    );

    // A compiler does not come from PyPI; cmake and libclang do.
    for tool in ["c++", "make"] {
        machine.add(tool, "#!/bin/sh\n");
    }
    let pip = r#"#!/bin/sh
        case "$*" in *--version*) exit ;; esac
        echo "python3 $*" >>"$LOG"
        for target do case $target in */.tools/python) break ;; esac; done
        mkdir -p "$target/cmake/data/bin" "$target/clang/native"
        ln -s /bin/true "$target/cmake/data/bin/cmake"
        touch "$target/clang/native/libclang.so""#;
    machine.add("python3", pip);
    machine.add(
        "cc",
        &format!("#!/bin/sh\necho {}\n", machine.path("headers").display()),
    );
    fs::create_dir(machine.path("headers")).unwrap();
    fs::write(machine.path("headers/stddef.h"), "").unwrap();
    let (said, code) = machine.setup(&[]).unwrap();
    assert_eq!(code, 0, "{said}");
    let asked = machine.asked();
    assert!(
        asked.len() == 1 && asked[0].ends_with(" cmake libclang"),
        "{asked:?}"
    );
    let env = fs::read_to_string(machine.path(".tools/env")).unwrap();
    assert!(
        env.contains("LIBCLANG_PATH=") && env.contains("-isystem"),
        "{env}"
    );
    assert_eq!(
        machine.setup(&[]).unwrap(),
        (String::new(), 0),
        "all is there"
    );

    let machine = Machine::with("dnf");
    machine.add("id", "#!/bin/sh\necho 1000\n");
    machine.add(
        "sudo",
        "#!/bin/sh\n[ \"$1\" != -n ] || exit 0\necho sudo >>\"$LOG\"\nexec \"$@\"\n",
    );
    let (said, code) = machine.setup(&[]).unwrap();
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        machine.asked(),
        ["sudo", "dnf install -y gcc-c++ make cmake clang-devel"]
    );
}

#[test]
fn vulkan_is_asked_for_only_when_it_is_wanted() {
    for (manager, packages) in [
        ("apt-get", "glslc libvulkan-dev spirv-headers"),
        (
            "dnf",
            "glslc vulkan-headers vulkan-loader-devel spirv-headers-devel",
        ),
        (
            "pacman",
            "shaderc vulkan-headers vulkan-icd-loader spirv-headers",
        ),
        ("zypper", "shaderc vulkan-devel spirv-headers"),
        (
            "apk",
            "shaderc vulkan-headers vulkan-loader-dev spirv-headers",
        ),
    ] {
        let machine = Machine::with(manager);
        let Some((said, code)) = machine.setup(&["--vulkan", "--check"]) else {
            return skip();
        };
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("libclang glslc vulkan spirv\n"), "{said}");
        assert_eq!(machine.asked(), [""; 0], "--check installs nothing");

        let (said, code) = machine.setup(&["--vulkan"]).unwrap();
        assert_eq!(code, 0, "{manager}: {said}");
        let asked = machine.asked();
        assert!(asked.last().unwrap().ends_with(packages), "{asked:?}");
        assert_eq!(machine.setup(&["--vulkan", "--check"]).unwrap().1, 0);
    }

    let machine = Machine::with("dnf");
    machine.add("id", "#!/bin/sh\necho 1000\n");
    for tool in ["c++", "make", "cmake"] {
        machine.add(tool, "#!/bin/sh\n");
    }
    let (said, code) = machine.setup(&["--vulkan"]).unwrap();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("install: clang-devel glslc"), "{said}");
}

#[test]
fn a_cuda_toolkit_is_taken_from_where_it_is_or_put_together_from_wheels() {
    let machine = Machine::with("apk");
    let pip = r#"#!/bin/sh
        case "$*" in *--version*) exit ;; esac
        echo "python3 $*" >>"$LOG"
        tree=${0%/bin/*}/.tools/cuda-wheels/nvidia/cu13
        mkdir -p "$tree/bin" "$tree/lib"
        ln -s /bin/true "$tree/bin/nvcc"
        touch "$tree/lib/libcudart.so.13""#;
    machine.add("python3", pip);
    let Some((said, code)) = machine.setup(&["--cuda"]) else {
        return skip();
    };
    assert_eq!(code, 0, "{said}");
    let asked = machine.asked();
    let wheels = asked
        .iter()
        .find(|line| line.starts_with("python3"))
        .unwrap();
    assert!(wheels.contains("/.tools/cuda-wheels "), "{wheels}");
    for wheel in [
        "cuda-nvcc",
        "cuda-runtime",
        "cublas",
        "cuda-cccl",
        "cuda-crt",
        "nvvm",
    ] {
        let wheel = format!("nvidia-{wheel}==13.*");
        assert!(wheels.contains(&wheel), "{wheels}");
    }
    let cuda = machine.path(".tools/cuda");
    for name in ["lib64/libcudart.so", "lib/libcudart.so.13", "bin/nvcc"] {
        assert!(cuda.join(name).exists(), "{name}");
    }
    let env = fs::read_to_string(machine.path(".tools/env")).unwrap();
    let cuda = cuda.display();
    assert!(env.contains(&format!("CUDACXX='{cuda}/bin/nvcc'")), "{env}");
    assert!(env.contains(&format!("CUDA_PATH='{cuda}'")), "{env}");
    assert_eq!(machine.setup(&["--cuda"]).unwrap(), (String::new(), 0));

    // One that is installed is enough.
    let machine = Machine::with("apk");
    machine.add("nvcc", "#!/bin/sh\n");
    let (said, code) = machine.setup(&["--cuda"]).unwrap();
    assert_eq!(code, 0, "{said}");
    assert!(!machine.path(".tools/cuda").exists());
}
