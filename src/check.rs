//! The self-check: every invariant of the bookkeeping, and what it means when one does not hold.
//!
//! Of each window, in time linear in its map:
//!
//! 1. its descriptor is the one that was written for it ([`IntegrityError::Descriptor`]);
//! 2. each live block ends before the next one starts ([`IntegrityError::Overlap`]), within the units for blocks
//!    ([`IntegrityError::Bookkeeping`]);
//! 3. the units of its live blocks, and of the extent in the current window, are those that were counted
//!    ([`IntegrityError::LiveUnits`]);
//! 4. no block starts in the extent ([`IntegrityError::Extent`]);
//! 5. it is where it says it is: in the list it names, or in none ([`IntegrityError::Place`]), to be noticed in time
//!    ([`IntegrityError::Notice`]).
//!
//! Of the whole: the totals are the sums of their parts ([`IntegrityError::Total`]); each parked block is one in its
//! window's map, and with `check` on each live block has its size on record ([`IntegrityError::Record`]) and an unbroken
//! canary ([`IntegrityError::Overflow`]), and the bytes that are in no block are as they were left when they were freed
//! ([`IntegrityError::WriteAfterFree`]).

use core::fmt;
use core::ptr::NonNull;

use crate::descriptor::{Place, Window};
use crate::geometry::Geometry;
use crate::heap::{Cold, Heap};
use crate::list::List;
use crate::system::System;

/// Bytes written past the size that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow {
    /// Where the block starts.
    pub block: usize,
    /// The size in bytes that was asked for.
    pub size: usize,
    /// How far behind the last of those bytes the furthest stray write reached that can be seen, in bytes.
    pub past_end: usize,
}

/// Bytes written where no block lives, most likely through a pointer to a block that was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteAfterFree {
    /// The first of them.
    pub address: usize,
    /// How many bytes lie from there to the last of them that can be seen in the same hole or block.
    pub bytes: usize,
}

/// Which total is not the sum of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Total {
    /// Units of live blocks over all windows.
    LiveUnits,
    /// Bytes taken from the system.
    AllocatedBytes,
    /// Bytes of large blocks.
    LargeBytes,
    /// Windows on the list of empty ones.
    EmptyWindows,
    /// Windows on the list of those worth another pass.
    ReusableWindows,
    /// Windows on the list of those of which too little is free.
    FullWindows,
    /// Parked blocks: freed, and about to be handed out again.
    ParkedBlocks,
}

/// Damage to the bookkeeping, or a write past the end of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IntegrityError {
    /// A window's descriptor was overwritten.
    Descriptor {
        /// The window.
        window: usize,
    },
    /// Two live blocks share units.
    Overlap {
        /// The window.
        window: usize,
        /// Where the second of them starts.
        block: usize,
    },
    /// A live block reaches into the bookkeeping or beyond its window.
    Bookkeeping {
        /// The window.
        window: usize,
        /// Where the block starts.
        block: usize,
    },
    /// The units of a window's live blocks are not as many as were counted.
    LiveUnits {
        /// The window.
        window: usize,
        /// Units that were counted.
        counted: u32,
        /// Units that its map shows.
        found: u32,
    },
    /// A block starts among the units that are yet to be handed out.
    Extent {
        /// The window.
        window: usize,
        /// The first such unit's address.
        unit: usize,
    },
    /// A window is not in the list in which it says it is, or in one that it does not name.
    Place {
        /// The window.
        window: usize,
    },
    /// A window would not be noticed in time when its blocks are freed.
    Notice {
        /// The window.
        window: usize,
    },
    /// A total is not the sum of its parts.
    Total {
        /// Which total.
        total: Total,
        /// What was counted.
        counted: u64,
        /// What the parts sum up to.
        found: u64,
    },
    /// A parked block is not one in its window's map; with `check` on, a live block has no size on record, or one that
    /// does not fit it, or the reverse.
    Record {
        /// Where the block starts.
        block: usize,
    },
    /// With `check` on: bytes were written past the size that was asked for.
    Overflow(Overflow),
    /// With `check` on: bytes were written where no block lives.
    WriteAfterFree(WriteAfterFree),
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LiveUnits => "live units",
            Self::AllocatedBytes => "allocated bytes",
            Self::LargeBytes => "bytes of large blocks",
            Self::EmptyWindows => "empty windows",
            Self::ReusableWindows => "reusable windows",
            Self::FullWindows => "full windows",
            Self::ParkedBlocks => "parked blocks",
        })
    }
}

