//! UPDATE message errors that end the session. Those that do not are in `rfc7606`.

use crate::raw::{message, refusal, update};
use crate::section_4_3::PATH;

#[test]
fn fields_that_do_not_add_up_are_a_malformed_list() {
    assert_eq!(refusal(&message(2, &[0, 9, 0, 0])), (3, 1));
    assert_eq!(refusal(&message(2, &[0, 0, 0, 2, 0x40])), (3, 1));
    assert_eq!(refusal(&message(2, &[0, 2, 0, 0])), (3, 1));
}

#[test]
fn a_prefix_that_is_too_long_or_cut_off_is_an_invalid_network() {
    for prefixes in [&[33, 192, 0, 2, 1, 0][..], &[32, 192, 0, 2], &[255], &[24, 192]] {
        assert_eq!(refusal(&update(&[], &PATH, prefixes)), (3, 10), "{prefixes:?}");
        assert_eq!(refusal(&update(prefixes, &[], &[])), (3, 10), "{prefixes:?}");
    }
}

#[test]
fn an_unknown_well_known_attribute_is_refused_with_itself_as_data() {
    let answer = crate::raw::decode(&update(&[], &[0x40, 99, 1, 7], &[])).unwrap_err();
    assert_eq!((answer.code, answer.subcode, answer.data), (3, 2, vec![0x40, 99, 1, 7]));
}
