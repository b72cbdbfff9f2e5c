//! Starts llama.cpp, once per process.

use std::sync::{Once, OnceLock};
use std::thread::{self, JoinHandle};

use llama_cpp_2::llama_backend::LlamaBackend;

use super::device::Device;
use super::ffi::Started;
use super::{backends, ffi};
use modelve_gguf::GgmlType;

/// Starts llama.cpp on another thread, while this one does something else. Functions that need it
/// wait until it has started, and start it themselves if this was not called.
pub fn start_ahead() -> Starting {
    prepare();
    // If no thread can be started, llama.cpp starts when it is first needed.
    Starting(thread::Builder::new().spawn(start).ok())
}

/// A start in progress. Dropping it waits for the end of the start, because a program that exits
/// meanwhile would destroy static objects that are being made.
#[must_use = "dropping it waits for the start at once"]
pub struct Starting(Option<JoinHandle<Started>>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

/// The part of the start that must run on the thread that will load models.
fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(widen_heap);
}

/// Grows the heap with huge pages. llama.cpp keeps a vocabulary in a hundred thousand small blocks,
/// and a page fault for every 4 KiB of them takes a fifteenth of the time to read it.
fn widen_heap() {
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        const ROOM: usize = 16 << 20;
        // glibc allocates the first block of this size by mmap. Freeing it raises glibc's
        // threshold, so that the second one is part of the heap, and stays so after it is freed.
        drop(std::hint::black_box(Vec::<u8>::with_capacity(ROOM)));
        ffi::in_huge_pages(&mut Vec::with_capacity(ROOM));
    }
}

/// The types of weights that are multiplied by modelve's own kernels, see [`modelve_matmul`].
pub fn own_kernels() -> impl Iterator<Item = GgmlType> {
    let Started { own_kernels } = start();
    modelve_matmul::types().filter(move |_| own_kernels)
}

/// The devices that this build can use, in ggml's order.
pub fn devices() -> Vec<Device> {
    ffi::devices(start())
}

/// The features that each backend of this build uses, in llama.cpp's format:
/// `CPU : AVX2 = 1 | FMA = 1 | …`.
pub fn system_info() -> String {
    ffi::system_info(start())
}

/// Starts llama.cpp once per process and sends its log to `tracing`.
pub(super) fn start() -> Started {
    static BACKEND: OnceLock<(Option<LlamaBackend>, Started)> = OnceLock::new();
    let (_, started) = BACKEND.get_or_init(|| {
        prepare();
        let none = backends::backends().is_empty();
        ffi::send_log();
        ffi::catch_aborts();
        // Without any backend llama.cpp would search the folder it was built in and the current
        // folder. An error means that other code of this process has already started it, which is
        // fine.
        let (backend, own_kernels) = match none {
            true => (None, false),
            false => {
                let own_kernels = modelve_matmul::register(backends::library("CPU"));
                (LlamaBackend::init().ok(), own_kernels)
            }
        };
        (backend, Started { own_kernels })
    });
    *started
}
