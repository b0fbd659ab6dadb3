//! `Allocator`: the methods and attributes that Python code sees.

use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::arena::{self, ArenaObject, ArenaRef, CLASS, Traits};
use super::call::{Arguments, count, enter, int, keywords_only, none, setting, size, switch, truth};
use super::class::{self, Attribute, Class, Method, Object, getter, method, slot};
#[cfg(target_os = "linux")]
use super::datagrams::{RECV_MANY, recv_many};
use super::errors::{self, damaged};
use super::memory::{DEFAULT_UNIT, DEFAULT_UNITS, Memory};
use super::packet::{self, PacketRef, Room};
use super::sequences::{empty_list, set, show};
use super::{docs, figures};
use crate::config::Settings;

/// Blocks that `allocate_many` asks for at a time.
const BATCH: usize = 64;

/// `tp_new`.
unsafe extern "C" fn new(
    _class: *mut ffi::PyTypeObject,
    positional: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this with a tuple, and a dictionary or null, alive until it returns.
    unsafe {
        enter(|py| {
            let positional = Borrowed::from_ptr(py, positional).cast_unchecked::<PyTuple>();
            let keywords = Borrowed::from_ptr_or_opt(py, keywords).map(|keywords| keywords.cast_unchecked::<PyDict>());
            Ok(with_settings(py, positional, keywords)?.into_ptr())
        })
    }
}

fn with_settings<'py>(
    py: Python<'py>,
    positional: Borrowed<'_, 'py, PyTuple>,
    keywords: Option<Borrowed<'_, 'py, PyDict>>,
) -> Object<'py> {
    const WINDOWS: &str = "from 0 to 1048576";
    let names = [
        "alignment",
        "window_bytes",
        "preallocated_windows",
        "memory_limit",
        "zero",
        "check",
        "keep_empty_windows",
        "huge_pages",
    ];
    let [alignment, window_bytes, preallocated_windows, memory_limit, zero, check, keep_empty_windows, huge_pages] =
        keywords_only("Allocator", positional, keywords, names)?;
    let number = |value: Option<Bound<'py, PyAny>>, name, allowed| match value {
        Some(value) => setting(value.as_borrowed(), name, allowed).map(Some),
        None => Ok(None),
    };
    let on = |value: &Option<Bound<'py, PyAny>>, name| switch(value.as_ref().map(Bound::as_borrowed), name, false);
    // `None` stands for the default where it is the documented one.
    let some = |value: Option<Bound<'py, PyAny>>| value.filter(|value| !value.is_none());
    let defaults = Settings::new();
    let alignment = number(alignment, "alignment", "a power of two from 16 to 4096")?.unwrap_or(DEFAULT_UNIT);
    let window_bytes = some(window_bytes);
    let window_bytes = number(window_bytes, "window_bytes", "a power of two, 64 to 65536 times the alignment")?;
    let window_bytes = window_bytes.unwrap_or(alignment.saturating_mul(DEFAULT_UNITS));
    let preallocated_windows = number(preallocated_windows, "preallocated_windows", WINDOWS)?;
    let memory_limit = number(some(memory_limit), "memory_limit", "at least one window, or None")?;
    let keep_empty_windows = number(keep_empty_windows, "keep_empty_windows", WINDOWS)?;
    let settings = Settings {
        preallocated_windows: preallocated_windows.unwrap_or(defaults.preallocated_windows),
        keep_empty_windows: keep_empty_windows.unwrap_or(defaults.keep_empty_windows),
        memory_limit: memory_limit.map(|limit| limit as u64),
        zero: on(&zero, "zero")?,
        check: on(&check, "check")?,
        huge_pages: on(&huge_pages, "huge_pages")?,
        ..defaults
    };
    let memory = Memory::new(alignment, window_bytes, settings).ok_or_else(errors::no_memory)?;
    let memory = memory.map_err(|error| errors::value(format_args!("{error}")))?;
    let traits = Traits {
        alignment,
        memory_limit: settings.memory_limit.unwrap_or(u64::MAX),
        zero: settings.zero,
        check: settings.check,
    };
    arena::create(py, memory, traits)
}

fn allocate<'py>(arena: ArenaRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    if let Some(only) = arguments.single() {
        return packet::allocate(arena, size(only)?);
    }
    let ([size_given], [headroom]) = arguments.sort("allocate", ["size"], ["headroom"])?;
    let size = size(size_given)?;
    let headroom = headroom.map_or(Ok(0), |headroom| count(headroom, "headroom", 0))?;
    packet::allocate_behind(arena, Room::new(arena.traits(), headroom, size)?)
}

