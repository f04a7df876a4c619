//! The forwarding table's serial form: decoding is total, and what decodes is the only form of
//! a table that goes on working.

#![no_main]

use std::hash::Hasher;
use std::net::SocketAddr;

use haflinger_core::forwarding::{ForwardingTable, Member};
use libfuzzer_sys::fuzz_target;
use siphasher::sip::SipHasher13;

fuzz_target!(|bytes: &[u8]| {
    // The checksum would keep the fuzzer out: put the right one behind.
    let mut sealed = [b"HFTB\x01".as_slice(), bytes].concat();
    let mut hasher = SipHasher13::new_with_key(&[0; 16]);
    hasher.write(&sealed);
    sealed.extend(hasher.finish().to_le_bytes());

    check::<u32>(bytes, 77);
    check::<u32>(&sealed, 77);
    check::<SocketAddr>(&sealed, ([192, 0, 2, 1], 80).into());
});

fn check<M: Member>(bytes: &[u8], newcomer: M) {
    let Ok(mut table) = ForwardingTable::<M>::decode(bytes) else { return };
    assert_eq!(table.encode(), bytes);
    let members: Vec<_> = table.members().map(|(who, weight, _)| (who.clone(), weight)).collect();
    table.update(members.into_iter().skip(1).chain([(newcomer.clone(), 5)]), u64::MAX);
    let view = table.view();
    let held: u32 = table.members().map(|(_, _, held)| held).sum();
    assert_eq!(held as usize, view.bucket_count());
    assert_eq!(view.buckets().count(), view.bucket_count());
    table.fail(&newcomer, 0);
    let again = ForwardingTable::<M>::decode(&table.encode()).expect("a table can be read");
    assert!(again.view() == table.view());
}
