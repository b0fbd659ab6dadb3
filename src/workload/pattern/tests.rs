use super::{ParsePatternError, Pattern, Queue};
use crate::workload::{Cycle, Op, Sizes};

fn queue(pattern: Pattern, depth: u32) -> Queue {
    Queue { sizes: Sizes::Uniform, pattern, depth, seed: 1 }
}

/// Runs a cycle and calls `leaves(age rank, pairs lived)` for each packet that leaves in `rounds` of the steady part;
/// the age rank is the number of older packets that stay.
fn observe(cycle: &Cycle, rounds: usize, mut leaves: impl FnMut(usize, usize)) {
    // Arrival numbers of the live packets in ascending order, and of the packet in each slot.
    let mut live: Vec<usize> = Vec::new();
    let mut slots = vec![0; cycle.slots];
    let mut arrivals = 0;
    for (at, &op) in cycle.unroll(rounds).ops.iter().enumerate() {
        let slot = &mut slots[op.slot as usize];
        if op.is_free() {
            let rank = live.binary_search(slot).expect("the packet is live");
            live.remove(rank);
            if at >= cycle.fill.len() {
                leaves(rank, arrivals - *slot);
            }
        } else {
            live.push(arrivals);
            *slot = arrivals;
            arrivals += 1;
        }
    }
}

#[test]
fn every_cycle_can_be_repeated_and_keeps_its_depth() {
    for pattern in Pattern::ALL {
        for depth in [2, 6, 30, 32, 34, 64, 1024] {
            let cycle = queue(pattern, depth).cycle();
            assert_eq!(cycle.check(), Ok(()), "{pattern} {depth}");
            assert_eq!(cycle.unroll(2).check(), Ok(()), "{pattern} {depth}");
            assert!(cycle.pairs() >= Queue::PAIRS as usize, "{pattern} {depth}");
            let allocations = cycle.steady.iter().filter(|op| !op.is_free()).count();
            assert_eq!(allocations, cycle.pairs(), "{pattern} {depth}");
            let filled = if pattern == Pattern::Burst { 0 } else { depth as usize };
            assert_eq!(cycle.fill.len(), filled, "{pattern} {depth}");
        }
    }
}

#[test]
fn one_enters_for_each_that_leaves() {
    for pattern in [Pattern::Fifo, Pattern::Reorder, Pattern::Straggler, Pattern::Random] {
        let cycle = queue(pattern, 64).cycle();
        for pair in cycle.steady.chunks(2) {
            assert!(pair[0].is_free() && !pair[1].is_free(), "{pattern}");
        }
    }
}

#[test]
fn sizes_depend_on_the_arrival_alone() {
    let sizes = |pattern| {
        let cycle = queue(pattern, 64).cycle();
        let enter = cycle.fill.iter().chain(&cycle.steady).filter(|op| !op.is_free());
        enter.map(|op| op.size).take(100_000).collect::<Vec<_>>()
    };
    for pattern in Pattern::ALL {
        assert_eq!(sizes(pattern), sizes(Pattern::Fifo), "{pattern}");
    }
}

#[test]
fn fifo_frees_the_oldest() {
    observe(&queue(Pattern::Fifo, 64).cycle(), 2, |rank, lived| assert_eq!((rank, lived), (0, 64)));
}

#[test]
fn reorder_frees_any_of_the_32_oldest() {
    // Two rounds: the second must find the packets as the first did.
    let mut counts = [0_u32; 32];
    let mut longest = 0;
    observe(&queue(Pattern::Reorder, 64).cycle(), 2, |rank, lived| {
        counts[rank] += 1;
        longest = longest.max(lived);
    });
    let expected = f64::from(counts.iter().sum::<u32>()) / 32.0;
    assert!(counts.iter().all(|&count| (f64::from(count) / expected - 1.0).abs() < 0.1), "{counts:?}");
    assert!(longest <= 64 + 512, "{longest}");
}

