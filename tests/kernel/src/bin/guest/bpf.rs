//! The three calls of bpf(2) that a data path cannot do without, written out: what is proven here
//! is the machine, not a library. Layouts after `union bpf_attr`, include/uapi/linux/bpf.h.

use std::ffi::{CStr, CString, c_int};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const MAP_CREATE: c_int = 0;
const PROG_LOAD: c_int = 5;
const OBJ_PIN: c_int = 6;

const MAP_TYPE_HASH: u32 = 1;
const PROG_TYPE_XDP: u32 = 6;

/// `r0 = XDP_PASS; exit`.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
const LICENSE: &CStr = c"Apache-2.0";

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

#[repr(C)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// A hash map.
pub(crate) fn map() -> io::Result<OwnedFd> {
    let (map_type, max_entries) = (MAP_TYPE_HASH, 1024);
    let result = call(MAP_CREATE, &MapCreate { map_type, key_size: 4, value_size: 8, max_entries });
    result.map(owned)
}

/// An XDP program that passes everything.
pub(crate) fn program() -> io::Result<OwnedFd> {
    let load = ProgLoad {
        prog_type: PROG_TYPE_XDP,
        insn_cnt: 2,
        insns: PASS.as_ptr().addr() as u64,
        license: LICENSE.as_ptr().addr() as u64,
    };
    call(PROG_LOAD, &load).map(owned)
}

/// Gives a map or a program a name in the BPF file system.
pub(crate) fn pin(what: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let bpf_fd = u32::try_from(what.as_raw_fd()).map_err(io::Error::other)?;
    let pathname = path.as_ptr().addr() as u64;
    call(OBJ_PIN, &ObjPin { pathname, bpf_fd, file_flags: 0 }).map(|_| ())
}

fn call<A>(command: c_int, attributes: &A) -> io::Result<c_int> {
    let size = std::mem::size_of::<A>();
    // SAFETY: the kernel reads `size` bytes of the attributes and what they point to, all of
    // which the callers keep until this returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
    match c_int::try_from(result) {
        Ok(descriptor @ 0..) => Ok(descriptor),
        _ => Err(io::Error::last_os_error()),
    }
}

fn owned(descriptor: c_int) -> OwnedFd {
    // SAFETY: the kernel has just given it to this process, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
