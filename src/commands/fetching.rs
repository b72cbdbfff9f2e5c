//! Shared code of the commands that use the Hub: options, cancellation, and errors with hints.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::engine::cancel_on_ctrl_c;
use crate::hint::{Interrupted, hinted};
use crate::hub::locate;
use crate::hub::{Error, FetchOptions, HubId};

/// Returns the options from the environment. `offline` has the effect of HF_HUB_OFFLINE.
pub fn options(offline: bool) -> FetchOptions {
    let mut options = FetchOptions::from_env();
    options.offline |= offline;
    options
}

/// Returns a flag that Ctrl-C and SIGTERM set. It also ignores SIGXFSZ, so that a file larger than
/// the process's limit is an error of the write instead of the end of the process.
pub fn cancel_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let cancel = cancel_on_ctrl_c()?.flag();
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&cancel))?;
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
    Ok(cancel)
}

/// Attaches a hint to the error of a request about `id`.
pub fn refused(id: &HubId, error: Error) -> anyhow::Error {
    let hint = error.hint();
    let (said, hint) = match &error {
        Error::Interrupted { .. } => (
            anyhow::Error::new(Interrupted).context(error.to_string()),
            hint,
        ),
        _ => (
            anyhow::Error::new(error).context(format!("cannot fetch {id}")),
            hint.map(|hint| or_like(&id.repo, &hint)),
        ),
    };
    match hint {
        Some(hint) => hinted(said, hint),
        None => said,
    }
}

/// Returns a hint that starts with existing folders of similar names, if there are any.
pub fn or_like(text: &str, hint: &str) -> String {
    match locate::paths_like(text).as_slice() {
        [] => hint.to_owned(),
        near => format!("did you mean {}? otherwise {hint}", near.join(" or ")),
    }
}
