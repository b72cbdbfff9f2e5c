//! How the module is linked: Python's functions are found when Python loads it, and the libraries of
//! a `portable` build where the wheel puts them.

use std::env;

/// The folder `lib/modelve` of an environment, seen from the module's in `lib/python3.11/site-packages`
/// and `lib64/python3.11/site-packages`, and that of `pip install --target`.
const PLACES: [&str; 3] = [
    "../../../modelve",
    "../../../../lib/modelve",
    "../lib/modelve",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let system = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if system == "macos" {
        println!("cargo::rustc-cdylib-link-arg=-undefined");
        println!("cargo::rustc-cdylib-link-arg=dynamic_lookup");
    }
    let origin = match system.as_str() {
        "windows" => return,
        "macos" => "@loader_path",
        _ => "$ORIGIN",
    };
    if env::var_os("CARGO_FEATURE_PORTABLE").is_some() {
        for place in PLACES {
            println!("cargo::rustc-cdylib-link-arg=-Wl,-rpath,{origin}/{place}");
        }
    }
}