impl fmt::Display for IntegrityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Descriptor { window } => write!(f, "the descriptor of the window at {window:#x} was overwritten"),
            Self::Overlap { window, block } => {
                write!(f, "in the window at {window:#x} the block at {block:#x} lies within another")
            }
            Self::Bookkeeping { window, block } => {
                write!(f, "in the window at {window:#x} the block at {block:#x} reaches beyond the units for blocks")
            }
            Self::LiveUnits { window, counted, found } => {
                write!(f, "the window at {window:#x} counts {counted} live units, its map shows {found}")
            }
            Self::Extent { window, unit } => {
                write!(f, "in the window at {window:#x} a block starts at {unit:#x}, which was not handed out")
            }
            Self::Place { window } => write!(f, "the window at {window:#x} is not in the list in which it should be"),
            Self::Notice { window } => write!(f, "the window at {window:#x} would not be noticed when it drains"),
            Self::Total { total, counted, found } => write!(f, "{counted} {total} were counted, there are {found}"),
            Self::Record { block } => write!(f, "what is on record for the block at {block:#x} does not fit it"),
            Self::Overflow(Overflow { block, size, past_end }) => {
                write!(f, "bytes were written up to {past_end} past the end of the {size} bytes at {block:#x}")
            }
            Self::WriteAfterFree(WriteAfterFree { address, bytes }) => {
                write!(f, "a freed block was written to: {bytes} bytes from {address:#x} on, where no block lives")
            }
        }
    }
}

impl core::error::Error for IntegrityError {}

/// What the windows sum up to.
#[derive(Default)]
struct Sums {
    live_units: u64,
    empty: u64,
    reusable: u64,
    full: u64,
    blocks: usize,
    parked: u64,
}

impl<G: Geometry, S: System> Heap<G, S> {
    /// Checks every invariant.
    pub(crate) fn integrity_check(&self) -> Result<(), IntegrityError> {
        self.bookkeeping_check()?;
        if self.settings.check { self.check_freed() } else { Ok(()) }
    }

    /// Checks every invariant but one: it does not look at the bytes of free units.
    pub(crate) fn bookkeeping_check(&self) -> Result<(), IntegrityError> {
        let cold = &*self.cold.borrow();
        let mut sums = Sums::default();
        for (base, window) in cold.windows.iter() {
            if !window.is_sealed() {
                return Err(IntegrityError::Descriptor { window: base });
            }
            self.check_window(cold, window, &mut sums)?;
        }
        for (listed, place, total, found) in [
            (&cold.empty, Place::Empty, Total::EmptyWindows, sums.empty),
            (&cold.reusable, Place::Reusable, Total::ReusableWindows, sums.reusable),
            (&cold.full, Place::Full, Total::FullWindows, sums.full),
        ] {
            self.check_list(cold, listed, place)?;
            expect_total(total, listed.len() as u64, found)?;
        }
        expect_total(Total::LiveUnits, self.counted_units(), sums.live_units)?;
        self.check_parking(cold, sums.parked)?;
        let large: u64 = cold.large.iter().map(|(_, large)| large.layout.size() as u64).sum();
        expect_total(Total::LargeBytes, cold.large_bytes, large)?;
        let windows = (cold.windows.len() * self.geometry().window_bytes()) as u64;
        expect_total(Total::AllocatedBytes, cold.held_bytes, windows + large)?;
        if self.settings.check { self.check_records(cold, sums.blocks) } else { Ok(()) }
    }

