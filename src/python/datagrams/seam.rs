//! All that datagrams need from the rest of the Python face: how packets are made, pinned, and given a method.

use core::ffi::{CStr, c_int};
use core::ptr::NonNull;

use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::python::allocator::Allocator;
use crate::python::call::{Arguments, enter};
use crate::python::errors::allocation_failed;
use crate::python::packet::{self, PacketRef};

/// The Python object that packets come from.
pub(super) type Source<'py> = Bound<'py, Allocator>;

/// A packet with a copy of `bytes`, which may be empty.
pub(super) fn packet_of<'py>(source: &Source<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let heap = source.get().heap()?;
    let block = heap.allocate(bytes.len().max(1)).map_err(|error| allocation_failed(&heap, error, bytes.len()))?;
    // SAFETY: the block is new and has room for the bytes, which lie elsewhere.
    unsafe { block.cast::<u8>().copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    packet::create(source, block.cast(), bytes.len(), block.len()).ok_or_else(|| {
        // SAFETY: the block was allocated just now, and nobody knows it.
        unsafe { heap.free(block.cast()) };
        PyMemoryError::new_err(())
    })
}

/// A packet whose bytes stay where they are as long as this lives.
pub(super) struct PinnedPacket<'py>(Bound<'py, PyAny>);

impl<'py> PinnedPacket<'py> {
    /// Pins `object` if it is a packet; returns its bytes as well.
    #[inline]
    pub(super) fn of(object: &Bound<'py, PyAny>) -> PyResult<Option<(Self, NonNull<[u8]>)>> {
        let Some(packet) = PacketRef::of(object.as_borrowed()) else { return Ok(None) };
        let bytes = packet.bytes()?;
        packet.export();
        Ok(Some((Self(object.clone()), bytes)))
    }
}

impl Drop for PinnedPacket<'_> {
    fn drop(&mut self) {
        PacketRef::of(self.0.as_borrowed()).expect("only packets are pinned").unexport();
    }
}

/// Adds a method to the class of allocators.
pub(super) fn add_method(
    module: &Bound<'_, PyModule>,
    name: &'static CStr,
    function: ffi::PyCFunctionFastWithKeywords,
    doc: &'static CStr,
) -> PyResult<()> {
    const FLAGS: c_int = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
    let class = module.py().get_type::<Allocator>();
    // The interpreter keeps a pointer to the definition.
    let definition = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: function },
        ml_flags: FLAGS,
        ml_doc: doc.as_ptr(),
    }));
    // SAFETY: the definition lives for ever, and its function has the form that its flags say.
    let method = unsafe {
        let descriptor = ffi::PyDescr_NewMethod(class.as_type_ptr(), definition);
        Bound::from_owned_ptr_or_err(module.py(), descriptor)?
    };
    class.setattr(name, method)
}

/// `Allocator.recv_many` as the interpreter calls it.
pub(super) unsafe extern "C" fn recv_many(
    allocator: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this with an allocator (a method's descriptor checks that) and the arguments of a fast
    // call, all alive until it returns.
    unsafe {
        enter(|py| {
            let arguments = Arguments::new(py, values, positional, keywords);
            let source = Bound::ref_from_ptr(py, &allocator).cast_unchecked::<Allocator>();
            Ok(super::receive::recv_many(source, arguments)?.into_ptr())
        })
    }
}
