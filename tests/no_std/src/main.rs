//! Packets and collections without the standard library: its own panic handler and its own heap for the allocator's
//! tables. If anything brought the standard library in, its panic handler would be a second one, which does not build.

#![no_std]
#![no_main]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::{Cell, UnsafeCell};
use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use core::ptr::{self, NonNull};

use pktalloc::system::{Buffer, Role, System};
use pktalloc::{AllocError, Allocator, Config, FreeError};

// The C library starts the program and ends it; nothing else of it is used.
#[link(name = "c")]
unsafe extern "C" {
    fn abort() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // SAFETY: may be called at any time.
    unsafe { abort() }
}

/// What the `alloc` that comes with the toolchain names in its tables for unwinding, which never happens here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// The heap that `alloc` asks for: what it gives is never taken back, as on a target that only starts up once.
struct Heap {
    bytes: UnsafeCell<[MaybeUninit<u8>; HEAP_BYTES]>,
    used: Cell<usize>,
}

const HEAP_BYTES: usize = 64 * 1024;

// SAFETY: this program has one thread.
unsafe impl Sync for Heap {}

// SAFETY: what is handed out lies in `bytes` and is never handed out again.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.bytes.get().cast::<u8>();
        let offset = (start.addr() + self.used.get()).next_multiple_of(layout.align()) - start.addr();
        if layout.size() > HEAP_BYTES.saturating_sub(offset) {
            return ptr::null_mut();
        }
        self.used.set(offset + layout.size());
        start.wrapping_add(offset)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static HEAP: Heap = Heap { bytes: UnsafeCell::new([MaybeUninit::uninit(); HEAP_BYTES]), used: Cell::new(0) };

/// Four windows of 16 KiB.
#[repr(align(16384))]
struct Memory([MaybeUninit<u8>; 65_536]);

/// A system that refuses.
struct Nothing;

// SAFETY: it hands nothing out.
unsafe impl System for Nothing {
    fn allocate(&self, _: Layout, _: Role) -> Option<NonNull<u8>> {
        None
    }

    unsafe fn free(&self, _: NonNull<u8>, _: Layout, _: Role) {}
}

#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    // Made when this is compiled, as a static would be.
    let refused = const { Allocator::<64, 256, _>::new_in(Nothing) };
    if refused.allocate(100) != Err(AllocError::OutOfMemory) {
        return 1;
    }
    let mut memory = Memory([MaybeUninit::uninit(); 65_536]);
    let system = Buffer::new(&mut memory.0);
    let Ok(allocator) = Allocator::with_config_in(Config::<64, 256>::default(), system) else {
        return 1;
    };
    match exercise(&allocator) {
        Ok(()) if allocator.used_bytes() == 0 && allocator.integrity_check().is_ok() => 0,
        _ => 1,
    }
}

fn exercise(allocator: &Allocator<64, 256, Buffer<'_>>) -> Result<(), AllocError> {
    let mut queue = allocator_api2::vec::Vec::new_in(allocator);
    for tag in 0..30 {
        let (packet, ()) = allocator.packet_with(1500, |room| {
            room.append(&[tag; 900]);
            Ok::<_, AllocError>(())
        })?;
        queue.push(packet);
    }
    assert!(queue.iter().zip(0..).all(|(packet, tag)| *packet == [tag; 900]));
    queue.truncate(10);
    assert_eq!(allocator.packet(100_000).err(), Some(AllocError::OutOfMemory));
    let block = allocator.allocate(100)?.cast();
    // SAFETY: the block is live the first time; the second call finds out that it is not.
    let outcomes = unsafe { [allocator.try_free(block), allocator.try_free(block)] };
    assert!(matches!(outcomes, [Ok(()), Err(FreeError::DoubleFree { .. })]));
    Ok(())
}
