//! How many handles there are to a frozen packet.

use super::sync::{AtomicU32, Ordering};

/// A count of handles; never 0 while it is looked at.
pub(super) struct References(AtomicU32);

/// More handles than this are taken for a leak, or for stray bytes: the next ones could make the count wrap around.
const MOST: u32 = i32::MAX as u32;

impl References {
    /// One handle.
    pub(super) fn one() -> Self {
        Self(AtomicU32::new(1))
    }

    /// Counts one more handle, made from one that there is.
    ///
    /// # Panics
    /// When there are billions, or stray bytes say so.
    #[inline(always)]
    pub(super) fn add(&self) {
        // Who makes a handle has one, so nothing can go meanwhile, and there is nothing to order.
        if self.0.fetch_add(1, Ordering::Relaxed) > MOST {
            self.refuse();
        }
    }

    /// Takes back what was added to a count that is too large.
    #[cold]
    #[inline(never)]
    fn refuse(&self) -> ! {
        let count = self.0.fetch_sub(1, Ordering::Relaxed).wrapping_sub(1);
        panic!("cannot hold the packet: it has {count} handles, or the end of its block was overwritten");
    }

    /// Takes a handle off; true when it was the last one. What other holders did to the packet happened before that.
    #[inline(always)]
    pub(super) fn remove(&self) -> bool {
        // The only one left needs no atomic change: nobody is there to see it.
        self.is_one() || self.0.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether there is one handle, the caller's. What former holders did to the packet happened before that.
    #[inline(always)]
    pub(super) fn is_one(&self) -> bool {
        self.0.load(Ordering::Acquire) == 1
    }
}
