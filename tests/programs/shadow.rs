//! An allocator and all that is known about its blocks: the oracle of every program.

use std::collections::BTreeMap;
use std::ptr::NonNull;

use pktalloc::{AllocError, Allocator, FreeError, Realloc};

use super::program::Program;

/// Calls between two self-checks that read everything.
const CHECK_EVERY: u64 = 64;
/// Calls between two looks at the figures.
const LOOK_EVERY: u64 = 16;
/// The most blocks of a batch.
const BATCH: usize = 40;

/// Bytes that are written or compared together; a multiple of 256, after which the bytes repeat.
const CHUNK: usize = 4096;
/// What blocks contain: a chunk from any seed on.
static PATTERN: [u8; CHUNK + 256] = {
    let mut bytes = [0; CHUNK + 256];
    let mut index = 0;
    while index < bytes.len() {
        bytes[index] = index as u8;
        index += 1;
    }
    bytes
};
static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// What a live block must contain: byte `i` is `seed + i`.
struct Block {
    pointer: NonNull<u8>,
    capacity: usize,
    seed: u8,
}

/// The allocator under test and its live blocks by address.
pub struct Shadow<'a, const UNIT: usize, const WINDOW_UNITS: usize> {
    allocator: &'a Allocator<UNIT, WINDOW_UNITS>,
    zero: bool,
    live: BTreeMap<usize, Block>,
    /// Bytes of all live blocks.
    held: u64,
    calls: u64,
}

impl<'a, const UNIT: usize, const WINDOW_UNITS: usize> Shadow<'a, UNIT, WINDOW_UNITS> {
    /// Knows of no block yet. `zero` says whether the allocator hands out zeros only.
    pub fn new(allocator: &'a Allocator<UNIT, WINDOW_UNITS>, zero: bool) -> Self {
        Self { allocator, zero, live: BTreeMap::new(), held: 0, calls: 0 }
    }

    /// Runs a program to its end, frees what is left, and expects nothing to be stranded.
    pub fn run(mut self, program: &mut Program<'_>) {
        while self.step(program).is_some() {
            self.calls += 1;
            assert!(self.allocator.used_bytes() >= self.held, "{:?}", self.allocator);
            assert!(self.allocator.allocated_bytes() >= self.allocator.used_bytes(), "{:?}", self.allocator);
            if self.calls.is_multiple_of(LOOK_EVERY) {
                assert_eq!(self.allocator.stats().live_blocks, self.live.len() as u64);
            }
            if self.calls.is_multiple_of(CHECK_EVERY) {
                assert_eq!(self.allocator.integrity_check(), Ok(()));
            }
        }
        assert_eq!(self.allocator.integrity_check(), Ok(()));
        while let Some((&address, _)) = self.live.first_key_value() {
            self.free(address);
        }
        assert_eq!(self.allocator.used_bytes(), 0);
        self.allocator.trim();
        assert_eq!(self.allocator.integrity_check(), Ok(()));
        let stats = self.allocator.stats();
        assert_eq!(stats.empty_windows, stats.windows, "windows are stranded: {stats}");
    }

