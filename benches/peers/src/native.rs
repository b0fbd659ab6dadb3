//! The subjects written in Rust: pktalloc, the floor, the empty loop, TLSF, and what people write by hand.

use std::alloc::Layout;
use std::arch::asm;
use std::ptr;

use bytes::BytesMut;
use pktalloc::Allocator;
use pktalloc::workload::Ring;

use crate::subject::{Block, Plan, Subject};

/// Nothing: what the loop and its two calls cost. All blocks are the same.
pub(crate) struct Empty(Vec<u8>);

impl Empty {
    #[inline(never)]
    fn same(&mut self, _: usize) -> *mut u8 {
        keep_call();
        self.0.as_mut_ptr()
    }
}

/// Costs nothing, but the compiler may not leave out a call of a function that contains it.
#[inline(always)]
fn keep_call() {
    // SAFETY: no instruction.
    unsafe { asm!("", options(nostack, preserves_flags)) };
}

impl Subject for Empty {
    type Handle = Block;

    fn new(plan: &Plan) -> Result<Self, String> {
        Ok(Self(vec![0; plan.largest.max(1)]))
    }

    #[inline(always)]
    fn allocate(&mut self, size: usize) -> Block {
        Block::new(self.same(size), size)
    }

    #[inline(never)]
    fn free(&mut self, _: Block) {
        keep_call();
    }

    #[inline(always)]
    fn bytes(block: &mut Block) -> *mut u8 {
        block.address.as_ptr()
    }
}

/// The candidate, as it comes: no setting changed; sized frees, as the peers have them.
pub(crate) struct Pktalloc(Allocator);

impl Pktalloc {
    #[inline(never)]
    fn request(&mut self, size: usize) -> *mut u8 {
        match self.0.allocate(size) {
            Ok(block) => block.as_ptr().cast(),
            Err(_) => ptr::null_mut(),
        }
    }
}

impl Subject for Pktalloc {
    type Handle = Block;

    fn new(_: &Plan) -> Result<Self, String> {
        Ok(Self(Allocator::new()))
    }

    #[inline(always)]
    fn allocate(&mut self, size: usize) -> Block {
        Block::new(self.request(size), size)
    }

    #[inline(never)]
    fn free(&mut self, block: Block) {
        // SAFETY: blocks come from `allocate` above, and a workload frees each once.
        unsafe { self.0.free_sized(block.address, block.size) };
    }

    #[inline(always)]
    fn bytes(block: &mut Block) -> *mut u8 {
        block.address.as_ptr()
    }

    fn trim(&mut self) {
        self.0.trim();
    }

    fn allocated_bytes(&self) -> Option<u64> {
        Some(self.0.allocated_bytes())
    }
}

/// The floor: the ring that can only do strict order.
pub(crate) struct Floor(Ring);

impl Floor {
    #[inline(never)]
    fn bump(&mut self, size: usize) -> *mut u8 {
        self.0.allocate(size).as_ptr()
    }
}

impl Subject for Floor {
    type Handle = Block;

    fn new(plan: &Plan) -> Result<Self, String> {
        Ok(Self(Ring::with_capacity(plan.peak + plan.largest)))
    }

    #[inline(always)]
    fn allocate(&mut self, size: usize) -> Block {
        Block::new(self.bump(size), size)
    }

    #[inline(never)]
    fn free(&mut self, _: Block) {
        self.0.free();
    }

    #[inline(always)]
    fn bytes(block: &mut Block) -> *mut u8 {
        block.address.as_ptr()
    }
}

/// TLSF: rlsf on one pool of memory.
pub(crate) struct Rlsf(rlsf::Tlsf<'static, u32, u32, 28, 32>);

impl Rlsf {
    /// The alignment to ask for: the least.
    pub(crate) const ALIGN: usize = 1;

    pub(crate) fn tlsf(&mut self) -> &mut rlsf::Tlsf<'static, u32, u32, 28, 32> {
        &mut self.0
    }

    #[inline(never)]
    fn request(&mut self, size: usize) -> *mut u8 {
        // SAFETY: the alignment is a power of two, and sizes are below 4 GiB.
        let layout = unsafe { Layout::from_size_align_unchecked(size, Self::ALIGN) };
        self.0.allocate(layout).map_or(ptr::null_mut(), |block| block.as_ptr())
    }
}

impl Subject for Rlsf {
    type Handle = Block;

    fn new(plan: &Plan) -> Result<Self, String> {
        // Room for any fragmentation that the workloads cause.
        let pool = Box::leak(Box::<[u8]>::new_uninit_slice(2 * plan.peak + (1 << 20)));
        let mut tlsf = rlsf::Tlsf::new();
        tlsf.insert_free_block(pool);
        Ok(Self(tlsf))
    }

    #[inline(always)]
    fn allocate(&mut self, size: usize) -> Block {
        Block::new(self.request(size), size)
    }

    #[inline(never)]
    fn free(&mut self, block: Block) {
        // SAFETY: the block came from `allocate` above, with this alignment, and a workload frees each once.
        unsafe { self.0.deallocate(block.address, Self::ALIGN) };
    }

    #[inline(always)]
    fn bytes(block: &mut Block) -> *mut u8 {
        block.address.as_ptr()
    }
}

/// A pool as people write it by hand: a stack of buffers that can hold the largest packet.
pub(crate) struct Pool {
    free: Vec<Vec<u8>>,
    largest: usize,
}

impl Subject for Pool {
    type Handle = Vec<u8>;

    fn new(plan: &Plan) -> Result<Self, String> {
        Ok(Self { free: Vec::new(), largest: plan.largest })
    }

    #[inline(never)]
    fn allocate(&mut self, size: usize) -> Vec<u8> {
        let mut buffer = self.free.pop().unwrap_or_else(|| vec![0; self.largest]);
        buffer.clear();
        buffer.reserve(size);
        buffer
    }

    #[inline(never)]
    fn free(&mut self, buffer: Vec<u8>) {
        self.free.push(buffer);
    }

    #[inline(always)]
    fn bytes(buffer: &mut Vec<u8>) -> *mut u8 {
        buffer.as_mut_ptr()
    }

    fn trim(&mut self) {
        self.free = Vec::new();
    }
}

/// `BytesMut::with_capacity` for each packet.
pub(crate) struct Bytes;

impl Subject for Bytes {
    type Handle = BytesMut;

    fn new(_: &Plan) -> Result<Self, String> {
        Ok(Self)
    }

    #[inline(never)]
    fn allocate(&mut self, size: usize) -> BytesMut {
        BytesMut::with_capacity(size)
    }

    #[inline(never)]
    fn free(&mut self, buffer: BytesMut) {
        drop(buffer);
    }

    #[inline(always)]
    fn bytes(buffer: &mut BytesMut) -> *mut u8 {
        buffer.as_mut_ptr()
    }
}
