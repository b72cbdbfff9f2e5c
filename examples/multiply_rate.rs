//! Measures how many products of 8-bit integers this CPU can accumulate per second on all cores.
//! These are the operations of llama.cpp's kernels for quantized weights, here without memory
//! accesses or anything else, so no prefill can be faster. Prints one number, or a message if it
//! has no loop for the CPU.
//!
//!     cargo run --example multiply_rate

#![allow(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::thread;
use std::time::{Duration, Instant};

/// The number of iterations between two readings of the clock.
const ROUNDS: u64 = 100_000;
/// The number of independent accumulators: more than the latency of an instruction times the number
/// of instructions issued per cycle.
const SUMS: usize = 12;
const TIME: Duration = Duration::from_millis(500);

fn main() {
    let Some((products, rounds)) = rounds() else {
        eprintln!("no loop of 8-bit products for this processor");
        std::process::exit(1);
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let rates: Vec<f64> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| scope.spawn(move || rate(products, rounds)))
            .collect();
        let finished = running.into_iter().map(|thread| thread.join());
        finished.map(|rate| rate.unwrap_or(0.0)).collect()
    });
    println!("{:.4e}", rates.iter().sum::<f64>());
}

/// The products per second of one core.
fn rate(products: u64, rounds: fn()) -> f64 {
    rounds();
    let (start, mut done) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        rounds();
        done += ROUNDS * SUMS as u64 * products;
    }
    done as f64 / start.elapsed().as_secs_f64()
}

/// The number of products of one step of one accumulator, and a function that does [`ROUNDS`] steps
/// of all accumulators.
#[cfg(target_arch = "x86_64")]
fn rounds() -> Option<(u64, fn())> {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn vnni() {
        let (a, b) = black_box((_mm512_set1_epi8(3), _mm512_set1_epi8(5)));
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2")]
    fn avx2() {
        let (a, b) = black_box((_mm256_set1_epi8(3), _mm256_set1_epi8(5)));
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_si256(); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                // Keeps the compiler from moving the multiplication out of the loop.
                let a = black_box(a);
                let pairs = _mm256_maddubs_epi16(a, b);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        black_box(sums);
    }

    if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw") {
        // SAFETY: the CPU has the instructions.
        return Some((64, || unsafe { vnni() }));
    }
    if is_x86_feature_detected!("avx2") {
        // SAFETY: as above.
        return Some((32, || unsafe { avx2() }));
    }
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn rounds() -> Option<(u64, fn())> {
    None
}
