//! All unsafe code of the runtime: the calls into llama.cpp and ggml, and what they call back.
//! The functions here are safe to call with any arguments; what llama.cpp would assert on is
//! checked before it is called.

#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use super::backends::Device;
use super::batch::{Batch, Limits};
use super::cancel::Cancel;
use super::error::{Error, Result};
use super::log::{self, clear_errors, take_errors};
use super::observe::{self, NamedTensor, Observer};
use super::params::{ContextParams, LoadParams};
use super::start::start;
use modelve_gguf::Gguf;

/// A copy of a string of C, lossy; empty for none.
///
/// # Safety
/// `text` is null or points to a zero-terminated string that lives during the call.
unsafe fn copy(text: *const c_char) -> String {
    match text.is_null() {
        true => String::new(),
        // SAFETY: the caller's promise.
        false => unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned(),
    }
}

/// Sends llama.cpp's log to [`log`].
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

/// What ggml says while `work` runs, a message each, debugging left out.
///
/// ggml's log is a setting of the process: this is for the start, before anything computes, and
/// whoever starts llama.cpp sends the log elsewhere afterwards.
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

/// What is called when llama.cpp is about to abort the process.
static ABORT_HOOK: OnceLock<fn(&str)> = OnceLock::new();

/// Calls `hook` with llama.cpp's message when it is about to abort the process over an
/// assertion that no check here foresaw. The process ends when the hook returns, so a program
/// that wants a tidy message and exit code ends it there itself. The first hook set stays; without
/// one the message goes to standard error.
pub fn on_abort(hook: fn(&str)) {
    let _ = ABORT_HOOK.set(hook);
    catch_aborts();
}

/// Sees to it that no abort starts a debugger and none goes without a word. Part of the start of
/// llama.cpp, so that it holds for every use.
pub(super) fn catch_aborts() {
    extern "C" fn call(message: *const c_char) {
        // SAFETY: ggml passes a zero-terminated string that lives during the call.
        let message = unsafe { copy(message) };
        let message = log::without_paths(&message);
        match ABORT_HOOK.get() {
            Some(hook) => hook(&message),
            None => {
                use std::io::Write;
                let _ = writeln!(std::io::stderr(), "llama.cpp gave up: {message}");
            }
        }
    }
    // SAFETY: `call` has the signature ggml wants and lives as long as the program.
    unsafe { sys::ggml_set_abort_callback(Some(call)) };
}

