//! The peers written in C and C++, each in its best mode for one thread.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr::null_mut;

use libmimalloc_sys::{mi_heap_t, mi_theap_t};

use crate::subject::{Block, Plan, Subject};

/// An allocator's own functions.
pub(crate) trait Functions: Sized {
    fn new() -> Result<Self, String>;

    /// Null if there is no memory.
    fn allocate(&mut self, size: usize) -> *mut c_void;

    /// # Safety
    ///
    /// The block is live and came from `allocate` of the same allocator.
    unsafe fn free(&mut self, block: *mut c_void, size: usize);

    /// Moves a block of `from` bytes to where it has room for `to`, with its contents. Null if there is no memory.
    ///
    /// # Safety
    ///
    /// As for `free`.
    unsafe fn reallocate(&mut self, block: *mut c_void, from: usize, to: usize) -> *mut c_void;

    /// One more heap, where the allocator has such; otherwise the same.
    fn another(&self) -> Result<Self, String> {
        Self::new()
    }

    /// Ends a heap with the blocks and sizes that are left in it.
    ///
    /// # Safety
    ///
    /// These are the live blocks of this heap, or, where there are no heaps, live blocks.
    unsafe fn destroy(mut self, left: impl Iterator<Item = (*mut c_void, usize)>) {
        // SAFETY: as the caller promises.
        left.for_each(|(block, size)| unsafe { self.free(block, size) });
    }

    fn trim(&mut self) {}
}

/// An allocator as a subject.
pub(crate) struct Foreign<F>(F);

impl<F> Foreign<F> {
    pub(crate) fn functions(&self) -> &F {
        &self.0
    }
}

impl<F: Functions> Subject for Foreign<F> {
    type Handle = Block;

    fn new(_: &Plan) -> Result<Self, String> {
        F::new().map(Self)
    }

    #[inline(always)]
    fn allocate(&mut self, size: usize) -> Block {
        Block::new(self.0.allocate(size).cast(), size)
    }

    #[inline(always)]
    fn free(&mut self, block: Block) {
        // SAFETY: blocks come from `allocate` above, and a workload frees each once.
        unsafe { self.0.free(block.address.as_ptr().cast(), block.size) };
    }

    #[inline(always)]
    fn bytes(block: &mut Block) -> *mut u8 {
        block.address.as_ptr()
    }

    fn trim(&mut self) {
        self.0.trim();
    }
}

/// The system's malloc. It has no sized free.
#[derive(Default)]
pub(crate) struct Malloc;

impl Functions for Malloc {
    fn new() -> Result<Self, String> {
        Ok(Self)
    }

    #[inline(always)]
    fn allocate(&mut self, size: usize) -> *mut c_void {
        // SAFETY: any size may be asked for.
        unsafe { libc::malloc(size) }
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: *mut c_void, _: usize) {
        // SAFETY: as the caller promises.
        unsafe { libc::free(block) };
    }

    #[inline(always)]
    unsafe fn reallocate(&mut self, block: *mut c_void, _: usize, to: usize) -> *mut c_void {
        // SAFETY: as the caller promises.
        unsafe { libc::realloc(block, to) }
    }

    fn trim(&mut self) {
        // SAFETY: gives back unused memory only.
        unsafe { libc::malloc_trim(0) };
    }
}

/// jemalloc, sized frees.
#[derive(Default)]
pub(crate) struct Jemalloc;

impl Jemalloc {
    /// The settings that make it fastest here: the largest thread cache that it allows for every packet size, one
    /// arena, and no memory given back.
    pub(crate) const BEST_SETTINGS: &str =
        "narenas:1,tcache_max:32768,tcache_ncached_max:1-32768:8000,dirty_decay_ms:-1,muzzy_decay_ms:-1";
    /// Where it reads settings.
    pub(crate) const SETTINGS_VARIABLE: &str = "_RJEM_MALLOC_CONF";

    fn control(name: &CStr) {
        // SAFETY: commands without input and output.
        unsafe { tikv_jemalloc_sys::mallctl(name.as_ptr(), null_mut(), null_mut(), null_mut(), 0) };
    }
}

