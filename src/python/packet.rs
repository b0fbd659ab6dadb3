//! What a packet object holds, and what can be done with its block. The methods that Python code sees are in
//! [`packet_class`](super::packet_class).
//!
//! ```text
//! block ├── headroom ──┼──── the packet's bytes ────┼── tailroom ──┤ capacity
//!                      offset                       offset + size
//! ```
//!
//! It is written against C's interface instead of as a PyO3 class, for three reasons. PyO3's classes take part in
//! garbage collection, and allocating such an object can run arbitrary Python code in the middle of `allocate`; a
//! packet refers to nothing but its allocator, which refers to no Python object, so it can be in no cycle. A block is
//! handed out in less time than such a class needs for its object. And PyO3's wrappers end the process where memory
//! has run out.
//!
//! What the unsafe code of the Python face leans on:
//!
//! 1. Every access to a packet or an allocator happens with the interpreter's lock held (the module says that it needs
//!    it), hence by one thread at a time.
//! 2. Anything that may run Python code (converting an argument, asking an object for its buffer) is done before a
//!    packet's state is looked at, and nothing that may run Python code happens until the state is written. To make an
//!    exception may run Python code as well.
//! 3. The bytes of a block stay mapped for as long as its allocator object lives, even after the block is freed
//!    ([`super::memory`]), and every packet holds a reference to its allocator. A pointer into a packet's bytes that
//!    somebody kept without an export reads and writes packet bytes, never the allocator's bookkeeping.

use core::cell::Cell;
use core::ffi::c_int;
use core::ops::{Deref, Range};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::arena::{Arena, ArenaHandle, ArenaRef, Traits, exported};
use super::call::enter;
use super::errors;
use super::sequences::{empty_list, set, show};
use crate::Realloc;

/// The class of packets, once it was made. It is never freed.
pub(super) static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(core::ptr::null_mut());

/// What a packet knows about its block.
pub(super) struct Packet {
    arena: ArenaHandle,
    /// `None` once it is freed.
    block: Cell<Option<NonNull<u8>>>,
    /// Where the packet's bytes begin in the block.
    offset: Cell<usize>,
    size: Cell<usize>,
    /// Bytes of the block.
    capacity: Cell<usize>,
    exports: Cell<u32>,
    /// Whether the packet is released although there are exports: the block goes with the last of them.
    leaving: Cell<bool>,
}

/// The layout of the Python object.
#[repr(C)]
pub(super) struct PacketObject {
    head: ffi::PyObject,
    pub(super) weak_references: *mut ffi::PyObject,
    packet: Packet,
}

/// A packet, borrowed for the duration of a call.
#[derive(Clone, Copy)]
pub(super) struct PacketRef<'a, 'py>(Borrowed<'a, 'py, PyAny>);

impl Deref for PacketRef<'_, '_> {
    type Target = Packet;

    #[inline(always)]
    fn deref(&self) -> &Packet {
        // SAFETY: only packets are wrapped; the reference keeps the object alive.
        unsafe { &(*self.0.as_ptr().cast::<PacketObject>()).packet }
    }
}

impl<'a, 'py> PacketRef<'a, 'py> {
    /// # Safety
    /// `object` is a packet, alive for `'a`.
    #[inline(always)]
    pub(super) unsafe fn new(py: Python<'py>, object: *mut ffi::PyObject) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Borrowed::from_ptr(py, object) })
    }

    /// `object` if it is a packet.
    #[inline(always)]
    pub(super) fn of(object: Borrowed<'a, 'py, PyAny>) -> Option<Self> {
        // The class cannot be inherited from, so that this one comparison tells.
        let found = object.get_type_ptr() == CLASS.load(Ordering::Relaxed);
        found.then_some(Self(object))
    }

    /// `object` if it is a packet that `arena` made.
    pub(super) fn expect(object: Borrowed<'a, 'py, PyAny>, arena: ArenaRef<'_, '_>) -> PyResult<Self> {
        match Self::of(object) {
            Some(packet) if core::ptr::eq(packet.arena(), &raw const *arena) => Ok(packet),
            Some(_) => Err(errors::value(format_args!("the packet belongs to another allocator"))),
            None => Err(errors::unexpected(object, format_args!("expected a pktalloc.Packet, got "))),
        }
    }

    pub(super) fn py(self) -> Python<'py> {
        self.0.py()
    }

    pub(super) fn as_any(self) -> Borrowed<'a, 'py, PyAny> {
        self.0
    }

    /// The allocator object.
    pub(super) fn owner(&self) -> ArenaRef<'_, 'py> {
        self.arena.get(self.0.py())
    }
}

