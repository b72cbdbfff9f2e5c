//! How fast this machine reads its memory. Generating a token reads every weight in use once, so the
//! rate bounds how many tokens a second a model can write.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// Bytes that all threads read together: more than the caches of most processors hold.
const BYTES: u64 = 256 << 20;
/// Number of times that each thread reads its share; the fastest counts.
const PASSES: usize = 4;

/// Measures how many bytes `threads` threads read in a second, from memory of their own. Takes a fraction
/// of a second and at most a quarter of `available` bytes; returns `None` where that is too little to
/// measure with.
pub fn measure(threads: usize, available: u64) -> Option<f64> {
    let bytes = BYTES.min(available / 4);
    if bytes < BYTES / 8 {
        return None;
    }
    let threads = threads.clamp(1, 64);
    let words = bytes as usize / size_of::<u64>() / threads;
    let barrier = Barrier::new(threads);
    let rate = || {
        // Written, so that the pages are there.
        let memory = vec![1u64; words];
        let mut best = 0f64;
        for _ in 0..PASSES {
            barrier.wait();
            let started = Instant::now();
            let sum = black_box(&memory)
                .iter()
                .fold(0u64, |a, b| a.wrapping_add(*b));
            black_box(sum);
            let seconds = started.elapsed().as_secs_f64().max(1e-9);
            best = best.max((words * size_of::<u64>()) as f64 / seconds);
        }
        best
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