fn allocate_many<'py>(arena: ArenaRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let ([size_given, count_given], [headroom]) = arguments.sort("allocate_many", ["size", "count"], ["headroom"])?;
    let (size, count_given) = (size(size_given)?, count(count_given, "count", 0)?);
    let headroom = headroom.map_or(Ok(0), |headroom| count(headroom, "headroom", 0))?;
    let (room, count) = (Room::new(arena.traits(), headroom, size)?, count_given);
    if (room.total.max(1) as u64).saturating_mul(count as u64) > arena.traits().memory_limit.min(isize::MAX as u64) {
        return Err(errors::memory(format_args!(
            "{count} packets of {size} bytes are beyond what this allocator may hold"
        )));
    }
    let list = empty_list(arena.py(), count, "packets")?;
    // Also where no packet is asked for.
    drop(arena.heap()?);
    let mut blocks = [NonNull::<u8>::dangling(); BATCH];
    let mut filled = 0;
    while filled < count {
        let batch = &mut blocks[..BATCH.min(count - filled)];
        let capacity = arena.allocate_batch(room.total, batch)?;
        for (at, &block) in batch.iter().enumerate() {
            let Some(packet) = packet::create(arena, block, room.offset, size, capacity) else {
                for &unused in &batch[at..] {
                    // SAFETY: the block was allocated just now, and nobody knows it.
                    unsafe { arena.free(unused)? };
                }
                return Err(errors::no_memory());
            };
            set(&list, filled, packet);
            filled += 1;
        }
    }
    show(&list);
    Ok(list.into_any())
}

fn free<'py>(arena: ArenaRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [packet] = arguments.required("free", ["packet"])?;
    PacketRef::expect(packet, arena)?.free("free the packet")?;
    Ok(none(arena.py()))
}

fn shrink<'py>(arena: ArenaRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [packet, size_given] = arguments.required("shrink", ["packet", "size"])?;
    let packet = PacketRef::expect(packet, arena)?;
    packet.shrink(size(size_given)?)?;
    Ok(none(arena.py()))
}

fn reallocate<'py>(arena: ArenaRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    if arguments.positional() > 2 {
        return Err(errors::kind(format_args!(
            "reallocate() takes 2 positional arguments; copy must be given by keyword"
        )));
    }
    let ([packet, size_given], [copy]) = arguments.sort("reallocate", ["packet", "size"], ["copy"])?;
    let packet = PacketRef::expect(packet, arena)?;
    let size = size(size_given)?;
    let copy = switch(copy, "copy", true)?;
    packet.reallocate(size, copy)?;
    Ok(none(arena.py()))
}

fn stats<'py>(arena: ArenaRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [] = arguments.required("stats", [])?;
    let stats = arena.heap()?.stats();
    figures::stats(arena.py(), stats)
}

fn windows<'py>(arena: ArenaRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [] = arguments.required("windows", [])?;
    let windows = arena.heap()?.windows();
    figures::windows(arena.py(), windows.ok_or_else(errors::no_memory)?)
}

fn integrity_check<'py>(arena: ArenaRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [] = arguments.required("integrity_check", [])?;
    let found = arena.heap()?.integrity_check();
    found.map_err(|error| damaged(&error))?;
    Ok(none(arena.py()))
}

fn trim<'py>(arena: ArenaRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [] = arguments.required("trim", [])?;
    int(arena.py(), arena.trim()?)
}

fn close<'py>(arena: ArenaRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [] = arguments.required("close", [])?;
    arena.close(false)?;
    Ok(none(arena.py()))
}

fn with_enter<'py>(arena: ArenaRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [] = arguments.required("__enter__", [])?;
    drop(arena.heap()?);
    Ok(arena.as_any().to_owned())
}

fn with_exit<'py>(arena: ArenaRef<'_, 'py>, _: Arguments<'_, 'py>) -> Object<'py> {
    arena.close(true)?;
    Ok(none(arena.py()))
}

fn reduce<'py>(_: ArenaRef<'_, 'py>, _: Arguments<'_, 'py>) -> Object<'py> {
    Err(errors::kind(format_args!("cannot pickle or copy a pktalloc.Allocator: it owns memory")))
}

