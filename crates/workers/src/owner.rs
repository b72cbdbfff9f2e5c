//! Whose process is at the other end of a loopback connection.
//!
//! ggml's sockets are TCP sockets on loopback, which every process of the machine can connect to.
//! Linux lists the user of each socket; connections of other users are refused. Other systems do not
//! say, and there every local user could take the place of ggml's client in the moment before it
//! connects.

use std::net::SocketAddr;

/// Returns whether the socket at `local`, connected to `remote` or listening if that is `None`,
/// belongs to the user of this process. True where the system does not say.
pub(crate) fn is_ours(local: SocketAddr, remote: Option<SocketAddr>) -> bool {
    #[cfg(target_os = "linux")]
    {
        let Ok(table) = std::fs::read_to_string("/proc/self/net/tcp") else {
            return true;
        };
        owner(&table, local, remote) == Some(rustix::process::geteuid().as_raw())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (local, remote);
        true
    }
}

/// The user of a socket in the kernel's table of TCP sockets.
#[cfg(any(target_os = "linux", test))]
fn owner(table: &str, local: SocketAddr, remote: Option<SocketAddr>) -> Option<u32> {
    const LISTENING: &str = "0A";
    let written = |address: SocketAddr| match address {
        SocketAddr::V4(address) => {
            let ip = u32::from_ne_bytes(address.ip().octets());
            Some(format!("{ip:08X}:{:04X}", address.port()))
        }
        SocketAddr::V6(_) => None,
    };
    let (local, remote) = (written(local)?, remote.map(written));
    let line = table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let there = fields.get(1) == Some(&local.as_str())
            && match &remote {
                Some(remote) => fields.get(2).copied() == remote.as_deref(),
                None => fields.get(3) == Some(&LISTENING),
            };
        there.then_some(fields)
    })?;
    line.get(7)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_tells_the_user() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
               0: 0100007F:1CFC 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 100 1\n\
               1: 0100007F:1CFC 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 101 1\n\
               2: 0100007F:9C40 0100007F:1CFC 01 00000000:00000000 00:00000000 00000000  1001        0 102 1\n";
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(owner(table, at(0x1CFC), None), Some(1000));
        assert_eq!(owner(table, at(0x9C40), Some(at(0x1CFC))), Some(1001));
        assert_eq!(owner(table, at(0x9C40), None), None);
        assert_eq!(owner(table, at(0x1CFC), Some(at(0x9C40))), Some(0));
    }

    #[test]
    fn own_sockets_are_ours() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(is_ours(address, None));
        let stream = std::net::TcpStream::connect(address).unwrap();
        assert!(is_ours(stream.local_addr().unwrap(), Some(address)));
    }
}
