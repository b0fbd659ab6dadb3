//! Regions and their windows in memory: the handles to them, and what the crate's unsafe code leans on.
//!
//! [`geometry`](crate::geometry) draws where things lie. The invariants:
//!
//! 1. A [`Region`] or [`Window`] exists only while its region is held from the system: regions leave the allocator's
//!    table and every list before their memory is returned.
//! 2. The bookkeeping is written by this crate only, through `Cell`s, on one thread at a time. Blocks never overlap it:
//!    they lie in the windows behind it, or behind it in the window ([`Geometry::block_units`]). Other threads read the
//!    owner pointer alone, which nobody writes while the region is held.
//! 3. The pointer in a `Region` or `Window` may reach the whole region, since it is derived from the pointer that the
//!    system gave; so may the pointer to a block.
//! 4. A window's map, descriptor and credit have values from the first time it is *claimed* on. A window that was never
//!    claimed is reserved; nothing but its bits in the header says so, and nothing else of it is read.

use core::cell::Cell;
use core::ops::{Deref, Range};
use core::ptr::NonNull;

use crate::bitset::{Bitset, Words, WordsMut};
use crate::geometry::{CACHE_ROWS, CREDIT_BYTES, DESCRIPTOR_BYTES, Geometry, HEADER_BYTES, MOST_REGION_WINDOWS};
use crate::map::{Map, is_long, live_number};

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

/// Says whose a block is: at the front of a region's header, or in front of a block that lies in no region.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct OwnerPointer {
    owner: *const (),
    /// Distinguishes an owner pointer from anything else that may lie here.
    seal: Cell<usize>,
}

impl OwnerPointer {
    /// The pointer that leads from `address`, where it is stored, to `owner`.
    pub(crate) fn new(address: usize, owner: *const ()) -> Self {
        Self { owner, seal: Cell::new(seal_of(address, owner)) }
    }

    /// The owner, if nobody has written to it but `new`. Any thread may ask.
    ///
    /// # Safety
    /// There is an owner pointer, or what stray bytes have left of it.
    #[inline(always)]
    #[cfg(feature = "shared")]
    pub(crate) unsafe fn owner(this: NonNull<Self>) -> *const () {
        // SAFETY: the caller says so. No reference is made to what lies beside it, which another thread may be writing.
        unsafe { (&raw const (*this.as_ptr()).owner).read() }
    }

    /// The owner; `None` if somebody has written to it.
    ///
    /// # Safety
    /// As for [`owner`](Self::owner).
    #[cfg(feature = "shared")]
    pub(crate) unsafe fn sealed_owner(this: NonNull<Self>) -> Option<NonNull<()>> {
        // SAFETY: the caller says so.
        let pointer = unsafe { this.as_ref() };
        if pointer.is_sealed(this.addr().get()) { NonNull::new(pointer.owner.cast_mut()) } else { None }
    }

    /// Whether this is still what was written for `address`.
    fn is_sealed(&self, address: usize) -> bool {
        self.seal.get() == seal_of(address, self.owner)
    }
}

/// Any number that packet bytes are unlikely to contain, and that is odd, so that every bit of a product depends on
/// those below.
pub(crate) const SEAL: usize = 0x9E37_79B9_7F4A_7C15_u64 as usize;

fn seal_of(address: usize, owner: *const ()) -> usize {
    address ^ owner.addr() ^ SEAL
}

/// What stays as it is while a region is held: in a cache line of its own, so that threads which free blocks of other
/// threads' regions may look at it without being in the owner's way.
#[derive(Debug)]
#[repr(C, align(64))]
struct Front(OwnerPointer);

/// A word of bits, one for each window of a region.
#[derive(Debug)]
pub(crate) struct WindowBits(Cell<u64>);

impl WindowBits {
    /// These bits set.
    const fn new(word: u64) -> Self {
        Self(Cell::new(word))
    }

    /// The bits as a set, by value.
    pub(crate) fn get(&self) -> Bitset<[u64; 1]> {
        Bitset::over([self.0.get()], MOST_REGION_WINDOWS)
    }

