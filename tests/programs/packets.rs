//! Programs in the shape of the Python face: owned packets with buffer exports, several allocators, handles that
//! outlive theirs, and owners that are collected in any order.

use std::cell::Cell;
use std::ptr::NonNull;
use std::rc::Rc;

use pktalloc::{AllocError, Allocator, Config, Realloc};

use super::program::Program;

type Pool = Allocator<64, 256>;

/// The most handles of a kind at a time.
const MOST: usize = 96;

/// An owned block of exactly `size` bytes, each of them `tag`.
struct Packet {
    pool: Rc<Pool>,
    block: Cell<Option<NonNull<u8>>>,
    size: Cell<usize>,
    tag: u8,
    exports: Cell<usize>,
}

/// A buffer export: as long as it lives, its packet's bytes stay where they are.
struct View {
    packet: Rc<Packet>,
    bytes: NonNull<[u8]>,
}

/// Why a call was refused.
#[derive(Debug, PartialEq)]
enum Refusal {
    Exported(usize),
    Released,
    Memory(AllocError),
}

impl Packet {
    fn new(pool: &Rc<Pool>, size: usize, tag: u8) -> Result<Self, AllocError> {
        let block = pool.allocate(size)?.cast::<u8>();
        // SAFETY: the block was just allocated with at least this size.
        unsafe { block.write_bytes(tag, size) };
        Ok(Self {
            pool: Rc::clone(pool),
            block: Cell::new(Some(block)),
            size: Cell::new(size),
            tag,
            exports: Cell::new(0),
        })
    }

    /// The block, when it may be moved or freed.
    fn movable(&self) -> Result<NonNull<u8>, Refusal> {
        match (self.block.get(), self.exports.get()) {
            (None, _) => Err(Refusal::Released),
            (Some(_), exports @ 1..) => Err(Refusal::Exported(exports)),
            (Some(block), 0) => Ok(block),
        }
    }

    fn verify(&self) {
        if let Some(block) = self.block.get() {
            // SAFETY: the block is live and its first `size` bytes are written.
            let bytes = unsafe { NonNull::slice_from_raw_parts(block, self.size.get()).as_ref() };
            assert!(all_are(bytes, self.tag), "a byte was lost");
        }
    }

    fn release(&self) -> Result<(), Refusal> {
        let block = match self.movable() {
            Err(Refusal::Released) => return Ok(()),
            other => other?,
        };
        self.verify();
        self.block.set(None);
        // SAFETY: the block was live until now, and nothing looks at it.
        unsafe { self.pool.free(block) };
        Ok(())
    }

    fn resize(&self, size: usize, copy: bool) -> Result<(), Refusal> {
        let block = self.movable()?;
        let how = if copy { Realloc::CopyExisting } else { Realloc::Uninitialized };
        // SAFETY: the block is live, and only what it became is used.
        let moved = unsafe { self.pool.reallocate(block, size, how) }.map_err(Refusal::Memory)?.cast::<u8>();
        self.block.set(Some(moved));
        let kept = if copy { size.min(self.size.get()) } else { 0 };
        self.size.set(kept);
        self.verify();
        // SAFETY: the block has at least `size` bytes.
        unsafe { moved.add(kept).write_bytes(self.tag, size - kept) };
        self.size.set(size);
        Ok(())
    }

    fn shrink(&self, size: usize) -> Result<(), Refusal> {
        let block = self.movable()?;
        // SAFETY: the block is live, and its tail is not used afterwards.
        unsafe { self.pool.shrink(block, size) }.map_err(Refusal::Memory)?;
        self.size.set(size.min(self.size.get()));
        Ok(())
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        assert_eq!(self.exports.get(), 0, "a view keeps its packet alive");
        assert_eq!(self.release(), Ok(()));
    }
}

impl View {
    fn new(packet: &Rc<Packet>) -> Result<Self, Refusal> {
        let block = packet.block.get().ok_or(Refusal::Released)?;
        packet.exports.set(packet.exports.get() + 1);
        Ok(Self { packet: Rc::clone(packet), bytes: NonNull::slice_from_raw_parts(block, packet.size.get()) })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the packet's block did not move while it was exported.
        let bytes = unsafe { self.bytes.as_ref() };
        assert!(all_are(bytes, self.packet.tag), "a byte changed under a view");
        self.packet.exports.set(self.packet.exports.get() - 1);
    }
}

