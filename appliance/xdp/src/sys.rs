//! libbpf's plain functions, made safe: descriptors in, results out.

use std::ffi::{CString, c_void};
use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use libbpf_rs::libbpf_sys as sys;

use crate::mapped::{Plain, bytes_of, value_of};

fn done(code: i32) -> io::Result<()> {
    if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) }
}

fn descriptor(code: i32) -> io::Result<OwnedFd> {
    done(code)?;
    // SAFETY: libbpf returned a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(code) })
}

/// The size of a struct of the kernel's interface: far below 4 GiB.
fn length_of<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Pins a map, program or link.
pub(crate) fn pin(what: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = text(path)?;
    // SAFETY: the text outlives the call.
    done(unsafe { sys::bpf_obj_pin(what.as_raw_fd(), path.as_ptr()) })
}

/// Opens what is pinned there.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = text(path)?;
    // SAFETY: the text outlives the call.
    descriptor(unsafe { sys::bpf_obj_get(path.as_ptr()) })
}

/// How a program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// By the interface's driver.
    Native,
    /// By the network stack: any interface, at several times the cost.
    Generic,
}

/// Attaches the program; the link's end is the program's.
pub(crate) fn attach(
    program: BorrowedFd<'_>,
    interface: u32,
    mode: AttachMode,
) -> io::Result<OwnedFd> {
    let flags = match mode {
        AttachMode::Native => sys::XDP_FLAGS_DRV_MODE,
        AttachMode::Generic => sys::XDP_FLAGS_SKB_MODE,
    };
    let options = sys::bpf_link_create_opts {
        sz: size_of::<sys::bpf_link_create_opts>() as sys::size_t,
        flags,
        ..Default::default()
    };
    // SAFETY: the options outlive the call.
    descriptor(unsafe {
        sys::bpf_link_create(program.as_raw_fd(), interface.cast_signed(), sys::BPF_XDP, &options)
    })
}

/// Puts another program into the place of the link's, between two packets.
pub(crate) fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no options are passed.
    done(unsafe { sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null()) })
}

/// Takes the link's program off its interface.
pub(crate) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    done(unsafe { sys::bpf_link_detach(link.as_raw_fd()) })
}

/// The interface and program of an XDP link; interface 0 when that has gone.
pub(crate) fn link_target(link: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let mut info = sys::bpf_link_info::default();
    let mut len = length_of::<sys::bpf_link_info>();
    // SAFETY: the info is as long as is said.
    done(unsafe { sys::bpf_link_get_info_by_fd(link.as_raw_fd(), &mut info, &mut len) })?;
    if info.type_ != sys::BPF_LINK_TYPE_XDP {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: of an XDP link this is the member that was filled.
    Ok((unsafe { info.__bindgen_anon_1.xdp.ifindex }, info.prog_id))
}

/// What hangs on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hanging {
    /// Identifier of the program by the driver, or 0.
    pub(crate) native: u32,
    /// Identifier of the program by the network stack, or 0.
    pub(crate) generic: u32,
    /// The driver's abilities (kernel 6.3): `NETDEV_XDP_ACT_*`; 0 when not known.
    pub(crate) features: u64,
}

/// Asks for the programs on an interface.
pub(crate) fn query(interface: u32) -> io::Result<Hanging> {
    let mut options = sys::bpf_xdp_query_opts {
        sz: size_of::<sys::bpf_xdp_query_opts>() as sys::size_t,
        ..Default::default()
    };
    // SAFETY: the options outlive the call.
    done(unsafe { sys::bpf_xdp_query(interface.cast_signed(), 0, &mut options) })?;
    let attached = u32::from(options.attach_mode);
    let by = |mode, id| if attached == mode { options.prog_id.max(id) } else { id };
    Ok(Hanging {
        native: by(sys::XDP_ATTACHED_DRV, options.drv_prog_id),
        generic: by(sys::XDP_ATTACHED_SKB, options.skb_prog_id),
        features: options.feature_flags,
    })
}

/// The name of a loaded program.
pub(crate) fn program_name(id: u32) -> io::Result<String> {
    // SAFETY: a number is passed.
    let program = descriptor(unsafe { sys::bpf_prog_get_fd_by_id(id) })?;
    let mut info = sys::bpf_prog_info::default();
    let mut len = length_of::<sys::bpf_prog_info>();
    // SAFETY: the info is as long as is said, and asks for nothing beyond itself.
    done(unsafe { sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut len) })?;
    let name: Vec<u8> =
        info.name.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// What a map is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapShape {
    pub(crate) key_bytes: u32,
    pub(crate) value_bytes: u32,
    pub(crate) entries: u32,
}

/// Asks a map what it is made of.
pub(crate) fn map_shape(map: BorrowedFd<'_>) -> io::Result<MapShape> {
    let mut info = sys::bpf_map_info::default();
    let mut len = length_of::<sys::bpf_map_info>();
    // SAFETY: the info is as long as is said.
    done(unsafe { sys::bpf_map_get_info_by_fd(map.as_raw_fd(), &mut info, &mut len) })?;
    Ok(MapShape {
        key_bytes: info.key_size,
        value_bytes: info.value_size,
        entries: info.max_entries,
    })
}

