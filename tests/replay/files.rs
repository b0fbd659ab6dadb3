//! Writes captures.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Little,
    Big,
}

pub(crate) use Order::{Big, Little};

/// Writes captures in either byte order.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
    order: Order,
}

impl Writer {
    pub(crate) fn new(order: Order) -> Self {
        Self { bytes: Vec::new(), order }
    }

    pub(crate) fn number(mut self, number: u64, length: usize) -> Self {
        match self.order {
            Little => self.bytes.extend(&number.to_le_bytes()[..length]),
            Big => self.bytes.extend(&number.to_be_bytes()[8 - length..]),
        }
        self
    }

    pub(crate) fn u16(self, number: u16) -> Self {
        self.number(number.into(), 2)
    }

    pub(crate) fn u32(self, number: u32) -> Self {
        self.number(number.into(), 4)
    }

    pub(crate) fn u64(self, number: u64) -> Self {
        self.number(number, 8)
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    pub(crate) fn pcap_header(self, magic: u32) -> Self {
        self.u32(magic).u16(2).u16(4).u32(0).u32(0).u32(65535).u32(1)
    }

    pub(crate) fn pcap_record(self, seconds: u32, fraction: u32, captured: u32, size: u32) -> Self {
        let data = vec![0xab; captured as usize];
        self.u32(seconds).u32(fraction).u32(captured).u32(size).raw(&data)
    }

    pub(crate) fn block(self, kind: u32, body: impl FnOnce(Self) -> Self) -> Self {
        let content = body(Self::new(self.order)).bytes;
        let padding = content.len().next_multiple_of(4) - content.len();
        let length = u32::try_from(content.len() + padding + 12).unwrap();
        self.u32(kind).u32(length).raw(&content).raw(&[0; 3][..padding]).u32(length)
    }

    pub(crate) fn section(self) -> Self {
        self.block(0x0a0d_0d0a, |body| body.u32(0x1a2b_3c4d).u16(1).u16(0).u64(u64::MAX))
    }

    pub(crate) fn interface(self, options: impl FnOnce(Self) -> Self) -> Self {
        self.block(1, |body| options(body.u16(1).u16(0).u32(0)).u16(0).u16(0))
    }

    pub(crate) fn option_resolution(self, resolution: u8) -> Self {
        self.u16(9).u16(1).raw(&[resolution, 0, 0, 0])
    }

    pub(crate) fn option_offset(self, seconds: i64) -> Self {
        self.u16(14).u16(8).u64(seconds.cast_unsigned())
    }

    pub(crate) fn ticks(self, ticks: u64) -> Self {
        self.u32((ticks >> 32) as u32).u32((ticks & 0xffff_ffff) as u32)
    }

    pub(crate) fn enhanced(self, interface: u32, ticks: u64, captured: u32, size: u32) -> Self {
        let data = vec![0xab; captured as usize];
        self.block(6, |body| body.u32(interface).ticks(ticks).u32(captured).u32(size).raw(&data))
    }

    pub(crate) fn simple(self, size: u32) -> Self {
        let data = vec![0xab; size as usize];
        self.block(3, |body| body.u32(size).raw(&data))
    }

    pub(crate) fn obsolete(self, interface: u16, ticks: u64, size: u32) -> Self {
        let data = vec![0xab; size as usize];
        self.block(2, |body| body.u16(interface).u16(7).ticks(ticks).u32(size).u32(size).raw(&data))
    }
}

pub(crate) const MICROSECONDS: u32 = 0xa1b2_c3d4;

pub(crate) const NANOSECONDS: u32 = 0xa1b2_3c4d;

/// Two packets 1.5 s apart; of the second only 60 of 1500 bytes were kept.
pub(crate) fn pcap(order: Order) -> Writer {
    Writer::new(order).pcap_header(MICROSECONDS).pcap_record(100, 0, 64, 64).pcap_record(101, 500_000, 60, 1500)
}

pub(crate) fn pcapng(order: Order) -> Writer {
    let head = Writer::new(order).section().interface(|options| options);
    head.enhanced(0, 5_000_000, 61, 61).enhanced(0, 6_500_000, 60, 1500)
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}
