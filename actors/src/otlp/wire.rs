//! Protobuf on the wire: tags, lengths, numbers. It knows no message.

/// How deep messages may nest. Protobuf's own libraries stop at 100, so a destination could not read more.
pub const DEPTH_MAX: usize = 100;

/// Bytes that are no request of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {reason}")]
pub struct WireError {
    /// Bytes before the place.
    pub offset: usize,
    /// What is wrong there.
    pub reason: &'static str,
}

/// How a value stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A varint, not yet signed.
    Varint(u64),
    /// 8 bytes.
    Fixed64(u64),
    /// Bytes with a length before them.
    Bytes(&'a [u8]),
    /// 4 bytes.
    Fixed32(u32),
    /// A group, which nothing here uses; it is skipped.
    Group,
}

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The field's number.
    pub number: u32,
    /// What it holds.
    pub value: Value<'a>,
    /// Its tag, length and value, as they stand there.
    pub raw: &'a [u8],
    /// Where its value ends in the message.
    pub end: usize,
}

impl Entry<'_> {
    /// Where the bytes of a value with a length begin in the message.
    pub fn start(&self) -> usize {
        match self.value {
            Value::Bytes(bytes) => self.end - bytes.len(),
            _ => self.end,
        }
    }
}

/// Reads the fields of one message.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// Over the bytes of a message.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn error(&self, reason: &'static str) -> WireError {
        WireError { offset: self.at, reason }
    }

    #[inline]
    fn entry(&mut self, depth: usize) -> Result<Entry<'a>, WireError> {
        let begin = self.at;
        let (number, wire_type) = self.tag()?;
        let value = match wire_type {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.fixed()?)),
            2 => Value::Bytes(self.length_delimited()?),
            3 => {
                self.skip_group(number, depth)?;
                Value::Group
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.fixed()?)),
            4 => return Err(WireError { offset: begin, reason: "a group ends that did not begin" }),
            _ => return Err(WireError { offset: begin, reason: "a wire type that there is not" }),
        };
        Ok(Entry { number, value, raw: &self.bytes[begin..self.at], end: self.at })
    }

    fn tag(&mut self) -> Result<(u32, u8), WireError> {
        let begin = self.at;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or(WireError { offset: begin, reason: "a field number out of range" })?;
        Ok((number, (tag & 7) as u8))
    }

    /// Most numbers on the wire (tags, lengths, enums) are one byte, which is read at once.
    #[inline]
    fn varint(&mut self) -> Result<u64, WireError> {
        match self.bytes.get(self.at) {
            Some(&byte @ ..0x80) => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let begin = self.at;
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err(self.error("the message is cut off"));
            };
            self.at += 1;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError { offset: begin, reason: "a number longer than 64 bits" })
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let found = self.bytes[self.at..].first_chunk().copied();
        let found = found.ok_or_else(|| self.error("the message is cut off"))?;
        self.at += N;
        Ok(found)
    }

    fn length_delimited(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.varint()?;
        let rest = &self.bytes[self.at..];
        let found = usize::try_from(length).ok().and_then(|length| rest.get(..length));
        let found = found.ok_or_else(|| self.error("a length reaches behind the end of its message"))?;
        self.at += found.len();
        Ok(found)
    }

    fn skip_group(&mut self, group: u32, depth: usize) -> Result<(), WireError> {
        if depth >= DEPTH_MAX {
            return Err(self.error("messages nest too deep"));
        }
        loop {
            let before = self.at;
            let (number, wire_type) = self.tag()?;
            if wire_type == 4 {
                return if number == group { Ok(()) } else { Err(self.error("another group ends")) };
            }
            self.at = before;
            self.entry(depth + 1)?;
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Entry<'a>, WireError>;

    /// After an error there is nothing more.
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let entry = self.entry(0);
        if entry.is_err() {
            self.at = self.bytes.len();
        }
        Some(entry)
    }
}

/// Appends a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field of bytes with their length.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A number is read as it was written, and a cut anywhere is an error.
        #[test]
        fn varints_round_trip(value: u64, number in 1_u32..1 << 29) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, u64::from(number) << 3);
            put_varint(&mut bytes, value);
            let entry = Fields::of(&bytes).next().unwrap().unwrap();
            prop_assert_eq!((entry.number, entry.value, entry.raw), (number, Value::Varint(value), &bytes[..]));
            for cut in 1..bytes.len() {
                prop_assert!(Fields::of(&bytes[..cut]).next().unwrap().is_err());
            }
        }

        /// Whatever the bytes are: no panic, no loop.
        #[test]
        fn any_bytes_end(bytes: Vec<u8>) {
            prop_assert!(Fields::of(&bytes).count() <= bytes.len());
        }
    }

    /// Groups are skipped whole, also within each other; one that never ends is an error.
    #[test]
    fn groups_are_skipped() {
        let group = [0x0b, 0x13, 0x08, 1, 0x14, 0x0c, 0x10, 7];
        let entries: Vec<_> = Fields::of(&group).map(Result::unwrap).collect();
        assert_eq!(entries[0].value, Value::Group);
        assert_eq!((entries[1].number, entries[1].value), (2, Value::Varint(7)));
        assert!(Fields::of(&group[..5]).next().unwrap().is_err());
        assert_eq!(Fields::of(&[0x0b; 500]).next().unwrap().unwrap_err().reason, "messages nest too deep");
    }

    /// A varint of ten bytes may say no more than 64 bits.
    #[test]
    fn an_overlong_number_is_an_error() {
        let most = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(Fields::of(&most).next().unwrap().unwrap().value, Value::Varint(u64::MAX));
        let more = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
        assert_eq!(Fields::of(&more).next().unwrap().unwrap_err().offset, 1);
    }
}
