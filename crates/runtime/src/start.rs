//! The start of llama.cpp, once per process.

use std::sync::{Once, OnceLock};
use std::thread::{self, JoinHandle};

use llama_cpp_2::llama_backend::LlamaBackend;

use super::device::Device;
use super::ffi::Started;
use super::{backends, ffi};
use modelve_gguf::GgmlType;

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
pub struct Starting(Option<JoinHandle<Started>>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

/// What the start needs of the thread whose heap models are read into.
fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(widen_heap);
}

/// Makes room on the heap in huge pages: llama.cpp keeps a vocabulary in a hundred thousand
/// small blocks, and a page fault for every 4 KiB of them is a fifteenth of reading it.
fn widen_heap() {
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        const ROOM: usize = 16 << 20;
        // glibc maps a block of this size apart, but the next one no longer, once the first is
        // freed; freed itself, that one stays part of the heap.
        drop(std::hint::black_box(Vec::<u8>::with_capacity(ROOM)));
        ffi::in_huge_pages(&mut Vec::with_capacity(ROOM));
    }
}

/// The types of weights that this program's own kernels multiply, see [`modelve_matmul`].
pub fn own_kernels() -> impl Iterator<Item = GgmlType> {
    let Started { own_kernels } = start();
    modelve_matmul::types().filter(move |_| own_kernels)
}

/// The devices this build can use, as ggml lists them.
pub fn devices() -> Vec<Device> {
    ffi::devices(start())
}

/// What each backend of this build makes use of, in llama.cpp's words:
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
        // Without any backend llama.cpp would look for one where it was built and in the current
        // folder. An error means that other code of this process has started it: as good for us.
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
