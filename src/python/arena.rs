//! What an allocator object holds, and what packets need of it. The methods that Python code sees are in
//! [`allocator`](super::allocator).

use core::cell::{Cell, Ref};
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

use super::errors::{self, allocation_failed, free_failed};
use super::memory::{AnyHeap, Memory};
use super::trace::Traces;
use crate::{AllocError, Realloc};

/// The class of allocators, once it was made. It is never freed.
pub(super) static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(core::ptr::null_mut());

/// The state of an allocator object.
pub(super) struct Arena {
    memory: Memory,
    /// Whether every use is an error. The memory goes with the last export.
    closed: Cell<bool>,
    /// Exports of all packets together.
    exports: Cell<usize>,
    /// What the next buffer request is about, where it is a part of a packet: see [`super::export::view_of_part`].
    part: Cell<Option<NonNull<[u8]>>>,
    traces: Traces,
    traits: Traits,
}

/// What an allocator was made with.
#[derive(Clone, Copy)]
pub(super) struct Traits {
    /// Blocks start at multiples of this many bytes.
    pub(super) alignment: usize,
    pub(super) memory_limit: u64,
    pub(super) zero: bool,
    pub(super) check: bool,
}

/// The layout of the Python object.
#[repr(C)]
pub(super) struct ArenaObject {
    head: ffi::PyObject,
    pub(super) weak_references: *mut ffi::PyObject,
    arena: Arena,
}

/// An allocator object, borrowed for the duration of a call.
#[derive(Clone, Copy)]
pub(super) struct ArenaRef<'a, 'py>(Borrowed<'a, 'py, PyAny>);

impl Deref for ArenaRef<'_, '_> {
    type Target = Arena;

    #[inline(always)]
    fn deref(&self) -> &Arena {
        // SAFETY: only allocators are wrapped; the reference keeps the object alive.
        unsafe { &(*self.0.as_ptr().cast::<ArenaObject>()).arena }
    }
}

impl<'a, 'py> ArenaRef<'a, 'py> {
    /// # Safety
    /// `object` is an allocator, alive for `'a`.
    #[inline(always)]
    pub(super) unsafe fn new(py: Python<'py>, object: *mut ffi::PyObject) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Borrowed::from_ptr(py, object) })
    }

    /// `object` if it is an allocator.
    #[cfg(target_os = "linux")]
    pub(super) fn of(object: Borrowed<'a, 'py, PyAny>) -> Option<Self> {
        // The class cannot be inherited from, so that this one comparison tells.
        let found = object.get_type_ptr() == CLASS.load(Ordering::Relaxed);
        found.then_some(Self(object))
    }

    pub(super) fn py(self) -> Python<'py> {
        self.0.py()
    }

    pub(super) fn as_any(self) -> Borrowed<'a, 'py, PyAny> {
        self.0
    }

    /// A reference that lasts.
    #[inline(always)]
    pub(super) fn hold(self) -> ArenaHandle {
        ArenaHandle(self.0.to_owned().unbind())
    }
}

/// A reference to an allocator object that lasts.
pub(super) struct ArenaHandle(Py<PyAny>);

impl ArenaHandle {
    #[inline(always)]
    pub(super) fn get<'a, 'py>(&'a self, py: Python<'py>) -> ArenaRef<'a, 'py> {
        ArenaRef(self.0.bind_borrowed(py))
    }

    /// Gives the reference up.
    #[inline(always)]
    pub(super) fn drop_ref(self, py: Python<'_>) {
        self.0.drop_ref(py);
    }
}

impl Deref for ArenaHandle {
    type Target = Arena;

    #[inline(always)]
    fn deref(&self) -> &Arena {
        // SAFETY: as for `ArenaRef`.
        unsafe { &(*self.0.as_ptr().cast::<ArenaObject>()).arena }
    }
}

/// Makes the object of an allocator.
pub(super) fn create(py: Python<'_>, memory: Memory, traits: Traits) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the type is ready and of this basic size, neither variable-sized nor garbage-collected, so that its
    // objects are plain memory with a head. Every field is written before anybody sees the object.
    unsafe {
        let object = ffi::PyObject_Malloc(size_of::<ArenaObject>()).cast::<ArenaObject>();
        if object.is_null() {
            return Err(errors::no_memory());
        }
        ffi::PyObject_Init(object.cast(), CLASS.load(Ordering::Relaxed));
        (&raw mut (*object).weak_references).write(core::ptr::null_mut());
        (&raw mut (*object).arena).write(Arena {
            memory,
            closed: Cell::new(false),
            exports: Cell::new(0),
            part: Cell::new(None),
            traces: Traces::default(),
            traits,
        });
        Ok(Bound::from_owned_ptr(py, object.cast()))
    }
}