impl Functions for Jemalloc {
    fn new() -> Result<Self, String> {
        Ok(Self)
    }

    #[inline(always)]
    fn allocate(&mut self, size: usize) -> *mut c_void {
        // SAFETY: workloads ask for at least 1 byte.
        unsafe { tikv_jemalloc_sys::mallocx(size, 0) }
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: *mut c_void, size: usize) {
        // SAFETY: as the caller promises; the size is the one that was asked for.
        unsafe { tikv_jemalloc_sys::sdallocx(block, size, 0) };
    }

    #[inline(always)]
    unsafe fn reallocate(&mut self, block: *mut c_void, _: usize, to: usize) -> *mut c_void {
        // SAFETY: as the caller promises.
        unsafe { tikv_jemalloc_sys::rallocx(block, to, 0) }
    }

    fn trim(&mut self) {
        Self::control(c"thread.tcache.flush");
        // 4096 is MALLCTL_ARENAS_ALL.
        Self::control(c"arena.4096.purge");
    }
}

/// mimalloc's global functions, sized frees.
#[derive(Default)]
pub(crate) struct Mimalloc;

impl Functions for Mimalloc {
    fn new() -> Result<Self, String> {
        Ok(Self)
    }

    #[inline(always)]
    fn allocate(&mut self, size: usize) -> *mut c_void {
        // SAFETY: any size may be asked for.
        unsafe { libmimalloc_sys::mi_malloc(size) }
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: *mut c_void, size: usize) {
        // SAFETY: as the caller promises; the size is the one that was asked for.
        unsafe { libmimalloc_sys::mi_free_size(block, size) };
    }

    #[inline(always)]
    unsafe fn reallocate(&mut self, block: *mut c_void, _: usize, to: usize) -> *mut c_void {
        // SAFETY: as the caller promises.
        unsafe { libmimalloc_sys::mi_realloc(block, to) }
    }

    fn trim(&mut self) {
        // SAFETY: gives back unused memory only.
        unsafe { libmimalloc_sys::mi_collect(true) };
    }
}

unsafe extern "C" {
    // In mimalloc.h, but not among the crate's declarations.
    fn mi_heap_theap(heap: *mut mi_heap_t) -> *mut mi_theap_t;
    fn mi_theap_malloc(theap: *mut mi_theap_t, size: usize) -> *mut c_void;
    fn mi_theap_realloc(theap: *mut mi_theap_t, block: *mut c_void, size: usize) -> *mut c_void;
}

/// A first-class heap of mimalloc, through the thread's own part of it, which is the fastest way to it; sized frees.
pub(crate) struct MimallocHeap {
    heap: *mut mi_heap_t,
    theap: *mut mi_theap_t,
}

impl Functions for MimallocHeap {
    fn new() -> Result<Self, String> {
        let no_heap = || "mimalloc has no heap to give".to_owned();
        // SAFETY: any thread may ask for a heap.
        let heap = unsafe { libmimalloc_sys::mi_heap_new() };
        if heap.is_null() {
            return Err(no_heap());
        }
        // SAFETY: the heap is live, and only this thread uses it.
        let theap = unsafe { mi_heap_theap(heap) };
        if theap.is_null() { Err(no_heap()) } else { Ok(Self { heap, theap }) }
    }

    #[inline(always)]
    fn allocate(&mut self, size: usize) -> *mut c_void {
        // SAFETY: the heap lives until it is destroyed; any size may be asked for.
        unsafe { mi_theap_malloc(self.theap, size) }
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: *mut c_void, size: usize) {
        // SAFETY: as the caller promises; the size is the one that was asked for.
        unsafe { libmimalloc_sys::mi_free_size(block, size) };
    }

    #[inline(always)]
    unsafe fn reallocate(&mut self, block: *mut c_void, _: usize, to: usize) -> *mut c_void {
        // SAFETY: as the caller promises.
        unsafe { mi_theap_realloc(self.theap, block, to) }
    }

