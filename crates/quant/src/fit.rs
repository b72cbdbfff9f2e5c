//! The searches for scales and offsets behind the block formats, one independent fit per lane.
//!
//! Most are a grid search over one parameter with a closed-form least-squares step at every grid
//! point. They follow llama.cpp's `ggml-quants.c` (the function is named at each) in the order of
//! operations, so that each lane ends with the same bits. What is stored of a fit is enough to
//! recompute the levels that it chose.

use super::lanes::{NEAREST_MAX, ROUNDER, Simd};

/// A group of weights whose largest magnitude is below this is treated as all zero (ggml's
/// `GROUP_MAX_EPS`).
pub(super) const ALL_ZERO: f32 = 1e-15;

/// The grid of [`affine`]: the numbers of steps that the range of the weights is divided into, from
/// `top + first` to `top + first + tries * step`.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    /// The highest level; the lowest is 0.
    pub(super) top: f32,
    /// The first grid point, relative to `top`.
    pub(super) first: f32,
    /// The distance between grid points.
    pub(super) step: f32,
    /// The number of grid points after the first.
    pub(super) tries: u32,
    /// Whether the error is a sum of absolute values instead of squares.
    pub(super) absolute: bool,
    /// Whether scaled weights are clamped to the range of the levels before rounding instead of
    /// after it. The result differs only for weights beyond what [`Simd::nearest`] rounds.
    pub(super) clamped: bool,
}

/// The result of [`affine`]: x ≈ scale · l + base.
pub(super) struct Affine<S: Simd> {
    /// The scale.
    pub(super) scale: S::F,
    /// The offset, never positive.
    pub(super) base: S::F,
    /// The best grid point's levels are l = round(rate · (x − from)), clamped to 0..=top.
    pub(super) rate: S::F,
    /// The weight that has level 0, see `rate`.
    pub(super) from: S::F,
}

/// [`Simd::nearest`] clamped to low..=high, as floats, for any v. It combines the mantissa bits of
/// v + 1.5 · 2²³ with the exponent that this sum has for every v that [`Simd::nearest`] rounds.
#[inline(always)]
fn nearest_within<S: Simd>(s: S, v: S::F, low: f32, high: f32) -> S::F {
    let mantissa = s.bits(v + s.splat(ROUNDER)) & s.int(0x007f_ffff);
    let sum = s.of_bits(mantissa | s.int(0x4b00_0000));
    let sum = s.min(s.max(sum, s.splat(ROUNDER + low)), s.splat(ROUNDER + high));
    sum - s.splat(ROUNDER)
}

/// The levels of scaled weights, in 0..=top, as floats. With `EXACT` the result has the bits of
/// [`Simd::nearest`] even for values too large for it to round.
#[inline(always)]
fn level<S: Simd, const EXACT: bool>(s: S, v: S::F, top: f32) -> S::F {
    if EXACT {
        nearest_within(s, v, 0.0, top)
    } else {
        s.min(s.max(s.round(v), s.splat(0.0)), s.splat(top))
    }
}

/// Computes the levels of x, and the weighted sums Σwl, Σwl² and Σwlx over them.
#[inline(always)]
fn moments<S: Simd, const N: usize, const EXACT: bool>(
    s: S,
    (x, w): (&[S::F; N], &[S::F; N]),
    (rate, from): (S::F, S::F),
    grid: Grid,
    levels: &mut [S::F; N],
) -> [S::F; 3] {
    let zero = s.splat(0.0);
    let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
    for i in 0..N {
        let v = rate * (x[i] - from);
        let l = if grid.clamped {
            s.round(s.min(s.max(v, zero), s.splat(grid.top)))
        } else {
            level::<S, EXACT>(s, v, grid.top)
        };
        levels[i] = l;
        let wl = w[i] * l;
        sum_l = sum_l + wl;
        sum_l2 = sum_l2 + wl * l;
        sum_xl = sum_xl + wl * x[i];
    }
    [sum_l, sum_l2, sum_xl]
}

