//! What the commands share that use the Hub: options, the way to stop, and errors with their hints.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::engine::cancel_on_ctrl_c;
use crate::hint::{Interrupted, hinted};
use crate::hub::locate;
use crate::hub::{Error, FetchOptions, HubId};

/// The options of the environment. `offline` keeps off the network, as HF_HUB_OFFLINE does.
pub fn options(offline: bool) -> FetchOptions {
    let mut options = FetchOptions::from_env();
    options.offline |= offline;
    options
}

/// A flag that Ctrl-C and termination set. A file that grows past the limit of the process is an
/// error of the write, not the end of the process.
pub fn cancel_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let cancel = cancel_on_ctrl_c()?.flag();
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&cancel))?;
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
    Ok(cancel)
}

/// The error of a request about `id`, with the hint that belongs to it.
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

/// A hint, and before it the folders that may have been meant.
pub fn or_like(text: &str, hint: &str) -> String {
    match locate::paths_like(text).as_slice() {
        [] => hint.to_owned(),
        near => format!("did you mean {}? otherwise {hint}", near.join(" or ")),
    }
}
