//! Ownership records, compatible with the TXT registry of external-dns 0.22: beside each
//! address set stands a TXT record that names its owner, so that several writers can share a
//! zone and none deletes another's names.

use thiserror::Error;

use crate::name::{LABEL_CHARACTERS_MAX, NAME_CHARACTERS_MAX, RecordName};
use crate::record::{RecordKind, TxtRecord};

const HERITAGE: &str = "heritage=external-dns";
const OWNER_KEY: &str = "external-dns/owner=";
const RESOURCE_KEY: &str = "external-dns/resource=";

/// What a heritage record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heritage {
    /// The owner's identity.
    pub owner: String,
    /// The object that asked for the name.
    pub resource: Option<String>,
}

/// The name cannot carry an ownership record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OwnershipNameError {
    /// The type does not fit before the first label.
    #[error(
        "the ownership name {0:?} is too long for DNS: shorten the first label to {max} \
         characters",
        max = LABEL_CHARACTERS_MAX - "aaaa-".len()
    )]
    TooLong(String),
    /// The ownership record would be that of the wildcard beside it.
    #[error("the first label {0:?} is kept for ownership records of wildcards")]
    Reserved(String),
}

/// The name of the ownership record: type, hyphen, first label (`a-www.example.com`). A
/// wildcard's `*` gives way to `wildcard`, where that is set; a host whose first label is that
/// very word is refused, because its ownership could not be told from the wildcard's.
pub fn ownership_name(
    name: &RecordName,
    kind: RecordKind,
    wildcard: Option<&str>,
) -> Result<String, OwnershipNameError> {
    let (first, rest) = name.split_first();
    if wildcard == Some(first) {
        return Err(OwnershipNameError::Reserved(first.to_owned()));
    }
    let first = if first == "*" { wildcard.unwrap_or("*") } else { first };
    let label = format!("{}-{first}", kind.label());
    let label_length = label.len();
    let full = if rest.is_empty() { label } else { format!("{label}.{rest}") };
    if label_length > LABEL_CHARACTERS_MAX || full.len() > NAME_CHARACTERS_MAX {
        return Err(OwnershipNameError::TooLong(full));
    }
    Ok(full)
}

/// The name and kind that an ownership record at `name` is about.
pub fn owned_by_name(name: &str, wildcard: Option<&str>) -> Option<(RecordName, RecordKind)> {
    let (label, rest) = name.split_once('.').unwrap_or((name, ""));
    let (kind, first) = RecordKind::ALL
        .into_iter()
        .find_map(|kind| Some((kind, label.strip_prefix(kind.label())?.strip_prefix('-')?)))?;
    let first = if wildcard == Some(first) { "*" } else { first };
    let full = if rest.is_empty() { first.to_owned() } else { format!("{first}.{rest}") };
    Some((RecordName::parse(&full).ok()?, kind))
}

/// The record that claims a name for `owner` (keys sorted, as external-dns writes them).
pub fn heritage_record(owner: &str, resource: &str) -> TxtRecord {
    TxtRecord::from_text(&format!("{HERITAGE},{OWNER_KEY}{owner},{RESOURCE_KEY}{resource}"))
}

/// Reads a heritage record; `None` for any other TXT record. Quotation marks that some servers
/// store as part of the text are allowed.
pub fn read_heritage(record: &TxtRecord) -> Option<Heritage> {
    let text = record.text()?;
    let mut parts = text.trim_matches('"').split(',').map(str::trim);
    if !parts.any(|part| part == HERITAGE) {
        return None;
    }
    let value = |key: &str| {
        text.trim_matches('"').split(',').find_map(|part| part.trim().strip_prefix(key))
    };
    Some(Heritage {
        owner: value(OWNER_KEY)?.to_owned(),
        resource: value(RESOURCE_KEY).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RecordName {
        RecordName::parse(text).unwrap()
    }

    #[test]
    fn ownership_names_are_those_of_external_dns() {
        for (host, kind, wildcard, expected) in [
            ("www.example.com", RecordKind::A, None, "a-www.example.com"),
            ("www.example.com", RecordKind::Aaaa, None, "aaaa-www.example.com"),
            ("*.example.com", RecordKind::A, None, "a-*.example.com"),
            ("*.example.com", RecordKind::A, Some("any"), "a-any.example.com"),
            ("example", RecordKind::A, None, "a-example"),
        ] {
            assert_eq!(ownership_name(&name(host), kind, wildcard).unwrap(), expected);
        }
    }

    #[test]
    fn a_label_without_room_for_the_type_is_refused() {
        let host = name(&format!("{}.example.com", "a".repeat(62)));
        let error = ownership_name(&host, RecordKind::A, None).unwrap_err();
        assert!(error.to_string().contains("58 characters"), "{error}");
    }

    #[test]
    fn a_host_named_like_the_wildcard_stand_in_is_refused() {
        assert_eq!(
            ownership_name(&name("any.example.com"), RecordKind::A, Some("any")),
            Err(OwnershipNameError::Reserved("any".into()))
        );
    }

    #[test]
    fn an_ownership_name_leads_back_to_the_name_it_is_about() {
        assert_eq!(
            owned_by_name("aaaa-any.example.com", Some("any")),
            Some((name("*.example.com"), RecordKind::Aaaa))
        );
        assert_eq!(
            owned_by_name("a-*.example.com", None),
            Some((name("*.example.com"), RecordKind::A))
        );
        assert_eq!(owned_by_name("cname-www.example.com", None), None);
    }

    #[test]
    fn heritage_is_written_and_read_as_external_dns_does() {
        let record = heritage_record("blue", "service/default/web");
        assert_eq!(
            record.text().unwrap(),
            "heritage=external-dns,external-dns/owner=blue,\
             external-dns/resource=service/default/web"
        );
        let read = read_heritage(&record).unwrap();
        assert_eq!(read.owner, "blue");
        assert_eq!(read.resource.as_deref(), Some("service/default/web"));
        let quoted = TxtRecord::from_text("\"heritage=external-dns,external-dns/owner=red\"");
        assert_eq!(read_heritage(&quoted).unwrap().owner, "red");
    }

    #[test]
    fn other_text_claims_nothing() {
        for text in ["v=spf1 -all", "external-dns/owner=blue", "heritage=other"] {
            assert_eq!(read_heritage(&TxtRecord::from_text(text)), None, "{text}");
        }
    }

    #[test]
    fn a_long_resource_is_cut_into_strings_and_read_back() {
        let resource = format!("service/{}/{}", "n".repeat(63), "s".repeat(253));
        let record = heritage_record("blue", &resource);
        assert!(record.strings.len() > 1 && record.strings.iter().all(|s| s.len() <= 255));
        assert_eq!(read_heritage(&record).unwrap().resource.unwrap(), resource);
    }
}
