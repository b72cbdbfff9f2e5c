//! The older format of importance matrices (`.dat`), as `save_imatrix_legacy` in llama.cpp writes
//! it: the number of entries; of each its name, the number of chunks, the number of values and the
//! values, which are the mean squares times the number of chunks; then, in all but the oldest
//! files, the number of chunks and the name of the text. Numbers are little-endian, of 32 bits.

use std::collections::BTreeMap;

use super::{Entry, Imatrix};

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number that counts something.
    fn count(&mut self) -> Option<usize> {
        let bytes = self.bytes(4)?.try_into().ok()?;
        usize::try_from(i32::from_le_bytes(bytes)).ok()
    }

    fn text(&mut self) -> Option<String> {
        let n = self.count()?;
        String::from_utf8(self.bytes(n)?.to_vec()).ok()
    }

    fn floats(&mut self, n: usize) -> Option<Vec<f32>> {
        let (values, _) = self.bytes(n.checked_mul(4)?)?.as_chunks::<4>();
        Some(values.iter().map(|x| f32::from_le_bytes(*x)).collect())
    }
}

/// Reads all of a file.
///
/// # Errors
/// A sentence about what the file is not.
pub(super) fn parse(bytes: &[u8]) -> Result<Imatrix, String> {
    let neither = || "is neither a GGUF file nor one of llama.cpp's older .dat files".to_owned();
    let mut rest = Rest(bytes);
    let n = rest.count().filter(|&n| n > 0).ok_or_else(neither)?;
    let mut entries = BTreeMap::new();
    for i in 0..n {
        let name = rest.text().filter(|name| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
        });
        let Some(name) = name else {
            return Err(match i {
                0 => neither(),
                _ => format!("ends, or is damaged, after {i} of {n} entries"),
            });
        };
        let cut = || format!("ends within the entry `{name}`, the {}. of {n}", i + 1);
        let calls = rest.count().ok_or_else(cut)?;
        let values = rest.count().ok_or_else(cut)?;
        let sums = rest.floats(values).ok_or_else(cut)?;
        let entry = Entry::new(&name, sums, vec![calls as f32])?;
        entries.insert(name, entry);
    }
    let chunks = rest.count().unwrap_or(0);
    let dataset = rest.text().filter(|name| !name.is_empty());
    Ok(Imatrix {
        entries,
        datasets: dataset.into_iter().collect(),
        chunks: chunks as u64,
        ..Imatrix::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(trailer: bool) -> Vec<u8> {
        let mut file = Vec::new();
        let put = |file: &mut Vec<u8>, n: i32| file.extend(n.to_le_bytes());
        put(&mut file, 2);
        for (name, values) in [
            ("blk.0.a.weight", [2.0f32, 4.0]),
            ("blk.1.a.weight", [6.0, 0.0]),
        ] {
            put(&mut file, name.len() as i32);
            file.extend(name.bytes());
            put(&mut file, 2);
            put(&mut file, 2);
            file.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        }
        if trailer {
            put(&mut file, 2);
            put(&mut file, 8);
            file.extend(b"text.txt");
        }
        file
    }

    #[test]
    fn means_are_what_was_added_up_over_the_chunks() {
        for trailer in [true, false] {
            let read = parse(&file(trailer)).unwrap();
            assert_eq!(read.entries()["blk.0.a.weight"].weights(), [1.0, 2.0]);
            assert_eq!(read.entries()["blk.1.a.weight"].weights(), [3.0, 0.0]);
            assert_eq!(
                read.datasets().first().map(String::as_str),
                trailer.then_some("text.txt")
            );
        }
    }

    #[test]
    fn no_length_is_trusted() {
        let whole = file(false);
        for n in 0..whole.len() {
            assert!(parse(&whole[..n]).is_err(), "{n}");
        }
        for at in [0, 4, 22, 26] {
            for n in [-1, i32::MAX] {
                let mut bad = whole.clone();
                bad[at..at + 4].copy_from_slice(&n.to_le_bytes());
                // A number of chunks can be any, of which there is only one.
                assert!(at == 22 && n > 0 || parse(&bad).is_err(), "{at} {n}");
            }
        }
    }
}
