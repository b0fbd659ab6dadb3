//! `Packet`: a Python object that owns one block.
//!
//! It is written against C's interface instead of as a PyO3 class, for two reasons. PyO3's classes take part in garbage
//! collection, and allocating such an object can run arbitrary Python code in the middle of `allocate`; a packet refers
//! to nothing but its allocator, which refers to no Python object, so it can be in no cycle. And a block is handed out
//! in less time than such a class needs for its object.
//!
//! What the unsafe code of the Python face leans on:
//!
//! 1. Every access to a packet or an allocator happens with the interpreter's lock held (the module says that it needs
//!    it), hence by one thread at a time.
//! 2. Anything that may run Python code (converting an argument, asking an object for its buffer) is done before a
//!    packet's state is looked at, and nothing that may run Python code happens until the state is written.
//! 3. The bytes of a block stay mapped for as long as its allocator object lives, even after the block is freed
//!    ([`super::retained`]), and every packet holds a reference to its allocator. A pointer into a packet's bytes that
//!    somebody kept without an export reads and writes packet bytes, never the allocator's bookkeeping.

use core::cell::Cell;
use core::ffi::{CStr, c_int, c_uint, c_void};
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyMemoryView, PyTuple};

use super::allocator::Allocator;
use super::call::{Arguments, enter, size};
use super::{bytes, docs, export};
use crate::Realloc;

/// The packet type, once [`register`] has made it. It is never freed.
static PACKET_TYPE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(core::ptr::null_mut());

/// What a packet knows about its block.
pub(super) struct Packet {
    allocator: Py<Allocator>,
    /// `None` once released.
    block: Cell<Option<NonNull<u8>>>,
    size: Cell<usize>,
    capacity: Cell<usize>,
    exports: Cell<usize>,
}

/// The layout of the Python object.
#[repr(C)]
struct PacketObject {
    head: ffi::PyObject,
    weak_references: *mut ffi::PyObject,
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

impl<'a, 'py> FromPyObject<'a, 'py> for PacketRef<'a, 'py> {
    type Error = PyErr;

    #[inline]
    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Self::of(object).ok_or_else(|| match object.get_type().name() {
            Ok(name) => PyTypeError::new_err(format!("expected a pktalloc.Packet, got {name}")),
            Err(error) => error,
        })
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
        // The type cannot be inherited from, so that this one comparison tells.
        let found = object.get_type_ptr() == PACKET_TYPE.load(Ordering::Relaxed);
        found.then_some(Self(object))
    }

    pub(super) fn py(self) -> Python<'py> {
        self.0.py()
    }

    pub(super) fn as_any(self) -> Borrowed<'a, 'py, PyAny> {
        self.0
    }
}

/// Makes a packet of a block; `None`, with the block still live, when there is no memory for the object. Runs no Python
/// code.
#[inline]
pub(super) fn create<'py>(
    allocator: &Bound<'py, Allocator>,
    block: NonNull<u8>,
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
        ffi::PyObject_Init(object.cast(), PACKET_TYPE.load(Ordering::Relaxed));
        (&raw mut (*object).weak_references).write(core::ptr::null_mut());
        (&raw mut (*object).packet).write(Packet {
            allocator: allocator.clone().unbind(),
            block: Cell::new(Some(block)),
            size: Cell::new(size),
            capacity: Cell::new(capacity),
            exports: Cell::new(0),
        });
        Some(Bound::from_owned_ptr(allocator.py(), object.cast()))
    }
}

impl Packet {
    /// The block, or the error that a packet without one raises.
    #[inline(always)]
    fn live(&self) -> PyResult<NonNull<u8>> {
        match self.block.get() {
            Some(block) if !self.allocator.get().is_closed() => Ok(block),
            block => Err(gone(block.is_some())),
        }
    }

    /// The block, if nobody holds an export of it that `action` would pull away.
    #[inline]
    fn unshared(&self, action: &str) -> PyResult<NonNull<u8>> {
        let block = self.live()?;
        match self.exports.get() {
            0 => Ok(block),
            exports => Err(exported(action, exports)),
        }
    }

    /// The bytes. They may change whenever Python code runs, and be released then.
    #[inline(always)]
    pub(super) fn bytes(&self) -> PyResult<NonNull<[u8]>> {
        Ok(NonNull::slice_from_raw_parts(self.live()?, self.size.get()))
    }

    /// The allocator that made the packet.
    #[inline(always)]
    pub(super) fn allocator(&self) -> &Allocator {
        self.allocator.get()
    }

    /// Counts an export, here and in the allocator.
    #[inline(always)]
    pub(super) fn export(&self) {
        self.exports.set(self.exports.get() + 1);
        self.allocator.get().export();
    }

    /// Takes an export back.
    #[inline(always)]
    pub(super) fn unexport(&self) {
        self.exports.set(self.exports.get() - 1);
        self.allocator.get().unexport();
    }

