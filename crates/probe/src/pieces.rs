//! The text of a token, which need not be valid UTF-8.

use std::fmt;
use std::ops::Deref;

use serde::ser::{Serialize, SerializeStruct, Serializer};

/// The bytes that a token stands for; for a control token, its name. Bytes that are not valid UTF-8
/// are shown as `\xe2` and serialized as `{"bytes": [226]}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    shown: String,
    bytes: Option<Box<[u8]>>,
}

impl Piece {
    /// Makes a piece of bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(shown) => Piece { shown, bytes: None },
            Err(error) => {
                let bytes = error.into_bytes();
                Piece {
                    shown: spelled(&bytes),
                    bytes: Some(bytes.into_boxed_slice()),
                }
            }
        }
    }
}

/// Returns valid UTF-8 unchanged, with all other bytes as `\xe2`.
fn spelled(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        shown.push_str(chunk.valid());
        shown.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    shown
}

impl AsRef<[u8]> for Piece {
    /// The bytes of the token.
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or(self.shown.as_bytes())
    }
}

impl Deref for Piece {
    type Target = str;

    fn deref(&self) -> &str {
        &self.shown
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Serialize for Piece {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        JsonText(self.as_ref()).serialize(serializer)
    }
}

/// Serializes bytes as a string where they are valid UTF-8, else as `{"bytes": […]}`.
#[derive(Debug, Clone, Copy)]
pub struct JsonText<'a>(pub &'a [u8]);

impl Serialize for JsonText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut object = serializer.serialize_struct("text", 1)?;
                object.serialize_field("bytes", self.0)?;
                object.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_stay_bytes() {
        assert_eq!(Piece::new(b"\xe2\x96".to_vec()).as_ref(), b"\xe2\x96");
        let json = |bytes: &[u8]| serde_json::to_string(&Piece::new(bytes.to_vec())).unwrap();
        assert_eq!(json(b" bat"), r#"" bat""#);
        assert_eq!(json(b"\xe2\x96"), r#"{"bytes":[226,150]}"#);
        assert_eq!(&*Piece::new(b"\xe2\x96".to_vec()), r"\xe2\x96");
    }
}
