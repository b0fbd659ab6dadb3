//! The block format: sections of interfaces and packets, with anything else between.

use super::cursor::Cursor;
use super::{End, Order, Stop, check_lengths, value};
use crate::replay::error::{Fault, Place};
use crate::replay::memory::push;
use crate::replay::packet::{Lifetime, MAX_PACKET_BYTES, Packet, Packets};

/// The type of a section header, the same in either byte order.
pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// What a section header says about the byte order.
const BYTE_ORDER_MARK: u32 = 0x1a2b_3c4d;
/// The type of a block, and its length in front and behind.
const FRAME_BYTES: u64 = 12;
/// The largest block; a length beyond it is a damaged file. A packet with 64 KiB of options is far below.
const MAX_BLOCK_BYTES: u32 = 4 * MAX_PACKET_BYTES;
/// The most interfaces of a section: as many as the oldest kind of packet block can name.
const MAX_INTERFACES: usize = 1 << 16;

/// The option that ends a list of options.
const END_OF_OPTIONS: u16 = 0;
const IF_TSRESOL: u16 = 9;
const IF_TSOFFSET: u16 = 14;

const NANOSECONDS: u128 = 1_000_000_000;

pub(super) fn read(cursor: &mut Cursor<'_>, packets: &mut Packets) -> Result<End, Stop> {
    let mut section = Section { order: Order::Little, interfaces: Vec::new() };
    loop {
        let byte = cursor.position();
        let mut head = [0; 8];
        let filled = cursor.fill(&mut head)?;
        if filled == 0 {
            return Ok(End::Whole);
        }
        if byte > 0 && head[..filled].iter().all(|&byte| byte == 0) {
            if cursor.skip_zeros()? {
                return Ok(End::Zeros { byte, bytes: cursor.position() - byte });
            }
            let fault = Fault::Malformed("zeros where a block should begin");
            return Err(Stop::Fault(Place::Byte(byte), fault));
        }
        if filled < head.len() {
            return Ok(End::CutOff(Place::Byte(byte)));
        }
        let mut kind = section.order.u32_at(&head, 0);
        if kind == SECTION_HEADER {
            section.interfaces.clear();
        }
        let place = match kind {
            SECTION_HEADER => Place::Block { kind: "section header", byte },
            INTERFACE => Place::Block { kind: "interface block", byte },
            OBSOLETE_PACKET | SIMPLE_PACKET | ENHANCED_PACKET => Place::Packet { number: packets.len() + 1, byte },
            _ => {
                kind = 0;
                Place::Block { kind: "block", byte }
            }
        };
        match section.read_block(kind, head, cursor) {
            Ok(Found::Timed(packet)) => packets.push(packet)?,
            Ok(Found::Untimed(size)) => packets.push_untimed(size)?,
            Ok(Found::NoPacket) => {}
            Err(Failure::Fault(fault)) => return Err(Stop::Fault(place, fault)),
            // The first block is what makes it a capture.
            Err(Failure::Stop(Stop::CutOff)) if byte > 0 => return Ok(End::CutOff(place)),
            Err(Failure::Stop(stop)) => return Err(stop),
        }
    }
}

/// What a block holds.
enum Found {
    Timed(Packet),
    /// A packet of this size, without a time of its own.
    Untimed(u32),
    NoPacket,
}

