//! Many packets made at once.
//!
//! The rooms of a batch lie in blocks of the most that can arrive. Those blocks would stand far apart if each were cut to
//! what did arrive, and the holes between them would serve nobody: the next batch needs its rooms whole. So what fills less
//! than half of its room is copied into a block of its own size, and the room's block goes back, to be the next batch's.

use alloc::vec::Vec;

use super::{Owner, Packet, Room, Source, Space};
use crate::error::AllocError;

/// A packet that holds this many times what it needs is copied.
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
    for _ in 0..count {
        reserved.push(Packet::with_room(source, most)?);
    }
    // From here on nothing that was filled is lost for want of memory.
    packets.try_reserve(count).map_err(|_| AllocError::OutOfMemory)?;
    let lens = fill_rooms(&mut reserved, most.bytes(), fill)?;
    for (room, len) in lens {
        let mut packet = core::mem::replace(&mut reserved[room], Packet::empty(source));
        // SAFETY: a room's filled bytes are initialised and the first ones of its packet.
        unsafe { packet.set_len(len) };
        packets.push(fitted(source, packet, most));
    }
    Ok(())
}

/// Lets `fill` fill the packets' rooms; returns for each of those that it used which packet's it is, and how many bytes.
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
    // `fill` may have changed their order, but has to accept rooms of every lifetime, so it cannot have put others in their
    // place.
    places.extend(rooms.iter().map(|room| (room.place(), room.filled().len())));
    Ok(places)
}

/// The packet, in a block that fits it if there is memory for one.
fn fitted<O: Owner>(source: impl Source<Owner = O>, mut packet: Packet<O>, most: Space) -> Packet<O> {
    let fitting = most.with_bytes(packet.len());
    let (_, size) = fitting.layout(O::UNIT);
    if size.saturating_mul(WASTEFUL) <= packet.headroom() + packet.capacity()
        && let Ok(mut copy) = Packet::with_room(source, fitting)
    {
        copy.append(&packet);
        return copy;
    }
    packet.shrink_to(most.behind());
    packet
}
