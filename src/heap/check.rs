//! The self-check: every invariant of the bookkeeping.
//!
//! Of each region: its header is the one that was written for it ([`IntegrityError::Header`]). Of each window that is
//! held, in time linear in its map:
//!
//! 1. each live block ends before the next one starts ([`IntegrityError::Overlap`]), within the units for blocks
//!    ([`IntegrityError::Bookkeeping`]); a span is where the windows that it takes say it is, no other is there;
//! 2. the units of its live blocks, and of the extent in the current window, are those that were counted
//!    ([`IntegrityError::LiveUnits`]);
//! 3. no block starts in the extent ([`IntegrityError::Extent`]);
//! 4. it is where it says it is: in the list it names, or in none ([`IntegrityError::Place`]), and looked at in time
//!    ([`IntegrityError::Threshold`]).
//!
//! Of the whole: the totals are the sums of their parts ([`IntegrityError::Total`]); each cached block is one in its
//! window's map, and with `check` on each live block has its size on record ([`IntegrityError::Record`]) and an
//! unbroken canary ([`IntegrityError::Overflow`]), and the bytes that are in no block are as they were left when they
//! were freed ([`IntegrityError::WriteAfterFree`]).

use core::ptr::NonNull;

use super::{Cold, Heap};
use crate::error::{IntegrityError, Total};
use crate::geometry::Geometry;
use crate::list::List;
use crate::region::{Place, Region, Window};
use crate::system::System;