    /// Refuses a packet that `allocator` did not make.
    pub(super) fn check_owner(&self, allocator: &Allocator) -> PyResult<()> {
        if core::ptr::eq(self.allocator.get(), allocator) {
            Ok(())
        } else {
            Err(PyValueError::new_err("the packet belongs to another allocator"))
        }
    }

    /// Frees the block; an error when there is none.
    pub(super) fn free(&self, action: &str) -> PyResult<()> {
        let block = self.unshared(action)?;
        // SAFETY: the block is this packet's, live, and nothing exports it.
        unsafe { self.allocator.get().free(block) }?;
        self.block.set(None);
        Ok(())
    }

    /// Frees the block unless it is gone already.
    fn release(&self, action: &str) -> PyResult<()> {
        if self.is_released() { Ok(()) } else { self.free(action) }
    }

    /// Changes the size; the block may move.
    pub(super) fn reallocate(&self, size: usize, copy: bool) -> PyResult<()> {
        let block = self.unshared("resize the packet")?;
        let how = if copy { Realloc::CopyExisting } else { Realloc::Uninitialized };
        // SAFETY: the block is this packet's, live, of this size, and nothing exports it.
        let block = unsafe { self.allocator.get().reallocate(block, self.size.get(), size, how) }?;
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
        // SAFETY: the block is this packet's, live, and nothing exports it.
        let capacity = unsafe { self.allocator.get().shrink(block, size) }?;
        self.size.set(size);
        self.capacity.set(capacity);
        Ok(())
    }

    #[inline]
    fn is_released(&self) -> bool {
        self.block.get().is_none() || self.allocator.get().is_closed()
    }
}

#[cold]
fn gone(closed: bool) -> PyErr {
    PyValueError::new_err(if closed { "the packet's allocator is closed" } else { "the packet is released" })
}

#[cold]
fn not_smaller(size: usize, wanted: usize) -> PyErr {
    PyValueError::new_err(format!("cannot shrink a packet of {size} bytes to {wanted}; resize() makes it larger"))
}

/// The error of an action that live exports forbid.
#[cold]
pub(super) fn exported(action: &str, exports: usize) -> PyErr {
    let (noun, them) = if exports == 1 { ("export", "it") } else { ("exports", "them") };
    PyBufferError::new_err(format!("cannot {action}: {exports} buffer {noun} alive; release {them} first"))
}

/// `tp_dealloc`: gives the block back, then the object.
unsafe extern "C" fn deallocate(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter calls this once, for a packet that nobody refers to any more. The fields are moved out
    // of the object before its memory is returned, and instances of a heap type own a reference to it.
    unsafe {
        let this = object.cast::<PacketObject>();
        if !(*this).weak_references.is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        let packet = (&raw mut (*this).packet).read();
        let packet_type = ffi::Py_TYPE(object);
        ffi::PyObject_Free(object.cast());
        ffi::Py_DECREF(packet_type.cast());
        let outcome: c_int = enter(|py| {
            packet.abandon(py);
            Ok(0)
        });
        if outcome != 0 {
            ffi::PyErr_WriteUnraisable(core::ptr::null_mut());
        }
    }
}

impl Packet {
    /// Frees the block of a packet that was dropped, and the reference to the allocator.
    #[inline]
    fn abandon(self, py: Python<'_>) {
        if let Err(error) = self.release("drop a packet") {
            // An exception may be on its way up while packets are dropped; it must not be replaced by this one.
            let pending = PyErr::take(py);
            error.write_unraisable(py, None);
            if let Some(pending) = pending {
                pending.restore(py);
            }
        }
        self.allocator.drop_ref(py);
    }
}

/// Wraps a function of a packet and its arguments as a C function.
macro_rules! method {
    ($body:path) => {{
        unsafe extern "C" fn entry(
            packet: *mut ffi::PyObject,
            values: *const *mut ffi::PyObject,
            positional: ffi::Py_ssize_t,
            keywords: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject {
            // SAFETY: the interpreter calls this with a packet and the arguments of a fast call, all alive until it
            // returns.
            unsafe {
                enter(|py| {
                    let arguments = Arguments::new(py, values, positional, keywords);
                    Ok($body(PacketRef::new(py, packet), arguments)?.into_ptr())
                })
            }
        }
        ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: entry }
    }};
}

/// Wraps a function of a packet as the getter of an attribute.
macro_rules! getter {
    ($body:path) => {{
        unsafe extern "C" fn entry(packet: *mut ffi::PyObject, _closure: *mut c_void) -> *mut ffi::PyObject {
            // SAFETY: the interpreter calls this with a packet that is alive until it returns.
            unsafe { enter(|py| Ok($body(PacketRef::new(py, packet))?.into_ptr())) }
        }
        entry
    }};
}

