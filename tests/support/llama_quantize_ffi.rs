//! llama.cpp's own quantizer, the reference for types and bytes.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use llama_cpp_sys_2 as sys;

/// What to ask of [`quantize`].
#[derive(Default)]
pub struct Request<'a> {
    /// `general.file_type`.
    pub file_type: u32,
    pub threads: i32,
    pub output: Option<u32>,
    pub token_embedding: Option<u32>,
    /// Expressions and types.
    pub tensors: Vec<(&'a str, u32)>,
    /// Weights of columns by tensor name.
    pub imatrix: Vec<(&'a str, &'a [f32])>,
}

/// Quantizes a GGUF file as `llama-quantize` does; false if llama.cpp refuses.
pub fn quantize(input: &Path, output: &Path, request: &Request<'_>) -> bool {
    // From here on llama.cpp's log goes to `tracing`. It is a setting of the process, which other
    // tests read errors from.
    modelve::runtime::system_info();
    let c_path = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
    let (input, output) = (c_path(input), c_path(output));
    let c_text = |text: &str| CString::new(text).unwrap();
    let patterns: Vec<(CString, u32)> = request
        .tensors
        .iter()
        .map(|(pattern, ty)| (c_text(pattern), *ty))
        .collect();
    let mut overrides: Vec<sys::llama_model_tensor_override> = patterns
        .iter()
        .map(|(pattern, ty)| sys::llama_model_tensor_override {
            pattern: pattern.as_ptr(),
            type_: *ty as sys::ggml_type,
        })
        .collect();
    overrides.push(sys::llama_model_tensor_override {
        pattern: std::ptr::null(),
        type_: 0,
    });
    let names: Vec<CString> = request
        .imatrix
        .iter()
        .map(|(name, _)| c_text(name))
        .collect();
    let mut weights: Vec<sys::llama_model_imatrix_data> = names
        .iter()
        .zip(&request.imatrix)
        .map(|(name, (_, data))| sys::llama_model_imatrix_data {
            name: name.as_ptr(),
            data: data.as_ptr(),
            size: data.len(),
        })
        .collect();
    weights.push(sys::llama_model_imatrix_data {
        name: std::ptr::null(),
        data: std::ptr::null(),
        size: 0,
    });
    // SAFETY: the callback keeps nothing and matches the type; the defaults are plain data. All
    // strings and lists that the parameters point to live until the call returns and end in the
    // null entry that llama.cpp stops at; it copies what it keeps. It reports failure by its
    // result, and the files that the tests give it are well-formed models.
    unsafe {
        let mut params = sys::llama_model_quantize_default_params();
        params.ftype = request.file_type as sys::llama_ftype;
        params.nthread = request.threads;
        if let Some(ty) = request.output {
            params.output_tensor_type = ty as sys::ggml_type;
        }
        if let Some(ty) = request.token_embedding {
            params.token_embedding_type = ty as sys::ggml_type;
        }
        if !request.tensors.is_empty() {
            params.tt_overrides = overrides.as_ptr();
        }
        if !request.imatrix.is_empty() {
            params.imatrix = weights.as_ptr();
        }
        sys::llama_model_quantize(input.as_ptr(), output.as_ptr(), &params) == 0
    }
}

/// llama.cpp's name for a type, to check that both sides mean the same by a number.
pub fn type_name(ty: u32) -> String {
    // SAFETY: the numbers that the tests ask for are in ggml's table; the result is a static
    // string.
    let name = unsafe { CStr::from_ptr(sys::ggml_type_name(ty as sys::ggml_type)) };
    name.to_string_lossy().into_owned()
}
