//! Whose blocks are near: worth to be borrowed.
//!
//! A block that was freed here is in this core's cache if it was written here, too. If it was written on another core, most
//! of its lines are there, and to write them again is to fetch them one by one; blocks of one's own that came back are
//! better then. So an owner's [`Nearness`] says which core it was last seen on, beside which homes have its type, and
//! owners lend to each other if the two agree. That an owner may have moved since costs time, and nothing else.

use core::sync::atomic::{AtomicU32, Ordering};

/// Bits for the number of a core.
const CORE_BITS: u32 = 20;

/// What two owners have in common that lend to each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Nearness(u32);

impl Nearness {
    /// Neither lends nor borrows.
    pub(super) const ALONE: Self = Self(0);

    /// That of homes of this shape, on any core.
    pub(super) const fn of_shape<const UNIT: usize, const WINDOW_UNITS: usize>() -> Self {
        // At most 16, so five bits.
        Self((UNIT.trailing_zeros() << 5 | WINDOW_UNITS.trailing_zeros()) << CORE_BITS)
    }

    /// The same on the core that runs this.
    fn here(self) -> Self {
        let core = this_core() & ((1 << CORE_BITS) - 1);
        if self == Self::ALONE { self } else { Self(self.0 >> CORE_BITS << CORE_BITS | core) }
    }

    /// Whether owners of which this is true lend to each other.
    #[inline(always)]
    pub(super) fn lends_to(self, other: Self) -> bool {
        self == other && self != Self::ALONE
    }
}

/// The nearness of an owner, which it writes and everybody reads.
pub(super) struct Whereabouts(AtomicU32);

impl Whereabouts {
    pub(super) fn new(nearness: Nearness) -> Self {
        Self(AtomicU32::new(nearness.0))
    }

    #[inline(always)]
    pub(super) fn get(&self) -> Nearness {
        Nearness(self.0.load(Ordering::Relaxed))
    }

    /// Notes the core that runs this. Stores only what has changed: others have the line in their caches.
    pub(super) fn update(&self) {
        let here = self.get().here();
        if here != self.get() {
            self.0.store(here.0, Ordering::Relaxed);
        }
    }
}

/// The number of the core that runs this; where nobody says, of one that all share.
fn this_core() -> u32 {
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        unsafe extern "C" {
            safe fn sched_getcpu() -> core::ffi::c_int;
        }
        // -1 for an error, as good a number as any.
        sched_getcpu().cast_unsigned()
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_lend_to_each_other_on_the_same_core_and_with_the_same_shape() {
        let on = |nearness: Nearness, core| Nearness(nearness.0 | core);
        let usual = Nearness::of_shape::<64, 2048>();
        assert!(on(usual, 3).lends_to(on(usual, 3)));
        assert!(!on(usual, 3).lends_to(on(usual, 2)));
        for other in
            [Nearness::of_shape::<128, 2048>(), Nearness::of_shape::<64, 1024>(), Nearness::of_shape::<4096, 65_536>()]
        {
            assert!(!on(usual, 3).lends_to(on(other, 3)));
        }
        assert!(!Nearness::ALONE.lends_to(Nearness::ALONE));
    }

    #[test]
    fn an_owner_is_where_it_was_last_seen_and_alone_anywhere() {
        let usual = Nearness::of_shape::<64, 2048>();
        let elsewhere = Nearness(usual.0 | 0xf_fffe);
        let whereabouts = Whereabouts::new(elsewhere);
        whereabouts.update();
        let found = whereabouts.get();
        assert!(found != elsewhere, "no machine has as many cores");
        assert_eq!(found.0 >> CORE_BITS, usual.0 >> CORE_BITS);
        let alone = Whereabouts::new(Nearness::ALONE);
        alone.update();
        assert!(alone.get() == Nearness::ALONE);
    }
}