/// Any result of a method.
type Object<'py> = PyResult<Bound<'py, PyAny>>;

fn none(py: Python<'_>) -> Bound<'_, PyAny> {
    py.None().into_bound(py)
}

fn method_resize<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let ([new_size], [copy]) = arguments.sort("resize", ["size"], ["copy"])?;
    let new_size = size(new_size)?;
    let copy = copy.map_or(Ok(true), |copy| copy.is_truthy())?;
    packet.reallocate(new_size, copy)?;
    Ok(none(packet.py()))
}

fn method_shrink<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let new_size = match arguments.single() {
        Some(only) => size(only)?,
        None => {
            let [new_size] = arguments.required("shrink", ["size"])?;
            size(new_size)?
        }
    };
    packet.shrink(new_size)?;
    Ok(none(packet.py()))
}

fn method_release<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [] = arguments.required("release", [])?;
    packet.release("release the packet")?;
    Ok(none(packet.py()))
}

fn method_tobytes<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [] = arguments.required("tobytes", [])?;
    Ok(bytes::copied(packet)?.into_any())
}

fn method_enter<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [] = arguments.required("__enter__", [])?;
    packet.live()?;
    Ok(packet.as_any().to_owned())
}

fn method_exit<'py>(packet: PacketRef<'_, 'py>, _: Arguments<'_, 'py>) -> Object<'py> {
    packet.release("release the packet")?;
    Ok(none(packet.py()))
}

fn method_reduce<'py>(_: PacketRef<'_, 'py>, _: Arguments<'_, 'py>) -> Object<'py> {
    Err(PyTypeError::new_err("cannot pickle or copy a pktalloc.Packet: it owns memory; tobytes() copies its content"))
}

/// `hex(sep, bytes_per_sep)`: that of `bytes`, arguments and errors included.
unsafe extern "C" fn hex(
    packet: *mut ffi::PyObject,
    positional: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this with a packet, a tuple, and a dictionary or null, alive until it returns.
    unsafe {
        enter(|py| {
            let positional = Borrowed::from_ptr(py, positional).cast_unchecked::<PyTuple>();
            let keywords = Borrowed::from_ptr_or_opt(py, keywords).map(|keywords| keywords.cast_unchecked::<PyDict>());
            let content = bytes::copied(PacketRef::new(py, packet))?;
            Ok(content.getattr("hex")?.call(&*positional, keywords.as_deref())?.into_ptr())
        })
    }
}

/// A number as an object. (PyO3's conversion panics when there is no memory.)
fn int(py: Python<'_>, number: usize) -> Object<'_> {
    // SAFETY: the thread is attached.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyLong_FromSize_t(number)) }
}

fn get_view<'py>(packet: PacketRef<'_, 'py>) -> Object<'py> {
    Ok(PyMemoryView::from(&packet.as_any())?.into_any())
}

fn get_size<'py>(packet: PacketRef<'_, 'py>) -> Object<'py> {
    int(packet.py(), packet.bytes()?.len())
}

fn get_capacity<'py>(packet: PacketRef<'_, 'py>) -> Object<'py> {
    packet.live()?;
    int(packet.py(), packet.capacity.get())
}

fn get_address<'py>(packet: PacketRef<'_, 'py>) -> Object<'py> {
    int(packet.py(), packet.live()?.addr().get())
}

fn get_released<'py>(packet: PacketRef<'_, 'py>) -> Object<'py> {
    Ok(PyBool::new(packet.py(), packet.is_released()).to_owned().into_any())
}

/// `tp_repr`.
unsafe extern "C" fn repr(packet: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this with a packet that is alive until it returns.
    unsafe {
        enter(|py| {
            let packet = PacketRef::new(py, packet);
            let text = match packet.live() {
                Ok(block) => format!(
                    "<pktalloc.Packet size={} capacity={} address={:#x} exports={}>",
                    packet.size.get(),
                    packet.capacity.get(),
                    block.addr(),
                    packet.exports.get()
                ),
                Err(_) => "<pktalloc.Packet released>".to_owned(),
            };
            let text = ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), text.len() as ffi::Py_ssize_t);
            Ok(Bound::from_owned_ptr_or_err(py, text)?.into_ptr())
        })
    }
}

