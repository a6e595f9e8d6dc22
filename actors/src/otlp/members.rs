//! The fields of one message, found in one walk, for whoever wants many of them.

use super::{
    json::unpacked,
    schema::{Kind, Message, Rule},
    wire::{Fields, Value},
};

/// No field of the protocol that stands in an item or around one has a number beyond.
const NUMBER_MAX: usize = 16;

/// What a message has. It must have been checked; where it is damaged, it ends.
#[derive(Debug, Clone, Copy)]
pub struct Members<'a> {
    bytes: &'a [u8],
    /// The last value of each number, which is the one that counts.
    last: [Option<Value<'a>>; NUMBER_MAX + 1],
}

impl<'a> Members<'a> {
    /// Of this message.
    pub fn of(bytes: &'a [u8]) -> Self {
        let mut last = [None; NUMBER_MAX + 1];
        for entry in Fields::of(bytes).map_while(Result::ok) {
            if let Some(value) = last.get_mut(entry.number as usize) {
                *value = Some(entry.value);
            }
        }
        Self { bytes, last }
    }

    /// The message itself.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What the field holds; the last, where it stands there more than once.
    pub fn value(&self, number: u32) -> Option<Value<'a>> {
        self.last.get(number as usize).copied().flatten()
    }

    /// A text, an id or a message; empty where it is not there.
    pub fn data(&self, number: u32) -> &'a [u8] {
        match self.value(number) {
            Some(Value::Bytes(bytes)) => bytes,
            _ => &[],
        }
    }

    /// The bits of a number of any width; 0 where it is not there.
    pub fn bits(&self, number: u32) -> u64 {
        match self.value(number) {
            Some(Value::Varint(bits) | Value::Fixed64(bits)) => bits,
            Some(Value::Fixed32(bits)) => u64::from(bits),
            _ => 0,
        }
    }

    /// Of the fields one of which may be set, the one that counts.
    pub fn chosen(&self, of: &'static Message) -> Option<u32> {
        let is_there = |number: &u32| self.value(*number).is_some();
        let choices = of.fields.iter().filter(|field| field.rule == Rule::OneOf).map(|field| field.number);
        let mut there = choices.filter(is_there);
        match (there.next(), there.next()) {
            // Only where there are several does it matter which came last.
            (Some(_), Some(_)) => of.chosen(self.bytes),
            (first, _) => first,
        }
    }

    /// Texts or messages of a field that may stand there any number of times.
    pub fn each(&self, number: u32) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // One that is not there costs no second walk.
        let bytes = if self.value(number).is_some() { self.bytes } else { &[] };
        Fields::of(bytes).map_while(Result::ok).filter_map(move |entry| match entry.value {
            Value::Bytes(bytes) if entry.number == number => Some(bytes),
            _ => None,
        })
    }

    /// The bits of the numbers of a list, however they stand there.
    pub fn numbers(&self, number: u32, kind: Kind) -> Vec<u64> {
        let mut numbers = Vec::new();
        let bytes = if self.value(number).is_some() { self.bytes } else { &[] };
        for entry in Fields::of(bytes).map_while(Result::ok).filter(|entry| entry.number == number) {
            match entry.value {
                Value::Bytes(packed) => numbers.extend(unpacked(kind, packed).into_iter().filter_map(bits)),
                single => numbers.extend(bits(single)),
            }
        }
        numbers
    }
}

const fn bits(value: Value<'_>) -> Option<u64> {
    match value {
        Value::Varint(bits) | Value::Fixed64(bits) => Some(bits),
        Value::Fixed32(bits) => Some(bits as u64),
        Value::Bytes(_) | Value::Group => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            schema::NUMBER_DATA_POINT,
            wire::{put_bytes, put_varint},
        },
        *,
    };

    /// What protobuf allows a sender: fields twice, lists packed or not, both of a choice.
    #[test]
    fn the_last_counts_and_lists_are_whole() {
        let mut message = Vec::new();
        put_bytes(&mut message, 5, b"first");
        put_bytes(&mut message, 5, b"last");
        put_bytes(&mut message, 6, &[1, 0xac, 0x02]);
        put_varint(&mut message, 6 << 3);
        put_varint(&mut message, 7);
        let members = Members::of(&message);
        assert_eq!(members.data(5), b"last");
        assert_eq!(members.each(5).collect::<Vec<_>>(), [&b"first"[..], b"last"]);
        assert_eq!(members.numbers(6, Kind::Uint64), [1, 300, 7]);
        assert_eq!((members.bits(3), members.data(4), members.value(200)), (0, &[][..], None));
        let (double, int) = ([0x21, 1, 0, 0, 0, 0, 0, 0, 0], [0x31, 2, 0, 0, 0, 0, 0, 0, 0]);
        let chosen = |parts: &[&[u8]]| Members::of(&parts.concat()).chosen(&NUMBER_DATA_POINT);
        assert_eq!([chosen(&[]), chosen(&[&int]), chosen(&[&int, &double])], [None, Some(6), Some(4)]);
        assert_eq!(chosen(&[&double, &int]), Some(6));
    }

    /// Whatever can be asked for fits.
    #[test]
    fn no_number_is_beyond() {
        for signal in
            [super::super::Signal::Logs, super::super::Signal::Metrics, super::super::Signal::Traces]
        {
            let mut left = vec![signal.request()];
            while let Some(message) = left.pop() {
                for field in message.fields {
                    assert!(field.number as usize <= NUMBER_MAX, "{}.{}", message.name, field.name);
                    // A value may hold itself.
                    if let Kind::Message(inner) = field.kind
                        && !["AnyValue", "KeyValue"].contains(&inner.name)
                    {
                        left.push(inner);
                    }
                }
            }
        }
    }
}
