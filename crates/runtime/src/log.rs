//! Forwards llama.cpp's log to `tracing`, and its errors to the caller of llama.cpp.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use llama_cpp_sys_2 as sys;

thread_local! {
    /// The errors that llama.cpp logged on this thread since [`take_errors`] was last called.
    static ERRORS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

thread_local! {
    /// Whether llama.cpp's messages on this thread are expected and ignored.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` and ignores what llama.cpp logs meanwhile.
pub(super) fn quietly<T>(work: impl FnOnce() -> T) -> T {
    QUIET.set(true);
    let done = work();
    QUIET.set(false);
    done
}

/// Receives a message of llama.cpp's log.
pub(super) fn note(level: sys::ggml_log_level, text: &str) {
    if QUIET.get() {
        return;
    }
    let text = &*without_paths(text.trim_end());
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

/// Removes from a message of llama.cpp the folders that it was compiled in, which may be those of
/// another machine: `llama-vocab.cpp:3241: …`.
pub(super) fn without_paths(text: &str) -> Cow<'_, str> {
    let is_built = |word: &str| word.contains("/llama.cpp/") || word.contains("\\llama.cpp\\");
    if !is_built(text) {
        return Cow::Borrowed(text);
    }
    let words = text.split(' ').map(|word| match is_built(word) {
        true => word.rsplit(['/', '\\']).next().unwrap_or(word),
        false => word,
    });
    Cow::Owned(words.collect::<Vec<_>>().join(" "))
}

/// Discards the errors that were logged so far.
pub(super) fn clear_errors() {
    ERRORS.with_borrow_mut(Vec::clear);
}

/// The first error that llama.cpp logged on this thread since the last call. It is the cause; those
/// after it only pass it on.
pub(super) fn take_error() -> Option<String> {
    let first = ERRORS.with_borrow_mut(|errors| errors.drain(..).next())?;
    // The C++ function that the message starts with means nothing to users.
    let told = first.split_once(": error loading model: ");
    Some(told.map_or(first.as_str(), |(_, reason)| reason).to_owned())
}

/// [`take_error`], with a replacement if there is none.
pub(super) fn take_errors() -> String {
    take_error().unwrap_or_else(|| "no reason given".to_owned())
}

/// Returns whether an error that llama.cpp logged means that a device has no memory left. Only the
/// wording tells, and only this function depends on it.
pub(super) fn is_want_of_memory(reason: &str) -> bool {
    reason.contains("allocate") || reason.contains("out of memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_names_a_folder_of_the_build() {
        let said = "/home/build/.cargo/llama-cpp-sys-2-0.1/llama.cpp/src/llama-vocab.cpp:3241: fatal error";
        assert_eq!(without_paths(said), "llama-vocab.cpp:3241: fatal error");
        let said = "loader: C:\\a\\llama.cpp\\ggml\\ggml.c:12: GGML_ASSERT(a / b) failed";
        assert_eq!(
            without_paths(said),
            "loader: ggml.c:12: GGML_ASSERT(a / b) failed"
        );
        assert_eq!(
            without_paths("cannot open /home/x/llama.gguf"),
            "cannot open /home/x/llama.gguf"
        );
    }
}