/// The methods of a packet. The interpreter keeps pointers to them.
fn methods() -> &'static mut [ffi::PyMethodDef] {
    const KEYWORDS: c_int = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
    let method = |name: &'static CStr, meth, flags, doc: &'static CStr| ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: meth,
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    };
    let hex = ffi::PyMethodDefPointer { PyCFunctionWithKeywords: hex };
    Box::leak(Box::new([
        method(c"resize", method!(method_resize), KEYWORDS, docs::RESIZE),
        method(c"shrink", method!(method_shrink), KEYWORDS, docs::SHRINK),
        method(c"release", method!(method_release), KEYWORDS, docs::RELEASE),
        method(c"tobytes", method!(method_tobytes), KEYWORDS, docs::TOBYTES),
        method(c"hex", hex, ffi::METH_VARARGS | ffi::METH_KEYWORDS, docs::HEX),
        method(c"__enter__", method!(method_enter), KEYWORDS, docs::ENTER),
        method(c"__exit__", method!(method_exit), KEYWORDS, docs::EXIT),
        method(c"__reduce__", method!(method_reduce), KEYWORDS, docs::REDUCE),
        method(c"__reduce_ex__", method!(method_reduce), KEYWORDS, docs::REDUCE_EX),
        ffi::PyMethodDef::zeroed(),
    ]))
}

/// The attributes of a packet. The interpreter keeps pointers to them.
fn attributes() -> &'static mut [ffi::PyGetSetDef] {
    let attribute = |name: &'static CStr, get: ffi::getter, doc: &'static CStr| ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(get),
        set: None,
        doc: doc.as_ptr(),
        closure: core::ptr::null_mut(),
    };
    Box::leak(Box::new([
        attribute(c"view", getter!(get_view), docs::VIEW),
        attribute(c"size", getter!(get_size), docs::SIZE),
        attribute(c"capacity", getter!(get_capacity), docs::CAPACITY),
        attribute(c"address", getter!(get_address), docs::ADDRESS),
        attribute(c"released", getter!(get_released), docs::RELEASED),
        ffi::PyGetSetDef::default(),
    ]))
}

/// Enters the type into the module; makes it when the module is executed for the first time.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    if PACKET_TYPE.load(Ordering::Relaxed).is_null() {
        PACKET_TYPE.store(make_type(module.py())?.into_ptr().cast(), Ordering::Relaxed);
    }
    // SAFETY: the type was made, and is never freed.
    let packet_type = unsafe { Bound::from_borrowed_ptr(module.py(), PACKET_TYPE.load(Ordering::Relaxed).cast()) };
    module.add("Packet", packet_type)
}

fn make_type(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let mut weak_references = [
        ffi::PyMemberDef {
            name: c"__weaklistoffset__".as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: core::mem::offset_of!(PacketObject, weak_references) as ffi::Py_ssize_t,
            flags: ffi::Py_READONLY,
            doc: core::ptr::null(),
        },
        ffi::PyMemberDef::default(),
    ];
    let slot = |slot, function: *mut c_void| ffi::PyType_Slot { slot, pfunc: function };
    let mut slots = [
        slot(ffi::Py_tp_doc, docs::PACKET.as_ptr().cast_mut().cast()),
        slot(ffi::Py_tp_methods, methods().as_mut_ptr().cast()),
        slot(ffi::Py_tp_getset, attributes().as_mut_ptr().cast()),
        slot(ffi::Py_tp_members, weak_references.as_mut_ptr().cast()),
        slot(ffi::Py_tp_dealloc, deallocate as ffi::destructor as *mut c_void),
        slot(ffi::Py_tp_repr, repr as ffi::reprfunc as *mut c_void),
        slot(ffi::Py_tp_hash, ffi::PyObject_HashNotImplemented as ffi::hashfunc as *mut c_void),
        slot(ffi::Py_tp_richcompare, bytes::compare as ffi::richcmpfunc as *mut c_void),
        slot(ffi::Py_tp_iter, bytes::iterate as ffi::getiterfunc as *mut c_void),
        slot(ffi::Py_sq_length, bytes::length as ffi::lenfunc as *mut c_void),
        slot(ffi::Py_sq_item, bytes::item as ffi::ssizeargfunc as *mut c_void),
        slot(ffi::Py_sq_contains, bytes::contains as ffi::objobjproc as *mut c_void),
        slot(ffi::Py_mp_length, bytes::length as ffi::lenfunc as *mut c_void),
        slot(ffi::Py_mp_subscript, bytes::subscript as ffi::binaryfunc as *mut c_void),
        slot(ffi::Py_mp_ass_subscript, bytes::assign as ffi::objobjargproc as *mut c_void),
        slot(ffi::Py_bf_getbuffer, export::get as ffi::getbufferproc as *mut c_void),
        slot(ffi::Py_bf_releasebuffer, export::release as ffi::releasebufferproc as *mut c_void),
        slot(0, core::ptr::null_mut()),
    ];
    let flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION | ffi::Py_TPFLAGS_IMMUTABLETYPE;
    let mut spec = ffi::PyType_Spec {
        name: c"pktalloc.Packet".as_ptr(),
        basicsize: size_of::<PacketObject>() as c_int,
        itemsize: 0,
        flags: flags as c_uint,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: each slot has a function of the slot's type, the lists end with an empty entry and live for ever where
    // the interpreter keeps them, and the basic size is that of the objects that `create` makes.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec)) }
}