/// The error of a fit: Σ w · |scale · l + base − x|, or Σ w · (scale · l + base − x)².
#[inline(always)]
fn error<S: Simd, const N: usize>(
    s: S,
    (x, w): (&[S::F; N], &[S::F; N]),
    levels: &[S::F; N],
    (scale, base): (S::F, S::F),
    absolute: bool,
) -> S::F {
    let mut sum = s.splat(0.0);
    for i in 0..N {
        let off = scale * levels[i] + base - x[i];
        let off = if absolute { s.abs(off) } else { off * off };
        sum = sum + w[i] * off;
    }
    sum
}

/// Fits x ≈ scale · l + base with integer levels l in 0..=top and base ≤ 0, to a small weighted
/// error Σ w · (scale · l + base − x)².
///
/// For given levels, a weighted linear regression gives the best scale and base; for given scale
/// and base, rounding gives the best levels. Each grid point proposes a spacing of the levels,
/// which one regression refines. The fit with the smallest error is kept, and later grid points
/// start from its base. (ggml: `make_qkx2_quants`, and `make_qkx3_quants` with `grid.clamped`.)
#[inline(always)]
pub(super) fn affine<S: Simd, const N: usize>(
    s: S,
    x: &[S::F; N],
    w: &[S::F; N],
    grid: Grid,
) -> Affine<S> {
    let zero = s.splat(0.0);
    let top = s.splat(grid.top);
    let (mut low, mut high) = (x[0], x[0]);
    let mut sum_w = w[0];
    let mut sum_x = sum_w * x[0];
    for i in 1..N {
        low = s.min(x[i], low);
        high = s.max(x[i], high);
        sum_w = sum_w + w[i];
        sum_x = sum_x + w[i] * x[i];
    }
    let start = s.min(zero, low);
    let range = s.lt(start, high);

    // If the range is so small that its reciprocal overflows, every level stays 0.
    let first_rate = top / (high - start);
    let usable = s.lt(first_rate, s.splat(f32::INFINITY));
    let mut levels = [zero; N];
    for i in 0..N {
        levels[i] = level::<S, true>(s, first_rate * (x[i] - start), grid.top);
    }
    let mut scale = s.splat(1.0) / first_rate;
    let mut base = start;
    let mut best = error(s, (x, w), &levels, (scale, base), grid.absolute);
    let mut rate = s.select(usable, first_rate, zero);
    let mut from = start;

    for t in 0..=grid.tries {
        let spacing = grid.first + grid.step * t as f32 + grid.top;
        let try_rate = s.splat(spacing) / (high - base);
        // If the scaled extremes are within the bounds of fast rounding, so are all scaled weights.
        let most = s.splat(NEAREST_MAX);
        let lowest = s.abs(try_rate * (low - base));
        let highest = s.abs(try_rate * (high - base));
        let (data, line) = ((x, w), (try_rate, base));
        let [sum_l, sum_l2, sum_xl] =
            if grid.clamped || s.all(s.lt(lowest, most) & s.lt(highest, most)) {
                moments::<S, N, false>(s, data, line, grid, &mut levels)
            } else {
                moments::<S, N, true>(s, data, line, grid, &mut levels)
            };

        // The regression; if its base is positive, the regression through the origin instead.
        let det = sum_w * sum_l2 - sum_l * sum_l;
        let free_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
        let free_base = (sum_l2 * sum_x - sum_l * sum_xl) / det;
        let positive = s.lt(zero, free_base);
        let try_scale = s.select(positive, sum_xl / sum_l2, free_scale);
        let try_base = s.select(positive, zero, free_base);

        let try_error = error(s, data, &levels, (try_scale, try_base), grid.absolute);
        let better = s.lt(zero, det) & s.lt(try_error, best);
        rate = s.select(better, try_rate, rate);
        from = s.select(better, base, from);
        best = s.select(better, try_error, best);
        scale = s.select(better, try_scale, scale);
        base = s.select(better, try_base, base);
    }
    Affine {
        scale: s.select(range, scale, zero),
        base: s.select(range, base, start),
        rate: s.select(range, rate, zero),
        from: s.select(range, from, start),
    }
}

