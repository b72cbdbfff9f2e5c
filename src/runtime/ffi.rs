//! Unsafe code around a model: llama.cpp's start, its log, its devices, and loading, as far as
//! `llama-cpp-2` does not offer them. The functions here are safe to call with any arguments.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::{Once, OnceLock};
use std::thread::{self, JoinHandle};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use super::error::{Error, Result};
use crate::gguf::Gguf;

thread_local! {
    /// Errors llama.cpp logged on this thread since [`take_errors`] was last called.
    static ERRORS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Starts llama.cpp on another thread, while this one reads a file. Whoever needs it waits until
/// it has started; nobody has to call this.
pub fn start_ahead() -> Starting {
    prepare();
    // Without a thread the start comes when it is needed.
    Starting(thread::Builder::new().spawn(start).ok())
}

/// A start on its way. Dropping it waits for the end of it: a program that ended in the middle
/// would take apart what is being made.
#[must_use = "dropped at once, it is waited for at once"]
pub struct Starting(Option<JoinHandle<()>>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

/// What the start needs of the thread whose heap models are read into.
fn prepare() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        static ONCE: Once = Once::new();
        ONCE.call_once(widen_heap);
    }
}

/// Starts llama.cpp once per process and sends its log to `tracing`.
pub(super) fn start() {
    static BACKEND: OnceLock<Option<LlamaBackend>> = OnceLock::new();
    BACKEND.get_or_init(|| {
        prepare();
        let none = super::backends::backends().is_empty();
        // SAFETY: `on_log` has the signature llama.cpp wants, lives as long as the program and
        // uses no user data.
        unsafe {
            sys::llama_log_set(Some(on_log), ptr::null_mut());
            sys::ggml_log_set(Some(on_log), ptr::null_mut());
        }
        // Without any backend llama.cpp would look for one where it was built and in the current
        // folder. An error means that other code of this process has started it: as good for us.
        match none {
            true => None,
            false => {
                #[cfg(matmul)]
                super::matmul_ffi::register();
                LlamaBackend::init().ok()
            }
        }
    });
}

/// Makes room on the heap in huge pages: llama.cpp keeps a vocabulary in a hundred thousand
/// small blocks, and a page fault for every 4 KiB of them is a fifteenth of reading it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn widen_heap() {
    const ROOM: usize = 16 << 20;
    const HUGE: usize = 2 << 20;

    // glibc maps a block of this size apart, but the next one no longer, once the first is freed;
    // freed itself, that one stays part of the heap.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(ROOM)));
    let mut room: Vec<u8> = Vec::with_capacity(ROOM);
    let start = room.as_mut_ptr();
    let skip = start.addr().next_multiple_of(HUGE) - start.addr();
    // SAFETY: from `skip`, less than `HUGE`, to the end of the block at most; the advice changes
    // no byte. A kernel without huge pages declines it, and nothing is lost.
    let _ = unsafe {
        let pages = start.add(skip).cast();
        rustix::mm::madvise(pages, ROOM - HUGE, rustix::mm::Advice::LinuxHugepage)
    };
}

extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a zero-terminated string that lives during the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim_end();
    if text.is_empty() || text.trim_matches('.').is_empty() {
        return;
    }
    match level {
        sys::GGML_LOG_LEVEL_ERROR => {
            tracing::error!(target: "llama.cpp", "{text}");
            ERRORS.with_borrow_mut(|errors| errors.push(text.to_owned()));
        }
        sys::GGML_LOG_LEVEL_WARN => tracing::warn!(target: "llama.cpp", "{text}"),
        sys::GGML_LOG_LEVEL_INFO => tracing::info!(target: "llama.cpp", "{text}"),
        _ => tracing::debug!(target: "llama.cpp", "{text}"),
    }
}

/// Forgets what was logged so far.
pub(super) fn clear_errors() {
    ERRORS.with_borrow_mut(Vec::clear);
}

