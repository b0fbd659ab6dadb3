//! The configuration space: any settings, over shapes from the smallest to the largest, and a program on what comes of
//! them. Settings that make no sense must be refused by name.

use pktalloc::{Allocator, Config, ConfigError};

use super::program::Program;
use super::shadow::Shadow;

/// What `Config` allows of either number of windows.
const MOST_WINDOWS: usize = 1 << 20;
/// Bytes that a program may hold.
const MOST_BYTES: u64 = 64 << 20;

/// Runs a program.
pub fn run(bytes: &[u8]) {
    let mut program = Program::new(bytes);
    let _ = start(&mut program);
}

fn start(program: &mut Program<'_>) -> Option<()> {
    match program.byte()? % 10 {
        0 => shaped::<16, 64>(program),
        1 => shaped::<16, 65_536>(program),
        2 => shaped::<32, 1024>(program),
        3 => shaped::<64, 64>(program),
        4 => shaped::<64, 2048>(program),
        5 => shaped::<64, 16_384>(program),
        6 => shaped::<128, 128>(program),
        7 => shaped::<1024, 512>(program),
        8 => shaped::<4096, 64>(program),
        _ => shaped::<256, 4096>(program),
    }
}

fn shaped<const UNIT: usize, const WINDOW_UNITS: usize>(program: &mut Program<'_>) -> Option<()> {
    let flags = program.byte()?;
    let (zero, check) = (flags & 1 != 0, flags & 2 != 0);
    let (preallocated, kept, limit) = (program.long()?, program.long()?, program.long()?);
    // Mostly numbers that make sense.
    let (preallocated, kept) = if flags & 128 == 0 { (preallocated % 9, kept % 70) } else { (preallocated, kept) };
    let limit = if flags & 64 == 0 { limit as u64 } else { (limit as u64).saturating_add(1 << 21) };
    let config = Config::<UNIT, WINDOW_UNITS>::default()
        .zero(zero)
        .check(check)
        .passthrough(flags & 4 != 0)
        .huge_pages(flags & 8 != 0)
        .preallocated_windows(preallocated)
        .keep_empty_windows(kept)
        .memory_limit(limit.min(MOST_BYTES));
    match Allocator::with_config(config) {
        Ok(allocator) => {
            assert!(preallocated <= MOST_WINDOWS && kept <= MOST_WINDOWS);
            Shadow::new(&allocator, zero).run(program);
        }
        Err(ConfigError::PreallocatedWindows { windows, most }) => {
            assert!(windows == preallocated && windows > most);
        }
        Err(ConfigError::KeepEmptyWindows { windows, most }) => assert!(windows == kept && windows > most),
        Err(ConfigError::MemoryLimit { bytes, least }) => assert!(bytes == limit.min(MOST_BYTES) && bytes < least),
        Err(other) => panic!("{other}"),
    }
    Some(())
}
