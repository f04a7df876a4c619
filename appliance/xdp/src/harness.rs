//! Times the attached program by the kernel's test runs. For benchmarks only (feature `bench`).
//!
//! A test run costs what the program costs, and nothing of a driver: no frame is received or
//! sent. It is repeated on one frame, so `program/harness.bpf.c` lays that out anew each time;
//! the same with a program that does nothing is measured beside it.

use std::ffi::c_void;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use libbpf_rs::libbpf_sys as sys;
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use libbpf_rs::{MapCore as _, MapFlags, OpenObject, Program};
use rustix::time::{ClockId, clock_gettime};

use program::{HarnessSkel, HarnessSkelBuilder};

#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::restriction,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    non_snake_case,
    reason = "generated"
)]
mod program {
    include!(concat!(env!("OUT_DIR"), "/harness.skel.rs"));
}

/// Frames are at least so long, since so much of each is laid out.
pub const FRAME_MIN: usize = 96;

/// Bits of a flow's number that are added to the client's port; the others are added to its
/// address.
pub const PORT_BITS: u32 = 10;

/// Bytes that an answer may have more than the frame.
const GROWTH: usize = 512;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Laying out alone.
    Nothing,
    /// Laying out, and the program.
    Program,
}

/// Packets of one flow, or of many that differ in the client.
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    /// The frame of the first flow, of [`FRAME_MIN`] bytes or more: Ethernet without a tag, then
    /// IP without options or extension headers.
    pub frame: &'a [u8],
    /// Whether it is IPv6.
    pub v6: bool,
    /// The last 32 bits of the first client's address.
    pub address: u32,
    /// The first client's port; with the flow's bits no port may pass 65,535.
    pub port: u16,
    /// Binary logarithm of the number of flows, 31 at most.
    pub flows_bits: u32,
}

/// What a run answers.
#[derive(Clone, Debug)]
pub struct Run {
    /// The verdict, `enum xdp_action`.
    pub verdict: u32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

/// The program on an interface, and what hands frames to it.
pub struct Harness {
    interface: u32,
    program: OwnedFd,
    skeleton: HarnessSkel<'static>,
}

impl Harness {
    /// For the program that is attached to an interface of the calling thread's network
    /// namespace, in which all runs have to be made.
    pub fn of(interface: u32) -> io::Result<Self> {
        let mut id = 0;
        // SAFETY: the number outlives the call.
        let code = unsafe { sys::bpf_xdp_query_id(interface.cast_signed(), 0, &mut id) };
        if code < 0 {
            return Err(io::Error::from_raw_os_error(-code));
        }
        let program = Program::fd_from_id(id).map_err(io::Error::other)?;
        // The skeleton borrows it for as long as the process runs, and so does a benchmark.
        let object: &'static mut MaybeUninit<OpenObject> =
            Box::leak(Box::new(MaybeUninit::uninit()));
        let open = HarnessSkelBuilder::default().open(object).map_err(io::Error::other)?;
        let skeleton = open.load().map_err(io::Error::other)?;
        let nothing = skeleton.progs.nothing.as_fd();
        for (subject, target) in [(0_u32, nothing), (1, program.as_fd())] {
            let value = target.as_raw_fd().to_ne_bytes();
            let subjects = &skeleton.maps.subjects;
            let updated = subjects.update(&subject.to_ne_bytes(), &value, MapFlags::ANY);
            updated.map_err(io::Error::other)?;
        }
        Ok(Self { interface, program, skeleton })
    }

    /// Runs the program once, as for a frame that the interface received.
    pub fn run(&self, frame: &[u8]) -> io::Result<Run> {
        let (run, _) = test_run(self.program.as_fd(), self.interface, frame, 1)?;
        Ok(run)
    }

    /// Runs `repeat` packets, flows taking turns in a fixed disorder. The verdict of the last,
    /// and the processor time that all took.
    pub fn time(
        &mut self,
        subject: Subject,
        packets: &Packets<'_>,
        repeat: u32,
    ) -> io::Result<(u32, Duration)> {
        let too_short = || io::Error::new(io::ErrorKind::InvalidInput, "the frame is too short");
        let laid_out = packets.frame.get(..FRAME_MIN).ok_or_else(too_short)?;
        let data = self.skeleton.maps.bss_data.as_deref_mut();
        let data = data.ok_or_else(|| io::Error::other("the harness has no plan"))?;
        for (word, bytes) in data.plan.frame.iter_mut().zip(laid_out.chunks_exact(8)) {
            let bytes = bytes.try_into().map_err(io::Error::other)?;
            *word = u64::from_ne_bytes(bytes);
        }
        data.plan.v6 = u32::from(packets.v6);
        data.plan.address = packets.address;
        data.plan.port = packets.port.into();
        data.plan.mask = (1 << packets.flows_bits) - 1;
        let program = match subject {
            Subject::Nothing => self.skeleton.progs.before_nothing.as_fd(),
            Subject::Program => self.skeleton.progs.before_program.as_fd(),
        };
        let (run, elapsed) = test_run(program, self.interface, packets.frame, repeat)?;
        Ok((run.verdict, elapsed))
    }
}

/// The time is this thread's own on a processor, so that others who run in between do not count.
/// The kernel's figure is in whole nanoseconds a run; one system call for all runs does not show.
fn test_run(
    program: BorrowedFd<'_>,
    interface: u32,
    frame: &[u8],
    repeat: u32,
) -> io::Result<(Run, Duration)> {
    let size = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
    let mut out = vec![0; frame.len() + GROWTH];
    let context = sys::xdp_md {
        data_end: size(frame.len())?,
        ingress_ifindex: interface,
        ..sys::xdp_md::default()
    };
    let mut options = sys::bpf_test_run_opts {
        sz: size_of::<sys::bpf_test_run_opts>() as sys::size_t,
        data_in: frame.as_ptr().cast::<c_void>(),
        data_size_in: size(frame.len())?,
        data_out: out.as_mut_ptr().cast::<c_void>(),
        data_size_out: size(out.len())?,
        ctx_in: std::ptr::from_ref(&context).cast::<c_void>(),
        ctx_size_in: size(size_of::<sys::xdp_md>())?,
        repeat: repeat.cast_signed(),
        ..Default::default()
    };
    let begin = spent()?;
    // SAFETY: each pointer leads to as many bytes as the size beside it says, and they outlive
    // the call.
    let code = unsafe { sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) };
    let elapsed = spent()?.saturating_sub(begin);
    if code < 0 {
        return Err(io::Error::from_raw_os_error(-code));
    }
    out.truncate(options.data_size_out as usize);
    Ok((Run { verdict: options.retval, frame: out }, elapsed))
}

/// Processor time of this thread so far.
fn spent() -> io::Result<Duration> {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).map_err(io::Error::other)
}