fn used_bytes<'py>(arena: ArenaRef<'_, 'py>) -> Object<'py> {
    let bytes = arena.heap()?.used_bytes();
    int(arena.py(), bytes)
}

fn allocated_bytes<'py>(arena: ArenaRef<'_, 'py>) -> Object<'py> {
    let bytes = arena.heap()?.allocated_bytes();
    int(arena.py(), bytes)
}

fn closed<'py>(arena: ArenaRef<'_, 'py>) -> Object<'py> {
    Ok(truth(arena.py(), arena.is_closed()))
}

/// `tp_repr`.
unsafe extern "C" fn repr(allocator: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this with an allocator that is alive until it returns.
    unsafe {
        enter(|py| {
            let arena = ArenaRef::new(py, allocator);
            if arena.is_closed() {
                return Ok(errors::text(py, format_args!("<pktalloc.Allocator closed>"))?.into_ptr());
            }
            let (used, allocated) = (arena.heap()?.used_bytes(), arena.heap()?.allocated_bytes());
            let text = format_args!("<pktalloc.Allocator used_bytes={used} allocated_bytes={allocated}>");
            Ok(errors::text(py, text)?.into_ptr())
        })
    }
}

/// Enters the class into the module; makes it when the module is executed for the first time.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    if CLASS.load(Ordering::Relaxed).is_null() {
        CLASS.store(make(module.py())?.into_ptr().cast(), Ordering::Relaxed);
    }
    // SAFETY: the class was made, and is never freed.
    let class = unsafe { Bound::from_borrowed_ptr(module.py(), CLASS.load(Ordering::Relaxed).cast()) };
    class::add(module, c"Allocator", &class)
}

fn make(py: Python<'_>) -> Object<'_> {
    let methods = [
        Method(c"allocate", method!(ArenaRef, allocate), docs::ALLOCATE),
        Method(c"allocate_many", method!(ArenaRef, allocate_many), docs::ALLOCATE_MANY),
        Method(c"free", method!(ArenaRef, free), docs::FREE),
        Method(c"shrink", method!(ArenaRef, shrink), docs::SHRINK_PACKET),
        Method(c"reallocate", method!(ArenaRef, reallocate), docs::REALLOCATE),
        #[cfg(target_os = "linux")]
        Method(c"recv_many", method!(ArenaRef, recv_many), RECV_MANY),
        Method(c"stats", method!(ArenaRef, stats), docs::ALLOCATOR_STATS),
        Method(c"windows", method!(ArenaRef, windows), docs::ALLOCATOR_WINDOWS),
        Method(c"integrity_check", method!(ArenaRef, integrity_check), docs::INTEGRITY_CHECK),
        Method(c"trim", method!(ArenaRef, trim), docs::TRIM),
        Method(c"close", method!(ArenaRef, close), docs::CLOSE),
        Method(c"__enter__", method!(ArenaRef, with_enter), docs::ALLOCATOR_ENTER),
        Method(c"__exit__", method!(ArenaRef, with_exit), docs::ALLOCATOR_EXIT),
        Method(c"__reduce__", method!(ArenaRef, reduce), docs::ALLOCATOR_REDUCE),
        Method(c"__reduce_ex__", method!(ArenaRef, reduce), docs::ALLOCATOR_REDUCE_EX),
    ];
    let attributes = [
        Attribute(c"used_bytes", getter!(ArenaRef, used_bytes), docs::USED_BYTES),
        Attribute(c"allocated_bytes", getter!(ArenaRef, allocated_bytes), docs::ALLOCATED_BYTES),
        Attribute(c"closed", getter!(ArenaRef, closed), docs::CLOSED),
    ];
    let slots = [
        slot(ffi::Py_tp_new, new as ffi::newfunc as *mut c_void),
        slot(ffi::Py_tp_dealloc, arena::deallocate as ffi::destructor as *mut c_void),
        slot(ffi::Py_tp_repr, repr as ffi::reprfunc as *mut c_void),
    ];
    let class = Class {
        name: c"pktalloc.Allocator",
        doc: docs::ALLOCATOR,
        flags: 0,
        size: size_of::<ArenaObject>(),
        weak_references: offset_of!(ArenaObject, weak_references),
    };
    // SAFETY: each slot has a function of the slot's type, and the layout is that of the objects that `create` makes.
    unsafe { class::make(py, class, methods, attributes, slots) }
}
