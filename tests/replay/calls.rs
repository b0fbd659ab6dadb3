//! Traces of calls.

use pktalloc::replay::{CallKind, Program};

use crate::support::{calls, competitors, run};

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
