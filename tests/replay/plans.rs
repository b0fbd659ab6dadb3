//! From packets to allocations and frees.

use pktalloc::replay::{Counts, DEFAULT_DEPTH, Options, Plan, Rule};

use crate::support::{link, plan, proceed, sizes, trace};

#[test]
fn a_depth_holds_as_many_packets() {
    let trace = trace("# dt_us,size\n0,10\n0,20\n0,30\n5,40\n");
    let two = plan(&trace, Some(Rule::Depth(2)));
    assert_eq!(sizes(&two), [10, 20, -10, 30, -20, 40, -30, -40]);
    assert_eq!((two.packets, two.bytes, two.smallest, two.largest), (4, 100, 10, 40));
    assert_eq!((two.peak_packets, two.peak_bytes), (2, 70));
    assert_eq!(two.counts, Counts { recorded: 0, forever: 0, ruled: 4 });
    assert_eq!(sizes(&plan(&trace, Some(Rule::Depth(1)))), [10, -10, 20, -20, 30, -30, 40, -40]);
    assert_eq!(sizes(&plan(&trace, Some(Rule::Depth(u32::MAX)))), [10, 20, 30, 40, -10, -20, -30, -40]);
}

#[test]
fn a_delay_holds_packets_in_time() {
    let trace = trace("# dt_us,size\n0,10\n5,20\n5,30\n5,40\n");
    // The one that leaves when another comes leaves after it.
    assert_eq!(sizes(&plan(&trace, Some(Rule::Delay(5_000)))), [10, 20, -10, 30, -20, 40, -30, -40]);
    assert_eq!(sizes(&plan(&trace, Some(Rule::Delay(4_999)))), [10, -10, 20, -20, 30, -30, 40, -40]);
    assert_eq!(sizes(&plan(&trace, Some(Rule::Delay(u64::MAX)))), [10, 20, 30, 40, -10, -20, -30, -40]);
}

#[test]
fn recorded_lifetimes_come_first_and_the_rule_is_for_the_rest() {
    // 10 leaves at 12 us, 30 never, 40 at 16; 20 and 50 as the rule says.
    let trace = trace("# dt_us,size,life_us,kind\n0,10,12,A\n5,20,-1,A\n5,30,-1,N\n5,40,1,L\n5,50,-1,A\n");
    let departure = plan(&trace, None);
    assert_eq!(departure.rule, Rule::Departure);
    assert_eq!(departure.counts, Counts { recorded: 2, forever: 1, ruled: 2 });
    assert_eq!(sizes(&departure), [10, 20, -20, 30, -10, 40, -40, 50, -50, -30]);
    assert_eq!((departure.peak_packets, departure.peak_bytes), (2, 80));
    assert_eq!(sizes(&plan(&trace, Some(Rule::Depth(2)))), [10, 20, 30, -20, -10, 40, -40, 50, -50, -30]);
    assert_eq!(sizes(&plan(&trace, Some(Rule::Delay(11_000)))), [10, 20, 30, -10, 40, -20, -40, 50, -50, -30]);
}

#[test]
fn a_trace_without_lifetimes_is_held_by_depth() {
    let rows = "1,64\n".repeat(DEFAULT_DEPTH as usize + 5);
    let plan = plan(&trace(&format!("# dt_us,size\n{rows}")), None);
    assert_eq!(plan.rule, Rule::Depth(DEFAULT_DEPTH));
    assert_eq!(plan.peak_packets, u64::from(DEFAULT_DEPTH));
}

#[test]
fn a_link_carries_off_one_packet_at_a_departure() {
    // Departures at 1, 1, 4 ms; again at 5, 5, 8 ms.
    let link = link("# dt_ms,count\n1,2\n1,0\n2,1\n").unwrap();
    let trace = trace("# dt_us,size,life_us\n0,10,1\n0,20,1\n500,30,-1\n1500,40,1\n2500,50,1\n");
    // 10 and 20 leave at 1 ms, 30 at 4, 40 (here since 2) at 5, 50 (here since 4.5) at 5.
    let plan = plan(&trace, Some(Rule::Link(link)));
    assert_eq!(sizes(&plan), [10, 20, 30, -10, -20, 40, -30, 50, -40, -50]);
    assert_eq!(plan.counts, Counts { recorded: 0, forever: 0, ruled: 5 });
    assert_eq!((plan.peak_packets, plan.peak_bytes), (3, 90));
}

#[test]
fn links_that_carry_nothing_are_refused() {
    let message = |text: &str| link(text).unwrap_err().to_string().split_once(": ").unwrap().1.to_owned();
    assert_eq!(message("# dt_ms,count\n"), "holds no departures");
    assert_eq!(message("# dt_ms,count\n5,0\n"), "holds no departures");
    assert_eq!(message("# dt_ms,count\n0,5\n"), "line 2: all departures are at the same time");
    assert_eq!(message("# dt_ms,count\n0,5\n1,-1\n"), "line 3: count is `-1`; allowed: 0 or more");
    assert_eq!(message("# dt_us,size\n0,5\n"), "not the departures of a link (CSV that starts with `# dt_ms,count`)");
    assert_eq!(message("hello"), "not the departures of a link (CSV that starts with `# dt_ms,count`)");
}

#[test]
fn copies_are_shifted_evenly() {
    // One copy lasts 0, 10, 20 and 10 more until it would repeat: 30. The second runs 15 later: 30 at 5, 10 at 15, 20
    // at 25.
    let text = "# dt_us,size\n0,10\n10,20\n10,30\n";
    let options = Options { rule: Some(Rule::Depth(100)), copies: 2 };
    let two = Plan::new(&trace(text), &options, &mut proceed).unwrap();
    assert_eq!(sizes(&two)[..6], [10, 30, 20, 10, 30, 20]);
    assert_eq!((two.packets, two.bytes, two.peak_packets, two.copies), (6, 120, 6, 2));
    let options = Options { rule: Some(Rule::Delay(0)), copies: 3 };
    let three = Plan::new(&trace("# dt_us,size\n0,10\n"), &options, &mut proceed).unwrap();
    assert_eq!((three.packets, three.bytes), (3, 30));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let trace = trace("# dt_us,size\n0,10\n0,16777216\n");
    let message = |rule, copies| Plan::new(&trace, &Options { rule, copies }, &mut proceed).unwrap_err().to_string();
    assert_eq!(message(None, 0), "copies must be at least 1");
    assert_eq!(message(Some(Rule::Depth(0)), 1), "depth must be at least 1");
    assert_eq!(message(None, u32::MAX), "more than 16777216 packets, copies included: too many to replay at once");
    let held = message(Some(Rule::Depth(1_000_000)), 1000);
    assert!(held.starts_with("more than 4294967296 bytes would be held at once"), "{held}");
}
