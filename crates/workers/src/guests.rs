//! How many connections may be in their handshake at the same time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// Connections in their handshake, of all addresses and of one. A flood from one address leaves room
/// for others.
const MOST: usize = 32;
const MOST_OF_ONE: usize = 4;

/// The connections that have not proved that they have the key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guests(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them. It counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    guests: Guests,
    ip: IpAddr,
}

impl Guests {
    /// Lets a connection begin its handshake; `None` if there are too many.
    pub fn admit(&self, ip: IpAddr) -> Option<Guest> {
        let mut counts = self.counts();
        let own = counts.get(&ip).copied().unwrap_or(0);
        if own >= MOST_OF_ONE || counts.values().sum::<usize>() >= MOST {
            return None;
        }
        counts.insert(ip, own + 1);
        drop(counts);
        Some(Guest {
            guests: self.clone(),
            ip,
        })
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.guests.counts();
        if let Some(count) = counts.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_from_one_address_leaves_room_for_others() {
        let guests = Guests::default();
        let at = |last: u8| IpAddr::from([10, 0, 0, last]);
        let mut admitted: Vec<Guest> = (0..100).filter_map(|_| guests.admit(at(1))).collect();
        assert_eq!(admitted.len(), MOST_OF_ONE);
        let other = guests.admit(at(2)).unwrap();
        admitted.pop();
        assert!(guests.admit(at(1)).is_some());
        drop((admitted, other));
        assert!(guests.counts().is_empty());
        let all: Vec<Guest> = (0..100).filter_map(|i| guests.admit(at(i))).collect();
        assert_eq!(all.len(), MOST);
    }
}
