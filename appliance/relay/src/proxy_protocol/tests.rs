use proptest::prelude::*;

use super::*;

fn relayed(protocol: Protocol, source: &str, destination: &str) -> Header {
    Header::Relayed {
        protocol,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

fn encoded(version: Version, header: Header) -> Vec<u8> {
    let mut out = Vec::new();
    encode(version, header, &mut out);
    out
}

#[test]
fn version_1_is_the_line_of_the_specification() {
    let v4 = relayed(Protocol::Tcp, "192.0.2.1:56324", "198.51.100.1:443");
    assert_eq!(encoded(Version::V1, v4), b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n");
    let v6 = relayed(Protocol::Tcp, "[2001:db8::1]:1", "[2001:db8::2]:65535");
    assert_eq!(encoded(Version::V1, v6), b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n");
    assert_eq!(encoded(Version::V1, Header::Local), b"PROXY UNKNOWN\r\n");
}

#[test]
fn version_2_is_the_layout_of_the_specification() {
    let v4 = relayed(Protocol::Tcp, "192.0.2.1:258", "198.51.100.1:443");
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    expected.extend([0x21, 0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 1, 1, 2, 1, 187]);
    assert_eq!(encoded(Version::V2, v4), expected);
    let udp6 = encoded(Version::V2, relayed(Protocol::Udp, "[::1]:1", "[::2]:2"));
    assert_eq!(udp6[12..16], [0x21, 0x22, 0, 36]);
    assert_eq!(udp6.len(), 52);
    assert_eq!(encoded(Version::V2, Header::Local)[12..], [0x20, 0, 0, 0]);
}

#[test]
fn what_a_version_cannot_say_is_said_to_be_local() {
    let udp = relayed(Protocol::Udp, "192.0.2.1:1", "198.51.100.1:2");
    assert_eq!(encoded(Version::V1, udp), b"PROXY UNKNOWN\r\n");
    let mixed = relayed(Protocol::Tcp, "192.0.2.1:1", "[2001:db8::2]:2");
    assert_eq!(encoded(Version::V1, mixed), b"PROXY UNKNOWN\r\n");
    assert_eq!(encoded(Version::V2, mixed)[12..], [0x20, 0, 0, 0]);
}

#[test]
fn what_follows_unknown_and_local_is_ignored() {
    let line = b"PROXY UNKNOWN ffff::1 what ever\r\nrest";
    let length = line.len() - 4;
    assert_eq!(decode(line), Ok(Decoded::Header { header: Header::Local, length }));
    let mut local = encoded(Version::V2, Header::Local);
    local[13] = 0xff;
    local[15] = 3;
    local.extend(b"abcdef");
    assert_eq!(decode(&local), Ok(Decoded::Header { header: Header::Local, length: 19 }));
}

#[test]
fn type_length_values_are_skipped() {
    let header = relayed(Protocol::Tcp, "192.0.2.1:1", "198.51.100.1:2");
    let mut bytes = encoded(Version::V2, header);
    bytes[15] += 4;
    bytes.extend([0x04, 0, 1, 0]);
    assert_eq!(decode(&bytes), Ok(Decoded::Header { header, length: 32 }));
}

#[test]
fn malformed_headers_are_refused_with_a_reason() {
    let v1 = |line: &str| decode(line.as_bytes());
    assert_eq!(v1("GET / HTTP/1.1\r\n"), Err(DecodeError::Signature));
    assert_eq!(v1("PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n"), Err(DecodeError::Line));
    assert_eq!(v1("PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n"), Err(DecodeError::Line));
    assert_eq!(v1("PROXY TCP4 192.0.2.1 198.51.100.1 +1 2\r\n"), Err(DecodeError::Line));
    assert_eq!(v1("PROXY TCP4 192.0.2.1 198.51.100.1 01 2\r\n"), Err(DecodeError::Line));
    assert_eq!(v1("PROXY TCP4 192.0.2.1 198.51.100.1 1 65536\r\n"), Err(DecodeError::Line));
    assert_eq!(v1("PROXY TCP6 192.0.2.1 198.51.100.1 1 2\r\n"), Err(DecodeError::Line));
    assert_eq!(v1("PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n"), Err(DecodeError::Line));
    assert_eq!(v1(&format!("PROXY TCP4 {}", "1".repeat(200))), Err(DecodeError::TooLong));

    let sound = encoded(Version::V2, relayed(Protocol::Tcp, "192.0.2.1:1", "198.51.100.1:2"));
    let with = |at: usize, byte: u8| {
        let mut bytes = sound.clone();
        bytes[at] = byte;
        decode(&bytes)
    };
    assert_eq!(with(12, 0x11), Err(DecodeError::Version));
    assert_eq!(with(12, 0x22), Err(DecodeError::Command));
    assert_eq!(with(13, 0x41), Err(DecodeError::Family));
    assert_eq!(with(13, 0x13), Err(DecodeError::Family));
    assert_eq!(with(14, 0xff), Err(DecodeError::TooLong));
    assert_eq!(with(15, 11), Err(DecodeError::TooShort));
}

fn any_address() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let ports = (any::<u16>(), any::<u16>());
    prop_oneof![
        (any::<[u8; 4]>(), any::<[u8; 4]>(), ports)
            .prop_map(|(a, b, (p, q))| ((a, p).into(), (b, q).into())),
        (any::<[u8; 16]>(), any::<[u8; 16]>(), ports)
            .prop_map(|(a, b, (p, q))| ((a, p).into(), (b, q).into())),
    ]
}

fn any_header() -> impl Strategy<Value = (Version, Header)> {
    let version = prop_oneof![Just(Version::V1), Just(Version::V2)];
    let header = prop_oneof![
        1 => Just(None),
        8 => (any::<bool>(), any_address()).prop_map(Some),
    ];
    (version, header).prop_map(|(version, header)| {
        let Some((udp, (source, destination))) = header else {
            return (version, Header::Local);
        };
        let protocol = if udp && version == Version::V2 { Protocol::Udp } else { Protocol::Tcp };
        (version, Header::Relayed { protocol, source, destination })
    })
}

proptest! {
    #[test]
    fn a_header_is_read_back_whatever_follows_it(
        (version, header) in any_header(),
        rest in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = encoded(version, header);
        let length = bytes.len();
        prop_assert!(version == Version::V2 || length <= V1_LENGTH_MAX);
        bytes.extend(rest);
        prop_assert_eq!(decode(&bytes), Ok(Decoded::Header { header, length }));
    }

    #[test]
    fn every_beginning_of_a_header_asks_for_more(
        (version, header) in any_header(),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = encoded(version, header);
        let cut = cut.index(bytes.len());
        prop_assert_eq!(decode(&bytes[..cut]), Ok(Decoded::Incomplete));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(
        signature in 0_u8..3,
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut input = match signature {
            0 => Vec::new(),
            1 => V1_PREFIX.to_vec(),
            _ => V2_SIGNATURE.to_vec(),
        };
        input.extend(bytes);
        if let Ok(Decoded::Header { length, .. }) = decode(&input) {
            prop_assert!(length <= input.len());
        }
    }
}
