//! The serial form: one for each table, and total decoding.

use std::hash::Hasher;
use std::net::SocketAddr;
use std::sync::Arc;

use haflinger_core::forwarding::{DecodeError, ForwardingTable};
use proptest::prelude::*;
use siphasher::sip::SipHasher13;

use crate::history::{history, hops, replay};

/// Puts the right checksum behind the bytes before the last 8.
fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len().saturating_sub(8));
    let mut hasher = SipHasher13::new_with_key(&[0; 16]);
    hasher.write(&bytes);
    bytes.extend(hasher.finish().to_le_bytes());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_table_round_trips_with_its_history(steps in history()) {
        replay(&steps, |seen| {
            let bytes = seen.table.encode();
            let again = ForwardingTable::<u32>::decode(&bytes).unwrap();
            prop_assert_eq!(hops(&again.view()), hops(seen.after));
            prop_assert_eq!(again.generation(), seen.table.generation());
            prop_assert_eq!(again.encode(), bytes);
            Ok(())
        })?;
    }

    #[test]
    fn any_damage_is_noticed(
        steps in history(),
        at in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let mut bytes = Vec::new();
        replay(&steps, |seen| {
            bytes = seen.table.encode();
            Ok(())
        })?;
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(ForwardingTable::<u32>::decode(&bytes).is_err());
        prop_assert!(ForwardingTable::<u32>::decode(&bytes[..at]).is_err());
    }

    #[test]
    fn what_decodes_under_a_right_checksum_is_the_form_of_a_sound_table(
        steps in history(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
    ) {
        let mut bytes = Vec::new();
        replay(&steps, |seen| {
            bytes = seen.table.encode();
            Ok(())
        })?;
        for (at, byte) in edits {
            let at = 5 + at.index(bytes.len() - 5);
            bytes[at] = byte;
        }
        let bytes = seal(bytes);
        if let Ok(mut table) = ForwardingTable::<u32>::decode(&bytes) {
            prop_assert_eq!(table.encode(), bytes);
            let members: Vec<_> = table.members().map(|(who, weight, _)| (*who, weight)).collect();
            table.update(members.into_iter().skip(1).chain([(77, 5)]), 5_000_000);
            table.fail(&77, 5_000_001);
            prop_assert!(ForwardingTable::<u32>::decode(&table.encode()).is_ok());
        }
    }

    #[test]
    fn no_bytes_make_decoding_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        framed in any::<bool>(),
    ) {
        let bytes = if framed { seal([b"HFTB\x01".as_slice(), &bytes].concat()) } else { bytes };
        let _ = ForwardingTable::<u32>::decode(&bytes);
        let _ = ForwardingTable::<SocketAddr>::decode(&bytes);
        let _ = ForwardingTable::<Arc<str>>::decode(&bytes);
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let good = ForwardingTable::<u32>::new([(1, 100), (2, 100)]).encode();
    let decode = |bytes: &[u8]| ForwardingTable::<u32>::decode(bytes).map(|_| ());
    let edited = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    assert_eq!(decode(&good), Ok(()));
    assert_eq!(decode(b"nonsense"), Err(DecodeError::Magic));
    assert_eq!(decode(&edited(4, 9)), Err(DecodeError::Version(9)));
    assert_eq!(decode(&good[..6]), Err(DecodeError::Truncated("head")));
    assert_eq!(decode(&edited(20, 9)), Err(DecodeError::Checksum));
    assert_eq!(decode(&seal(edited(5, 7))), Err(DecodeError::Range("size")));
    assert_eq!(decode(&seal(edited(5, 40))), Err(DecodeError::Range("size")));
    assert_eq!(
        decode(&seal(good[..good.len() - 4].to_vec())),
        Err(DecodeError::Truncated("run length"))
    );
    assert_eq!(decode(&seal([good.as_slice(), b"!"].concat())), Err(DecodeError::Trailing(1)));
    // The second member's last byte, then the first one's weight.
    assert_eq!(decode(&seal(edited(20, 1))), Err(DecodeError::Order(1)));
    assert_eq!(decode(&seal(edited(15, 99))), Err(DecodeError::Shares));
    assert!(matches!(
        ForwardingTable::<SocketAddr>::decode(&good).map(|_| ()),
        Err(DecodeError::Member(0))
    ));
}

#[test]
fn untouched_and_rolled_tables_are_compact() {
    let members = |from: u32| (from..from + 100).map(|member| (member, 100));
    let mut table = ForwardingTable::<u32>::new(members(0));
    assert!(table.encode().len() < 2_000);
    for from in 1..=100 {
        table.update(members(from), from.into());
    }
    assert_eq!(table.view().bucket_count(), 16_384);
    assert!(table.encode().len() < 5_000, "each run of buckets has moved as one");
}
