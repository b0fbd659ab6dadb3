//! Segment offload as arithmetic: where a joined datagram is cut, and which datagrams can go out joined. No system
//! calls.

use core::ops::Range;

/// The most datagrams that go out as one: what kernels before 6.2 take.
pub(crate) const MOST_SEGMENTS: usize = 64;
/// The most bytes that go out as one: what fits a UDP datagram over IPv4.
pub(crate) const MOST_BYTES: usize = 65_507;

/// The part of `length` bytes that the segment from `start` on takes. A joined datagram is cut into parts of `segment`
/// bytes, the last of which is what is left; one that was not joined is a single part, also when it is empty.
///
/// `None` behind the last one.
pub(crate) fn segment_at(length: usize, segment: Option<usize>, start: usize) -> Option<Range<usize>> {
    if start >= length {
        // An empty datagram has one part, at 0.
        return (length == 0 && start == 0).then_some(0..0);
    }
    match segment {
        Some(segment) if segment > 0 => Some(start..length.min(start.saturating_add(segment))),
        _ => Some(start..length),
    }
}

/// How many parts [`segment_at`] makes of `length` bytes.
pub(crate) fn count_segments(length: usize, segment: Option<usize>) -> usize {
    match segment {
        Some(segment) if segment > 0 => length.div_ceil(segment).max(1),
        _ => 1,
    }
}

/// How many datagrams, from the first of `lengths` on, can go out as one: all as long as the first, but for the last,
/// which may be shorter and not empty. `lengths` ends where another address begins. At least 1, unless there is none.
pub(crate) fn joinable(lengths: impl IntoIterator<Item = usize>) -> usize {
    let mut lengths = lengths.into_iter();
    let Some(segment) = lengths.next() else { return 0 };
    if segment == 0 || segment > usize::from(u16::MAX) {
        return 1;
    }
    let (mut count, mut bytes) = (1, segment);
    for length in lengths.take(MOST_SEGMENTS - 1) {
        if length == 0 || length > segment || bytes + length > MOST_BYTES {
            break;
        }
        count += 1;
        bytes += length;
        if length < segment {
            break;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(length: usize, segment: Option<usize>) -> Vec<Range<usize>> {
        let mut parts: Vec<Range<usize>> = Vec::new();
        while let Some(part) = segment_at(length, segment, parts.last().map_or(0, |last| last.end)) {
            if parts.last() == Some(&part) {
                break;
            }
            parts.push(part);
        }
        parts
    }

    #[test]
    fn joined_datagrams_are_cut_where_they_were_joined() {
        assert_eq!(cut(250, Some(100)), [0..100, 100..200, 200..250]);
        assert_eq!(cut(200, Some(100)), [0..100, 100..200]);
        assert_eq!(cut(99, Some(100)), vec![0..99]);
        assert_eq!(cut(250, None), vec![0..250]);
    }

    #[test]
    fn an_empty_datagram_is_one_and_a_segment_of_nothing_cuts_nothing() {
        assert_eq!((segment_at(0, None, 0), count_segments(0, None)), (Some(0..0), 1));
        assert_eq!((segment_at(0, Some(9), 0), count_segments(0, Some(9))), (Some(0..0), 1));
        assert_eq!((segment_at(7, Some(0), 0), count_segments(7, Some(0))), (Some(0..7), 1));
        assert_eq!(segment_at(7, Some(0), 7), None);
    }

    #[test]
    fn what_can_go_out_as_one_is_equal_but_for_a_shorter_last() {
        assert_eq!(joinable([]), 0);
        assert_eq!(joinable([1200, 1200, 1200]), 3);
        assert_eq!(joinable([1200, 1200, 60, 1200]), 3);
        assert_eq!(joinable([60, 1200]), 1);
        assert_eq!(joinable([1200, 0, 1200]), 1);
        assert_eq!(joinable([0, 0]), 1);
        assert_eq!(joinable([100; 200]), MOST_SEGMENTS);
        assert_eq!(joinable([1400; 64]), MOST_BYTES / 1400);
        assert_eq!(joinable([70_000, 70_000]), 1);
    }

    proptest! {
        #[test]
        fn the_parts_cover_every_byte_once(length in 0_usize..70_000, segment in proptest::option::of(0_usize..2000)) {
            let parts = cut(length, segment);
            prop_assert_eq!(parts.len(), count_segments(length, segment));
            prop_assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), length);
            prop_assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start && pair[1].len() <= pair[0].len()));
        }

        #[test]
        fn what_goes_out_as_one_comes_apart_as_it_was(
            lengths in proptest::collection::vec(prop_oneof![Just(0_usize), Just(60), Just(1200), 1..9000_usize], 1..100)
        ) {
            let mut rest = &lengths[..];
            while !rest.is_empty() {
                let (run, others) = rest.split_at(joinable(rest.iter().copied()));
                let bytes = run.iter().sum::<usize>();
                prop_assert!(run.len() <= MOST_SEGMENTS && (run.len() == 1 || bytes <= MOST_BYTES));
                let parts = cut(bytes, Some(run[0]));
                prop_assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), run.to_vec());
                rest = others;
            }
        }
    }
}