    unsafe fn destroy(self, _: impl Iterator<Item = (*mut c_void, usize)>) {
        // SAFETY: nobody uses the heap or a block of it afterwards.
        unsafe { libmimalloc_sys::mi_heap_destroy(self.heap) };
    }

    fn trim(&mut self) {
        Mimalloc.trim();
    }
}

/// snmalloc, sized frees.
#[derive(Default)]
pub(crate) struct Snmalloc;

impl Snmalloc {
    /// The alignment that all its blocks have.
    const ALIGN: usize = 16;
}

impl Functions for Snmalloc {
    fn new() -> Result<Self, String> {
        Ok(Self)
    }

    #[inline(always)]
    fn allocate(&mut self, size: usize) -> *mut c_void {
        // SAFETY: the alignment is a power of two, workloads ask for at least 1 byte.
        unsafe { snmalloc_sys::sn_rust_alloc(Self::ALIGN, size) }
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: *mut c_void, size: usize) {
        // SAFETY: as the caller promises; size and alignment are those that were asked for.
        unsafe { snmalloc_sys::sn_rust_dealloc(block, Self::ALIGN, size) };
    }

    #[inline(always)]
    unsafe fn reallocate(&mut self, block: *mut c_void, from: usize, to: usize) -> *mut c_void {
        // SAFETY: as the caller promises; size and alignment are those that were asked for.
        unsafe { snmalloc_sys::sn_rust_realloc(block, Self::ALIGN, from, to) }
    }
}

/// rpmalloc's global functions. It has no sized free.
#[derive(Default)]
pub(crate) struct Rpmalloc;

impl Functions for Rpmalloc {
    fn new() -> Result<Self, String> {
        // SAFETY: called once, before the first allocation.
        match unsafe { rpmalloc_sys::rpmalloc_initialize() } {
            0 => Ok(Self),
            code => Err(format!("rpmalloc_initialize returned {code}")),
        }
    }

    #[inline(always)]
    fn allocate(&mut self, size: usize) -> *mut c_void {
        // SAFETY: rpmalloc is initialized; any size may be asked for.
        unsafe { rpmalloc_sys::rpmalloc(size) }
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: *mut c_void, _: usize) {
        // SAFETY: as the caller promises.
        unsafe { rpmalloc_sys::rpfree(block) };
    }

    #[inline(always)]
    unsafe fn reallocate(&mut self, block: *mut c_void, _: usize, to: usize) -> *mut c_void {
        // SAFETY: as the caller promises.
        unsafe { rpmalloc_sys::rprealloc(block, to) }
    }

    fn trim(&mut self) {
        // SAFETY: rpmalloc is initialized.
        unsafe { rpmalloc_sys::rpmalloc_thread_collect() };
    }
}

#[repr(C)]
pub(crate) struct RpmallocHeapState {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    // In rpmalloc.h, but not among the crate's declarations; `.cargo/config.toml` has them compiled in.
    fn rpmalloc_heap_acquire() -> *mut RpmallocHeapState;
    fn rpmalloc_heap_alloc(heap: *mut RpmallocHeapState, size: usize) -> *mut c_void;
    fn rpmalloc_heap_free(heap: *mut RpmallocHeapState, block: *mut c_void);
    fn rpmalloc_heap_realloc(
        heap: *mut RpmallocHeapState,
        block: *mut c_void,
        size: usize,
        flags: c_uint,
    ) -> *mut c_void;
    fn rpmalloc_heap_free_all(heap: *mut RpmallocHeapState);
    fn rpmalloc_heap_release(heap: *mut RpmallocHeapState);
}

/// A first-class heap of rpmalloc.
pub(crate) struct RpmallocHeap(*mut RpmallocHeapState);

impl Functions for RpmallocHeap {
    fn new() -> Result<Self, String> {
        Rpmalloc::new()?;
        // SAFETY: rpmalloc is initialized.
        let heap = unsafe { rpmalloc_heap_acquire() };
        if heap.is_null() { Err("rpmalloc has no heap to give".to_owned()) } else { Ok(Self(heap)) }
    }