/// Makes a packet of a block of `capacity` bytes, whose `size` bytes begin at `offset`; `None`, with the block still
/// live, when there is no memory for the object. Runs no Python code.
#[inline]
pub(super) fn create<'py>(
    arena: ArenaRef<'_, 'py>,
    block: NonNull<u8>,
    offset: usize,
    size: usize,
    capacity: usize,
) -> Option<Bound<'py, PyAny>> {
    // SAFETY: the type is ready and of this basic size, neither variable-sized nor garbage-collected, so that its
    // objects are plain memory with a head. Every field is written before anybody sees the object.
    unsafe {
        let object = ffi::PyObject_Malloc(size_of::<PacketObject>()).cast::<PacketObject>();
        if object.is_null() {
            return None;
        }
        ffi::PyObject_Init(object.cast(), CLASS.load(Ordering::Relaxed));
        (&raw mut (*object).weak_references).write(core::ptr::null_mut());
        (&raw mut (*object).packet).write(Packet {
            arena: arena.hold(),
            block: Cell::new(Some(block)),
            offset: Cell::new(offset),
            size: Cell::new(size),
            capacity: Cell::new(capacity),
            exports: Cell::new(0),
            leaving: Cell::new(false),
        });
        Some(Bound::from_owned_ptr(arena.py(), object.cast()))
    }
}

/// Where the bytes of a packet are to lie in its block.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Where they begin.
    pub(super) offset: usize,
    /// Where they end.
    pub(super) total: usize,
}

impl Room {
    /// `size` bytes at a multiple of the alignment, with at least `headroom` in front.
    pub(super) fn new(traits: Traits, headroom: usize, size: usize) -> PyResult<Self> {
        let offset = headroom.checked_next_multiple_of(traits.alignment).ok_or_else(|| too_large(headroom))?;
        Ok(Self { offset, total: offset.checked_add(size).ok_or_else(|| too_large(size))? })
    }
}

/// Allocates a packet of `size` bytes. Runs no Python code before its block is the packet's.
#[inline(always)]
pub(super) fn allocate<'py>(arena: ArenaRef<'_, 'py>, size: usize) -> PyResult<Bound<'py, PyAny>> {
    allocate_in(arena, Room { offset: 0, total: size })
}

/// Allocates a packet. Runs no Python code before its block is the packet's.
pub(super) fn allocate_behind<'py>(arena: ArenaRef<'_, 'py>, room: Room) -> PyResult<Bound<'py, PyAny>> {
    allocate_in(arena, room)
}

#[inline(always)]
fn allocate_in<'py>(arena: ArenaRef<'_, 'py>, room: Room) -> PyResult<Bound<'py, PyAny>> {
    let block = arena.allocate(room.total)?;
    match create(arena, block.cast(), room.offset, room.total - room.offset, block.len()) {
        Some(packet) => Ok(packet),
        None => {
            // SAFETY: the block was allocated just now, and nobody knows it.
            unsafe { arena.free(block.cast())? };
            Err(errors::no_memory())
        }
    }
}

impl Packet {
    /// The block, or the error that a packet without one raises.
    #[inline(always)]
    fn live(&self) -> PyResult<NonNull<u8>> {
        match self.block.get() {
            Some(block) if !self.is_released() => Ok(block),
            _ => Err(self.gone()),
        }
    }

    #[cold]
    fn gone(&self) -> PyErr {
        errors::value(if self.block.get().is_none() || self.leaving.get() {
            format_args!("the packet is released")
        } else {
            format_args!("the packet's allocator is closed")
        })
    }

    /// The block, if nobody holds an export of it that `action` would pull away.
    #[inline]
    fn unshared(&self, action: &str) -> PyResult<NonNull<u8>> {
        let block = self.live()?;
        match self.exports.get() {
            0 => Ok(block),
            exports => Err(exported(action, exports as usize)),
        }
    }

    /// Whether every use is an error.
    #[inline(always)]
    pub(super) fn is_released(&self) -> bool {
        self.block.get().is_none() || self.leaving.get() || self.arena.is_closed()
    }

    /// The bytes. They may change whenever Python code runs, and be released then.
    #[inline(always)]
    pub(super) fn bytes(&self) -> PyResult<NonNull<[u8]>> {
        // SAFETY: the offset lies in the block.
        let start = unsafe { self.live()?.add(self.offset.get()) };
        Ok(NonNull::slice_from_raw_parts(start, self.size.get()))
    }