/// The result of [`symmetric`]: x ≈ scale · l.
pub(super) struct Symmetric<S: Simd> {
    /// The scale, negative if the weight of largest magnitude is positive.
    pub(super) scale: S::F,
    /// The levels are l = round(rate · x), clamped to −half..half. The rate is 0 where all x are
    /// treated as zero.
    pub(super) rate: S::F,
}

/// The x of largest magnitude (the first of several), and its magnitude.
#[inline(always)]
pub(super) fn extreme<S: Simd, const N: usize>(s: S, x: &[S::F; N]) -> (S::F, S::F) {
    let (mut extreme, mut magnitude) = (s.splat(0.0), s.splat(0.0));
    for x in x {
        let larger = s.lt(magnitude, s.abs(*x));
        extreme = s.select(larger, *x, extreme);
        magnitude = s.max(s.abs(*x), magnitude);
    }
    (extreme, magnitude)
}

/// The levels of x, in −half..half, as floats. |rate · x| is at most about `half`, which is within
/// the bounds of fast rounding.
#[inline(always)]
fn symmetric_level<S: Simd>(s: S, x: S::F, rate: S::F, half: f32) -> S::F {
    s.min(
        s.max(s.round(rate * x), s.splat(-half)),
        s.splat(half - 1.0),
    )
}

/// The sums Σwlx and Σwl² over the levels that `rate` gives.
#[inline(always)]
fn symmetric_moments<S: Simd, const N: usize>(
    s: S,
    x: &[S::F; N],
    w: &[S::F; N],
    rate: S::F,
    half: f32,
) -> (S::F, S::F) {
    let (mut sum_lx, mut sum_l2) = (s.splat(0.0), s.splat(0.0));
    for i in 0..N {
        let l = symmetric_level(s, x[i], rate, half);
        sum_lx = sum_lx + w[i] * x[i] * l;
        sum_l2 = sum_l2 + w[i] * l * l;
    }
    (sum_lx, sum_l2)
}

/// Fits x ≈ scale · l with integer levels l in −half..half to a small Σ w · (scale · l − x)².
///
/// For given levels the best scale is Σwlx / Σwl², and it lowers the error by (Σwlx)² / Σwl². The
/// grid tries 19 values of rate = −(half + 0.1 t) / extreme, |t| ≤ 9, starting with t = 0, and
/// keeps the levels that lower the error most. (ggml: `make_qx_quants` with `rmse_type` 1.)
#[inline(always)]
pub(super) fn symmetric<S: Simd, const N: usize>(
    s: S,
    x: &[S::F; N],
    w: &[S::F; N],
    half: f32,
) -> Symmetric<S> {
    let zero = s.splat(0.0);
    let (extreme, magnitude) = extreme(s, x);
    let all_zero = s.lt(magnitude, s.splat(ALL_ZERO));
    let mut rate = s.splat(-half) / extreme;
    let (sum_lx, sum_l2) = symmetric_moments(s, x, w, rate, half);
    let mut scale = s.select(s.ne(sum_l2, zero), sum_lx / sum_l2, zero);
    let mut best = scale * sum_lx;
    for t in -9..=9 {
        if t == 0 {
            continue;
        }
        let try_rate = s.splat(-(half + 0.1 * t as f32)) / extreme;
        let (sum_lx, sum_l2) = symmetric_moments(s, x, w, try_rate, half);
        let better = s.lt(zero, sum_l2) & s.lt(best * sum_l2, sum_lx * sum_lx);
        let try_scale = sum_lx / sum_l2;
        scale = s.select(better, try_scale, scale);
        best = s.select(better, try_scale * sum_lx, best);
        rate = s.select(better, try_rate, rate);
    }
    Symmetric {
        scale: s.select(all_zero, zero, scale),
        rate: s.select(all_zero, zero, rate),
    }
}

