//! What is read of pcap and pcapng files.

use pktalloc::replay::{Format, Place};

use crate::files::{Big, Little, MICROSECONDS, NANOSECONDS, Writer, pcap, pcapng};
use crate::support::{arrivals, complaint, fault, load, plan, sizes};

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
fn a_simple_packet_is_kept_up_to_the_snap_length() {
    let section = |snap: u32| Writer::new(Little).section().block(1, |body| body.u16(1).u16(0).u32(snap));
    let simple = |writer: Writer, size, kept| writer.block(3, |body| body.u32(size).raw(&vec![1; kept]));
    assert_eq!(arrivals(&simple(section(96), 1500, 96).bytes), [(0, 1500)]);
    let short = simple(section(0), 1500, 96).bytes;
    assert_eq!(complaint(&short), "captured length is 1500; allowed: the 96 bytes that the block holds");
}
