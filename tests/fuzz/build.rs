//! Compiles the XDP program for this machine, for the target that runs it in user space: with the
//! sanitizer and the coverage that the rest is built with.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = "program/host.c";

/// Where the program's own sources are.
const PROGRAM: &str = "../../appliance/xdp/program";

fn main() {
    println!("cargo:rerun-if-changed=program");
    println!("cargo:rerun-if-changed={PROGRAM}");
    println!("cargo:rerun-if-env-changed=CLANG");
    if env::var_os("CARGO_FEATURE_XDP").is_none() {
        return;
    }
    let clang = env::var_os("CLANG").map_or_else(|| PathBuf::from("clang"), PathBuf::from);
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let object = out.join("host.o");
    run(Command::new(clang).args(arguments()).args(["-c", SOURCE, "-o"]).arg(&object));
    let library = out.join("libhost.a");
    run(Command::new("ar").arg("crs").arg(&library).arg(&object));
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static:+whole-archive=host");
}

/// Warnings are errors. Packets are not aligned, and the program never asks that they are.
fn arguments() -> Vec<String> {
    let mut arguments: Vec<String> = ["-O1", "-g", "-fPIC", "-Wall", "-Wextra", "-Werror"]
        .into_iter()
        .chain([
            "-Wno-unused-function",
            "-Wno-unknown-attributes",
            "-fvisibility=hidden",
            "-fno-omit-frame-pointer",
        ])
        .chain(["-fsanitize=undefined", "-fno-sanitize=alignment", "-fsanitize-trap=undefined"])
        .map(String::from)
        .collect();
    arguments.extend(["-Iprogram".to_owned(), format!("-I{PROGRAM}")]);
    let sanitizers = env::var("CARGO_CFG_SANITIZE").unwrap_or_default();
    if sanitizers.split(',').any(|sanitizer| sanitizer == "address") {
        arguments.push("-fsanitize=address".to_owned());
    }
    if env::var_os("CARGO_CFG_FUZZING").is_some() {
        arguments.push("-fsanitize=fuzzer-no-link".to_owned());
    }
    arguments
}

fn run(command: &mut Command) {
    let program = Path::new(command.get_program()).to_owned();
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{}: {status}", program.display()),
        Err(error) => panic!(
            "{} compiles the XDP program for the fuzzer and cannot be run ({error}): install the \
             Debian packages clang and binutils",
            program.display()
        ),
    }
}
