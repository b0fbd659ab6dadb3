//! The library that `pktalloc record` preloads: it notes in a file the calls of a program's `malloc`, `calloc`,
//! `aligned_alloc`, `memalign`, `posix_memalign`, `realloc` and `free`, and does what they would have done.
//!
//! It is a crate of its own, which `build.rs` compiles for the Python package, and must not allocate: its notes go to a
//! shared mapping of the file, one slot for each, taken with one atomic addition. That is safe under threads, goes on
//! in a child after a fork, and loses nothing when the process is killed.
//!
//! The layout of the file is stated here and read by `replay::record`:
//!
//! ```text
//! header (128 bytes): magic "pktrec01" · slots · next · smaller · larger · least · most     (u64 each)
//! slot (32 bytes):    kind (u32, written last) · process (u32) · size (u64) · address (u64) · address before (u64)
//! kinds:              1 start of a program · 2 allocate · 3 free · 4 reallocate · 5 end of a program
//! ```

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

const MAGIC: u64 = u64::from_le_bytes(*b"pktrec01");
const HEADER_BYTES: usize = 128;
const FILE_VARIABLE: &CStr = c"PKTALLOC_RECORD";

const O_RDWR: c_int = 2;
const O_CLOEXEC: c_int = 0o2_000_000;
const SEEK_END: c_int = 2;
#[cfg(not(target_env = "musl"))]
const ENOMEM: c_int = 12;
const PROT_READ_WRITE: c_int = 3;
const MAP_SHARED: c_int = 1;
/// `RTLD_NEXT`: the next library that has the name.
const NEXT: *mut c_void = ptr::without_provenance_mut(usize::MAX);

/// An offset in a file: musl has 64 bits everywhere.
#[cfg(target_env = "musl")]
type Offset = i64;
#[cfg(not(target_env = "musl"))]
type Offset = core::ffi::c_long;

unsafe extern "C" {
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn getenv(name: *const c_char) -> *const c_char;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn close(file: c_int) -> c_int;
    fn lseek(file: c_int, offset: Offset, from: c_int) -> Offset;
    fn mmap(at: *mut c_void, length: usize, protection: c_int, flags: c_int, file: c_int, offset: Offset) -> *mut c_void;
    fn getpid() -> c_int;
    fn malloc_usable_size(block: *mut c_void) -> usize;
}

#[repr(C)]
struct Header {
    magic: AtomicU64,
    slots: AtomicU64,
    next: AtomicU64,
    smaller: AtomicU64,
    larger: AtomicU64,
    least: AtomicU64,
    most: AtomicU64,
}

#[repr(C)]
struct Slot {
    kind: AtomicU32,
    process: AtomicU32,
    size: AtomicU64,
    address: AtomicU64,
    before: AtomicU64,
}

#[derive(Clone, Copy)]
enum Kind {
    Start = 1,
    Allocate = 2,
    Free = 3,
    Reallocate = 4,
    End = 5,
}

/// The file, once it is mapped.
static FILE: AtomicPtr<Header> = AtomicPtr::new(ptr::null_mut());

/// Notes a call, if there is room.
fn note(kind: Kind, size: usize, address: *mut c_void, before: *mut c_void) {
    let header = FILE.load(Ordering::Acquire);
    if header.is_null() {
        return;
    }
    // SAFETY: the mapping holds the header and as many slots as it says, and lasts.
    let header = unsafe { &*header };
    let number = header.next.fetch_add(1, Ordering::Relaxed);
    if number >= header.slots.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: as above; nobody else has this number.
    let slot = unsafe {
        let slots = ptr::from_ref(header).cast::<u8>().add(HEADER_BYTES).cast::<Slot>();
        &*slots.add(number as usize)
    };
    // The number of the process is asked each time: a fork changes it.
    // SAFETY: always safe to call.
    slot.process.store(unsafe { getpid() }.cast_unsigned(), Ordering::Relaxed);
    slot.size.store(size as u64, Ordering::Relaxed);
    slot.address.store(address.addr() as u64, Ordering::Relaxed);
    slot.before.store(before.addr() as u64, Ordering::Relaxed);
    slot.kind.store(kind as u32, Ordering::Release);
}

/// Whether a size is one of those to note; the others are counted.
fn wanted(size: usize) -> bool {
    let header = FILE.load(Ordering::Acquire);
    if header.is_null() {
        return false;
    }
    // SAFETY: the mapping holds the header, and lasts.
    let header = unsafe { &*header };
    if (size as u64) < header.least.load(Ordering::Relaxed) {
        header.smaller.fetch_add(1, Ordering::Relaxed);
        return false;
    }
    if (size as u64) > header.most.load(Ordering::Relaxed) {
        header.larger.fetch_add(1, Ordering::Relaxed);
        return false;
    }
    true
}

/// Notes that a block was allocated, if there is one and its size is one of those to note.
fn note_block(block: *mut c_void, size: usize) {
    if !block.is_null() && wanted(size) {
        note(Kind::Allocate, size, block, ptr::null_mut());
    }
}

