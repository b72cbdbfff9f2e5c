//! Calls into ggml's RPC backend: devices of other machines, and the server that offers this one's.
//! The code is unsafe, as in `ffi.rs`.
//!
//! The backend's functions are found by name, because it is linked with the program in most builds
//! and a library in portable ones.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::net::SocketAddr;
use std::ptr;

use llama_cpp_sys_2 as sys;

use super::error::{Error, Result};
use super::ffi::Started;
use super::host;

/// `ggml_backend_rpc_add_server`
type AddServer = unsafe extern "C" fn(*const c_char) -> sys::ggml_backend_reg_t;
/// `ggml_backend_rpc_start_server`
type StartServer =
    unsafe extern "C" fn(*const c_char, *const c_char, usize, usize, *mut sys::ggml_backend_dev_t);

/// The address of a function of the RPC backend; `None` if this build has none.
fn function(name: &CStr) -> Option<ptr::NonNull<c_void>> {
    // SAFETY: the names are zero-terminated; the registry lives as long as the program and is only
    // read after its start.
    unsafe {
        let backend = sys::ggml_backend_reg_by_name(c"RPC".as_ptr());
        if backend.is_null() {
            return None;
        }
        ptr::NonNull::new(sys::ggml_backend_reg_get_proc_address(
            backend,
            name.as_ptr(),
        ))
    }
}

/// A device of another machine. It lives as long as the program.
#[derive(Clone, Copy)]
pub(super) struct RemoteDevice(pub sys::ggml_backend_dev_t);

/// The `index`-th device of the server at `endpoint`, which must answer: ggml aborts the program if
/// nobody is there.
///
/// # Errors
/// [`Error::NoRpc`], or the server has no such device.
pub(super) fn device(_: Started, endpoint: SocketAddr, index: usize) -> Result<RemoteDevice> {
    let add = function(c"ggml_backend_rpc_add_server").ok_or(Error::NoRpc)?;
    let none = || Error::NoDevice {
        name: format!("{index} of {endpoint}"),
        have: Vec::new(),
    };
    let endpoint = CString::new(endpoint.to_string()).map_err(|_| none())?;
    // SAFETY: every version of the backend has this function with this signature; it copies the
    // name. The registry that it returns lives as long as the program, and the index is below its
    // number of devices.
    unsafe {
        let add = std::mem::transmute::<*mut c_void, AddServer>(add.as_ptr());
        let server = add(endpoint.as_ptr());
        if server.is_null() || index >= sys::ggml_backend_reg_dev_count(server) {
            return Err(none());
        }
        Ok(RemoteDevice(sys::ggml_backend_reg_dev_get(server, index)))
    }
}

/// Waits until the server has got everything that was written to a device: requests are answered in
/// their order, and a question about its memory has an answer.
pub(super) fn settle(device: RemoteDevice) {
    let (mut free, mut total) = (0, 0);
    // SAFETY: the device lives as long as the program.
    unsafe { sys::ggml_backend_dev_memory(device.0, &mut free, &mut total) };
}

/// Runs ggml's RPC server at `port` of loopback, for devices of these names. Returns when it accepts
/// no more connections, as after [`stop_listening`].
///
/// # Errors
/// [`Error::NoRpc`], [`Error::NoDevice`].
pub(super) fn serve(_: Started, port: u16, names: &[String], threads: Option<u32>) -> Result<()> {
    let start = function(c"ggml_backend_rpc_start_server").ok_or(Error::NoRpc)?;
    let threads = threads.unwrap_or_else(host::threads).clamp(1, 512);
    let endpoint = CString::new(format!("127.0.0.1:{port}")).map_err(|_| Error::NoRpc)?;
    let mut devices = Vec::new();
    for name in names {
        let found = CString::new(name.as_str()).map(|name| {
            // SAFETY: the name is zero-terminated, and the registry is only read.
            unsafe { sys::ggml_backend_dev_by_name(name.as_ptr()) }
        });
        match found {
            Ok(device) if !device.is_null() => devices.push(device),
            _ => {
                return Err(Error::NoDevice {
                    name: name.clone(),
                    have: Vec::new(),
                });
            }
        }
    }
    // SAFETY: every version of the backend has this function with this signature. The endpoint, the
    // devices and their number are valid during the call; there is no folder for tensors.
    unsafe {
        let start = std::mem::transmute::<*mut c_void, StartServer>(start.as_ptr());
        start(
            endpoint.as_ptr(),
            ptr::null(),
            threads as usize,
            devices.len(),
            devices.as_mut_ptr(),
        );
    }
    Ok(())
}

/// Makes the socket that listens at `port` of loopback in this process refuse connections, those that
/// wait in its queue, too. Returns whether there was one.
pub(super) fn stop_listening(port: u16) -> bool {
    #[cfg(unix)]
    {
        use std::os::fd::BorrowedFd;

        use rustix::net::{Shutdown, getsockname, shutdown, sockopt};
        // ggml opens its socket early, and descriptors are given out from the lowest.
        const DESCRIPTORS: i32 = 1024;
        for number in 3..DESCRIPTORS {
            // SAFETY: the descriptor is only passed to calls that fail if it is not open, or not a
            // socket. ggml's is open as long as its server runs, and closed by nobody else.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            let listens = sockopt::socket_acceptconn(descriptor) == Ok(true);
            let address = getsockname(descriptor).ok();
            let address = address.and_then(|address| SocketAddr::try_from(address).ok());
            if listens && address.is_some_and(|address| address.port() == port) {
                return shutdown(descriptor, Shutdown::Both).is_ok();
            }
        }
        false
    }
    #[cfg(not(unix))]
    {
        let _ = port;
        false
    }
}
