//! Two CPUs at once: on the same flow, for the last ports, at the end of a connection and at the
//! beginning of the next. Whoever is first, the table is whole afterwards.

use std::collections::HashSet;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::Barrier;

use haflinger_xdp::program::types;
use libbpf_rs::libbpf_sys::{bpf_prog_test_run_opts, bpf_test_run_opts};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::capacity::{is_consistent, numbered};
use crate::network::{Side, bytes_of, skipped};
use crate::packets::{Ends, Hop, TCP};
use crate::world::{Size, World, in_a_world};
use crate::{DROP, FAMILIES, Flags, PASS, REDIRECT, handshake, segment};

/// An emulated machine is a hundred times slower.
fn many(count: u32) -> u32 {
    if std::env::var_os("HAFLINGER_GUEST").is_some() { count / 100 } else { count }
}

/// The program, for whichever thread runs it.
#[derive(Clone, Copy)]
struct Runner {
    program: RawFd,
    interfaces: [u32; 2],
}

impl Runner {
    fn of(world: &World) -> Self {
        let interfaces = [Side::Client, Side::Backend].map(|side| world.interface_of(side));
        Self { program: world.program().as_raw_fd(), interfaces }
    }

    /// The verdict on a segment. Runs on the CPU of this thread.
    fn send(self, side: Side, ends: Ends, flags: Flags) -> u32 {
        let frame = side.entering(&segment(TCP, ends, Hop::default(), flags, b"payload"));
        let length = u32::try_from(frame.len()).unwrap();
        let ingress = self.interfaces[usize::from(side == Side::Backend)];
        let context = [0, length, 0, ingress, 0, 0_u32];
        let mut options = bpf_test_run_opts {
            sz: size_of::<bpf_test_run_opts>() as u64,
            data_in: frame.as_ptr().cast(),
            data_size_in: length,
            ctx_in: context.as_ptr().cast(),
            ctx_size_in: u32::try_from(size_of_val(&context)).unwrap(),
            ..Default::default()
        };
        // SAFETY: the options point to the frame and the context, which outlive the call.
        let code = unsafe { bpf_prog_test_run_opts(self.program, &raw mut options) };
        assert_eq!(code, 0, "a test run");
        options.retval
    }
}

/// Runs a test in a world, with two CPUs that this process may use.
fn on_two_cpus(size: Size, test: impl FnOnce(&mut World, [usize; 2]) + Send + 'static) {
    let allowed = sched_getaffinity(None).unwrap();
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let (Some(one), Some(other)) = (cpus.next(), cpus.next()) else {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        skipped(&name, "this machine has one CPU");
        return;
    };
    in_a_world(size, move |world| test(world, [one, other]));
}

