//! Utilities that every crate of modelve shares and that belong to none of their subjects.
//!
//! | module | what it knows |
//! |---|---|
//! | [`progress`] | how long-running work reports its progress |
//! | [`human`] | sizes, counts and names as a person reads them |
//! | [`memory`] | how much memory there is, control groups included |
//! | [`bandwidth`] | how fast memory is read |
//! | [`map`] | files mapped into memory |
//! | [`infile`], [`outfile`] | files read whole, within limits; files written without losing what they replace |
//! | [`rawfile`] | parts of a file read and written at an offset; allocation of disk space |
//! | [`isa`] | the instruction sets that kernels are compiled for, and the choice among them |
//!
//! ```
//! use modelve_base::{human, isa::Isa, memory::Memory};
//!
//! assert_eq!(human::bytes(2_393_231_072), "2.23 GiB");
//! assert_eq!(human::parse_bytes("16GiB"), Ok(16 << 30));
//! assert!(Isa::detect().is_available());
//! if let Some(memory) = Memory::of_this_machine() {
//!     assert!(memory.available <= memory.total);
//! }
//! ```

pub mod bandwidth;
pub mod human;
pub mod infile;
pub mod isa;
pub mod map;
pub mod memory;
pub mod outfile;
pub mod progress;
pub mod rawfile;
