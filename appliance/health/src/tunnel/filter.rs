//! What the kernel hands to this room: classic BPF for the packet sockets. Pure.
//!
//! The sockets see every packet that reaches the host. The filter lets through what can answer a
//! probe and nothing else: TCP, no fragment, from a probed VIP, to one of our ports, by a wire.

use std::net::{IpAddr, Ipv6Addr};

use super::PORTS;

/// VIPs of one family that the filter tells apart. It compares one by one, for each packet to our
/// ports; with more of them, it lets through what comes from anywhere, and the claims decide.
pub(crate) const VIPS_MAX: usize = 64;

/// A packet is handed over up to this length: as much as a stream may have on its way to us, which
/// the network card may have put together, and two headers of full length.
pub(crate) const PACKET_BYTES_MAX: u32 = 4096;

/// One instruction: code, jumps when true and when false, operand (`struct sock_filter`).
pub(crate) type Instruction = (u16, u8, u8, u32);

// Codes of linux/bpf_common.h.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_INDEXED: u16 = 0x48;
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// The place at which the kernel shows the interface's number (`SKF_AD_OFF + SKF_AD_IFINDEX`).
const INTERFACE: u32 = 0xffff_f008;
/// The number of the loopback device in every network namespace. What this host says to itself
/// answers no probe.
const LOOPBACK: u32 = 1;
const TCP: u32 = 6;

const DROP: Instruction = (RETURN, 0, 0, 0);
const ACCEPT: Instruction = (RETURN, 0, 0, PACKET_BYTES_MAX);

/// For a socket that is there to keep its port and to hear nothing.
pub(crate) const DROP_ALL: [Instruction; 1] = [DROP];

/// For IPv4 packets, from their network header on.
pub(crate) fn of_ipv4(vips: &[IpAddr]) -> Vec<Instruction> {
    let mut program = vec![
        (LOAD_WORD, 0, 0, INTERFACE),
        (JUMP_EQUAL, 0, 1, LOOPBACK),
        DROP,
        (LOAD_BYTE, 0, 0, 9),
        (JUMP_EQUAL, 1, 0, TCP),
        DROP,
        // More fragments, or a fragment's offset.
        (LOAD_HALF, 0, 0, 6),
        (JUMP_ANY_BIT, 0, 1, 0x3fff),
        DROP,
        (LOAD_HEADER_LENGTH, 0, 0, 0),
        (LOAD_HALF_INDEXED, 0, 0, 2),
    ];
    program.extend(port_is_ours());
    let words = vips.iter().filter_map(|vip| match vip {
        IpAddr::V4(vip) => Some(vec![u32::from(*vip)]),
        IpAddr::V6(_) => None,
    });
    program.extend(source_is(words.collect(), 12));
    program
}

/// For IPv6 packets, from their network header on.
pub(crate) fn of_ipv6(vips: &[IpAddr]) -> Vec<Instruction> {
    let mut program = vec![
        (LOAD_WORD, 0, 0, INTERFACE),
        (JUMP_EQUAL, 0, 1, LOOPBACK),
        DROP,
        // Answers of a TCP have no extension headers.
        (LOAD_BYTE, 0, 0, 6),
        (JUMP_EQUAL, 1, 0, TCP),
        DROP,
        (LOAD_HALF, 0, 0, 42),
    ];
    program.extend(port_is_ours());
    let words = vips.iter().filter_map(|vip| match vip {
        IpAddr::V4(_) => None,
        IpAddr::V6(vip) => Some(words_of(*vip)),
    });
    program.extend(source_is(words.collect(), 8));
    program
}

/// Goes on when the port that was loaded is one of ours.
fn port_is_ours() -> [Instruction; 4] {
    [
        (JUMP_AT_LEAST, 1, 0, u32::from(*PORTS.start())),
        DROP,
        (JUMP_GREATER, 0, 1, u32::from(*PORTS.end())),
        DROP,
    ]
}

/// Ends the program: accepts when the source address at `place` is one of these.
fn source_is(vips: Vec<Vec<u32>>, place: u32) -> Vec<Instruction> {
    if vips.len() > VIPS_MAX {
        return vec![ACCEPT];
    }
    let mut program = Vec::new();
    for vip in &vips {
        // Past the comparisons that follow and the acceptance: two instructions for each word
        // of an address, which has four at most.
        let mut past = u8::try_from(vip.len() * 2).unwrap_or(u8::MAX);
        for (word, at) in vip.iter().zip((place..).step_by(4)) {
            past -= 1;
            program.push((LOAD_WORD, 0, 0, at));
            program.push((JUMP_EQUAL, 0, past, *word));
            past -= 1;
        }
        program.push(ACCEPT);
    }
    program.push(DROP);
    program
}

