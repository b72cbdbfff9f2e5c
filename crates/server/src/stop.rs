//! The signal that stops a server.

use std::sync::Arc;

use tokio::sync::watch;

/// Tells a server to finish running requests and refuse new ones. Clones share the signal.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Stop(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    /// Makes a signal that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the signal.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn receiver(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}
