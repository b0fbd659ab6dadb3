//! The subjects as they serve the calls of a trace. As in [`subject`](crate::subject), a call costs everyone one call
//! of a function that the compiler cannot look into.
//!
//! **Peers grow only.** A program that recycles buffers in a general allocator keeps what it asked for at most as the
//! capacity and calls `realloc` only beyond that; when the contents are of no use it frees and allocates, which copies
//! nothing. pktalloc is called each time.
//!
//! **Allocators that end.** Peers with first-class heaps have a heap for each allocator of the trace and destroy it;
//! the others free what is left, block by block, from a plain list.

use std::alloc::Layout;
use std::ptr::{self, NonNull};

use pktalloc::{Allocator, Realloc};

use crate::foreign::{Foreign, Functions};
use crate::native::{Empty, Pktalloc, Rlsf};
use crate::subject::{Block, Plan, Subject};

/// An allocator that serves a trace.
pub(crate) trait Heaps: Sized {
    /// One allocator of the trace.
    type Heap;

    fn start(plan: &Plan) -> Result<Self, String>;

    fn create(&mut self) -> Self::Heap;

    /// Ends a heap with the blocks that it still holds.
    ///
    /// # Safety
    ///
    /// These are the live blocks of the heap.
    unsafe fn destroy(&mut self, heap: Self::Heap, left: impl Iterator<Item = Block>);

    fn allocate(&mut self, heap: &mut Self::Heap, size: usize) -> Block;

    /// # Safety
    ///
    /// The block is live and of this heap.
    unsafe fn free(&mut self, heap: &mut Self::Heap, block: Block);

    /// Gives a block room for `size` bytes.
    ///
    /// # Safety
    ///
    /// The block is live and of this heap; only the returned one is afterwards.
    unsafe fn reallocate(&mut self, heap: &mut Self::Heap, block: Block, size: usize, how: Realloc) -> Block;

    /// Bytes that a heap holds from the system, where it says so.
    fn allocated_bytes(_: &Self::Heap) -> Option<u64> {
        None
    }
}

/// All bytes of a block are one buffer's: what the loop costs, and the writing.
impl Heaps for Empty {
    type Heap = ();

    fn start(plan: &Plan) -> Result<Self, String> {
        Subject::new(plan)
    }

    fn create(&mut self) {}

    unsafe fn destroy(&mut self, (): (), _: impl Iterator<Item = Block>) {}

    #[inline(always)]
    fn allocate(&mut self, (): &mut (), size: usize) -> Block {
        Subject::allocate(self, size)
    }

    #[inline(always)]
    unsafe fn free(&mut self, (): &mut (), block: Block) {
        Subject::free(self, block);
    }

    #[inline(always)]
    unsafe fn reallocate(&mut self, (): &mut (), _: Block, size: usize, _: Realloc) -> Block {
        Subject::allocate(self, size)
    }
}

/// An allocator for each of the trace, default settings.
impl Heaps for Pktalloc {
    type Heap = Allocator;

    fn start(plan: &Plan) -> Result<Self, String> {
        Subject::new(plan)
    }

    #[inline(never)]
    fn create(&mut self) -> Allocator {
        Allocator::new()
    }

    #[inline(never)]
    unsafe fn destroy(&mut self, heap: Allocator, _: impl Iterator<Item = Block>) {
        drop(heap);
    }

    #[inline(always)]
    fn allocate(&mut self, heap: &mut Allocator, size: usize) -> Block {
        #[inline(never)]
        fn request(heap: &Allocator, size: usize) -> *mut u8 {
            heap.allocate(size).map_or(ptr::null_mut(), |block| block.as_ptr().cast())
        }
        Block::new(request(heap, size), size)
    }

    #[inline(never)]
    unsafe fn free(&mut self, heap: &mut Allocator, block: Block) {
        // SAFETY: as the caller promises.
        unsafe { heap.free(block.address) };
    }

    #[inline(always)]
    unsafe fn reallocate(&mut self, heap: &mut Allocator, block: Block, size: usize, how: Realloc) -> Block {
        #[inline(never)]
        unsafe fn request(heap: &Allocator, block: NonNull<u8>, size: usize, how: Realloc) -> *mut u8 {
            // SAFETY: as the caller promises.
            unsafe { heap.reallocate(block, size, how) }.map_or(ptr::null_mut(), |block| block.as_ptr().cast())
        }
        // SAFETY: as the caller promises.
        Block::new(unsafe { request(heap, block.address, size, how) }, size)
    }

    fn allocated_bytes(heap: &Allocator) -> Option<u64> {
        Some(heap.allocated_bytes())
    }
}

/// The same in a program that keeps the capacity it was told, and calls `reallocate` only beyond that, as with the
/// peers.
pub(crate) struct KeptCapacity(Pktalloc);

impl KeptCapacity {
    #[inline(always)]
    fn block(bytes: Option<NonNull<[u8]>>, size: usize) -> Block {
        Block::new(
            bytes.map_or(ptr::null_mut(), |bytes| bytes.as_ptr().cast()),
            bytes.map_or(size, |bytes| bytes.len()),
        )
    }
}

