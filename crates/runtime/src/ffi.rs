//! Calls into llama.cpp and ggml, except those on a context (`context_ffi.rs`), and their
//! callbacks.
//!
//! The functions here are safe to call with any arguments: everything that llama.cpp would assert
//! is checked before it is called.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, OnceLock};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use super::device::Device;
use super::error::{Error, Result};
use super::log::{self, clear_errors, is_want_of_memory, take_errors};
use super::params::LoadParams;
use modelve_gguf::Gguf;

/// Copies a C string, replacing invalid UTF-8; a null pointer gives an empty string.
///
/// # Safety
/// `text` is null or points to a zero-terminated string that lives during the call.
pub(super) unsafe fn copy(text: *const c_char) -> String {
    match text.is_null() {
        true => String::new(),
        // SAFETY: by the contract of this function.
        false => unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned(),
    }
}

/// Redirects llama.cpp's log to [`log`].
pub(super) fn send_log() {
    extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
        // SAFETY: llama.cpp passes a zero-terminated string that lives during the call.
        log::note(level, &unsafe { copy(text) });
    }
    // SAFETY: `on_log` has the signature llama.cpp wants, lives as long as the program and uses
    // no user data.
    unsafe {
        sys::llama_log_set(Some(on_log), ptr::null_mut());
        sys::ggml_log_set(Some(on_log), ptr::null_mut());
    }
}

/// Returns the messages that ggml logs while `work` runs, without debug messages.
///
/// ggml has one log callback per process, so this is only for the start, before anything computes;
/// the start of llama.cpp sets the callback again afterwards.
pub(super) fn listen(work: impl FnOnce()) -> Vec<String> {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let said = || SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner());

    extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
        // SAFETY: ggml passes a zero-terminated string that lives during the call.
        let text = unsafe { copy(text) };
        let text = text.trim_end();
        if level != sys::GGML_LOG_LEVEL_DEBUG && !text.is_empty() {
            tracing::debug!(target: "llama.cpp", "{text}");
            let mut said = SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            said.push(text.to_owned());
        }
    }

    // SAFETY: `on_log` has the signature ggml wants, lives as long as the program and uses no data.
    unsafe { sys::ggml_log_set(Some(on_log), ptr::null_mut()) };
    work();
    std::mem::take(&mut *said())
}

/// The function to call when llama.cpp is about to abort the process.
static ABORT_HOOK: OnceLock<fn(&str)> = OnceLock::new();

/// Sets a function to call with llama.cpp's message when it is about to abort the process, because
/// of an assertion that no check of this crate prevented. The process aborts when the hook returns,
/// so a program that wants its own message and exit code should exit in the hook. Only the first
/// hook counts; without one the message goes to standard error.
pub fn on_abort(hook: fn(&str)) {
    let _ = ABORT_HOOK.set(hook);
    catch_aborts();
}

/// Makes aborts report their message and start no debugger. Part of the start of llama.cpp, so that
/// it always applies.
pub(super) fn catch_aborts() {
    extern "C" fn call(message: *const c_char) {
        // SAFETY: ggml passes a zero-terminated string that lives during the call.
        let message = unsafe { copy(message) };
        give_up(&log::without_paths(&message));
    }
    // SAFETY: `call` has the signature ggml wants and lives as long as the program.
    unsafe { sys::ggml_set_abort_callback(Some(call)) };

    // An uncaught C++ exception ends the process, too, after ggml prints a stack trace.
    #[cfg(unix)]
    {
        extern "C" fn terminated() {
            give_up("an exception that nothing catches");
            std::process::abort();
        }
        unsafe extern "C" {
            // `std::set_terminate`, which has this name in the C++ ABI of every Unix.
            #[link_name = "_ZSt13set_terminatePFvvE"]
            fn set_terminate(handler: extern "C" fn()) -> Option<extern "C" fn()>;
        }
        // SAFETY: the handler has the signature C++ wants, lives as long as the program, and does
        // not return.
        unsafe { set_terminate(terminated) };
    }
}

/// Reports that llama.cpp ends the process.
fn give_up(message: &str) {
    match ABORT_HOOK.get() {
        Some(hook) => hook(message),
        None => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "llama.cpp aborted: {message}");
        }
    }
}

