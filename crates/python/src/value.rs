//! The documented JSON as Python values: objects become [`Record`]s, or plain dictionaries.

use pyo3::exceptions::PyAttributeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use serde_json::Value;

/// An object of a result: its keys are attributes.
#[pyclass(frozen, module = "modelve")]
pub struct Record {
    fields: Py<PyDict>,
}

#[pymethods]
impl Record {
    fn __getattr__(&self, py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
        attribute(self.fields.bind(py), name, "Record")
    }

    fn __dir__<'py>(&self, py: Python<'py>) -> Bound<'py, PyList> {
        self.fields.bind(py).keys()
    }

    /// The same as plain dictionaries, lists and numbers.
    fn to_dict(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        unwrapped(self.fields.bind(py).as_any())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let fields = self.fields.bind(py).iter();
        let fields = fields.map(|(key, value)| PyResult::Ok(format!("{key}={}", value.repr()?)));
        Ok(format!(
            "({})",
            fields.collect::<PyResult<Vec<_>>>()?.join(", ")
        ))
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<bool> {
        match other.cast::<Record>() {
            Ok(other) => self.fields.bind(py).eq(other.get().fields.bind(py)),
            Err(_) => Ok(false),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.fields)
    }
}

/// The value of a field.
///
/// # Errors
/// `AttributeError`.
pub fn attribute(
    fields: &Bound<'_, PyDict>,
    name: &Bound<'_, PyString>,
    class: &str,
) -> PyResult<Py<PyAny>> {
    match fields.get_item(name)? {
        Some(value) => Ok(value.unbind()),
        None => Err(PyAttributeError::new_err(format!(
            "{class} has no attribute '{name}'"
        ))),
    }
}

/// JSON as Python values: objects are [`Record`]s, and bytes that are no text are `bytes`.
///
/// # Errors
/// Python's, such as those of memory.
pub fn value(py: Python<'_>, json: &Value) -> PyResult<Py<PyAny>> {
    build(py, json, true)
}

/// JSON as `json.loads` reads it.
///
/// # Errors
/// See [`value`].
pub fn plain(py: Python<'_>, json: &Value) -> PyResult<Py<PyAny>> {
    build(py, json, false)
}

/// An object's fields as Python values, see [`value`].
///
/// # Errors
/// See [`value`].
pub fn fields<'py>(
    py: Python<'py>,
    object: &serde_json::Map<String, Value>,
) -> PyResult<Bound<'py, PyDict>> {
    fill(py, object, true)
}

fn fill<'py>(
    py: Python<'py>,
    object: &serde_json::Map<String, Value>,
    records: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    for (key, value) in object {
        fields.set_item(PyString::intern(py, key), build(py, value, records)?)?;
    }
    Ok(fields)
}

fn build(py: Python<'_>, json: &Value, records: bool) -> PyResult<Py<PyAny>> {
    Ok(match json {
        Value::Null => py.None(),
        Value::Bool(value) => value.into_pyobject(py)?.to_owned().into_any().unbind(),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(n), _) => n.into_pyobject(py)?.into_any().unbind(),
            (None, Some(n)) => n.into_pyobject(py)?.into_any().unbind(),
            (None, None) => (number.as_f64())
                .unwrap_or(f64::NAN)
                .into_pyobject(py)?
                .into_any()
                .unbind(),
        },
        Value::String(text) => PyString::new(py, text).into_any().unbind(),
        Value::Array(list) => {
            let list = list.iter().map(|item| build(py, item, records));
            let list = list.collect::<PyResult<Vec<_>>>()?;
            PyList::new(py, list)?.into_any().unbind()
        }
        Value::Object(object) => match bytes(object).filter(|_| records) {
            Some(bytes) => PyBytes::new(py, &bytes).into_any().unbind(),
            None => {
                let fields = fill(py, object, records)?.unbind();
                match records {
                    true => Py::new(py, Record { fields })?.into_any(),
                    false => fields.into_any(),
                }
            }
        },
    })
}

/// The bytes of `{"bytes": […]}`.
fn bytes(object: &serde_json::Map<String, Value>) -> Option<Vec<u8>> {
    let list = object.get("bytes").filter(|_| object.len() == 1)?;
    let list = list.as_array()?.iter();
    list.map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok()))
        .collect()
}

/// A value with records turned into dictionaries.
fn unwrapped(value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let py = value.py();
    if let Ok(record) = value.cast::<Record>() {
        return unwrapped(record.get().fields.bind(py).as_any());
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        let object = PyDict::new(py);
        object.set_item(
            "bytes",
            bytes
                .as_bytes()
                .to_vec()
                .into_pyobject(py)?
                .try_iter()?
                .collect::<PyResult<Vec<_>>>()?,
        )?;
        return Ok(object.into_any().unbind());
    }
    if let Ok(list) = value.cast::<PyList>() {
        let list = list.iter().map(|item| unwrapped(&item));
        let list = list.collect::<PyResult<Vec<_>>>()?;
        return Ok(PyList::new(py, list)?.into_any().unbind());
    }
    if let Ok(object) = value.cast::<PyDict>() {
        let copy = PyDict::new(py);
        for (key, value) in object {
            copy.set_item(key, unwrapped(&value)?)?;
        }
        return Ok(copy.into_any().unbind());
    }
    Ok(value.clone().unbind())
}