#[test]
fn stragglers_are_one_percent_and_live_a_hundred_times_as_long() {
    let cycle = queue(Pattern::Straggler, 64).cycle();
    let (mut stragglers, mut straggler_pairs, mut ordinary_pairs) = (0_u32, 0, 0);
    let mut observed = 0_u32;
    observe(&cycle, 2, |_, lived| {
        observed += 1;
        // The first round also frees the fill, whose packets have only just come.
        if observed as usize <= cycle.pairs() {
            return;
        }
        if lived > 1000 {
            stragglers += 1;
            straggler_pairs += lived;
        } else {
            ordinary_pairs += lived;
        }
    });
    let pairs = observed / 2;
    assert_eq!(stragglers * 100, pairs);
    let ratio =
        straggler_pairs as f64 / f64::from(stragglers) / (ordinary_pairs as f64 / f64::from(pairs - stragglers));
    assert!((ratio - 99.0).abs() < 1.0, "{ratio}");
}

#[test]
fn straggler_slots_are_used_in_turn_across_rounds() {
    let cycle = queue(Pattern::Straggler, 64).cycle();
    let (mut ordinary, mut stragglers) = (0, 0);
    for op in cycle.steady.iter().chain(&cycle.steady).filter(|op| op.is_free()) {
        let (turn, slot) = if op.slot < 32 { (&mut ordinary, op.slot) } else { (&mut stragglers, op.slot - 32) };
        assert_eq!(slot, *turn % 32);
        *turn += 1;
    }
}

#[test]
fn sack_frees_in_bursts_and_holds_two_percent() {
    let cycle = queue(Pattern::Sack, 1024).cycle();
    // A run of frees is a burst less the held packets, plus those held two rounds before.
    let bursts: Vec<usize> = cycle.steady.chunk_by(|a, b| a.is_free() == b.is_free()).map(<[Op]>::len).collect();
    let mean = cycle.pairs() as f64 / (bursts.len() as f64 / 2.0);
    assert!((mean - 33.0).abs() < 1.0, "{mean}");
    assert!(bursts.iter().all(|&burst| burst <= 64 + 8), "{:?}", bursts.iter().max());

    let (mut late, mut all, mut oldest_first) = (0_u32, 0_u32, 0_u32);
    observe(&cycle, 2, |rank, lived| {
        all += 1;
        late += u32::from(lived > 1024);
        oldest_first += u32::from(rank == 0);
    });
    let share = f64::from(late) / f64::from(all);
    assert!((share - 0.02).abs() < 0.002, "{share}");
    assert!(oldest_first < all, "held packets are passed over");
}

#[test]
fn burst_fills_and_drains_in_order() {
    let cycle = queue(Pattern::Burst, 64).cycle();
    for burst in cycle.steady.chunks(128) {
        assert!(burst[..64].iter().enumerate().all(|(slot, op)| op.slot as usize == slot && !op.is_free()));
        assert!(burst[64..].iter().enumerate().all(|(slot, op)| op.slot as usize == slot && op.is_free()));
    }
}

#[test]
fn random_frees_any() {
    let mut counts = [0_u32; 64];
    observe(&queue(Pattern::Random, 64).cycle(), 1, |rank, _| counts[rank] += 1);
    assert!(counts.iter().all(|&count| (3456..=4736).contains(&count)), "{counts:?}");
}

#[test]
fn a_relay_keeps_one_of_so_many_for_so_long() {
    let (one_in, depth) = (50, 64);
    let cycle = queue(Pattern::Relay { one_in }, depth).cycle();
    let (mut stayed, mut passed) = (0, 0);
    observe(&cycle, 2, |rank, lived| {
        // `lived` counts the packet itself. What is passed on sees one more come, and the last of a round none. The
        // fill stays for its own turn.
        if lived > 2 {
            assert_eq!(rank, 0);
            assert!(lived <= (depth * one_in) as usize + 1, "{lived}");
            stayed += usize::from(lived == (depth * one_in) as usize + 1);
        } else {
            passed += 1;
        }
    });
    let (pairs, one_in, depth) = (2 * cycle.pairs(), one_in as usize, depth as usize);
    assert_eq!(passed, pairs - pairs / one_in);
    assert_eq!(stayed, pairs / one_in - depth);
}

