//! What the allocator's windows look like when the plan holds the most bytes.

use core::ptr::NonNull;

use super::subject::Subject;
use super::{Error, Plan};
use crate::{Allocator, Occupancy};

/// Runs a plan up to the first moment at which it holds the most bytes, and looks at the windows.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn windows_at_peak(plan: &Plan) -> Result<Vec<Occupancy>, Error> {
    let mut allocator = Allocator::new();
    let mut held: Vec<Option<(NonNull<u8>, u32)>> = vec![None; plan.stream.slots];
    let mut live_bytes = 0;
    for op in &plan.stream.ops {
        let slot = &mut held[op.slot as usize];
        if let Some((block, size)) = slot.take() {
            live_bytes -= u64::from(size);
            // SAFETY: the block is live, and was taken out of its slot.
            unsafe { Subject::free(&mut allocator, block) };
        }
        if !op.is_free() {
            let block = Subject::allocate(&mut allocator, op.size);
            let block = block.ok_or(Error::OutOfMemory { subject: Allocator::NAME, size: op.size })?;
            *slot = Some((block, op.size));
            live_bytes += u64::from(op.size);
            if live_bytes == plan.peak_bytes {
                break;
            }
        }
    }
    // Dropping the allocator frees what is held.
    Ok(allocator.windows())
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
        };
        let windows = windows_at_peak(&plan).unwrap();
        let lengths: Vec<_> = windows.iter().flat_map(|window| &window.blocks).map(ExactSizeIterator::len).collect();
        assert_eq!(lengths, [16, 8]);
    }
}