/// Whether all bytes are `tag`, compared many at a time.
fn all_are(bytes: &[u8], tag: u8) -> bool {
    bytes.is_empty() || bytes[0] == tag && bytes[1..] == bytes[..bytes.len() - 1]
}

/// Runs a program.
pub fn run(bytes: &[u8]) {
    let mut program = Program::new(bytes);
    let mut script = Script { pools: Vec::new(), packets: Vec::new(), views: Vec::new(), tag: 0 };
    while script.step(&mut program).is_some() {}
    script.finish();
}

struct Script {
    pools: Vec<Rc<Pool>>,
    packets: Vec<Rc<Packet>>,
    views: Vec<View>,
    tag: u8,
}

impl Script {
    fn step(&mut self, program: &mut Program<'_>) -> Option<()> {
        self.tag = self.tag.wrapping_add(1);
        match program.byte()? % 20 {
            0 => {
                let flags = program.byte()?;
                let config = Config::<64, 256>::default()
                    .check(flags & 3 == 3)
                    .zero(flags & 4 != 0)
                    .keep_empty_windows(usize::from(flags >> 4))
                    .memory_limit(1 << 18);
                if self.pools.len() < 4 {
                    self.pools.push(Rc::new(Allocator::with_config(config).expect("settings that make sense")));
                }
            }
            // The object that made the packets goes first.
            1 => {
                let at = usize::from(program.byte()?);
                if !self.pools.is_empty() {
                    self.pools.swap_remove(at % self.pools.len());
                }
            }
            2..9 => {
                let (at, size) = (usize::from(program.byte()?), program.size()?);
                if self.pools.is_empty() || self.packets.len() >= MOST {
                    return Some(());
                }
                let pool = &self.pools[at % self.pools.len()];
                match Packet::new(pool, size, self.tag) {
                    Ok(packet) => self.packets.push(Rc::new(packet)),
                    Err(error) => assert!(!matches!(error, AllocError::Damaged | AllocError::NotSmaller), "{error}"),
                }
            }
            9..12 => {
                let at = program.short()?;
                if !self.packets.is_empty() {
                    drop(self.packets.swap_remove(at % self.packets.len()));
                }
            }
            12 => {
                let at = program.short()?;
                if let Some(packet) = self.packet(at) {
                    let exports = packet.exports.get();
                    assert_eq!(packet.release(), if exports == 0 { Ok(()) } else { Err(Refusal::Exported(exports)) });
                }
            }
            13 | 14 => {
                let (at, size, copy) = (program.short()?, program.size()?, program.byte()? % 2 == 0);
                if let Some(packet) = self.packet(at) {
                    self.expect(packet, packet.resize(size, copy));
                }
            }
            15 => {
                let (at, size) = (program.short()?, program.short()?);
                if let Some(packet) = self.packet(at) {
                    self.expect(packet, packet.shrink(size));
                }
            }
            16 | 17 => {
                let at = program.short()?;
                if let Some(packet) = self.packet(at)
                    && self.views.len() < MOST
                    && let Ok(view) = View::new(packet)
                {
                    self.views.push(view);
                }
            }
            18 => {
                let at = program.short()?;
                if !self.views.is_empty() {
                    drop(self.views.swap_remove(at % self.views.len()));
                }
            }
            _ => {
                for pool in &self.pools {
                    assert_eq!(pool.integrity_check(), Ok(()));
                    pool.trim();
                }
            }
        }
        Some(())
    }

    fn packet(&self, at: usize) -> Option<&Rc<Packet>> {
        self.packets.get(at % self.packets.len().max(1))
    }

    /// Whatever the outcome, the packet is whole.
    fn expect(&self, packet: &Packet, outcome: Result<(), Refusal>) {
        match outcome {
            Err(Refusal::Exported(exports)) => assert!(exports > 0 && exports == packet.exports.get()),
            Err(Refusal::Released) => assert_eq!(packet.block.get(), None),
            Err(Refusal::Memory(AllocError::Damaged)) => panic!("damage"),
            Err(Refusal::Memory(_)) | Ok(()) => packet.verify(),
        }
    }

    /// Everything goes, in an order that the program's length decides, and every allocator that is left is empty.
    fn finish(self) {
        let Self { pools, packets, views, tag } = self;
        if tag % 2 == 0 {
            drop(views);
            drop(packets);
        } else {
            drop(packets);
            drop(views);
        }
        for pool in pools {
            assert_eq!(pool.used_bytes(), 0);
            assert_eq!(pool.integrity_check(), Ok(()));
        }
    }
}