/// Asks for huge pages behind a block's capacity.
pub(super) fn in_huge_pages(block: &mut Vec<u8>) {
    #[cfg(target_os = "linux")]
    {
        const HUGE: usize = 2 << 20;
        let start = block.as_mut_ptr();
        let skip = start.addr().next_multiple_of(HUGE) - start.addr();
        let Some(size) = block.capacity().checked_sub(skip) else {
            return;
        };
        // SAFETY: from `skip` to the end of the block; the advice changes no byte. A kernel
        // without huge pages declines it, and nothing is lost.
        let _ = unsafe {
            let pages = start.add(skip).cast();
            let advice = rustix::mm::Advice::LinuxHugepage;
            rustix::mm::madvise(pages, size / HUGE * HUGE, advice)
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = block;
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

/// The backends that ggml knows and the number of their devices, those that are part of the
/// program first.
pub(super) fn registered() -> Vec<(String, usize)> {
    // SAFETY: the registry is made by the first call; indices are below its count, and names are
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

/// What each backend of this build makes use of, in llama.cpp's words:
/// `CPU : AVX2 = 1 | FMA = 1 | …`.
pub fn system_info() -> String {
    static ONE: Mutex<()> = Mutex::new(());
    start();
    let _one = ONE.lock();
    // SAFETY: the function fills a string of its own and returns its zero-terminated bytes,
    // which stay until the next call; the lock keeps other threads from making one.
    unsafe { copy(sys::llama_print_system_info()) }
}

/// Loads what `gguf` was read from; `path` is what errors call it.
///
/// # Errors
/// [`Error::Load`]: llama.cpp declined, or `progress` stopped it.
pub(super) fn load_model(
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
    start();
    clear_errors();

    extern "C" fn on_progress(done: f32, data: *mut c_void) -> bool {
        // SAFETY: `data` is `params.progress`, borrowed for the whole load, and llama.cpp
        // calls from the loading thread only.
        let progress = unsafe { &mut *data.cast::<&mut dyn FnMut(f32) -> bool>() };
        catch_unwind(AssertUnwindSafe(|| progress(done))).unwrap_or(false)
    }

    let overrides = params.overrides();
    // SAFETY: the parameters are plain data; every pointer in them (overrides, devices,
    // progress, paths) stays valid until the load call returns, and none is kept after it.
    // `LlamaModel` is `repr(transparent)` over a non-null `llama_model *` and frees it once.
    let loaded = unsafe {
        let mut p = sys::llama_model_default_params();
        params.fill(&mut p);
        p.kv_overrides = overrides.as_ptr();
        p.progress_callback = Some(on_progress);
        p.progress_callback_user_data = (&raw mut params.progress).cast();
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

fn model_ptr(model: &LlamaModel) -> *mut sys::llama_model {
    // SAFETY: `LlamaModel` is `repr(transparent)` over a non-null `llama_model *`.
    unsafe { ptr::from_ref(model).cast::<*mut sys::llama_model>().read() }
}

/// The kind of vocabulary, `LLAMA_VOCAB_TYPE_*`.
pub(super) fn vocab_kind(model: &LlamaModel) -> sys::llama_vocab_type {
    // SAFETY: the model lives, and its vocabulary is never null.
    unsafe { sys::llama_vocab_type(sys::llama_model_get_vocab(model_ptr(model))) }
}

/// A llama.cpp context: KV cache, compute buffers and the last logits.
pub(super) struct Context {
    raw: NonNull<sys::llama_context>,
    watch: NonNull<Watch>,
    /// Kept alive: the context points into the flag and the model.
    cancel: Cancel,
    _model: Arc<LlamaModel>,
    limits: Limits,
    /// For each token of the last batch, whether it has logits.
    outputs: Vec<bool>,
}

/// Where the callback finds the observer of the decode call in progress.
#[derive(Default)]
struct Watch {
    observer: Option<NonNull<dyn Observer>>,
    bytes: Vec<u8>,
    floats: Vec<f32>,
    /// The first observed tensor that held something else than numbers.
    no_number: Option<String>,
    panic: Option<Box<dyn Any + Send>>,
}

// SAFETY: a context may be used from any one thread at a time; `&self` methods only read
// state that `&mut self` methods write. The observer pointer is set only inside `decode`.
unsafe impl Send for Context {}

impl Context {
    pub fn new(model: &Arc<LlamaModel>, n_vocab: u32, params: ContextParams) -> Result<Self> {
        // Making a context changes the model now and then, so contexts are made one at a time.
        static MAKING: Mutex<()> = Mutex::new(());
        let _one = MAKING
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        clear_errors();

        let limits = params.limits(n_vocab);
        let watch = NonNull::from(Box::leak(Box::<Watch>::default()));
        // SAFETY: plain data. The two pointers in it outlive the context, which is freed in
        // `drop` before them: the flag is held by `cancel`, the box is freed after the context.
        let raw = unsafe {
            let mut p = sys::llama_context_default_params();
            params.fill(limits, &mut p);
            p.abort_callback = Some(on_poll);
            p.abort_callback_data = params.cancel.as_ptr().cast_mut().cast();
            if params.observe {
                p.cb_eval = Some(on_eval);
                p.cb_eval_user_data = watch.as_ptr().cast();
            }
            sys::llama_init_from_model(model_ptr(model), p)
        };
        let Some(raw) = NonNull::new(raw) else {
            // SAFETY: leaked above, and nothing else points to it now.
            drop(unsafe { Box::from_raw(watch.as_ptr()) });
            let reason = take_errors();
            return Err(Error::Context {
                n_ctx: params.n_ctx,
                reason,
            });
        };
        Ok(Context {
            raw,
            watch,
            cancel: params.cancel,
            _model: Arc::clone(model),
            limits,
            outputs: Vec::new(),
        })
    }

    /// Tokens the context holds, after llama.cpp's padding.
    pub fn n_ctx(&self) -> u32 {
        // SAFETY: the context lives; reads a field.
        unsafe { sys::llama_n_ctx(self.raw.as_ptr()) }
    }

    /// Tokens one sequence may have: what decides between RoPE factors.
    pub fn n_ctx_seq(&self) -> u32 {
        // SAFETY: as above.
        unsafe { sys::llama_n_ctx_seq(self.raw.as_ptr()) }
    }

    /// What it was made for.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Computes a batch. `observer` sees the graph's tensors if the context was made with
    /// `observe`. Stops with [`Error::Cancelled`] soon after the cancel flag is raised.
    pub fn decode(&mut self, batch: &mut Batch, observer: Option<&mut dyn Observer>) -> Result<()> {
        self.outputs.clear();
        batch.check(self.limits)?;
        if self.cancel.is_set() {
            return Err(Error::Cancelled);
        }

        clear_errors();
        let n = batch.len();
        let mut counts = vec![1i32; n];
        let mut sequences: Vec<*mut i32> = batch.sequences.iter_mut().map(ptr::from_mut).collect();
        // SAFETY: every array has n entries and outlives the call, and llama.cpp keeps none.
        // Tokens, sequences and sizes were checked above, positions are checked by llama.cpp,
        // which returns an error. The observer is reachable for the callback during this call
        // only: its lifetime is erased for the pointer's sake and the pointer removed after it.
        let status = unsafe {
            let watch = self.watch.as_ptr();
            (*watch).observer = observer.map(|observer| {
                std::mem::transmute::<NonNull<dyn Observer + '_>, NonNull<dyn Observer>>(
                    NonNull::from(observer),
                )
            });
            let status = sys::llama_decode(
                self.raw.as_ptr(),
                sys::llama_batch {
                    n_tokens: n as i32,
                    token: batch.tokens.as_mut_ptr(),
                    embd: ptr::null_mut(),
                    pos: batch.positions.as_mut_ptr(),
                    n_seq_id: counts.as_mut_ptr(),
                    seq_id: sequences.as_mut_ptr(),
                    logits: batch.outputs.as_mut_ptr(),
                },
            );
            // Also waits for devices that compute on their own.
            sys::llama_synchronize(self.raw.as_ptr());
            (*watch).observer = None;
            if let Some(panic) = (*watch).panic.take() {
                resume_unwind(panic);
            }
            status
        };
        match status {
            0 => {
                self.outputs.extend(batch.outputs.iter().map(|&o| o != 0));
                self.check_numbers()
            }
            _ if self.cancel.is_set() => Err(Error::Cancelled),
            1 => Err(Error::ContextFull {
                need: n,
                n_ctx: self.n_ctx() as usize,
            }),
            status => Err(Error::Decode {
                status,
                reason: take_errors(),
            }),
        }
    }

    /// Refuses results that are no numbers where they first come up. A token may be ruled out (-inf),
    /// but not all of them.
    fn check_numbers(&mut self) -> Result<()> {
        // SAFETY: the box lives as long as the context, and no decode call is in progress.
        let observed = unsafe { (*self.watch.as_ptr()).no_number.take() };
        let is_sound = |row: &[f32]| {
            row.iter().all(|&x| x < f32::INFINITY) && row.iter().any(|x| x.is_finite())
        };
        let what = observed.or_else(|| {
            let mut rows = (0..self.outputs.len()).filter_map(|i| self.logits(i));
            rows.any(|row| !is_sound(row)).then(|| "logits".to_owned())
        });
        match what {
            Some(what) => {
                self.outputs.clear();
                Err(Error::NotANumber { what })
            }
            None => Ok(()),
        }
    }

    /// The logits of the `i`-th token of the last batch, one per vocabulary entry; `None` if
    /// they were not asked for.
    pub fn logits(&self, i: usize) -> Option<&[f32]> {
        if !self.outputs.get(i).copied().unwrap_or(false) {
            return None;
        }
        // SAFETY: token `i` was marked as output, so llama.cpp has a row of `n_vocab` floats for
        // it, which stays until the next decode (`&mut self`).
        unsafe {
            let row = sys::llama_get_logits_ith(self.raw.as_ptr(), i as i32);
            let n = self.limits.n_vocab as usize;
            (!row.is_null()).then(|| std::slice::from_raw_parts(row, n))
        }
    }

    fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: the context lives.
        unsafe { sys::llama_get_memory(self.raw.as_ptr()) }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        let memory = self.memory();
        if !memory.is_null() {
            // SAFETY: a live context's memory; data need not be zeroed, cells are marked free.
            unsafe { sys::llama_memory_clear(memory, false) };
        }
    }

    /// Forgets the positions of `seq` from `from` on. False: this kind of memory cannot.
    pub fn truncate(&mut self, seq: u32, from: usize) -> bool {
        let memory = self.memory();
        if memory.is_null() || seq >= self.limits.n_seq {
            return false;
        }
        let from = i32::try_from(from).unwrap_or(i32::MAX);
        // SAFETY: a live context's memory and a sequence within its range.
        unsafe { sys::llama_memory_seq_rm(memory, seq as i32, from, -1) }
    }

    /// Gives `to` the positions of `from` below `len`, sharing their cells.
    pub fn copy(&mut self, from: u32, to: u32, len: usize) {
        let memory = self.memory();
        if !memory.is_null() && from.max(to) < self.limits.n_seq && from != to {
            let len = i32::try_from(len).unwrap_or(i32::MAX);
            // SAFETY: a live context's memory and sequences within its range.
            unsafe { sys::llama_memory_seq_cp(memory, from as i32, to as i32, 0, len) };
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by `llama_init_from_model` and freed once, before the model (held by
        // `_model`) and before the box its callback points to.
        unsafe {
            sys::llama_free(self.raw.as_ptr());
            drop(Box::from_raw(self.watch.as_ptr()));
        }
    }
}

extern "C" fn on_poll(flag: *mut c_void) -> bool {
    // SAFETY: `flag` is the `AtomicBool` of the context's `Cancel`, which outlives the context.
    unsafe { (*flag.cast::<AtomicBool>()).load(Ordering::Relaxed) }
}

/// Asked twice per tensor: whether it is wanted, then, computed, with its data.
extern "C" fn on_eval(tensor: *mut sys::ggml_tensor, ask: bool, watch: *mut c_void) -> bool {
    // SAFETY: `watch` is the context's box and `tensor` a live node of its graph; ggml calls
    // from the decoding thread only, which holds no reference into the box.
    let (watch, tensor) = unsafe { (&mut *watch.cast::<Watch>(), &*tensor) };
    let Some(mut observer) = watch.observer else {
        return !ask;
    };
    // SAFETY: `name` is a fixed array that ggml keeps zero-terminated; the observer is borrowed
    // mutably by the decode call in progress, and by nobody else.
    let (name, observer) = unsafe { (copy(tensor.name.as_ptr()), observer.as_mut()) };
    let result = catch_unwind(AssertUnwindSafe(|| {
        if ask {
            return observer.wants(&name);
        }
        // SAFETY: a computed tensor has a buffer with `ggml_nbytes` bytes behind it, strides
        // included; `bytes` is made as long.
        unsafe {
            watch.bytes.resize(sys::ggml_nbytes(tensor), 0);
            let (bytes, len) = (watch.bytes.as_mut_ptr(), watch.bytes.len());
            sys::ggml_backend_tensor_get(tensor, bytes.cast(), 0, len);
        }
        let shape = tensor.ne.map(|n| usize::try_from(n).unwrap_or(0));
        let ty = tensor.type_;
        if !observe::read_floats(ty, shape, tensor.nb, &watch.bytes, &mut watch.floats) {
            return true;
        }
        if watch.floats.iter().any(|x| x.is_nan()) {
            watch.no_number.get_or_insert_with(|| name.clone());
            return false;
        }
        let tensor = NamedTensor {
            name: &name,
            shape,
            data: &watch.floats,
        };
        observer.tensor(&tensor).is_continue()
    }));
    result.unwrap_or_else(|panic| {
        watch.panic = Some(panic);
        // Neither wanted nor to be continued.
        false
    })
}
