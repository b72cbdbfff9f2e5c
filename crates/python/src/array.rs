//! Arrays of numbers with Python's buffer protocol: `numpy.asarray(array)` and `memoryview(array)`
//! share their memory. This file is unsafe, as that protocol is one of pointers.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_int, c_void};

use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyEllipsis, PyTuple};

/// The format of a 32-bit float, as the module `struct` spells it.
const FORMAT: &CStr = c"f";

/// Numbers of 32 bits in rows of rows, the last dimension contiguous. It is written to in place.
#[pyclass(frozen, module = "modelve")]
pub struct Array {
    values: Box<[UnsafeCell<f32>]>,
    shape: Box<[ffi::Py_ssize_t]>,
    /// Bytes from one index to the next, for each dimension.
    strides: Box<[ffi::Py_ssize_t]>,
}

// SAFETY: the values are read and written while the interpreter's lock is held, or through buffers,
// whose users Python makes responsible for writing from one thread at a time; a 32-bit float has
// no invalid values.
unsafe impl Sync for Array {}

impl Array {
    /// An array of these values, as many as the shape has.
    pub fn new(values: Vec<f32>, shape: &[usize]) -> Array {
        debug_assert_eq!(values.len(), shape.iter().product::<usize>());
        let signed = |n: usize| ffi::Py_ssize_t::try_from(n).unwrap_or(ffi::Py_ssize_t::MAX);
        let mut step = size_of::<f32>();
        let mut strides: Vec<ffi::Py_ssize_t> = Vec::with_capacity(shape.len());
        for &n in shape.iter().rev() {
            strides.push(signed(step));
            step *= n.max(1);
        }
        strides.reverse();
        Array {
            values: values.into_iter().map(UnsafeCell::new).collect(),
            shape: shape.iter().map(|&n| signed(n)).collect(),
            strides: strides.into(),
        }
    }

    /// A copy of the values.
    pub fn values(&self, _: Python<'_>) -> Vec<f32> {
        // SAFETY: the interpreter's lock is held, see `Sync` above.
        self.values
            .iter()
            .map(|value| unsafe { *value.get() })
            .collect()
    }

    /// The array as numpy sees it, or a `memoryview` where numpy is not installed.
    fn view<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, bool)> {
        let py = slf.py();
        match py.import("numpy") {
            Ok(numpy) => Ok((numpy.call_method1("asarray", (slf,))?, true)),
            Err(_) => Ok((
                py.import("builtins")?.call_method1("memoryview", (slf,))?,
                false,
            )),
        }
    }
}

#[pymethods]
impl Array {
    /// The length of each dimension.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.shape.iter())
    }

    /// The values as lists of lists.
    fn tolist(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let (view, _) = Self::view(slf)?;
        Ok(view.call_method0("tolist")?.unbind())
    }

    fn __len__(&self) -> usize {
        self.shape.first().map_or(0, |&n| n.unsigned_abs())
    }

    /// A value or a part, as numpy indexes; without numpy a single value by all its indices.
    fn __getitem__(slf: &Bound<'_, Self>, key: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let (view, _) = Self::view(slf)?;
        Ok(view.get_item(key)?.unbind())
    }

    /// Writes a value or a part, as numpy does; without numpy a single value by all its indices, or
    /// `[...]` an array of the same shape or one number.
    fn __setitem__(
        slf: &Bound<'_, Self>,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (view, numpy) = Self::view(slf)?;
        if numpy || !key.is_instance_of::<PyEllipsis>() {
            return view.set_item(key, value);
        }
        let this = slf.get();
        let given: Vec<f32> = if let Ok(number) = value.extract::<f32>() {
            vec![number; this.values.len()]
        } else if let Ok(other) = value.cast::<Array>() {
            if other.get().shape != this.shape {
                let what = format!(
                    "an array of shape {:?} does not fit one of shape {:?}",
                    other.get().shape,
                    this.shape
                );
                return Err(PyValueError::new_err(what));
            }
            other.get().values(slf.py())
        } else {
            let what = "without numpy [...] takes a number or an Array: pip install numpy";
            return Err(PyTypeError::new_err(what));
        };
        for (place, value) in this.values.iter().zip(given) {
            // SAFETY: the interpreter's lock is held, see `Sync` above.
            unsafe { *place.get() = value };
        }
        Ok(())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let (view, numpy) = Self::view(slf)?;
        let shape: Vec<String> = slf.get().shape.iter().map(ToString::to_string).collect();
        let shape = shape.join(" × ");
        match numpy {
            true => Ok(format!("Array {shape}\n{view}")),
            false => Ok(format!("Array {shape}")),
        }
    }

    /// # Safety
    /// Python calls it with a buffer to fill.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no buffer to fill"));
        }
        let this = slf.get();
        let dimensions = c_int::try_from(this.shape.len()).unwrap_or(0);
        let bytes = this.values.len() * size_of::<f32>();
        let wants = |flag: c_int| flags & flag == flag;
        // SAFETY: `view` is Python's to fill. The values, shape and strides live as long as the
        // object, a reference to which the buffer keeps. They are contiguous in C's order. Python
        // does not write through the pointers to shape and strides.
        unsafe {
            (*view).buf = this.values.as_ptr().cast_mut().cast::<c_void>();
            (*view).len = ffi::Py_ssize_t::try_from(bytes).unwrap_or(0);
            (*view).readonly = 0;
            (*view).itemsize = 4;
            (*view).format = match wants(ffi::PyBUF_FORMAT) {
                true => FORMAT.as_ptr().cast_mut(),
                false => std::ptr::null_mut(),
            };
            (*view).ndim = dimensions;
            (*view).shape = match wants(ffi::PyBUF_ND) {
                true => this.shape.as_ptr().cast_mut(),
                false => std::ptr::null_mut(),
            };
            (*view).strides = match wants(ffi::PyBUF_STRIDES) {
                true => this.strides.as_ptr().cast_mut(),
                false => std::ptr::null_mut(),
            };
            (*view).suboffsets = std::ptr::null_mut();
            (*view).internal = std::ptr::null_mut();
            (*view).obj = slf.into_any().into_ptr();
        }
        Ok(())
    }
}
