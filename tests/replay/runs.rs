//! Programs that run on allocators.

use core::ops::ControlFlow;
use core::time::Duration;

use pktalloc::replay::{
    Competitor, Counts, Link, Options, Phase, Plan, Program, ReadOptions, Recording, Rule, Runner, Setup, Trace,
};

use crate::support::{calls, competitors, plan, proceed, run, shared_traces, sizes, trace};

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
        assert!(found.longest > Duration::ZERO, "{found:?}");
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
        assert!(runner.round(passes, &mut || Ok(())).unwrap() > Duration::from_millis(1));
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
    // With a sanitizer the malloc that other libraries lead to is not the program's.
    if cfg!(all(target_os = "linux", target_env = "gnu", not(pktalloc_asan))) {
        let error = run(&program, &Competitor::Library("libm.so.6".into())).unwrap_err();
        assert!(error.to_string().ends_with(": it has no malloc of its own"), "{error}");
    }
}

/// A program that is recorded ends with everything that it never freed. To drop that takes as long as there is much of
/// it, and is no call of malloc's.
#[test]
fn the_longest_call_is_one_about_a_block() {
    let blocks: String = (0..4000).map(|block| format!("allocate,0,{block},10000\n")).collect();
    let program = Program::from(calls(&format!("new,0,,\n{blocks}drop,0,,\n")).unwrap());
    for competitor in competitors() {
        let found = run(&program, &competitor).unwrap();
        assert!(["allocate", "free"].contains(&found.longest_call), "{competitor:?}: {found:?}");
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