/// The working memory of [`descend`], one sub-block per lane; made once for many fits.
pub(super) struct Descent<S: Simd, const N: usize> {
    /// The level of each weight, shifted to 0..2·half after the fit.
    pub(super) levels: [S::F; N],
    /// The terms of each weight in Σwlx and Σwl².
    shares: [[S::F; 2]; N],
}

impl<S: Simd, const N: usize> Descent<S, N> {
    #[inline(always)]
    pub(super) fn new(s: S) -> Self {
        let zero = s.splat(0.0);
        Descent {
            levels: [zero; N],
            shares: [[zero; 2]; N],
        }
    }
}

/// The terms of a weight x at level l in Σwlx and Σwl², with w = x².
#[inline(always)]
fn share<S: Simd>(x: S::F, l: S::F) -> [S::F; 2] {
    let w = x * x;
    [w * x * l, w * l * l]
}

/// Fits x ≈ scale · l with l in −half..half to a small Σ x² · (scale · l − x)², by coordinate
/// descent over the levels. With the others fixed, the best level of x_i is
/// round(x_i · Σ'wl² / Σ'wlx), where the sums leave out x_i; it is taken if it increases
/// (Σwlx)² / Σwl². There are at most `sweeps` sweeps over the weights. Returns the scale, and the
/// lanes whose last sweep still changed a level, so that more sweeps may improve them. (ggml:
/// `make_q3_quants`, which does five sweeps.)
#[inline(always)]
pub(super) fn descend<S: Simd, const N: usize>(
    s: S,
    x: &[S::F; N],
    half: f32,
    sweeps: u32,
    descent: &mut Descent<S, N>,
) -> (S::F, S::M) {
    let zero = s.splat(0.0);
    let (extreme, magnitude) = extreme(s, x);
    let all_zero = s.lt(magnitude, s.splat(ALL_ZERO));
    let rate = s.splat(-half) / extreme;
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    let Descent { levels, shares } = descent;
    for i in 0..N {
        levels[i] = symmetric_level(s, x[i], rate, half);
        shares[i] = share::<S>(x[i], levels[i]);
        sum_lx = sum_lx + shares[i][0];
        sum_l2 = sum_l2 + shares[i][1];
    }
    let mut square = sum_lx * sum_lx;
    let mut moving = s.lt(zero, zero);
    for sweep in 1..=sweeps {
        moving = s.lt(zero, zero);
        for i in 0..N {
            let (rest_lx, rest_l2) = (sum_lx - shares[i][0], sum_l2 - shares[i][1]);
            let new = nearest_within(s, x[i] * rest_l2 / rest_lx, -half, half - 1.0);
            let [new_lx, new_l2] = share::<S>(x[i], new);
            let (new_lx, new_l2) = (rest_lx + new_lx, rest_l2 + new_l2);
            let new_square = new_lx * new_lx;
            let take = s.lt(zero, rest_lx)
                & s.ne(new, levels[i])
                & s.lt(zero, new_l2)
                & s.lt(square * new_l2, new_square * sum_l2);
            // A select between the two levels would compile to a masked store, which some CPUs do
            // slowly.
            levels[i] = levels[i] + s.select(take, new - levels[i], zero);
            sum_lx = s.select(take, new_lx, sum_lx);
            sum_l2 = s.select(take, new_l2, sum_l2);
            square = s.select(take, new_square, square);
            moving = moving | take;
        }
        if sweep == sweeps || !s.any(moving) {
            break;
        }
        for i in 0..N {
            shares[i] = share::<S>(x[i], levels[i]);
        }
    }
    for l in levels.iter_mut() {
        *l = s.select(all_zero, zero, *l + s.splat(half));
    }
    let scale = s.select(s.lt(zero, sum_l2), sum_lx / sum_l2, zero);
    (s.select(all_zero, zero, scale), moving)
}

