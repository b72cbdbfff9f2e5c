//! The calls that find out which backends ggml has, and load those that are libraries.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::Mutex;

use llama_cpp_sys_2 as sys;

/// A backend that ggml knows: its name and the number of its devices.
pub(super) type Registered = (String, usize);

/// What ggml says while `work` runs, a message each, debugging left out.
///
/// ggml's log is a setting of the process: this is for the start, before anything computes, and
/// whoever starts llama.cpp sends the log elsewhere afterwards.
pub(super) fn listen(work: impl FnOnce()) -> Vec<String> {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

    extern "C" fn note(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
        if text.is_null() || level == sys::GGML_LOG_LEVEL_DEBUG {
            return;
        }
        // SAFETY: ggml passes a zero-terminated string that lives during the call.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        tracing::debug!(target: "llama.cpp", "{}", text.trim_end());
        let mut said = SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        said.push(text.trim_end().to_owned());
    }

    // SAFETY: `note` has the signature ggml wants, lives as long as the program and uses no data.
    unsafe { sys::ggml_log_set(Some(note), ptr::null_mut()) };
    work();
    let mut said = SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    std::mem::take(&mut *said)
}

/// The backends that ggml knows, those that are part of the program first.
pub(super) fn registered() -> Vec<Registered> {
    // SAFETY: the registry is made by the first call; indices are below its count, and names are
    // zero-terminated strings that live as long as their backend, which is never unloaded.
    unsafe {
        (0..sys::ggml_backend_reg_count())
            .map(|i| {
                let backend = sys::ggml_backend_reg_get(i);
                let name = CStr::from_ptr(sys::ggml_backend_reg_name(backend));
                let devices = sys::ggml_backend_reg_dev_count(backend);
                (name.to_string_lossy().into_owned(), devices)
            })
            .collect()
    }
}

/// Loads every backend that has a library in `folder`; of a backend's variants the one that suits
/// this processor best.
#[cfg(feature = "portable")]
pub(super) fn load_folder(folder: &CStr) {
    // SAFETY: a zero-terminated path; ggml opens the libraries in it and keeps nothing of it.
    unsafe { sys::ggml_backend_load_all_from_path(folder.as_ptr()) };
}

/// Loads one library, and unlike [`load_folder`] says what is wrong with it.
#[cfg(feature = "portable")]
pub(super) fn load_one(library: &CStr) {
    // SAFETY: as above.
    unsafe { sys::ggml_backend_load(library.as_ptr()) };
}
