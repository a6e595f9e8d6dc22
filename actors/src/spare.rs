//! Large buffers that are used again and again.
//!
//! At full load, bodies that come in and go out would be a gigabyte a second of allocations, and a hundred megabytes
//! that the allocator has not given back yet. So would be what a sink that catches up reads from the journal.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// A pool of buffers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SparePool {
    buffers: Arc<Mutex<Vec<Vec<u8>>>>,
    kept_max: usize,
    kept_bytes_max: usize,
}

/// A buffer that goes back to its pool when it is dropped.
struct Spare {
    buffer: Vec<u8>,
    pool: SparePool,
}

impl SparePool {
    /// A pool that keeps at most `kept_max` buffers of at most `kept_bytes_max` bytes each.
    pub fn new(kept_max: usize, kept_bytes_max: usize) -> Self {
        Self { buffers: Arc::default(), kept_max, kept_bytes_max }
    }

    /// An empty buffer with room for `bytes`.
    pub fn take(&self, bytes: usize) -> Vec<u8> {
        let mut buffer = self.pop();
        buffer.clear();
        buffer.reserve(bytes);
        buffer
    }

    /// A buffer of so many bytes, to be written over: of what they are now nothing is known.
    pub(crate) fn take_filled(&self, bytes: usize) -> Vec<u8> {
        let mut buffer = self.pop();
        if buffer.capacity() < bytes {
            // To grow it would copy what nobody wants, into more room than is asked for.
            return vec![0; bytes];
        }
        buffer.resize(bytes, 0);
        buffer
    }

    fn pop(&self) -> Vec<u8> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// The buffer's bytes; when nobody needs them any more, the buffer comes back.
    pub fn bytes(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Spare { buffer, pool: self.clone() })
    }
}

impl AsRef<[u8]> for Spare {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        if self.buffer.capacity() > self.pool.kept_bytes_max {
            return;
        }
        // As it is: to clear what is written over would take as long as to write it.
        let buffer = std::mem::take(&mut self.buffer);
        let mut buffers = self.pool.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < self.pool.kept_max {
            buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer comes back when its last reader has gone; one that is too large does not.
    #[test]
    fn buffers_come_back() {
        let pool = SparePool::new(1, 1000);
        let mut buffer = pool.take(10);
        buffer.extend_from_slice(b"some bytes");
        let capacity = buffer.capacity();
        let bytes = pool.bytes(buffer);
        let reader = bytes.slice(5..);
        drop(bytes);
        assert_eq!(&reader[..], b"bytes");
        assert_eq!(pool.take(0).capacity(), 0, "it is still read");
        drop(reader);
        assert_eq!(pool.take(0).capacity(), capacity);
        drop(pool.bytes(pool.take(5000)));
        assert_eq!(pool.take(0).capacity(), 0);
        drop(pool.bytes(b"some bytes".to_vec()));
        assert_eq!(pool.take_filled(4), b"some");
        drop(pool.bytes(b"some bytes".to_vec()));
        assert!(pool.take(4).is_empty());
    }
}
