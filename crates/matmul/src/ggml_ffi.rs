//! Registers the kernels with ggml, through `ggml.cpp`.

#![allow(unsafe_code)]

use std::path::Path;
use std::slice;
use std::sync::OnceLock;

use super::attention::{self, Operands};
use super::{Kernel, Line};
use modelve_gguf::GgmlType;

/// The functions that `ggml.cpp` calls; mirrors its `struct modelve_matmul`.
#[repr(C)]
struct Table {
    packed_size: extern "C" fn(i32, i64, i64) -> usize,
    pack: unsafe extern "C" fn(i32, i64, i64, *const u8, usize, i64, i64, *mut Line),
    multiply: unsafe extern "C" fn(i32, i64, i64, *const u8, i64, i64, *const Line, *mut u8, usize),
    attention_scratch: extern "C" fn(i64, i64, i64) -> usize,
    attention_tiles: unsafe extern "C" fn(*const Operands) -> i64,
    attention: unsafe extern "C" fn(*const Operands, i64, *mut f32),
}

type Register = unsafe extern "C" fn(Table);

/// Implements [`super::register`].
pub(super) fn register(library: Option<&Path>) -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(|| {
        let table = Table {
            packed_size,
            pack,
            multiply,
            attention_scratch,
            attention_tiles,
            attention,
        };
        let register = find(library);
        if let Some(register) = register {
            // SAFETY: the functions have the signatures that the C++ side declares, and rely only
            // on what it guarantees its arguments to be; it is called once.
            unsafe { register(table) };
        }
        register.is_some()
    })
}

/// The registration function of `ggml.cpp`, which is compiled into the program.
#[cfg(not(feature = "portable"))]
fn find(_: Option<&Path>) -> Option<Register> {
    unsafe extern "C" {
        fn modelve_register_matmul(table: Table);
    }
    Some(modelve_register_matmul)
}

/// The registration function of `ggml.cpp`, which is compiled into the library of the CPU backend.
#[cfg(feature = "portable")]
fn find(library: Option<&Path>) -> Option<Register> {
    // SAFETY: ggml has already loaded the library and never unloads it, so this runs no
    // initializers.
    let library = unsafe { libloading::Library::new(library?) }.ok()?;
    // SAFETY: every library that exports this name defines it with this signature.
    let register = unsafe { library.get::<Register>(b"modelve_register_matmul\0") };
    let register = register.ok().map(|symbol| *symbol);
    // The library is never closed, so that the function stays mapped.
    std::mem::forget(library);
    register
}

fn kernel(ty: i32, width: i64, n: i64) -> Option<Kernel> {
    Kernel::best(
        GgmlType(u32::try_from(ty).ok()?),
        usize::try_from(width).ok()?,
        usize::try_from(n).ok()?,
    )
}

/// The size in bytes of `n` packed columns; 0 if there is no kernel.
extern "C" fn packed_size(ty: i32, width: i64, n: i64) -> usize {
    let lines = |kernel: Kernel| kernel.units(n as usize) * kernel.unit_lines();
    let packed = |kernel: Kernel| lines(kernel) * size_of::<Line>();
    kernel(ty, width, n).map_or(0, packed)
}

/// Packs part `part` of `parts` of the columns.
///
/// # Safety
/// There is a kernel for `ty`, `width` and `n`; `x` has `n` columns of `width` floats, `x_stride`
/// bytes apart; `packed` has [`packed_size`] bytes, aligned to 64, and no other thread packs the
/// same part.
unsafe extern "C" fn pack(
    ty: i32,
    width: i64,
    n: i64,
    x: *const u8,
    x_stride: usize,
    part: i64,
    parts: i64,
    packed: *mut Line,
) {
    let Some(kernel) = kernel(ty, width, n) else {
        return;
    };
    let (n, width) = (n as usize, width as usize);
    let (part, parts) = (part as usize, parts as usize);
    // SAFETY: by the contract of this function `x` holds all columns, aligned for floats.
    let column =
        |c: usize| unsafe { slice::from_raw_parts(x.add(c * x_stride).cast::<f32>(), width) };
    let (units, lines) = (kernel.units(n), kernel.unit_lines());
    for unit in units * part / parts..units * (part + 1) / parts {
        // SAFETY: `packed` has room for all units, and no other thread writes those of this part;
        // any bytes are lines.
        let to = unsafe { slice::from_raw_parts_mut(packed.add(unit * lines), lines) };
        kernel.pack_unit(unit, n, &column, to);
    }
}

/// Multiplies rows `first..first + count` with all columns.
///
/// # Safety
/// There is a kernel for `ty`, `width` and `n`; `rows` is a contiguous matrix of such rows, with at
/// least `first + count` of them; `packed` holds `n` columns, all packed by [`pack`]; `out` has
/// `n` columns of floats, `out_stride` bytes apart, and no other thread touches rows
/// `first..first + count` of it.
unsafe extern "C" fn multiply(
    ty: i32,
    width: i64,
    n: i64,
    rows: *const u8,
    first: i64,
    count: i64,
    packed: *const Line,
    out: *mut u8,
    out_stride: usize,
) {
    let Some(kernel) = kernel(ty, width, n) else {
        return;
    };
    let (n, first, count) = (n as usize, first as usize, count as usize);
    let row_bytes = kernel.row_bytes();
    // SAFETY: by the contract of this function the rows and blocks exist, and nothing writes to
    // them during the call.
    let (rows, packed) = unsafe {
        (
            slice::from_raw_parts(rows.add(first * row_bytes), count * row_bytes),
            slice::from_raw_parts(packed, kernel.units(n) * kernel.unit_lines()),
        )
    };
    kernel.multiply(rows, packed, n, &mut |column, row, values| {
        debug_assert!(row + values.len() <= count);
        let values: &[u8] = bytemuck::cast_slice(values);
        // SAFETY: the values belong to rows `first..first + count`, which no other thread touches.
        unsafe {
            let start = out.add(column * out_stride + (first + row) * size_of::<f32>());
            start.copy_from_nonoverlapping(values.as_ptr(), values.len());
        }
    });
}

/// The size in bytes of the memory that a thread needs for attention; 0 if there is no kernel.
extern "C" fn attention_scratch(key_width: i64, value_width: i64, queries: i64) -> usize {
    let (key_width, value_width) = (key_width as usize, value_width as usize);
    match attention::has_kernel(key_width, value_width, queries as usize) {
        true => size_of::<f32>() * attention::scratch(key_width, value_width),
        false => 0,
    }
}

/// The number of tiles, which threads may compute in any order.
///
/// # Safety
/// `operands` points to some.
unsafe extern "C" fn attention_tiles(operands: *const Operands) -> i64 {
    // SAFETY: by the contract of this function.
    attention::tiles(unsafe { &*operands }) as i64
}

/// Computes a tile.
///
/// # Safety
/// [`attention_scratch`] is not 0 for these operands, which are as they say; `tile` is less than
/// [`attention_tiles`], and no other thread computes it; `scratch` has [`attention_scratch`] bytes,
/// aligned for floats, that no other thread touches.
unsafe extern "C" fn attention(operands: *const Operands, tile: i64, scratch: *mut f32) {
    // SAFETY: by the contract of this function; any bytes are floats.
    unsafe {
        let operands = &*operands;
        let len = attention::scratch(operands.key_width, operands.value_width);
        attention::compute(
            operands,
            tile as usize,
            slice::from_raw_parts_mut(scratch, len),
        );
    }
}