/// Whether a block may be one that was noted: blocks have at least the bytes they were asked for.
fn may_be_noted(block: *mut c_void) -> bool {
    let header = FILE.load(Ordering::Acquire);
    // SAFETY: the mapping holds the header, and lasts; the block is live.
    !header.is_null() && unsafe { malloc_usable_size(block) as u64 >= (*header).least.load(Ordering::Relaxed) }
}

type Malloc = unsafe extern "C" fn(usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type Calloc = unsafe extern "C" fn(usize, usize) -> *mut c_void;
type Realloc = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
type Aligned = unsafe extern "C" fn(usize, usize) -> *mut c_void;
#[cfg(not(target_env = "musl"))]
type PosixMemalign = unsafe extern "C" fn(*mut *mut c_void, usize, usize) -> c_int;

/// The functions that do the work; null until they are found.
static REAL_MALLOC: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static REAL_FREE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static REAL_CALLOC: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static REAL_REALLOC: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static REAL_ALIGNED_ALLOC: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
#[cfg(not(target_env = "musl"))]
static REAL_MEMALIGN: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
#[cfg(not(target_env = "musl"))]
static REAL_POSIX_MEMALIGN: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
/// 0: nobody looked yet; 1: somebody is looking; 2: found.
static STATE: AtomicU32 = AtomicU32::new(0);

/// Memory for what is asked while the real functions are being looked for, which may itself ask.
struct Arena(UnsafeCell<[u8; ARENA_BYTES]>);
const ARENA_BYTES: usize = 64 << 10;
const ARENA_ALIGNMENT: usize = 16;
// SAFETY: parts of it are handed out once each, by an atomic counter.
unsafe impl Sync for Arena {}
static ARENA: Arena = Arena(UnsafeCell::new([0; ARENA_BYTES]));
static ARENA_USED: AtomicUsize = AtomicUsize::new(ARENA_ALIGNMENT);

/// A block of the arena, with its size in front of it; null when it is full.
fn arena_block(size: usize) -> *mut c_void {
    let Some(bytes) = size.checked_next_multiple_of(ARENA_ALIGNMENT).and_then(|size| size.checked_add(ARENA_ALIGNMENT))
    else {
        return ptr::null_mut();
    };
    let start = ARENA.0.get().cast::<u8>();
    let skip = start.align_offset(ARENA_ALIGNMENT);
    let at = ARENA_USED.fetch_add(bytes, Ordering::Relaxed);
    if at.saturating_add(bytes).saturating_add(skip) > ARENA_BYTES {
        return ptr::null_mut();
    }
    // SAFETY: within the arena, and nobody else has this part of it.
    unsafe {
        let head = start.add(skip + at);
        head.cast::<usize>().write(size);
        head.add(ARENA_ALIGNMENT).cast()
    }
}

fn is_of_arena(block: *mut c_void) -> bool {
    let start = ARENA.0.get().addr();
    (start..start + ARENA_BYTES).contains(&block.addr())
}

/// Finds the real functions and maps the file; whether they are there.
fn ready() -> bool {
    match STATE.compare_exchange(0, 1, Ordering::Acquire, Ordering::Acquire) {
        Ok(_) => {
            for (place, name) in [
                (&REAL_MALLOC, c"malloc"),
                (&REAL_FREE, c"free"),
                (&REAL_CALLOC, c"calloc"),
                (&REAL_REALLOC, c"realloc"),
                (&REAL_ALIGNED_ALLOC, c"aligned_alloc"),
                #[cfg(not(target_env = "musl"))]
                (&REAL_MEMALIGN, c"memalign"),
                #[cfg(not(target_env = "musl"))]
                (&REAL_POSIX_MEMALIGN, c"posix_memalign"),
            ] {
                // SAFETY: the name ends in a zero byte.
                place.store(unsafe { dlsym(NEXT, name.as_ptr()) }, Ordering::Relaxed);
            }
            STATE.store(2, Ordering::Release);
            // SAFETY: the file is written by the one who set the variable.
            unsafe { map_file() };
            note(Kind::Start, 0, ptr::null_mut(), ptr::null_mut());
            true
        }
        Err(state) => state == 2,
    }
}

/// Maps the file that the variable names, if there is one of ours.
unsafe fn map_file() {
    // SAFETY: the variables of the environment are not changed before `main`.
    unsafe {
        let path = getenv(FILE_VARIABLE.as_ptr());
        if path.is_null() {
            return;
        }
        let file = open(path, O_RDWR | O_CLOEXEC);
        if file < 0 {
            return;
        }
        let length = lseek(file, 0, SEEK_END);
        if let Ok(length) = usize::try_from(length)
            && length >= HEADER_BYTES
        {
            let mapping = mmap(ptr::null_mut(), length, PROT_READ_WRITE, MAP_SHARED, file, 0);
            let header = mapping.cast::<Header>();
            if mapping.addr() != usize::MAX && (*header).magic.load(Ordering::Relaxed) == MAGIC {
                let room = (length - HEADER_BYTES) / mem::size_of::<Slot>();
                if (*header).slots.load(Ordering::Relaxed) <= room as u64 {
                    FILE.store(header, Ordering::Release);
                }
            }
        }
        close(file);
    }
}

/// Runs when the library is loaded.
#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = {
    extern "C" fn begin() {
        ready();
    }
    begin
};