/// Runs a program of the syscall kind on `context`, which it may change; what it returns.
pub(crate) fn run<T: Plain>(program: BorrowedFd<'_>, context: &mut T) -> io::Result<u32> {
    let mut options = sys::bpf_test_run_opts {
        sz: size_of::<sys::bpf_test_run_opts>() as sys::size_t,
        ctx_in: std::ptr::from_mut(context).cast::<c_void>().cast_const(),
        ctx_size_in: length_of::<T>(),
        ..Default::default()
    };
    // SAFETY: the context is as long as is said, and any bytes are a value of it.
    done(unsafe { sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) })?;
    Ok(options.retval)
}

/// A map that is asked by key.
#[derive(Debug)]
pub(crate) struct KernelMap<K, V> {
    map: OwnedFd,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Plain, V: Plain> KernelMap<K, V> {
    /// Its layout was compared with the types when it was loaded.
    pub(crate) fn new(map: OwnedFd) -> io::Result<Self> {
        let shape = map_shape(map.as_fd())?;
        let expected = (size_of::<K>(), size_of::<V>());
        if (shape.key_bytes as usize, shape.value_bytes as usize) != expected {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the map has another layout"));
        }
        Ok(Self { map, types: PhantomData })
    }

    pub(crate) fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::default();
        // SAFETY: key and value are as long as the map says, which was compared.
        let code = unsafe {
            sys::bpf_map_lookup_elem(
                self.map.as_raw_fd(),
                bytes_of(key).as_ptr().cast(),
                std::ptr::from_mut(&mut value).cast(),
            )
        };
        found(code).map(|found| found.then_some(value))
    }

    pub(crate) fn insert(&self, key: &K, value: &V) -> io::Result<()> {
        // SAFETY: key and value are as long as the map says, which was compared.
        done(unsafe {
            sys::bpf_map_update_elem(
                self.map.as_raw_fd(),
                bytes_of(key).as_ptr().cast(),
                bytes_of(value).as_ptr().cast(),
                u64::from(sys::BPF_ANY),
            )
        })
    }

    /// Whether it was there.
    pub(crate) fn remove(&self, key: &K) -> io::Result<bool> {
        // SAFETY: the key is as long as the map says, which was compared.
        let code = unsafe {
            sys::bpf_map_delete_elem(self.map.as_raw_fd(), bytes_of(key).as_ptr().cast())
        };
        found(code)
    }

    /// The keys at some time while it looks: with concurrent changes some may come twice or not.
    pub(crate) fn keys(&self) -> io::Result<Vec<K>> {
        let (mut keys, mut last) = (Vec::new(), None::<K>);
        loop {
            let mut next = K::default();
            let before = last.as_ref().map_or(std::ptr::null(), |key| bytes_of(key).as_ptr());
            // SAFETY: both keys are as long as the map says, which was compared.
            let code = unsafe {
                sys::bpf_map_get_next_key(
                    self.map.as_raw_fd(),
                    before.cast(),
                    std::ptr::from_mut(&mut next).cast(),
                )
            };
            if !found(code)? {
                return Ok(keys);
            }
            keys.push(next);
            last = Some(next);
        }
    }
}

fn found(code: i32) -> io::Result<bool> {
    match done(code) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// An array that has an element for each CPU.
#[derive(Debug)]
pub(crate) struct PerCpu<V> {
    map: OwnedFd,
    cpus: usize,
    value: PhantomData<fn() -> V>,
}

impl<V: Plain> PerCpu<V> {
    pub(crate) fn new(map: OwnedFd) -> io::Result<Self> {
        let shape = map_shape(map.as_fd())?;
        if shape.value_bytes as usize != size_of::<V>() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the map has another layout"));
        }
        let cpus = libbpf_rs::num_possible_cpus().map_err(io::Error::other)?;
        Ok(Self { map, cpus, value: PhantomData })
    }

    fn stride() -> usize {
        size_of::<V>().next_multiple_of(8)
    }

    /// The values of all CPUs for one element.
    pub(crate) fn get(&self, at: u32) -> io::Result<Vec<V>> {
        let mut bytes = vec![0_u8; Self::stride() * self.cpus];
        // SAFETY: the buffer has room for a value of each possible CPU.
        done(unsafe {
            sys::bpf_map_lookup_elem(
                self.map.as_raw_fd(),
                std::ptr::from_ref(&at).cast(),
                bytes.as_mut_ptr().cast(),
            )
        })?;
        Ok(bytes.chunks(Self::stride()).filter_map(value_of).collect())
    }

    /// Sets an element to zero on every CPU.
    pub(crate) fn clear(&self, at: u32) -> io::Result<()> {
        let bytes = vec![0_u8; Self::stride() * self.cpus];
        // SAFETY: the buffer has a value for each possible CPU.
        done(unsafe {
            sys::bpf_map_update_elem(
                self.map.as_raw_fd(),
                std::ptr::from_ref(&at).cast(),
                bytes.as_ptr().cast(),
                u64::from(sys::BPF_ANY),
            )
        })
    }
}