impl Heaps for KeptCapacity {
    type Heap = Allocator;

    fn start(plan: &Plan) -> Result<Self, String> {
        Heaps::start(plan).map(Self)
    }

    fn create(&mut self) -> Allocator {
        Heaps::create(&mut self.0)
    }

    unsafe fn destroy(&mut self, heap: Allocator, left: impl Iterator<Item = Block>) {
        // SAFETY: as the caller promises.
        unsafe { self.0.destroy(heap, left) };
    }

    #[inline(always)]
    fn allocate(&mut self, heap: &mut Allocator, size: usize) -> Block {
        #[inline(never)]
        fn request(heap: &Allocator, size: usize) -> Option<NonNull<[u8]>> {
            heap.allocate(size).ok()
        }
        Self::block(request(heap, size), size)
    }

    #[inline(always)]
    unsafe fn free(&mut self, heap: &mut Allocator, block: Block) {
        // SAFETY: as the caller promises.
        unsafe { Heaps::free(&mut self.0, heap, block) };
    }

    #[inline(always)]
    unsafe fn reallocate(&mut self, heap: &mut Allocator, block: Block, size: usize, how: Realloc) -> Block {
        #[inline(never)]
        unsafe fn request(heap: &Allocator, block: NonNull<u8>, size: usize, how: Realloc) -> Option<NonNull<[u8]>> {
            // SAFETY: as the caller promises.
            unsafe { heap.reallocate(block, size, how) }.ok()
        }
        if size <= block.size {
            return block;
        }
        // SAFETY: as the caller promises.
        Self::block(unsafe { request(heap, block.address, size, how) }, size)
    }

    fn allocated_bytes(heap: &Allocator) -> Option<u64> {
        <Pktalloc as Heaps>::allocated_bytes(heap)
    }
}

impl<F: Functions> Heaps for Foreign<F> {
    type Heap = F;

    fn start(plan: &Plan) -> Result<Self, String> {
        Subject::new(plan)
    }

    fn create(&mut self) -> F {
        match self.functions().another() {
            Ok(heap) => heap,
            Err(error) => {
                eprintln!("peers: {error}");
                std::process::exit(1)
            }
        }
    }

    #[inline(always)]
    unsafe fn destroy(&mut self, heap: F, left: impl Iterator<Item = Block>) {
        let left = left.map(|block| (block.address.as_ptr().cast(), block.size));
        // SAFETY: as the caller promises.
        unsafe { heap.destroy(left) };
    }

    #[inline(always)]
    fn allocate(&mut self, heap: &mut F, size: usize) -> Block {
        Block::new(heap.allocate(size).cast(), size)
    }

    #[inline(always)]
    unsafe fn free(&mut self, heap: &mut F, block: Block) {
        // SAFETY: as the caller promises.
        unsafe { heap.free(block.address.as_ptr().cast(), block.size) };
    }

    #[inline(always)]
    unsafe fn reallocate(&mut self, heap: &mut F, block: Block, size: usize, how: Realloc) -> Block {
        if size <= block.size {
            return block;
        }
        let address = block.address.as_ptr().cast();
        // SAFETY: as the caller promises.
        let moved = unsafe {
            match how {
                Realloc::CopyExisting => heap.reallocate(address, block.size, size),
                Realloc::Uninitialized => {
                    heap.free(address, block.size);
                    heap.allocate(size)
                }
            }
        };
        Block::new(moved.cast(), size)
    }
}

/// One pool of memory for all.
impl Heaps for Rlsf {
    type Heap = ();

    fn start(plan: &Plan) -> Result<Self, String> {
        Subject::new(plan)
    }

    fn create(&mut self) {}

    #[inline(always)]
    unsafe fn destroy(&mut self, (): (), left: impl Iterator<Item = Block>) {
        left.for_each(|block| Subject::free(self, block));
    }

    #[inline(always)]
    fn allocate(&mut self, (): &mut (), size: usize) -> Block {
        Subject::allocate(self, size)
    }

    #[inline(always)]
    unsafe fn free(&mut self, (): &mut (), block: Block) {
        Subject::free(self, block);
    }

    #[inline(always)]
    unsafe fn reallocate(&mut self, (): &mut (), block: Block, size: usize, how: Realloc) -> Block {
        #[inline(never)]
        unsafe fn request(rlsf: &mut Rlsf, block: NonNull<u8>, size: usize) -> *mut u8 {
            // SAFETY: the alignment is a power of two, and sizes are below 4 GiB.
            let layout = unsafe { Layout::from_size_align_unchecked(size, Rlsf::ALIGN) };
            // SAFETY: as the caller promises; all blocks have this alignment.
            unsafe { rlsf.tlsf().reallocate(block, layout) }.map_or(ptr::null_mut(), NonNull::as_ptr)
        }
        if size <= block.size {
            return block;
        }
        match how {
            // SAFETY: as the caller promises.
            Realloc::CopyExisting => Block::new(unsafe { request(self, block.address, size) }, size),
            Realloc::Uninitialized => {
                Subject::free(self, block);
                Subject::allocate(self, size)
            }
        }
    }
}
