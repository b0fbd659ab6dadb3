//! `Allocator`: the Python object that owns a heap.

use core::cell::{Cell, Ref, RefCell};
use core::ffi::{CStr, c_int};
use core::ptr::NonNull;

use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::call::{Arguments, count, enter, setting, size};
use super::docs;
use super::errors::{allocation_failed, damaged, free_failed};
use super::packet::{self, PacketRef, exported};
use super::retained::Retained;
use super::shape::{AnyHeap, DEFAULT_UNIT, DEFAULT_WINDOW};
use super::stats::Stats;
use super::windows::Windows;
use crate::Realloc;
use crate::config::Settings;

/// Blocks that `allocate_many` asks the heap for at a time.
const BATCH: usize = 64;

#[expect(clippy::doc_lazy_continuation, reason = "the text is for Python's help(), which is not Markdown")]
#[doc = include_str!("allocator.md")]
#[pyclass(frozen, weakref, module = "pktalloc")]
pub(super) struct Allocator {
    /// `None` once closed.
    heap: RefCell<Option<AnyHeap>>,
    closed: Cell<bool>,
    /// Exports of all packets together.
    exports: Cell<usize>,
    /// What the next buffer request is about, where it is a part of a packet: see [`super::export::view_of_part`].
    part: Cell<Option<NonNull<[u8]>>>,
    memory_limit: u64,
    zero: bool,
    check: bool,
    /// Keeps the addresses of freed blocks mapped until this object goes, even when it was closed before.
    memory: Retained,
}

// SAFETY: the module declares that it needs the interpreter's lock and refuses to be imported without one, so that one
// thread at a time reaches an allocator; nothing in it depends on which thread that is.
unsafe impl Send for Allocator {}
// SAFETY: as above.
unsafe impl Sync for Allocator {}

/// What packets need.
impl Allocator {
    #[inline(always)]
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Counts an export of a packet.
    #[inline(always)]
    pub(super) fn export(&self) {
        self.exports.set(self.exports.get() + 1);
    }

    /// Takes an export back.
    #[inline(always)]
    pub(super) fn unexport(&self) {
        self.exports.set(self.exports.get() - 1);
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

    /// The heap. While it is borrowed no Python code may run.
    #[inline(always)]
    pub(super) fn heap(&self) -> PyResult<Ref<'_, AnyHeap>> {
        Ref::filter_map(self.heap.borrow(), Option::as_ref).map_err(|_| closed())
    }

    /// Frees a block; with `check` on, an error leaves it as it was.
    ///
    /// # Safety
    /// `block` is a live block of this allocator.
    #[inline]
    pub(super) unsafe fn free(&self, block: NonNull<u8>) -> PyResult<()> {
        let heap = self.heap()?;
        if self.check {
            // SAFETY: the caller's promise.
            return unsafe { heap.try_free(block) }.map_err(|error| free_failed(&error));
        }
        // SAFETY: the caller's promise.
        unsafe { heap.free(block) };
        Ok(())
    }

    /// Gives a block of `old` bytes room for `new`. With `zero` on, the bytes that it gains are zero.
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
        let heap = self.heap()?;
        // SAFETY: the caller's promise.
        let moved =
            unsafe { heap.reallocate(block, new, how) }.map_err(|error| allocation_failed(&heap, error, new))?;
        if self.zero && new > old {
            // The heap keeps what the block contained up to its capacity; of that, `old` bytes were the packet's.
            // SAFETY: the block has at least `new` bytes.
            unsafe { moved.cast::<u8>().add(old).write_bytes(0, new - old) };
        }
        Ok(moved)
    }

    /// Gives the tail of a block back; returns the capacity that is left.
    ///
    /// # Safety
    /// `block` is a live block of this allocator of at least `size` bytes.
    #[inline]
    pub(super) unsafe fn shrink(&self, block: NonNull<u8>, size: usize) -> PyResult<usize> {
        let heap = self.heap()?;
        // SAFETY: the caller's promise.
        unsafe { heap.shrink(block, size) }.map_err(|error| allocation_failed(&heap, error, size))
    }
}

