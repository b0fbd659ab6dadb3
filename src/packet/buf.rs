//! The traits of the crate `bytes`, and its `Bytes` from packets.

use core::mem::MaybeUninit;

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut, Bytes};

use super::{Owner, Packet, Room};
use crate::shared::{FrozenPacket, SharedPacket};
use crate::system::System;

/// Reads from the front; what was read is headroom.
impl<O: Owner> Buf for Packet<O> {
    #[inline]
    fn remaining(&self) -> usize {
        self.len()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        self
    }

    #[inline]
    fn advance(&mut self, bytes: usize) {
        Self::advance(self, bytes);
    }
}

/// Writes into the tailroom, and no further: [`reserve`](Packet::reserve) makes it larger.
///
/// ```
/// use bytes::BufMut;
/// use pktalloc::{Allocator, Space};
///
/// let allocator = Allocator::new();
/// let mut packet = allocator.packet_for(Space::new(1200))?;
/// packet.put_u16(0x8000);
/// packet.put_slice(b"rtp");
/// assert_eq!(packet, b"\x80\0rtp");
/// # Ok::<(), pktalloc::AllocError>(())
/// ```
// SAFETY: `chunk_mut` is the tailroom, behind the packet's bytes, for as long as the packet is borrowed; `advance_mut`
// counts its first bytes.
unsafe impl<O: Owner> BufMut for Packet<O> {
    #[inline]
    fn remaining_mut(&self) -> usize {
        self.tailroom()
    }

    #[inline]
    unsafe fn advance_mut(&mut self, bytes: usize) {
        let tailroom = self.tailroom();
        assert!(bytes <= tailroom, "cannot advance by {bytes} bytes in a tailroom of {tailroom}");
        // SAFETY: they fit, and the caller has initialised them.
        unsafe { self.set_len(self.len() + bytes) };
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        UninitSlice::uninit(self.spare_capacity_mut())
    }
}

/// Writes what is not filled yet.
// SAFETY: `chunk_mut` is what is not filled yet, for as long as the room is borrowed; `advance_mut` counts its first
// bytes.
unsafe impl BufMut for Room<'_> {
    #[inline]
    fn remaining_mut(&self) -> usize {
        self.remaining()
    }

    #[inline]
    unsafe fn advance_mut(&mut self, bytes: usize) {
        // SAFETY: the caller has initialised them.
        unsafe { self.assume_init(bytes) };
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        let uninit: &mut [MaybeUninit<u8>] = self.uninit();
        UninitSlice::uninit(uninit)
    }
}

/// Reads from the front.
impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Buf for FrozenPacket<UNIT, WINDOW_UNITS, S> {
    #[inline]
    fn remaining(&self) -> usize {
        self.len()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        self
    }

    #[inline]
    fn advance(&mut self, bytes: usize) {
        Self::advance(self, bytes);
    }
}

/// The packet's bytes without a copy: the block is freed when the last slice of it is dropped, on whatever thread.
///
/// `Bytes` keeps its own count of references, in memory that it takes from the program's allocator.
///
/// ```
/// use bytes::Bytes;
///
/// let allocator = pktalloc::SharedAllocator::new();
/// let datagram = Bytes::from(allocator.packet_from(b"header|payload")?);
/// let payload = datagram.slice(7..);
/// drop((datagram, allocator));
/// assert_eq!(payload, "payload");
/// # Ok::<(), pktalloc::AllocError>(())
/// ```
impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System + Send + 'static> From<SharedPacket<UNIT, WINDOW_UNITS, S>>
    for Bytes
{
    fn from(packet: SharedPacket<UNIT, WINDOW_UNITS, S>) -> Self {
        Self::from_owner(packet)
    }
}

/// As for a [`SharedPacket`]. The other handles to the packet stay what they are.
impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System + Send + 'static> From<FrozenPacket<UNIT, WINDOW_UNITS, S>>
    for Bytes
{
    fn from(packet: FrozenPacket<UNIT, WINDOW_UNITS, S>) -> Self {
        Self::from_owner(packet)
    }
}
