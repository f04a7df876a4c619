//! Session tickets that every host of the fleet can take (RFC 5077; RFC 8446, section 4.6.1).
//!
//! ```text
//!  secret of the fleet ── HKDF(epoch) ──> key of the epoch ── HKDF(salt) ──> key of one ticket
//!
//!  ticket:  name of the epoch's key, 16 bytes │ salt, 32 │ ciphertext, with issued, 8 │ tag, 16
//! ```
//!
//! An epoch is a rotation interval of the wall clock. Tickets are made under the epoch of now and
//! taken under that and its two neighbours, so that clocks may differ; and no longer than an
//! interval after they were issued. A key for each ticket, because one key may not see as many
//! random nonces as a busy fleet has sessions.
//!
//! A ticket is bound to its section and to how that checks clients: what it is bound to is
//! authenticated with it, so that it opens nowhere else.
//!
//! Forward secrecy reaches as far as the secret does: whoever gets it can read what was resumed
//! from tickets of any epoch (TLS 1.3 agrees on fresh keys beside the ticket, 1.2 does not).
//!
//! Never keeps a session here, never reads a clock but in [`ProducesTickets`].

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use haflinger_core::{HostMatch, Section, SectionTls};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hkdf};
use rustls::server::ProducesTickets;
use rustls_pki_types::UnixTime;

use crate::settings::TicketSecret;

const NAME_BYTES: usize = 16;
const SALT_BYTES: usize = 32;
const ISSUED_BYTES: usize = 8;

/// Longest ticket that is looked at: what rustls makes of a session with a chain of client
/// certificates fits, and what a client may send in TLS is not much longer.
const TICKET_BYTES_MAX: usize = 32 * 1024;

/// How far the clocks of two hosts may be apart, in seconds: a ticket from further in the future
/// is not taken.
const SKEW_MAX_SECS: u64 = 300;

/// The keys of the fleet, shared by all sections.
pub(crate) struct FleetTickets {
    secret: TicketSecret,
    keys: ArcSwap<EpochKeys>,
}

/// The keys of an epoch and its neighbours.
struct EpochKeys {
    epoch: u64,
    /// That of the epoch first: it is the likeliest.
    keys: [EpochKey; 3],
}

struct EpochKey {
    name: [u8; NAME_BYTES],
    /// What the keys of its tickets are made of.
    seed: [u8; 32],
}

/// The tickets of one section.
pub(super) struct SectionTickets {
    fleet: Arc<FleetTickets>,
    /// Digest of what a ticket is bound to.
    binding: [u8; digest::SHA256_OUTPUT_LEN],
}

/// Shows no key.
impl fmt::Debug for SectionTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SectionTickets(keys withheld)")
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Bytes of HKDF-SHA256 (RFC 5869).
fn derive<const N: usize>(secret: &[u8], salt: &[u8], purpose: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    let key = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    let filled = key.expand(purpose, Length(N)).and_then(|bytes| bytes.fill(&mut out));
    // HKDF makes up to 255 hashes of bytes; ours are 32 bytes at most.
    filled.expect("a few bytes can always be derived");
    out
}

impl EpochKey {
    fn of(secret: &TicketSecret, epoch: u64) -> Self {
        let epoch = epoch.to_be_bytes();
        let derived = |purpose: &[u8]| [b"haflinger session tickets ", purpose].concat();
        Self {
            name: derive(&secret.bytes, &epoch, &[&derived(b"name")]),
            seed: derive(&secret.bytes, &epoch, &[&derived(b"key")]),
        }
    }

    fn cipher(&self, salt: &[u8]) -> LessSafeKey {
        let key: [u8; 32] = derive(&self.seed, salt, &[b"haflinger session ticket"]);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &key);
        LessSafeKey::new(key.expect("ChaCha20 takes keys of 32 bytes"))
    }
}

impl EpochKeys {
    fn of(secret: &TicketSecret, epoch: u64) -> Self {
        let key = |epoch| EpochKey::of(secret, epoch);
        let keys = [key(epoch), key(epoch.saturating_sub(1)), key(epoch.saturating_add(1))];
        Self { epoch, keys }
    }
}

impl FleetTickets {
    pub(crate) fn new(secret: TicketSecret) -> Self {
        let keys = ArcSwap::from_pointee(EpochKeys::of(&secret, 0));
        Self { secret, keys }
    }

    /// Tickets of one section.
    pub(super) fn of_section(
        self: &Arc<Self>,
        section: &Section,
        tls: &SectionTls,
    ) -> Arc<dyn ProducesTickets> {
        Arc::new(SectionTickets { fleet: self.clone(), binding: binding(section, tls) })
    }

