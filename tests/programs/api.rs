//! Programs of raw calls against one allocator. The first bytes choose its settings.

use pktalloc::{Allocator, Config};

use super::program::Program;
use super::shadow::Shadow;

/// Runs a program.
pub fn run(bytes: &[u8]) {
    let mut program = Program::new(bytes);
    let _ = start(&mut program);
}

fn start(program: &mut Program<'_>) -> Option<()> {
    let (flags, windows) = (program.byte()?, program.byte()?);
    let zero = flags & 1 != 0;
    let config = Config::<64, 256>::default()
        .zero(zero)
        .check(flags & 6 == 6)
        .passthrough(flags & 24 == 24)
        .preallocated_windows(usize::from(flags >> 6))
        .keep_empty_windows(usize::from(windows & 15))
        // A limit keeps every size away from the system that it could not serve.
        .memory_limit(20_480 << (windows >> 4 & 7));
    let allocator = Allocator::with_config(config).expect("a configuration that makes sense");
    Shadow::new(&allocator, zero).run(program);
    Some(())
}