    /// Whether a window's bit is set.
    pub(crate) fn test(&self, window: usize) -> bool {
        self.get().test(window)
    }

    /// Sets a window's bit.
    pub(crate) fn set(&self, window: usize) {
        self.0.set(self.0.get() | 1 << window);
    }

    /// Clears a window's bit.
    pub(crate) fn clear(&self, window: usize) {
        self.0.set(self.0.get() & !(1 << window));
    }

    /// All bits.
    pub(crate) fn word(&self) -> u64 {
        self.0.get()
    }
}

/// The bit of [`Header::resident`] that says whether the stacks of cached blocks may have pages behind them. Regions
/// that have stacks begin with bookkeeping.
pub(crate) const CACHE: usize = 0;

/// The front of a region's bookkeeping.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Header {
    front: Front,
    /// Windows without a live block: empty or reserved.
    pub(crate) idle: WindowBits,
    /// Windows that are not held: address space, with or without pages behind it.
    pub(crate) reserved: WindowBits,
    /// Windows that may have pages behind them, and in place of the first one, which is bookkeeping, the
    /// [stacks of cached blocks](CACHE).
    pub(crate) resident: WindowBits,
    /// Windows whose map has been cleared.
    pub(crate) mapped: WindowBits,
    /// Whether the maps of other windows may have pages behind them all the same, which another allocator left.
    pub(crate) left: Cell<bool>,
    /// The neighbours in the list of regions with reserved windows.
    pub(crate) previous: Cell<Option<Region>>,
    pub(crate) next: Cell<Option<Region>>,
}

const _: () = assert!(size_of::<Header>() <= HEADER_BYTES);

/// A region held from the system, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region(NonNull<u8>);

impl Region {
    /// Makes the memory at `base` a region of reserved windows whose owner is `owner`; `resident` says what may have
    /// pages behind it.
    ///
    /// # Safety
    /// `base` is the start of `geometry.region_bytes()` writable bytes held from the system, aligned to their own size
    /// and used by nobody else; the pointer may reach all of them.
    pub(crate) unsafe fn found<G: Geometry>(base: NonNull<u8>, owner: *const (), resident: u64, geometry: G) -> Self {
        let windows = geometry.windows_mask();
        // SAFETY: the header lies inside the region, which the caller owns.
        unsafe {
            let header = base.add(geometry.header_start());
            header.cast::<Header>().write(Header {
                front: Front(OwnerPointer::new(header.addr().get(), owner)),
                idle: WindowBits::new(windows),
                reserved: WindowBits::new(windows),
                resident: WindowBits::new(resident & (windows | 1 << CACHE)),
                mapped: WindowBits::new(0),
                left: Cell::new(resident != 0),
                previous: Cell::new(None),
                next: Cell::new(None),
            });
            if geometry.cache_bytes() > 0 {
                base.add(geometry.stacks_start()).cast::<[u32; CACHE_ROWS.len()]>().write([0; CACHE_ROWS.len()]);
            }
        }
        Self(base)
    }

    /// The region that a block lies in.
    ///
    /// # Safety
    /// `block` lies in a region of `geometry` that is held (invariant 1), and its pointer may reach that region.
    #[inline(always)]
    pub(crate) unsafe fn of_block<G: Geometry>(block: NonNull<u8>, geometry: G) -> Self {
        let inside = geometry.region_bytes() - 1;
        let start = block.as_ptr().map_addr(|address| address & !inside);
        // SAFETY: a region that the system gave starts at no null pointer.
        Self(unsafe { NonNull::new_unchecked(start) })
    }

    /// The first byte of the region.
    #[inline(always)]
    pub(crate) fn base(self) -> NonNull<u8> {
        self.0
    }

    /// The address of the region.
    pub(crate) fn address(self) -> usize {
        self.0.addr().get()
    }

    /// The header.
    pub(crate) fn header<'a, G: Geometry>(self, geometry: G) -> &'a Header {
        // SAFETY: `found` wrote it (invariants 1 and 2). Nobody keeps the reference beyond the call that asked for it.
        unsafe { self.0.add(geometry.header_start()).cast::<Header>().as_ref() }
    }

