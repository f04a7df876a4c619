//! Plans as update messages, and answers as pictures of a zone. Pure: bytes and types only.
//!
//! ```text
//! UPDATE (RFC 2136 section 2)
//!   zone           zone SOA IN
//!   prerequisite   ownership record is as planned, nothing foreign has appeared
//!   update         delete the sets that change, add them as they should be
//!   additional     TSIG
//! ```

use hickory_proto::ProtoError;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{A, AAAA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::name::RecordName;
use crate::plan::{Change, KindChange};
use crate::record::{Actual, ExclusiveType, RecordKind, TxtRecord};

/// Names changed by one update message. Small enough that a refused message is taken apart
/// cheaply; about 600 octets a name keep it well below the 65,535 of TCP.
pub(crate) const BATCH_NAMES_MAX: usize = 50;

/// A name as messages carry it.
pub(crate) fn to_wire(name: &str) -> Result<Name, ProtoError> {
    Name::from_labels(name.split('.').map(str::as_bytes))
}

/// A name as plans carry it; `None` for names with octets that no name of ours can have.
pub(crate) fn from_wire(name: &Name) -> Option<String> {
    let mut text = String::new();
    for label in name.iter() {
        let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'.' | b'\\' | b'"');
        if !label.iter().all(plain) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    Some(text)
}

/// A query for one name and type.
pub(crate) fn query(id: u16, name: &str, kind: RecordType) -> Result<Message, ProtoError> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(to_wire(name)?, kind));
    Ok(message)
}

/// One update message for several names: the server makes all of it or none.
pub(crate) fn update(
    id: u16,
    zone: &RecordName,
    changes: &[Change],
) -> Result<Message, ProtoError> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Update);
    message.add_query(Query::query(to_wire(zone.as_str())?, RecordType::SOA));
    for change in changes {
        add_change(&mut message, change)?;
    }
    Ok(message)
}

fn add_change(message: &mut Message, change: &Change) -> Result<(), ProtoError> {
    let name = to_wire(change.name.as_str())?;
    if change.kinds.iter().any(|kind| kind.after.is_some()) {
        message.add_answer(must_be_absent(&name, RecordType::CNAME));
    }
    for kind in &change.absent {
        message.add_answer(must_be_absent(&name, record_type(*kind)));
    }
    for kind in &change.kinds {
        add_kind(message, &name, kind)?;
    }
    Ok(())
}

fn add_kind(message: &mut Message, name: &Name, change: &KindChange) -> Result<(), ProtoError> {
    let ownership = to_wire(&change.ownership)?;
    let record_type = record_type(change.kind);
    if change.before.is_none() {
        message.add_answer(must_be_absent(name, record_type));
    }
    if change.txt_before.is_empty() {
        message.add_answer(must_be_absent(&ownership, RecordType::TXT));
    }
    for record in &change.txt_before {
        // RFC 2136 section 2.4.2: the set must be exactly these records.
        message.add_answer(Record::from_rdata(ownership.clone(), 0, txt(record)));
    }
    if change.before != change.after {
        if change.before.is_some() {
            let mut delete = Record::update0(name.clone(), 0, record_type);
            delete.dns_class = DNSClass::ANY;
            message.add_authority(delete);
        }
        for set in change.after.iter() {
            for address in &set.addresses {
                let data = match address {
                    std::net::IpAddr::V4(address) => RData::A(A(*address)),
                    std::net::IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
                };
                message.add_authority(Record::from_rdata(name.clone(), set.ttl_secs, data));
            }
        }
    }
    for record in &change.txt_removed {
        // RFC 2136 section 2.5.4: one record of the set goes, foreign ones beside it stay.
        let mut delete = Record::from_rdata(ownership.clone(), 0, txt(record));
        delete.dns_class = DNSClass::NONE;
        message.add_authority(delete);
    }
    if let (Some(record), Some(set)) = (&change.txt_added, &change.after) {
        message.add_authority(Record::from_rdata(ownership, set.ttl_secs, txt(record)));
    }
    Ok(())
}

/// RFC 2136 section 2.4.3: no record of this name and type exists.
fn must_be_absent(name: &Name, kind: RecordType) -> Record {
    let mut record = Record::update0(name.clone(), 0, kind);
    record.dns_class = DNSClass::NONE;
    record
}

fn txt(record: &TxtRecord) -> RData {
    RData::TXT(TXT::from_bytes(record.strings.iter().map(Vec::as_slice).collect()))
}

pub(crate) fn record_type(kind: RecordKind) -> RecordType {
    match kind {
        RecordKind::A => RecordType::A,
        RecordKind::Aaaa => RecordType::AAAA,
    }
}

/// Notes one record in a picture of the zone; what no plan looks at is passed over.
pub(crate) fn note(record: &Record, actual: &mut Actual) {
    let Some(name) = from_wire(&record.name) else { return };
    match &record.data {
        RData::A(address) => actual.add_address(&name, address.0.into(), record.ttl),
        RData::AAAA(address) => actual.add_address(&name, address.0.into(), record.ttl),
        RData::TXT(text) => {
            let strings = text.txt_data.iter().map(|string| string.to_vec()).collect();
            actual.add_txt(&name, TxtRecord { strings });
        }
        _ => match record.record_type() {
            RecordType::CNAME => actual.add_exclusive(&name, ExclusiveType::Cname),
            RecordType::DNAME => actual.add_exclusive(&name, ExclusiveType::Dname),
            RecordType::NS => actual.add_exclusive(&name, ExclusiveType::Ns),
            _ => {}
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::owner::heritage_record;
    use crate::plan::Action;
    use crate::record::RecordSet;

    #[test]
    fn names_survive_the_wire_and_odd_ones_are_passed_over() {
        for name in ["www.example.com", "*.example.com", "a-*.example.com", "_acme.example.com"] {
            assert_eq!(from_wire(&to_wire(name).unwrap()).as_deref(), Some(name));
        }
        let odd = Name::from_labels([&b"a.b"[..], b"com"]).unwrap();
        assert_eq!(from_wire(&odd), None);
    }

    #[test]
    fn an_update_says_what_must_hold_and_what_changes() {
        let addresses = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
        let change = Change {
            name: RecordName::parse("www.example.com").unwrap(),
            action: Action::Create,
            kinds: vec![KindChange {
                kind: RecordKind::A,
                before: None,
                after: Some(RecordSet { ttl_secs: 60, addresses }),
                ownership: "a-www.example.com".into(),
                txt_before: BTreeSet::new(),
                txt_removed: BTreeSet::new(),
                txt_added: Some(heritage_record("blue", "service/default/web")),
            }],
            absent: vec![RecordKind::Aaaa],
        };
        let zone = RecordName::parse("example.com").unwrap();
        let message = update(7, &zone, &[change]).unwrap();
        let message = Message::from_vec(&message.to_vec().unwrap()).unwrap();
        let shown = |records: &[Record]| -> Vec<String> {
            records
                .iter()
                .map(|r| format!("{} {} {}", r.name, r.dns_class, r.record_type()))
                .collect()
        };
        assert_eq!(
            shown(&message.answers),
            [
                "www.example.com. NONE CNAME",
                "www.example.com. NONE AAAA",
                "www.example.com. NONE A",
                "a-www.example.com. NONE TXT"
            ]
        );
        assert_eq!(
            shown(&message.authorities),
            ["www.example.com. IN A", "a-www.example.com. IN TXT"]
        );
    }
}
