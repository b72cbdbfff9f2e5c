//! Hands the kernels to ggml, see `ggml.cpp`.

#![allow(unsafe_code)]

use std::path::Path;
use std::slice;
use std::sync::OnceLock;

use super::{BLOCK, Block, Kernel};
use modelve_gguf::GgmlType;

/// What `ggml.cpp` calls: its `struct modelve_matmul`.
#[repr(C)]
struct Table {
    packed_size: extern "C" fn(i32, i64, i64) -> usize,
    pack: unsafe extern "C" fn(i32, i64, i64, *const u8, usize, i64, i64, *mut Block),
    multiply:
        unsafe extern "C" fn(i32, i64, i64, *const u8, i64, i64, *const Block, *mut u8, usize),
}

type Register = unsafe extern "C" fn(Table);

/// See [`super::register`].
pub(super) fn register(library: Option<&Path>) -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(|| {
        let table = Table {
            packed_size,
            pack,
            multiply,
        };
        let register = find(library);
        if let Some(register) = register {
            // SAFETY: the functions have the signatures that the C++ side declares, and keep what
            // it is told of them; it is called once.
            unsafe { register(table) };
        }
        register.is_some()
    })
}

/// The function of `ggml.cpp`, compiled into the program.
#[cfg(not(feature = "portable"))]
fn find(_: Option<&Path>) -> Option<Register> {
    unsafe extern "C" {
        fn modelve_register_matmul(table: Table);
    }
    Some(modelve_register_matmul)
}

/// The function of `ggml.cpp`, compiled into the library.
#[cfg(feature = "portable")]
fn find(library: Option<&Path>) -> Option<Register> {
    // SAFETY: ggml has loaded the library and never unloads it; this is one more hold on it.
    let library = unsafe { libloading::Library::new(library?) }.ok()?;
    // SAFETY: that function has this signature in every library that has it.
    let register = unsafe { library.get::<Register>(b"modelve_register_matmul\0") };
    let register = register.ok().map(|symbol| *symbol);
    // Not let go of, so that the function stays.
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

extern "C" fn packed_size(ty: i32, width: i64, n: i64) -> usize {
    let packed = |_| n as usize * (width as usize / BLOCK) * size_of::<Block>();
    kernel(ty, width, n).map_or(0, packed)
}

/// # Safety
/// There is a kernel for `ty`, `width` and `n`; `x` has `n` columns of `width` floats, `x_stride`
/// bytes unpacked; `packed` has [`packed_size`] bytes, of which no other thread writes blocks
/// `first..first + count`, counted column by column.
unsafe extern "C" fn pack(
    ty: i32,
    width: i64,
    n: i64,
    x: *const u8,
    x_stride: usize,
    first: i64,
    count: i64,
    packed: *mut Block,
) {
    let Some(kernel) = kernel(ty, width, n) else {
        return;
    };
    let blocks = width as usize / BLOCK;
    for i in first as usize..(first + count) as usize {
        let (column, block) = (i / blocks, i % blocks);
        // SAFETY: a block of a column, as the caller promises, aligned as floats are; and a
        // place that belongs to it alone, on a cache line.
        unsafe {
            let numbers = x.add(column * x_stride).cast::<[f32; BLOCK]>().add(block);
            let place = Kernel::place(column, block, n as usize, blocks);
            packed.add(place).write(kernel.pack(&*numbers));
        }
    }
}

/// # Safety
/// There is a kernel for `ty`, `width` and `n`; `rows` is a matrix of such rows, one after the other,
/// with `first + count` or more of them; `packed` is what [`pack`] made of `n` columns; `out` has
/// `n` columns, `out_stride` bytes unpacked, of which no other thread touches rows
/// `first..first + count`.
unsafe extern "C" fn multiply(
    ty: i32,
    width: i64,
    n: i64,
    rows: *const u8,
    first: i64,
    count: i64,
    packed: *const Block,
    out: *mut u8,
    out_stride: usize,
) {
    let Some(kernel) = kernel(ty, width, n) else {
        return;
    };
    let blocks = width as usize / BLOCK;
    let (n, first, count) = (n as usize, first as usize, count as usize);
    let row_bytes = blocks * kernel.block_bytes();
    // SAFETY: the rows and blocks that the caller promises; nobody writes to either now.
    let (rows, packed) = unsafe {
        (
            slice::from_raw_parts(rows.add(first * row_bytes), count * row_bytes),
            slice::from_raw_parts(packed, n * blocks),
        )
    };
    kernel.multiply(rows, packed, n, &mut |column, row, values| {
        debug_assert!(row + values.len() <= count);
        let values: &[u8] = bytemuck::cast_slice(values);
        // SAFETY: `row` is one of the `count` rows, and no other thread touches these.
        unsafe {
            let start = out.add(column * out_stride + (first + row) * size_of::<f32>());
            start.copy_from_nonoverlapping(values.as_ptr(), values.len());
        }
    });
}
