//! Measures how many products of 8-bit integers this CPU can accumulate per second on all cores, with
//! the fastest instruction that modelve's kernels use. These are the operations of llama.cpp's kernels for quantized weights, here without memory
//! accesses or anything else, so no prefill can be faster. Prints one number, or a message if it
//! has no loop for the CPU.
//!
//!     cargo run --example multiply_rate

#![allow(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[cfg(target_arch = "x86_64")]
use std::arch::asm;
use std::thread;
use std::time::{Duration, Instant};

/// The number of iterations between two readings of the clock.
const ROUNDS: u64 = 100_000;
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
        done += ROUNDS * products;
    }
    done as f64 / start.elapsed().as_secs_f64()
}

/// The number of products of an iteration, and a function that does [`ROUNDS`] of them. The loops are
/// written in assembly, so that they are the same however this program is compiled.
#[cfg(target_arch = "x86_64")]
fn rounds() -> Option<(u64, fn())> {
    if is_x86_feature_detected!("avx512vnni") && tiles_permitted() {
        // SAFETY: the CPU has AMX, and the kernel permits its registers.
        return Some((4 * 16 * 16 * 64, || unsafe { amx() }));
    }
    if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw") {
        // SAFETY: the CPU has the instructions.
        return Some((12 * 64, || unsafe { vnni() }));
    }
    if is_x86_feature_detected!("avx2") {
        // SAFETY: as above.
        return Some((10 * 32, || unsafe { avx2() }));
    }
    None
}

/// Asks Linux for the registers of AMX. Returns false where the CPU or the kernel has none.
#[cfg(target_arch = "x86_64")]
fn tiles_permitted() -> bool {
    let listed =
        std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("amx_int8"));
    if !listed {
        return false;
    }
    let refused: u64;
    // SAFETY: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA) changes only what the kernel saves.
    unsafe {
        asm!("syscall", inout("rax") 158u64 => refused, in("rdi") 0x1023, in("rsi") 18,
            out("rcx") _, out("r11") _, options(nostack));
    }
    refused == 0
}

/// Four products of tiles per iteration, each of 16 rows and 16 columns of 64 bytes.
///
/// # Safety
/// The CPU has AMX, and the kernel permits its registers.
#[cfg(target_arch = "x86_64")]
unsafe fn amx() {
    #[repr(C, align(64))]
    struct Configuration([u8; 64]);
    let mut tiles = Configuration([0; 64]);
    tiles.0[0] = 1;
    for tile in 0..8 {
        tiles.0[16 + 2 * tile] = 64;
        tiles.0[48 + tile] = 16;
    }
    // SAFETY: the caller's; no other code uses the registers.
    unsafe {
        asm!(
            "ldtilecfg [{tiles}]",
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
            "2:",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            "tilerelease",
            tiles = in(reg) &raw const tiles, rounds = inout(reg) ROUNDS => _,
            options(nostack),
        );
    }
}

/// Twelve sums of 64 products per iteration: more than the latency of an instruction times the number
/// of instructions issued per cycle.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn vnni() {
    // SAFETY: the function has the instructions, and its registers are named.
    unsafe {
        asm!(
            "2:",
            "vpdpbusd zmm0, zmm14, zmm15", "vpdpbusd zmm1, zmm14, zmm15",
            "vpdpbusd zmm2, zmm14, zmm15", "vpdpbusd zmm3, zmm14, zmm15",
            "vpdpbusd zmm4, zmm14, zmm15", "vpdpbusd zmm5, zmm14, zmm15",
            "vpdpbusd zmm6, zmm14, zmm15", "vpdpbusd zmm7, zmm14, zmm15",
            "vpdpbusd zmm8, zmm14, zmm15", "vpdpbusd zmm9, zmm14, zmm15",
            "vpdpbusd zmm10, zmm14, zmm15", "vpdpbusd zmm11, zmm14, zmm15",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) ROUNDS => _,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
            out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _,
            out("zmm11") _, out("zmm14") _, out("zmm15") _,
            options(nostack, nomem),
        );
    }
}

/// Ten sums of 32 products per iteration, for each of which pairs of bytes are multiplied and added
/// to words, then pairs of words to sums.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2() {
    macro_rules! sums {
        ($($sum:literal)*) => {
            concat!($(
                "vpmaddubsw ymm12, ymm14, ymm15\n",
                "vpmaddwd ymm12, ymm12, ymm13\n",
                "vpaddd ", $sum, ", ", $sum, ", ymm12\n",
            )*)
        };
    }
    // SAFETY: as above.
    unsafe {
        asm!(
            "2:",
            sums!("ymm0" "ymm1" "ymm2" "ymm3" "ymm4" "ymm5" "ymm6" "ymm7" "ymm8" "ymm9"),
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) ROUNDS => _,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
            out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm12") _,
            out("ymm13") _, out("ymm14") _, out("ymm15") _,
            options(nostack, nomem),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn rounds() -> Option<(u64, fn())> {
    None
}
