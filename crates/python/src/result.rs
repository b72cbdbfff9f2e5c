//! The results of questions: the documented JSON (`docs/json.md`) as objects with attributes, and
//! the page that `--html` writes.

use std::sync::OnceLock;

use anyhow::anyhow;
use modelve::probe::html::{About, Page};
use pyo3::exceptions::PyImportError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyList, PyString};
use serde::Serialize;
use serde_json::Value;

use crate::array::Array;
use crate::error::{Result, raised};
use crate::value;

/// What `to_pandas` makes a table of.
#[derive(Debug, Clone, Copy)]
pub enum Table {
    /// A list of objects, by its key.
    Rows(&'static str),
    /// A list of rows of numbers, by its key, and the keys of the names of rows and columns.
    Grid(&'static str, &'static str, &'static str),
}

/// How a kind of result is shown.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Its page.
    pub page: Option<Page>,
    /// Whether the data of its page is a list of results.
    pub listed: bool,
    /// Its table.
    pub table: Table,
    /// The keys that stand in its `repr`.
    pub brief: &'static [&'static str],
}

type Whole = Box<dyn Fn() -> serde_json::Result<String> + Send + Sync>;

/// A result.
pub struct Shown {
    look: Look,
    about: About,
    /// What attributes are made of: the whole result, but for what is an array.
    json: Value,
    /// The same as it is printed.
    text: String,
    /// The whole result as it is printed, where that has more.
    whole: Option<Whole>,
    arrays: Vec<(&'static str, Py<Array>)>,
    fields: OnceLock<Py<PyDict>>,
}

impl Shown {
    /// A result as the documentation has it.
    ///
    /// # Errors
    /// It does not serialize.
    pub fn new(look: Look, about: About, result: &impl Serialize) -> Result<Shown> {
        Ok(Shown {
            look,
            about,
            json: serde_json::to_value(result)?,
            text: serde_json::to_string(result)?,
            whole: None,
            arrays: Vec::new(),
            fields: OnceLock::new(),
        })
    }

    /// Adds an attribute that is an array.
    #[must_use]
    pub fn with(mut self, name: &'static str, array: Py<Array>) -> Self {
        self.arrays.push((name, array));
        self
    }

    /// Says what the whole result is, of which this has a part.
    #[must_use]
    pub fn part_of<T: Serialize + Send + Sync + 'static>(mut self, whole: T) -> Self {
        self.whole = Some(Box::new(move || serde_json::to_string(&whole)));
        self
    }

    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        if let Some(fields) = self.fields.get() {
            return Ok(fields.bind(py).clone());
        }
        let fields = match &self.json {
            Value::Object(object) => value::fields(py, object)?,
            _ => PyDict::new(py),
        };
        for (name, array) in &self.arrays {
            fields.set_item(name, array)?;
        }
        let fields = self.fields.get_or_init(|| fields.unbind());
        Ok(fields.bind(py).clone())
    }

    pub(crate) fn get(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyString>,
        class: &str,
    ) -> PyResult<Py<PyAny>> {
        value::attribute(&self.fields(py)?, name, class)
    }

    pub(crate) fn names<'py>(
        &self,
        py: Python<'py>,
        own: &[&'static str],
    ) -> PyResult<Bound<'py, PyList>> {
        let names = self.fields(py)?.keys();
        for name in own {
            names.append(name)?;
        }
        Ok(names)
    }

    /// The whole result as it is printed.
    fn all(&self) -> Result<String> {
        match &self.whole {
            Some(whole) => Ok(whole()?),
            None => Ok(self.text.clone()),
        }
    }

    pub(crate) fn dict(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let all = self.all().map_err(|error| raised(py, &error))?;
        // Python reads every digit of a number, as whoever reads what a command prints.
        let all = py.import("json")?.call_method1("loads", (all,))?;
        Ok(all.unbind())
    }

    pub(crate) fn repr(&self, class: &str) -> String {
        let brief = self.look.brief.iter().filter_map(|&key| {
            let value = self.json.get(key)?;
            Some(match value {
                Value::Array(list) => format!("{key}=[{}]", list.len()),
                Value::Object(object) => match object.get("piece") {
                    Some(piece) => format!("{key}={piece}"),
                    None => format!("{key}={value}"),
                },
                value => format!("{key}={value}"),
            })
        });
        let mut brief: Vec<String> = brief.collect();
        brief.extend(self.json.get("top").and_then(likeliest));
        format!("{class}({})", brief.join(", "))
    }

    pub(crate) fn html(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let Some(page) = self.look.page else {
            return Ok(None);
        };
        let made = self.all().and_then(|all| {
            let all: Value = serde_json::from_str(&all)?;
            let all = match self.look.listed {
                true => Value::Array(vec![all]),
                false => all,
            };
            Ok(page.render(&all, &self.about)?)
        });
        let made = made.map_err(|error| raised(py, &error))?;
        Ok(Some(framed(&made, page.name())))
    }

    pub(crate) fn pandas(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let Ok(pandas) = py.import("pandas") else {
            let what = "to_pandas() needs pandas, which is not installed: pip install pandas";
            return Err(PyImportError::new_err(what));
        };
        let get = |key: &str| value::plain(py, self.json.get(key).unwrap_or(&Value::Null));
        let table = match self.look.table {
            Table::Rows(key) => pandas.call_method1("DataFrame", (get(key)?,))?,
            Table::Grid(key, index, columns) => {
                let names = [("index", get(index)?), ("columns", get(columns)?)];
                let names = names.into_py_dict(py)?;
                pandas.call_method("DataFrame", (get(key)?,), Some(&names))?
            }
        };
        Ok(table.unbind())
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        for (_, array) in &self.arrays {
            visit.call(array)?;
        }
        match self.fields.get() {
            Some(fields) => visit.call(fields),
            None => Ok(()),
        }
    }
}