/// Why a block cannot be read; its place is the caller's to say.
enum Failure {
    Fault(Fault),
    Stop(Stop),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl<T: Into<Stop>> From<T> for Failure {
    fn from(stop: T) -> Self {
        Self::Stop(stop.into())
    }
}

/// What the blocks of a section have in common.
struct Section {
    order: Order,
    interfaces: Vec<Interface>,
}

impl Section {
    fn read_block(&mut self, kind: u32, head: [u8; 8], cursor: &mut Cursor<'_>) -> Result<Found, Failure> {
        let mut done = 8;
        if kind == SECTION_HEADER {
            // It has a byte order of its own, which even its length is written in.
            let mark = cursor.take()?;
            done += 4;
            self.order = match (u32::from_le_bytes(mark), u32::from_be_bytes(mark)) {
                (BYTE_ORDER_MARK, _) => Order::Little,
                (_, BYTE_ORDER_MARK) => Order::Big,
                (other, _) => {
                    let allowed = format!("{BYTE_ORDER_MARK:#x} in either byte order");
                    return Err(value("byte-order mark", format!("{other:#x}"), allowed).into());
                }
            };
        }
        let length = self.order.u32_at(&head, 4);
        if u64::from(length) < FRAME_BYTES.max(done + 4) {
            return Err(Fault::Malformed("the block is shorter than its own header").into());
        }
        if !length.is_multiple_of(4) || length > MAX_BLOCK_BYTES {
            let allowed = format!("multiples of 4 up to {MAX_BLOCK_BYTES} bytes");
            return Err(value("block length", length, allowed).into());
        }
        let mut body = Body { cursor, order: self.order, left: u64::from(length) - done - 4 };
        let mut found = Found::NoPacket;
        match kind {
            SECTION_HEADER => body.section_header()?,
            INTERFACE => {
                if self.interfaces.len() == MAX_INTERFACES {
                    let allowed = format!("{MAX_INTERFACES} in a section");
                    return Err(value("number of interfaces", MAX_INTERFACES + 1, allowed).into());
                }
                let interface = body.interface()?;
                push(&mut self.interfaces, interface, "the interfaces of the capture")?;
            }
            ENHANCED_PACKET => {
                let interface = body.u32()?;
                found = Found::Timed(self.timed_packet(interface, &mut body)?);
            }
            OBSOLETE_PACKET => {
                let interface = self.order.u16(body.take()?);
                let _drops: [u8; 2] = body.take()?;
                found = Found::Timed(self.timed_packet(interface.into(), &mut body)?);
            }
            SIMPLE_PACKET => {
                let size = body.u32()?;
                let snap_length = self.interface(0)?.snap_length;
                check_lengths(0, size)?;
                // It has neither a captured length nor options: the snap length tells how much is there.
                let captured = if snap_length == 0 { size } else { size.min(snap_length) };
                body.packet_data(captured)?;
                found = Found::Untimed(size);
            }
            _ => {}
        }
        body.end(length)?;
        Ok(found)
    }

    fn interface(&self, number: u32) -> Result<&Interface, Fault> {
        self.interfaces
            .get(number as usize)
            .ok_or_else(|| value("interface", number, format!("one of the {} described before", self.interfaces.len())))
    }

    /// A packet with a time, from there on in its block.
    fn timed_packet(&self, interface: u32, body: &mut Body<'_, '_>) -> Result<Packet, Failure> {
        let interface = self.interface(interface)?;
        let (high, low, captured, size) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
        check_lengths(captured, size)?;
        match body.packet_data(captured) {
            // No writer keeps more of a packet than it announced: the length is what is damaged.
            Err(Failure::Stop(Stop::CutOff)) if captured > interface.snap_length && interface.snap_length > 0 => {
                let allowed = format!("at most {} bytes, the snap length", interface.snap_length);
                return Err(value("captured length", captured, allowed).into());
            }
            result => result?,
        }
        body.options(|_, _| Ok(()))?;
        Ok(Packet::new(interface.nanoseconds(high, low), size, Lifetime::Unrecorded))
    }
}

/// What an interface says about its packets.
struct Interface {
    snap_length: u32,
    ticks_per_second: u128,
    offset_seconds: i64,
}

impl Interface {
    /// Nanoseconds since 1970, at the nearest time that 64 bits can say.
    fn nanoseconds(&self, high: u32, low: u32) -> u64 {
        let ticks = u128::from(high) << 32 | u128::from(low);
        let since_offset = (ticks * NANOSECONDS / self.ticks_per_second).cast_signed();
        let time = since_offset + i128::from(self.offset_seconds) * NANOSECONDS.cast_signed();
        u64::try_from(time.max(0)).unwrap_or(u64::MAX)
    }
}

/// What stands between the two lengths of a block.
struct Body<'c, 'w> {
    cursor: &'c mut Cursor<'w>,
    order: Order,
    left: u64,
}

impl Body<'_, '_> {
    fn claim(&mut self, bytes: u64) -> Result<(), Fault> {
        self.left = self.left.checked_sub(bytes).ok_or(Fault::Malformed("the block is too short for what it holds"))?;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        self.claim(N as u64)?;
        Ok(self.cursor.take()?)
    }