    #[inline(always)]
    fn allocate(&mut self, size: usize) -> *mut c_void {
        // SAFETY: the heap lives until it is destroyed; any size may be asked for.
        unsafe { rpmalloc_heap_alloc(self.0, size) }
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: *mut c_void, _: usize) {
        // SAFETY: as the caller promises.
        unsafe { rpmalloc_heap_free(self.0, block) };
    }

    #[inline(always)]
    unsafe fn reallocate(&mut self, block: *mut c_void, _: usize, to: usize) -> *mut c_void {
        // SAFETY: as the caller promises.
        unsafe { rpmalloc_heap_realloc(self.0, block, to, 0) }
    }

    unsafe fn destroy(self, _: impl Iterator<Item = (*mut c_void, usize)>) {
        // SAFETY: nobody uses the heap or a block of it afterwards.
        unsafe {
            rpmalloc_heap_free_all(self.0);
            rpmalloc_heap_release(self.0);
        }
    }

    fn trim(&mut self) {
        Rpmalloc.trim();
    }
}

/// tcmalloc of the system's gperftools package, sized frees.
///
/// It is loaded at run time, because linking it would put it in the place of the system's malloc.
#[derive(Clone, Copy)]
pub(crate) struct Tcmalloc {
    malloc: unsafe extern "C" fn(usize) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    free_sized: unsafe extern "C" fn(*mut c_void, usize),
    release_free_memory: unsafe extern "C" fn(),
}

impl Tcmalloc {
    const LIBRARY: &CStr = c"libtcmalloc_minimal.so.4";
    const FLAGS: c_int = libc::RTLD_NOW | libc::RTLD_LOCAL;
}

impl Functions for Tcmalloc {
    fn new() -> Result<Self, String> {
        // SAFETY: the library's initializers take no part in this process's own allocations.
        let library = unsafe { libc::dlopen(Self::LIBRARY.as_ptr(), Self::FLAGS) };
        if library.is_null() {
            return Err(format!("{} is not installed", Self::LIBRARY.to_string_lossy()));
        }
        let symbol = |name: &CStr| {
            // SAFETY: the library is open.
            let address = unsafe { libc::dlsym(library, name.as_ptr()) };
            if address.is_null() {
                Err(format!("{} has no {}", Self::LIBRARY.to_string_lossy(), name.to_string_lossy()))
            } else {
                Ok(address)
            }
        };
        let (malloc, free_sized) = (symbol(c"tc_malloc")?, symbol(c"tc_free_sized")?);
        let realloc = symbol(c"tc_realloc")?;
        let release_free_memory = symbol(c"MallocExtension_ReleaseFreeMemory")?;
        // SAFETY: these are the types of the functions in gperftools' headers.
        unsafe {
            Ok(Self {
                malloc: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(usize) -> *mut c_void>(malloc),
                realloc: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void>(
                    realloc,
                ),
                free_sized: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void, usize)>(free_sized),
                release_free_memory: std::mem::transmute::<*mut c_void, unsafe extern "C" fn()>(release_free_memory),
            })
        }
    }

    #[inline(always)]
    fn allocate(&mut self, size: usize) -> *mut c_void {
        // SAFETY: any size may be asked for.
        unsafe { (self.malloc)(size) }
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: *mut c_void, size: usize) {
        // SAFETY: as the caller promises; the size is the one that was asked for.
        unsafe { (self.free_sized)(block, size) };
    }

    #[inline(always)]
    unsafe fn reallocate(&mut self, block: *mut c_void, _: usize, to: usize) -> *mut c_void {
        // SAFETY: as the caller promises.
        unsafe { (self.realloc)(block, to) }
    }

    fn another(&self) -> Result<Self, String> {
        Ok(*self)
    }

    fn trim(&mut self) {
        // SAFETY: gives back unused memory only.
        unsafe { (self.release_free_memory)() };
    }
}