    /// The keys at a time; two that come first at once derive the same.
    fn keys(&self, now_secs: u64) -> Arc<EpochKeys> {
        let epoch = now_secs / u64::from(self.secret.rotation_secs);
        let keys = self.keys.load();
        if keys.epoch == epoch {
            return Arc::clone(&keys);
        }
        let keys = Arc::new(EpochKeys::of(&self.secret, epoch));
        self.keys.store(keys.clone());
        keys
    }
}

/// What a ticket of the section is bound to: the section, what it serves, and whom it lets in.
/// Every part stands behind its length, so that no two lists of parts are alike.
fn binding(section: &Section, tls: &SectionTls) -> [u8; digest::SHA256_OUTPUT_LEN] {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut part = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    match &section.origin {
        Some(origin) => {
            part(origin.object.to_string().as_bytes());
            part(origin.name.as_bytes());
        }
        None => part(b"ingresses and sites"),
    }
    let (kind, host): (&[u8], &str) = match &section.host {
        HostMatch::Exact(host) => (b"exact", host),
        HostMatch::OneLabel(suffix) => (b"one", suffix),
        HostMatch::Suffix(suffix) => (b"many", suffix),
        HostMatch::Any => (b"any", ""),
    };
    part(kind);
    part(host.as_bytes());
    if let Some(client) = &tls.client {
        part(if client.optional { b"optional" } else { b"required" });
        for authority in &client.authorities {
            part(&authority.pem);
            part(&authority.revoked_pem);
        }
    }
    let mut out = [0; digest::SHA256_OUTPUT_LEN];
    out.copy_from_slice(context.finish().as_ref());
    out
}

impl SectionTickets {
    /// A ticket for `state`, issued `now_secs` after 1970.
    fn seal(&self, state: &[u8], salt: [u8; SALT_BYTES], now_secs: u64) -> Option<Vec<u8>> {
        let keys = self.fleet.keys(now_secs);
        let [key, ..] = &keys.keys;
        let mut ticket = [&key.name[..], &salt].concat();
        let mut sealed = [&now_secs.to_be_bytes()[..], state].concat();
        let cipher = key.cipher(&salt);
        cipher.seal_in_place_append_tag(nonce(), self.bound(&key.name), &mut sealed).ok()?;
        ticket.extend(sealed);
        (ticket.len() <= TICKET_BYTES_MAX).then_some(ticket)
    }

    /// What is in a ticket, if it is one of ours, of this section and not too old.
    fn open(&self, ticket: &[u8], now_secs: u64) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (salt, sealed) = rest.split_at_checked(SALT_BYTES)?;
        let keys = self.fleet.keys(now_secs);
        // Names are no secrets: they stand in every ticket.
        let key = keys.keys.iter().find(|key| key.name == name)?;
        let mut sealed = sealed.to_vec();
        let cipher = key.cipher(salt);
        let opened = cipher.open_in_place(nonce(), self.bound(&key.name), &mut sealed).ok()?;
        let (issued, state) = opened.split_at_checked(ISSUED_BYTES)?;
        let issued = u64::from_be_bytes(issued.try_into().ok()?);
        let lifetime = u64::from(self.fleet.secret.rotation_secs);
        let fresh = now_secs < issued.saturating_add(lifetime);
        (fresh && issued <= now_secs.saturating_add(SKEW_MAX_SECS)).then(|| state.to_vec())
    }

    fn bound(&self, name: &[u8; NAME_BYTES]) -> Aad<Vec<u8>> {
        Aad::from([&name[..], &self.binding].concat())
    }
}

/// Every key seals one ticket.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