fn words_of(address: Ipv6Addr) -> Vec<u32> {
    let octets = address.octets();
    octets
        .chunks_exact(4)
        .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A machine for the instructions above; `None` where the program leaves itself or the packet.
    fn run(program: &[Instruction], packet: &[u8], interface: u32) -> Option<u32> {
        let byte = |at: usize| packet.get(at).copied().map(u32::from);
        let half = |at: usize| Some(byte(at)? << 8 | byte(at + 1)?);
        let word = |at: usize| Some(half(at)? << 16 | half(at + 2)?);
        let (mut at, mut loaded, mut index) = (0, 0, 0);
        loop {
            let (code, yes, no, operand) = *program.get(at)?;
            let place = operand as usize;
            at += 1;
            let mut jump = |holds: bool| at += usize::from(if holds { yes } else { no });
            match code {
                LOAD_WORD if operand == INTERFACE => loaded = interface,
                LOAD_WORD => loaded = word(place)?,
                LOAD_HALF => loaded = half(place)?,
                LOAD_BYTE => loaded = byte(place)?,
                LOAD_HALF_INDEXED => loaded = half(place + index)?,
                LOAD_HEADER_LENGTH => index = (byte(place)? as usize & 0xf) * 4,
                JUMP_EQUAL => jump(loaded == operand),
                JUMP_GREATER => jump(loaded > operand),
                JUMP_AT_LEAST => jump(loaded >= operand),
                JUMP_ANY_BIT => jump(loaded & operand != 0),
                RETURN => return Some(operand),
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }

    fn packet(source: IpAddr, options: usize, port: u16, fragment: u16, protocol: u8) -> Vec<u8> {
        let mut packet = match source {
            IpAddr::V4(source) => {
                let mut header = vec![0; 20 + options * 4];
                header[0] = 0x45 + u8::try_from(options).unwrap();
                header[6..8].copy_from_slice(&fragment.to_be_bytes());
                header[9] = protocol;
                header[12..16].copy_from_slice(&source.octets());
                header
            }
            IpAddr::V6(source) => {
                let mut header = vec![0; 40];
                header[6] = protocol;
                header[8..24].copy_from_slice(&source.octets());
                header
            }
        };
        packet.extend(80_u16.to_be_bytes());
        packet.extend(port.to_be_bytes());
        packet.resize(packet.len() + 16, 0);
        packet
    }

    fn program(vips: &[IpAddr], v4: bool) -> Vec<Instruction> {
        if v4 { of_ipv4(vips) } else { of_ipv6(vips) }
    }

    fn address(v4: bool, last: u8) -> IpAddr {
        match v4 {
            true => [192, 0, 2, last].into(),
            false => Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, last.into()).into(),
        }
    }

    proptest! {
        #[test]
        fn what_answers_a_probe_passes_and_nothing_else(
            v4 in any::<bool>(),
            vips in 0_u8..=70,
            from in 0_u8..80,
            options in 0_usize..=10,
            port in prop_oneof![any::<u16>(), PORTS],
            fragment in prop::sample::select(vec![0, 0, 0x4000, 0x2000, 7]),
            protocol in prop::sample::select(vec![6, 6, 6, 17, 1]),
            interface in 1_u32..4,
        ) {
            // Of both families, which must not disturb each other.
            let all: Vec<IpAddr> =
                (0..vips).flat_map(|last| [address(true, last), address(false, last)]).collect();
            let packet = packet(address(v4, from), options, port, fragment, protocol);
            let known = usize::from(vips) > VIPS_MAX || from < vips;
            let whole = !v4 || fragment & 0x3fff == 0;
            let wanted = known && whole && PORTS.contains(&port) && protocol == 6 && interface != 1;
            let given = run(&program(&all, v4), &packet, interface);
            prop_assert_eq!(given, Some(if wanted { PACKET_BYTES_MAX } else { 0 }));
        }
    }

    #[test]
    fn the_kernel_takes_the_longest_program() {
        let vips: Vec<IpAddr> = (0..64).map(|last| address(false, last)).collect();
        // BPF_MAXINSNS of linux/bpf_common.h.
        assert!(of_ipv6(&vips).len() <= 4096);
    }
}