    /// Where the region says whose its blocks are.
    #[inline(always)]
    #[cfg(feature = "shared")]
    pub(crate) fn owner_pointer<G: Geometry>(self, geometry: G) -> NonNull<OwnerPointer> {
        // SAFETY: a header begins with it.
        unsafe { self.0.add(geometry.header_start()).cast() }
    }

    /// The map's byte for a unit of the region.
    ///
    /// # Safety
    /// `unit` is below the units of a region.
    #[inline(always)]
    pub(crate) unsafe fn code<'a, G: Geometry>(self, unit: usize, geometry: G) -> &'a Cell<u8> {
        // SAFETY: the map lies in the region; a byte is initialised when its window is claimed, and before that nobody
        // knows of a block there (invariants 2 and 4).
        unsafe { self.0.add(geometry.map_start() + unit).cast::<Cell<u8>>().as_ref() }
    }

    /// Sets the map's bytes for a unit of the region and the one behind it.
    ///
    /// # Safety
    /// Both are below the units of a region.
    #[inline(always)]
    pub(crate) unsafe fn set_codes<G: Geometry>(self, unit: usize, [first, second]: [u8; 2], geometry: G) {
        // SAFETY: the caller says so.
        unsafe {
            self.code(unit, geometry).set(first);
            self.code(unit + 1, geometry).set(second);
        }
    }

    /// The number of the length of the live block that starts at a unit of the region; `None` if none does.
    ///
    /// # Safety
    /// As for [`code`](Self::code).
    #[inline(always)]
    pub(crate) unsafe fn length_number_at<G: Geometry>(self, unit: usize, geometry: G) -> Option<u32> {
        // SAFETY: the caller says so; a longer block has another unit behind its first.
        unsafe {
            let first = self.code(unit, geometry).get();
            live_number([first, if is_long(first) { self.code(unit + 1, geometry).get() } else { 0 }])
        }
    }

    /// The maps of windows side by side, and what lies beside them that nobody uses: the part of the map for the
    /// bookkeeping, and what is left in front of the first window.
    pub(crate) fn maps<G: Geometry>(self, windows: Range<usize>, geometry: G) -> NonNull<[u8]> {
        let bound = |window: usize| geometry.map_start() + window * geometry.window_units();
        let start = if windows.start == geometry.first_window() { bound(0) } else { bound(windows.start) };
        let end = if windows.end == geometry.region_windows() {
            geometry.first_window() * geometry.window_bytes()
        } else {
            bound(windows.end)
        };
        // SAFETY: they lie in the region.
        NonNull::slice_from_raw_parts(unsafe { self.0.add(start) }, end - start)
    }

    /// Where the map would have the byte of the unit at address 0, for units counted from there.
    pub(crate) fn map_origin<G: Geometry>(self, geometry: G) -> *mut u8 {
        let map = self.0.as_ptr().wrapping_add(geometry.map_start());
        map.wrapping_sub(self.address() >> geometry.unit_shift())
    }

    /// Which stacks of cached blocks have memory that counts as held: a word for each row, with a bit for each stack.
    /// Only where regions have such stacks.
    pub(crate) fn stacks_held<'a, G: Geometry>(self, geometry: G) -> &'a [Cell<u32>; CACHE_ROWS.len()] {
        debug_assert!(geometry.cache_bytes() > 0);
        // SAFETY: as for `header`.
        unsafe { self.0.add(geometry.stacks_start()).cast().as_ref() }
    }

    /// The places of the stacks of cached blocks.
    pub(crate) fn cache<G: Geometry>(self, geometry: G) -> NonNull<[u8]> {
        // SAFETY: they lie in the region.
        let start = unsafe { self.0.add(geometry.cache_start()) };
        NonNull::slice_from_raw_parts(start, geometry.cache_bytes())
    }

    /// A window of the region.
    #[inline(always)]
    pub(crate) fn window<G: Geometry>(self, index: usize, geometry: G) -> Window {
        debug_assert!(index < geometry.region_windows());
        // SAFETY: the descriptors lie in the region, one for each window.
        Window(unsafe { self.0.add(geometry.descriptors_start() + index * DESCRIPTOR_BYTES).cast() })
    }