    fn step(&mut self, program: &mut Program<'_>) -> Option<()> {
        match program.byte()? % 32 {
            0..10 => {
                let size = program.size()?;
                let block = self.allocator.allocate(size);
                self.expect_size(size, block, |shadow, block| shadow.enter(block, size, shadow.zero));
            }
            10 | 11 => {
                let size = program.size()?;
                let block = self.allocator.allocate_zeroed(size);
                self.expect_size(size, block, |shadow, block| shadow.enter(block, size, true));
            }
            12 => {
                let (size, count) = (program.size()?, usize::from(program.byte()?) % BATCH);
                let mut blocks = vec![NonNull::dangling(); count];
                match self.allocator.allocate_batch(size, &mut blocks) {
                    Ok(capacity) => {
                        for block in blocks {
                            self.enter(NonNull::slice_from_raw_parts(block, capacity), size, self.zero);
                        }
                    }
                    Err(error) => self.expect_refusal(size, error),
                }
            }
            13..20 => {
                let index = program.short()?;
                if let Some(address) = self.pick(index) {
                    self.free(address);
                }
            }
            20 | 21 => {
                let count = 1 + program.byte()? % 32;
                for _ in 0..count {
                    if let Some((&address, _)) = self.live.first_key_value() {
                        self.free(address);
                    }
                }
            }
            22..25 => {
                let (index, size, copy) = (program.short()?, program.size()?, program.byte()? % 2 == 0);
                if let Some(address) = self.pick(index) {
                    self.reallocate(address, size, copy);
                }
            }
            25 | 26 => {
                let (index, size) = (program.short()?, program.short()?);
                if let Some(address) = self.pick(index) {
                    self.shrink(address, size);
                }
            }
            27 => {
                let (index, offset) = (program.short()?, program.short()?);
                if let Some(address) = self.pick(index) {
                    let block = &self.live[&address];
                    let inside = block.pointer.map_addr(|start| start.saturating_add(1 + offset % block.capacity));
                    self.refuse(inside);
                }
            }
            28 => {
                let address = program.address()?;
                if let Some(pointer) = NonNull::new(std::ptr::without_provenance_mut(address)) {
                    self.refuse(pointer);
                }
            }
            29 => {
                let index = program.short()?;
                if let Some(address) = self.pick(index) {
                    let pointer = self.live[&address].pointer;
                    self.free(address);
                    self.refuse(pointer);
                }
            }
            30 => {
                let window = program.byte()?;
                let offset = program.long()?;
                let windows = self.allocator.windows();
                if let Some(window) = windows.get(usize::from(window) % windows.len().max(1)) {
                    let address = window.address + offset % (window.units * UNIT);
                    if let Some(pointer) = NonNull::new(std::ptr::without_provenance_mut(address)) {
                        self.refuse(pointer);
                    }
                }
            }
            _ => {
                let before = self.allocator.allocated_bytes();
                let returned = self.allocator.trim();
                assert_eq!(self.allocator.allocated_bytes() + returned as u64, before);
            }
        }
        Some(())
    }

    fn pick(&self, index: usize) -> Option<usize> {
        self.live.keys().nth(index % self.live.len().max(1)).copied()
    }

    fn expect_size(
        &mut self,
        size: usize,
        block: Result<NonNull<[u8]>, AllocError>,
        enter: impl FnOnce(&mut Self, NonNull<[u8]>),
    ) {
        match block {
            Ok(block) => enter(self, block),
            Err(error) => self.expect_refusal(size, error),
        }
    }

    /// A size may be refused for what it is, or because of the memory limit that every program has.
    fn expect_refusal(&self, size: usize, error: AllocError) {
        match error {
            AllocError::ZeroSize => assert_eq!(size, 0),
            AllocError::TooLarge => assert!(size > isize::MAX as usize / 2, "{size} is too large?"),
            AllocError::MemoryLimit => assert_ne!(size, 0),
            other => panic!("{size}: {other}"),
        }
    }

    /// Enters a block that was just handed out, and writes every byte of it.
    fn enter(&mut self, block: NonNull<[u8]>, size: usize, zeroed: bool) {
        let pointer = block.cast::<u8>();
        let start = pointer.addr().get();
        assert!(size != 0 && block.len() >= size, "{} bytes for {size}", block.len());
        assert_eq!(start % UNIT, 0, "{start:#x} is not aligned");
        if let Some((&other, held)) = self.live.range(..start + block.len()).next_back() {
            assert!(other + held.capacity <= start, "{start:#x} overlaps the block at {other:#x}");
        }
        if zeroed {
            // SAFETY: the block was just handed out, with zeros in it.
            let bytes = unsafe { block.as_ref() };
            assert!(bytes.chunks(CHUNK).all(|chunk| *chunk == ZEROS[..chunk.len()]), "not zero");
        }
        let seed = (self.calls as u8).wrapping_mul(31).wrapping_add(start as u8);
        // SAFETY: the block was just handed out.
        unsafe { fill(block, seed) };
        self.keep(start, Block { pointer, capacity: block.len(), seed });
    }

    fn keep(&mut self, address: usize, block: Block) {
        self.held += block.capacity as u64;
        self.live.insert(address, block);
    }

