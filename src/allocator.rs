//! The process' allocator: mimalloc, but for what sled asks for by the mebibyte.
//!
//! Every generation of the journal is a sled of its own, at full load ten a second. Each asks for 6 MiB of zeros, of which it
//! touches a few pages, and for a buffer of 2 MiB for every segment that it writes, 50 a second. An allocator that gives back
//! what is freed has all of that cleared, and each of its pages is a fault: 9 % of the server's CPU time, measured
//! (benches/README.md). So the zeros come from the system, which has them for nothing until they are touched, and a few of the
//! buffers stay.
#![expect(unsafe_code, reason = "there is no other way to be an allocator, nor to set options of mimalloc")]

use std::{
    alloc::{GlobalAlloc, Layout},
    ffi::c_long,
    ptr::null_mut,
    sync::atomic::{AtomicPtr, Ordering},
};

use forebay_actors::journal::SEGMENT_BYTES;
use libmimalloc_sys::{mi_option_set_default, mi_option_t};
use mimalloc::MiMalloc;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// `mi_option_purge_delay` in version 3 of mimalloc's header; the binding has no name for it.
const PURGE_DELAY: mi_option_t = 15;

/// Milliseconds for which freed memory stays with the process. With 1 to 10 the peak at full load is up to 15 MB higher, and single
/// posts gain 1 to 5 %, which is less than the noise (benches/README.md).
const PURGE_DELAY_MS: c_long = 0;

/// What sled 0.34.7 asks for where it needs a segment's buffer.
const SEGMENT: Layout = layout(SEGMENT_BYTES, 8192);

/// The two levels of sled's table of pages: places for 2^19 pointers and for 2^18.
const TABLES: [Layout; 2] = [layout(8 << 19, 8), layout(8 << 18, 8)];

/// Buffers that stay.
pub(crate) const SPARES_MAX: usize = 3;

const fn layout(bytes: usize, align: usize) -> Layout {
    match Layout::from_size_align(bytes, align) {
        Ok(layout) => layout,
        Err(_) => panic!("not a power of two"),
    }
}

/// mimalloc, with tables from the system and spare segments. glibc's allocator keeps what caches have freed: with it the process
/// stays as large as it ever was.
#[derive(Debug)]
pub struct Allocator {
    /// Each null, or memory of the layout `SEGMENT` that mimalloc gave and nobody has.
    spares: [AtomicPtr<u8>; SPARES_MAX],
}

impl Allocator {
    /// One without spares.
    #[expect(clippy::new_without_default, reason = "a static is made by a constant function")]
    pub const fn new() -> Self {
        Self { spares: [const { AtomicPtr::new(null_mut()) }; SPARES_MAX] }
    }

    /// Memory that is freed goes back to the system at once. `MIMALLOC_PURGE_DELAY` in the environment has the last word.
    pub fn give_back_early(&self) {
        // SAFETY: the call stores a number in a table of the allocator; it takes no pointer and may be made at any time.
        unsafe { mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) }
    }

    fn take_spare(&self) -> Option<*mut u8> {
        self.spares
            .iter()
            .map(|spare| spare.swap(null_mut(), Ordering::Acquire))
            .find(|taken| !taken.is_null())
    }

    /// Whether there was a place for it.
    fn keep_spare(&self, pointer: *mut u8) -> bool {
        let put = |spare: &AtomicPtr<u8>| {
            spare.compare_exchange(null_mut(), pointer, Ordering::Release, Ordering::Relaxed).is_ok()
        };
        self.spares.iter().any(put)
    }
}