    /// The credit of the window with this index; see [`Window::credit`].
    ///
    /// # Safety
    /// `index` is below the windows of a region.
    #[inline(always)]
    pub(crate) unsafe fn credit<'a, G: Geometry>(self, index: usize, geometry: G) -> &'a Cell<u32> {
        // SAFETY: the credits lie in the region, one for each window, and are initialised like the map.
        unsafe { self.0.add(geometry.credits_start() + index * CREDIT_BYTES).cast::<Cell<u32>>().as_ref() }
    }

    /// Whether the descriptor of a window that is held lies at this address, which is not in front of the region.
    pub(crate) fn has_descriptor_at<G: Geometry>(self, address: usize, geometry: G) -> bool {
        let Some(offset) = (address - self.address()).checked_sub(geometry.descriptors_start()) else { return false };
        let index = offset / DESCRIPTOR_BYTES;
        let held = geometry.windows_mask() & !self.header(geometry).reserved.word();
        offset.is_multiple_of(DESCRIPTOR_BYTES) && index < geometry.region_windows() && held >> index & 1 != 0
    }

    /// The windows that are held.
    pub(crate) fn held<G: Geometry>(self, geometry: G) -> impl Iterator<Item = Window> {
        let held =
            Bitset::over([geometry.windows_mask() & !self.header(geometry).reserved.word()], MOST_REGION_WINDOWS);
        let mut from = 0;
        core::iter::from_fn(move || {
            let index = held.first_set_in(from..MOST_REGION_WINDOWS)?;
            from = index + 1;
            Some(self.window(index, geometry))
        })
    }

    /// Bytes of units of the region.
    pub(crate) fn bytes<G: Geometry>(self, units: Range<usize>, geometry: G) -> NonNull<[u8]> {
        debug_assert!(units.end <= geometry.region_units());
        // SAFETY: the units lie in the region.
        let start = unsafe { self.0.add(units.start << geometry.unit_shift()) };
        NonNull::slice_from_raw_parts(start, (units.end - units.start) << geometry.unit_shift())
    }

    /// Whether the header is still the one that was written for this region.
    pub(crate) fn is_sealed<G: Geometry>(self, geometry: G) -> bool {
        self.header(geometry).front.0.is_sealed(self.address() + geometry.header_start())
    }

    /// Overwrites the seal, as stray bytes would.
    #[cfg(test)]
    pub(crate) fn break_seal<G: Geometry>(self, geometry: G) {
        self.header(geometry).front.0.seal.set(0);
    }
}

/// What is known of one window and not needed on the hot path.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Descriptor {
    /// A free that leaves this many live units or fewer has the window looked at.
    threshold: Cell<u32>,
    /// Units at the front that belong to a span that starts in a window in front of this one.
    pub(crate) lead: Cell<u32>,
    /// Bytes of pages without a live unit that were given back, and are not held until the window is used again.
    pub(crate) discarded: Cell<u32>,
    pub(crate) place: Cell<Place>,
    pub(crate) previous: Cell<Option<Window>>,
    pub(crate) next: Cell<Option<Window>>,
}

const _: () = assert!(size_of::<Descriptor>() == DESCRIPTOR_BYTES && align_of::<Descriptor>() <= 8);

/// A window of a region that is held, by its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window(NonNull<Descriptor>);

impl Window {
    /// Gives the window's bookkeeping its first values: no block, in no list. Leaves the map alone.
    pub(crate) fn initialise<G: Geometry>(self, geometry: G) {
        let (region, index) = (self.region(geometry), self.index(geometry));
        // SAFETY: descriptor and credit lie in the region (invariant 1), and nobody refers to them: the window is
        // reserved.
        unsafe {
            region.0.add(geometry.credits_start() + index * CREDIT_BYTES).cast::<u32>().write(u32::MAX);
            self.0.write(Descriptor {
                threshold: Cell::new(0),
                lead: Cell::new(0),
                discarded: Cell::new(0),
                place: Cell::new(Place::Full),
                previous: Cell::new(None),
                next: Cell::new(None),
            });
        }
    }