/// `tp_dealloc`: gives all memory back, then the object.
pub(super) unsafe extern "C" fn deallocate(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter calls this once, for an allocator that nobody refers to any more, hence no packet. The
    // state is moved out of the object before its memory is returned, and instances of a heap type own a reference to
    // it.
    unsafe {
        let this = object.cast::<ArenaObject>();
        if !(*this).weak_references.is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        let arena = (&raw mut (*this).arena).read();
        let class = ffi::Py_TYPE(object);
        ffi::PyObject_Free(object.cast());
        ffi::Py_DECREF(class.cast());
        arena.traces.clear();
    }
}

/// What holds for all uses.
impl Arena {
    #[inline(always)]
    pub(super) fn traits(&self) -> Traits {
        self.traits
    }

    #[inline(always)]
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// The heap; an error when the allocator is closed. No Python code may run while it is borrowed, and to make an
    /// exception may.
    #[inline(always)]
    pub(super) fn heap(&self) -> PyResult<Ref<'_, AnyHeap>> {
        match self.memory.heap() {
            Some(heap) if !self.closed.get() => Ok(heap),
            _ => Err(closed()),
        }
    }

    /// Gives back what no packet needs; returns how many bytes that were.
    pub(super) fn trim(&self) -> PyResult<u64> {
        if self.closed.get() {
            return Err(closed());
        }
        self.memory.trim().ok_or_else(closed)
    }

    /// Closes the allocator. While exports are alive that is an error, or, where `in_any_case`, the memory stays until
    /// the last of them goes.
    pub(super) fn close(&self, in_any_case: bool) -> PyResult<()> {
        match self.exports.get() {
            _ if self.closed.get() => return Ok(()),
            0 => self.give_back(),
            _ if in_any_case => {}
            exports => return Err(exported("close the allocator", exports)),
        }
        self.closed.set(true);
        Ok(())
    }

    /// Frees all blocks.
    fn give_back(&self) {
        self.traces.clear();
        self.memory.close();
    }
}

/// Exports.
impl Arena {
    /// Counts an export of a packet.
    #[inline(always)]
    pub(super) fn export(&self) {
        self.exports.set(self.exports.get() + 1);
    }

    /// Takes an export back.
    #[inline(always)]
    pub(super) fn unexport(&self) {
        self.exports.set(self.exports.get() - 1);
        if self.exports.get() == 0 && self.closed.get() {
            self.give_back();
        }
    }

    /// Sets what the next buffer request of a packet is about, instead of the whole packet.
    #[inline(always)]
    pub(super) fn set_part(&self, part: Option<NonNull<[u8]>>) {
        self.part.set(part);
    }

    /// Takes what was set, if anything was.
    #[inline(always)]
    pub(super) fn take_part(&self) -> Option<NonNull<[u8]>> {
        self.part.take()
    }
}

/// Blocks. The heap knows no empty ones, so that a block of no bytes is one of one byte.
impl Arena {
    /// A block of at least `size` bytes.
    #[inline(always)]
    pub(super) fn allocate(&self, size: usize) -> PyResult<NonNull<[u8]>> {
        let block = self.heap()?.allocate(size.max(1));
        match block {
            Ok(block) => {
                self.traces.track(block);
                Ok(block)
            }
            Err(error) => Err(self.failed(error, size)),
        }
    }

    /// A block of at least `size` bytes for each of `blocks`, or none; returns the capacity of each.
    pub(super) fn allocate_batch(&self, size: usize, blocks: &mut [NonNull<u8>]) -> PyResult<usize> {
        let capacity = self.heap()?.allocate_batch(size.max(1), blocks);
        let capacity = capacity.map_err(|error| self.failed(error, size))?;
        // Where the first is not traced none is: nothing in between can switch it on.
        blocks.iter().all(|&block| self.traces.track(NonNull::slice_from_raw_parts(block, capacity)));
        Ok(capacity)
    }

