//! A window's descriptor, where it lies in memory, and the handle to it.
//!
//! The invariants that the crate's unsafe code leans on:
//!
//! 1. A [`Window`] exists only while its region is held from the system: windows leave every list, and the allocator's
//!    table, before their region is freed.
//! 2. The descriptor and the map behind it are written by this crate only, through `Cell`s, on one thread at a time.
//!    Blocks never overlap them: they lie in front of the units for blocks ([`Geometry::block_units`]).
//!    Other threads read the plate alone, which nobody writes while the window is held.
//! 3. The pointer in a `Window` may reach its whole region, since it is derived from the pointer that the system gave.

use core::cell::Cell;
use core::ops::Deref;
use core::ptr::NonNull;

use crate::geometry::{FIELD_BYTES, Geometry};
use crate::prefetch::{LINE_BYTES, prefetch};
use crate::window::Map;

/// Where a window stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Blocks are being handed out of it.
    Current,
    /// In no list, until enough of it is freed.
    Full,
    /// In the list of windows that are worth another pass.
    Reusable,
    /// In the list of windows without a live block.
    Empty,
}

/// Says where a window is at home, or a block that lies in none: see [`Heap::lead_to`](crate::heap::Heap::lead_to).
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Plate {
    home: *const (),
    /// Distinguishes a plate from anything else that may lie here.
    seal: Cell<usize>,
}

impl Plate {
    /// The plate that leads from `address` to `home`.
    pub(crate) fn new(address: usize, home: *const ()) -> Self {
        Self { home, seal: Cell::new(seal_of(address, home)) }
    }

    /// Where a plate leads, if nobody has written to it but `new`. Any thread may ask, as long as the plate stands.
    ///
    /// # Safety
    /// There is a plate, or what stray bytes have left of it.
    #[inline(always)]
    #[cfg(feature = "shared")]
    pub(crate) unsafe fn home(this: NonNull<Self>) -> *const () {
        // SAFETY: the caller says so. No reference is made to what lies beside it, which another thread may be writing.
        unsafe { (&raw const (*this.as_ptr()).home).read() }
    }

    /// Where a plate leads; `None` if somebody has written to it.
    ///
    /// # Safety
    /// As for [`home`](Self::home).
    #[cfg(feature = "shared")]
    pub(crate) unsafe fn sealed_home(this: NonNull<Self>) -> Option<NonNull<()>> {
        // SAFETY: the caller says so.
        let plate = unsafe { this.as_ref() };
        if plate.is_sealed(this.addr().get()) { NonNull::new(plate.home.cast_mut()) } else { None }
    }

    /// Whether this is still the plate that was written for `address`.
    fn is_sealed(&self, address: usize) -> bool {
        self.seal.get() == seal_of(address, self.home)
    }
}

/// What stays as it is while a window is held: in a cache line of its own, so that threads which free blocks of other
/// threads' windows may look at it without being in the owner's way.
#[derive(Debug)]
#[repr(C, align(64))]
struct Front(Plate);

/// The bookkeeping of one window, in front of its map.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Descriptor {
    front: Front,
    /// Units that may be freed before the window is looked at: its live units less `notice` and 1, wrapping around.
    credit: Cell<u32>,
    /// A free that leaves this many live units or fewer has the window looked at.
    notice: Cell<u32>,
    pub(crate) place: Cell<Place>,
    /// Windows of the region; of its first window only.
    pub(crate) region_windows: Cell<u32>,
    /// Empty windows of the region; of its first window only.
    pub(crate) region_empty: Cell<u32>,
    /// The first window of the region.
    pub(crate) leader: Cell<Window>,
    pub(crate) previous: Cell<Option<Window>>,
    pub(crate) next: Cell<Option<Window>>,
}

const _: () = assert!(size_of::<Front>() == LINE_BYTES && size_of::<Descriptor>() <= FIELD_BYTES);

/// Any number that packet bytes are unlikely to contain.
const SEAL: usize = 0x9E37_79B9_7F4A_7C15_u64 as usize;

/// A window held from the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window(NonNull<Descriptor>);

impl Window {
    /// Makes the memory at `base` a window that leads to `home`, empty, its own region, and in no list.
    ///
    /// # Safety
    /// `base` is the start of `geometry.window_bytes()` writable bytes of a region held from the system, aligned to
    /// their own size and used by nobody else; the pointer may reach all of them.
    pub(crate) unsafe fn found<G: Geometry>(base: NonNull<u8>, home: *const (), geometry: G) -> Self {
        // SAFETY: the descriptor lies inside the window (`Geometry::bookkeeping_units`), which the caller owns.
        unsafe {
            base.write_bytes(0, geometry.descriptor_bytes());
            let window = Self(base.cast());
            base.cast::<Descriptor>().write(Descriptor {
                front: Front(Plate::new(base.addr().get(), home)),
                credit: Cell::new(u32::MAX),
                notice: Cell::new(0),
                place: Cell::new(Place::Empty),
                region_windows: Cell::new(1),
                region_empty: Cell::new(0),
                leader: Cell::new(window),
                previous: Cell::new(None),
                next: Cell::new(None),
            });
            window
        }
    }

    /// The window that a block lies in.
    ///
    /// # Safety
    /// `block` lies in a window of `geometry` that is held from the system (invariant 1), and its pointer may reach
    /// that window.
    #[inline(always)]
    pub(crate) unsafe fn of_block<G: Geometry>(block: NonNull<u8>, geometry: G) -> Self {
        let inside = geometry.window_bytes() - 1;
        let start = block.as_ptr().map_addr(|address| address & !inside);
        // SAFETY: a window that the system gave starts at no null pointer.
        Self(unsafe { NonNull::new_unchecked(start).cast() })
    }