    /// Bytes that the packet can have without moving.
    pub(super) fn capacity(&self) -> PyResult<usize> {
        self.live()?;
        Ok(self.capacity.get() - self.offset.get())
    }

    /// Bytes in front of the packet's, which [`prepend`](Self::prepend) can take.
    pub(super) fn headroom(&self) -> PyResult<usize> {
        self.live()?;
        Ok(self.offset.get())
    }

    /// How many exports are alive.
    pub(super) fn exports(&self) -> u32 {
        self.exports.get()
    }

    /// The state of the allocator that made the packet.
    #[inline(always)]
    pub(super) fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Counts an export, here and in the allocator.
    #[inline(always)]
    pub(super) fn export(&self) -> PyResult<()> {
        match self.exports.get().checked_add(1) {
            Some(exports) => self.exports.set(exports),
            None => return Err(errors::buffer(format_args!("too many exports of one packet"))),
        }
        self.arena.export();
        Ok(())
    }

    /// Takes an export back; the last one of a packet that was released takes the block along.
    #[inline(always)]
    pub(super) fn unexport(&self, py: Python<'_>) {
        self.exports.set(self.exports.get() - 1);
        if self.leaving.get() && self.exports.get() == 0 {
            self.free_unseen(py);
        }
        self.arena.unexport();
    }

    /// Frees the block; an error when there is none.
    pub(super) fn free(&self, action: &str) -> PyResult<()> {
        let block = self.unshared(action)?;
        // SAFETY: the block is this packet's, live, and nothing exports it.
        unsafe { self.arena.free(block) }?;
        self.block.set(None);
        Ok(())
    }

    /// Frees the block unless it is gone already.
    pub(super) fn release(&self) -> PyResult<()> {
        if self.is_released() { Ok(()) } else { self.free("release the packet") }
    }