    /// Frees a block; with `check` on, an error leaves it as it was.
    ///
    /// # Safety
    /// `block` is a live block of this allocator.
    #[inline(always)]
    pub(super) unsafe fn free(&self, block: NonNull<u8>) -> PyResult<()> {
        if self.traits.check {
            // SAFETY: the caller's promise.
            unsafe { self.free_checked(block) }?;
        } else {
            // The heap is there as long as an export is, even if it is closed.
            let Some(heap) = self.memory.heap() else { return Err(closed()) };
            // SAFETY: the caller's promise.
            unsafe { heap.free(block) };
        }
        self.traces.untrack(block);
        Ok(())
    }

    /// # Safety
    /// As for [`free`](Self::free).
    #[cold]
    unsafe fn free_checked(&self, block: NonNull<u8>) -> PyResult<()> {
        // SAFETY: the caller's promise.
        let freed = unsafe { self.memory.heap().ok_or_else(closed)?.try_free(block) };
        freed.map_err(|error| free_failed(&error))
    }

    /// Gives a block, of which `old` bytes were asked for, room for `new`. With `zero` on, the bytes that it gains are
    /// zero.
    ///
    /// # Safety
    /// `block` is a live block of this allocator; on `Ok` only the returned one is.
    pub(super) unsafe fn reallocate(
        &self,
        block: NonNull<u8>,
        old: usize,
        new: usize,
        how: Realloc,
    ) -> PyResult<NonNull<[u8]>> {
        // SAFETY: the caller's promise.
        let moved = unsafe { self.heap()?.reallocate(block, new.max(1), how) };
        let moved = moved.map_err(|error| self.failed(error, new))?;
        self.traces.untrack(block);
        self.traces.track(moved);
        if self.traits.zero && new > old {
            // The heap keeps what the block contained up to its capacity; of that, `old` bytes were the packet's.
            // SAFETY: the block has at least `new` bytes.
            unsafe { moved.cast::<u8>().add(old).write_bytes(0, new - old) };
        }
        Ok(moved)
    }

    /// Whether a block of `capacity` bytes has nothing to give back behind `size` bytes.
    #[inline(always)]
    pub(super) fn is_whole(&self, size: usize, capacity: usize) -> bool {
        let last = self.traits.alignment - 1;
        // With `check` on the heap guards what lies behind the size.
        !self.traits.check && size.max(1).wrapping_add(last) & !last == capacity
    }

    /// Gives the tail of a block back; returns the capacity that is left.
    ///
    /// # Safety
    /// `block` is a live block of this allocator of at least `size` bytes.
    #[inline]
    pub(super) unsafe fn shrink(&self, block: NonNull<u8>, size: usize) -> PyResult<usize> {
        // SAFETY: the caller's promise.
        let left = unsafe { self.heap()?.shrink(block, size.max(1)) };
        let left = left.map_err(|error| self.failed(error, size))?;
        self.traces.shrunk(NonNull::slice_from_raw_parts(block, left));
        Ok(left)
    }

    /// Cuts a block of `capacity` bytes into `blocks` of them without moving anything: the first one of `first` bytes,
    /// each behind it of `part`, the last one of all that is left. False, with nothing changed, where that is not
    /// possible.
    ///
    /// # Safety
    /// `block` is a live block of this allocator.
    pub(super) unsafe fn split(
        &self,
        block: NonNull<u8>,
        capacity: usize,
        first: usize,
        part: usize,
        blocks: usize,
    ) -> PyResult<bool> {
        // SAFETY: the caller's promise.
        let cut = unsafe { self.heap()?.split(block, first, part, blocks) };
        if cut {
            self.traces.untrack(block);
            let starts = core::iter::once(0).chain((0..blocks - 1).map(|place| first + place * part));
            let mut bounds = starts.chain([capacity]).peekable();
            while let (Some(start), Some(&end)) = (bounds.next(), bounds.peek()) {
                // SAFETY: the part lies in what was the block.
                let traced = self.traces.track(NonNull::slice_from_raw_parts(unsafe { block.add(start) }, end - start));
                if !traced {
                    break;
                }
            }
        }
        Ok(cut)
    }

    #[cold]
    fn failed(&self, error: AllocError, size: usize) -> PyErr {
        allocation_failed(error, size, || self.memory.heap()?.integrity_check().err())
    }
}

#[cold]
fn closed() -> PyErr {
    errors::value(format_args!("the allocator is closed"))
}

/// The error of an action that live exports forbid.
#[cold]
pub(super) fn exported(action: &str, exports: usize) -> PyErr {
    let (noun, them) = if exports == 1 { ("export", "it") } else { ("exports", "them") };
    errors::buffer(format_args!("cannot {action}: {exports} buffer {noun} alive; release {them} first"))
}