#[cold]
fn closed() -> PyErr {
    PyValueError::new_err("the allocator is closed")
}

#[pymethods]
impl Allocator {
    #[new]
    #[pyo3(signature = (
        *,
        alignment = None,
        window_bytes = None,
        preallocated_windows = None,
        memory_limit = None,
        zero = false,
        check = false,
        keep_empty_windows = None,
        huge_pages = false,
    ), text_signature = "(*, alignment=64, window_bytes=131072, preallocated_windows=2, memory_limit=None, zero=False, check=False, keep_empty_windows=32, huge_pages=False)")]
    #[expect(clippy::too_many_arguments, reason = "keywords, each with a default")]
    fn new(
        alignment: Option<&Bound<'_, PyAny>>,
        window_bytes: Option<&Bound<'_, PyAny>>,
        preallocated_windows: Option<&Bound<'_, PyAny>>,
        memory_limit: Option<&Bound<'_, PyAny>>,
        zero: bool,
        check: bool,
        keep_empty_windows: Option<&Bound<'_, PyAny>>,
        huge_pages: bool,
    ) -> PyResult<Self> {
        const WINDOWS: &str = "from 0 to 1048576";
        let read = |value: Option<&Bound<'_, PyAny>>, name, allowed, default| {
            value.map_or(Ok(default), |value| setting(value.as_borrowed(), name, allowed))
        };
        let defaults = Settings::new();
        let alignment = read(alignment, "alignment", "a power of two from 16 to 4096", DEFAULT_UNIT)?;
        let window_bytes =
            read(window_bytes, "window_bytes", "a power of two, 64 to 65536 times the alignment", DEFAULT_WINDOW)?;
        let memory_limit = match memory_limit {
            Some(limit) => Some(setting(limit.as_borrowed(), "memory_limit", "at least one window, or None")? as u64),
            None => None,
        };
        let settings = Settings {
            preallocated_windows: read(
                preallocated_windows,
                "preallocated_windows",
                WINDOWS,
                defaults.preallocated_windows,
            )?,
            keep_empty_windows: read(keep_empty_windows, "keep_empty_windows", WINDOWS, defaults.keep_empty_windows)?,
            memory_limit,
            zero,
            check,
            huge_pages,
            ..defaults
        };
        let memory = Retained::default();
        let heap = AnyHeap::new(alignment, window_bytes, settings, memory.clone())
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self {
            heap: RefCell::new(Some(heap)),
            closed: Cell::new(false),
            exports: Cell::new(0),
            part: Cell::new(None),
            memory_limit: memory_limit.unwrap_or(u64::MAX),
            zero,
            check,
            memory,
        })
    }

    /// Bytes of live packets, each rounded up to a multiple of the alignment. Takes constant time.
    #[getter]
    fn used_bytes(&self) -> PyResult<u64> {
        Ok(self.heap()?.used_bytes())
    }

    /// Bytes taken from the system: windows and large blocks. Takes constant time.
    #[getter]
    fn allocated_bytes(&self) -> PyResult<u64> {
        Ok(self.heap()?.allocated_bytes())
    }

    /// Whether the allocator was closed.
    #[getter(closed)]
    fn get_closed(&self) -> bool {
        self.is_closed()
    }

    /// All figures of this moment. Takes time linear in the number of windows.
    ///
    /// >>> from pktalloc import Allocator
    /// >>> a = Allocator()
    /// >>> packets = a.allocate_many(1400, 100)
    /// >>> a.stats().live_packets
    /// 100
    fn stats(&self) -> PyResult<Stats> {
        Ok(Stats::from(self.heap()?.stats()))
    }

    /// The occupancy of every window, in order of address; it draws itself in a notebook.
    ///
    /// >>> from pktalloc import Allocator
    /// >>> a = Allocator(preallocated_windows=1)
    /// >>> packet = a.allocate(1400)
    /// >>> [window.live_units for window in a.windows()]
    /// [22]
    fn windows(&self, py: Python<'_>) -> PyResult<Windows> {
        let occupancy = self.heap()?.windows();
        Windows::new(py, occupancy)
    }

    /// Check all bookkeeping, and with `check` on the bytes behind each packet.
    ///
    /// Takes time linear in the memory held. Raises `IntegrityError`, which says what is damaged and where.
    fn integrity_check(&self) -> PyResult<()> {
        self.heap()?.integrity_check().map_err(|error| damaged(&error))
    }

    /// Give empty windows back to the system, down to `preallocated_windows`; return how many bytes that were.
    ///
    /// Takes time linear in the number of windows.
    fn trim(&self) -> PyResult<u64> {
        let bytes = self.heap()?.trim();
        self.memory.trim();
        Ok(bytes)
    }

    /// Free all packets and give all memory back to the system. To close twice is no error.
    ///
    /// Afterwards every use of the allocator and of its packets raises `ValueError`. Raises `BufferError` while a
    /// buffer export (a memoryview, an array) of any of its packets is alive; then nothing has changed.
    fn close(&self) -> PyResult<()> {
        if self.is_closed() {
            return Ok(());
        }
        match self.exports.get() {
            0 => {
                self.closed.set(true);
                self.heap.take();
                Ok(())
            }
            exports => Err(exported("close the allocator", exports)),
        }
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        slf.get().heap()?;
        Ok(slf.clone())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close()
    }

    fn __repr__(&self) -> String {
        match self.heap() {
            Ok(heap) => format!(
                "<pktalloc.Allocator used_bytes={} allocated_bytes={}>",
                heap.used_bytes(),
                heap.allocated_bytes()
            ),
            Err(_) => "<pktalloc.Allocator closed>".to_owned(),
        }
    }

    fn __reduce_ex__(&self, _protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyTypeError::new_err("cannot pickle or copy a pktalloc.Allocator: it owns memory"))
    }
}