/// What llama.cpp logged as an error on this thread since the last call: the first is the
/// cause, those after it only pass it on.
pub(super) fn take_error() -> Option<String> {
    let first = ERRORS.with_borrow_mut(|errors| errors.drain(..).next())?;
    // The name of the C++ function says nothing to a reader.
    let told = first.split_once(": error loading model: ");
    Some(told.map_or(first.as_str(), |(_, reason)| reason).to_owned())
}

/// [`take_error`], for a place that must say something.
pub(super) fn take_errors() -> String {
    take_error().unwrap_or_else(|| "no reason given".to_owned())
}

static ABORT_HOOK: OnceLock<fn(&str)> = OnceLock::new();

/// Calls `hook` with llama.cpp's message when it is about to abort the process over an
/// assertion that no check here foresaw. The process ends when the hook returns, so a program
/// that wants a tidy message and exit code ends it there itself. The first hook set stays.
pub fn on_abort(hook: fn(&str)) {
    extern "C" fn call(message: *const c_char) {
        if let Some(hook) = ABORT_HOOK.get().filter(|_| !message.is_null()) {
            // SAFETY: ggml passes a zero-terminated string that lives during the call.
            hook(&unsafe { CStr::from_ptr(message) }.to_string_lossy());
        }
    }
    if ABORT_HOOK.set(hook).is_ok() {
        // SAFETY: `call` has the signature ggml wants and lives as long as the program.
        unsafe { sys::ggml_set_abort_callback(Some(call)) };
    }
}

/// A device ggml can compute on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The name to ask for it by, such as `CPU` or `CUDA0`.
    pub name: String,
    /// The maker's name for it.
    pub description: String,
    /// Whether it has memory of its own that layers can be put into.
    pub gpu: bool,
    /// Free memory in bytes, as the device reports it.
    pub free: u64,
    /// All of its memory, in bytes.
    pub total: u64,
}

/// The devices this build can use, as ggml lists them.
pub fn devices() -> Vec<Device> {
    start();
    // SAFETY: the backend registry is initialized by the first call and then only read; indices
    // are below the count, and names are zero-terminated strings that live as long as it.
    unsafe {
        (0..sys::ggml_backend_dev_count())
            .map(|i| {
                let device = sys::ggml_backend_dev_get(i);
                let text = |p: *const c_char| match p.is_null() {
                    true => String::new(),
                    false => CStr::from_ptr(p).to_string_lossy().into_owned(),
                };
                let (mut free, mut total) = (0, 0);
                sys::ggml_backend_dev_memory(device, &mut free, &mut total);
                let kind = sys::ggml_backend_dev_type(device);
                Device {
                    name: text(sys::ggml_backend_dev_name(device)),
                    description: text(sys::ggml_backend_dev_description(device)),
                    gpu: kind == sys::GGML_BACKEND_DEVICE_TYPE_GPU
                        || kind == sys::GGML_BACKEND_DEVICE_TYPE_IGPU,
                    free: free as u64,
                    total: total as u64,
                }
            })
            .collect()
    }
}

/// What each backend of this build makes use of, in llama.cpp's words:
/// `CPU : AVX2 = 1 | FMA = 1 | …`.
pub fn system_info() -> String {
    start();
    // SAFETY: the function fills a string of its own and returns its zero-terminated bytes,
    // which stay until the next call; the lock keeps other threads from making one.
    unsafe {
        static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _guard = LOCK.lock();
        let text = sys::llama_print_system_info();
        match text.is_null() {
            true => String::new(),
            false => CStr::from_ptr(text).to_string_lossy().into_owned(),
        }
    }
}

/// How much of a model is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The vocabulary.
    Vocabulary,
    /// All that the header tells: metadata, vocabulary, and a place of the right shape for
    /// every tensor.
    Header,
    /// The weights, too.
    Everything,
}

