//! AMX kernels: one instruction multiplies 16 rows of 64 bytes with 16 columns of 64 bytes.
//!
//! 16 rows of weights are unpacked to signed bytes, in the order of the file, and multiplied with
//! *panels* of 16 columns of activations. An instruction adds up integers over 64 weights, so within
//! a block everything that differs from weight to weight has to be part of the bytes:
//!
//! - The K types have an integer scale for every 16 or 32 weights. Scale × weight has up to 13 bits
//!   and becomes two bytes, 64 × high + low, that are multiplied separately. The sums of a block of
//!   256 are then scaled as floats once. Minima are multiplied with sums of the activations by
//!   AVX-512.
//! - The other types have a float scale for every 32 weights, so their sums are scaled after every
//!   32 products.

#![allow(unsafe_code)]

mod lanes;
mod tiles;
mod unpack;

use super::avx512::Avx512;
use super::columns::Line;
use super::formats::{Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, may_end_early};
use super::x86;
use super::{BLOCK, Rows, Sink, block_bytes};
use bytemuck::{Pod, Zeroable};
use modelve_base::isa::Isa;
use modelve_gguf::GgmlType;
use std::cell::RefCell;
use std::sync::OnceLock;
use unpack::{GroupWeights, KWeights};

/// The number of rows, and of columns, of a tile.
pub(super) const SIDE: usize = 16;

/// The number of strips of 16 rows that are multiplied with a pair of panels while its block is in the
/// L1 cache, which has room for these strips' block, too.
const STRIPS: usize = 2;

/// The number of blocks whose weights are unpacked at a time. These blocks of [`MOST_PANELS`] stay in
/// the L2 cache from strip to strip.
const DEPTH: usize = 4;

/// The number of panels that are multiplied with weights while these are unpacked.
const MOST_PANELS: usize = 32;

/// A value exists only if the CPU has AMX-INT8 and the instructions of the AVX-512 kernels, and the
/// operating system lets this process use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amx(());

impl Amx {
    /// Returns a value if this CPU has the instructions, `MODELVE_ISA` allows them, and the kernel
    /// permits their registers, which Linux must be asked for once per process.
    pub fn detect() -> Option<Self> {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        let available = AVAILABLE
            .get_or_init(|| Isa::detect() == Isa::Amx && Avx512::detect().is_some() && permitted());
        available.then_some(Amx(()))
    }

    /// Packs block `b` of up to 16 columns of activations.
    pub fn pack(self, ty: GgmlType, columns: &[&[f32]]) -> Panel {
        // SAFETY: a value of this type exists only if the CPU has the instructions.
        unsafe { pack(self, ty, columns) }
    }

    /// Implements [`super::Kernel::multiply`].
    pub fn multiply(
        self,
        ty: GgmlType,
        rows: Rows<'_>,
        x: &[Panel],
        n: usize,
        sink: &mut Sink<'_>,
    ) {
        // SAFETY: a value of this type exists only if the CPU has the instructions.
        unsafe { multiply(self, ty, rows, x, n, sink) }
    }
}

/// Asks Linux for the permission to use tile registers.
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call changes only which registers the kernel saves for this process.
    unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        ) == 0
    }
}

