//! How fast this machine reads its memory. Generating a token reads every weight in use once, so the
//! rate bounds how many tokens a second a model can write.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// Bytes that all threads read together, and each at least: more than the caches of most processors hold.
const BYTES: u64 = 256 << 20;
const BYTES_EACH: u64 = 16 << 20;
/// Number of times that each thread reads its share.
const PASSES: usize = 4;
/// Numbers in a piece of a share, of which each is timed: 2 MiB take less time than a thread is let run
/// before another gets its turn.
const PIECE: usize = (2 << 20) / size_of::<u64>();

/// Measures how many bytes `threads` threads read in a second, from memory of their own: the sum of what
/// each reads in the median of its pieces. Takes a fraction of a second and at most a quarter of
/// `available` bytes; returns `None` where that is too little to measure with.
pub fn measure(threads: usize, available: u64) -> Option<f64> {
    let threads = threads.clamp(1, 64);
    let bytes = BYTES.max(threads as u64 * BYTES_EACH).min(available / 4);
    if bytes < BYTES / 8 {
        return None;
    }
    let words = bytes as usize / size_of::<u64>() / threads;
    let barrier = Barrier::new(threads);
    let rate = || {
        // Written, so that the pages are there.
        let memory = vec![1u64; words];
        let mut rates = Vec::new();
        for _ in 0..PASSES {
            barrier.wait();
            for piece in black_box(&memory).chunks(PIECE) {
                let started = Instant::now();
                black_box(piece.iter().fold(0u64, |a, b| a.wrapping_add(*b)));
                let seconds = started.elapsed().as_secs_f64().max(1e-9);
                rates.push(size_of_val(piece) as f64 / seconds);
            }
        }
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let rates: Vec<f64> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(rate)).collect();
        let rates = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or(0.0));
        rates.collect()
    });
    Some(rates.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_possible_one_and_little_memory_gives_none() {
        let rate = measure(2, 1 << 30).unwrap();
        // Between the slowest board and several times the widest of today's memories.
        assert!((1e7..1e14).contains(&rate), "{rate}");
        assert_eq!(measure(2, 1 << 20), None);
    }
}