/// Zeros of the system, or null where it has none.
fn map(layout: Layout) -> *mut u8 {
    // SAFETY: a new mapping, of no address that anybody has.
    let mapped = unsafe {
        mmap_anonymous(null_mut(), layout.size(), ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    };
    mapped.map_or(null_mut(), <*mut _>::cast)
}

// SAFETY: memory of a layout always comes from and goes to the same place: of `TABLES` to the system, whose pages are aligned
// to more than 8, all other to mimalloc. A spare is mimalloc's, of the very layout that is asked for, and was given back by
// whoever had it; a swap takes it out of its place, so that nobody else gets it. What is to be zeroed is none of them.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        #[cfg(test)]
        tests::note(layout);
        if TABLES.contains(&layout) {
            return map(layout);
        }
        let spare = if layout == SEGMENT { self.take_spare() } else { None };
        spare.unwrap_or_else(|| unsafe { MiMalloc.alloc(layout) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if TABLES.contains(&layout) {
            // Where the process has as many mappings as it may, the table stays.
            let _ = unsafe { munmap(pointer.cast(), layout.size()) };
        } else if layout != SEGMENT || !self.keep_spare(pointer) {
            unsafe { MiMalloc.dealloc(pointer, layout) }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        #[cfg(test)]
        tests::note(layout);
        match TABLES.contains(&layout) {
            true => map(layout),
            false => unsafe { MiMalloc.alloc_zeroed(layout) },
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, old: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: whoever calls has seen to it that the size is one.
        let new = unsafe { Layout::from_size_align_unchecked(bytes, old.align()) };
        if !TABLES.contains(&old) && !TABLES.contains(&new) {
            return unsafe { MiMalloc.realloc(pointer, old, bytes) };
        }
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            // SAFETY: both are of so many bytes, and one of them is new.
            unsafe {
                std::ptr::copy_nonoverlapping(pointer, moved, old.size().min(bytes));
                self.dealloc(pointer, old);
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use forebay_actors::{
        event::{BlockBuilder, Draft, IdSource, Stamp},
        journal::{Durability, Journal as _, SledJournal},
        record::Position,
        runtime::clock::Clock,
    };

    use super::*;

    const TABLE: Layout = TABLES[1];

    /// All unit tests run on it.
    #[global_allocator]
    static ALLOCATOR: Allocator = Allocator::new();

    /// How often each layout that is known here was asked for.
    static ASKED: [(Layout, AtomicUsize); 3] =
        [(TABLES[0], AtomicUsize::new(0)), (TABLES[1], AtomicUsize::new(0)), (SEGMENT, AtomicUsize::new(0))];

    pub(super) fn note(layout: Layout) {
        ASKED.iter().filter(|(known, _)| *known == layout).for_each(|(_, asked)| {
            asked.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Scenario: a generation of the journal is begun and written to.
    /// Guarantee: sled asks for just what is known here. With another sled all of this would be for nothing, and nobody see it.
    #[test]
    fn sled_asks_for_what_is_known_here() {
        let asked = || ASKED.each_ref().map(|(_, asked)| asked.load(Ordering::Relaxed));
        let (before, dir, clock) = (asked(), tempfile::TempDir::new().unwrap(), Clock::system());
        let journal = SledJournal::open(dir.path(), Durability::Fsync, Position(0), clock.clone()).unwrap();
        let mut builder = BlockBuilder::default();
        let (event_id, timestamp, metadata) = (None, None, None);
        builder.push(&Draft { event_id, timestamp, service: "s", message: "m", metadata });
        let stamp = Stamp { first_id: IdSource::new(1).first_of(1, clock.now()), ingested_at: clock.now() };
        let blocks: Vec<_> = builder.finish().into_iter().map(|block| block.stamped(stamp)).collect();
        journal.commit(&blocks).unwrap();
        assert!(
            before.iter().zip(asked()).all(|(before, after)| *before < after),
            "{before:?} {:?}",
            asked()
        );
    }

    /// Buffers of segments stay, as many as there is room for; whoever asks gets one that stayed, and nobody else.
    #[test]
    fn segments_stay() {
        let allocator = Allocator::new();
        // SAFETY: what is written to and freed was allocated so.
        unsafe {
            let given: Vec<_> = (0..SPARES_MAX + 1).map(|_| allocator.alloc(SEGMENT)).collect();
            given.iter().for_each(|pointer| pointer.write_bytes(7, SEGMENT_BYTES));
            given.iter().for_each(|pointer| allocator.dealloc(*pointer, SEGMENT));
            let again: Vec<_> = (0..SPARES_MAX).map(|_| allocator.alloc(SEGMENT)).collect();
            assert_eq!(again, given[..SPARES_MAX]);
            assert!(allocator.take_spare().is_none());
            MiMalloc.dealloc(allocator.alloc(SEGMENT), SEGMENT);
            again.iter().for_each(|pointer| allocator.dealloc(*pointer, SEGMENT));
            let zeroed = allocator.alloc_zeroed(SEGMENT);
            assert!(std::slice::from_raw_parts(zeroed, SEGMENT_BYTES).iter().all(|byte| *byte == 0));
            MiMalloc.dealloc(zeroed, SEGMENT);
            while let Some(spare) = allocator.take_spare() {
                MiMalloc.dealloc(spare, SEGMENT);
            }
        }
    }

    /// Tables are zeros, also after one that was written to has gone.
    #[test]
    fn tables_are_zeros() {
        let allocator = Allocator::new();
        for _ in 0..3 {
            // SAFETY: what is written to and freed was allocated so.
            unsafe {
                let table = allocator.alloc_zeroed(TABLE);
                let bytes = std::slice::from_raw_parts_mut(table, TABLE.size());
                assert!(bytes.iter().all(|byte| *byte == 0));
                bytes.fill(7);
                allocator.dealloc(table, TABLE);
            }
        }
    }

    /// What grows to the size of a table and beyond, or shrinks through it, keeps its bytes.
    #[test]
    fn what_passes_the_size_of_a_table_keeps_its_bytes() {
        let allocator = Allocator::new();
        let of = |bytes| Layout::from_size_align(bytes, TABLE.align()).unwrap();
        let sizes = [4096, TABLE.size(), TABLES[0].size(), 2 * TABLES[0].size(), TABLE.size(), 4096];
        // SAFETY: what is written to and freed was allocated so.
        unsafe {
            let mut pointer = allocator.alloc(of(sizes[0]));
            for ([old, new], filling) in sizes.array_windows().zip(1..) {
                pointer.write_bytes(filling, *old);
                pointer = allocator.realloc(pointer, of(*old), *new);
                let kept = std::slice::from_raw_parts(pointer, *old.min(new));
                assert!(kept.iter().all(|byte| *byte == filling), "from {old} to {new}");
            }
            allocator.dealloc(pointer, of(4096));
        }
    }
}
