"""What JSON Schema cannot say: media types that are not JSON, and the times that an event may have."""

import datetime

import schemathesis
from hypothesis import strategies as st

# Any time that 64 bits of nanoseconds hold, less a day at both ends for the offset.
times = st.datetimes(
    min_value=datetime.datetime(1677, 9, 23),
    max_value=datetime.datetime(2262, 4, 10),
    timezones=st.just(datetime.timezone.utc),
).map(lambda time: time.isoformat().replace("+00:00", "Z"))
schemathesis.openapi.format("date-time", times)

line = b'{"service":"schemathesis","message":"a line"}'
lines = st.lists(st.just(line), min_size=1, max_size=5).map(b"\n".join)
schemathesis.openapi.media_type("application/x-ndjson", lines)

# Of every signal: nothing; the items of a resource, without any; a field that nobody knows.
requests = st.sampled_from([b"", b"\x0a\x00", b"\xf8\x07\x01"])
schemathesis.openapi.media_type("application/x-protobuf", requests)


@schemathesis.serializer("application/x-ndjson", "application/x-protobuf")
def as_it_is(ctx, value):
    """Bytes, or the text of an example."""
    return value if isinstance(value, bytes) else str(value).encode()
