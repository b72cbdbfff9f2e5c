//! Parses arbitrary bytes as a GGUF header, and reads every value of an accepted header.
//!
//! `cargo fuzz run gguf_header -- -rss_limit_mb=256 -max_len=4096 -runs=10000000`; on a stable
//! compiler `RUSTC_BOOTSTRAP=1 cargo fuzz run …` does the same.

#![no_main]

use modelve_gguf::Header;

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let Ok(header) = Header::parse(file) else {
        return;
    };
    for (_, value) in header.metadata(file) {
        if let Some(array) = value.as_array() {
            assert_eq!(array.iter().count(), array.len());
        }
    }
    for tensor in header.tensors() {
        if let Some(bytes) = tensor.bytes {
            assert!(bytes == 0 || tensor.offset + bytes <= file.len() as u64);
        }
        tensor.n_elements();
    }
});
