//! `Packet`: the methods and attributes that Python code sees.

use core::ffi::c_void;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMemoryView, PyTuple};

use super::call::{Argument, Arguments, count, enter, int, none, size, switch, truth};
use super::class::{self, Attribute, Class, Function, Method, Object, getter, method, slot};
use super::packet::{self, CLASS, PacketObject, PacketRef};
use super::{bytes, docs, errors, export};

fn resize<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let ([new_size], [copy]) = arguments.sort("resize", ["size"], ["copy"])?;
    let new_size = size(new_size)?;
    let copy = switch(copy, "copy", true)?;
    packet.reallocate(new_size, copy)?;
    Ok(none(packet.py()))
}

fn shrink<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
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

fn release<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [] = arguments.required("release", [])?;
    packet.release()?;
    Ok(none(packet.py()))
}

fn tobytes<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [] = arguments.required("tobytes", [])?;
    Ok(bytes::copied(packet)?.into_any())
}

/// Calls `body` with the bytes of a bytes-like object; of the packet's own a copy, since an export of it would be in
/// the way.
fn with_data(
    packet: PacketRef<'_, '_>,
    data: Argument<'_, '_>,
    body: impl FnOnce(*const u8, usize) -> PyResult<()>,
) -> PyResult<()> {
    if data.as_ptr() == packet.as_any().as_ptr() {
        let copy = bytes::copied(packet)?;
        return export::with_bytes(copy.as_any().as_borrowed(), ffi::PyBUF_SIMPLE, body);
    }
    export::with_bytes(data, ffi::PyBUF_FULL_RO, body)
}

fn prepend<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [data] = arguments.required("prepend", ["data"])?;
    // SAFETY: the bytes are exported until `with_data` returns, or those of a packet, which stay mapped.
    with_data(packet, data, |start, length| unsafe { packet.prepend(start, length) })?;
    Ok(none(packet.py()))
}

fn append<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [data] = arguments.required("append", ["data"])?;
    // SAFETY: as for `prepend`.
    with_data(packet, data, |start, length| unsafe { packet.append(start, length) })?;
    Ok(none(packet.py()))
}

fn advance<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [n] = arguments.required("advance", ["n"])?;
    packet.advance(count(n, "n", 0)?)?;
    Ok(none(packet.py()))
}

fn split<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [size] = arguments.required("split", ["size"])?;
    packet.split(count(size, "size", 1)?)
}

fn copy<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [] = arguments.required("copy", [])?;
    packet.copy()
}

fn deepcopy<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [_memo] = arguments.required("__deepcopy__", ["memo"])?;
    packet.copy()
}

fn with_enter<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    let [] = arguments.required("__enter__", [])?;
    packet.bytes()?;
    Ok(packet.as_any().to_owned())
}

fn with_exit<'py>(packet: PacketRef<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    packet.leave(packet.py(), arguments.raising())?;
    Ok(none(packet.py()))
}

fn reduce<'py>(_: PacketRef<'_, 'py>, _: Arguments<'_, 'py>) -> Object<'py> {
    Err(errors::kind(format_args!("cannot pickle a pktalloc.Packet: it owns memory; tobytes() copies its content")))
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
            let name = Bound::from_owned_ptr_or_err(py, ffi::PyUnicode_InternFromString(c"hex".as_ptr()))?;
            let method = Bound::from_owned_ptr_or_err(py, ffi::PyObject_GetAttr(content.as_ptr(), name.as_ptr()))?;
            Ok(method.call(&*positional, keywords.as_deref())?.into_ptr())
        })
    }
}

fn view<'py>(packet: PacketRef<'_, 'py>) -> Object<'py> {
    Ok(PyMemoryView::from(&packet.as_any())?.into_any())
}

fn get_size<'py>(packet: PacketRef<'_, 'py>) -> Object<'py> {
    int(packet.py(), packet.bytes()?.len() as u64)
}

fn capacity<'py>(packet: PacketRef<'_, 'py>) -> Object<'py> {
    int(packet.py(), packet.capacity()? as u64)
}

