//! Where packets come from.

use std::rc::Rc;

use crate::system::System;
use crate::{AllocError, Allocator, Packet, Room};
#[cfg(feature = "shared")]
use crate::{SharedAllocator, SharedPacket};

/// Keeps [`Source`] from being implemented elsewhere.
mod sealed {
    pub trait Sealed {}
}

/// An allocator that a [`Receiver`](super::Receiver) takes packets from: `&Allocator` and `&Rc<Allocator>` for
/// [`Packet`]s, `&SharedAllocator` for `SharedPacket`s. Cannot be implemented elsewhere.
pub trait Source: sealed::Sealed {
    /// What it makes.
    type Packet;

    /// A packet with a copy of `bytes`.
    #[doc(hidden)]
    fn copied(&self, bytes: &[u8]) -> Result<Self::Packet, AllocError>;

    /// A packet that `fill` fills: see [`Allocator::packet_with`](crate::Allocator::packet_with).
    #[doc(hidden)]
    fn filled<T, E: From<AllocError>>(
        &self,
        most: usize,
        fill: impl FnOnce(&mut Room<'_>) -> Result<T, E>,
    ) -> Result<(Self::Packet, T), E>;
}

/// Implements [`Source`] for a reference whose packets have the owner that `$owner` makes of it.
macro_rules! source {
    ($reference:ty, $of:ty, $owner:expr) => {
        impl<'a, const UNIT: usize, const WINDOW_UNITS: usize, S: System> sealed::Sealed for $reference {}
        impl<'a, const UNIT: usize, const WINDOW_UNITS: usize, S: System> Source for $reference {
            type Packet = Packet<$of>;

            #[inline]
            fn copied(&self, bytes: &[u8]) -> Result<Self::Packet, AllocError> {
                Packet::copied($owner(*self), bytes)
            }

            fn filled<T, E: From<AllocError>>(
                &self,
                most: usize,
                fill: impl FnOnce(&mut Room<'_>) -> Result<T, E>,
            ) -> Result<(Self::Packet, T), E> {
                Packet::filled($owner(*self), most, fill)
            }
        }
    };
}

source!(&'a Allocator<UNIT, WINDOW_UNITS, S>, &'a Allocator<UNIT, WINDOW_UNITS, S>, core::convert::identity);
source!(&'a Rc<Allocator<UNIT, WINDOW_UNITS, S>>, Rc<Allocator<UNIT, WINDOW_UNITS, S>>, Rc::clone);

#[cfg(feature = "shared")]
impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> sealed::Sealed
    for &SharedAllocator<UNIT, WINDOW_UNITS, S>
{
}
#[cfg(feature = "shared")]
impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Source for &SharedAllocator<UNIT, WINDOW_UNITS, S> {
    type Packet = SharedPacket<UNIT, WINDOW_UNITS, S>;

    #[inline]
    fn copied(&self, bytes: &[u8]) -> Result<Self::Packet, AllocError> {
        self.packet_from(bytes)
    }

    fn filled<T, E: From<AllocError>>(
        &self,
        most: usize,
        fill: impl FnOnce(&mut Room<'_>) -> Result<T, E>,
    ) -> Result<(Self::Packet, T), E> {
        self.packet_with(most, fill)
    }
}
