//! What the replay reads, what it makes of it, and what it says about what it cannot read.

use core::ops::ControlFlow;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use pktalloc::replay::{
    Counts, DEFAULT_DEPTH, Error, Fault, Format, Lifetime, Link, MAX_PACKET_BYTES, Options, Packet, Phase, Place, Plan,
    Rule, Trace, replay,
};
use pktalloc::workload::Op;
use proptest::prelude::*;

fn proceed(_: Phase, _: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A file that is removed when the test is done with it.
struct TestFile(PathBuf);

impl TestFile {
    fn new(bytes: &[u8]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // The name says nothing about what is in it, and should not matter.
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("replay-{}-{number}.txt", std::process::id()));
        fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

fn load(bytes: &[u8]) -> Result<Trace, Error> {
    Trace::load(&TestFile::new(bytes).0, &mut proceed)
}

/// Times and sizes of the packets of a file.
fn arrivals(bytes: &[u8]) -> Vec<(u64, u32)> {
    load(bytes).unwrap().packets().iter().map(|packet| (packet.arrival, packet.size)).collect()
}

/// What is wrong with a file, and where; checks that the message is one line that starts with the file's name.
fn fault(bytes: &[u8]) -> (Place, Fault) {
    let error = load(bytes).unwrap_err();
    let text = error.to_string();
    let Error::Fault { path, place, fault } = error else { panic!("{text}") };
    assert!(text.starts_with(&format!("{}: {place}: ", path.display())), "{text}");
    assert!(!text.contains('\n'), "{text}");
    (place, fault)
}

/// What is wrong with a file, in words.
fn complaint(bytes: &[u8]) -> String {
    fault(bytes).1.to_string()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}
use Order::{Big, Little};

/// Writes captures in either byte order.
#[derive(Clone)]
struct Writer {
    bytes: Vec<u8>,
    order: Order,
}

impl Writer {
    fn new(order: Order) -> Self {
        Self { bytes: Vec::new(), order }
    }

    fn number(mut self, number: u64, length: usize) -> Self {
        match self.order {
            Little => self.bytes.extend(&number.to_le_bytes()[..length]),
            Big => self.bytes.extend(&number.to_be_bytes()[8 - length..]),
        }
        self
    }

    fn u16(self, number: u16) -> Self {
        self.number(number.into(), 2)
    }

    fn u32(self, number: u32) -> Self {
        self.number(number.into(), 4)
    }

    fn u64(self, number: u64) -> Self {
        self.number(number, 8)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    fn pcap_header(self, magic: u32) -> Self {
        self.u32(magic).u16(2).u16(4).u32(0).u32(0).u32(65535).u32(1)
    }

    fn pcap_record(self, seconds: u32, fraction: u32, captured: u32, size: u32) -> Self {
        let data = vec![0xab; captured as usize];
        self.u32(seconds).u32(fraction).u32(captured).u32(size).raw(&data)
    }

    fn block(self, kind: u32, body: impl FnOnce(Self) -> Self) -> Self {
        let content = body(Self::new(self.order)).bytes;
        let padding = content.len().next_multiple_of(4) - content.len();
        let length = u32::try_from(content.len() + padding + 12).unwrap();
        self.u32(kind).u32(length).raw(&content).raw(&[0; 3][..padding]).u32(length)
    }

    fn section(self) -> Self {
        self.block(0x0a0d_0d0a, |body| body.u32(0x1a2b_3c4d).u16(1).u16(0).u64(u64::MAX))
    }

    fn interface(self, options: impl FnOnce(Self) -> Self) -> Self {
        self.block(1, |body| options(body.u16(1).u16(0).u32(0)).u16(0).u16(0))
    }

    fn option_resolution(self, resolution: u8) -> Self {
        self.u16(9).u16(1).raw(&[resolution, 0, 0, 0])
    }

    fn option_offset(self, seconds: i64) -> Self {
        self.u16(14).u16(8).u64(seconds.cast_unsigned())
    }

    fn ticks(self, ticks: u64) -> Self {
        self.u32((ticks >> 32) as u32).u32((ticks & 0xffff_ffff) as u32)
    }

    fn enhanced(self, interface: u32, ticks: u64, captured: u32, size: u32) -> Self {
        let data = vec![0xab; captured as usize];
        self.block(6, |body| body.u32(interface).ticks(ticks).u32(captured).u32(size).raw(&data))
    }

    fn simple(self, size: u32) -> Self {
        let data = vec![0xab; size as usize];
        self.block(3, |body| body.u32(size).raw(&data))
    }

    fn obsolete(self, interface: u16, ticks: u64, size: u32) -> Self {
        let data = vec![0xab; size as usize];
        self.block(2, |body| body.u16(interface).u16(7).ticks(ticks).u32(size).u32(size).raw(&data))
    }
}

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;

/// Two packets 1.5 s apart; of the second only 60 of 1500 bytes were kept.
fn pcap(order: Order) -> Writer {
    Writer::new(order).pcap_header(MICROSECONDS).pcap_record(100, 0, 64, 64).pcap_record(101, 500_000, 60, 1500)
}

fn pcapng(order: Order) -> Writer {
    let head = Writer::new(order).section().interface(|options| options);
    head.enhanced(0, 5_000_000, 61, 61).enhanced(0, 6_500_000, 60, 1500)
}

#[test]
fn pcap_is_read_in_both_byte_orders() {
    for order in [Little, Big] {
        let bytes = pcap(order).bytes;
        assert_eq!(arrivals(&bytes), [(0, 64), (1_500_000_000, 1500)]);
        assert_eq!(load(&bytes).unwrap().format(), Format::Pcap);
        let fine =
            Writer::new(order).pcap_header(NANOSECONDS).pcap_record(5, 999_999_999, 1, 1).pcap_record(6, 1, 2, 2);
        assert_eq!(arrivals(&fine.bytes), [(0, 1), (2, 2)]);
    }
}

#[test]
fn the_modified_pcap_has_longer_records() {
    let record =
        |writer: Writer, second| writer.u32(second).u32(0).u32(3).u32(3).u32(2).u16(0).raw(&[0, 0]).raw(b"abc");
    let bytes = record(record(Writer::new(Little).pcap_header(0xa1b2_cd34), 7), 9).bytes;
    assert_eq!(arrivals(&bytes), [(0, 3), (2_000_000_000, 3)]);
}

#[test]
fn pcapng_is_read_in_both_byte_orders() {
    for order in [Little, Big] {
        let bytes = pcapng(order).bytes;
        assert_eq!(arrivals(&bytes), [(0, 61), (1_500_000_000, 1500)]);
        assert_eq!(load(&bytes).unwrap().format(), Format::Pcapng);
    }
}

#[test]
fn every_interface_has_its_own_clock() {
    for order in [Little, Big] {
        let bytes = Writer::new(order)
            .section()
            .interface(|options| options.option_resolution(9).option_offset(10))
            .interface(|options| options.option_resolution(0x80 | 10))
            .interface(|options| options.option_resolution(0).option_offset(-5))
            .enhanced(0, 1, 4, 4)
            .enhanced(1, 10 * 1024 + 512, 5, 5)
            .enhanced(2, 16, 6, 6)
            .bytes;
        assert_eq!(arrivals(&bytes), [(0, 4), (499_999_999, 5), (999_999_999, 6)]);
    }
    let bytes = Writer::new(Little).section().interface(|options| options.option_resolution(39)).bytes;
    assert_eq!(complaint(&bytes), "if_tsresol is 39; allowed: 10^-0 to 10^-38, 2^-0 to 2^-127");
}

#[test]
fn sections_follow_one_another_with_interfaces_of_their_own() {
    let big = Writer::new(Big).section().interface(|options| options.option_resolution(3)).enhanced(0, 9_000, 8, 8);
    let bytes = pcapng(Little).raw(&big.bytes).bytes;
    assert_eq!(arrivals(&bytes), [(0, 61), (1_500_000_000, 1500), (4_000_000_000, 8)]);
    let orphan = Writer::new(Big).section().enhanced(0, 9_000, 8, 8);
    let byte = pcapng(Little).bytes.len() as u64 + 28;
    let (place, fault) = fault(&pcapng(Little).raw(&orphan.bytes).bytes);
    assert_eq!(place, Place::Packet { number: 3, byte });
    assert_eq!(fault.to_string(), "interface is 0; allowed: one of the 0 described before");
}

#[test]
fn simple_and_obsolete_packets_count() {
    for order in [Little, Big] {
        let bytes = pcapng(order).simple(30).obsolete(0, 7_000_000, 99).bytes;
        assert_eq!(arrivals(&bytes), [(0, 61), (1_500_000_000, 1500), (1_500_000_000, 30), (2_000_000_000, 99)]);
        let head = Writer::new(order).section().interface(|options| options).simple(30).simple(31);
        let bytes = head.enhanced(0, 5_000_000, 61, 61).enhanced(0, 6_500_000, 60, 60).bytes;
        assert_eq!(arrivals(&bytes), [(0, 30), (0, 31), (0, 61), (1_500_000_000, 60)]);
    }
}

#[test]
fn blocks_without_packets_are_passed_over_even_if_damaged() {
    let kinds = [4, 5, 9, 10, 0xbad, 0x4000_0bad, 0x8000_0001, 0x8000_0002];
    let noise = |writer| {
        kinds.into_iter().fold(writer, |writer: Writer, kind| {
            writer.block(kind, |body| body).block(kind, |body| body.raw(&[0xff; 9]))
        })
    };
    for order in [Little, Big] {
        let bytes = noise(noise(pcapng(order)).enhanced(0, 7_000_000, 3, 3)).bytes;
        assert_eq!(arrivals(&bytes), [(0, 61), (1_500_000_000, 1500), (2_000_000_000, 3)]);
    }
}

#[test]
fn packets_are_put_in_the_order_of_time() {
    let capture = Writer::new(Little).pcap_header(MICROSECONDS);
    let bytes = capture.pcap_record(20, 0, 1, 1).pcap_record(10, 0, 2, 2).pcap_record(20, 0, 3, 3).bytes;
    assert_eq!(arrivals(&bytes), [(0, 2), (10_000_000_000, 1), (10_000_000_000, 3)]);
}

#[test]
fn a_packet_may_be_larger_than_the_buffer() {
    let large = 3 << 20;
    let bytes = pcap(Little).pcap_record(102, 0, large, large).pcap_record(103, 0, 9, 9).bytes;
    assert_eq!(arrivals(&bytes)[2..], [(2_000_000_000, large), (3_000_000_000, 9)]);
    let bytes = pcapng(Big).enhanced(0, 7_000_000, large, large).enhanced(0, 8_000_000, 9, 9).bytes;
    assert_eq!(arrivals(&bytes)[2..], [(2_000_000_000, large), (3_000_000_000, 9)]);
}

#[test]
fn gzip_is_recognised() {
    for bytes in [pcap(Big).bytes, pcapng(Little).bytes, b"# dt_us,size\n0,64\n1500000,1500\n".to_vec()] {
        let packets = arrivals(&bytes);
        assert_eq!(arrivals(&gzip(&bytes)), packets);
        let (front, back) = bytes.split_at(20);
        assert_eq!(arrivals(&[gzip(front), gzip(back)].concat()), packets, "two members");
    }
}

#[test]
fn a_gzip_file_that_is_cut_off_is_refused() {
    let bytes = gzip(&pcap(Little).bytes);
    for end in 3..bytes.len() {
        let error = load(&bytes[..end]).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(error.to_string().contains(": the gzip data is cut off or damaged after "), "{error}");
    }
}

/// Cuts a capture at every byte. `ends` are the lengths at which it is whole, with the number of packets it has then.
fn cut_everywhere(bytes: &[u8], ends: &[(usize, usize)]) {
    for end in 0..=bytes.len() {
        let result = load(&bytes[..end]);
        match ends.iter().find(|&&(whole, _)| whole == end) {
            Some(&(_, 0)) => assert!(matches!(result, Err(Error::Empty { what: "packets", .. })), "{end}: {result:?}"),
            Some(&(_, packets)) => assert_eq!(result.unwrap().packets().len(), packets),
            None if end == 0 => assert!(matches!(result, Err(Error::Empty { what: "bytes", .. }))),
            None if end < 4 => assert!(matches!(result, Err(Error::Unrecognized { .. })), "{end}: {result:?}"),
            None => {
                let (start, packets) = ends.iter().rev().find(|&&(whole, _)| whole < end).copied().unwrap_or_default();
                let (byte, number) = (start as u64, packets as u64 + 1);
                let place = if start == 0 { Place::Byte(0) } else { Place::Packet { number, byte } };
                assert_eq!(fault(&bytes[..end]), (place, Fault::CutOff), "{end}");
            }
        }
    }
}

#[test]
fn a_capture_cut_at_any_byte_says_where() {
    for order in [Little, Big] {
        cut_everywhere(&pcap(order).bytes, &[(24, 0), (24 + 80, 1), (24 + 80 + 76, 2)]);
        cut_everywhere(&pcapng(order).bytes, &[(28, 0), (28 + 24, 0), (28 + 24 + 96, 1), (28 + 24 + 96 + 92, 2)]);
    }
}

#[test]
fn a_size_of_zero_is_refused_with_its_place() {
    let place = |bytes: &[u8]| {
        let (place, fault) = fault(bytes);
        assert_eq!(fault.to_string(), format!("size is 0; allowed: 1 to {MAX_PACKET_BYTES} bytes"));
        place
    };
    let capture = pcap(Little);
    let byte = capture.bytes.len() as u64;
    assert_eq!(place(&capture.pcap_record(102, 0, 0, 0).bytes), Place::Packet { number: 3, byte });
    let capture = pcapng(Big);
    let byte = capture.bytes.len() as u64;
    assert_eq!(place(&capture.clone().enhanced(0, 7_000_000, 0, 0).bytes), Place::Packet { number: 3, byte });
    assert_eq!(place(&capture.simple(0).bytes), Place::Packet { number: 3, byte });
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    let endless = pcap(Little).u32(0).u32(0).u32(u32::MAX).u32(9).raw(&[0; 99]);
    assert_eq!(complaint(&endless.bytes), "length is 4294967311; allowed: at most 67108864 bytes");
    let large = pcap(Little).pcap_record(0, 0, 9, MAX_PACKET_BYTES + 1);
    assert_eq!(complaint(&large.bytes), "size is 16777217; allowed: 1 to 16777216 bytes");
    for length in 0..12 {
        let short = pcapng(Little).u32(0x8000_0001).u32(length).raw(&[0; 99]);
        assert_eq!(complaint(&short.bytes), "the block is shorter than its own header");
    }
    // More captured bytes than the block has; and two lengths that differ.
    let overfull = pcapng(Little).block(6, |body| body.u32(0).ticks(0).u32(99).u32(99).raw(&[0; 8])).raw(&[0; 500]);
    let mut lengths = pcapng(Little);
    *lengths.bytes.last_mut().unwrap() = 1;
    for capture in [overfull, lengths] {
        assert_eq!(complaint(&capture.bytes), "the block contradicts itself");
    }
    let obsolete = pcapng(Big).block(2, |body| body.u16(0).u16(0).ticks(0));
    assert_eq!(complaint(&obsolete.bytes), "the packet block is too short");
}

#[test]
fn what_is_no_capture_is_refused_in_one_line() {
    for bytes in [&b"\n"[..], b"hello", b"a,b\n1,2\n", &[0; 5000], &[0xff; 5000], b"# \n", b"#dt_us\n1\n"] {
        let error = load(bytes).unwrap_err();
        assert!(matches!(error, Error::Unrecognized { .. }), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
    assert!(load(b"# size,frequency\n9,316\n").unwrap_err().to_string().contains("a histogram of sizes"));
    assert!(load(b"# dt_ms,count\n9,316\n").unwrap_err().to_string().contains("--link"));
    let directory = Trace::load(Path::new(env!("CARGO_TARGET_TMPDIR")), &mut proceed).unwrap_err();
    assert_eq!(directory.to_string(), format!("{}: Is a directory", env!("CARGO_TARGET_TMPDIR")));
    let missing = Trace::load(Path::new("/no/such/file"), &mut proceed).unwrap_err();
    assert_eq!(missing.to_string(), "/no/such/file: No such file or directory");
}

#[test]
fn text_traces_are_read() {
    assert_eq!(arrivals(b"# dt_us,size\n3,10\n0,20\n7,30\n"), [(0, 10), (0, 20), (7_000, 30)]);
    assert_eq!(arrivals(b"dt_us,size\r\n3,10\r\n\r\n# a note\r\n 1 , 20 "), [(0, 10), (1_000, 20)]);
    let text = b"# dt_us,size,life_us,kind(A=acked,L=lost,N=never) text\n0,1,5,A\n0,2,-1,A\n0,3,9,L\n0,4,-1,N\n";
    let lifetimes: Vec<Lifetime> = load(text).unwrap().packets().iter().map(|packet| packet.lifetime).collect();
    let [five, nine] = [5_000, 9_000].map(Lifetime::Nanoseconds);
    assert_eq!(lifetimes, [five, Lifetime::Unrecorded, nine, Lifetime::Forever]);
    let trace = load(b"# dt_us,size,life_us (life=-1: none)\n0,1,0\n").unwrap();
    assert_eq!(trace.packets(), [Packet { arrival: 0, size: 1, lifetime: Lifetime::Nanoseconds(0) }]);
    assert!(matches!(load(b"# dt_us,size\n"), Err(Error::Empty { what: "packets", .. })));
}

#[test]
fn text_that_makes_no_sense_is_refused_with_its_line() {
    let line = |row: &str| {
        let text = format!("# dt_us,size,life_us,kind\n# note\n\n0,10,-1,A\n{row}\n0,10,-1,A\n");
        let (place, fault) = fault(text.as_bytes());
        assert_eq!(place, Place::Line(5));
        fault.to_string()
    };
    for size in ["0", "-5", "99999999", "1e3", ""] {
        assert_eq!(line(&format!("0,{size},-1,A")), format!("size is `{size}`; allowed: 1 to 16777216 bytes"));
    }
    for step in ["-1", "x", "1.5", "99999999999999999999"] {
        let expected = format!("dt_us is `{step}`; allowed: 0 or more, and 584 years in all");
        assert_eq!(line(&format!("{step},10,-1,A")), expected);
    }
    for life in ["-2", "18446744073709551615", "-"] {
        assert_eq!(line(&format!("0,10,{life},A")), format!("life_us is `{life}`; allowed: -1 or more"));
    }
    assert_eq!(line("0,10,5,B"), "kind is `B`; allowed: A (acknowledged), L (lost), N (never freed)");
    assert_eq!(line("0,10"), "columns: 2; expected: 4");
    assert_eq!(line("0,10,-1,A,5"), "columns: 5; expected: 4");
    assert_eq!(line("nonsense"), "columns: 1; expected: 4");
    let long = format!("size is `{}...`; allowed: 1 to 16777216 bytes", "y".repeat(32));
    assert_eq!(line(&format!("0,{},-1,A", "y".repeat(99))), long);
}

#[test]
fn times_that_add_up_to_too_much_are_refused() {
    let (place, _) = fault(b"# dt_us,size\n18446744073709550,1\n1,1\n1,1\n");
    assert_eq!(place, Place::Line(4));
}

fn trace(text: &str) -> Trace {
    load(text.as_bytes()).unwrap()
}

fn link(text: &str) -> Result<Link, Error> {
    Link::load(&TestFile::new(text.as_bytes()).0)
}

fn plan(trace: &Trace, rule: Option<Rule>) -> Plan {
    Plan::new(trace, &Options { rule, copies: 1 }, &mut proceed).unwrap()
}

/// A program by the sizes that come (positive) and leave (negative).
fn sizes(plan: &Plan) -> Vec<i64> {
    let mut held = vec![0; plan.stream.slots];
    let step = |op: &Op| {
        let slot = &mut held[op.slot as usize];
        if op.is_free() {
            assert_ne!(*slot, 0, "freed twice");
            -core::mem::take(slot)
        } else {
            assert_eq!(*slot, 0, "slot taken");
            *slot = i64::from(op.size);
            *slot
        }
    };
    let sizes = plan.stream.ops.iter().map(step).collect();
    assert!(held.iter().all(|&size| size == 0), "some are not freed");
    sizes
}

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
    let rounds = replay(&plan(&trace, None), Some(0), &mut proceed).unwrap_err();
    assert_eq!(rounds.to_string(), "rounds must be at least 1");
}

#[test]
fn a_replay_reports_what_it_ran() {
    let plan = plan(&trace("# dt_us,size\n0,1\n1,1500\n1,100000\n"), Some(Rule::Depth(2)));
    let mut phases = Vec::new();
    let mut watch = |phase, done, total| {
        assert!(total == 0 || done <= total);
        phases.push(phase);
        ControlFlow::Continue(())
    };
    let report = replay(&plan, Some(3), &mut watch).unwrap();
    assert_eq!(report.rounds, 3);
    assert!(report.passes > 1, "three packets do not last 10 ms");
    assert_eq!(report.live_bytes, 101_500);
    assert!(report.held_over_live() >= 1.0, "{report:?}");
    for spread in [report.ours, report.malloc, report.bare_loop, report.speedup] {
        assert!(0.0 < spread.low && spread.low <= spread.median && spread.median <= spread.high);
    }
    assert!(report.to_string().ends_with("ns per packet."));
    phases.dedup();
    assert_eq!(phases, [Phase::Verifying, Phase::Timing]);
}

#[test]
fn a_replay_can_be_interrupted_at_every_step() {
    let file = TestFile::new(&pcap(Little).bytes);
    let run = |stop_at: u32| {
        let mut step = 0;
        let mut watch = |_, _, _| {
            step += 1;
            if step == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let trace = Trace::load(&file.0, &mut watch)?;
        let plan = Plan::new(&trace, &Options::default(), &mut watch)?;
        replay(&plan, Some(1), &mut watch).map(drop)
    };
    // Reading, planning, verifying (twice), finding out how long a round lasts, one round of each.
    for step in 1..8 {
        assert!(matches!(run(step), Err(Error::Interrupted)), "step {step}");
    }
    assert!(run(0).is_ok());
}

#[test]
fn a_million_packets_are_no_trouble() {
    let mut capture = Writer::new(Little).pcap_header(MICROSECONDS);
    for packet in 0..1_000_000 {
        capture = capture.pcap_record(packet / 1000, packet % 1000 * 1000, 0, 60 + packet % 1400);
    }
    let trace = load(&capture.bytes).unwrap();
    assert_eq!(trace.packets().len(), 1_000_000);
    let departures = link("# dt_ms,count\n1,1\n7,3\n").unwrap();
    for rule in [Rule::Depth(100_000), Rule::Delay(30_000_000_000), Rule::Link(departures)] {
        assert_eq!(plan(&trace, Some(rule)).stream.ops.len(), 2_000_000);
    }
}

/// The traces that the project is measured with, where they are to be had.
fn shared_traces() -> Option<PathBuf> {
    let directory = std::env::var_os("PKTALLOC_TRACES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/traces"), PathBuf::from);
    if directory.is_dir() {
        return Some(directory);
    }
    eprintln!("skipped: no traces in {}; PKTALLOC_TRACES can name their directory", directory.display());
    None
}

#[test]
fn the_shared_traces_replay() {
    let Some(directory) = shared_traces() else { return };
    let load = |name: &str| Trace::load(&directory.join(name), &mut proceed).unwrap();
    let facts = |plan: &Plan| (plan.packets, plan.bytes, plan.peak_packets);

    let quic = load("quic_server_sent_acked.csv.gz");
    let held = plan(&quic, None);
    assert_eq!(facts(&held), (9_769, 13_187_213, 124));
    assert_eq!(held.counts, Counts { recorded: 9_722, forever: 47, ruled: 0 });
    let desktop = load("pcpp_example.csv.gz");
    assert_eq!(facts(&plan(&desktop, None)), (4_631, 3_738_523, 26));
    let rtp = load("trex_rtp_250k.csv.gz");
    assert_eq!(facts(&plan(&rtp, None)), (4_092, 3_835_300, 1_024));

    let lte = Link::load(&directory.join("lte_verizon_short_down.csv.gz")).unwrap();
    for trace in [&quic, &desktop, &rtp] {
        for rule in [Some(Rule::Depth(64)), Some(Rule::Delay(100_000_000)), Some(Rule::Link(lte.clone()))] {
            let plan = Plan::new(trace, &Options { rule, copies: 3 }, &mut proceed).unwrap();
            assert_eq!(sizes(&plan).len() as u64, 2 * plan.packets);
        }
        replay(&plan(trace, None), Some(1), &mut proceed).unwrap();
    }
}

/// Bytes that look like a file of one of the kinds, and some that were one before they were damaged.
fn hostile_file() -> impl Strategy<Value = Vec<u8>> {
    let magic = prop::sample::select(vec![
        NANOSECONDS.to_le_bytes().to_vec(),
        MICROSECONDS.to_be_bytes().to_vec(),
        0xa1b2_cd34_u32.to_le_bytes().to_vec(),
        pcap(Little).bytes[..24].to_vec(),
        Writer::new(Big).section().bytes,
        Writer::new(Little).section().interface(|options| options).bytes,
        vec![0x1f, 0x8b, 8],
        b"# dt_us,size\n".to_vec(),
        b"# dt_us,size,life_us,kind\n0,1,2,A\n".to_vec(),
        Vec::new(),
    ]);
    let noise = (magic, prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(head, tail)| [head, tail].concat());
    let whole = prop::sample::select(vec![
        pcap(Little).bytes,
        pcap(Big).bytes,
        pcapng(Little).simple(5).obsolete(0, 9, 9).bytes,
        pcapng(Big).simple(5).obsolete(0, 9, 9).raw(&pcapng(Little).bytes).bytes,
        gzip(&pcapng(Little).bytes),
        b"# dt_us,size,life_us,kind\n0,1,2,A\n5,6,-1,N\n".to_vec(),
    ]);
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    let damaged = (whole, damage).prop_map(|(mut bytes, damage)| {
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        bytes
    });
    prop_oneof![noise, damaged]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_file_makes_it_panic(bytes in hostile_file()) {
        let file = TestFile::new(&bytes);
        match Trace::load(&file.0, &mut proceed) {
            Ok(trace) => {
                prop_assert!(!trace.packets().is_empty());
                prop_assert!(trace.packets().is_sorted_by_key(|packet| packet.arrival));
                sizes(&plan(&trace, None));
            }
            Err(error) => {
                let text = error.to_string();
                prop_assert!(text.starts_with(file.0.to_str().unwrap()), "{}", text);
                prop_assert!(!text.contains('\n'), "{}", text);
            }
        }
        // Whatever it is, to take it for a link is safe too.
        drop(Link::load(&file.0));
    }
}
