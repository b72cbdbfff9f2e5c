//! Converts between the bytes of a tensor and its values as f32, in the order of its shape.

use llama_cpp_sys_2 as sys;

/// The layout of a tensor in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub ty: sys::ggml_type,
    pub shape: [usize; 4],
    /// The distance in bytes from one value to the next along each dimension.
    pub strides: [usize; 4],
}

impl Layout {
    /// The size of a value in bytes; `None` for types other than F32, F16 and BF16.
    pub fn size(&self) -> Option<usize> {
        match self.ty {
            sys::GGML_TYPE_F32 => Some(4),
            sys::GGML_TYPE_F16 | sys::GGML_TYPE_BF16 => Some(2),
            _ => None,
        }
    }

    /// The byte offset of each row, in order. A row is the first dimension.
    fn rows(&self) -> impl Iterator<Item = usize> {
        let ([_, n1, n2, n3], strides) = (self.shape, self.strides);
        (0..n3).flat_map(move |i3| {
            (0..n2).flat_map(move |i2| {
                (0..n1).map(move |i1| i1 * strides[1] + i2 * strides[2] + i3 * strides[3])
            })
        })
    }

    /// Reads all values. Returns `None` for an unsupported type, or if the layout extends past the
    /// end of `bytes`.
    pub fn read(&self, bytes: &[u8], floats: &mut Vec<f32>) -> Option<()> {
        let size = self.size()?;
        floats.clear();
        floats.reserve(self.shape.iter().product());
        let float = |value: &[u8]| match *value {
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            [a, b] if self.ty == sys::GGML_TYPE_F16 => half::f16::from_le_bytes([a, b]).to_f32(),
            [a, b] => half::bf16::from_le_bytes([a, b]).to_f32(),
            _ => f32::NAN,
        };
        for row in self.rows() {
            if self.strides[0] == size {
                let row = bytes.get(row..row + self.shape[0] * size)?;
                floats.extend(row.chunks_exact(size).map(float));
                continue;
            }
            for i in 0..self.shape[0] {
                let at = row + i * self.strides[0];
                floats.push(float(bytes.get(at..at + size)?));
            }
        }
        Some(())
    }

    /// Writes all values. Returns `None` for an unsupported type, if the layout extends past the
    /// end of `bytes`, or for another number of values.
    pub fn write(&self, floats: &[f32], bytes: &mut [u8]) -> Option<()> {
        let size = self.size()?;
        if floats.len() != self.shape.iter().product::<usize>() {
            return None;
        }
        let mut floats = floats.iter();
        for row in self.rows() {
            for i in 0..self.shape[0] {
                let at = row + i * self.strides[0];
                let (to, value) = (bytes.get_mut(at..at + size)?, *floats.next()?);
                match self.ty {
                    sys::GGML_TYPE_F32 => to.copy_from_slice(&value.to_le_bytes()),
                    sys::GGML_TYPE_F16 => {
                        to.copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
                    }
                    _ => to.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
                }
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_wherever_it_lies() {
        let values: Vec<f32> = (0..12).map(|i| i as f32 - 3.5).collect();
        for (ty, size) in [
            (sys::GGML_TYPE_F32, 4),
            (sys::GGML_TYPE_F16, 2),
            (sys::GGML_TYPE_BF16, 2),
        ] {
            // Contiguous rows, transposed rows, and rows with a gap between them.
            for strides in [
                [size, 3 * size, 6 * size, 12 * size],
                [2 * size, size, 6 * size, 12 * size],
                [size, 5 * size, 10 * size, 20 * size],
            ] {
                let layout = Layout {
                    ty,
                    shape: [3, 2, 2, 1],
                    strides,
                };
                let mut bytes = vec![0xAA; 20 * size];
                layout.write(&values, &mut bytes).unwrap();
                let mut back = Vec::new();
                layout.read(&bytes, &mut back).unwrap();
                assert_eq!(back, values);
                assert!(layout.read(&bytes[..11 * size], &mut back).is_none());
                assert!(layout.write(&values[1..], &mut bytes).is_none());
            }
        }
        let quantized = Layout {
            ty: sys::GGML_TYPE_Q4_0,
            shape: [32, 1, 1, 1],
            strides: [1; 4],
        };
        assert!(quantized.read(&[0; 18], &mut Vec::new()).is_none());
    }
}