impl ProducesTickets for SectionTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.fleet.secret.rotation_secs
    }

    fn encrypt(&self, state: &[u8]) -> Option<Vec<u8>> {
        let mut salt = [0; SALT_BYTES];
        // Without random numbers there is no ticket, and the client begins a new session.
        SystemRandom::new().fill(&mut salt).ok()?;
        self.seal(state, salt, UnixTime::now().as_secs())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, UnixTime::now().as_secs())
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::{AuthoritySpec, ClientValidation, Serves};
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600;
    const NOW: u64 = 1_800_000_000;

    fn fleet(byte: u8) -> Arc<FleetTickets> {
        Arc::new(FleetTickets::new(TicketSecret { bytes: [byte; 32], rotation_secs: 3_600 }))
    }

    fn section(host: &str) -> Section {
        let host = HostMatch::Exact(host.into());
        Section { origin: None, host, tls: None, serves: Serves::Requests(Vec::new()) }
    }

    fn tickets(fleet: &Arc<FleetTickets>, host: &str, tls: &SectionTls) -> SectionTickets {
        let binding = binding(&section(host), tls);
        SectionTickets { fleet: fleet.clone(), binding }
    }

    fn of(fleet: &Arc<FleetTickets>) -> SectionTickets {
        tickets(fleet, "shop.example", &SectionTls::default())
    }

    fn asking(pem: &[u8], revoked: &[u8], optional: bool) -> SectionTls {
        let (pem, revoked_pem) = (pem.to_vec(), revoked.to_vec());
        let authority = AuthoritySpec { pem, revoked_pem, fault: None };
        let client = ClientValidation { authorities: vec![Arc::new(authority)], optional };
        SectionTls { certificates: Vec::new(), client: Some(client) }
    }

    #[test]
    fn a_ticket_is_taken_by_every_host_with_the_secret_and_by_no_other() {
        let (one, other, stranger) = (of(&fleet(1)), of(&fleet(1)), of(&fleet(2)));
        let ticket = one.seal(b"state", [7; SALT_BYTES], NOW).unwrap();
        assert_eq!(other.open(&ticket, NOW).as_deref(), Some(&b"state"[..]));
        assert_eq!(stranger.open(&ticket, NOW), None);
        let again = one.seal(b"state", [8; SALT_BYTES], NOW).unwrap();
        assert_ne!(ticket[NAME_BYTES..], again[NAME_BYTES..]);
    }

    #[test]
    fn a_ticket_ends_an_interval_after_it_was_issued() {
        let tickets = of(&fleet(1));
        // At the end of an epoch and at its beginning.
        for issued in [NOW - NOW % HOUR - 1, NOW - NOW % HOUR] {
            let ticket = tickets.seal(b"state", [7; SALT_BYTES], issued).unwrap();
            assert!(tickets.open(&ticket, issued + HOUR - 1).is_some());
            assert!(tickets.open(&ticket, issued + HOUR).is_none());
            assert!(tickets.open(&ticket, issued + 100 * HOUR).is_none());
        }
    }

    #[test]
    fn clocks_may_differ_a_little() {
        let tickets = of(&fleet(1));
        let begin = NOW - NOW % HOUR;
        let ticket = tickets.seal(b"state", [7; SALT_BYTES], begin + 10).unwrap();
        assert!(tickets.open(&ticket, begin - 10).is_some(), "of the next epoch");
        assert!(tickets.open(&ticket, begin + 9 - SKEW_MAX_SECS).is_none(), "of the future");
    }

    #[test]
    fn a_ticket_is_of_its_section_and_of_what_that_asks_of_clients() {
        let fleet = fleet(1);
        let kinds = [
            tickets(&fleet, "shop.example", &SectionTls::default()),
            tickets(&fleet, "blog.example", &SectionTls::default()),
            tickets(&fleet, "shop.example", &asking(b"authority", b"", false)),
            tickets(&fleet, "shop.example", &asking(b"authority", b"list", false)),
            tickets(&fleet, "shop.example", &asking(b"authority", b"", true)),
            tickets(&fleet, "shop.example", &asking(b"other", b"", false)),
        ];
        for (made, maker) in kinds.iter().enumerate() {
            let ticket = maker.seal(b"state", [7; SALT_BYTES], NOW).unwrap();
            for (taken, taker) in kinds.iter().enumerate() {
                let opened = taker.open(&ticket, NOW);
                assert_eq!(opened.is_some(), made == taken, "made by {made}, taken by {taken}");
            }
        }
    }

    #[test]
    fn what_is_too_long_is_no_ticket() {
        let tickets = of(&fleet(1));
        assert!(tickets.seal(&[0; TICKET_BYTES_MAX], [7; SALT_BYTES], NOW).is_none());
        assert!(tickets.open(&[0; TICKET_BYTES_MAX + 1], NOW).is_none());
    }

    proptest! {
        #[test]
        fn a_ticket_that_was_changed_opens_nothing(
            at in 0_usize..100,
            change in 1_u8..,
            state in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let tickets = of(&fleet(1));
            let mut ticket = tickets.seal(&state, [7; SALT_BYTES], NOW).unwrap();
            let at = at % ticket.len();
            ticket[at] ^= change;
            prop_assert_eq!(tickets.open(&ticket, NOW), None);
            prop_assert_eq!(tickets.open(&ticket[..at], NOW), None);
        }
    }
}