/// An allocator and its reference, borrowed for the duration of a call.
type This<'a, 'py> = &'a Bound<'py, Allocator>;
/// Any result of a method.
type Object<'py> = PyResult<Bound<'py, PyAny>>;

fn allocate<'py>(this: This<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let size = match arguments.single() {
        Some(only) => size(only)?,
        None => {
            let [size_given] = arguments.required("allocate", ["size"])?;
            size(size_given)?
        }
    };
    let heap = this.get().heap()?;
    let block = heap.allocate(size).map_err(|error| allocation_failed(&heap, error, size))?;
    packet::create(this, block.cast(), size, block.len()).ok_or_else(|| {
        // SAFETY: the block was allocated just now, and nobody knows it.
        unsafe { heap.free(block.cast()) };
        PyMemoryError::new_err(())
    })
}

fn allocate_many<'py>(this: This<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [size_given, count_given] = arguments.required("allocate_many", ["size", "count"])?;
    let (size, count) = (size(size_given)?, count(count_given, "count", 0)?);
    let allocator = this.get();
    if (size as u64).saturating_mul(count as u64) > allocator.memory_limit.min(isize::MAX as u64) {
        return Err(PyMemoryError::new_err(format!(
            "{count} packets of {size} bytes are beyond what this allocator may hold"
        )));
    }
    // To make a list may run Python code; the rest does not.
    // SAFETY: the list is only seen by others when all its places are filled, or freed with some of them empty.
    let list = unsafe { Bound::from_owned_ptr_or_err(this.py(), ffi::PyList_New(count as ffi::Py_ssize_t))? };
    let heap = allocator.heap()?;
    let mut blocks = [NonNull::<u8>::dangling(); BATCH];
    let mut filled = 0;
    while filled < count {
        let batch = &mut blocks[..BATCH.min(count - filled)];
        let capacity = heap.allocate_batch(size, batch).map_err(|error| allocation_failed(&heap, error, size))?;
        for (at, &block) in batch.iter().enumerate() {
            let Some(packet) = packet::create(this, block, size, capacity) else {
                for &unused in &batch[at..] {
                    // SAFETY: the block was allocated just now, and nobody knows it.
                    unsafe { heap.free(unused) };
                }
                return Err(PyMemoryError::new_err(()));
            };
            // SAFETY: the place exists and is empty, and the list takes the reference.
            unsafe { ffi::PyList_SetItem(list.as_ptr(), filled as ffi::Py_ssize_t, packet.into_ptr()) };
            filled += 1;
        }
    }
    Ok(list)
}