/// Runs a task on both CPUs, each round begun by both together. It says what is wrong instead of
/// failing at once, which the other would wait for.
fn together(
    world: &World,
    cpus: [usize; 2],
    rounds: u32,
    task: impl Fn(Runner, usize, u32) -> Result<(), String> + Sync,
) {
    let (runner, barrier) = (Runner::of(world), Barrier::new(2));
    let run = &|number: usize| {
        let mut set = CpuSet::new();
        set.set(cpus[number]);
        sched_setaffinity(None, &set).unwrap();
        let round = |round| {
            barrier.wait();
            task(runner, number, round)
        };
        (0..rounds).map(round).collect::<Vec<_>>()
    };
    let said = std::thread::scope(|scope| {
        [0, 1].map(|number| scope.spawn(move || run(number))).map(|thread| thread.join().unwrap())
    });
    let wrong: Vec<_> = said.into_iter().flatten().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Whether a verdict is one of those that are right.
fn one_of(verdict: u32, right: &[u32]) -> Result<(), String> {
    if right.contains(&verdict) { Ok(()) } else { Err(format!("verdict {verdict}")) }
}

/// What a backend sees of the flows: no two are alike.
fn sources(flows: &[types::flow]) -> usize {
    let source = |flow: &types::flow| {
        let ends = [bytes_of(&flow.backend), bytes_of(&flow.source)].concat();
        (ends, flow.backend_port, flow.source_port)
    };
    let seen: HashSet<_> = flows.iter().map(source).collect();
    assert_eq!(seen.len(), flows.len(), "two flows share a source");
    seen.len()
}

#[test]
fn a_flow_that_two_cpus_open_at_once_is_one_flow() {
    on_two_cpus(Size { opening: 8192, established: 16 }, |world, cpus| {
        let family = FAMILIES[1];
        family.serve(world, TCP, 4);
        let rounds = many(2_000);
        together(world, cpus, rounds, |runner, _, round| {
            one_of(runner.send(Side::Client, numbered(family, round), Flags::Syn), &[REDIRECT])
        });
        assert_eq!(sources(&is_consistent(world)), rounds as usize);
    });
}

#[test]
fn the_last_ports_are_given_once_whoever_asks() {
    const PORTS: u16 = 64;
    on_two_cpus(Size { opening: 8192, established: 16 }, |world, cpus| {
        let family = FAMILIES[0];
        let pool = (family.source.parse().unwrap(), 30_000, 30_000 + PORTS - 1);
        let pool = world.sources(&[pool]);
        world.serve(&family.wish(TCP, 1), pool);
        // Hundreds of attempts of sixteen draws each miss no port.
        together(world, cpus, many(1_000).max(200), |runner, cpu, round| {
            let client = numbered(family, 2 * round + u32::try_from(cpu).unwrap());
            one_of(runner.send(Side::Client, client, Flags::Syn), &[REDIRECT, DROP])
        });
        assert_eq!(sources(&is_consistent(world)), usize::from(PORTS));
    });
}

#[test]
fn the_end_of_a_connection_and_the_next_one_on_its_tuple_may_meet() {
    on_two_cpus(Size { opening: 64, established: 64 }, |world, cpus| {
        let family = FAMILIES[0];
        family.serve(world, TCP, 2);
        let client = family.ends();
        for _ in 0..many(300).max(10) {
            // Over, so that a SYN opens another.
            let backend = handshake(world, client);
            Runner::of(world).send(Side::Backend, backend, Flags::Rst);
            together(world, cpus, 4, |runner, cpu, round| match (cpu, round % 2) {
                (0, _) => one_of(runner.send(Side::Client, client, Flags::Syn), &[REDIRECT]),
                // Its flow may be gone in this moment: then it is nobody's.
                (_, 0) => {
                    one_of(runner.send(Side::Backend, backend, Flags::Fin), &[REDIRECT, PASS])
                }
                _ => one_of(runner.send(Side::Client, client, Flags::Rst), &[REDIRECT, DROP]),
            });
            assert_eq!(sources(&is_consistent(world)), 1, "one tuple, one flow");
            world.sweep(100_000);
            assert!(is_consistent(world).is_empty());
        }
    });
}

#[test]
fn no_two_of_two_hundred_thousand_flows_share_a_source() {
    let half = many(100_000);
    let size = Size { opening: 2 * half + half / 2, established: 16 };
    on_two_cpus(size, move |world, cpus| {
        let family = FAMILIES[0];
        let address = |host| format!("10.0.0.{host}").parse().unwrap();
        let pool: Vec<_> = (1..=8).map(|host| (address(host), 20_000, 59_999)).collect();
        let pool = world.sources(&pool);
        let (service, _) = world.serve(&family.wish(TCP, 1), pool);
        world.change_service(service, |service| service.timeouts.opening = 36_000);
        together(world, cpus, 1, |runner, cpu, _| {
            let first = u32::try_from(cpu).unwrap() * half;
            (first..first + half).try_for_each(|number| {
                let client = numbered(family, number);
                // Of so many ports one is free at a later attempt.
                let opens = |_| runner.send(Side::Client, client, Flags::Syn) == REDIRECT;
                (0..10).any(opens).then_some(()).ok_or_else(|| format!("{client:?}"))
            })
        });
        let evicted = world.flow_counters().evicted[0];
        let flows = is_consistent(world);
        assert_eq!(sources(&flows) as u64 + evicted, u64::from(2 * half));
    });
}