    fn check_window(&self, cold: &Cold, window: Window, sums: &mut Sums) -> Result<(), IntegrityError> {
        let geometry = self.geometry();
        let base = window.address();
        let map = window.map(geometry);
        let blocks = geometry.block_units();
        let mut found = 0;
        let units = geometry.window_units() as u32;
        let mut start = map.next_taken(0..units);
        while start < units {
            let parked = map.parked_at(start);
            let length = map.block_at(start).or(parked).unwrap_or(0);
            let end = start.saturating_add(length);
            let next = map.next_taken(start + 1..units);
            let block = base + geometry.bytes(start);
            if start < blocks.start || end > blocks.end {
                return Err(IntegrityError::Bookkeeping { window: base, block });
            }
            if next < end {
                return Err(IntegrityError::Overlap { window: base, block: base + geometry.bytes(next) });
            }
            if parked.is_some() {
                sums.parked += 1;
            } else if self.settings.check {
                let (capacity, address) = (geometry.bytes(length), window.base().addr().get() + geometry.bytes(start));
                // SAFETY: the block lies in the window, as was just seen.
                let pointer = unsafe { window.base().add(address - base) };
                self.check_canary(cold, pointer, capacity)?;
            }
            found += length;
            sums.blocks += 1;
            start = next;
        }
        if let Some((current, extent)) = self.extent()
            && current == window
        {
            let unit = map.next_taken(extent.clone());
            if unit < extent.end {
                return Err(IntegrityError::Extent { window: base, unit: base + geometry.bytes(unit) });
            }
            found += extent.end - extent.start;
        }
        let counted = window.live_units();
        if counted != found {
            return Err(IntegrityError::LiveUnits { window: base, counted, found });
        }
        sums.live_units += u64::from(found);
        let notice = window.notice();
        let (noticed, is_current) = match window.place.get() {
            Place::Current => (notice == 0 || notice < found, true),
            Place::Full => {
                sums.full += 1;
                (notice < found, false)
            }
            Place::Reusable => {
                sums.reusable += 1;
                (notice == 0 && found > 0, false)
            }
            Place::Empty => {
                sums.empty += 1;
                (found == 0, false)
            }
        };
        if is_current != self.extent().is_some_and(|(current, _)| current == window) {
            return Err(IntegrityError::Place { window: base });
        }
        if !noticed {
            return Err(IntegrityError::Notice { window: base });
        }
        Ok(())
    }

    /// Checks that each parked block is one in its window's map, and the reverse.
    fn check_parking(&self, cold: &Cold, found: u64) -> Result<(), IntegrityError> {
        let geometry = self.geometry();
        let mut counted = 0;
        for (block, length) in self.parking.blocks() {
            let address = block.addr().get();
            let base = address & !(geometry.window_bytes() - 1);
            let unit = ((address - base) >> geometry.unit_shift()) as u32;
            let parked = cold.windows.get(base).and_then(|window| window.map(geometry).parked_at(unit));
            if parked != Some(length) {
                return Err(IntegrityError::Record { block: address });
            }
            counted += 1;
        }
        expect_total(Total::ParkedBlocks, counted, found)
    }

    /// Walks a list; follows no link that does not lead to a window in the table.
    fn check_list(&self, cold: &Cold, list: &List, place: Place) -> Result<(), IntegrityError> {
        let known = |window: Window| cold.windows.get(window.address()) == Some(window);
        let mut walked = 0;
        let mut previous: Option<Window> = None;
        let mut next = list.first();
        while let Some(window) = next {
            walked += 1;
            let behind = previous.map_or(0, Window::address);
            if !known(window) || walked > list.len() {
                return Err(IntegrityError::Place { window: behind });
            }
            if window.previous.get() != previous || window.place.get() != place {
                return Err(IntegrityError::Place { window: window.address() });
            }
            previous = next;
            next = window.next.get();
        }
        if previous != list.last() || walked != list.len() {
            return Err(IntegrityError::Place { window: previous.map_or(0, Window::address) });
        }
        Ok(())
    }

    /// Checks that each block has a record and each record a block, and the canaries of large blocks.
    fn check_records(&self, cold: &Cold, blocks_in_windows: usize) -> Result<(), IntegrityError> {
        for (_, large) in cold.large.iter() {
            self.check_canary(cold, large.block, large.layout.size())?;
        }
        expect_records(cold, blocks_in_windows + cold.large.len())
    }