/// Asks the kernel for huge pages for the capacity of a block.
pub(super) fn in_huge_pages(block: &mut Vec<u8>) {
    #[cfg(target_os = "linux")]
    {
        const HUGE: usize = 2 << 20;
        let start = block.as_mut_ptr();
        let skip = start.addr().next_multiple_of(HUGE) - start.addr();
        let Some(size) = block.capacity().checked_sub(skip) else {
            return;
        };
        // SAFETY: the range is from `skip` to the end of the block, and the advice changes no byte.
        // A kernel without huge pages returns an error, which does no harm.
        let _ = unsafe {
            let pages = start.add(skip).cast();
            let advice = rustix::mm::Advice::LinuxHugepage;
            rustix::mm::madvise(pages, size / HUGE * HUGE, advice)
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = block;
}

/// Proof that llama.cpp has started, with its log and aborts redirected. Only `start` makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Started {
    /// Whether matrix products are computed by modelve's own kernels.
    pub own_kernels: bool,
}

/// The devices that this build can use, in ggml's order.
pub(super) fn devices(_: Started) -> Vec<Device> {
    // SAFETY: the first call initializes the backend registry, which is then only read; indices
    // are below the count, and names are zero-terminated strings that live as long as the registry.
    unsafe {
        (0..sys::ggml_backend_dev_count())
            .map(|i| {
                let device = sys::ggml_backend_dev_get(i);
                let (mut free, mut total) = (0, 0);
                sys::ggml_backend_dev_memory(device, &mut free, &mut total);
                let kind = sys::ggml_backend_dev_type(device);
                Device {
                    name: copy(sys::ggml_backend_dev_name(device)),
                    description: copy(sys::ggml_backend_dev_description(device)),
                    gpu: kind == sys::GGML_BACKEND_DEVICE_TYPE_GPU
                        || kind == sys::GGML_BACKEND_DEVICE_TYPE_IGPU,
                    free: free as u64,
                    total: total as u64,
                }
            })
            .collect()
    }
}

/// The backends that ggml knows and the number of devices of each, starting with those that are
/// part of the program.
pub(super) fn registered() -> Vec<(String, usize)> {
    // SAFETY: the first call makes the registry; indices are below its count, and names are
    // zero-terminated strings that live as long as their backend, which is never unloaded.
    unsafe {
        (0..sys::ggml_backend_reg_count())
            .map(|i| {
                let backend = sys::ggml_backend_reg_get(i);
                let devices = sys::ggml_backend_reg_dev_count(backend);
                (copy(sys::ggml_backend_reg_name(backend)), devices)
            })
            .collect()
    }
}

/// Loads every backend that has a library in `folder`, and of a backend's variants the best for
/// this CPU.
#[cfg(feature = "portable")]
pub(super) fn load_folder(folder: &CStr) {
    // SAFETY: the path is zero-terminated; ggml opens the libraries in it and keeps no pointer to
    // it.
    unsafe { sys::ggml_backend_load_all_from_path(folder.as_ptr()) };
}

/// Loads one library; unlike for [`load_folder`], ggml logs what is wrong with it.
#[cfg(feature = "portable")]
pub(super) fn load_one(library: &CStr) {
    // SAFETY: as above.
    unsafe { sys::ggml_backend_load(library.as_ptr()) };
}

/// The features that each backend of this build uses, in llama.cpp's format:
/// `CPU : AVX2 = 1 | FMA = 1 | …`.
pub(super) fn system_info(_: Started) -> String {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    // SAFETY: the function fills a static string and returns its zero-terminated bytes, which stay
    // valid until the next call; the lock keeps other threads from calling it.
    unsafe { copy(sys::llama_print_system_info()) }
}

/// Loads the file that `gguf` was read from; errors name it `path`.
///
/// # Errors
/// [`Error::Load`] if llama.cpp rejects it, or `progress` stopped it.
pub(super) fn load_model(
    _: Started,
    path: &Path,
    gguf: &Gguf,
    mut params: LoadParams<'_>,
) -> Result<LlamaModel> {
    let failed = |reason: String| Error::Load {
        path: path.to_owned(),
        reason,
    };
    let parts = gguf
        .paths()
        .map(|part| CString::new(part.as_os_str().as_encoded_bytes()));
    let parts: Vec<CString> = parts
        .collect::<Result<_, _>>()
        .map_err(|_| failed("its path holds a zero byte".to_owned()))?;
    clear_errors();

    extern "C" fn on_progress(done: f32, data: *mut c_void) -> bool {
        // SAFETY: `data` is `params.progress`, which is borrowed for the whole load, and llama.cpp
        // calls this from the loading thread only.
        let progress = unsafe { &mut *data.cast::<&mut dyn FnMut(f32) -> bool>() };
        catch_unwind(AssertUnwindSafe(|| progress(done))).unwrap_or(false)
    }

    let overrides = params.overrides();
    // The number of layers that each remote device gets; llama.cpp counts the output as the last one.
    let mut splits: Vec<f32> = params.remote.iter().map(|&(_, n)| n as f32).collect();
    if let Some(last) = splits.last_mut() {
        *last += 1.0;
    }
    // SAFETY: the parameters are plain data; every pointer in them (overrides, devices,
    // splits, patterns, progress, paths) stays valid until the load call returns, and none is kept after it.
    // `LlamaModel` is `repr(transparent)` over a non-null `llama_model *` and frees it once.
    let loaded = unsafe {
        let mut p = sys::llama_model_default_params();
        params.fill(&mut p);
        p.kv_overrides = overrides.as_ptr();
        p.progress_callback = Some(on_progress);
        p.progress_callback_user_data = (&raw mut params.progress).cast();
        // An empty list of devices keeps llama.cpp from using any GPU.
        let mut devices: Vec<_> = params.remote.iter().map(|(device, _)| device.0).collect();
        let chosen = params.device.and_then(|name| CString::new(name).ok());
        if let Some(name) = chosen.filter(|_| params.gpu_layers > 0 && devices.is_empty()) {
            devices.push(sys::ggml_backend_dev_by_name(name.as_ptr()));
        }
        if params.gpu_layers == 0 || !devices.is_empty() {
            devices.push(ptr::null_mut());
            p.devices = devices.as_mut_ptr();
        }
        // Logits are many times larger than states, so the output is computed here if the last
        // layers are on another machine.
        let cpu = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
        let here = [
            sys::llama_model_tensor_buft_override {
                pattern: c"^(output|token_embd)".as_ptr(),
                buft: match cpu.is_null() {
                    true => ptr::null_mut(),
                    false => sys::ggml_backend_dev_buffer_type(cpu),
                },
            },
            sys::llama_model_tensor_buft_override {
                pattern: ptr::null(),
                buft: ptr::null_mut(),
            },
        ];
        if !params.remote.is_empty() && !cpu.is_null() {
            p.tensor_split = splits.as_ptr();
            p.tensor_buft_overrides = here.as_ptr();
        }
        let raw = match &parts[..] {
            [] => ptr::null_mut(),
            [one] => sys::llama_model_load_from_file(one.as_ptr(), p),
            many => {
                let mut paths: Vec<_> = many.iter().map(|path| path.as_ptr()).collect();
                sys::llama_model_load_from_splits(paths.as_mut_ptr(), paths.len(), p)
            }
        };
        NonNull::new(raw)
            .map(|raw| std::mem::transmute::<NonNull<sys::llama_model>, LlamaModel>(raw))
    };
    loaded.ok_or_else(|| match take_errors() {
        reason if is_want_of_memory(&reason) => Error::OutOfMemory {
            what: format!("the weights of {}", path.display()),
            reason,
        },
        reason => failed(reason),
    })
}

/// The pointer to llama.cpp's model.
pub(super) fn model_ptr(model: &LlamaModel) -> *mut sys::llama_model {
    // SAFETY: `LlamaModel` is `repr(transparent)` over a non-null `llama_model *`.
    unsafe { ptr::from_ref(model).cast::<*mut sys::llama_model>().read() }
}

/// The kind of vocabulary, `LLAMA_VOCAB_TYPE_*`.
pub(super) fn vocab_kind(model: &LlamaModel) -> sys::llama_vocab_type {
    // SAFETY: the model lives, and its vocabulary is never null.
    unsafe { sys::llama_vocab_type(sys::llama_model_get_vocab(model_ptr(model))) }
}
