//! What is damaged, or no capture: refused by name, with the place.

use std::path::Path;

use pktalloc::replay::{Error, Fault, Link, MAX_PACKET_BYTES, Note, Packet, Place, ReadOptions, Trace};
use proptest::prelude::*;

use crate::files::{Big, Little, MICROSECONDS, NANOSECONDS, Writer, gzip, pcap, pcapng};
use crate::support::{TestFile, arrivals, complaint, fault, load, plan, proceed, sizes};

#[test]
fn more_captured_than_there_was_is_refused() {
    let (found, allowed) = ("100".to_owned(), "at most the 40 bytes on the wire".to_owned());
    let expected = Fault::Value { name: "captured length", found, allowed };
    let place = Place::Packet { number: 3, byte: 180 };
    assert_eq!(fault(&pcap(Little).pcap_record(102, 0, 100, 40).bytes), (place, expected.clone()));
    let place = Place::Packet { number: 3, byte: 240 };
    let bytes = pcapng(Big).enhanced(0, 7_000_000, 100, 40).bytes;
    assert_eq!(fault(&bytes), (place, expected));
    let nothing = pcap(Big).pcap_record(102, 0, 100, 0).bytes;
    assert_eq!(complaint(&nothing), "captured length is 100; allowed: at most the 0 bytes on the wire");
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
