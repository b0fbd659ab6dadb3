//! What is wrong with the end of a capture: read up to there, and said.

use pktalloc::replay::{Error, Fault, Note, Place};

use crate::files::{Big, Little, Writer, pcap, pcapng};
use crate::support::{complaint, fault, load, strict_fault};

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
fn a_length_that_was_damaged_is_not_taken_for_the_end() {
    // The second of three records claims more than anything that was captured.
    let record = |writer: Writer, captured: u32, size: u32| writer.u32(0).u32(0).u32(captured).u32(size).raw(&[1; 60]);
    let bytes = record(record(pcap(Little), 70_000, 70_000), 60, 60).bytes;
    assert_eq!(complaint(&bytes), "captured length is 70000; allowed: at most 65535 bytes, the snap length");
}
