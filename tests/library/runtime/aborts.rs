//! What ends a process in the middle of C++ is told in words, not by a stack trace.
#![allow(unsafe_code)]

use std::process::{Command, Stdio};

const CHILD: &str = "MODELVE_TEST_TERMINATES";

/// Ends as a program does that throws what nobody catches; nothing where it is not the child.
#[cfg(unix)]
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    unsafe extern "C" {
        #[link_name = "_ZSt9terminatev"]
        fn terminate() -> !;
    }
    // Starts llama.cpp, whose own handler is then no longer called.
    modelve::runtime::devices();
    // SAFETY: `std::terminate` takes nothing and does not return.
    unsafe { terminate() }
}

#[cfg(unix)]
#[test]
fn an_exception_that_nobody_catches_is_told_in_words() {
    let (_, module) = module_path!().split_once("::").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::child"), "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("llama.cpp aborted: an exception"), "{said}");
    assert!(
        !said.contains("ggml_print_backtrace") && !said.contains("gdb"),
        "{said}"
    );
}
