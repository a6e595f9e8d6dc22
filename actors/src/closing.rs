//! Closing a database whose device has failed.
//!
//! sled unwraps the last sync of a database that is dropped. On a device that has failed this would be a panic wherever
//! the last handle happens to be dropped: at the end of the process, or while another panic unwinds, which aborts it.

use std::{
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// A handle, or several, whose drop may panic, and then only says so.
#[derive(Debug)]
pub(crate) struct Closing<T>(Option<T>);

impl<T> Closing<T> {
    pub(crate) fn new(handle: T) -> Self {
        Self(Some(handle))
    }
}

impl<T> Deref for Closing<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("the handle is taken out only by the drop")
    }
}

impl<T> Drop for Closing<T> {
    fn drop(&mut self) {
        let handle = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(handle))).is_err() {
            // What was promised to be on the device was synced before, by a sync of its own.
            tracing::error!("a database could not be synced when it was closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Unwraps;

    impl Drop for Unwraps {
        fn drop(&mut self) {
            panic!("the device has failed");
        }
    }

    /// Scenario: a database on a device that has failed is dropped, at the end of the process or while something unwinds.
    /// Guarantee: neither is a panic: the process ended with 101 instead of saying what was left.
    #[test]
    fn r0315_a_failed_device_made_the_end_a_panic() {
        drop(Closing::new(Unwraps));
        let unwinding = catch_unwind(|| {
            let _handle = Closing::new(Unwraps);
            panic!("another");
        });
        assert!(unwinding.is_err());
    }
}