fn free<'py>(this: This<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [packet] = arguments.required("free", ["packet"])?;
    let packet: PacketRef<'_, '_> = packet.extract()?;
    packet.check_owner(this.get())?;
    packet.free("free the packet")?;
    Ok(this.py().None().into_bound(this.py()))
}

fn shrink<'py>(this: This<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [packet, size_given] = arguments.required("shrink", ["packet", "size"])?;
    let packet: PacketRef<'_, '_> = packet.extract()?;
    let size = size(size_given)?;
    packet.check_owner(this.get())?;
    packet.shrink(size)?;
    Ok(this.py().None().into_bound(this.py()))
}

fn reallocate<'py>(this: This<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    if arguments.positional() > 2 {
        return Err(PyTypeError::new_err("reallocate() takes 2 positional arguments; copy must be given by keyword"));
    }
    let ([packet, size_given], [copy]) = arguments.sort("reallocate", ["packet", "size"], ["copy"])?;
    let packet: PacketRef<'_, '_> = packet.extract()?;
    let size = size(size_given)?;
    let copy = copy.map_or(Ok(true), |copy| copy.is_truthy())?;
    packet.check_owner(this.get())?;
    packet.reallocate(size, copy)?;
    Ok(this.py().None().into_bound(this.py()))
}

/// Wraps a function of an allocator and its arguments as a C function.
macro_rules! method {
    ($body:path) => {{
        unsafe extern "C" fn entry(
            allocator: *mut ffi::PyObject,
            values: *const *mut ffi::PyObject,
            positional: ffi::Py_ssize_t,
            keywords: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject {
            // SAFETY: the interpreter calls this with an allocator (a method's descriptor checks that) and the
            // arguments of a fast call, all alive until it returns.
            unsafe {
                enter(|py| {
                    let arguments = Arguments::new(py, values, positional, keywords);
                    let this = Bound::ref_from_ptr(py, &allocator).cast_unchecked::<Allocator>();
                    Ok($body(this, arguments)?.into_ptr())
                })
            }
        }
        ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: entry }
    }};
}

/// Enters the class into the module, and the methods that are called for each packet into the class: as C functions,
/// which cost a third of what PyO3's wrappers do.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let class: Bound<'_, PyType> = module.py().get_type::<Allocator>();
    let methods: [(&'static CStr, ffi::PyMethodDefPointer, &'static CStr); 5] = [
        (c"allocate", method!(allocate), docs::ALLOCATE),
        (c"allocate_many", method!(allocate_many), docs::ALLOCATE_MANY),
        (c"free", method!(free), docs::FREE),
        (c"shrink", method!(shrink), docs::SHRINK_PACKET),
        (c"reallocate", method!(reallocate), docs::REALLOCATE),
    ];
    for (name, function, doc) in methods {
        const FLAGS: c_int = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
        // The interpreter keeps a pointer to the definition.
        let definition = Box::leak(Box::new(ffi::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: function,
            ml_flags: FLAGS,
            ml_doc: doc.as_ptr(),
        }));
        // SAFETY: the definition lives for ever, and its function has the form that its flags say.
        let method = unsafe {
            let descriptor = ffi::PyDescr_NewMethod(class.as_type_ptr(), definition);
            Bound::from_owned_ptr_or_err(module.py(), descriptor)?
        };
        class.setattr(name, method)?;
    }
    module.add("Allocator", class)
}
