//! The classic format: a file header, then records.

use super::cursor::Cursor;
use super::{End, Order, Stop, check_lengths, value};
use crate::replay::error::{Fault, Place};
use crate::replay::packet::{Lifetime, Packet, Packets};

/// What the magic number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::replay) struct Variant {
    order: Order,
    nanoseconds: bool,
    record_header: usize,
}

/// The length of a record's header.
const RECORD_HEADER: usize = 16;
/// That of Alexey Kuznetsov's patched libpcap, with 8 more bytes.
const MODIFIED_RECORD_HEADER: usize = 24;

impl Variant {
    pub(super) fn of(magic: [u8; 4]) -> Option<Self> {
        [Order::Little, Order::Big].into_iter().find_map(|order| {
            let (nanoseconds, record_header) = match order.u32(magic) {
                0xa1b2_c3d4 => (false, RECORD_HEADER),
                0xa1b2_3c4d => (true, RECORD_HEADER),
                0xa1b2_cd34 => (false, MODIFIED_RECORD_HEADER),
                _ => return None,
            };
            Some(Self { order, nanoseconds, record_header })
        })
    }
}

pub(super) fn read(variant: Variant, cursor: &mut Cursor<'_>, packets: &mut Packets) -> Result<End, Stop> {
    let file: [u8; 24] = cursor.take()?;
    let version = variant.order.u16([file[4], file[5]]);
    if version != 2 {
        let fault = value("version", version, "2, as libpcap writes it");
        return Err(Stop::Fault(Place::Byte(0), fault));
    }
    let records = Records { variant, snap_length: variant.order.u32_at(&file, 16) };
    // Headers of nothing but zeros, and where they begin: padding if nothing else follows, else packets of no bytes
    // at the beginning of time.
    let (mut zeros, mut zeros_byte) = (0, 0);
    let mut header = [0; MODIFIED_RECORD_HEADER];
    let header = &mut header[..variant.record_header];
    loop {
        let byte = cursor.position();
        let filled = cursor.fill(header)?;
        let only_zeros = header[..filled].iter().all(|&byte| byte == 0);
        if only_zeros {
            if zeros == 0 {
                zeros_byte = byte;
            }
            if filled == header.len() {
                zeros += 1;
                continue;
            }
            let bytes = cursor.position() - zeros_byte;
            return Ok(if bytes == 0 { End::Whole } else { End::Zeros { byte: zeros_byte, bytes } });
        }
        for _ in 0..core::mem::take(&mut zeros) {
            packets.push(Packet::new(0, 0, Lifetime::Unrecorded))?;
        }
        let place = Place::Packet { number: packets.len() + 1, byte };
        if filled < header.len() {
            return Ok(End::CutOff(place));
        }
        match records.read(header, cursor, place) {
            Ok(packet) => packets.push(packet)?,
            Err(Stop::CutOff) => return Ok(End::CutOff(place)),
            Err(stop) => return Err(stop),
        }
    }
}

/// What the file header says about its records.
struct Records {
    variant: Variant,
    snap_length: u32,
}

impl Records {
    /// Reads the record behind a header.
    fn read(&self, header: &[u8], cursor: &mut Cursor<'_>, place: Place) -> Result<Packet, Stop> {
        let fail = |fault: Fault| Stop::Fault(place, fault);
        let field = |index: usize| self.variant.order.u32_at(header, 4 * index);
        let (seconds, fraction, captured, size) = (field(0), field(1), field(2), field(3));
        let (name, unit, most) =
            if self.variant.nanoseconds { ("nanoseconds", 1, 999_999_999) } else { ("microseconds", 1000, 999_999) };
        if fraction > most {
            return Err(fail(value(name, fraction, format!("0 to {most}"))));
        }
        check_lengths(captured, size).map_err(fail)?;
        match cursor.skip(captured.into()) {
            // No writer keeps more of a packet than it announced: the length is what is damaged.
            Err(Stop::CutOff) if captured > self.snap_length && self.snap_length > 0 => {
                let allowed = format!("at most {} bytes, the snap length", self.snap_length);
                return Err(fail(value("captured length", captured, allowed)));
            }
            result => result?,
        }
        let arrival = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * unit;
        Ok(Packet::new(arrival, size, Lifetime::Unrecorded))
    }
}
