//! A context of llama.cpp, and the callbacks it calls while it computes. The code is unsafe, as in
//! `ffi.rs`, but its functions are safe to call with any arguments.

#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use super::active_hook::{ActiveHook, Survey};
use super::batch::{Batch, Limits};
use super::cancel::Cancel;
use super::error::{Error, Result, StateFault};
use super::ffi::model_ptr;
use super::graph::Pass;
use super::log::{self, clear_errors, is_want_of_memory, take_errors};
use super::node_ffi::{Tensor, Watcher, describe};
use super::params::ContextParams;
use super::remote::Workers;
use super::trace::RawNode;

/// A llama.cpp context: KV cache, compute buffers and the last logits.
pub(super) struct Context {
    raw: NonNull<sys::llama_context>,
    watch: NonNull<Watch>,
    /// Kept alive because the context points into it, and into the model.
    poll: Arc<Poll>,
    _model: Arc<LlamaModel>,
    limits: Limits,
    /// For each token of the last batch, whether it has logits.
    outputs: Vec<bool>,
}

/// The flags that a computation in progress polls.
#[derive(Default)]
struct Poll {
    /// The caller's flag.
    cancel: Cancel,
    /// Whether the watcher ended this pass.
    stop: AtomicBool,
    /// The workers that compute a part of it.
    workers: Workers,
}

/// The state of the callback: the watcher of the decode call in progress, if any.
#[derive(Default)]
struct Watch {
    watcher: Option<NonNull<dyn Watcher>>,
    poll: Arc<Poll>,
    panic: Option<Box<dyn Any + Send>>,
}

// SAFETY: a context may be used from any one thread at a time; `&self` methods only read
// state that `&mut self` methods write. The watcher pointer is set only inside `decode`.
unsafe impl Send for Context {}

impl Context {
    pub fn new(model: &Arc<LlamaModel>, n_vocab: u32, params: ContextParams) -> Result<Self> {
        // Making a context may modify the model, so contexts are made one at a time.
        static MAKING: Mutex<()> = Mutex::new(());
        let _one = MAKING
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        clear_errors();

        let limits = params.limits(n_vocab);
        let poll = Arc::new(Poll {
            cancel: params.cancel.clone(),
            stop: AtomicBool::new(false),
            workers: params.workers.clone(),
        });
        params.workers.check()?;
        let watch = NonNull::from(Box::leak(Box::new(Watch {
            poll: Arc::clone(&poll),
            ..Watch::default()
        })));
        // SAFETY: the parameters are plain data. What its two pointers point to outlives the
        // context: `poll` holds the flags, and `drop` frees the box after the context.
        let raw = unsafe {
            let mut p = sys::llama_context_default_params();
            params.fill(limits, &mut p);
            p.abort_callback = Some(on_poll);
            p.abort_callback_data = Arc::as_ptr(&poll).cast_mut().cast();
            if params.watched {
                p.cb_eval = Some(on_eval);
                p.cb_eval_user_data = watch.as_ptr().cast();
            }
            sys::llama_init_from_model(model_ptr(model), p)
        };
        let Some(raw) = NonNull::new(raw) else {
            // SAFETY: the box was leaked above, and nothing else points to it now.
            drop(unsafe { Box::from_raw(watch.as_ptr()) });
            let n_ctx = params.n_ctx;
            params.workers.check()?;
            return Err(match take_errors() {
                reason if is_want_of_memory(&reason) => Error::OutOfMemory {
                    what: format!("a context of {n_ctx} tokens"),
                    reason,
                },
                reason => Error::Context { n_ctx, reason },
            });
        };
        Ok(Context {
            raw,
            watch,
            poll,
            _model: Arc::clone(model),
            limits,
            outputs: Vec::new(),
        })
    }

    /// The number of tokens that the context holds, after llama.cpp's padding.
    pub fn n_ctx(&self) -> u32 {
        // SAFETY: the context lives; reads a field.
        unsafe { sys::llama_n_ctx(self.raw.as_ptr()) }
    }

    /// Maximum number of tokens of one sequence. llama.cpp chooses RoPE factors by it.
    pub fn n_ctx_seq(&self) -> u32 {
        // SAFETY: as above.
        unsafe { sys::llama_n_ctx_seq(self.raw.as_ptr()) }
    }

