//! Many packets made at once.
//!
//! The rooms of a batch are blocks of the most that can arrive. Were each cut to what did arrive, holes would stay
//! between them that serve nobody: the next batch needs its rooms whole. So short rooms lie apart from the packets that
//! stay. What fills them is copied, each into a block of its own size, side by side, and the rooms serve the next
//! batch. Long rooms, which are cheaper to cut than to copy, become packets where they are, unless more than half of
//! one would be of no use.

use alloc::vec::Vec;

use super::{Owner, Packet, Room, Source, Space};
use crate::error::AllocError;

/// The longest room that lies apart. Copying more takes longer than it saves.
const MOST_COPIED: usize = 4096;
/// A packet elsewhere that holds this many times what it needs is copied.
const WASTEFUL: usize = 2;

/// See [`Allocator::packets_with`](crate::Allocator::packets_with).
pub(crate) fn make_batch<O: Owner, E: From<AllocError>>(
    source: impl Source<Owner = O>,
    count: usize,
    most: Space,
    packets: &mut Vec<Packet<O>>,
    fill: impl FnOnce(&mut [Room<'_>]) -> Result<usize, E>,
) -> Result<(), E> {
    let mut reserved = Vec::new();
    reserved.try_reserve_exact(count).map_err(|_| AllocError::OutOfMemory)?;
    let apart = reserve_apart(source, count, most, &mut reserved);
    for _ in apart..count {
        reserved.push(Packet::with_room(source, most)?);
    }
    // From here on nothing that was filled is lost for want of memory.
    packets.try_reserve(count).map_err(|_| AllocError::OutOfMemory)?;
    let lens = fill_rooms(&mut reserved, most.bytes(), fill)?;
    for (room, len) in lens {
        let mut packet = core::mem::replace(&mut reserved[room], Packet::empty(source));
        // SAFETY: a room's filled bytes are initialised and the first ones of its packet.
        unsafe { packet.set_len(len) };
        packets.push(if room < apart || count > 1 && is_wasteful(&packet, most) {
            copied_or_cut(source, packet, most)
        } else {
            cut(packet, most)
        });
    }
    Ok(())
}

/// Reserves rooms apart from what stays, as many of `count` as are to be had; returns how many. One alone does not need
/// it: what is cut off it goes back to where it came from.
fn reserve_apart<O: Owner>(
    source: impl Source<Owner = O>,
    count: usize,
    most: Space,
    reserved: &mut Vec<Packet<O>>,
) -> usize {
    let (start, size) = most.layout(O::UNIT);
    if count > 1 && size <= MOST_COPIED {
        source.take_aside(size, count, |span| {
            // SAFETY: the block is new, and has the size that was asked for at least.
            reserved.push(Packet { span: unsafe { span.behind(start) }, owner: source.owner() });
        });
    }
    reserved.len()
}

/// Lets `fill` fill the packets' rooms; returns for each of those that it used which packet's it is, and how many
/// bytes.
fn fill_rooms<O: Owner, E: From<AllocError>>(
    reserved: &mut [Packet<O>],
    most: usize,
    fill: impl FnOnce(&mut [Room<'_>]) -> Result<usize, E>,
) -> Result<Vec<(usize, usize)>, E> {
    let (mut rooms, mut places) = (Vec::new(), Vec::new());
    rooms.try_reserve_exact(reserved.len()).map_err(|_| AllocError::OutOfMemory)?;
    places.try_reserve_exact(reserved.len()).map_err(|_| AllocError::OutOfMemory)?;
    for (place, packet) in reserved.iter_mut().enumerate() {
        rooms.push(Room::over(place, &mut packet.spare_capacity_mut()[..most]));
    }
    let used = fill(&mut rooms)?;
    let rooms = rooms.get(..used).unwrap_or_else(|| panic!("cannot keep {used} of {} rooms", rooms.len()));
    // `fill` may have changed their order, but has to accept rooms of every lifetime, so it cannot have put others in
    // their place.
    places.extend(rooms.iter().map(|room| (room.place(), room.filled().len())));
    Ok(places)
}

/// Whether most of the packet's block would be of no use.
fn is_wasteful<O: Owner>(packet: &Packet<O>, most: Space) -> bool {
    let (_, size) = most.with_bytes(packet.len()).layout(O::UNIT);
    size.saturating_mul(WASTEFUL) <= packet.headroom() + packet.capacity()
}

/// The packet in a block that fits it, or cut where it is when there is no memory for one.
fn copied_or_cut<O: Owner>(source: impl Source<Owner = O>, packet: Packet<O>, most: Space) -> Packet<O> {
    match Packet::with_room(source, most.with_bytes(packet.len())) {
        Ok(mut copy) => {
            copy.append(&packet);
            copy
        }
        Err(_) => cut(packet, most),
    }
}

/// The packet without what it did not fill.
fn cut<O: Owner>(mut packet: Packet<O>, most: Space) -> Packet<O> {
    packet.shrink_to(most.behind());
    packet
}
