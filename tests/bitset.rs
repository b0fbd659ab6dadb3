//! The public bitset against a plain `Vec<bool>`.

use std::ops::Range;

use pktalloc::bitset::Bitset;
use proptest::prelude::*;

/// The first set bits side by side in `range`, all of them, that are at least `len`.
fn first_run(model: &[bool], range: Range<usize>, len: usize) -> Option<Range<usize>> {
    let is_first = |&bit: &usize| model[bit] && (bit == range.start || !model[bit - 1]);
    let run_from = |start: usize| start..(start..range.end).find(|&bit| !model[bit]).unwrap_or(range.end);
    range.clone().filter(is_first).map(run_from).find(|run| run.len() >= len)
}

proptest! {
    #[test]
    fn every_operation_agrees_with_a_vector_of_bools(
        bits in 0usize..300,
        steps in prop::collection::vec((0u8..4, any::<usize>(), any::<usize>()), 0..60),
    ) {
        let mut set = Bitset::new(bits);
        let mut model = vec![false; bits];
        prop_assert_eq!(set.len(), bits);
        prop_assert_eq!(set.is_empty(), bits == 0);
        for (step, a, b) in steps {
            let (a, b) = (a % (bits + 1), b % (bits + 1));
            let range = a.min(b)..a.max(b);
            match step {
                0 if a < bits => { set.set(a); model[a] = true; }
                1 if a < bits => { set.clear(a); model[a] = false; }
                2 => { set.set_range(range.clone()); model[range.clone()].fill(true); }
                _ => { set.clear_range(range.clone()); model[range.clone()].fill(false); }
            }
            if a < bits {
                prop_assert_eq!(set.test(a), model[a]);
            }
            prop_assert_eq!(set.count_range(range.clone()), model[range.clone()].iter().filter(|&&bit| bit).count());
            prop_assert_eq!(set.first_clear_from(a), (a..bits).find(|&bit| !model[bit]));
            prop_assert_eq!(set.first_set_in(range.clone()), range.clone().find(|&bit| model[bit]));
            for len in 1..4 {
                prop_assert_eq!(set.first_set_run_in(range.clone(), len), first_run(&model, range.clone(), len));
            }
        }
    }
}

#[test]
fn every_range_of_three_words_is_set_cleared_and_counted_exactly() {
    const BITS: usize = 192;
    let mut set = Bitset::new(BITS);
    assert!(!set.is_empty() && Bitset::new(0).is_empty());
    for start in 0..=BITS {
        for end in start..=BITS {
            set.set_range(start..end);
            assert_eq!(set.count_range(0..BITS), end - start, "{start}..{end}");
            assert_eq!(set.count_range(start..end), end - start);
            assert_eq!(set.first_set_in(0..BITS), (start < end).then_some(start));
            let clear = if start > 0 { Some(0) } else { (end < BITS).then_some(end) };
            assert_eq!(set.first_clear_from(0), clear, "{start}..{end}");
            set.clear_range(start..end);
            assert_eq!(set.first_set_in(0..BITS), None, "{start}..{end}");
        }
    }
}

#[test]
#[should_panic(expected = "bit 100 is out of range, there are 100")]
fn a_bit_out_of_range_is_named() {
    Bitset::new(100).set(100);
}

#[test]
#[should_panic(expected = "bits 90..101 are out of range, there are 100")]
fn a_range_out_of_range_is_named() {
    Bitset::over([0u64; 2], 100).set_range(90..101);
}

#[test]
#[should_panic(expected = "129 bits do not fit into 128")]
fn too_few_words_are_refused() {
    let _ = Bitset::over([0u64; 2], 129);
}