    /// Releases the packet at the end of a `with` block; the memory goes with the last export. Where an exception is on
    /// its way it stays the one, whatever else is to be said.
    pub(super) fn leave(&self, py: Python<'_>, raising: bool) -> PyResult<()> {
        if self.is_released() {
            return Ok(());
        }
        let outcome = if self.exports.get() == 0 { self.release() } else { Ok(()) };
        self.leaving.set(self.block.get().is_some());
        match outcome {
            Err(error) if raising => {
                report(py, error);
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Frees the block, if there is one that the allocator has not freed, where nobody can be told that it failed.
    #[inline(always)]
    fn free_unseen(&self, py: Python<'_>) {
        let Some(block) = self.block.take() else { return };
        if self.arena.is_closed() {
            return;
        }
        // SAFETY: the block is this packet's, live, and nothing exports it.
        if let Err(error) = unsafe { self.arena.free(block) } {
            report(py, error);
        }
    }

    /// Changes the size; the block may move.
    pub(super) fn reallocate(&self, size: usize, copy: bool) -> PyResult<()> {
        let block = self.unshared("resize the packet")?;
        let how = if copy { Realloc::CopyExisting } else { Realloc::Uninitialized };
        let offset = self.offset.get();
        let new = offset.checked_add(size).ok_or_else(|| too_large(size))?;
        // SAFETY: the block is this packet's, live, of this size, and nothing exports it.
        let block = unsafe { self.arena.reallocate(block, offset + self.size.get(), new, how) }?;
        self.block.set(Some(block.cast()));
        self.size.set(size);
        self.capacity.set(block.len());
        Ok(())
    }

    /// Gives the tail of the block back.
    #[inline(always)]
    pub(super) fn shrink(&self, size: usize) -> PyResult<()> {
        let block = self.unshared("shrink the packet")?;
        if size > self.size.get() {
            return Err(not_smaller(self.size.get(), size));
        }
        let end = self.offset.get() + size;
        if self.arena.is_whole(end, self.capacity.get()) {
            self.size.set(size);
            return Ok(());
        }
        // SAFETY: the block is this packet's, live, and nothing exports it.
        let capacity = unsafe { self.arena.shrink(block, end) }?;
        self.size.set(size);
        self.capacity.set(capacity);
        Ok(())
    }
}

/// Headers and trailers. The bytes that are given may be the packet's own, where somebody kept a pointer without an
/// export; what is copied then is unspecified, and nothing worse.
impl Packet {
    /// Puts `length` bytes in front, into the headroom.
    ///
    /// # Safety
    /// `source` leads to `length` bytes that stay mapped.
    pub(super) unsafe fn prepend(&self, source: *const u8, length: usize) -> PyResult<()> {
        let block = self.unshared("prepend to the packet")?;
        let Some(offset) = self.offset.get().checked_sub(length) else {
            return Err(no_headroom(self.offset.get(), length));
        };
        // SAFETY: the bytes between the new offset and the old one lie in the block, which nobody exports.
        unsafe { block.as_ptr().add(offset).copy_from(source, length) };
        self.offset.set(offset);
        self.size.set(self.size.get() + length);
        Ok(())
    }

    /// Strips `length` bytes from the front, which become headroom.
    pub(super) fn advance(&self, length: usize) -> PyResult<()> {
        self.unshared("advance the packet")?;
        let size = self.size.get();
        let Some(left) = size.checked_sub(length) else {
            return Err(errors::value(format_args!("cannot advance a packet of {size} bytes by {length}")));
        };
        self.offset.set(self.offset.get() + length);
        self.size.set(left);
        Ok(())
    }

    /// Puts `length` bytes behind the last, into the tailroom; where that is too small the block grows, and may move.
    ///
    /// # Safety
    /// `source` leads to `length` bytes that stay mapped.
    pub(super) unsafe fn append(&self, source: *const u8, length: usize) -> PyResult<()> {
        let block = self.unshared("append to the packet")?;
        let end = self.offset.get() + self.size.get();
        let new_end = end.checked_add(length).ok_or_else(|| too_large(length))?;
        let block = if new_end <= self.capacity.get() {
            block
        } else {
            // SAFETY: the block is this packet's, live, `end` of its bytes are in use, and nothing exports it.
            let block = unsafe { self.arena.reallocate(block, end, new_end, Realloc::CopyExisting) }?;
            self.block.set(Some(block.cast()));
            self.capacity.set(block.len());
            block.cast()
        };
        // SAFETY: the block has room for as many behind `end`, and nobody exports it.
        unsafe { block.as_ptr().add(end).copy_from(source, length) };
        self.size.set(self.size.get() + length);
        Ok(())
    }
}

/// Copies and parts.
impl<'py> PacketRef<'_, 'py> {
    /// A packet of its own with the same bytes and the same headroom.
    pub(super) fn copy(self) -> PyResult<Bound<'py, PyAny>> {
        let bytes = self.bytes()?;
        self.copy_part(self.offset.get(), bytes)
    }

    /// A packet of its own with some of this one's bytes, behind `offset` bytes of headroom.
    fn copy_part(self, offset: usize, part: NonNull<[u8]>) -> PyResult<Bound<'py, PyAny>> {
        let copy = allocate_behind(self.owner(), Room { offset, total: offset + part.len() })?;
        // SAFETY: it was made just now, with as many bytes, and nothing has run that could have changed either.
        unsafe {
            let target = PacketRef(copy.as_borrowed()).bytes()?;
            target.cast::<u8>().copy_from_nonoverlapping(part.cast(), part.len());
        }
        Ok(copy)
    }