/// The error Σ w · (x − l / rate)². As in ggml, the `FIRST` try truncates levels to a byte, and
/// later ones clamp them to `top`.
#[inline(always)]
fn positive_error<S: Simd, const N: usize, const FIRST: bool>(
    s: S,
    x: &[S::F; N],
    w: &[S::F; N],
    rate: S::F,
    top: f32,
) -> S::F {
    let scale = s.splat(1.0) / rate;
    let mut sum = s.splat(0.0);
    for i in 0..N {
        let l = s.nearest(rate * x[i]);
        let l = if FIRST {
            l & s.int(0xff)
        } else {
            s.imin(s.int(top as i32), l)
        };
        let off = x[i] - scale * s.float(l);
        sum = sum + w[i] * off * off;
    }
    sum
}

/// Fits x ≈ scale · l with l in 0..=top to a small Σ w · (x − scale · l)², for the scales or
/// offsets of one super-block per lane. It picks the best of nine spacings, then does up to five
/// sweeps as in [`descend`]. `levels` receives the low byte of each l. Returns the scale. (ggml:
/// `make_qp_quants`.)
#[inline(always)]
pub(super) fn positive<S: Simd, const N: usize>(
    s: S,
    x: &[S::F; N],
    w: &[S::F; N],
    top: f32,
    levels: &mut [S::I; N],
) -> S::F {
    let zero = s.splat(0.0);
    let byte = s.int(0xff);
    let mut largest = zero;
    for x in x {
        largest = s.max(largest, *x);
    }
    let all_zero = s.lt(largest, s.splat(ALL_ZERO));
    let mut rate = s.splat(top) / largest;
    let mut best = positive_error::<S, N, true>(s, x, w, rate, top);
    for t in -4..=4 {
        if t == 0 {
            continue;
        }
        let try_rate = s.splat(0.1 * t as f32 + top) / largest;
        let sum = positive_error::<S, N, false>(s, x, w, try_rate, top);
        let better = s.lt(sum, best);
        best = s.select(better, sum, best);
        rate = s.select(better, try_rate, rate);
    }

    let (mut sum_lx, mut sum_l2) = (zero, zero);
    let mut stored = [zero; N];
    for i in 0..N {
        let l = s.imin(s.int(top as i32), s.nearest(rate * x[i]));
        stored[i] = s.float(l & byte);
        let l = s.float(l);
        sum_lx = sum_lx + w[i] * x[i] * l;
        sum_l2 = sum_l2 + w[i] * l * l;
    }
    for _ in 0..5 {
        let mut moved = s.lt(zero, zero);
        for i in 0..N {
            let l = stored[i];
            let rest_lx = sum_lx - w[i] * x[i] * l;
            let rest_l2 = sum_l2 - w[i] * l * l;
            let new_int = s.imin(s.int(top as i32), s.nearest(x[i] * rest_l2 / rest_lx));
            let new = s.float(new_int);
            let new_lx = rest_lx + w[i] * x[i] * new;
            let new_l2 = rest_l2 + w[i] * new * new;
            let take = s.lt(zero, rest_lx)
                & s.lt(zero, rest_l2)
                & s.ne(new, l)
                & s.lt(sum_lx * sum_lx * new_l2, new_lx * new_lx * sum_l2);
            stored[i] = s.select(take, s.float(new_int & byte), l);
            sum_lx = s.select(take, new_lx, sum_lx);
            sum_l2 = s.select(take, new_l2, sum_l2);
            moved = moved | take;
        }
        if !s.any(moved) {
            break;
        }
    }
    for i in 0..N {
        levels[i] = s.truncate(s.select(all_zero, zero, stored[i]));
    }
    let scale = s.select(s.lt(zero, sum_l2), sum_lx / sum_l2, zero);
    s.select(all_zero, zero, scale)
}
