//! Compiles the XDP program, and what watches the kernel for it, and generates their skeletons: the
//! object as bytes, its maps, and a Rust type for every type in its BTF.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "program/haflinger.bpf.c";

/// What counts changes beside it, an object of its own: a kernel may take the one without the other.
const WATCH: &str = "program/watch.bpf.c";

/// With the feature `bench`.
const HARNESS: &str = "program/harness.bpf.c";

fn main() {
    println!("cargo:rerun-if-changed=program");
    println!("cargo:rerun-if-env-changed=CLANG");
    let clang = env::var_os("CLANG").map_or_else(|| PathBuf::from("clang"), PathBuf::from);
    if let Err(error) = Command::new(&clang).arg("--version").output() {
        panic!(
            "{} compiles the XDP program and cannot be run ({error}): install the Debian \
             packages clang, llvm, libelf-dev, zlib1g-dev and linux-libc-dev, or name another \
             compiler in the environment variable CLANG",
            clang.display()
        );
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    compile(&clang, SOURCE, &out.join("haflinger.skel.rs"));
    compile(&clang, WATCH, &out.join("watch.skel.rs"));
    if env::var_os("CARGO_FEATURE_BENCH").is_some() {
        compile(&clang, HARNESS, &out.join("harness.skel.rs"));
    }
}

fn compile(clang: &Path, source: &str, skeleton: &Path) {
    SkeletonBuilder::new()
        .source(source)
        .clang(clang)
        .clang_args(arguments())
        .build_and_generate(skeleton)
        .unwrap_or_else(|error| panic!("{source}: {error:#}"));
}

/// The instruction set is the third, for atomic exchanges (kernel 5.12); warnings are errors.
fn arguments() -> Vec<String> {
    let mut arguments: Vec<String> =
        ["-mcpu=v3", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
            .map(String::from)
            .into();
    // Debian keeps <asm/types.h> in a folder that clang does not search for the BPF target.
    if let Ok(machine) = env::var("CARGO_CFG_TARGET_ARCH") {
        let folder = format!("/usr/include/{machine}-linux-gnu");
        if Path::new(&folder).is_dir() {
            arguments.push(format!("-I{folder}"));
        }
    }
    arguments
}