/// The likeliest tokens, for a `repr`.
fn likeliest(top: &Value) -> Option<String> {
    let top = top.as_array()?.iter().take(3).filter_map(|choice| {
        let prob = choice.get("prob")?.as_f64()?;
        Some(format!("{} {:.1} %", choice.get("piece")?, 100.0 * prob))
    });
    let top: Vec<String> = top.collect();
    (!top.is_empty()).then(|| format!("top: {}, …", top.join(", ")))
}

/// A page in a frame of a notebook. Its scripts see nothing of the notebook.
fn framed(page: &str, name: &str) -> String {
    let page = page.replace('&', "&amp;").replace('"', "&quot;");
    format!(
        "<iframe title=\"modelve {name}\" sandbox=\"allow-scripts allow-downloads\" srcdoc=\"{page}\" \
         style=\"width:100%;height:36em;border:1px solid #8884;border-radius:6px\"></iframe>"
    )
}

/// The classes of results. Each is a [`Shown`] with the same methods.
macro_rules! results {
    ($($(#[doc = $doc:literal])* $name:ident)*) => {$(
        $(#[doc = $doc])*
        #[pyclass(frozen, module = "modelve")]
        pub struct $name(pub Shown);

        #[pymethods]
        impl $name {
            fn __getattr__(&self, py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
                self.0.get(py, name, stringify!($name))
            }

            fn __dir__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
                self.0.names(py, &["to_dict", "to_pandas"])
            }

            /// The documented JSON: dictionaries, lists, texts and numbers.
            fn to_dict(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
                self.0.dict(py)
            }

            /// Its main table as a pandas `DataFrame`.
            fn to_pandas(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
                self.0.pandas(py)
            }

            fn __repr__(&self) -> String {
                self.0.repr(stringify!($name))
            }

            fn _repr_html_(&self, py: Python<'_>) -> PyResult<Option<String>> {
                self.0.html(py)
            }

            fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
                self.0.traverse(&visit)
            }
        }
    )*};
}

results! {
    /// What a model expects after a prompt.
    Next
    /// How likely a model finds a text, token by token.
    Score
    /// What a model would say if it stopped after a layer.
    Lens
    /// Where the heads of a model look.
    Attention
    /// The words an answer hangs on, and the parts of the model it is the sum of.
    Why
    /// Where what tells two prompts apart lies in the model.
    Patch
    /// What differs between two files of one model.
    Comparison
    /// What follows a prompt, token by token.
    Completion
}

/// Checks that a result is complete, which it is not after Ctrl-C.
///
/// # Errors
/// [`modelve::hint::Interrupted`].
pub fn whole(complete: bool) -> Result<()> {
    match complete {
        true => Ok(()),
        false => Err(anyhow!(modelve::hint::Interrupted)),
    }
}
