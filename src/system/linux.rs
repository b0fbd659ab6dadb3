//! Memory mapped from Linux.

pub(super) mod kept;

use core::alloc::Layout;
use core::ffi::{c_int, c_void};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const PROT_NONE: c_int = 0;
const PROT_READ_WRITE: c_int = 1 | 2;
const MAP_PRIVATE_ANONYMOUS: c_int = 0x02 | 0x20;
const MREMAP_MAYMOVE: c_int = 1;
const MREMAP_FIXED: c_int = 2;
const MADV_DONTNEED: c_int = 4;
const MADV_HUGEPAGE: c_int = 14;
const MADV_NOHUGEPAGE: c_int = 15;
/// What a mapping that failed returns.
const FAILED: usize = usize::MAX;

// The constants above are those of the architectures that Linux runs on, except for three old ones.
const _: () = assert!(cfg!(not(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc64"))));

/// An offset in a file, as `mmap` takes it: musl has 64 bits everywhere.
#[cfg(target_env = "musl")]
type Offset = i64;
#[cfg(not(target_env = "musl"))]
type Offset = core::ffi::c_long;

/// That is what the crate `libc` says, too, for every target that this is compiled for with it.
#[cfg(any(feature = "replay", feature = "udp"))]
const _: fn(Offset) -> libc::off_t = |offset| offset;

unsafe extern "C" {
    fn mmap(at: *mut c_void, bytes: usize, access: c_int, flags: c_int, file: c_int, offset: Offset) -> *mut c_void;
    fn munmap(at: *mut c_void, bytes: usize) -> c_int;
    fn mremap(at: *mut c_void, old: usize, new: usize, flags: c_int, ...) -> *mut c_void;
    fn mprotect(at: *mut c_void, bytes: usize, access: c_int) -> c_int;
    fn madvise(at: *mut c_void, bytes: usize, advice: c_int) -> c_int;
    safe fn getpagesize() -> c_int;
}

/// Bytes of a page.
fn page_bytes() -> usize {
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    let known = PAGE.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let page = usize::try_from(getpagesize()).ok().filter(|page| page.is_power_of_two()).unwrap_or(64 << 10);
    PAGE.store(page, Ordering::Relaxed);
    page
}

/// Whether memory comes from here: what starts at a page at least. Smaller things come from the standard library.
pub(super) fn serves(layout: Layout) -> bool {
    layout.align() >= page_bytes() && layout.size() >= page_bytes()
}

/// Bytes of a mapping for `layout`.
fn whole_pages(layout: Layout) -> Option<usize> {
    layout.size().checked_next_multiple_of(page_bytes())
}

/// A mapping for `layout`.
pub(super) fn map(layout: Layout) -> Option<NonNull<u8>> {
    let bytes = whole_pages(layout)?;
    let memory = map_aligned(bytes, layout.align())?;
    // Where huge pages come without being asked for, the first byte that is touched would take 2 MiB. SAFETY: the
    // mapping is ours, and this advice changes neither content nor validity; a kernel that does not know it has no huge
    // pages.
    let _ = unsafe { madvise(memory.as_ptr().cast(), bytes, MADV_NOHUGEPAGE) };
    Some(memory)
}

/// Returns a mapping.
///
/// # Safety
/// `memory` came from [`map`] or [`grow`] with this layout and is not used any more.
pub(super) unsafe fn unmap(memory: NonNull<u8>, layout: Layout) {
    if let Some(bytes) = whole_pages(layout) {
        // SAFETY: the memory is a mapping of this size.
        unsafe { unmap_pages(memory.as_ptr(), bytes) };
    }
}

/// A mapping of `bytes` bytes that is aligned to `align`, a page at least.
fn map_aligned(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    // Mappings of one size come to lie side by side, so that only the first of them tends to be out of line.
    let memory = map_anywhere(bytes)?;
    if memory.addr().get().is_multiple_of(align) {
        return Some(memory);
    }
    // SAFETY: the mapping is ours and nobody knows it.
    unsafe { unmap_pages(memory.as_ptr(), bytes) };
    let more = bytes.checked_add(align)?;
    let first = map_anywhere(more)?.as_ptr();
    let before = first.addr().wrapping_neg() & (align - 1);
    let memory = first.wrapping_add(before);
    // SAFETY: both parts are of the mapping, in front of the memory and behind it, and whole pages since the mapping
    // and the alignment are.
    unsafe {
        unmap_pages(first, before);
        unmap_pages(memory.wrapping_add(bytes), align - before);
    }
    NonNull::new(memory)
}

fn map_anywhere(bytes: usize) -> Option<NonNull<u8>> {
    // SAFETY: a new mapping, at an address of the system's choice, touches nothing that exists.
    let memory = unsafe { mmap(ptr::null_mut(), bytes, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0) };
    if memory.addr() == FAILED { None } else { NonNull::new(memory.cast()) }
}

/// Returns pages with their addresses.
///
/// # Safety
/// They belong to a mapping of this module and are not used any more.
unsafe fn unmap_pages(first: *mut u8, bytes: usize) {
    if bytes > 0 {
        // SAFETY: the caller says so.
        unsafe {
            if munmap(first.cast(), bytes) != 0 {
                // Refused for want of memory for the system's own tables. The addresses stay with the process, the
                // pages need not.
                let _ = madvise(first.cast(), bytes, MADV_DONTNEED);
            }
        }
    }
}

/// Takes the whole pages of `bytes` back; returns how many bytes.
///
/// # Safety
/// The bytes lie in a mapping of this module, and nobody uses what they contain any more.
pub(super) unsafe fn discard(bytes: NonNull<[u8]>) -> usize {
    let page = page_bytes();
    let first = bytes.cast::<u8>().as_ptr();
    let before = first.addr().wrapping_neg() & (page - 1);
    let whole = bytes.len().saturating_sub(before) / page * page;
    if whole == 0 {
        return 0;
    }
    // SAFETY: these are whole pages of the mapping, and the caller says that nobody uses them.
    let taken = unsafe { madvise(first.wrapping_add(before).cast(), whole, MADV_DONTNEED) } == 0;
    if taken { whole } else { 0 }
}

/// Makes pages inaccessible.
///
/// # Safety
/// The bytes lie in a mapping of this module, and nobody uses them from here on.
pub(super) unsafe fn guard(bytes: NonNull<[u8]>) {
    if bytes.len().is_multiple_of(page_bytes()) {
        // SAFETY: whole pages of the mapping that nobody uses. Where the system refuses they stay accessible, a gap.
        let _ = unsafe { mprotect(bytes.cast::<c_void>().as_ptr(), bytes.len(), PROT_NONE) };
    }
}

/// Makes a mapping longer, if need be at another address.
///
/// # Safety
/// `memory` came from [`map`] or from here with layout `old`, `new` is larger and has the same alignment; on `Some`
/// only what is returned is used.
pub(super) unsafe fn grow(memory: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<u8>> {
    let (from, to) = (whole_pages(old)?, whole_pages(new)?);
    let at = memory.as_ptr().cast();
    // SAFETY: a mapping of ours; where it cannot grow in place nothing happens.
    if from == to || unsafe { mremap(at, from, to, 0) }.addr() != FAILED {
        return Some(memory);
    }
    /// Whether a move was refused before.
    static REFUSED: AtomicBool = AtomicBool::new(false);
    if REFUSED.load(Ordering::Relaxed) {
        return None;
    }
    let place = map_aligned(to, new.align())?;
    // SAFETY: the pages move onto a mapping of ours that nobody uses, which they replace. Where that is refused, the
    // old mapping is as it was.
    let moved = unsafe { mremap(at, from, to, MREMAP_MAYMOVE | MREMAP_FIXED, place.as_ptr().cast::<c_void>()) };
    if moved.addr() == FAILED {
        // The system may have unmapped the place before it refused, and another thread may have something there by now.
        // So it is left alone: addresses without pages, once in the life of a process.
        REFUSED.store(true, Ordering::Relaxed);
        return None;
    }
    NonNull::new(moved.cast())
}

pub(super) fn advise_huge_pages(region: NonNull<u8>, bytes: usize) {
    // SAFETY: the region is ours, and this advice changes neither content nor validity. A kernel without huge pages
    // answers with an error, which leaves small pages: the outcome that a hint allows.
    let _ = unsafe { madvise(region.as_ptr().cast(), bytes, MADV_HUGEPAGE) };
}