fn headroom<'py>(packet: PacketRef<'_, 'py>) -> Object<'py> {
    int(packet.py(), packet.headroom()? as u64)
}

fn tailroom<'py>(packet: PacketRef<'_, 'py>) -> Object<'py> {
    int(packet.py(), (packet.capacity()? - packet.bytes()?.len()) as u64)
}

fn address<'py>(packet: PacketRef<'_, 'py>) -> Object<'py> {
    int(packet.py(), packet.bytes()?.addr().get() as u64)
}

fn released<'py>(packet: PacketRef<'_, 'py>) -> Object<'py> {
    Ok(truth(packet.py(), packet.is_released()))
}

/// `tp_repr`.
unsafe extern "C" fn repr(packet: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this with a packet that is alive until it returns.
    unsafe {
        enter(|py| {
            let packet = PacketRef::new(py, packet);
            let text = if packet.is_released() {
                errors::text(py, format_args!("<pktalloc.Packet released>"))
            } else {
                let (bytes, capacity, exports) = (packet.bytes()?, packet.capacity()?, packet.exports());
                let (size, address) = (bytes.len(), bytes.addr());
                errors::text(
                    py,
                    format_args!(
                        "<pktalloc.Packet size={size} capacity={capacity} address={address:#x} exports={exports}>"
                    ),
                )
            };
            Ok(text?.into_ptr())
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
    class::add(module, c"Packet", &class)
}

fn make(py: Python<'_>) -> Object<'_> {
    let methods = [
        Method(c"resize", method!(PacketRef, resize), docs::RESIZE),
        Method(c"shrink", method!(PacketRef, shrink), docs::SHRINK),
        Method(c"prepend", method!(PacketRef, prepend), docs::PREPEND),
        Method(c"append", method!(PacketRef, append), docs::APPEND),
        Method(c"advance", method!(PacketRef, advance), docs::ADVANCE),
        Method(c"split", method!(PacketRef, split), docs::SPLIT),
        Method(c"copy", method!(PacketRef, copy), docs::COPY),
        Method(c"__copy__", method!(PacketRef, copy), docs::DUNDER_COPY),
        Method(c"__deepcopy__", method!(PacketRef, deepcopy), docs::DEEPCOPY),
        Method(c"release", method!(PacketRef, release), docs::RELEASE),
        Method(c"tobytes", method!(PacketRef, tobytes), docs::TOBYTES),
        Method(c"hex", Function::Tuple(hex), docs::HEX),
        Method(c"__enter__", method!(PacketRef, with_enter), docs::ENTER),
        Method(c"__exit__", method!(PacketRef, with_exit), docs::EXIT),
        Method(c"__reduce__", method!(PacketRef, reduce), docs::REDUCE),
        Method(c"__reduce_ex__", method!(PacketRef, reduce), docs::REDUCE_EX),
    ];
    let attributes = [
        Attribute(c"view", getter!(PacketRef, view), docs::VIEW),
        Attribute(c"size", getter!(PacketRef, get_size), docs::SIZE),
        Attribute(c"capacity", getter!(PacketRef, capacity), docs::CAPACITY),
        Attribute(c"headroom", getter!(PacketRef, headroom), docs::HEADROOM),
        Attribute(c"tailroom", getter!(PacketRef, tailroom), docs::TAILROOM),
        Attribute(c"address", getter!(PacketRef, address), docs::ADDRESS),
        Attribute(c"released", getter!(PacketRef, released), docs::RELEASED),
    ];
    let slots = [
        slot(ffi::Py_tp_dealloc, packet::deallocate as ffi::destructor as *mut c_void),
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
    ];
    let class = Class {
        name: c"pktalloc.Packet",
        doc: docs::PACKET,
        flags: ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION,
        size: size_of::<PacketObject>(),
        weak_references: offset_of!(PacketObject, weak_references),
    };
    // SAFETY: each slot has a function of the slot's type, and the layout is that of the objects that `create` makes.
    unsafe { class::make(py, class, methods, attributes, slots) }
}