    /// Cuts the packet into parts of `size` bytes, the last one of what is left, and releases it. Where the parts are
    /// whole units they stay where they are; otherwise the first one keeps the block, and the others are copied. On an
    /// error nothing has changed.
    pub(super) fn split(self, size: usize) -> PyResult<Bound<'py, PyAny>> {
        let (list, parts) = loop {
            let parts = self.bytes()?.len().div_ceil(size);
            let list = empty_list(self.py(), parts, "packets")?;
            // To make a list may run Python code, which may change the packet.
            self.unshared("split the packet")?;
            if self.size.get().div_ceil(size) == parts {
                break (list, parts);
            }
        };
        if parts == 0 {
            self.free("split the packet")?;
        } else if parts == 1 || !self.split_in_place(size, &list, parts)? {
            self.split_by_copy(size, &list, parts)?;
        }
        show(&list);
        Ok(list.into_any())
    }

    /// Where the part of this number lies in the packet.
    fn part(self, place: usize, size: usize) -> Range<usize> {
        place * size..self.size.get().min(place.saturating_add(1).saturating_mul(size))
    }

    /// Makes a packet of each part where it lies; false, with this one as it was, where that is not possible.
    fn split_in_place(self, size: usize, list: &Bound<'py, PyList>, parts: usize) -> PyResult<bool> {
        let block = self.unshared("split the packet")?;
        let (offset, capacity, alignment) = (self.offset.get(), self.capacity.get(), self.arena.traits().alignment);
        let first = offset + size;
        if !first.is_multiple_of(alignment) || !size.is_multiple_of(alignment) {
            return Ok(false);
        }
        // The objects first: they can fail. Until the block is cut it is that of this packet alone.
        let start = |place: usize| if place == 0 { 0 } else { first + (place - 1) * size };
        for place in 0..parts {
            let end = if place == parts - 1 { capacity } else { start(place + 1) };
            let in_front = if place == 0 { offset } else { 0 };
            let length = self.part(place, size).len();
            let part = create(self.owner(), block, in_front, length, end - start(place));
            let part = part.ok_or_else(errors::no_memory)?;
            PacketRef(part.as_borrowed()).block.set(None);
            set(list, place, part);
        }
        // SAFETY: the block is this packet's, and live.
        if !unsafe { self.arena.split(block, capacity, first, size, parts) }? {
            return Ok(false);
        }
        self.block.set(None);
        for place in 0..parts {
            // SAFETY: the list has as many places, with packets in them that nobody else knows; the parts lie in the
            // block.
            unsafe {
                let part = PacketRef::new(self.py(), ffi::PyList_GetItem(list.as_ptr(), place as ffi::Py_ssize_t));
                part.block.set(Some(block.add(start(place))));
                if place == parts - 1 {
                    part.shrink(part.size.get())?;
                }
            }
        }
        Ok(true)
    }

    /// Makes a packet of the block with the first part, and copies the others.
    fn split_by_copy(self, size: usize, list: &Bound<'py, PyList>, parts: usize) -> PyResult<()> {
        for place in 1..parts {
            let range = self.part(place, size);
            // SAFETY: the part lies in the packet.
            let start = unsafe { self.bytes()?.cast::<u8>().add(range.start) };
            set(list, place, self.copy_part(0, NonNull::slice_from_raw_parts(start, range.len()))?);
        }
        set(list, 0, self.hand_over(self.part(0, size).len())?);
        Ok(())
    }

    /// Makes a new packet of the block and of this packet's first `size` bytes, and gives the rest of the block back.
    fn hand_over(self, size: usize) -> PyResult<Bound<'py, PyAny>> {
        let block = self.unshared("split the packet")?;
        let part = create(self.owner(), block, self.offset.get(), size, 0).ok_or_else(errors::no_memory)?;
        let heir = PacketRef(part.as_borrowed());
        // One block has one packet, whatever fails.
        heir.block.set(None);
        self.shrink(size)?;
        heir.block.set(self.block.take());
        heir.capacity.set(self.capacity.get());
        Ok(part)
    }
}

/// Says that something failed where nobody can be told. An exception may be on its way up while packets are dropped; it
/// is not replaced.
#[cold]
fn report(py: Python<'_>, error: PyErr) {
    let pending = PyErr::take(py);
    error.write_unraisable(py, None);
    if let Some(pending) = pending {
        pending.restore(py);
    }
}

#[cold]
fn no_headroom(headroom: usize, length: usize) -> PyErr {
    errors::value(format_args!(
        "cannot prepend {length} bytes to a packet with a headroom of {headroom}: allocate it with headroom={length}"
    ))
}

#[cold]
fn too_large(size: usize) -> PyErr {
    errors::memory(format_args!("cannot allocate {size} bytes: beyond what an address space can hold"))
}

#[cold]
fn not_smaller(size: usize, wanted: usize) -> PyErr {
    errors::value(format_args!("cannot shrink a packet of {size} bytes to {wanted}; resize() makes it larger"))
}

/// `tp_dealloc`: gives the block back, then the object.
pub(super) unsafe extern "C" fn deallocate(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter calls this once, for a packet that nobody refers to any more. The fields are moved out
    // of the object before its memory is returned, and instances of a heap type own a reference to it.
    unsafe {
        let this = object.cast::<PacketObject>();
        if !(*this).weak_references.is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        let packet = (&raw mut (*this).packet).read();
        let class = ffi::Py_TYPE(object);
        ffi::PyObject_Free(object.cast());
        ffi::Py_DECREF(class.cast());
        let outcome: c_int = enter(|py| {
            packet.free_unseen(py);
            packet.arena.drop_ref(py);
            Ok(0)
        });
        if outcome != 0 {
            ffi::PyErr_WriteUnraisable(core::ptr::null_mut());
        }
    }
}