#[test]
fn interleaved_queues_are_served_in_bursts_and_each_in_order() {
    let cycle = queue(Pattern::Interleaved, 2048).cycle();
    assert_eq!(cycle.pairs(), Queue::PAIRS as usize);
    let mut oldest = [0; 32];
    let mut bursts = [0_u32; 17];
    let (mut changes, mut last) = (0_u32, 32);
    for run in cycle.steady.chunk_by(|a, b| a.is_free() == b.is_free()) {
        if !run[0].is_free() {
            continue;
        }
        let queue = run[0].slot % 32;
        changes += u32::from(queue != last);
        last = queue;
        bursts[run.len()] += 1;
        for op in run {
            assert_eq!(op.slot, queue + 32 * oldest[queue as usize]);
            oldest[queue as usize] = (oldest[queue as usize] + 1) % 64;
        }
    }
    // Bursts of all lengths, and another queue nearly each time.
    let all: u32 = bursts.iter().sum();
    assert!(
        bursts[1..].iter().all(|&count| (f64::from(count) / f64::from(all) * 16.0 - 1.0).abs() < 0.1),
        "{bursts:?}"
    );
    assert!(f64::from(changes) / f64::from(all) > 0.95, "{changes} of {all}");
}

#[test]
#[should_panic(expected = "of a relay one packet of 2 to 200 stays, not of 1")]
fn a_relay_in_which_all_stay_is_refused() {
    let _ = queue(Pattern::Relay { one_in: 1 }, 64).cycle();
}

#[test]
fn the_seed_changes_sizes_and_choices() {
    let random = |seed| Queue { seed, ..queue(Pattern::Random, 64) }.cycle();
    assert_eq!(random(1), random(1));
    assert_ne!(random(1), random(2));
}

#[test]
fn names_are_read_as_they_are_written() {
    for pattern in Pattern::ALL {
        assert_eq!(pattern.to_string().parse(), Ok(pattern));
    }
    assert_eq!("relay-7".parse(), Ok(Pattern::Relay { one_in: 7 }));
    for name in ["relay", "relay-1", "relay-201", "relay-x"] {
        assert_eq!(name.parse::<Pattern>(), Err(ParsePatternError(name.to_owned())));
    }
    assert_eq!("lifo".parse::<Pattern>(), Err(ParsePatternError("lifo".to_owned())),);
    assert_eq!(
        "lifo".parse::<Pattern>().unwrap_err().to_string(),
        "pattern \"lifo\": use one of fifo, reorder, straggler, sack, burst, random, relay-50, interleaved",
    );
}

#[test]
#[should_panic(expected = "a queue's depth is an even number from 2 to 16777216, not 63")]
fn an_odd_depth_is_refused() {
    let _ = queue(Pattern::Fifo, 63).cycle();
}

