//! What is asked for when a packet is made.

use super::span::LONGEST;

/// How much room a packet is to have: for its bytes, in front of them and behind them.
///
/// A number is that many bytes and nothing else, so that `allocator.packet(1400)` needs no `Space`.
///
/// ```
/// use pktalloc::{Allocator, Space};
///
/// let allocator = Allocator::new();
/// // 20 bytes for an outer header, 16 for a tag.
/// let mut packet = allocator.packet(Space::new(1400).headroom(20).tailroom(16))?;
/// let payload = packet.as_ptr();
/// packet.prepend(&[0x45; 20])?;
/// packet.extend_from_slice(&[0xaa; 16])?;
/// assert_eq!((packet.len(), packet[20..].as_ptr()), (1436, payload)); // nothing moved
/// # Ok::<(), pktalloc::AllocError>(())
/// ```
///
/// The packet's first byte lies at a multiple of a unit, whatever the headroom. With a [`header`](Self::header) it is
/// the byte behind that:
///
/// ```
/// # use pktalloc::{Allocator, Space};
/// # let allocator = Allocator::new();
/// let frame = allocator.packet(Space::new(1514).header(14))?; // an Ethernet frame
/// assert_eq!(frame[14..].as_ptr().addr() % 64, 0);
/// # Ok::<(), pktalloc::AllocError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    bytes: usize,
    headroom: usize,
    tailroom: usize,
    header: usize,
}

impl Space {
    /// Room for `bytes` bytes.
    #[must_use]
    #[inline]
    pub const fn new(bytes: usize) -> Self {
        Self { bytes, headroom: 0, tailroom: 0, header: 0 }
    }

    /// At least `bytes` bytes in front, for [`Packet::prepend`](crate::Packet::prepend).
    #[must_use]
    #[inline]
    pub const fn headroom(self, bytes: usize) -> Self {
        Self { headroom: bytes, ..self }
    }

    /// At least `bytes` bytes behind, for [`Packet::extend_from_slice`](crate::Packet::extend_from_slice).
    #[must_use]
    #[inline]
    pub const fn tailroom(self, bytes: usize) -> Self {
        Self { tailroom: bytes, ..self }
    }

    /// The packet's first `bytes` bytes are a header; what follows is aligned to a unit.
    #[must_use]
    #[inline]
    pub const fn header(self, bytes: usize) -> Self {
        Self { header: bytes, ..self }
    }

    /// Room for the bytes alone.
    #[inline(always)]
    pub(super) fn bytes(self) -> usize {
        self.bytes
    }

    /// The same room around so many bytes.
    pub(super) fn with_bytes(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// Room that stays behind the bytes.
    #[inline(always)]
    pub(super) fn behind(self) -> usize {
        self.tailroom
    }

    /// Where in its block the packet starts, and how long the block is. What is too long is longer than [`LONGEST`].
    #[inline(always)]
    pub(super) fn layout(self, unit: usize) -> (usize, usize) {
        let mut start = 0;
        if self.headroom | self.header != 0 {
            if self.headroom > LONGEST || self.header > LONGEST {
                return (0, usize::MAX);
            }
            start = (self.headroom + self.header).next_multiple_of(unit) - self.header;
        }
        (start, self.bytes.saturating_add(self.tailroom).saturating_add(start))
    }
}

/// Room for that many bytes.
impl From<usize> for Space {
    #[inline]
    fn from(bytes: usize) -> Self {
        Self::new(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_header_is_aligned() {
        let space = Space::new(1000).tailroom(16);
        assert_eq!(space.layout(64), (0, 1016));
        assert_eq!(space.headroom(1).layout(64), (64, 1080));
        assert_eq!(space.headroom(64).layout(64), (64, 1080));
        assert_eq!(space.header(14).layout(64), (50, 1066));
        assert_eq!(space.headroom(50).header(14).layout(64), (50, 1066));
        assert_eq!(space.headroom(51).header(14).layout(64), (114, 1130));
        assert_eq!(space.header(64).layout(64), (0, 1016));
    }

    #[test]
    fn no_sum_overflows() {
        let spaces = [
            Space::new(usize::MAX).tailroom(usize::MAX).headroom(1),
            Space::new(0).headroom(usize::MAX).header(usize::MAX),
            Space::new(1).tailroom(LONGEST),
            Space::new(0).headroom(LONGEST + 1),
        ];
        for space in spaces {
            assert!(space.layout(64).1 > LONGEST, "{space:?}");
        }
        assert_eq!(Space::new(LONGEST).layout(64), (0, LONGEST));
    }
}
