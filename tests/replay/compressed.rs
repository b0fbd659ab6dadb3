//! gzip and zstd, whole, cut off and damaged.

use pktalloc::replay::{Error, Fault, Note, Place};

use crate::files::{Big, Little, gzip, pcap, pcapng, zstd};
use crate::support::{arrivals, fault, load, strict_fault};

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
        assert_eq!(refused, 8, "the checksum counts");
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
