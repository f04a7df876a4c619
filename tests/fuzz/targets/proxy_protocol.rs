//! PROXY protocol headers: decoding is total and never reads further than it says; what it
//! reads can be written and read again; a header cut short is incomplete, not wrong.

#![no_main]

use haflinger_relay::proxy_protocol::{Decoded, Header, Version, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (prefix, rest) = input;
    let signature: &[u8] = match prefix % 3 {
        0 => b"PROXY TCP4 ",
        1 => b"\r\n\r\n\0\r\nQUIT\n",
        _ => b"",
    };
    let bytes = [signature, rest].concat();
    let Ok(Decoded::Header { header, length }) = decode(&bytes) else { return };
    assert!(length <= bytes.len());
    assert_eq!(decode(&bytes[..length]), Ok(Decoded::Header { header, length }));
    for cut in 0..length {
        assert_eq!(decode(&bytes[..cut]), Ok(Decoded::Incomplete));
    }
    for version in [Version::V1, Version::V2] {
        let mut out = Vec::new();
        encode(version, header, &mut out);
        match decode(&out) {
            Ok(Decoded::Header { header: again, length }) => {
                assert_eq!(length, out.len());
                assert!(again == header || again == Header::Local);
            }
            other => panic!("{out:?} reads as {other:?}"),
        }
    }
});