    /// Takes a block out after comparing its bytes.
    fn leave(&mut self, address: usize) -> Block {
        let block = self.live.remove(&address).expect("a live block");
        self.held -= block.capacity as u64;
        // SAFETY: the block is live, and `enter` wrote it.
        unsafe { compare(block.pointer, block.capacity, block.seed) };
        block
    }

    fn free(&mut self, address: usize) {
        let block = self.leave(address);
        // SAFETY: the block was live until now, and of this size.
        unsafe {
            if block.seed.is_multiple_of(2) {
                self.allocator.free(block.pointer);
            } else {
                self.allocator.free_sized(block.pointer, block.capacity);
            }
        }
    }

    fn reallocate(&mut self, address: usize, size: usize, copy: bool) {
        let old = self.leave(address);
        let how = if copy { Realloc::CopyExisting } else { Realloc::Uninitialized };
        // SAFETY: the block is live, and on success only the new one is used.
        match unsafe { self.allocator.reallocate(old.pointer, size, how) } {
            Ok(block) => {
                if copy {
                    // SAFETY: the block was just handed out, with the old one's bytes in front.
                    unsafe { compare(block.cast(), old.capacity.min(size), old.seed) };
                }
                self.enter(block, size, false);
            }
            Err(error) => {
                self.expect_refusal(size, error);
                // SAFETY: the old block is untouched.
                unsafe { compare(old.pointer, old.capacity, old.seed) };
                self.keep(address, old);
            }
        }
    }

    fn shrink(&mut self, address: usize, size: usize) {
        let mut block = self.leave(address);
        // SAFETY: the block is live, and its tail is not used afterwards.
        match unsafe { self.allocator.shrink(block.pointer, size) } {
            Ok(()) => block.capacity = block.capacity.min(size),
            Err(AllocError::ZeroSize) => assert_eq!(size, 0),
            Err(AllocError::NotSmaller) => assert!(size > block.capacity),
            Err(other) => panic!("{other}"),
        }
        self.keep(address, block);
    }

    /// Passes a pointer back; unless a live block starts there, it must be refused by the right name.
    fn refuse(&self, pointer: NonNull<u8>) {
        let address = pointer.addr().get();
        if self.live.contains_key(&address) {
            return;
        }
        let before = (self.allocator.used_bytes(), self.allocator.allocated_bytes());
        // SAFETY: no block starts there, which is what the call has to find out.
        let error = unsafe { self.allocator.try_free(pointer) }.expect_err("no block starts there");
        let around = self.live.range(..address).next_back().filter(|(start, block)| address - *start < block.capacity);
        match (around, error) {
            (Some((&start, _)), FreeError::Interior { block, .. }) => assert_eq!(block, start),
            // Behind what is in use of a block there may be more of its unit.
            (None, FreeError::Interior { block, .. }) => assert!(self.live.contains_key(&block)),
            (None, FreeError::DoubleFree { .. } | FreeError::Bookkeeping { .. } | FreeError::Foreign { .. }) => {}
            (_, other) => panic!("{address:#x}: {other}"),
        }
        assert_eq!((self.allocator.used_bytes(), self.allocator.allocated_bytes()), before);
    }
}

/// Writes a block's bytes.
///
/// # Safety
/// They are the caller's.
unsafe fn fill(mut block: NonNull<[u8]>, seed: u8) {
    // SAFETY: the caller says so.
    let bytes = unsafe { block.as_mut() };
    for chunk in bytes.chunks_mut(CHUNK) {
        chunk.copy_from_slice(&PATTERN[usize::from(seed)..][..chunk.len()]);
    }
}

/// Compares a block's bytes with what was written.
///
/// # Safety
/// The first `length` bytes at `pointer` are the caller's, and were written by `fill` from the start.
unsafe fn compare(pointer: NonNull<u8>, length: usize, seed: u8) {
    // SAFETY: the caller says so.
    let bytes = unsafe { NonNull::slice_from_raw_parts(pointer, length).as_ref() };
    let whole = bytes.chunks(CHUNK).all(|chunk| *chunk == PATTERN[usize::from(seed)..][..chunk.len()]);
    assert!(whole, "a byte of the {length} at {pointer:p} was lost");
}
