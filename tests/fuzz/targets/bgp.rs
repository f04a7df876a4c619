//! BGP messages: no octets make decoding panic, and of a message that decodes and can be written,
//! what is written decodes again to the same.

#![no_main]

use haflinger_bgp::model::Family;
use haflinger_bgp::wire::{
    Attributes, Context, Framing, Message, Update, decode_message, encode_message, frame,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, bool, bool, u8, &[u8])| {
    let (four_octet_as, internal, framed, kind, octets) = input;
    let context = Context { four_octet_as, internal };
    if framed {
        // Marker and length would keep the fuzzer out.
        let length = u16::try_from(octets.len().min(4096 - 19) + 19).unwrap_or(19);
        let mut message = vec![0xff; 16];
        message.extend(length.to_be_bytes());
        message.push(kind);
        message.extend(octets.iter().take(4096 - 19));
        check(&message, &context);
    } else {
        check(octets, &context);
    }
});

fn check(octets: &[u8], context: &Context) {
    if let Framing::Frame(length) = frame(octets) {
        assert!(length <= octets.len());
    }
    let Ok(message) = decode_message(octets, context) else { return };
    let mut out = Vec::new();
    if matches!(message, Message::Notification(_)) {
        // Any code and data can be received; only known ones are sent.
        let _ = encode_message(&message, context, &mut out);
        return;
    }
    match encode_message(&message, context, &mut out) {
        Ok(()) => assert_eq!(decode_message(&out, context), Ok(written(message))),
        Err(_) => assert!(out.is_empty()),
    }
}

/// What of a message stands on the wire: of an UPDATE, only what describes its prefixes. Why a
/// prefix was taken for withdrawn does not.
fn written(message: Message) -> Message {
    let Message::Update(mut update) = message else { return message };
    update.treated_as_withdraw = None;
    if update.announced_v6.is_empty() {
        update.next_hop_v6 = None;
    }
    if update.announced_v4.is_empty() {
        update.attributes.next_hop = None;
    }
    if update.announced() == 0 {
        update.attributes = Attributes::default();
    }
    if update == Update::default() {
        return Message::EndOfRib(Family::Ipv4);
    }
    Message::Update(update)
}
