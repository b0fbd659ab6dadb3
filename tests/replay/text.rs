//! Traces of packets as text.

use pktalloc::replay::{Error, Lifetime, Packet, Place};

use crate::support::{arrivals, fault, load};

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
