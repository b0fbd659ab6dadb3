//! All that datagrams need from the rest of the Python face: how packets are made and pinned, and how the method comes
//! in.

use core::ptr::NonNull;

use pyo3::prelude::*;

use crate::python::arena::ArenaRef;
use crate::python::call::Arguments;
use crate::python::class::Object;
use crate::python::errors;
use crate::python::packet::{self, PacketRef};

/// The allocator object that packets come from.
pub(super) type Source<'a, 'py> = ArenaRef<'a, 'py>;

/// The allocator that an argument is; an argument that is `None` or was not given is none.
pub(super) fn source<'a, 'py>(argument: Option<&'a Bound<'py, PyAny>>) -> PyResult<Option<Source<'a, 'py>>> {
    let Some(object) = argument.filter(|object| !object.is_none()) else { return Ok(None) };
    match ArenaRef::of(object.as_borrowed()) {
        Some(source) => Ok(Some(source)),
        None => Err(errors::unexpected(object.as_borrowed(), format_args!("expected a pktalloc.Allocator, got "))),
    }
}

/// A packet with a copy of `bytes`, which may be empty.
#[inline]
pub(super) fn packet_of<'py>(source: Source<'_, 'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let object = packet::allocate(source, bytes.len())?;
    // SAFETY: an allocator makes packets, and nobody else knows this one, whose bytes are as many and lie elsewhere.
    unsafe {
        let room = PacketRef::new(source.py(), object.as_ptr()).bytes()?;
        room.cast::<u8>().copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
    }
    Ok(object)
}

/// A packet whose bytes stay where they are as long as this lives.
pub(super) struct PinnedPacket<'py>(Bound<'py, PyAny>);

impl<'py> PinnedPacket<'py> {
    /// Pins `object` if it is a packet; returns its bytes as well.
    #[inline]
    pub(super) fn of(object: &Bound<'py, PyAny>) -> PyResult<Option<(Self, NonNull<[u8]>)>> {
        let Some(packet) = PacketRef::of(object.as_borrowed()) else { return Ok(None) };
        let bytes = packet.bytes()?;
        packet.export()?;
        Ok(Some((Self(object.clone()), bytes)))
    }
}

impl Drop for PinnedPacket<'_> {
    fn drop(&mut self) {
        PacketRef::of(self.0.as_borrowed()).expect("only packets are pinned").unexport(self.0.py());
    }
}

/// `Allocator.recv_many`.
pub(in crate::python) fn recv_many<'py>(source: Source<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    // PyO3 is told that this thread is attached: where it does not know, it keeps exceptions and other objects that are
    // dropped here for later, in memory of Rust's. Beside a system call that costs nothing.
    Python::attach(|_| super::receive::recv_many(source, arguments))
}