    /// The sizes that it was made for.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Sets a control vector: from now on, a direction is added to the state after each layer from
    /// `first` to `last`. `directions` has one of `n_embd` values for each layer from 1 on. Returns
    /// whether llama.cpp accepted it. Must be called before the first batch, because it does not
    /// change what is already in the cache.
    pub fn set_control(
        &mut self,
        directions: &[f32],
        n_embd: usize,
        first: usize,
        last: usize,
    ) -> bool {
        let int = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        // SAFETY: the context is live. llama.cpp compares `n_embd` with the model's own width,
        // copies only the rows that are whole within the length of `directions`, and keeps no
        // pointer to it.
        let status = unsafe {
            sys::llama_set_adapter_cvec(
                self.raw.as_ptr(),
                directions.as_ptr(),
                directions.len(),
                int(n_embd),
                int(first),
                int(last),
            )
        };
        status == 0
    }

    /// Computes a batch. `hook` sees the graph's nodes if the context was made with hooks. Stops
    /// with [`Error::Cancelled`] soon after the cancel flag is set.
    pub fn decode(&mut self, batch: &mut Batch, hook: Option<ActiveHook<'_>>) -> Result<Pass> {
        self.check(batch)?;
        let Some(mut hook) = hook else {
            return self.decode_with(batch, None);
        };
        let status = self.decode_with(batch, Some(&mut hook));
        // What a hook makes of a lost worker's zeros is no news.
        self.poll.workers.check()?;
        match hook.outcome()? {
            // Stopping makes ggml leave only the loop over one part of the graph, so a stopped pass
            // may still have been computed to its end.
            Pass::Stopped => {
                self.outputs.clear();
                Ok(Pass::Stopped)
            }
            Pass::Complete => status,
        }
    }

    /// The nodes of the graph that would compute the batch. The cache is truncated to the start of
    /// the batch's sequences afterwards.
    pub fn survey(&mut self, batch: &mut Batch) -> Result<Vec<RawNode>> {
        self.check(batch)?;
        // Where everything is computed on the CPU, the callback sees all nodes before the first is
        // computed, so the pass can be stopped without computing anything.
        for compute in [false, true] {
            let mut survey = Survey::default();
            self.poll.stop.store(!compute, Ordering::Relaxed);
            let status = log::quietly(|| self.call(batch, Some(&mut survey)));
            self.poll.stop.store(false, Ordering::Relaxed);
            for &seq in &batch.sequences {
                self.truncate(seq.unsigned_abs(), 0);
            }
            let whole = survey.nodes.iter().any(|node| node.name == "result_output");
            if compute && status != 0 {
                let _: Pass = self.result(status, batch)?;
            }
            if status == 0 || whole {
                self.outputs.clear();
                return Ok(survey.nodes);
            }
        }
        Ok(Vec::new())
    }

    fn check(&mut self, batch: &Batch) -> Result<()> {
        self.outputs.clear();
        batch.check(self.limits)?;
        self.poll.workers.check()?;
        match self.poll.cancel.is_set() {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }

    /// Decodes a batch; `watcher` sees the graph's nodes.
    fn decode_with(
        &mut self,
        batch: &mut Batch,
        watcher: Option<&mut dyn Watcher>,
    ) -> Result<Pass> {
        clear_errors();
        let status = self.call(batch, watcher);
        self.poll.stop.store(false, Ordering::Relaxed);
        self.result(status, batch)
    }

    fn call(&mut self, batch: &mut Batch, watcher: Option<&mut dyn Watcher>) -> i32 {
        let n = batch.len();
        let mut counts = vec![1i32; n];
        let mut sequences: Vec<*mut i32> = batch.sequences.iter_mut().map(ptr::from_mut).collect();
        // SAFETY: every array has n entries and outlives the call, and llama.cpp keeps no pointer
        // to it. Tokens, sequences and sizes were checked above; llama.cpp checks positions and
        // returns an error. The callback can reach the watcher only during this call: its lifetime
        // is erased to store the pointer, and the pointer is removed after the call.
        unsafe {
            let watch = self.watch.as_ptr();
            (*watch).watcher = watcher.map(|watcher| {
                std::mem::transmute::<NonNull<dyn Watcher + '_>, NonNull<dyn Watcher>>(
                    NonNull::from(watcher),
                )
            });
            let status = sys::llama_decode(
                self.raw.as_ptr(),
                sys::llama_batch {
                    n_tokens: n as i32,
                    // `Token` has the layout of the number in it.
                    token: batch.tokens.as_mut_ptr().cast(),
                    embd: ptr::null_mut(),
                    pos: batch.positions.as_mut_ptr(),
                    n_seq_id: counts.as_mut_ptr(),
                    seq_id: sequences.as_mut_ptr(),
                    logits: batch.outputs.as_mut_ptr(),
                },
            );
            // Wait for devices that compute asynchronously.
            sys::llama_synchronize(self.raw.as_ptr());
            (*watch).watcher = None;
            if let Some(panic) = (*watch).panic.take() {
                self.poll.stop.store(false, Ordering::Relaxed);
                for (&seq, &position) in batch.sequences.iter().zip(&batch.positions).rev() {
                    self.truncate(seq.unsigned_abs(), position.unsigned_abs() as usize);
                }
                resume_unwind(panic);
            }
            status
        }
    }