/// 256 activations of 16 columns, in 8 bits.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Panel {
    /// Activations `4 i` to `4 i + 3` of column `c` are the bytes of `bytes[i][c]`.
    bytes: [[[i8; 4]; SIDE]; BLOCK / 4],
    /// The scale of each group of 32 activations, for each column. The K types have one scale for
    /// all, the first.
    scales: [[f32; SIDE]; BLOCK / 32],
    /// The sum of each group of 32 activations. For the K types as 16-bit integers, those of two groups
    /// in each of the first four; for the others multiplied by the scale, as the bits of an `f32`.
    sums: [[i32; SIDE]; BLOCK / 32],
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
fn pack(s: Amx, ty: GgmlType, columns: &[&[f32]]) -> Panel {
    let mut panel = Panel::zeroed();
    for (c, column) in columns.iter().enumerate() {
        match <&[f32; BLOCK]>::try_from(*column) {
            Ok(numbers) => s.pack_column(ty, numbers, c, &mut panel),
            Err(_) => {
                let mut padded = [0.0; BLOCK];
                padded[..column.len()].copy_from_slice(column);
                s.pack_column(ty, &padded, c, &mut panel);
            }
        }
    }
    panel
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
fn multiply(s: Amx, ty: GgmlType, rows: Rows<'_>, x: &[Panel], n: usize, sink: &mut Sink<'_>) {
    match ty.0 {
        Q4_0 => multiply_panels::<GroupWeights, Q4_0>(s, rows, x, n, sink),
        Q4_1 => multiply_panels::<GroupWeights, Q4_1>(s, rows, x, n, sink),
        Q5_0 => multiply_panels::<GroupWeights, Q5_0>(s, rows, x, n, sink),
        Q5_1 => multiply_panels::<GroupWeights, Q5_1>(s, rows, x, n, sink),
        Q8_0 => multiply_panels::<GroupWeights, Q8_0>(s, rows, x, n, sink),
        Q4_K => multiply_panels::<KWeights, Q4_K>(s, rows, x, n, sink),
        Q5_K => multiply_panels::<KWeights, Q5_K>(s, rows, x, n, sink),
        _ => multiply_panels::<KWeights, Q6_K>(s, rows, x, n, sink),
    }
}

/// Weights as tiles are loaded from them, and their multiplication with panels.
trait Weights: Pod {
    /// The number of steps that a block of 256 weights is multiplied in.
    const STEPS: usize;
    /// The size in bytes of a row of a tile of weights. A tile of activations has a fourth as many
    /// rows.
    const ROW_BYTES: u8;

    /// Unpacks a block of type `T` to row `r`.
    fn unpack<const T: u32>(&mut self, s: Amx, r: usize, block: &[u8]);

    /// Multiplies a quarter of a step with `P` panels, 1 or 2. `sums` gets the tiles of the first, then
    /// of the second, but not before [`Weights::finish`].
    ///
    /// # Safety
    /// The CPU has AMX, and its tiles are configured for these weights.
    unsafe fn products<const P: usize>(
        &self,
        step: usize,
        quarter: usize,
        x: [&Panel; P],
        sums: &mut Sums,
    );

    /// Stores what is left of the sums of a step.
    ///
    /// # Safety
    /// As of [`Weights::products`].
    unsafe fn finish<const P: usize>(sums: &mut Sums);

    /// Scales a quarter of the rows of the sums of a step and adds them to the results.
    fn accumulate<const T: u32, const P: usize>(
        &self,
        s: Amx,
        step: usize,
        quarter: usize,
        x: [&Panel; P],
        sums: &Sums,
        results: &mut [Floats; P],
    );
}

/// A tile of sums: 16 rows of 16 columns.
type Tile = [[i32; SIDE]; SIDE];

/// The tiles of sums of a step, at most four for each of two panels.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Sums([Tile; 8]);

/// Results of 16 rows and 16 columns.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Floats([[f32; SIDE]; SIDE]);

/// Memory that is kept from one multiplication to the next.
#[derive(Default)]
struct Scratch {
    weights: Vec<Line>,
    results: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// At least `count` values, whatever they were before.
fn room<T: Pod>(lines: &mut Vec<Line>, count: usize) -> &mut [T] {
    let needed = count * (size_of::<T>() / size_of::<Line>());
    if lines.len() < needed {
        lines.resize(needed, Line::zeroed());
    }
    bytemuck::cast_slice_mut(&mut lines[..needed])
}

/// Implements [`super::Kernel::multiply`]; `T` is the type of the weights. Without closures around
/// vector instructions, since these would not be compiled for this CPU.
#[inline(always)]
fn multiply_panels<W: Weights, const T: u32>(
    s: Amx,
    rows: Rows<'_>,
    x: &[Panel],
    n: usize,
    sink: &mut Sink<'_>,
) {
    let panels = n.div_ceil(SIDE);
    let blocks = x.len() / panels;
    let count = rows.bytes.len() / rows.row_bytes;
    let strips = count.div_ceil(SIDE);
    let mut scratch = SCRATCH.take();
    let weights: &mut [W] = room(&mut scratch.weights, STRIPS * DEPTH);
    let results: &mut [Floats] = room(&mut scratch.results, strips * panels.min(MOST_PANELS));
    let mut sums = [Sums::zeroed(); 2];
    // SAFETY: a value of `Amx` exists only if the CPU has the instructions.
    unsafe { tiles::configure(W::ROW_BYTES) };
    for first in (0..panels).step_by(MOST_PANELS) {
        let together = MOST_PANELS.min(panels - first);
        let x = &x[first * blocks..(first + together) * blocks];
        results[..strips * together].fill(Floats::zeroed());
        for start in (0..blocks).step_by(DEPTH) {
            let depth = DEPTH.min(blocks - start);
            for strip in (0..strips).step_by(STRIPS) {
                let count = STRIPS.min(strips - strip);
                for (i, weights) in weights.chunks_exact_mut(DEPTH).take(count).enumerate() {
                    let row = (strip + i) * SIDE;
                    unpack_strip::<W, T>(s, rows, row, start, &mut weights[..depth]);
                }
                let results = &mut results[strip * together..][..count * together];
                for block in 0..depth {
                    let mut work = Work {
                        weights: &weights[block..],
                        x: &x[start + block..],
                        blocks,
                        panels: together,
                        strips: count,
                        results,
                        sums: &mut sums,
                    };
                    work.multiply::<T, 2>(s, 0, together / 2);
                    work.multiply::<T, 1>(s, together / 2 * 2, together % 2);
                }
            }
        }
        for panel in 0..together {
            let column = (first + panel) * SIDE;
            for strip in 0..strips {
                let rows = SIDE.min(count - strip * SIDE);
                let columns = s.transpose(&results[strip * together + panel]);
                for (c, values) in columns.0.iter().enumerate().take(n - column) {
                    sink(column + c, strip * SIDE, &values[..rows]);
                }
            }
        }
    }
    // SAFETY: as above.
    unsafe { tiles::release() };
    SCRATCH.set(scratch);
}

/// Unpacks 16 rows, or what is left of them and zeros, from block `start` on.
#[inline(always)]
fn unpack_strip<W: Weights, const T: u32>(
    s: Amx,
    rows: Rows<'_>,
    first: usize,
    start: usize,
    weights: &mut [W],
) {
    let size = block_bytes(T);
    let mut padded = [0; block_bytes(Q8_0)];
    let strip = &rows.bytes[first * rows.row_bytes..];
    if strip.len() < SIDE * rows.row_bytes {
        weights.fill(W::zeroed());
    }
    for (r, row) in strip.chunks_exact(rows.row_bytes).take(SIDE).enumerate() {
        // The same blocks of the next 16 rows.
        let next = row
            .as_ptr()
            .wrapping_add(SIDE * rows.row_bytes + start * size);
        for line in 0..(weights.len() * size).div_ceil(64) {
            x86::prefetch(next.wrapping_add(64 * line), false);
        }
        for (block, weights) in row[start * size..].chunks(size).zip(weights.iter_mut()) {
            if may_end_early(T) && block.len() < size {
                padded.fill(0);
                padded[..block.len()].copy_from_slice(block);
                weights.unpack::<T>(s, r, &padded[..size]);
            } else {
                weights.unpack::<T>(s, r, block);
            }
        }
    }
}

/// The multiplication of a block of some strips with all panels.
struct Work<'a, W> {
    /// The block of the first strip; that of the next is [`DEPTH`] further.
    weights: &'a [W],
    /// The block of the first panel; that of the next is `blocks` further.
    x: &'a [Panel],
    blocks: usize,
    panels: usize,
    strips: usize,
    /// Strip by strip.
    results: &'a mut [Floats],
    sums: &'a mut [Sums; 2],
}

impl<W: Weights> Work<'_, W> {
    /// Multiplies all strips with `count` times `P` panels from `first` on. The tiles of a step are
    /// computed while the sums of the step before are scaled; both are interleaved in quarters,
    /// because the CPU does not look far enough ahead to overlap whole steps.
    #[inline(always)]
    fn multiply<const T: u32, const P: usize>(&mut self, s: Amx, first: usize, count: usize) {
        let [mut now, mut before] = self.sums.each_mut();
        let (mut last, mut next) = (None, Place::default());
        let end = Place {
            panel: count,
            ..Place::default()
        };
        while next != end || last.is_some() {
            let more = next != end;
            for quarter in 0..4 {
                if more {
                    let weights = &self.weights[next.strip * DEPTH];
                    let x =
                        panels_at::<P>(self.x, (first + next.panel * P) * self.blocks, self.blocks);
                    // SAFETY: the caller has configured the tiles for these weights.
                    unsafe { weights.products::<P>(next.step, quarter, x, now) };
                }
                if let Some(Place { panel, strip, step }) = last {
                    let weights = &self.weights[strip * DEPTH];
                    let panel = first + panel * P;
                    let x = panels_at::<P>(self.x, panel * self.blocks, self.blocks);
                    let results = &mut self.results[strip * self.panels + panel..];
                    let results = results.first_chunk_mut().expect("one for each panel");
                    weights.accumulate::<T, P>(s, step, quarter, x, before, results);
                }
            }
            last = None;
            if more {
                // SAFETY: as above.
                unsafe { W::finish::<P>(now) };
                last = Some(next);
                next.step += 1;
                if next.step == W::STEPS {
                    next.step = 0;
                    next.strip += 1;
                }
                if next.strip == self.strips {
                    next.strip = 0;
                    next.panel += 1;
                }
            }
            (now, before) = (before, now);
        }
    }
}

/// A step of a multiplication.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    panel: usize,
    strip: usize,
    step: usize,
}

/// `P` panels, `apart` from each other.
#[inline(always)]
fn panels_at<const P: usize>(x: &[Panel], first: usize, apart: usize) -> [&Panel; P] {
    let mut panels = [&x[first]; P];
    for p in 1..P {
        panels[p] = &x[first + p * apart];
    }
    panels
}
