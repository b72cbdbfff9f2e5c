//! modelve as a Python module: `import modelve`.
//!
//! A loaded model lives in a thread of its own ([`worker`]); what it is asked are the functions of
//! the other crates with the rules of the command line, and what it answers is the documented JSON
//! as objects ([`result`]). `python/modelve/__init__.pyi` has the types.

mod array;
mod bench;
mod complete;
mod error;
mod model;
mod probes;
mod read;
mod result;
mod tools;
mod trace;
mod value;
mod vocab;
mod worker;

use pyo3::prelude::*;

/// The module behind `modelve`.
#[pymodule]
mod _modelve {
    use super::*;

    #[pymodule_export]
    use super::array::Array;
    #[pymodule_export]
    use super::complete::Stream;
    #[pymodule_export]
    use super::error::Error;
    #[pymodule_export]
    use super::model::{Model, load};
    #[pymodule_export]
    use super::result::{Attention, Comparison, Completion, Lens, Next, Patch, Score, Why};
    #[pymodule_export]
    use super::tools::{compare, convert};
    #[pymodule_export]
    use super::trace::Trace;
    #[pymodule_export]
    use super::value::Record;
    #[pymodule_export]
    use super::vocab::Vocab;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        // Exceptions that have no hint of their own.
        py.get_type::<super::error::Error>()
            .setattr("hint", py.None())?;
        let end = wrap_pyfunction!(super::_end, module)?;
        py.import("atexit")?.call_method1("register", (end,))?;
        modelve::program::embed(program(py));
        let file: std::path::PathBuf = module.getattr("__file__")?.extract()?;
        modelve::runtime::backends::search_beside(&file);
        Ok(())
    }

    /// The program `modelve` that was installed with the module.
    fn program(py: Python<'_>) -> Option<std::path::PathBuf> {
        let scripts = py
            .import("sysconfig")
            .and_then(|paths| paths.call_method1("get_path", ("scripts",)));
        let scripts: std::path::PathBuf = scripts.ok()?.extract().ok()?;
        Some(scripts.join(if cfg!(windows) {
            "modelve.exe"
        } else {
            "modelve"
        }))
    }
}

/// Ends the threads of all models, before the interpreter ends.
#[pyfunction]
fn _end(py: Python<'_>) {
    worker::end_all(py);
}