    fn result(&mut self, status: i32, batch: &Batch) -> Result<Pass> {
        self.poll.workers.check()?;
        match status {
            0 => {
                self.outputs.extend(batch.outputs.iter().map(|&o| o != 0));
                self.check_numbers()?;
                Ok(Pass::Complete)
            }
            _ if self.poll.cancel.is_set() => Err(Error::Cancelled),
            1 => Err(Error::ContextFull {
                need: batch.len(),
                n_ctx: self.n_ctx() as usize,
            }),
            status => Err(Error::Decode {
                status,
                reason: take_errors(),
            }),
        }
    }

    /// Rejects logits that are NaN or infinite, as damaged weights produce them. Single tokens may
    /// be ruled out (-inf), but not all of them. The logits of a stopped pass are not checked.
    fn check_numbers(&mut self) -> Result<()> {
        if self.poll.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let is_sound = |row: &[f32]| {
            row.iter().all(|&x| x < f32::INFINITY) && row.iter().any(|x| x.is_finite())
        };
        let mut rows = (0..self.outputs.len()).filter_map(|i| self.logits(i));
        if rows.all(is_sound) {
            return Ok(());
        }
        self.outputs.clear();
        Err(Error::NotANumber {
            what: "logits".to_owned(),
        })
    }

    /// Returns whether the model's memory is recurrent, wholly or in some layers: it holds only the
    /// last state.
    pub fn is_recurrent(&self) -> bool {
        // SAFETY: the context lives, and so does its model.
        unsafe {
            let model = sys::llama_get_model(self.raw.as_ptr());
            sys::llama_model_is_recurrent(model) || sys::llama_model_is_hybrid(model)
        }
    }