    /// The window's plate.
    #[inline(always)]
    #[cfg(feature = "shared")]
    pub(crate) fn plate(self) -> NonNull<Plate> {
        // A descriptor begins with it.
        self.0.cast()
    }

    /// The first byte of the window.
    #[inline(always)]
    pub(crate) fn base(self) -> NonNull<u8> {
        self.0.cast()
    }

    /// The address of the window.
    pub(crate) fn address(self) -> usize {
        self.base().addr().get()
    }

    /// Which units are in use.
    #[inline(always)]
    pub(crate) fn map<'a, G: Geometry>(self, geometry: G) -> Map<'a> {
        // SAFETY: the map lies right behind the fields, inside the descriptor, initialised by `found` and only written
        // through its cells (invariants 1 and 2). Nobody keeps a `Map` beyond the call that asked for it.
        Map::over(unsafe {
            let map = self.0.cast::<u8>().add(FIELD_BYTES).cast::<Cell<u8>>();
            core::slice::from_raw_parts(map.as_ptr(), geometry.window_units())
        })
    }

    /// The map's byte for a unit.
    ///
    /// # Safety
    /// `unit` is below the units of a window.
    #[inline(always)]
    pub(crate) unsafe fn code<'a>(self, unit: usize) -> &'a Cell<u8> {
        // SAFETY: as in `map`; the caller keeps to its length.
        unsafe { self.0.cast::<u8>().add(FIELD_BYTES + unit).cast::<Cell<u8>>().as_ref() }
    }

    /// Where the map would have the byte of the unit at address 0, for units counted from there.
    pub(crate) fn map_origin<G: Geometry>(self, geometry: G) -> *mut u8 {
        let map = self.0.cast::<u8>().as_ptr().wrapping_add(FIELD_BYTES);
        map.wrapping_sub(self.address() >> geometry.unit_shift())
    }

    /// Units of live blocks, and of the extent while this window is the current one.
    pub(crate) fn live_units(self) -> u32 {
        self.credit.get().wrapping_add(self.notice.get()).wrapping_add(1)
    }

    /// Counts `units` as live.
    pub(crate) fn count(self, units: u32) {
        self.credit.set(self.credit.get().wrapping_add(units));
    }

    /// Counts `units` as no longer live; tells whether that brings the window to where it is looked at.
    #[inline(always)]
    pub(crate) fn discount(self, units: u32) -> bool {
        let (credit, noticed) = self.credit.get().overflowing_sub(units);
        self.credit.set(credit);
        noticed
    }

    /// Asks for the descriptor and the beginning of its map to be brought into the cache.
    pub(crate) fn prefetch(self) {
        /// Enough for the processor to see where this leads and to go on by itself; all lines of a map would stall it.
        const LINES: usize = 8;
        let behind_front = self.0.cast::<u8>().as_ptr().wrapping_add(size_of::<Front>());
        prefetch(behind_front, LINES);
    }

    /// How many live units are left when the window is looked at.
    pub(crate) fn notice(self) -> u32 {
        self.notice.get()
    }

    /// Has the window looked at when `live` units or fewer are left.
    pub(crate) fn notice_at(self, live: u32) {
        self.credit.set(self.live_units().wrapping_sub(live).wrapping_sub(1));
        self.notice.set(live);
    }

    /// Counts one unit more than there is.
    #[cfg(test)]
    pub(crate) fn miscount(self) {
        self.count(1);
    }

    /// Whether the descriptor is still the one that was written for this window.
    pub(crate) fn is_sealed(self) -> bool {
        self.front.0.is_sealed(self.address())
    }

    /// Overwrites the seal, as stray bytes would.
    #[cfg(test)]
    pub(crate) fn break_seal(self) {
        self.front.0.seal.set(0);
    }
}

fn seal_of(address: usize, home: *const ()) -> usize {
    address ^ home.addr() ^ SEAL
}

impl Deref for Window {
    type Target = Descriptor;

    #[inline(always)]
    fn deref(&self) -> &Descriptor {
        // SAFETY: invariants 1 and 2.
        unsafe { self.0.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use core::ptr;
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    #[cfg(feature = "shared")]
    fn a_plate_that_was_written_to_leads_nowhere() {
        let home = ptr::without_provenance(0x7000);
        let mut plate = Plate::new(0, home);
        let place = NonNull::from(&mut plate);
        // SAFETY: that is a plate, whatever is written to it.
        unsafe {
            place.write(Plate::new(place.addr().get(), home));
            assert_eq!(Plate::sealed_home(place), NonNull::new(home.cast_mut()));
            for bit in 0..2 * usize::BITS {
                let word = place.cast::<usize>().add((bit / usize::BITS) as usize);
                let before = word.read();
                word.write(before ^ 1 << (bit % usize::BITS));
                assert_eq!(Plate::sealed_home(place), None, "bit {bit}");
                word.write(before);
            }
            assert_eq!(Plate::sealed_home(place), NonNull::new(home.cast_mut()));
            place.write(Plate::new(place.addr().get(), ptr::null()));
            assert_eq!(Plate::sealed_home(place), None);
        }
    }

    #[test]
    fn a_seal_is_that_of_one_window_alone() {
        let window = |bit: u32| (1 << (usize::BITS - 1)) | (1 << bit);
        let seals: BTreeSet<_> = (0..usize::BITS - 1).map(|bit| seal_of(window(bit), ptr::null())).collect();
        assert_eq!(seals.len(), usize::BITS as usize - 1);
    }
}