/// Runs when the program ends by itself.
#[used]
#[unsafe(link_section = ".fini_array")]
static END: extern "C" fn() = {
    extern "C" fn end() {
        note(Kind::End, 0, ptr::null_mut(), ptr::null_mut());
    }
    end
};

macro_rules! real {
    ($place:ident as $kind:ty) => {{
        let function = $place.load(Ordering::Relaxed);
        // SAFETY: the function of that name has that type.
        (!function.is_null()).then(|| unsafe { mem::transmute::<*mut c_void, $kind>(function) })
    }};
}

/// As C has it.
///
/// # Safety
/// None is needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    if !ready() {
        return arena_block(size);
    }
    let Some(real) = real!(REAL_MALLOC as Malloc) else { return ptr::null_mut() };
    // SAFETY: malloc may be called with any size.
    let block = unsafe { real(size) };
    note_block(block, size);
    block
}

/// As C has it.
///
/// # Safety
/// None is needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let Some(bytes) = count.checked_mul(size) else { return ptr::null_mut() };
    if !ready() {
        // The arena is zero, and no part of it is handed out twice.
        return arena_block(bytes);
    }
    if cfg!(target_env = "musl") {
        // The real one calls `malloc`, this one, and the block would be noted twice.
        // SAFETY: no promise is needed; the block has the bytes that are written.
        unsafe {
            let block = malloc(bytes);
            if !block.is_null() {
                block.cast::<u8>().write_bytes(0, bytes);
            }
            return block;
        }
    }
    let Some(real) = real!(REAL_CALLOC as Calloc) else { return ptr::null_mut() };
    // SAFETY: calloc may be called with any numbers.
    let block = unsafe { real(count, size) };
    note_block(block, bytes);
    block
}

/// What `aligned_alloc` and `memalign` do, which the real one does. Looking for the real functions takes no aligned blocks.
fn aligned_block(place: &AtomicPtr<c_void>, alignment: usize, size: usize) -> *mut c_void {
    if !ready() {
        return ptr::null_mut();
    }
    let Some(real) = real!(place as Aligned) else { return ptr::null_mut() };
    // SAFETY: both may be called with any numbers.
    let block = unsafe { real(alignment, size) };
    note_block(block, size);
    block
}

/// As C has it.
///
/// # Safety
/// None is needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    aligned_block(&REAL_ALIGNED_ALLOC, alignment, size)
}

/// As C has it. Musl's own calls `aligned_alloc`, the one above.
///
/// # Safety
/// None is needed.
#[cfg(not(target_env = "musl"))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memalign(alignment: usize, size: usize) -> *mut c_void {
    aligned_block(&REAL_MEMALIGN, alignment, size)
}

/// As C has it. Musl's own calls `aligned_alloc`, the one above.
///
/// # Safety
/// `place` may be written.
#[cfg(not(target_env = "musl"))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, alignment: usize, size: usize) -> c_int {
    if !ready() {
        return ENOMEM;
    }
    let Some(real) = real!(REAL_POSIX_MEMALIGN as PosixMemalign) else { return ENOMEM };
    // SAFETY: the caller's promise.
    let error = unsafe { real(place, alignment, size) };
    if error == 0 {
        // SAFETY: the block was written there.
        note_block(unsafe { place.read() }, size);
    }
    error
}

/// As C has it.
///
/// # Safety
/// The block is null or one of malloc's, and freed once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    if block.is_null() || is_of_arena(block) || !ready() {
        return;
    }
    // Before the block is free: another thread may get it, and note so, at once.
    if may_be_noted(block) {
        note(Kind::Free, 0, block, ptr::null_mut());
    }
    if let Some(real) = real!(REAL_FREE as Free) {
        // SAFETY: the caller's promise.
        unsafe { real(block) };
    }
}

/// As C has it.
///
/// # Safety
/// The block is null or one of malloc's; what is returned takes its place.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    if block.is_null() || is_of_arena(block) {
        // SAFETY: no promise is needed.
        let moved = unsafe { malloc(size) };
        if !block.is_null() && !moved.is_null() {
            // SAFETY: a block of the arena has its size in front of it; both have the bytes that are copied.
            unsafe {
                let old = block.cast::<u8>().sub(ARENA_ALIGNMENT).cast::<usize>().read();
                ptr::copy_nonoverlapping(block.cast::<u8>(), moved.cast::<u8>(), old.min(size));
            }
        }
        return moved;
    }
    if !ready() {
        return ptr::null_mut();
    }
    let Some(real) = real!(REAL_REALLOC as Realloc) else { return ptr::null_mut() };
    let before = may_be_noted(block);
    // SAFETY: the caller's promise.
    let moved = unsafe { real(block, size) };
    if moved.is_null() {
        if size == 0 && before {
            note(Kind::Free, 0, block, ptr::null_mut());
        }
    } else {
        let after = wanted(size);
        if before || after {
            note(Kind::Reallocate, size, moved, block);
        }
    }
    moved
}
