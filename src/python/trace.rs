//! Packet memory as `tracemalloc` sees it: each block with the line of Python code that allocated it.

use core::cell::{Cell, RefCell};
use core::ffi::{c_int, c_uint};
use core::ptr::NonNull;
use std::collections::HashSet;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::class;

/// The domain of packet memory: what tells it from Python's own, which is in domain 0. The letters `pkt`.
pub(super) const DOMAIN: c_uint = 0x0070_6b74;

/// What `PyTraceMalloc_Track` returns when nothing is traced.
const NOT_TRACING: c_int = -2;

/// Enters the domain into the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // SAFETY: the thread is attached, and what is made is owned here.
    let domain = unsafe { Bound::from_owned_ptr_or_err(module.py(), ffi::PyLong_FromUnsignedLong(DOMAIN.into()))? };
    class::add(module, c"tracemalloc_domain", &domain)
}

unsafe extern "C" {
    /// 0 when the block is traced now, -2 when nothing is traced, -1 when there was no memory for it. Runs no Python
    /// code. What was said of the address before is replaced.
    fn PyTraceMalloc_Track(domain: c_uint, address: usize, bytes: usize) -> c_int;
    /// Takes back what was said of an address, if anything was.
    fn PyTraceMalloc_Untrack(domain: c_uint, address: usize) -> c_int;
}

/// The blocks of an allocator that `tracemalloc` was told of. While it is switched off that costs one call for each
/// allocation, which looks at one word and returns, and a look at one word for each free.
#[derive(Default)]
pub(super) struct Traces {
    addresses: RefCell<HashSet<usize>>,
    /// How many they are.
    count: Cell<usize>,
}

impl Traces {
    /// Tells of a block, or of its new size; returns whether blocks are traced at all.
    #[inline(always)]
    pub(super) fn track(&self, block: NonNull<[u8]>) -> bool {
        let address = block.cast::<u8>().addr().get();
        // SAFETY: the thread is attached: the interpreter has called.
        let traced = unsafe { PyTraceMalloc_Track(DOMAIN, address, block.len()) };
        if traced == 0 {
            self.remember(address);
        }
        traced != NOT_TRACING
    }

    /// Tells of the new size of a block that was cut, if it was told of.
    #[inline(always)]
    pub(super) fn shrunk(&self, block: NonNull<[u8]>) {
        if self.count.get() > 0 {
            self.track(block);
        }
    }

    /// Without memory to remember it, the block is not traced.
    #[cold]
    fn remember(&self, address: usize) {
        let mut addresses = self.addresses.borrow_mut();
        if addresses.try_reserve(1).is_ok() {
            addresses.insert(address);
            self.count.set(addresses.len());
        } else {
            // SAFETY: as in `track`.
            unsafe { PyTraceMalloc_Untrack(DOMAIN, address) };
        }
    }

    /// Takes back what was told of a block.
    #[inline(always)]
    pub(super) fn untrack(&self, block: NonNull<u8>) {
        if self.count.get() > 0 {
            self.forget(block.addr().get());
        }
    }

    #[cold]
    fn forget(&self, address: usize) {
        let mut addresses = self.addresses.borrow_mut();
        if addresses.remove(&address) {
            self.count.set(addresses.len());
            // SAFETY: as in `track`.
            unsafe { PyTraceMalloc_Untrack(DOMAIN, address) };
        }
    }

    /// Takes back what was told of all blocks.
    pub(super) fn clear(&self) {
        self.count.set(0);
        for address in self.addresses.take() {
            // SAFETY: as in `track`.
            unsafe { PyTraceMalloc_Untrack(DOMAIN, address) };
        }
    }
}
