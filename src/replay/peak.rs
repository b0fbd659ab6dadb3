//! What the allocator's windows look like when the plan holds the most bytes.

use core::ptr::NonNull;

use super::error::Error;
use super::memory::filled;
use super::plan::Plan;
use super::subject::Subject;
use crate::{Allocator, Occupancy, WindowState};

/// Bytes of a unit of the default allocator.
const UNIT: usize = 64;

/// Runs a plan up to the first moment at which it holds the most bytes, and looks at the windows. Blocks that lie in no
/// window, having memory of their own, are shown as windows with one block.
///
/// # Errors
/// [`Error::OutOfMemory`], [`Error::NoMemory`].
pub fn windows_at_peak(plan: &Plan) -> Result<Vec<Occupancy>, Error> {
    let mut allocator = Allocator::new();
    let mut held = filled(None, plan.stream.slots, "the packets at the peak")?;
    for op in &plan.stream.ops[..plan.peak_op] {
        let slot: &mut Option<(NonNull<u8>, u32)> = &mut held[op.slot as usize];
        if let Some((block, _)) = slot.take() {
            // SAFETY: the block is live, and was taken out of its slot.
            unsafe { Subject::free(&mut allocator, block) };
        }
        if !op.is_free() {
            let block = Subject::allocate(&mut allocator, op.size);
            let block = block.ok_or(Error::OutOfMemory { subject: Allocator::NAME, size: op.size })?;
            *slot = Some((block, op.size));
        }
    }
    let mut windows = allocator.windows();
    let in_windows = windows.len();
    for (block, size) in held.into_iter().flatten() {
        let address = block.addr().get();
        let before = windows[..in_windows].partition_point(|window| window.address <= address);
        if windows[..before].last().is_some_and(|window| address < window.address + window.units * UNIT) {
            continue;
        }
        let units = (size as usize).div_ceil(UNIT);
        windows.push(Occupancy {
            address,
            units,
            live_units: units,
            bookkeeping: 0..0,
            blocks: core::iter::once(0..units).collect(),
            state: WindowState::Full,
        });
    }
    windows.sort_by_key(|window| window.address);
    // Dropping the allocator frees what is held.
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{Counts, Rule};
    use crate::workload::{Op, Stream};

    #[test]
    fn the_first_peak_is_shown() {
        let ops = vec![
            Op::allocate(0, 1000),
            Op::allocate(1, 500),
            Op::free(0),
            Op::allocate(2, 1000),
            Op::free(1),
            Op::free(2),
        ];
        let plan = Plan {
            stream: Stream { ops, slots: 3 },
            rule: Rule::Depth(2),
            counts: Counts::default(),
            copies: 1,
            packets: 3,
            bytes: 2500,
            smallest: 500,
            largest: 1000,
            peak_packets: 2,
            peak_bytes: 1500,
            peak_op: 2,
        };
        let windows = windows_at_peak(&plan).unwrap();
        let lengths: Vec<_> = windows.iter().flat_map(|window| &window.blocks).map(ExactSizeIterator::len).collect();
        assert_eq!(lengths, [16, 8]);
    }
}
