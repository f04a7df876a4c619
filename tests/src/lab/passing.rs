//! An XDP program that passes every packet: somebody else's that holds an interface, or what a
//! virtual device needs that is sent frames by XDP.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

use super::Namespace;

/// `BPF_PROG_LOAD` and `BPF_LINK_CREATE` of <linux/bpf.h>.
const PROGRAM_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const PROGRAM_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;

/// `r0 = XDP_PASS; exit`
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];

/// The attributes of `BPF_PROG_LOAD`, as far as they are not zero.
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    program: *const u64,
    license: *const libc::c_char,
    rest: [u64; 12],
}

/// The attributes of `BPF_LINK_CREATE`, as far as they are not zero.
#[repr(C)]
struct Create {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
    rest: [u64; 4],
}

/// A program on an interface; it goes with the value.
#[derive(Debug)]
pub struct PassingProgram {
    _link: OwnedFd,
}

impl PassingProgram {
    /// Attaches one to `device`. Fails where one is attached already.
    pub fn attach(namespace: &Namespace, device: &str) -> Result<Self> {
        let name = CString::new(device)?;
        let link = namespace.enter(move || -> io::Result<OwnedFd> {
            // SAFETY: the name ends in a zero and outlives the call.
            let interface = unsafe { libc::if_nametoindex(name.as_ptr()) };
            if interface == 0 {
                return Err(io::Error::last_os_error());
            }
            link(&load()?, interface)
        })?;
        Ok(Self { _link: link.with_context(|| format!("attach a program to {device}"))? })
    }
}

fn load() -> io::Result<OwnedFd> {
    let attributes = Load {
        kind: PROGRAM_TYPE_XDP,
        instructions: 2,
        program: PASS.as_ptr(),
        license: c"Apache-2.0".as_ptr(),
        rest: [0; 12],
    };
    bpf(PROGRAM_LOAD, &attributes)
}

fn link(program: &OwnedFd, interface: u32) -> io::Result<OwnedFd> {
    let program = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
    let attributes =
        Create { program, interface, attach_type: ATTACH_TYPE_XDP, flags: 0, rest: [0; 4] };
    bpf(LINK_CREATE, &attributes)
}

/// A system call that answers a new descriptor.
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are plain data of the size that is told, and what they point to
    // outlives the call.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    let descriptor = i32::try_from(answer).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for this process, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