/// What the windows sum up to.
#[derive(Default)]
struct Sums {
    live_units: u64,
    held: u64,
    empty: u64,
    reusable: u64,
    bytes: u64,
    blocks: usize,
    cached: u64,
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
        for (base, region) in cold.regions.iter() {
            if !region.is_sealed(self.geometry) {
                return Err(IntegrityError::Header { region: base });
            }
            sums.bytes += self.region_bytes_held(region);
            // Units of the span that reaches into the window at hand.
            let mut lead = 0;
            let mut next = self.geometry.first_window();
            for window in region.held(self.geometry) {
                let index = window.index(self.geometry);
                if lead > 0 && index != next {
                    return Err(self.beyond(region, next * self.geometry.window_units()));
                }
                lead = self.check_window(cold, window, lead, &mut sums)?;
                next = index + 1;
            }
            if lead > 0 {
                return Err(self.beyond(region, next * self.geometry.window_units()));
            }
        }
        for (listed, place, total, found) in [
            (&cold.empty, Place::Empty, Total::EmptyWindows, sums.empty),
            (&cold.reusable, Place::Reusable, Total::ReusableWindows, sums.reusable),
        ] {
            self.check_list(cold, listed, place)?;
            expect_total(total, listed.len() as u64, found)?;
        }
        expect_total(Total::HeldWindows, cold.held_windows as u64, sums.held)?;
        expect_total(Total::LiveUnits, self.counted_units(), sums.live_units)?;
        self.check_cache(cold, sums.cached)?;
        let large: u64 = cold.large.iter().map(|(_, large)| large.layout.size() as u64).sum();
        expect_total(Total::LargeBytes, cold.large_bytes, large)?;
        expect_total(Total::AllocatedBytes, cold.held_bytes, sums.bytes + large)?;
        if self.settings.check { self.check_records(cold, sums.blocks) } else { Ok(()) }
    }

    /// Checks a window of which a span takes the first `lead` units; returns how many units a span takes of those
    /// behind.
    fn check_window(&self, cold: &Cold, window: Window, lead: u32, sums: &mut Sums) -> Result<u32, IntegrityError> {
        let geometry = self.geometry();
        let base = window.address(geometry);
        let map = window.map(geometry);
        let blocks = geometry.block_units();
        let units = geometry.window_units() as u32;
        let at = |unit: u32| base + geometry.bytes(unit);
        if window.lead.get() != lead.min(units) {
            return Err(IntegrityError::Overlap { window: base, block: at(window.lead.get().min(units)) });
        }
        let (mut found, mut behind) = (lead.min(units), lead.saturating_sub(units));
        let mut start = map.next_start(0..units);
        while start < units {
            let cached = map.cached_at(start);
            let length = map.block_at(start).or(cached).unwrap_or(0);
            let end = start.saturating_add(length);
            let next = map.next_start(map.behind_start(start).min(units)..units);
            if start < blocks.start {
                return Err(IntegrityError::Bookkeeping { window: base, block: at(start) });
            }
            if start < lead || next < end.min(units) {
                let block = if start < lead { start } else { next };
                return Err(IntegrityError::Overlap { window: base, block: at(block) });
            }
            if window.first_unit(geometry) + end as usize > geometry.region_units() {
                return Err(IntegrityError::Bookkeeping { window: base, block: at(start) });
            }
            if cached.is_some() {
                sums.cached += 1;
            } else if self.settings.check {
                let first = window.first_unit(geometry);
                let bytes = window.region(geometry).bytes(first + start as usize..first + end as usize, geometry);
                self.check_canary(cold, bytes.cast(), bytes.len())?;
            }
            found += end.min(units) - start;
            behind = end.saturating_sub(units);
            sums.blocks += 1;
            start = next;
        }
        let is_current = self.extent().filter(|(current, _)| *current == window);
        if let Some((_, extent)) = &is_current {
            let unit = map.next_start(extent.clone());
            if unit < extent.end {
                return Err(IntegrityError::Extent { window: base, unit: at(unit) });
            }
            found += extent.end - extent.start;
        }
        let counted = window.live_units(geometry);
        if counted != found {
            return Err(IntegrityError::LiveUnits { window: base, counted, found });
        }
        sums.live_units += u64::from(found);
        sums.held += 1;
        let threshold = window.threshold();
        let header = window.region(geometry).header(geometry);
        let (is_looked_at, current) = match window.place.get() {
            Place::Current => (threshold == 0, true),
            Place::Full => (threshold < found, false),
            Place::Reusable => {
                sums.reusable += 1;
                (threshold == 0 && found > 0, false)
            }
            Place::Empty => {
                sums.empty += 1;
                (found == 0, false)
            }
        };
        let idle = header.idle.test(window.index(geometry));
        if current != is_current.is_some() || idle != (window.place.get() == Place::Empty) {
            return Err(IntegrityError::Place { window: base });
        }
        if !is_looked_at {
            return Err(IntegrityError::Threshold { window: base });
        }
        Ok(behind)
    }

    /// Checks that each cached block is one in its window's map, and the reverse.
    fn check_cache(&self, cold: &Cold, found: u64) -> Result<(), IntegrityError> {
        let geometry = self.geometry();
        let mut counted = 0;
        for (block, length) in self.cache.blocks() {
            let address = block.addr().get();
            let base = address & !(geometry.region_bytes() - 1);
            let unit = (address - base) >> geometry.unit_shift();
            let window = cold.regions.get(base).map(|region| region.window(unit / geometry.window_units(), geometry));
            let in_window = (unit % geometry.window_units()) as u32;
            if window.and_then(|window| window.map(geometry).cached_at(in_window)) != Some(length) {
                return Err(IntegrityError::Record { block: address });
            }
            counted += 1;
        }
        expect_total(Total::CachedBlocks, counted, found)
    }

    /// A block reaches beyond its region, or into a window that is not held.
    fn beyond(&self, region: Region, unit: usize) -> IntegrityError {
        let geometry = self.geometry();
        let window = unit.saturating_sub(1) / geometry.window_units();
        let window = region.address() + (window << geometry.window_shift());
        IntegrityError::Bookkeeping { window, block: window }
    }

    /// Walks a list; follows no link that does not lead to a window that is held.
    fn check_list(&self, cold: &Cold, list: &List, place: Place) -> Result<(), IntegrityError> {
        let geometry = self.geometry();
        let known = |window: Window| {
            let region = cold.regions.at_or_below(window.as_address());
            region.is_some_and(|(_, region)| region.has_descriptor_at(window.as_address(), geometry))
        };
        let address = |window: Option<Window>| window.map_or(0, |window| window.address(geometry));
        let mut walked = 0;
        let mut previous: Option<Window> = None;
        let mut next = list.first();
        while let Some(window) = next {
            walked += 1;
            if !known(window) || walked > list.len() {
                return Err(IntegrityError::Place { window: address(previous) });
            }
            if window.previous.get() != previous || window.place.get() != place {
                return Err(IntegrityError::Place { window: address(next) });
            }
            previous = next;
            next = window.next.get();
        }
        if previous != list.last() || walked != list.len() {
            return Err(IntegrityError::Place { window: address(previous) });
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
    use crate::error::{Overflow, WriteAfterFree};
    use crate::geometry::Runtime;
    use crate::map::Map;
    use crate::system::{Least, Os};

    type Checked = Heap<Runtime, Os>;

    /// Windows of 16 KiB with 64-byte units: a full one, a reusable one, the current one, and empty ones; and a span.
    fn heap(settings: Settings) -> (Checked, Vec<NonNull<u8>>) {
        let settings = Settings { preallocated_windows: 8, ..settings };
        let heap = Heap::with_settings(Runtime::new::<Os>(64, 16 << 10).unwrap(), settings, Os).unwrap();
        let span = heap.allocate(17_000).unwrap().cast();
        let sizes = [1000; 30].into_iter().chain([100; 30]);
        let mut blocks: Vec<_> = sizes.map(|size| heap.allocate(size).unwrap().cast::<u8>()).collect();
        for block in blocks.drain(17..23) {
            // SAFETY: live, and not used afterwards.
            unsafe { heap.free(block) };
        }
        heap.empty_cache();
        blocks.push(span);
        assert_eq!(heap.integrity_check(), Ok(()));
        (heap, blocks)
    }

    fn window(heap: &Checked, place: Place) -> Window {
        let geometry = heap.geometry();
        let cold = heap.cold.borrow();
        let mut held = cold.regions.iter().flat_map(|(_, region)| region.held(geometry));
        let has_span = |window: &Window| window.map(geometry).blocks().any(|block| block.end > 256);
        let found = held.find(|window| window.place.get() == place && window.lead.get() == 0 && !has_span(window));
        found.unwrap_or_else(|| panic!("no window is {place:?}"))
    }

    fn map<'a>(heap: &Checked, window: Window) -> Map<'a> {
        window.map(heap.geometry())
    }

    fn at(heap: &Checked, window: Window, unit: u32) -> usize {
        window.address(heap.geometry()) + heap.geometry().bytes(unit)
    }

    /// The window in which the span of `heap` ends.
    fn end_of_span(heap: &Checked) -> Window {
        let geometry = heap.geometry();
        let cold = heap.cold.borrow();
        let mut held = cold.regions.iter().flat_map(|(_, region)| region.held(geometry));
        held.find(|window| window.lead.get() > 0).unwrap()
    }

    const PLACES: [Place; 4] = [Place::Current, Place::Full, Place::Reusable, Place::Empty];

    #[test]
    fn every_report_says_what_is_wrong_and_where() {
        let (window, block) = (0x2_0000, 0x2_1000);
        let total = |total| IntegrityError::Total { total, counted: 5, found: 4 }.to_string();
        for (report, says) in [
            (IntegrityError::Header { region: window }, "the header of the region at 0x20000 was overwritten"),
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
            (IntegrityError::Place { window }, "the window at 0x20000 is not in the list that it belongs to"),
            (IntegrityError::Threshold { window }, "the reuse threshold of the window at 0x20000 is wrong"),
            (IntegrityError::Record { block }, "the record of the block at 0x21000 does not match the block"),
        ] {
            assert_eq!(report.to_string(), says);
        }
        for (which, says) in [
            (Total::LiveUnits, "5 live units were counted, there are 4"),
            (Total::AllocatedBytes, "5 allocated bytes were counted, there are 4"),
            (Total::LargeBytes, "5 bytes of large blocks were counted, there are 4"),
            (Total::EmptyWindows, "5 empty windows were counted, there are 4"),
            (Total::ReusableWindows, "5 reusable windows were counted, there are 4"),
            (Total::HeldWindows, "5 held windows were counted, there are 4"),
            (Total::CachedBlocks, "5 cached blocks were counted, there are 4"),
        ] {
            assert_eq!(total(which), says);
        }
    }

    #[test]
    fn an_overwritten_header_is_reported() {
        let (heap, _) = heap(Settings::new());
        let region = window(&heap, Place::Full).region(heap.geometry());
        region.break_seal(heap.geometry());
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Header { region: region.address() }));
    }

    #[test]
    fn a_block_within_a_block_is_an_overlap() {
        let (heap, _) = heap(Settings::new());
        let window = window(&heap, Place::Full);
        let first = map(&heap, window).blocks().find(|block| block.len() > 1).unwrap();
        map(&heap, window).damage(first.end - 1, 1);
        let block = at(&heap, window, first.end - 1);
        let window = window.address(heap.geometry());
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Overlap { window, block }));
    }

    #[test]
    fn a_block_on_the_bookkeeping_is_reported() {
        // Where the bookkeeping lies in the window.
        let geometry = Runtime::new::<Least<0>>(64, 4096).unwrap();
        for from_end in [false, true] {
            let heap = Heap::with_settings(geometry, Settings::new(), Least::<0>).unwrap();
            heap.allocate(100).unwrap();
            let held = heap.cold.borrow().regions.nth(0).unwrap().held(geometry).next().unwrap();
            let unit = if from_end { geometry.first_unit() - 1 } else { 0 };
            held.map(geometry).damage(unit, 1);
            let window = held.address(geometry);
            let block = window + geometry.bytes(unit);
            assert_eq!(heap.integrity_check(), Err(IntegrityError::Bookkeeping { window, block }));
        }
    }

    #[test]
    fn a_length_that_reaches_beyond_the_region_or_into_what_is_not_held_is_reported() {
        for code in [200, 255] {
            let (heap, _) = heap(Settings::new());
            let window = window(&heap, Place::Full);
            let last = map(&heap, window).blocks().last().unwrap();
            map(&heap, window).damage(last.start, code);
            assert!(matches!(
                heap.integrity_check(),
                Err(IntegrityError::Bookkeeping { .. }
                    | IntegrityError::Overlap { .. }
                    | IntegrityError::LiveUnits { .. })
            ));
        }
    }

    #[test]
    fn a_span_and_the_windows_that_it_takes_agree() {
        for lead in [0, 1, 256] {
            let (heap, _) = heap(Settings::new());
            let end = end_of_span(&heap);
            assert_ne!(end.lead.get(), lead);
            end.lead.set(lead);
            let block = at(&heap, end, lead);
            let window = end.address(heap.geometry());
            assert_eq!(heap.integrity_check(), Err(IntegrityError::Overlap { window, block }));
        }
        // A block that starts where the span is.
        let (heap, _) = heap(Settings::new());
        let end = end_of_span(&heap);
        map(&heap, end).damage(0, 1);
        let (window, block) = (end.address(heap.geometry()), at(&heap, end, 0));
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Overlap { window, block }));
    }

    #[test]
    fn a_span_that_reaches_into_a_window_that_is_not_held_is_reported() {
        let (heap, _) = heap(Settings::new());
        let geometry = heap.geometry();
        let end = end_of_span(&heap);
        end.region(geometry).header(geometry).reserved.set(end.index(geometry));
        let window = end.address(geometry) - geometry.window_bytes();
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Bookkeeping { window, block: window }));
    }

    /// The last block of a region may end where that ends, and not behind it.
    #[test]
    fn a_block_that_reaches_beyond_the_region_is_reported() {
        let (heap, _) = heap(Settings::new());
        let geometry = heap.geometry();
        let last_window = geometry.region_windows() - 1;
        let last = loop {
            let block: NonNull<u8> = heap.allocate(1000).unwrap().cast();
            let offset = block.addr().get() & (geometry.region_bytes() - 1);
            if offset + 1024 == geometry.region_bytes() {
                break block;
            }
        };
        assert_eq!(heap.integrity_check(), Ok(()));
        // SAFETY: the block is live.
        let window = unsafe { Region::of_block(last, geometry) }.window(last_window, geometry);
        map(&heap, window).damage(geometry.window_units() as u32 - 16, 17);
        let (window, block) = (window.address(geometry), last.addr().get());
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Bookkeeping { window, block }));
    }

    #[test]
    fn a_lost_block_is_missed_in_the_count() {
        let (heap, _) = heap(Settings::new());
        let window = window(&heap, Place::Full);
        let last = map(&heap, window).blocks().last().unwrap();
        map(&heap, window).damage(last.start, 0);
        let counted = window.live_units(heap.geometry());
        let window = window.address(heap.geometry());
        let error = IntegrityError::LiveUnits { window, counted, found: counted - last.len() as u32 };
        assert_eq!(heap.integrity_check(), Err(error));
    }

    #[test]
    fn a_wrong_count_is_reported_with_both_numbers() {
        for place in PLACES {
            let (heap, _) = heap(Settings::new());
            let window = window(&heap, place);
            let found = window.live_units(heap.geometry());
            window.count(1, heap.geometry());
            let window = window.address(heap.geometry());
            let error = IntegrityError::LiveUnits { window, counted: found + 1, found };
            assert_eq!(heap.integrity_check(), Err(error));
        }
    }

    #[test]
    fn a_mark_in_the_extent_is_reported() {
        let (heap, _) = heap(Settings::new());
        let (window, extent) = heap.extent().unwrap();
        assert!(!extent.is_empty());
        map(&heap, window).damage(extent.end - 1, 1);
        let unit = at(&heap, window, extent.end - 1);
        let window = window.address(heap.geometry());
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Extent { window, unit }));
    }

    #[test]
    fn a_window_that_would_not_be_looked_at_is_reported() {
        for place in [Place::Current, Place::Full, Place::Reusable] {
            let (heap, _) = heap(Settings::new());
            let window = window(&heap, place);
            window.set_threshold(window.live_units(heap.geometry()), heap.geometry());
            let window = window.address(heap.geometry());
            assert_eq!(heap.integrity_check(), Err(IntegrityError::Threshold { window }));
        }
    }

    #[test]
    fn a_window_in_the_wrong_place_is_reported() {
        for (place, wrong) in
            [(Place::Current, Place::Full), (Place::Full, Place::Current), (Place::Full, Place::Empty)]
        {
            let (heap, _) = heap(Settings::new());
            let window = window(&heap, place);
            window.set_threshold(0, heap.geometry());
            window.place.set(wrong);
            let window = window.address(heap.geometry());
            assert_eq!(heap.integrity_check(), Err(IntegrityError::Place { window }));
        }
        // It says that it is reusable, and is in no list.
        let (heap, _) = heap(Settings::new());
        let listed = heap.cold.borrow().reusable.len() as u64;
        let window = window(&heap, Place::Full);
        window.set_threshold(0, heap.geometry());
        window.place.set(Place::Reusable);
        let error = IntegrityError::Total { total: Total::ReusableWindows, counted: listed, found: listed + 1 };
        assert_eq!(heap.integrity_check(), Err(error));
    }

    #[test]
    fn a_broken_link_is_reported_and_not_followed() {
        let (heap, _) = heap(Settings::new());
        let empty = heap.cold.borrow().empty.first().unwrap();
        let error = Err(IntegrityError::Place { window: empty.address(heap.geometry()) });
        // A link into the middle of nowhere.
        let nowhere = NonNull::new(core::ptr::without_provenance_mut(0x5555_0000)).unwrap();
        // SAFETY: nobody looks there: that is what is tested.
        empty.next.set(Some(unsafe { Region::of_block(nowhere, heap.geometry()) }.window(30, heap.geometry())));
        assert_eq!(heap.integrity_check(), error);
        // A ring.
        empty.next.set(Some(empty));
        assert_eq!(heap.integrity_check(), error);
        // Cut short.
        empty.next.set(None);
        assert_eq!(heap.integrity_check(), error);
    }

    #[test]
    fn a_list_that_is_not_whole_is_reported() {
        let (heap, _) = heap(Settings::new());
        let listed: Vec<_> = heap.cold.borrow().empty.iter().collect();
        let [first, second, third, ..] = listed[..] else { panic!("{} windows are empty", listed.len()) };
        let place = |window: Window| Err(IntegrityError::Place { window: window.address(heap.geometry()) });
        // No way back.
        second.previous.set(None);
        assert_eq!(heap.integrity_check(), place(second));
        second.previous.set(Some(first));
        assert_eq!(heap.integrity_check(), Ok(()));
        // One is passed over.
        first.next.set(Some(third));
        third.previous.set(Some(first));
        assert_eq!(heap.integrity_check(), place(*listed.last().unwrap()));
    }

    #[test]
    fn a_window_that_is_in_no_list_is_missed() {
        let (heap, _) = heap(Settings::new());
        let window = window(&heap, Place::Empty);
        heap.cold.borrow_mut().empty.remove(window);
        let listed = heap.cold.borrow().empty.len() as u64;
        let error = IntegrityError::Total { total: Total::EmptyWindows, counted: listed, found: listed + 1 };
        assert_eq!(heap.integrity_check(), Err(error));
    }

    #[test]
    fn wrong_totals_are_reported_by_name() {
        let (heap, _) = heap(Settings::new());
        heap.allocate(1 << 20).unwrap();
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
        change(&|cold| cold.held_windows += 2);
        assert_eq!(total(), (Total::HeldWindows, 2));
        change(&|cold| cold.held_windows -= 2);
        assert_eq!(heap.integrity_check(), Ok(()));
        heap.miscount(7);
        assert_eq!(total(), (Total::LiveUnits, 7));
    }

    #[test]
    fn records_and_canaries_are_checked() {
        let (heap, blocks) = heap(Settings { check: true, ..Settings::new() });
        let block = blocks[30].addr().get();
        heap.cold.borrow_mut().requested.replace(block, 1000);
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Record { block }));
        heap.cold.borrow_mut().requested.replace(block, 99);
        let overflow = Overflow { block, size: 99, past_end: 1 };
        // SAFETY: the hundredth byte belongs to the block.
        unsafe { blocks[30].add(99).write(1) };
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
            let (heap, mut blocks) = heap(Settings { check, ..Settings::new() });
            let freed = blocks.remove(18);
            // SAFETY: the block is live, and its window is held afterwards.
            unsafe {
                heap.free(freed);
                freed.add(31).write(0);
            }
            let error = IntegrityError::WriteAfterFree(WriteAfterFree { address: freed.addr().get() + 31, bytes: 1 });
            assert_eq!(heap.integrity_check(), if check { Err(error) } else { Ok(()) });
            assert_eq!(heap.bookkeeping_check(), Ok(()));
        }
    }

    #[test]
    fn cached_blocks_are_compared_with_their_maps() {
        let cached = || {
            let (heap, blocks) = heap(Settings::new());
            // As if blocks were freed in any order.
            heap.tend_cache(false);
            heap.deepen(2);
            // SAFETY: live, and not used afterwards.
            unsafe { heap.free(blocks[30]) };
            assert!(heap.cache.blocks().any(|(block, units)| block == blocks[30] && units == 2));
            assert_eq!(heap.integrity_check(), Ok(()));
            let address = blocks[30].addr().get();
            // SAFETY: the block lies in a region.
            let region = unsafe { Region::of_block(blocks[30], heap.geometry()) };
            let unit = (address - region.address()) / 64;
            (region.window(unit / 256, heap.geometry()), (unit % 256) as u32, address, heap)
        };
        // The map shows a live block where a cached one is.
        let (window, start, block, heap) = cached();
        map(&heap, window).set(start, 2);
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Record { block }));
        // The map shows a cached block that nobody cached.
        let (window, start, _, heap) = cached();
        let live = map(&heap, window).blocks().find(|live| live.start != start && live.len() == 2).unwrap();
        map(&heap, window).damage(live.start, crate::map::cached_code(2));
        let error = IntegrityError::Total { total: Total::CachedBlocks, counted: 1, found: 2 };
        assert_eq!(heap.integrity_check(), Err(error));
    }

    #[test]
    fn a_reusable_window_without_live_blocks_would_not_be_looked_at() {
        let (heap, _) = heap(Settings::new());
        let window = window(&heap, Place::Reusable);
        let live: Vec<_> = map(&heap, window).blocks().collect();
        for block in live {
            map(&heap, window).release(block.start);
            let _ = window.discount(block.len() as u32, heap.geometry());
            heap.live_units.set(heap.live_units.get() - block.len() as u64);
        }
        let window = window.address(heap.geometry());
        assert_eq!(heap.integrity_check(), Err(IntegrityError::Threshold { window }));
    }
}
