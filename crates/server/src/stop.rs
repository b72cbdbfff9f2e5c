//! How a server is told to stop.

use std::sync::Arc;

use tokio::sync::watch;

/// Tells a server to finish what runs and refuse what comes. Clones are the same.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Stop(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    /// Nobody has said so yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says so.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn receiver(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}
