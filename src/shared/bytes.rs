//! `bytes::Bytes` from a packet.

use ::bytes::Bytes;

use super::SharedPacket;
use crate::system::System;

/// The packet's bytes without a copy: the block is freed when the last slice of it is dropped, on whatever thread.
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
