//! What packets are to the standard library: bytes, something to write to, something to print.

use core::fmt;

use super::bytes_like::bytes_like;
use super::{Owner, Packet};
use crate::error::AllocError;

bytes_like!([O: Owner] Packet<O>);

impl<O: Owner> AsMut<[u8]> for Packet<O> {
    #[inline]
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl<O: Owner> core::borrow::BorrowMut<[u8]> for Packet<O> {
    #[inline]
    fn borrow_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// Adds behind the packet's bytes and makes room as needed.
///
/// # Panics
/// Where [`extend_from_slice`](Packet::extend_from_slice) would return an error.
impl<O: Owner> Extend<u8> for Packet<O> {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, bytes: T) {
        let bytes = bytes.into_iter();
        let (least, _) = bytes.size_hint();
        let full = |error: AllocError| panic!("cannot extend the packet: {error}");
        self.reserve(least).unwrap_or_else(full);
        for byte in bytes {
            self.extend_from_slice(&[byte]).unwrap_or_else(full);
        }
    }
}

/// As for bytes by value.
impl<'a, O: Owner> Extend<&'a u8> for Packet<O> {
    fn extend<T: IntoIterator<Item = &'a u8>>(&mut self, bytes: T) {
        self.extend(bytes.into_iter().copied());
    }
}

/// Where and how long, not what it says: packets carry other people's data.
impl<O: Owner> fmt::Debug for Packet<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("len", &self.len())
            .field("headroom", &self.headroom())
            .field("tailroom", &self.tailroom())
            .field("at", &self.span.bytes())
            .finish_non_exhaustive()
    }
}

/// Adds behind the packet's bytes and makes room as needed: all of them, or none and an error.
#[cfg(feature = "std")]
impl<O: Owner> std::io::Write for Packet<O> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.extend_from_slice(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "std")]
impl From<AllocError> for std::io::Error {
    fn from(error: AllocError) -> Self {
        let kind = match error {
            AllocError::OutOfMemory | AllocError::MemoryLimit => std::io::ErrorKind::OutOfMemory,
            AllocError::Damaged => std::io::ErrorKind::Other,
            AllocError::NoHeadroom | AllocError::NoTailroom => std::io::ErrorKind::WriteZero,
            _ => std::io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