/// How a model is read.
pub(super) struct LoadParams<'a> {
    pub extent: Extent,
    /// Whether weights are rearranged for the CPU's kernels while loading.
    pub repack: bool,
    pub gpu_layers: u32,
    /// The one device to put layers on; none: all GPUs.
    pub device: Option<&'a str>,
    /// Integers that replace the file's own.
    pub overrides: &'a [(String, i64)],
    /// Told how much is loaded, 0 to 1; false stops.
    pub progress: &'a mut dyn FnMut(f32) -> bool,
}

/// Loads what `gguf` was read from; `path` is what errors call it.
///
/// # Errors
/// [`Error::Load`]: llama.cpp declined, or `progress` stopped it.
pub(super) fn load_model(path: &Path, gguf: &Gguf, params: LoadParams<'_>) -> Result<LlamaModel> {
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
    start();
    clear_errors();

    extern "C" fn on_progress(done: f32, data: *mut c_void) -> bool {
        // SAFETY: `data` is the `progress` below, borrowed for the whole load, and llama.cpp
        // calls from the loading thread only.
        let progress = unsafe { &mut *data.cast::<&mut dyn FnMut(f32) -> bool>() };
        catch_unwind(AssertUnwindSafe(|| progress(done))).unwrap_or(false)
    }

    let mut overrides: Vec<sys::llama_model_kv_override> = Vec::new();
    for (key, value) in params.overrides {
        // SAFETY: a plain C struct, for which all zeroes is a valid value.
        let mut entry: sys::llama_model_kv_override = unsafe { std::mem::zeroed() };
        entry.tag = sys::LLAMA_KV_OVERRIDE_TYPE_INT;
        if key.len() >= entry.key.len() {
            continue;
        }
        for (to, from) in entry.key.iter_mut().zip(key.bytes()) {
            *to = from as c_char;
        }
        entry.__bindgen_anon_1.val_i64 = *value;
        overrides.push(entry);
    }
    // llama.cpp reads up to an entry whose key is empty.
    // SAFETY: as above.
    overrides.push(unsafe { std::mem::zeroed() });

    let mut progress = params.progress;
    // SAFETY: the parameters are plain data; every pointer in them (overrides, devices,
    // progress, paths) stays valid until the load call returns, and none is kept after it.
    // `LlamaModel` is `repr(transparent)` over a non-null `llama_model *` and frees it once.
    let loaded = unsafe {
        let mut p = sys::llama_model_default_params();
        p.vocab_only = params.extent == Extent::Vocabulary;
        if params.extent == Extent::Header {
            p.no_alloc = true;
            // It asserts that what is not to be read is not mapped either.
            p.load_mode = sys::LLAMA_LOAD_MODE_NONE;
        }
        p.use_extra_bufts = params.repack;
        p.n_gpu_layers = i32::try_from(params.gpu_layers).unwrap_or(i32::MAX);
        p.kv_overrides = overrides.as_ptr();
        p.progress_callback = Some(on_progress);
        p.progress_callback_user_data = (&raw mut progress).cast();
        // A list that ends at once keeps GPUs out of it altogether.
        let mut devices = [ptr::null_mut(); 2];
        match params.device.and_then(|name| CString::new(name).ok()) {
            _ if params.gpu_layers == 0 => p.devices = devices.as_mut_ptr(),
            Some(name) => {
                devices[0] = sys::ggml_backend_dev_by_name(name.as_ptr());
                p.devices = devices.as_mut_ptr();
            }
            None => {}
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
    loaded.ok_or_else(|| failed(take_errors()))
}

pub(super) fn model_ptr(model: &LlamaModel) -> *mut sys::llama_model {
    // SAFETY: `LlamaModel` is `repr(transparent)` over a non-null `llama_model *`.
    unsafe { ptr::from_ref(model).cast::<*mut sys::llama_model>().read() }
}

/// The kind of vocabulary, `LLAMA_VOCAB_TYPE_*`.
pub(super) fn vocab_kind(model: &LlamaModel) -> sys::llama_vocab_type {
    // SAFETY: the model lives, and its vocabulary is never null.
    unsafe { sys::llama_vocab_type(sys::llama_model_get_vocab(model_ptr(model))) }
}
