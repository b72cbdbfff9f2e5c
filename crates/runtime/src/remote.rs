//! Layers on other machines.

use std::sync::Arc;

use modelve_workers::Link;

use super::error::{Error, Result};
use super::ffi::Started;
use super::placement::Plan;
use super::rpc_ffi::{self, RemoteDevice};
use super::start;

/// The layers of a model that other machines compute.
#[derive(Debug, Clone, Default)]
pub struct Remote {
    /// The layers, in their order.
    pub layers: Vec<RemoteLayers>,
    /// The plan that they follow, to be shown.
    pub plan: Option<Plan>,
}

/// Layers that a device of a worker computes.
#[derive(Debug, Clone)]
pub struct RemoteLayers {
    /// The way to the worker.
    pub link: Arc<Link>,
    /// The number of the device in the worker's offer.
    pub device: usize,
    /// The number of layers.
    pub layers: u32,
}

/// The workers that hold a model's layers, for those who compute with it.
#[derive(Debug, Clone, Default)]
pub(super) struct Workers(Arc<[Arc<Link>]>);

impl Workers {
    pub fn of(remote: &[RemoteLayers]) -> Workers {
        Workers(
            remote
                .iter()
                .map(|layers| Arc::clone(&layers.link))
                .collect(),
        )
    }

    /// Returns whether one of them is lost, so that whatever was computed since is worthless.
    pub fn any_lost(&self) -> bool {
        self.0.iter().any(|link| link.fault().is_some())
    }

    /// # Errors
    /// [`Error::WorkerLost`].
    pub fn check(&self) -> Result<()> {
        match self.0.iter().find_map(|link| Some((link, link.fault()?))) {
            None => Ok(()),
            Some((link, reason)) => Err(Error::WorkerLost {
                worker: link.name().to_owned(),
                reason: reason.to_owned(),
            }),
        }
    }

    /// Says whether weights are being loaded.
    pub fn set_loading(&self, loading: bool) {
        self.0.iter().for_each(|link| link.set_loading(loading));
    }
}

/// The devices of these layers, and how many layers each takes.
pub(super) fn devices(
    started: Started,
    remote: &[RemoteLayers],
) -> Result<Vec<(RemoteDevice, u32)>> {
    let device = |layers: &RemoteLayers| {
        let device = rpc_ffi::device(started, layers.link.endpoint(), layers.device)?;
        Ok((device, layers.layers))
    };
    remote.iter().map(device).collect()
}

/// Waits until the weights have arrived: ggml's client returns as soon as they are in its socket.
pub(super) fn settle(devices: &[(RemoteDevice, u32)]) {
    devices
        .iter()
        .for_each(|(device, _)| rpc_ffi::settle(*device));
}

/// Runs ggml's RPC server at `port` of loopback, for devices of these names, until
/// [`stop_serving`] and the end of its connection. Whoever connects can make this process do
/// anything: it must be a process of its own, with limits, that serves nobody but
/// [`modelve_workers::Door`].
///
/// # Errors
/// This build has no RPC backend, or no such device.
pub fn serve_devices(port: u16, devices: &[String], threads: Option<u32>) -> Result<()> {
    rpc_ffi::serve(start::start(), port, devices, threads)
}

/// Makes the server of [`serve_devices`] accept no more connections; the one that it serves goes on.
/// Returns whether it did.
pub fn stop_serving(port: u16) -> bool {
    rpc_ffi::stop_listening(port)
}
