//! Regions of dropped allocators, kept with their pages for the next one.
//!
//! A slot has the address of a region, and in the bits that its alignment leaves the logarithm of its size. What else
//! there is to know lies in the region itself, behind the guard.

use core::alloc::Layout;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::{page_bytes, unmap};
use crate::geometry::GUARD_BYTES;

/// Regions that may be kept.
const SLOTS: usize = 64;
/// Bytes that are kept unless the user says otherwise.
const DEFAULT_LIMIT: usize = 16 << 20;
/// Parts of a region of which each has a bit.
const PARTS: usize = u64::BITS as usize;
/// The bits of a slot that hold the logarithm of the size.
const SIZE_BITS: usize = 0xfff;

static REGIONS: [AtomicPtr<u8>; SLOTS] = [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS];
/// Bytes that may be kept, and that are.
static LIMIT: AtomicUsize = AtomicUsize::new(DEFAULT_LIMIT);
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// Bytes of the pages behind a region, at most.
fn cost(size: usize, resident: u64) -> usize {
    let parts = resident.count_ones() as usize * (size / PARTS);
    // The map has a byte for each unit, which has 16 at least, and the rest of the bookkeeping a page or two.
    parts + parts / 16 + 2 * page_bytes()
}

/// Where a region that is kept says which parts may have pages.
fn note(region: NonNull<u8>) -> NonNull<u64> {
    // SAFETY: a region that is kept is larger than its guard.
    unsafe { region.add(GUARD_BYTES).cast() }
}

/// Keeps a region; false when that would be too much.
///
/// # Safety
/// The region came from [`map`](super::map) with this layout, starts with a guard, and is not used any more.
pub(in super::super) unsafe fn put(region: NonNull<u8>, layout: Layout, resident: u64) -> bool {
    let (size, align) = (layout.size(), layout.align());
    let bytes = cost(size, resident);
    if size != align || align <= SIZE_BITS || size <= GUARD_BYTES {
        return false;
    }
    let within = |held: usize| held.checked_add(bytes).filter(|&held| held <= LIMIT.load(Ordering::SeqCst));
    if BYTES.fetch_update(Ordering::SeqCst, Ordering::Relaxed, within).is_err() {
        return false;
    }
    // SAFETY: nobody uses the region, and what is behind the guard may be written.
    unsafe { note(region).write(resident) };
    let tagged = region.as_ptr().map_addr(|address| address | size.trailing_zeros() as usize);
    for slot in REGIONS.iter().filter(|slot| slot.load(Ordering::Relaxed).is_null()) {
        if slot.compare_exchange(ptr::null_mut(), tagged, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
            // The limit may have been lowered meanwhile, by a thread that did not see this region.
            unmap_beyond(LIMIT.load(Ordering::SeqCst));
            return true;
        }
    }
    BYTES.fetch_sub(bytes, Ordering::Relaxed);
    false
}

/// A region of this layout, and which parts of it may have pages.
pub(in super::super) fn take(layout: Layout) -> Option<(NonNull<u8>, u64)> {
    if BYTES.load(Ordering::Relaxed) == 0 {
        return None;
    }
    REGIONS.iter().find_map(|slot| take_from(slot, |size| size == layout.size() && size == layout.align()))
}

/// The region in a slot, if there is one of a size that will do.
fn take_from(slot: &AtomicPtr<u8>, will_do: impl Fn(usize) -> bool) -> Option<(NonNull<u8>, u64)> {
    let tagged = slot.load(Ordering::SeqCst);
    let size = 1 << (tagged.addr() & SIZE_BITS);
    if tagged.is_null() || !will_do(size) {
        return None;
    }
    // Whatever region of the same name is there now is of that size, too.
    let taken = slot.compare_exchange(tagged, ptr::null_mut(), Ordering::Acquire, Ordering::Relaxed).ok()?;
    let region = NonNull::new(taken.map_addr(|address| address & !SIZE_BITS))?;
    // SAFETY: `put` wrote it, and the region is nobody else's now.
    let resident = unsafe { note(region).read() };
    BYTES.fetch_sub(cost(size, resident), Ordering::Relaxed);
    Some((region, resident))
}

/// Sets how many bytes may be kept, and returns what is beyond that.
pub(in super::super) fn set_limit(bytes: usize) {
    LIMIT.store(bytes, Ordering::SeqCst);
    unmap_beyond(bytes);
}

/// Returns kept regions until there are no more bytes than these.
fn unmap_beyond(bytes: usize) {
    for slot in &REGIONS {
        if BYTES.load(Ordering::SeqCst) <= bytes {
            break;
        }
        let size = core::cell::Cell::new(0);
        let any = |of: usize| {
            size.set(of);
            true
        };
        if let Some((region, _)) = take_from(slot, any)
            && let Ok(layout) = Layout::from_size_align(size.get(), size.get())
        {
            // SAFETY: `put` took it with this layout, and nobody else has it.
            unsafe { unmap(region, layout) };
        }
    }
}

/// Bytes that are kept.
pub(in super::super) fn bytes() -> usize {
    BYTES.load(Ordering::Relaxed)
}
