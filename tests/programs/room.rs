//! Programs of the safe handles: packets with room on both sides, packets that threads share, and frozen ones, each
//! beside the bytes that it must have.

use pktalloc::{AllocError, Config, Owner, Packet, RcAllocator, Room, Space};

use super::program::Program;

/// The most handles of a kind at a time.
const MOST: usize = 24;
/// No packet needs to be longer to meet every kind of block.
const LONGEST: usize = 200_000;

fn config(flags: u8) -> Config<64, 256> {
    let config = Config::<64, 256>::default().check(flags & 3 == 3).zero(flags & 4 != 0).passthrough(flags & 24 == 24);
    config.memory_limit(1 << 20)
}

fn pattern(seed: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (seed.wrapping_mul(31) + at * 7) as u8).collect()
}

/// What is received in a batch: appends its bytes to each of the first rooms, and puts two rooms into the other's
/// place.
fn receive(rooms: &mut [Room<'_>], arrived: &[Vec<u8>]) -> Result<usize, AllocError> {
    for (room, bytes) in rooms.iter_mut().zip(arrived) {
        room.append(bytes);
    }
    rooms.swap(0, arrived.len() - 1);
    Ok(arrived.len())
}

/// Packets of one owner and what they must contain.
struct Handles<O: Owner> {
    packets: Vec<(Packet<O>, Vec<u8>)>,
    /// Whether a packet that is full may get another block.
    grows: bool,
    seed: usize,
}

impl<O: Owner> Handles<O> {
    /// One call on one of the packets, or a new one that `make` makes, or several that `make_many` makes.
    fn step(
        &mut self,
        program: &mut Program<'_>,
        make: impl Fn(Space) -> Result<Packet<O>, AllocError>,
        make_many: impl Fn(usize, Space, &mut Vec<Packet<O>>, &[Vec<u8>]) -> Result<(), AllocError>,
    ) -> Option<()> {
        let (call, at, size) = (program.byte()?, usize::from(program.byte()?), program.size()?.min(LONGEST));
        self.seed += 1;
        if call >= 240 && call % 12 == 0 && self.packets.len() < MOST {
            // Around the longest room that is copied.
            let (rooms, space) = (1 + at % 8, Space::new(size % 6000).headroom(at % 40).tailroom(size % 9));
            let used = 1 + usize::from(call > 240) * (rooms - 1);
            let mut arrived: Vec<_> = (1..=used).map(|part| pattern(self.seed + part, size % 6000 / part)).collect();
            let mut packets = Vec::new();
            match make_many(rooms, space, &mut packets, &arrived) {
                Ok(()) => {
                    arrived.swap(0, used - 1);
                    assert_eq!(packets.len(), used);
                    self.packets.extend(packets.into_iter().zip(arrived));
                    self.verify();
                }
                Err(error) => assert!(matches!(error, AllocError::MemoryLimit | AllocError::OutOfMemory), "{error}"),
            }
            return Some(());
        }
        if self.packets.is_empty() || call % 12 == 0 && self.packets.len() < MOST {
            let (headroom, tailroom) = (program.short()? % 3000, program.short()? % 3000);
            let space = Space::new(size).headroom(headroom).tailroom(tailroom).header(at % 100);
            match make(space) {
                Ok(packet) => {
                    assert!(packet.headroom() >= headroom && packet.tailroom() >= tailroom);
                    self.packets.push((packet, vec![0; size]));
                }
                Err(error) => assert!(matches!(error, AllocError::MemoryLimit | AllocError::OutOfMemory), "{error}"),
            }
            return Some(());
        }
        let place = at % self.packets.len();
        let (packet, model) = &mut self.packets[place];
        let (headroom, tailroom, len) = (packet.headroom(), packet.tailroom(), packet.len());
        match call % 12 {
            1 | 2 => {
                let bytes = pattern(self.seed, size % 300);
                match packet.prepend(&bytes) {
                    Ok(()) => drop(model.splice(..0, bytes)),
                    Err(error) => assert!(error == AllocError::NoHeadroom && bytes.len() > headroom),
                }
            }
            3 | 4 => {
                let bytes = (size % 300).min(len);
                packet.advance(bytes);
                model.drain(..bytes);
            }
            5 | 6 => {
                let bytes = pattern(self.seed, size);
                match packet.extend_from_slice(&bytes) {
                    Ok(()) => model.extend(bytes),
                    Err(error) => assert!(size > tailroom && (self.grows || error == AllocError::NoTailroom)),
                }
            }
            7 => {
                packet.truncate(size);
                model.truncate(size);
            }
            8 => packet.shrink_to(size % 100),
            9 => {
                let filled = size / 2;
                let outcome = packet.extend_with(size, |room| {
                    room.append(&pattern(self.seed, filled));
                    if self.seed.is_multiple_of(5) { Err(AllocError::Alignment) } else { Ok(()) }
                });
                if outcome.is_ok() {
                    model.extend(pattern(self.seed, filled));
                }
            }
            10 => {
                packet.fill(self.seed as u8);
                model.fill(self.seed as u8);
            }
            _ => drop(self.packets.swap_remove(place)),
        }
        if let Some((packet, model)) = self.packets.get(place) {
            assert!(packet == model, "packet {place} has other bytes after call {call}");
        }
        Some(())
    }

    fn verify(&self) {
        assert!(self.packets.iter().all(|(packet, model)| packet == model));
    }
}

/// Frozen packets and what they must contain.
#[cfg(feature = "shared")]
mod frozen {
    use pktalloc::{FrozenPacket, SharedPacket};

    use super::{MOST, Program};

    type Writable = SharedPacket<64, 256>;

    #[derive(Default)]
    pub(super) struct Frozen(Vec<(FrozenPacket<64, 256>, Vec<u8>)>);

    impl Frozen {
        /// Freezes one of the packets, or does something to one that is frozen; returns one that is writable again.
        pub(super) fn step(&mut self, program: &mut Program<'_>, packets: &mut Vec<(Writable, Vec<u8>)>) -> Option<()> {
            let (call, at, cut) = (program.byte()?, usize::from(program.byte()?), program.short()?);
            if (self.0.is_empty() || call % 8 == 0) && !packets.is_empty() {
                let (packet, model) = packets.swap_remove(at % packets.len());
                self.0.push((packet.freeze(), model));
                return Some(());
            }
            if self.0.is_empty() {
                return Some(());
            }
            let place = at % self.0.len();
            let many = self.0.len() >= 4 * MOST;
            let (packet, model) = &mut self.0[place];
            let cut = if model.is_empty() { 0 } else { cut % (model.len() + 1) };
            let part = match call % 8 {
                1 if !many => Some((packet.clone(), model.clone())),
                2 if !many => Some((packet.slice(cut..), model[cut..].to_vec())),
                3 if !many => Some((packet.split_to(cut), model.drain(..cut).collect())),
                4 if !many => Some((packet.split_off(cut), model.split_off(cut))),
                5 => {
                    packet.advance(cut);
                    model.drain(..cut);
                    None
                }
                6 => {
                    let (packet, model) = self.0.swap_remove(place);
                    match packet.try_into_packet() {
                        Ok(packet) => packets.push((packet, model)),
                        Err(packet) => self.0.push((packet, model)),
                    }
                    None
                }
                _ => {
                    self.0.swap_remove(place);
                    None
                }
            };
            self.0.extend(part);
            Some(())
        }

        pub(super) fn verify(&self) {
            assert!(self.0.iter().all(|(packet, model)| packet == model));
        }
    }
}

/// Runs a program.
pub fn run(bytes: &[u8]) {
    let mut program = Program::new(bytes);
    let Some(flags) = program.byte() else { return };
    let own = RcAllocator::with_config(config(flags)).expect("settings that make sense");
    let mut packets = Handles { packets: Vec::new(), grows: true, seed: 0 };
    #[cfg(feature = "shared")]
    {
        let shared = pktalloc::SharedAllocator::with_config(config(flags)).expect("settings that make sense");
        let mut of_threads = Handles { packets: Vec::new(), grows: false, seed: 7 };
        let mut frozen = frozen::Frozen::default();
        let mut turn = 0;
        while match turn % 4 {
            0 | 1 => of_threads.step(
                &mut program,
                |space| shared.packet(space),
                |count, space, packets, arrived| {
                    shared.packets_with(count, space, packets, |rooms| receive(rooms, arrived))
                },
            ),
            2 => frozen.step(&mut program, &mut of_threads.packets),
            _ => packets.step(
                &mut program,
                |space| own.packet(space),
                |count, space, packets, arrived| {
                    own.packets_with(count, space, packets, |rooms| receive(rooms, arrived))
                },
            ),
        }
        .is_some()
        {
            turn += 1;
        }
        of_threads.verify();
        frozen.verify();
        drop((of_threads, frozen));
        assert_eq!((shared.used_bytes(), shared.integrity_check()), (0, Ok(())));
    }
    #[cfg(not(feature = "shared"))]
    while packets
        .step(
            &mut program,
            |space| own.packet(space),
            |count, space, packets, arrived| own.packets_with(count, space, packets, |rooms| receive(rooms, arrived)),
        )
        .is_some()
    {}
    packets.verify();
    drop(packets);
    assert_eq!((own.used_bytes(), own.integrity_check()), (0, Ok(())));
}
