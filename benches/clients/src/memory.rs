//! Where packets live.

use std::ops::DerefMut;

use bytes::Bytes;
use pktalloc::{SharedAllocator, SharedPacket};

/// What a program asks of its packet memory.
pub(crate) trait Memory {
    /// A packet that stays on its thread.
    type Packet: DerefMut<Target = [u8]>;

    /// A packet with these bytes, as a receive leaves them.
    fn packet(&self, bytes: &[u8]) -> Self::Packet;

    /// The same as [`Bytes`], for crates that take those.
    fn bytes(&self, bytes: &[u8]) -> Bytes;
}

/// What people use: a `Vec` for each packet, `Bytes` where a crate wants them.
pub(crate) struct Own;

impl Memory for Own {
    type Packet = Vec<u8>;

    fn packet(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    fn bytes(&self, bytes: &[u8]) -> Bytes {
        Bytes::copy_from_slice(bytes)
    }
}

/// One allocator for all packets of the program, also for those that become `Bytes`.
pub(crate) struct Pktalloc(SharedAllocator);

impl Pktalloc {
    pub(crate) fn new() -> Self {
        Self(SharedAllocator::new())
    }
}

impl Memory for Pktalloc {
    type Packet = SharedPacket;

    fn packet(&self, bytes: &[u8]) -> Self::Packet {
        self.0.packet_from(bytes).expect("there is memory for packets")
    }

    fn bytes(&self, bytes: &[u8]) -> Bytes {
        Bytes::from(self.packet(bytes))
    }
}