    /// The logits of the `i`-th token of the last batch, one per vocabulary entry; `None` if
    /// they were not requested.
    pub fn logits(&self, i: usize) -> Option<&[f32]> {
        if !self.outputs.get(i).copied().unwrap_or(false) {
            return None;
        }
        // SAFETY: token `i` was marked as output, so llama.cpp has a row of `n_vocab` floats for
        // it, which stays valid until the next decode (`&mut self`).
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

    /// Removes the positions of `seq` from `from` on. Returns false if this kind of memory cannot
    /// do that.
    pub fn truncate(&mut self, seq: u32, from: usize) -> bool {
        let memory = self.memory();
        if memory.is_null() || seq >= self.limits.n_seq {
            return false;
        }
        let from = i32::try_from(from).unwrap_or(i32::MAX);
        // SAFETY: a live context's memory and a sequence within its range.
        unsafe { sys::llama_memory_seq_rm(memory, seq as i32, from, -1) }
    }

    /// Returns whether the memory of `seq` still holds enough to continue after its first `length`
    /// tokens: all positions in the model's sliding window before that point, or just that point
    /// without a window. A recurrent memory never does, because it holds only the last state.
    pub fn holds_window_before(&self, seq: u32, length: usize) -> bool {
        let memory = self.memory();
        if memory.is_null() || seq >= self.limits.n_seq || self.is_recurrent() {
            return false;
        }
        // SAFETY: a live context's memory, a sequence within its range, and the context's model.
        let (first, window) = unsafe {
            let first = sys::llama_memory_seq_pos_min(memory, seq as i32);
            let window = sys::llama_model_n_swa(sys::llama_get_model(self.raw.as_ptr()));
            (i64::from(first), i64::from(window.max(0)))
        };
        first <= (length as i64 - window).max(0)
    }

    /// What the memory holds of a sequence, in llama.cpp's own format.
    pub fn state(&mut self, seq: u32) -> Result<Vec<u8>> {
        clear_errors();
        let seq = seq.min(self.limits.n_seq - 1) as i32;
        // SAFETY: the context is live and the sequence within its range; llama.cpp writes at most
        // the given number of bytes.
        let (state, written) = unsafe {
            let size = sys::llama_state_seq_get_size(self.raw.as_ptr(), seq);
            let mut state = vec![0u8; size];
            let at = state.as_mut_ptr();
            let written = sys::llama_state_seq_get_data(self.raw.as_ptr(), at, size, seq);
            (state, written)
        };
        self.poll.workers.check()?;
        match written == state.len() && written > 0 {
            true => Ok(state),
            false => Err(declined()),
        }
    }

    /// Restores the result of [`Context::state`] for `length` tokens into an empty sequence.
    pub fn put_state(&mut self, seq: u32, state: &[u8], length: usize) -> Result<()> {
        clear_errors();
        let seq = seq.min(self.limits.n_seq - 1) as i32;
        // SAFETY: the context is live and the sequence within its range; llama.cpp reads at most
        // the given number of bytes, and returns how many it read.
        let (read, last) = unsafe {
            let (raw, at) = (self.raw.as_ptr(), state.as_ptr());
            let read = sys::llama_state_seq_set_data(raw, at, state.len(), seq);
            let memory = sys::llama_get_memory(raw);
            match memory.is_null() {
                true => (read, -1),
                false => (read, sys::llama_memory_seq_pos_max(memory, seq)),
            }
        };
        self.poll.workers.check()?;
        match read == state.len() && i64::from(last) + 1 == length as i64 {
            true => Ok(()),
            false => Err(declined()),
        }
    }

    /// Copies the positions of `from` below `length`, or all, to `to`, which shares their cells.
    pub fn copy(&mut self, from: u32, to: u32, length: Option<usize>) {
        let memory = self.memory();
        if !memory.is_null() && from.max(to) < self.limits.n_seq && from != to {
            let end = length.map_or(-1, |length| i32::try_from(length).unwrap_or(i32::MAX));
            // SAFETY: a live context's memory and sequences within its range.
            unsafe { sys::llama_memory_seq_cp(memory, from as i32, to as i32, -1, end) };
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context was made by `llama_init_from_model` and is freed once, before the
        // model (held by `_model`) and before the box that its callback points to.
        unsafe {
            sys::llama_free(self.raw.as_ptr());
            drop(Box::from_raw(self.watch.as_ptr()));
        }
    }
}

fn declined() -> Error {
    Error::State(StateFault::Declined {
        reason: take_errors(),
    })
}

extern "C" fn on_poll(poll: *mut c_void) -> bool {
    // SAFETY: `poll` is the context's, which outlives it.
    let poll = unsafe { &*poll.cast::<Poll>() };
    poll.cancel.is_set() || poll.stop.load(Ordering::Relaxed) || poll.workers.any_lost()
}

/// Called twice per tensor: first, with `ask`, whether its value is wanted, then with its value.
extern "C" fn on_eval(tensor: *mut sys::ggml_tensor, ask: bool, watch: *mut c_void) -> bool {
    // SAFETY: `watch` is the context's box and `tensor` a live node of its graph; ggml calls
    // from the decoding thread only, which holds no reference into the box.
    let (watch, tensor) = unsafe { (&mut *watch.cast::<Watch>(), &*tensor) };
    let Some(mut watcher) = watch.watcher else {
        return !ask;
    };
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: only the decode call in progress borrows the watcher, mutably; the tensor is live
        // and, unless `ask` is set, has just been computed.
        unsafe {
            match ask {
                true => watcher.as_mut().ask(describe(tensor)),
                false => watcher.as_mut().computed(Tensor::new(tensor)).is_continue(),
            }
        }
    }));
    let go_on = result.unwrap_or_else(|panic| {
        watch.panic = Some(panic);
        // The node is not wanted, and the pass does not continue.
        false
    });
    if watch.panic.is_some() || !ask && !go_on {
        // ggml would continue with other parts of the graph and call again.
        watch.watcher = None;
        watch.poll.stop.store(true, Ordering::Relaxed);
    }
    go_on
}