/// The streams as they were when figures were first published. A change here makes all published figures incomparable.
#[test]
fn streams_are_pinned() {
    let expected = [
        ("fifo 1000 64", 0x58D7_6542_B263_9525),
        ("fifo 1000 1024", 0xDF9E_DE2D_1834_1825),
        ("fifo 1400 64", 0x4105_C90A_46CD_CCE5),
        ("fifo 1400 1024", 0xF6EF_FCC8_1FA7_0225),
        ("fifo uniform 64", 0xC0BC_F563_FC5D_71DC),
        ("fifo uniform 1024", 0x454F_3C4B_B4A0_37CA),
        ("fifo imix 64", 0x0426_671C_1726_5C61),
        ("fifo imix 1024", 0xD864_CC46_09E2_6211),
        ("reorder 1000 64", 0x22F1_A2F5_B8BF_176D),
        ("reorder 1000 1024", 0x5385_2ACF_D57C_E131),
        ("reorder 1400 64", 0x6B60_FEC8_2831_C529),
        ("reorder 1400 1024", 0x2ABA_2D17_03FF_5D35),
        ("reorder uniform 64", 0x1915_079A_5727_033F),
        ("reorder uniform 1024", 0xC5AA_868D_2897_2872),
        ("reorder imix 64", 0x49EE_C402_3BB9_784F),
        ("reorder imix 1024", 0xB300_EE3E_3EBD_7851),
        ("straggler 1000 64", 0x82AF_EFC6_4E22_A639),
        ("straggler 1000 1024", 0x8069_6BAC_7A44_07DD),
        ("straggler 1400 64", 0x24FE_5DBF_0F2E_1EF5),
        ("straggler 1400 1024", 0x3FDA_D480_7666_F3F9),
        ("straggler uniform 64", 0x6795_5429_B188_5C19),
        ("straggler uniform 1024", 0x5FF6_31AA_4745_4783),
        ("straggler imix 64", 0x70F1_2A60_4AA5_3113),
        ("straggler imix 1024", 0x3AE3_F2B8_2496_6F41),
        ("sack 1000 64", 0x460B_2832_9417_03F5),
        ("sack 1000 1024", 0x06BE_A664_ACEC_C981),
        ("sack 1400 64", 0xFDD4_CB39_3062_B6A1),
        ("sack 1400 1024", 0x3A02_B044_F3DE_11B9),
        ("sack uniform 64", 0xDAD1_3CB2_9369_0425),
        ("sack uniform 1024", 0x49BA_9B20_EC30_497F),
        ("sack imix 64", 0x15C4_B890_F8A4_9363),
        ("sack imix 1024", 0x3ACA_4378_CB1F_ABE7),
        ("burst 1000 64", 0x32DE_54AB_3022_2325),
        ("burst 1000 1024", 0x0035_9ED1_25AA_2325),
        ("burst 1400 64", 0xB59F_C568_7D9E_2325),
        ("burst 1400 1024", 0xE4E1_8B9A_1894_2325),
        ("burst uniform 64", 0xB8E4_6366_C2A3_62A6),
        ("burst uniform 1024", 0xF36C_A54E_2D3F_8BDE),
        ("burst imix 64", 0x62AE_36AA_2187_88F0),
        ("burst imix 1024", 0xE006_350E_7544_EE40),
        ("random 1000 64", 0x7CA9_5EF8_B44D_EE05),
        ("random 1000 1024", 0xA033_AE2B_B9E7_BF89),
        ("random 1400 64", 0x0CE2_1377_A142_16C5),
        ("random 1400 1024", 0x8B30_F857_0174_26D1),
        ("random uniform 64", 0xF31A_7AE4_CDC4_057C),
        ("random uniform 1024", 0x7125_BCE8_3033_C346),
        ("random imix 64", 0x1B3C_710F_406A_4E41),
        ("random imix 1024", 0x7296_2B1F_E20A_C835),
        ("relay-50 1000 64", 0x1263_C32B_9209_F579),
        ("relay-50 1000 1024", 0xF14D_EBF1_2289_D979),
        ("relay-50 1400 64", 0xA7B6_BA01_E1EE_C999),
        ("relay-50 1400 1024", 0xF129_0228_11AD_64E9),
        ("relay-50 uniform 64", 0xD8B5_AF69_E6CB_D3CD),
        ("relay-50 uniform 1024", 0x0D8E_05C9_1EA7_8622),
        ("relay-50 imix 64", 0x8C22_0D27_FCD4_AFEA),
        ("relay-50 imix 1024", 0xDDB3_0EAB_CAC7_2776),
        ("interleaved 1000 64", 0x18A0_6E4D_EC1A_292D),
        ("interleaved 1000 1024", 0x6238_A50F_E297_1FB1),
        ("interleaved 1400 64", 0x96B9_5146_4B98_1465),
        ("interleaved 1400 1024", 0x43E7_0458_F5B1_69E9),
        ("interleaved uniform 64", 0x4BD5_37E7_1529_37E4),
        ("interleaved uniform 1024", 0x7F21_7B08_07A4_BC9A),
        ("interleaved imix 64", 0xCE77_8CA9_6E90_8C95),
        ("interleaved imix 1024", 0x8146_645E_DAFF_5C91),
    ];
    let mut seen = Vec::new();
    for pattern in Pattern::ALL {
        for sizes in Sizes::SYNTHETIC {
            for depth in [64, 1024] {
                let name = format!("{pattern} {sizes} {depth}");
                let cycle = Queue { sizes: sizes.clone(), pattern, depth, seed: 1 }.cycle();
                seen.push((name, cycle.checksum()));
            }
        }
    }
    let seen: Vec<_> = seen.iter().map(|(name, checksum)| (name.as_str(), *checksum)).collect();
    assert_eq!(seen, expected);
}
