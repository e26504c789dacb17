//! Bytes of the files of other programs: protocol buffers and checksums.

/// A message of protocol buffers that is being written.
#[derive(Debug, Default, Clone)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn tag(&mut self, field: u32, kind: u32) {
        self.varint(u64::from(field << 3 | kind));
    }

    /// A field of type int32, int64 or bool.
    pub(super) fn integer(mut self, field: u32, value: i64) -> Self {
        self.tag(field, 0);
        self.varint(value as u64);
        self
    }

    /// A field of type double.
    pub(super) fn double(mut self, field: u32, value: f64) -> Self {
        self.tag(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A field of type float.
    pub(super) fn float(mut self, field: u32, value: f32) -> Self {
        self.tag(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A field of type string.
    pub(super) fn text(self, field: u32, value: &str) -> Self {
        self.raw(field, value.as_bytes())
    }

    /// A field that is a message.
    pub(super) fn message(self, field: u32, value: &Self) -> Self {
        self.raw(field, &value.0)
    }

    fn raw(mut self, field: u32, value: &[u8]) -> Self {
        self.tag(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }
}

/// The texts, bytes and messages of a message, with their fields; ends where `bytes`
/// are no message any more.
pub(super) fn parts(mut bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            let tag = take_varint(&mut bytes)?;
            let length = match tag & 7 {
                0 => {
                    take_varint(&mut bytes)?;
                    continue;
                }
                1 => 8,
                2 => usize::try_from(take_varint(&mut bytes)?).ok()?,
                5 => 4,
                _ => return None,
            };
            let (part, rest) = bytes.split_at_checked(length)?;
            bytes = rest;
            if tag & 7 == 2 {
                return Some((u32::try_from(tag >> 3).ok()?, part));
            }
        }
    })
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..10 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << (7 * place);
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// CRC-32C, as TFRecord files use it.
const CASTAGNOLI: [u32; 256] = table(0x82F6_3B78);
/// CRC-32 of zlib.
const IEEE: [u32; 256] = table(0xEDB8_8320);

const fn table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut rest = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = if rest & 1 == 1 {
                rest >> 1 ^ polynomial
            } else {
                rest >> 1
            };
            bit += 1;
        }
        table[byte] = rest;
        byte += 1;
    }
    table
}

fn crc(table: &[u32; 256], bytes: &[u8]) -> u32 {
    let step =
        |rest: u32, byte: &u8| rest >> 8 ^ table[((rest ^ u32::from(*byte)) & 0xFF) as usize];
    !bytes.iter().fold(!0, step)
}

/// The masked CRC-32C of a part of a TFRecord.
pub(super) fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc(&CASTAGNOLI, bytes)
        .rotate_right(15)
        .wrapping_add(0xA282_EAD8)
}

/// The CRC-32 of zlib.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    crc(&IEEE, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the catalogue of CRC algorithms.
    #[test]
    fn checksums() {
        assert_eq!(crc(&CASTAGNOLI, b"123456789"), 0xE306_9283);
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    /// The examples of the documentation of the encoding.
    #[test]
    fn messages() {
        let inner = Message::default().integer(1, 150);
        assert_eq!(inner.0, [0x08, 0x96, 0x01]);
        let text = Message::default().text(2, "testing");
        assert_eq!(text.0, b"\x12\x07testing");
        let outer = Message::default().message(3, &inner);
        assert_eq!(outer.0, [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(Message::default().integer(1, -1).0.len(), 11);
    }

    #[test]
    fn messages_are_read_again() {
        let inner = Message::default().text(300, "b");
        let message = Message::default()
            .integer(1, -1)
            .double(2, 0.5)
            .text(3, "a")
            .float(4, 0.5)
            .message(5, &inner)
            .bytes();
        let read: Vec<_> = parts(&message).collect();
        assert_eq!(read, [(3, &b"a"[..]), (5, &inner.0)]);
        assert_eq!(parts(&inner.0).collect::<Vec<_>>(), [(300, &b"b"[..])]);
        for cut in 0..message.len() {
            assert!(parts(&message[..cut]).count() < 2);
        }
    }
}