    /// Clears the window's map.
    pub(crate) fn clear_map<G: Geometry>(self, geometry: G) {
        let first = self.first_unit(geometry);
        // SAFETY: the map lies in the region, and the window is reserved, so that nobody refers to its bytes.
        unsafe { self.region(geometry).0.add(geometry.map_start() + first).write_bytes(0, geometry.window_units()) };
    }

    /// The region of the window.
    #[inline]
    pub(crate) fn region<G: Geometry>(self, geometry: G) -> Region {
        // SAFETY: a descriptor lies in its region.
        unsafe { Region::of_block(self.0.cast(), geometry) }
    }

    /// Which window of its region it is.
    #[inline]
    pub(crate) fn index<G: Geometry>(self, geometry: G) -> usize {
        let offset = self.0.addr().get() & (geometry.region_bytes() - 1);
        (offset - geometry.descriptors_start()) / DESCRIPTOR_BYTES
    }

    /// The first unit of the window, counted from the start of its region.
    #[inline]
    pub(crate) fn first_unit<G: Geometry>(self, geometry: G) -> usize {
        self.index(geometry) * geometry.window_units()
    }

    /// The address of the window's descriptor, which is all that can be said of one that may not be.
    pub(crate) fn as_address(self) -> usize {
        self.0.addr().get()
    }

    /// The first byte of the window.
    pub(crate) fn base<G: Geometry>(self, geometry: G) -> NonNull<u8> {
        // SAFETY: the window lies in its region.
        unsafe { self.region(geometry).0.add(self.index(geometry) << geometry.window_shift()) }
    }

    /// The address of the window.
    pub(crate) fn address<G: Geometry>(self, geometry: G) -> usize {
        self.base(geometry).addr().get()
    }

    /// The bytes of a run of units of the window.
    pub(crate) fn bytes<G: Geometry>(self, units: Range<u32>, geometry: G) -> NonNull<[u8]> {
        let first = self.first_unit(geometry);
        self.region(geometry).bytes(first + units.start as usize..first + units.end as usize, geometry)
    }

    /// Where blocks start.
    pub(crate) fn map<'a, G: Geometry>(self, geometry: G) -> Map<'a> {
        let first = self.first_unit(geometry);
        // SAFETY: the map lies in the region, and its bytes for this window were cleared when it was claimed; they are
        // only written through cells (invariants 1, 2 and 4). Nobody keeps a `Map` beyond the call that asked for it.
        Map::over(unsafe {
            let map = self.region(geometry).0.add(geometry.map_start() + first).cast::<Cell<u8>>();
            core::slice::from_raw_parts(map.as_ptr(), geometry.window_units())
        })
    }

    /// The units for blocks that no span from a window in front takes.
    pub(crate) fn own_units<G: Geometry>(self, geometry: G) -> Range<u32> {
        let Range { start, end } = geometry.block_units();
        start.max(self.lead.get())..end
    }

    /// The bits that say which units of the current window are holes. There is one set for each region.
    pub(crate) fn holes<'a, G: Geometry>(self, geometry: G) -> Bitset<HoleWords<'a>> {
        let units = geometry.window_units();
        // SAFETY: the words lie in the region and take any value (invariants 1 and 2).
        let words = unsafe {
            let words = self.region(geometry).0.add(geometry.holes_start()).cast::<Cell<u64>>();
            core::slice::from_raw_parts(words.as_ptr(), units / u64::BITS as usize)
        };
        Bitset::over(HoleWords(words), units)
    }

    /// Units that may be freed before the window is looked at: its live units less [`threshold`](Self::threshold) and
    /// 1, wrapping around.
    fn credit<'a, G: Geometry>(self, geometry: G) -> &'a Cell<u32> {
        // SAFETY: a window's index is one of its region.
        unsafe { self.region(geometry).credit(self.index(geometry), geometry) }
    }

