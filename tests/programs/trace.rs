//! Any bytes as a capture or a trace: the parser must take them or say what is wrong, and what it takes can be planned.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::LazyLock;

use pktalloc::replay::{MAX_PACKET_BYTES, Options, Packet, Plan, ReadOptions, Rule, Trace};

/// Where the bytes become a file: in memory where the system has such a place.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let in_memory = PathBuf::from("/dev/shm");
    let folder = if in_memory.is_dir() { in_memory } else { std::env::temp_dir() };
    folder.join(format!("pktalloc-fuzz-{}.trace", std::process::id()))
});

/// Reads the bytes as a file of any format, and lays out what was read.
pub fn run(bytes: &[u8]) {
    fs::write(&*FILE, bytes).expect("a temporary file");
    let mut progress = |_, _, _| ControlFlow::Continue(());
    let trace = match Trace::load(&FILE, ReadOptions::default(), &mut progress) {
        Ok(trace) => trace,
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty() && message.lines().count() == 1, "{message:?}");
            return;
        }
    };
    let packets = trace.packets();
    assert!(packets.is_sorted_by_key(Packet::arrival) && packets[0].arrival() == 0);
    assert!(packets.iter().all(|packet| packet.size() <= MAX_PACKET_BYTES));
    for rule in [None, Some(Rule::Departure), Some(Rule::Depth(3)), Some(Rule::Delay(1000))] {
        let Ok(plan) = Plan::new(&trace, &Options { rule, copies: 2 }, &mut progress) else {
            continue;
        };
        assert_eq!(plan.packets, 2 * packets.len() as u64);
        assert_eq!(plan.stream.check(), Ok(()));
        let freed = plan.stream.ops.iter().filter(|op| op.is_free()).count();
        assert_eq!(2 * freed, plan.stream.ops.len(), "a packet is left");
    }
}
