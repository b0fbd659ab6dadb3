//! What the replay reads, what it makes of it, and what it says about what it cannot read.

use core::ops::ControlFlow;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use pktalloc::replay::{
    CallKind, CallTrace, Competitor, Counts, DEFAULT_DEPTH, Error, Fault, Format, Lifetime, Link, MAX_PACKET_BYTES,
    Note, Options, Packet, Phase, Place, Plan, Program, ReadOptions, Recording, Rule, Runner, Setup, Trace,
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
    Trace::load(&TestFile::new(bytes).0, ReadOptions::default(), &mut proceed)
}

/// What is wrong with a file for a reader that takes no half one.
fn strict_fault(bytes: &[u8]) -> (Place, Fault) {
    match Trace::load(&TestFile::new(bytes).0, ReadOptions { strict: true }, &mut proceed) {
        Err(Error::Fault { place, fault, .. }) => (place, fault),
        other => panic!("{other:?}"),
    }
}

/// Times and sizes of the packets of a file.
fn arrivals(bytes: &[u8]) -> Vec<(u64, u32)> {
    load(bytes).unwrap().packets().iter().map(|packet| (packet.arrival(), packet.size())).collect()
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

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn zstd_is_recognised() {
    for bytes in [pcap(Big).bytes, pcapng(Little).bytes, b"# dt_us,size\n0,64\n1500000,1500\n".to_vec()] {
        let packets = arrivals(&bytes);
        assert_eq!(arrivals(&zstd(&bytes)), packets);
        let (front, back) = bytes.split_at(20);
        let skippable = [&0x184d_2a53_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
        assert_eq!(arrivals(&[skippable.clone(), zstd(front), skippable, zstd(back)].concat()), packets);
    }
}

#[test]
fn a_compressed_text_that_is_cut_off_is_refused() {
    let text = [&b"# dt_us,size\n"[..], &b"123,456\n".repeat(40_000)].concat();
    for bytes in [gzip(&text), zstd(&text)] {
        for end in [bytes.len() - 1, bytes.len() / 2] {
            assert_eq!(fault(&bytes[..end]).1, Fault::CutOff);
        }
    }
}

#[test]
fn a_compressed_capture_that_is_cut_off_is_read_up_to_there() {
    let mut capture = pcap(Little);
    for second in 102..50_000 {
        capture = capture.pcap_record(second, second % 1000, 0, second);
    }
    let whole = arrivals(&capture.bytes);
    for (bytes, format) in [(gzip(&capture.bytes), "gzip"), (zstd(&capture.bytes), "zstd")] {
        let cut = &bytes[..bytes.len() * 3 / 4];
        let trace = load(cut).unwrap();
        assert!(trace.packets().len() > 100 && trace.packets().len() < whole.len(), "{}", trace.packets().len());
        assert!(trace.notes().contains(&Note::CompressedCutOff { format }), "{:?}", trace.notes());
        assert_eq!(arrivals(cut), whole[..trace.packets().len()]);
        strict_fault(cut);
    }
    let bytes = gzip(&pcap(Little).bytes);
    for end in 3..20 {
        let error = load(&bytes[..end]).unwrap_err();
        assert!(matches!(error, Error::Empty { .. } | Error::Unrecognized { .. } | Error::Fault { .. }), "{error}");
    }
}

#[test]
fn compressed_data_that_is_damaged_is_refused() {
    let capture = pcap(Little).pcap_record(102, 0, 9000, 9000).bytes;
    for (bytes, format) in [(gzip(&capture), "gzip"), (zstd(&capture), "zstd")] {
        let mut refused = 0;
        for index in bytes.len() - 8..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 0x55;
            if let Err(error) = load(&damaged) {
                assert!(error.to_string().contains(&format!("the {format} data is ")), "{error}");
                refused += 1;
            }
        }
        assert!(refused >= 4, "the checksum counts");
    }
    let followed = [&gzip(&capture)[..], b"text"].concat();
    assert!(load(&followed).unwrap_err().to_string().contains("the gzip data is followed by something else"));
}

#[test]
fn zeros_behind_compressed_data_are_passed_over() {
    let padded = [gzip(&pcap(Big).bytes), vec![0; 512]].concat();
    let trace = load(&padded).unwrap();
    assert_eq!((trace.packets().len(), trace.notes()), (2, &[Note::ZerosBehind { bytes: 512 }][..]));
    assert_eq!(strict_fault(&padded).0, Place::End);
    let text = [gzip(b"# dt_us,size\n5,6\n"), vec![0; 512]].concat();
    assert_eq!(arrivals(&text), [(0, 6)]);
}

/// Cuts a capture at every byte from its first record on. `starts` are where its records start, and where it ends.
fn cut_everywhere(bytes: &[u8], starts: &[usize], head: usize) {
    for end in starts[0]..=bytes.len() {
        let packets = starts.iter().filter(|&&start| start <= end).count() - 1;
        let start = starts[packets];
        let (byte, number) = (start as u64, packets as u64 + 1);
        // Of less than its head nobody can tell what a block is.
        let place = if end < start + head { Place::Byte(byte) } else { Place::Packet { number, byte } };
        // What is there of the record may be nothing but zeros.
        let zeros = end > start && bytes[start..end].iter().all(|&byte| byte == 0);
        match load(&bytes[..end]) {
            Err(Error::Empty { what: "packets", .. }) => assert!(packets == 0 && (end == start || zeros), "{end}"),
            Ok(trace) if zeros => {
                assert_eq!(trace.packets().len(), packets, "{end}");
                let note = Note::Zeros { place: Place::Byte(byte), bytes: (end - start) as u64 };
                assert_eq!(trace.notes(), [note]);
            }
            Err(Error::Fault { place: found, fault: Fault::CutOff, .. }) => assert_eq!((packets, found), (0, place)),
            Ok(trace) => {
                assert_eq!(trace.packets().len(), packets, "{end}");
                if start == end {
                    assert_eq!(trace.notes(), []);
                } else {
                    assert_eq!(trace.notes(), [Note::CutOff { place, packets: packets as u64 }], "{end}");
                    assert_eq!(strict_fault(&bytes[..end]), (place, Fault::CutOff));
                }
            }
            Err(error) => panic!("{end}: {error}"),
        }
    }
}

#[test]
fn a_capture_cut_at_any_byte_is_read_up_to_there() {
    for order in [Little, Big] {
        cut_everywhere(&pcap(order).bytes, &[24, 104, 180], 0);
        cut_everywhere(&pcapng(order).bytes, &[52, 148, 240], 8);
        for (bytes, header) in [(pcap(order).bytes, 24), (pcapng(order).bytes, 28)] {
            assert!(matches!(load(&[]), Err(Error::Empty { what: "bytes", .. })));
            for end in 1..4 {
                assert!(matches!(load(&bytes[..end]), Err(Error::Unrecognized { .. })));
            }
            for end in 4..header {
                assert_eq!(fault(&bytes[..end]), (Place::Byte(0), Fault::CutOff), "{end}");
            }
        }
        let interface = |end| fault(&pcapng(order).bytes[..end]);
        assert_eq!(interface(35), (Place::Byte(28), Fault::CutOff));
        assert_eq!(interface(36), (Place::Block { kind: "interface block", byte: 28 }, Fault::CutOff));
    }
}

#[test]
fn records_of_no_bytes_count() {
    let capture = pcap(Little).pcap_record(102, 0, 0, 0).pcap_record(103, 0, 5, 5);
    assert_eq!(arrivals(&capture.bytes)[2..], [(2_000_000_000, 0), (3_000_000_000, 5)]);
    let capture = pcapng(Big).enhanced(0, 7_000_000, 0, 0).simple(0).enhanced(0, 8_000_000, 5, 5);
    assert_eq!(arrivals(&capture.bytes)[2..], [(2_000_000_000, 0), (2_000_000_000, 0), (3_000_000_000, 5)]);
    assert_eq!(arrivals(b"# dt_us,size\n0,0\n1,5\n"), [(0, 0), (1000, 5)]);
    let plan = plan(&load(b"# dt_us,size\n0,0\n1,5\n").unwrap(), None);
    assert_eq!((plan.packets, plan.bytes, plan.smallest, plan.peak_bytes), (2, 5, 0, 5));
    // An empty packet takes the smallest block.
    assert_eq!(sizes(&plan), [1, 5, -1, -5]);
}

#[test]
fn zeros_behind_the_last_record_are_passed_over() {
    for zeros in [1, 7, 8, 12, 15, 16, 17, 32, 500, 70_000] {
        for (whole, byte) in [(pcap(Little), 180), (pcapng(Big), 240)] {
            let padded = whole.raw(&vec![0; zeros]).bytes;
            let trace = load(&padded).unwrap();
            assert_eq!(trace.packets().len(), 2);
            assert_eq!(trace.notes(), [Note::Zeros { place: Place::Byte(byte), bytes: zeros as u64 }]);
            assert_eq!(strict_fault(&padded).0, Place::Byte(byte));
        }
    }
    // Zeros with a record behind them are records.
    let capture = pcap(Little).raw(&[0; 32]).pcap_record(103, 0, 5, 5).bytes;
    assert_eq!(load(&capture).unwrap().packets().len(), 5);
    let blocks = pcapng(Little).raw(&[0; 32]).enhanced(0, 7_000_000, 3, 3).bytes;
    assert_eq!(fault(&blocks).0, Place::Byte(240));
}

#[test]
fn more_captured_than_there_was_is_refused() {
    let allowed = "captured length is 100; allowed: at most the 40 bytes on the wire";
    let place = Place::Packet { number: 3, byte: 180 };
    assert_eq!(fault(&pcap(Little).pcap_record(102, 0, 100, 40).bytes), (place, fault_of(allowed)));
    let place = Place::Packet { number: 3, byte: 240 };
    let bytes = pcapng(Big).enhanced(0, 7_000_000, 100, 40).bytes;
    assert_eq!(fault(&bytes), (place, fault_of(allowed)));
    let nothing = pcap(Big).pcap_record(102, 0, 100, 0).bytes;
    assert_eq!(complaint(&nothing), "captured length is 100; allowed: at most the 0 bytes on the wire");
}

/// `name is found; allowed: what` taken apart.
fn fault_of(text: &str) -> Fault {
    let (name, rest) = text.split_once(" is ").unwrap();
    let (found, allowed) = rest.split_once("; allowed: ").unwrap();
    let name = match name {
        "captured length" => "captured length",
        other => panic!("{other}"),
    };
    Fault::Value { name, found: found.to_owned(), allowed: allowed.to_owned() }
}

#[test]
fn fractions_of_a_second_stay_below_one() {
    let bytes = pcap(Little).pcap_record(102, 1_000_000, 1, 1).bytes;
    assert_eq!(complaint(&bytes), "microseconds is 1000000; allowed: 0 to 999999");
    let bytes = Writer::new(Big).pcap_header(NANOSECONDS).pcap_record(1, 1_000_000_000, 1, 1).bytes;
    assert_eq!(complaint(&bytes), "nanoseconds is 1000000000; allowed: 0 to 999999999");
}

#[test]
fn versions_of_another_format_are_refused() {
    let mut bytes = pcap(Little).bytes;
    bytes[4] = 3;
    assert_eq!(complaint(&bytes), "version is 3; allowed: 2, as libpcap writes it");
    let mut bytes = pcapng(Big).bytes;
    bytes[13] = 2;
    assert_eq!(complaint(&bytes), "version is 2; allowed: 1");
    let mut bytes = pcapng(Big).bytes;
    bytes[9] = 2;
    assert_eq!(complaint(&bytes), "byte-order mark is 0x4d3c021a; allowed: 0x1a2b3c4d in either byte order");
}

#[test]
fn options_stay_within_their_block() {
    let head = || Writer::new(Little).section();
    let interface = |options: fn(Writer) -> Writer| {
        // Without the end of options that `interface` writes.
        head().block(1, |body| options(body.u16(1).u16(0).u32(0))).enhanced(0, 0, 1, 1)
    };
    let over = interface(|options| options.u16(2).u16(60_000));
    let place = Place::Block { kind: "interface block", byte: 28 };
    let (found, fault_found) = fault(&over.bytes);
    assert_eq!(found, place);
    assert_eq!(
        fault_found.to_string(),
        "length of an option is 60000; allowed: the 0 bytes that are left of the block"
    );
    assert_eq!(arrivals(&interface(|options| options.u16(2).u16(4).raw(b"eth0")).bytes), [(0, 1)]);
    assert_eq!(
        complaint(&interface(|options| options.u16(9).u16(2).raw(&[6, 6, 0, 0])).bytes),
        "if_tsresol is 2 bytes long; allowed: 1 byte"
    );
    assert_eq!(
        complaint(&interface(|options| options.u16(14).u16(4).u32(9)).bytes),
        "if_tsoffset is 4 bytes long; allowed: 8 bytes"
    );
    // Options of a packet and of a section.
    let packet = |length| {
        head()
            .interface(|options| options)
            .block(6, |body| body.u32(0).ticks(0).u32(1).u32(1).raw(&[9, 0, 0, 0]).u16(1).u16(length).raw(b"note"))
    };
    assert_eq!(arrivals(&packet(4).bytes), [(0, 1)]);
    assert_eq!(
        complaint(&packet(5).bytes),
        "length of an option is 5; allowed: the 4 bytes that are left of the block"
    );
    let section =
        Writer::new(Big).block(0x0a0d_0d0a, |body| body.u32(0x1a2b_3c4d).u16(1).u16(0).u64(u64::MAX).u16(2).u16(99));
    assert_eq!(fault(&section.bytes).0, Place::Block { kind: "section header", byte: 0 });
}

#[test]
fn a_simple_packet_needs_an_interface() {
    let bytes = Writer::new(Big).section().simple(30).bytes;
    let (place, fault) = fault(&bytes);
    assert_eq!(place, Place::Packet { number: 1, byte: 28 });
    assert_eq!(fault.to_string(), "interface is 0; allowed: one of the 0 described before");
}

#[test]
fn a_simple_packet_is_kept_up_to_the_snap_length() {
    let section = |snap: u32| Writer::new(Little).section().block(1, |body| body.u16(1).u16(0).u32(snap));
    let simple = |writer: Writer, size, kept| writer.block(3, |body| body.u32(size).raw(&vec![1; kept]));
    assert_eq!(arrivals(&simple(section(96), 1500, 96).bytes), [(0, 1500)]);
    let short = simple(section(0), 1500, 96).bytes;
    assert_eq!(complaint(&short), "captured length is 1500; allowed: the 96 bytes that the block holds");
}

#[test]
fn a_length_that_was_damaged_is_not_taken_for_the_end() {
    // The second of three records claims more than anything that was captured.
    let record = |writer: Writer, captured: u32, size: u32| writer.u32(0).u32(0).u32(captured).u32(size).raw(&[1; 60]);
    let bytes = record(record(pcap(Little), 70_000, 70_000), 60, 60).bytes;
    assert_eq!(complaint(&bytes), "captured length is 70000; allowed: at most 65535 bytes, the snap length");
}

#[test]
fn the_block_at_fault_is_the_one_named() {
    // Of six blocks each in turn has a length that is 4 too long in front.
    let blocks = |order| pcapng(order).block(0xbad, |body| body.raw(&[1; 20])).enhanced(0, 7_000_000, 8, 8).simple(8);
    for order in [Little, Big] {
        let good = blocks(order).bytes;
        let starts = [0_usize, 28, 52, 148, 240, 272, 312];
        for &start in &starts {
            let mut bytes = good.clone();
            let length = start + if order == Little { 4 } else { 7 };
            bytes[length] += 4;
            let place = match load(&bytes) {
                Err(Error::Fault { place, .. }) => place,
                Ok(trace) => match trace.notes() {
                    [Note::CutOff { place, .. }] => *place,
                    other => panic!("{start}: {other:?}"),
                },
                other => panic!("{start}: {other:?}"),
            };
            let byte = match place {
                Place::Byte(byte) | Place::Packet { byte, .. } | Place::Block { byte, .. } => byte,
                other => panic!("{start}: {other}"),
            };
            assert_eq!(byte, start as u64);
        }
    }
}

#[test]
fn files_that_people_take_for_captures_are_named() {
    for (bytes, name) in [
        (&b"snoop\0\0\0\0\0\0\x02"[..], "a snoop capture"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"\xfd7zXZ\0....", "xz data"),
        (b"BZh91AY", "bzip2 data"),
        (b"PK\x03\x04...", "a zip archive"),
        (b"<!DOCTYPE html>\n", "an HTML page"),
        (&gzip(&gzip(b"text")), "gzip data within gzip data"),
    ] {
        let error = load(bytes).unwrap_err();
        assert!(matches!(error, Error::Unrecognized { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// Bytes without end that are produced as they are read, compressed.
fn bomb(block: &[u8], times: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..times {
        encoder.write_all(block).unwrap();
    }
    encoder.finish().unwrap()
}

#[test]
fn what_expands_without_end_is_refused_early() {
    let head = |text: &[u8]| gzip(text);
    // One row of 64 MiB, of digits or of commas; a first line of that length.
    for filling in [b'1', b','] {
        let row = [head(b"# dt_us,size\n"), bomb(&vec![filling; 1 << 20], 64)].concat();
        assert_eq!(complaint(&row), "length of the line is more than 65536 bytes; allowed: up to 65536 bytes");
        assert!(matches!(load(&bomb(&vec![filling; 1 << 20], 64)), Err(Error::Unrecognized { .. })));
        assert!(Link::load(&TestFile::new(&row).0, &mut proceed).is_err());
    }
    let interface = Writer::new(Little).block(1, |body| body.u32(1).u32(0)).bytes;
    let interfaces = [head(&Writer::new(Little).section().bytes), bomb(&interface.repeat(1000), 100)].concat();
    assert_eq!(complaint(&interfaces), "number of interfaces is 65537; allowed: 65536 in a section");
    let mut departures = b"# dt_ms,count\n".to_vec();
    departures.extend(b"1,1\n".repeat((1 << 22) + 1));
    let error = Link::load(&TestFile::new(&departures).0, &mut proceed).unwrap_err();
    assert!(error.to_string().ends_with("number of rows is more than 4194304; allowed: up to 4194304"), "{error}");
}

#[test]
fn a_zstd_bomb_is_refused() {
    let bytes = zstd(&vec![0; 8 << 20]);
    let bomb = [zstd(&pcap(Little).pcap_record(200, 0, 8 << 20, 8 << 20).bytes[..196]), bytes.repeat(40)].concat();
    let error = load(&bomb).unwrap_err();
    assert!(error.to_string().contains("expands more than 4096 times"), "{error}");
}

#[test]
fn claims_of_huge_packets_cost_no_more_than_small_ones() {
    let mut capture = Writer::new(Little).pcap_header(MICROSECONDS);
    for second in 0..200 {
        capture = capture.pcap_record(second, 0, 0, MAX_PACKET_BYTES);
    }
    let plan = plan(&load(&capture.bytes).unwrap(), None);
    let started = std::time::Instant::now();
    for competitor in competitors() {
        let found = run(&Program::from(plan.clone()), &competitor).unwrap();
        assert!(found.resident_bytes.is_none_or(|bytes| bytes < 256 << 20), "{found:?}");
    }
    // Writing and reading 3.2 GB takes seconds and 3.2 GB.
    assert!(started.elapsed().as_secs() < 20);
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    let endless = pcap(Little).u32(0).u32(0).u32(u32::MAX).u32(9).raw(&[0; 99]);
    assert_eq!(complaint(&endless.bytes), "captured length is 4294967295; allowed: at most the 9 bytes on the wire");
    let large = pcap(Little).pcap_record(0, 0, 9, MAX_PACKET_BYTES + 1);
    assert_eq!(complaint(&large.bytes), "size is 16777217; allowed: 0 to 16777216 bytes");
    let block = pcapng(Little).u32(0x8000_0001).u32(1 << 30).raw(&[0; 99]);
    assert_eq!(complaint(&block.bytes), "block length is 1073741824; allowed: multiples of 4 up to 67108864 bytes");
    for length in 0..12 {
        let short = pcapng(Little).u32(0x8000_0001).u32(length).raw(&[0; 99]);
        assert_eq!(complaint(&short.bytes), "the block is shorter than its own header");
    }
    // More captured bytes than the block has; and two lengths that differ.
    let overfull = pcapng(Little).block(6, |body| body.u32(0).ticks(0).u32(99).u32(99).raw(&[0; 8])).raw(&[0; 500]);
    let mut lengths = pcapng(Little);
    *lengths.bytes.last_mut().unwrap() = 1;
    assert_eq!(complaint(&overfull.bytes), "captured length is 99; allowed: the 8 bytes that the block holds");
    assert_eq!(complaint(&lengths.bytes), "block length behind the block is 16777308; allowed: 92, as in front of it");
    let obsolete = pcapng(Big).block(2, |body| body.u16(0).u16(0).ticks(0));
    assert_eq!(complaint(&obsolete.bytes), "the block is too short for what it holds");
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
    let directory =
        Trace::load(Path::new(env!("CARGO_TARGET_TMPDIR")), ReadOptions::default(), &mut proceed).unwrap_err();
    assert_eq!(directory.to_string(), format!("{}: Is a directory", env!("CARGO_TARGET_TMPDIR")));
    let missing = Trace::load(Path::new("/no/such/file"), ReadOptions::default(), &mut proceed).unwrap_err();
    assert_eq!(missing.to_string(), "/no/such/file: No such file or directory");
}

#[test]
fn text_traces_are_read() {
    assert_eq!(arrivals(b"# dt_us,size\n3,10\n0,20\n7,30\n"), [(0, 10), (0, 20), (7_000, 30)]);
    assert_eq!(arrivals(b"dt_us,size\r\n3,10\r\n\r\n# a note\r\n 1 , 20 "), [(0, 10), (1_000, 20)]);
    assert_eq!(arrivals(b"# dt_us,size\r3,10\r# a note\r\r1,20\r"), [(0, 10), (1_000, 20)]);
    assert_eq!(fault(b"# dt_us,size\r3,10\r# a note\r\rx,20\r").0, Place::Line(5));
    let explained = [&b"# dt_us,size "[..], &[b'x'; 60_000], b"\n3,10\n1,20\n"].concat();
    assert_eq!(arrivals(&explained), [(0, 10), (1_000, 20)]);
    let text = b"# dt_us,size,life_us,kind(A=acked,L=lost,N=never) text\n0,1,5,A\n0,2,-1,A\n0,3,9,L\n0,4,-1,N\n";
    let lifetimes: Vec<Lifetime> = load(text).unwrap().packets().iter().map(Packet::lifetime).collect();
    let [five, nine] = [5_000, 9_000].map(Lifetime::Nanoseconds);
    assert_eq!(lifetimes, [five, Lifetime::Unrecorded, nine, Lifetime::Forever]);
    let trace = load(b"# dt_us,size,life_us (life=-1: none)\n0,1,0\n").unwrap();
    assert_eq!(trace.packets(), [Packet::new(0, 1, Lifetime::Nanoseconds(0))]);
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
    for size in ["-5", "99999999", "1e3", ""] {
        assert_eq!(line(&format!("0,{size},-1,A")), format!("size is `{size}`; allowed: 0 to 16777216 bytes"));
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
    let long = format!("size is `{}...`; allowed: 0 to 16777216 bytes", "y".repeat(32));
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
    Link::load(&TestFile::new(text.as_bytes()).0, &mut proceed)
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
}

/// Those that run everywhere.
fn competitors() -> [Competitor; 2] {
    [Competitor::Pktalloc(Setup::default()), Competitor::Malloc]
}

/// Runs a program once in each way; the first pass.
fn run(program: &Program, competitor: &Competitor) -> Result<pktalloc::replay::FirstPass, Error> {
    let mut runner = Runner::new(program, competitor)?;
    let found = runner.first_pass(&mut proceed)?;
    runner.begin()?;
    runner.round(2, &mut || Ok(()))?;
    Ok(found)
}

#[test]
fn a_replay_reports_what_it_ran() {
    let plan = plan(&trace("# dt_us,size\n0,1\n1,1500\n1,100000\n"), Some(Rule::Depth(2)));
    assert_eq!(plan.peak_bytes, 101_500);
    let program = Program::from(plan);
    assert_eq!((program.units(), program.len()), (3, 6));
    for competitor in competitors() {
        let mut runner = Runner::new(&program, &competitor).unwrap();
        let mut phases = Vec::new();
        let mut watch = |phase, done, total| {
            assert!(total == 0 || done <= total);
            phases.push(phase);
            ControlFlow::Continue(())
        };
        let found = runner.first_pass(&mut watch).unwrap();
        phases.dedup();
        assert_eq!(phases, [Phase::Verifying]);
        match competitor {
            Competitor::Malloc => assert_eq!(found.held_bytes, None),
            _ => assert!(found.held_bytes.unwrap() >= 101_500, "{found:?}"),
        }
        // How much is a matter of what the process did before: see the tests of the command.
        assert_eq!(found.resident_bytes.is_some(), cfg!(target_os = "linux"));
        assert!(found.longest > std::time::Duration::ZERO, "{found:?}");
        assert!(["allocate", "free"].contains(&found.longest_call), "{found:?}");
        let steps: Vec<_> = found.moments.iter().map(|moment| (moment.step, moment.live_bytes)).collect();
        assert_eq!(steps, [(1, 1), (2, 1501), (3, 1500), (4, 101_500), (5, 100_000), (6, 0)]);
        runner.begin().unwrap();
        let mut ticks = 0;
        let passes = runner
            .passes_per_round(&mut || {
                ticks += 1;
                Ok(())
            })
            .unwrap();
        assert!(passes > 1 && ticks > 1, "three packets do not last 10 ms");
        assert!(runner.round(passes, &mut || Ok(())).unwrap() > std::time::Duration::from_millis(1));
    }
}

#[test]
fn settings_are_those_of_the_allocator() {
    let program = Program::from(plan(&trace("# dt_us,size\n0,60\n1,1500\n1,9000\n"), Some(Rule::Depth(2))));
    let limited = Setup { memory_limit: Some(1), ..Setup::default() };
    assert!(run(&program, &Competitor::Pktalloc(limited)).unwrap_err().to_string().starts_with("memory_limit is 1"));
    let settings = Setup {
        zero: true,
        check: true,
        preallocated_windows: Some(1),
        keep_empty_windows: Some(0),
        memory_limit: Some(64 << 20),
        ..Setup::default()
    };
    run(&program, &Competitor::Pktalloc(settings)).unwrap();
    let tight = Setup { memory_limit: Some(1 << 20), preallocated_windows: Some(1), ..Setup::default() };
    let large = Program::from(plan(&trace("# dt_us,size\n0,8000000\n"), None));
    let error = run(&large, &Competitor::Pktalloc(tight)).unwrap_err();
    assert_eq!(error.to_string(), "pktalloc has no memory for a packet of 8000000 bytes");
}

#[test]
fn a_library_that_is_none_is_named() {
    let program = Program::from(plan(&trace("# dt_us,size\n0,60\n"), None));
    let error = run(&program, &Competitor::Library("/no/such/library.so".into())).unwrap_err();
    assert!(error.to_string().starts_with("/no/such/library.so: cannot be loaded as an allocator: "), "{error}");
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        let error = run(&program, &Competitor::Library("libm.so.6".into())).unwrap_err();
        assert!(error.to_string().ends_with(": it has no malloc of its own"), "{error}");
    }
}

#[test]
fn a_program_goes_to_another_process_and_comes_back() {
    let packets = Program::from(plan(&trace("# dt_us,size\n0,60\n1,1500\n"), None));
    let calls = Program::from(calls("new,7,,\nallocate,7,3,5\nreallocate_copy,7,3,50\ndrop,7,,\n").unwrap());
    for program in [packets, calls] {
        let mut bytes = Vec::new();
        program.write(&mut bytes).unwrap();
        assert_eq!(Program::read(&mut &bytes[..]).unwrap(), program);
        for end in 0..bytes.len() {
            assert!(Program::read(&mut &bytes[..end]).is_err());
        }
        bytes[0] = 0;
        assert!(Program::read(&mut &bytes[..]).is_err());
    }
}

#[test]
fn the_head_of_a_program_frees_what_is_live() {
    let packets = Program::from(plan(&trace("# dt_us,size\n0,60\n1,1500\n1,70\n"), Some(Rule::Depth(2))));
    let rows = "new,7,,\nallocate,7,3,5\nreallocate_copy,7,3,50\nnew,8,,\nallocate,8,4,9\nfree,7,3,\n";
    for program in [packets, Program::from(calls(rows).unwrap())] {
        assert_eq!(program.head(usize::MAX).unwrap(), program);
        for steps in 0..program.len() {
            let head = program.head(steps).unwrap();
            assert!(head.units() <= program.units());
            for competitor in competitors() {
                let found = run(&head, &competitor).unwrap();
                assert!(found.moments.last().is_none_or(|moment| moment.live_bytes == 0), "{steps}: {found:?}");
            }
        }
    }
}

fn calls(rows: &str) -> Result<CallTrace, Error> {
    let file = TestFile::new(format!("# call,allocator,block,size\n{rows}").as_bytes());
    match Recording::load(&file.0, ReadOptions::default(), &mut proceed)? {
        Recording::Calls(trace) => Ok(trace),
        Recording::Packets(_) => panic!("not calls"),
    }
}

#[test]
fn calls_are_read_and_end_with_nothing_allocated() {
    // Numbers are used again; 9 goes with its allocator, 8 and allocator 1 are left at the end of the file.
    let rows = "new,0,,\nallocate,0,9,100\nnew,1,,\nallocate,1,8,0\nreallocate_copy,0,9,300\n\
                reallocate_discard,0,9,200\nallocate,1,7,50\nfree,1,7,\nallocate,1,7,60\ndrop,0,,\nnew,0,,\n";
    let trace = calls(rows).unwrap();
    let steps: Vec<_> = trace.calls.iter().map(|call| (call.kind, call.allocator, call.slot, call.size)).collect();
    use CallKind::{Allocate, Drop, Free, New, ReallocateCopy, ReallocateDiscard, Release};
    let expected = [
        (New, 0, 0, 0),
        (Allocate, 0, 0, 100),
        (New, 1, 0, 0),
        (Allocate, 1, 1, 1),
        (ReallocateCopy, 0, 0, 300),
        (ReallocateDiscard, 0, 0, 200),
        (Allocate, 1, 2, 50),
        (Free, 1, 2, 0),
        (Allocate, 1, 2, 60),
        (Release, 0, 0, 0),
        (Drop, 0, 0, 0),
        (New, 0, 0, 0),
        (Drop, 0, 0, 0),
        (Release, 1, 1, 0),
        (Release, 1, 2, 0),
        (Drop, 1, 0, 0),
    ];
    assert_eq!(steps, expected);
    assert_eq!((trace.slots, trace.allocators, trace.units()), (3, 2, 7));
    assert_eq!((trace.bytes, trace.smallest, trace.largest), (710, 0, 300));
    assert_eq!((trace.peak_bytes, trace.peak_op), (300, 5));
    let program = Program::from(trace);
    for competitor in competitors() {
        let found = run(&program, &competitor).unwrap();
        assert_eq!(found.moments.last().unwrap().live_bytes, 0);
    }
}

#[test]
fn calls_that_make_no_sense_are_refused_with_their_line() {
    let message = |rows: &str| {
        let text = calls(&format!("new,0,,\nallocate,0,1,10\n{rows}\n")).unwrap_err().to_string();
        text.split_once(": line 4: ").unwrap_or_else(|| panic!("{text}")).1.to_owned()
    };
    assert_eq!(message("new,0,,"), "allocator is `0`; allowed: one that there is not yet");
    for call in ["drop,5,,", "allocate,5,2,10"] {
        assert_eq!(message(call), "allocator is `5`; allowed: one that was made by `new` and not dropped");
    }
    assert_eq!(message("allocate,0,1,10"), "block is `1`; allowed: one that is not allocated");
    for call in ["free,0,2,", "reallocate_copy,0,2,5", "reallocate_discard,0,2,5"] {
        assert_eq!(message(call), "block is `2`; allowed: one that is allocated");
    }
    assert_eq!(message("allocate,0,2,-5"), "size is `-5`; allowed: 0 to 1073741824 bytes");
    assert_eq!(message("allocate,0,2,"), "size is ``; allowed: 0 to 1073741824 bytes");
    assert_eq!(message("free,0,,"), "block is ``; allowed: a whole number");
    assert!(message("munmap,0,1,5").starts_with("call is `munmap`; allowed: new, drop, allocate"));
    assert_eq!(message("free,0,1"), "columns: 3; expected: 4");
    assert!(calls("").unwrap_err().to_string().ends_with("holds no allocations"));
    let both = calls("new,0,,\nnew,1,,\nallocate,0,1,5\nfree,1,1,\n").unwrap_err().to_string();
    assert!(both.ends_with("line 5: allocator is `1`; allowed: the one that the block came from"), "{both}");
}

#[test]
fn the_shared_call_traces_replay() {
    let Some(directory) = shared_traces() else { return };
    for (name, units, largest) in [("fec_stream", 199_998, 31_296), ("fec_block", 108_459, 74_016)] {
        let path = directory.join(format!("calls/{name}.csv.gz"));
        let Ok(Recording::Calls(trace)) = Recording::load(&path, ReadOptions::default(), &mut proceed) else {
            panic!("{name} is no call trace");
        };
        assert_eq!((trace.units(), trace.largest), (units, largest));
        let program = Program::from(trace);
        for competitor in competitors() {
            run(&program, &competitor).unwrap();
        }
    }
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
        let trace = Trace::load(&file.0, ReadOptions::default(), &mut watch)?;
        let program = Program::from(Plan::new(&trace, &Options::default(), &mut watch)?);
        let mut runner = Runner::new(&program, &Competitor::Pktalloc(Setup::default()))?;
        runner.first_pass(&mut watch)?;
        runner.round(1, &mut || match watch(Phase::Timing, 0, 0) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        })
    };
    // Planning, verifying (twice), one round.
    for step in 1..5 {
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
    let load = |name: &str| Trace::load(&directory.join(name), ReadOptions::default(), &mut proceed).unwrap();
    let facts = |plan: &Plan| (plan.packets, plan.bytes, plan.peak_packets);

    let quic = load("quic_server_sent_acked.csv.gz");
    let held = plan(&quic, None);
    assert_eq!(facts(&held), (9_769, 13_187_213, 124));
    assert_eq!(held.counts, Counts { recorded: 9_722, forever: 47, ruled: 0 });
    let desktop = load("pcpp_example.csv.gz");
    assert_eq!(facts(&plan(&desktop, None)), (4_631, 3_738_523, 26));
    let rtp = load("trex_rtp_250k.csv.gz");
    assert_eq!(facts(&plan(&rtp, None)), (4_092, 3_835_300, 1_024));

    let lte = Link::load(&directory.join("lte_verizon_short_down.csv.gz"), &mut proceed).unwrap();
    for trace in [&quic, &desktop, &rtp] {
        for rule in [Some(Rule::Depth(64)), Some(Rule::Delay(100_000_000)), Some(Rule::Link(lte.clone()))] {
            let plan = Plan::new(trace, &Options { rule, copies: 3 }, &mut proceed).unwrap();
            assert_eq!(sizes(&plan).len() as u64, 2 * plan.packets);
        }
        for competitor in competitors() {
            run(&Program::from(plan(trace, None)), &competitor).unwrap();
        }
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
        match Trace::load(&file.0, ReadOptions::default(), &mut proceed) {
            Ok(trace) => {
                prop_assert!(!trace.packets().is_empty());
                prop_assert!(trace.packets().is_sorted_by_key(Packet::arrival));
                sizes(&plan(&trace, None));
            }
            Err(error) => {
                let text = error.to_string();
                prop_assert!(text.starts_with(file.0.to_str().unwrap()), "{}", text);
                prop_assert!(!text.contains('\n'), "{}", text);
            }
        }
        // Whatever it is, to take it for a link is safe too.
        drop(Link::load(&file.0, &mut proceed));
    }
}
