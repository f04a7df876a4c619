//! The program loads and runs on this kernel. Needs the right to load BPF programs.
use std::mem::MaybeUninit;

use haflinger_xdp::program::HaflingerSkelBuilder;
use libbpf_rs::ProgramInput;
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};

#[test]
fn what_is_not_ip_passes() {
    let mut object = MaybeUninit::uninit();
    let skeleton = HaflingerSkelBuilder::default().open(&mut object).unwrap().load().unwrap();
    let mut frame = [0_u8; 64];
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    let input = ProgramInput { data_in: Some(&frame), ..Default::default() };
    let output = skeleton.progs.haflinger.test_run(input).unwrap();
    assert_eq!(output.return_value, 2);
}