    fn check_canary(&self, cold: &Cold, block: NonNull<u8>, capacity: usize) -> Result<(), IntegrityError> {
        match cold.requested.get(block.addr().get()) {
            Some(size) if size <= capacity => {
                self.canary_is_whole(block, size, capacity).map_err(IntegrityError::Overflow)
            }
            _ => Err(IntegrityError::Record { block: block.addr().get() }),
        }
    }
}

/// Each block has a record; when there are more records than blocks, some record has no block.
fn expect_records(cold: &Cold, blocks: usize) -> Result<(), IntegrityError> {
    if cold.requested.len() == blocks {
        return Ok(());
    }
    let block = cold.requested.iter().map(|(block, _)| block).next().unwrap_or(0);
    Err(IntegrityError::Record { block })
}

fn expect_total(total: Total, counted: u64, found: u64) -> Result<(), IntegrityError> {
    if counted == found { Ok(()) } else { Err(IntegrityError::Total { total, counted, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::geometry::Runtime;
    use crate::system::Os;

    type Checked = Heap<Runtime, Os>;

    /// Windows of 4 KiB with 64-byte units: a full one, a reusable one, the current one, and empty ones.
    fn heap(settings: Settings) -> (Checked, Vec<NonNull<u8>>) {
        let settings = Settings { preallocated_windows: 6, ..settings };
        let heap = Heap::with_settings(Runtime::new(64, 4096).unwrap(), settings, Os).unwrap();
        let blocks: Vec<_> = (0..100).map(|_| heap.allocate(100).unwrap().cast::<u8>()).collect();
        for &block in &blocks[2..20] {
            // SAFETY: live, and not used afterwards.
            unsafe { heap.free(block) };
        }
        assert_eq!(heap.integrity_check(), Ok(()));
        (heap, blocks)
    }

    fn window(heap: &Checked, place: Place) -> Window {
        let cold = heap.cold.borrow();
        let found = cold.windows.iter().map(|(_, window)| window).find(|window| window.place.get() == place);
        found.unwrap_or_else(|| panic!("no window is {place:?}"))
    }

    const PLACES: [Place; 4] = [Place::Current, Place::Full, Place::Reusable, Place::Empty];

    #[test]
    fn every_report_says_what_is_wrong_and_where() {
        let (window, block) = (0x2_0000, 0x2_1000);
        let total = |total| IntegrityError::Total { total, counted: 5, found: 4 }.to_string();
        for (report, says) in [
            (IntegrityError::Descriptor { window }, "the descriptor of the window at 0x20000 was overwritten"),
            (
                IntegrityError::Overlap { window, block },
                "in the window at 0x20000 the block at 0x21000 lies within another",
            ),
            (
                IntegrityError::Bookkeeping { window, block },
                "in the window at 0x20000 the block at 0x21000 reaches beyond the units for blocks",
            ),
            (
                IntegrityError::LiveUnits { window, counted: 3, found: 2 },
                "the window at 0x20000 counts 3 live units, its map shows 2",
            ),
            (
                IntegrityError::Extent { window, unit: block },
                "in the window at 0x20000 a block starts at 0x21000, which was not handed out",
            ),
            (IntegrityError::Place { window }, "the window at 0x20000 is not in the list in which it should be"),
            (IntegrityError::Notice { window }, "the window at 0x20000 would not be noticed when it drains"),
            (IntegrityError::Record { block }, "what is on record for the block at 0x21000 does not fit it"),
        ] {
            assert_eq!(report.to_string(), says);
        }
        for (which, says) in [
            (Total::LiveUnits, "5 live units were counted, there are 4"),
            (Total::AllocatedBytes, "5 allocated bytes were counted, there are 4"),
            (Total::LargeBytes, "5 bytes of large blocks were counted, there are 4"),
            (Total::EmptyWindows, "5 empty windows were counted, there are 4"),
            (Total::ReusableWindows, "5 reusable windows were counted, there are 4"),
            (Total::FullWindows, "5 full windows were counted, there are 4"),
            (Total::ParkedBlocks, "5 parked blocks were counted, there are 4"),
        ] {
            assert_eq!(total(which), says);
        }
    }

    #[test]
    fn an_overwritten_descriptor_is_reported() {
        for place in PLACES {
            let (heap, _) = heap(Settings::new());
            let window = window(&heap, place);
            window.break_seal();
            assert_eq!(heap.integrity_check(), Err(IntegrityError::Descriptor { window: window.address() }));
        }
    }

    #[test]
    fn a_block_within_a_block_is_an_overlap() {
        let (heap, blocks) = heap(Settings::new());
        let window = window(&heap, Place::Full);
        let first = window.map(heap.geometry()).blocks().find(|block| block.len() > 1).unwrap();
        window.map(heap.geometry()).damage(first.end - 1, 1);
        let block = window.address() + heap.geometry().bytes(first.end - 1);
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Overlap { window: window.address(), block }));
        drop(blocks);
    }

    #[test]
    fn a_block_on_the_bookkeeping_is_reported() {
        for from_end in [false, true] {
            let (heap, _) = heap(Settings::new());
            let window = window(&heap, Place::Empty);
            let bookkeeping = heap.geometry().bookkeeping_units();
            let unit = if from_end { bookkeeping.end as u32 - 1 } else { 0 };
            window.map(heap.geometry()).damage(unit, 1);
            let block = window.address() + heap.geometry().bytes(unit);
            assert_eq!(heap.integrity_check(), Err(IntegrityError::Bookkeeping { window: window.address(), block }));
        }
    }

    #[test]
    fn a_length_that_reaches_too_far_is_reported() {
        for code in [64, 127, 128, 191] {
            let (heap, _) = heap(Settings::new());
            let window = window(&heap, Place::Full);
            let map = window.map(heap.geometry());
            let last = map.blocks().last().unwrap();
            map.damage(last.start, code);
            let block = window.address() + heap.geometry().bytes(last.start);
            assert_eq!(heap.integrity_check(), Err(IntegrityError::Bookkeeping { window: window.address(), block }));
        }
    }

    #[test]
    fn a_lost_block_is_missed_in_the_count() {
        let (heap, _) = heap(Settings::new());
        let window = window(&heap, Place::Full);
        let map = window.map(heap.geometry());
        let last = map.blocks().last().unwrap();
        map.damage(last.start, 0);
        let counted = window.live_units();
        let error = IntegrityError::LiveUnits { window: window.address(), counted, found: counted - last.len() as u32 };
        assert_eq!(heap.integrity_check(), Err(error));
    }

    #[test]
    fn a_wrong_count_is_reported_with_both_numbers() {
        for place in PLACES {
            let (heap, _) = heap(Settings::new());
            let window = window(&heap, place);
            let found = window.live_units();
            window.miscount();
            let error = IntegrityError::LiveUnits { window: window.address(), counted: found + 1, found };
            assert_eq!(heap.integrity_check(), Err(error));
        }
    }

    #[test]
    fn a_mark_in_the_extent_is_reported() {
        let (heap, _) = heap(Settings::new());
        let (window, extent) = heap.extent().unwrap();
        assert!(!extent.is_empty());
        window.map(heap.geometry()).damage(extent.end - 1, 1);
        let unit = window.address() + heap.geometry().bytes(extent.end - 1);
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Extent { window: window.address(), unit }));
    }

    #[test]
    fn a_window_that_would_not_be_noticed_is_reported() {
        for place in [Place::Current, Place::Full, Place::Reusable] {
            let (heap, _) = heap(Settings::new());
            let window = window(&heap, place);
            window.notice_at(window.live_units());
            assert_eq!(heap.integrity_check(), Err(IntegrityError::Notice { window: window.address() }));
        }
    }

    #[test]
    fn a_window_in_the_wrong_place_is_reported() {
        let (heap, _) = heap(Settings::new());
        let current = window(&heap, Place::Current);
        current.place.set(Place::Full);
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Place { window: current.address() }));
        let (heap, _) = self::heap(Settings::new());
        let full = window(&heap, Place::Full);
        full.place.set(Place::Current);
        full.notice_at(0);
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Place { window: full.address() }));
    }

    #[test]
    fn a_broken_link_is_reported_and_not_followed() {
        let (heap, _) = heap(Settings::new());
        let empty = heap.cold.borrow().empty.first().unwrap();
        // A link into the middle of nowhere.
        let nowhere = NonNull::new(core::ptr::without_provenance_mut(0x5555_0000)).unwrap();
        // SAFETY: nobody looks there: that is what is tested.
        empty.next.set(Some(unsafe { Window::of_block(nowhere, heap.geometry()) }));
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Place { window: empty.address() }));
        // A ring.
        empty.next.set(Some(empty));
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Place { window: empty.address() }));
        // Cut short.
        empty.next.set(None);
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Place { window: empty.address() }));
    }

    #[test]
    fn a_list_that_is_not_whole_is_reported() {
        let (heap, blocks) = heap(Settings::new());
        for &block in blocks[..2].iter().chain(&blocks[20..]) {
            // SAFETY: live, and not used afterwards.
            unsafe { heap.free(block) };
        }
        let listed: Vec<_> = heap.cold.borrow().empty.iter().collect();
        let [first, second, third, .., last] = listed[..] else { panic!("{} windows are empty", listed.len()) };
        // No way back.
        second.previous.set(None);
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Place { window: second.address() }));
        second.previous.set(Some(first));
        assert_eq!(heap.integrity_check(), Ok(()));
        // One is passed over.
        first.next.set(Some(third));
        third.previous.set(Some(first));
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Place { window: last.address() }));
    }

    #[test]
    fn a_window_in_a_list_that_it_does_not_name_is_reported() {
        let (heap, _) = heap(Settings::new());
        let reusable = window(&heap, Place::Reusable);
        reusable.place.set(Place::Full);
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Place { window: reusable.address() }));
    }

    #[test]
    fn a_window_that_is_in_no_list_is_missed() {
        let (heap, _) = heap(Settings::new());
        let window = window(&heap, Place::Empty);
        heap.cold.borrow_mut().empty.remove(window);
        let listed = heap.cold.borrow().empty.len() as u64;
        let error = IntegrityError::Total { total: Total::EmptyWindows, counted: listed, found: listed + 1 };
        assert_eq!(heap.integrity_check(), Err(error));
        let (heap, _) = self::heap(Settings::new());
        let window = self::window(&heap, Place::Reusable);
        heap.cold.borrow_mut().reusable.remove(window);
        let listed = heap.cold.borrow().reusable.len() as u64;
        let error = IntegrityError::Total { total: Total::ReusableWindows, counted: listed, found: listed + 1 };
        assert_eq!(heap.integrity_check(), Err(error));
    }

    #[test]
    fn wrong_totals_are_reported_by_name() {
        let (heap, _) = heap(Settings::new());
        heap.allocate(10_000).unwrap();
        let change = |edit: &dyn Fn(&mut Cold)| edit(&mut heap.cold.borrow_mut());
        let total = || match heap.integrity_check() {
            Err(IntegrityError::Total { total, counted, found }) => (total, counted.wrapping_sub(found)),
            other => panic!("{other:?}"),
        };
        change(&|cold| cold.large_bytes += 3);
        assert_eq!(total(), (Total::LargeBytes, 3));
        change(&|cold| cold.large_bytes -= 3);
        change(&|cold| cold.held_bytes += 5);
        assert_eq!(total(), (Total::AllocatedBytes, 5));
        change(&|cold| cold.held_bytes -= 5);
        assert_eq!(heap.integrity_check(), Ok(()));
        heap.miscount(7);
        assert_eq!(total(), (Total::LiveUnits, 7));
    }

    #[test]
    fn records_and_canaries_are_checked() {
        let (heap, blocks) = heap(Settings { check: true, ..Settings::new() });
        let block = blocks[0].addr().get();
        heap.cold.borrow_mut().requested.replace(block, 1000);
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Record { block }));
        heap.cold.borrow_mut().requested.replace(block, 99);
        let overflow = Overflow { block, size: 99, past_end: 1 };
        // SAFETY: the hundredth byte belongs to the block.
        unsafe { blocks[0].add(99).write(1) };
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Overflow(overflow)));
        heap.cold.borrow_mut().requested.replace(block, 100);
        assert_eq!(heap.integrity_check(), Ok(()));
        let mut cold = heap.cold.borrow_mut();
        cold.requested.reserve(1).unwrap();
        cold.requested.insert(64, 10);
        drop(cold);
        assert!(matches!(heap.integrity_check(), Err(IntegrityError::Record { .. })));
        heap.cold.borrow_mut().requested.remove(64);
        heap.cold.borrow_mut().requested.remove(block);
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Record { block }));
    }

    #[test]
    fn a_byte_in_a_free_unit_is_reported_only_when_it_must_stay_as_it_is() {
        // Without `check` the sanitizer reports the write itself.
        let modes: &[bool] = if cfg!(pktalloc_asan) { &[true] } else { &[false, true] };
        for &check in modes {
            let (heap, blocks) = heap(Settings { check, ..Settings::new() });
            // SAFETY: the block was freed; its window is held.
            unsafe { blocks[7].add(31).write(0) };
            let address = blocks[7].addr().get() + 31;
            let error = IntegrityError::WriteAfterFree(WriteAfterFree { address, bytes: 1 });
            assert_eq!(heap.integrity_check(), if check { Err(error) } else { Ok(()) });
            assert_eq!(heap.bookkeeping_check(), Ok(()));
        }
    }

    #[test]
    fn a_full_window_that_is_in_no_list_is_missed() {
        let (heap, _) = heap(Settings::new());
        let window = window(&heap, Place::Full);
        heap.cold.borrow_mut().full.remove(window);
        let listed = heap.cold.borrow().full.len() as u64;
        let error = IntegrityError::Total { total: Total::FullWindows, counted: listed, found: listed + 1 };
        assert_eq!(heap.integrity_check(), Err(error));
    }

    /// A heap with parked blocks, and where one of them is.
    fn parked() -> (Checked, NonNull<u8>) {
        let settings = Settings { memory_limit: Some(4 * 4096), ..Settings::new() };
        let heap = Heap::with_settings(Runtime::new(64, 4096).unwrap(), settings, Os).unwrap();
        let mut blocks = Vec::new();
        while let Ok(block) = heap.allocate(100) {
            blocks.push(block.cast::<u8>());
        }
        for &block in blocks.iter().step_by(2) {
            // SAFETY: live, and not used afterwards.
            unsafe { heap.free(block) };
        }
        heap.allocate(100).unwrap();
        // SAFETY: live, and not used afterwards.
        unsafe { heap.free(blocks[31]) };
        assert!(heap.parking.blocks().any(|(block, units)| block == blocks[31] && units == 2));
        assert_eq!(heap.integrity_check(), Ok(()));
        (heap, blocks[31])
    }

    #[test]
    fn parked_blocks_are_compared_with_their_maps() {
        let unit = |heap: &Checked, block: NonNull<u8>| {
            let address = block.addr().get();
            let window = heap.cold.borrow().windows.at_or_below(address).unwrap().1;
            (window, ((address - window.address()) / 64) as u32)
        };
        // The map shows a live block where a parked one is.
        let (heap, block) = parked();
        let (window, start) = unit(&heap, block);
        window.map(heap.geometry()).set(start, 2);
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Record { block: block.addr().get() }));
        // The map shows a parked block that nobody parked.
        let (heap, block) = parked();
        let (window, start) = unit(&heap, block);
        let live = window.map(heap.geometry()).blocks().find(|live| live.start != start && live.len() == 2).unwrap();
        window.map(heap.geometry()).damage(live.start, crate::window::parked_code(2));
        let error = IntegrityError::Total { total: Total::ParkedBlocks, counted: 1, found: 2 };
        assert_eq!(heap.integrity_check(), Err(error));
    }

    #[test]
    fn a_reusable_window_without_live_blocks_would_not_be_noticed() {
        let (heap, _) = heap(Settings::new());
        let window = window(&heap, Place::Reusable);
        let map = window.map(heap.geometry());
        let live: Vec<_> = map.blocks().collect();
        for block in live {
            map.release(block.start);
            let _ = window.discount(block.len() as u32);
        }
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Notice { window: window.address() }));
    }
}
