//! What llama.cpp says: to `tracing`, and its errors to whoever called it.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use llama_cpp_sys_2 as sys;

thread_local! {
    /// Errors llama.cpp logged on this thread since [`take_errors`] was last called.
    static ERRORS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

thread_local! {
    /// Whether what llama.cpp says on this thread is expected, and of no interest.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, of which llama.cpp's complaints are expected.
pub(super) fn quietly<T>(work: impl FnOnce() -> T) -> T {
    QUIET.set(true);
    let done = work();
    QUIET.set(false);
    done
}

/// A message of llama.cpp's.
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

/// A message of llama.cpp's without the folders it was compiled in, which are those of another
/// machine: `llama-vocab.cpp:3241: …`.
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

/// Returns whether an error that llama.cpp logged is that a device gave no memory. Its words are
/// all that tells; they are looked at here and nowhere else.
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