    fn u32(&mut self) -> Result<u32, Failure> {
        Ok(self.order.u32(self.take()?))
    }

    fn section_header(&mut self) -> Result<(), Failure> {
        let version = self.order.u16(self.take()?);
        let _minor: [u8; 2] = self.take()?;
        if version != 1 {
            return Err(value("version", version, "1").into());
        }
        let _section_length: [u8; 8] = self.take()?;
        self.options(|_, _| Ok(()))
    }

    fn interface(&mut self) -> Result<Interface, Failure> {
        let _link_type: [u8; 4] = self.take()?;
        let snap_length = self.u32()?;
        let order = self.order;
        let (mut resolution, mut offset_seconds) = (6, 0);
        self.options(|code, value| {
            match code {
                IF_TSRESOL => [resolution] = exactly("if_tsresol", value)?,
                IF_TSOFFSET => {
                    let bytes = exactly("if_tsoffset", value)?;
                    offset_seconds = match order {
                        Order::Little => i64::from_le_bytes(bytes),
                        Order::Big => i64::from_be_bytes(bytes),
                    };
                }
                _ => {}
            }
            Ok(())
        })?;
        let base: u128 = if resolution & 0x80 == 0 { 10 } else { 2 };
        let ticks_per_second = base
            .checked_pow(u32::from(resolution & 0x7f))
            .ok_or_else(|| value("if_tsresol", resolution, "10^-0 to 10^-38, 2^-0 to 2^-127"))?;
        Ok(Interface { snap_length, ticks_per_second, offset_seconds })
    }

    /// Passes over what was captured, and its padding.
    fn packet_data(&mut self, captured: u32) -> Result<(), Failure> {
        let padded = u64::from(captured).next_multiple_of(4);
        if padded > self.left {
            return Err(
                value("captured length", captured, format!("the {} bytes that the block holds", self.left)).into()
            );
        }
        self.claim(padded)?;
        Ok(self.cursor.skip(padded)?)
    }

    /// Reads the options, which go on to the end of the block: code and value of each, of the value at most the first
    /// bytes, with its whole length.
    fn options(&mut self, mut each: impl FnMut(u16, &OptionValue) -> Result<(), Fault>) -> Result<(), Failure> {
        while self.left > 0 {
            let (code, length) = (self.order.u16(self.take()?), self.order.u16(self.take()?));
            if code == END_OF_OPTIONS {
                break;
            }
            let padded = u64::from(length).next_multiple_of(4);
            if padded > self.left {
                let allowed = format!("the {} bytes that are left of the block", self.left);
                return Err(value("length of an option", length, allowed).into());
            }
            self.claim(padded)?;
            let mut option = OptionValue { start: [0; 8], length };
            let kept = usize::from(length).min(option.start.len());
            if self.cursor.fill(&mut option.start[..kept])? < kept {
                return Err(Stop::CutOff.into());
            }
            self.cursor.skip(padded - kept as u64)?;
            each(code, &option)?;
        }
        Ok(())
    }

    /// Passes over the rest, and compares the length behind the block with the one in front of it.
    fn end(self, length: u32) -> Result<(), Failure> {
        self.cursor.skip(self.left)?;
        let behind = self.cursor.u32(self.order)?;
        if behind == length {
            Ok(())
        } else {
            Err(value("block length behind the block", behind, format!("{length}, as in front of it")).into())
        }
    }
}

/// The value of an option, as far as it matters.
struct OptionValue {
    start: [u8; 8],
    length: u16,
}

/// The value of an option that has to have a length.
fn exactly<const N: usize>(name: &'static str, option: &OptionValue) -> Result<[u8; N], Fault> {
    if usize::from(option.length) == N {
        Ok(*option.start.first_chunk().expect("the start is as long as the longest"))
    } else {
        Err(Fault::Value {
            name,
            found: format!("{} bytes long", option.length),
            allowed: format!("{N} byte{}", if N == 1 { "" } else { "s" }),
        })
    }
}