    /// Units of live blocks, and of the extent while this window is the current one.
    pub(crate) fn live_units<G: Geometry>(self, geometry: G) -> u32 {
        self.credit(geometry).get().wrapping_add(self.threshold.get()).wrapping_add(1)
    }

    /// Units for blocks in which none lives.
    pub(crate) fn free_units<G: Geometry>(self, geometry: G) -> u32 {
        (geometry.block_units().len() as u32).saturating_sub(self.live_units(geometry))
    }

    /// Counts `units` as live.
    pub(crate) fn count<G: Geometry>(self, units: u32, geometry: G) {
        let credit = self.credit(geometry);
        credit.set(credit.get().wrapping_add(units));
    }

    /// Counts `units` as no longer live; tells whether that brings the window to where it is looked at.
    pub(crate) fn discount<G: Geometry>(self, units: u32, geometry: G) -> bool {
        let credit = self.credit(geometry);
        let (left, reached) = credit.get().overflowing_sub(units);
        credit.set(left);
        reached
    }

    /// How many live units are left when the window is looked at.
    pub(crate) fn threshold(self) -> u32 {
        self.threshold.get()
    }

    /// Has the window looked at when `live` units or fewer are left.
    pub(crate) fn set_threshold<G: Geometry>(self, live: u32, geometry: G) {
        self.credit(geometry).set(self.live_units(geometry).wrapping_sub(live).wrapping_sub(1));
        self.threshold.set(live);
    }
}

impl Deref for Window {
    type Target = Descriptor;

    #[inline(always)]
    fn deref(&self) -> &Descriptor {
        // SAFETY: invariants 1, 2 and 4.
        unsafe { self.0.as_ref() }
    }
}

/// The words behind [`Window::holes`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct HoleWords<'a>(&'a [Cell<u64>]);

impl Words for HoleWords<'_> {
    #[inline(always)]
    fn count(&self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn get(&self, index: usize) -> u64 {
        self.0[index].get()
    }
}

impl WordsMut for HoleWords<'_> {
    #[inline(always)]
    fn set(&mut self, index: usize, word: u64) {
        self.0[index].set(word);
    }
}

#[cfg(test)]
mod tests {
    use core::ptr;

    use super::*;
    use crate::geometry::Fixed;
    use crate::system::Os;

    #[test]
    #[cfg(feature = "shared")]
    fn an_owner_pointer_that_was_written_to_leads_nowhere() {
        let owner = ptr::without_provenance(0x7000);
        let mut pointer = OwnerPointer::new(0, owner);
        let place = NonNull::from(&mut pointer);
        // SAFETY: that is an owner pointer, whatever is written to it.
        unsafe {
            place.write(OwnerPointer::new(place.addr().get(), owner));
            assert_eq!(OwnerPointer::sealed_owner(place), NonNull::new(owner.cast_mut()));
            for bit in 0..2 * usize::BITS {
                let word = place.cast::<usize>().add((bit / usize::BITS) as usize);
                let before = word.read();
                word.write(before ^ 1 << (bit % usize::BITS));
                assert_eq!(OwnerPointer::sealed_owner(place), None, "bit {bit}");
                word.write(before);
            }
            assert_eq!(OwnerPointer::sealed_owner(place), NonNull::new(owner.cast_mut()));
            place.write(OwnerPointer::new(place.addr().get(), ptr::null()));
            assert_eq!(OwnerPointer::sealed_owner(place), None);
            // What was written for another place.
            place.write(OwnerPointer::new(place.addr().get() ^ 1 << 22, owner));
            assert_eq!(OwnerPointer::sealed_owner(place), None);
        }
    }

    #[test]
    fn a_window_knows_its_region_and_its_place_in_it() {
        let geometry = Fixed::<64, 2048, Os>::new();
        let base = NonNull::new(ptr::without_provenance_mut::<u8>(0x4000_0000)).unwrap();
        let region = Region(base);
        for index in geometry.first_window()..geometry.region_windows() {
            let window = region.window(index, geometry);
            assert_eq!((window.region(geometry), window.index(geometry)), (region, index));
            assert_eq!(window.first_unit(geometry), index * 2048);
        }
    }
}
