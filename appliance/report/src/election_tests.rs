use proptest::prelude::*;

use super::*;

const TIMING: Timing = Timing {
    duration: Duration::from_secs(15),
    renew_deadline: Duration::from_secs(10),
    retry_period: Duration::from_secs(2),
};

fn wall(secs: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + secs).unwrap()
}

/// The Lease as the API server keeps it: writes succeed only at the version they name.
#[derive(Default)]
struct Server {
    lease: Option<(Record, u64)>,
}

impl Server {
    fn read(&self) -> Option<(Record, String)> {
        self.lease.clone().map(|(record, version)| (record, version.to_string()))
    }

    fn write(&mut self, record: Record, version: Option<&str>) -> Option<String> {
        let current = self.lease.as_ref().map(|(_, version)| version.to_string());
        if current.as_deref() != version {
            return None;
        }
        let next = self.lease.as_ref().map_or(1, |(_, version)| version + 1);
        self.lease = Some((record, next));
        Some(next.to_string())
    }
}

/// One attempt that takes no time.
fn attempt(server: &mut Server, candidate: &mut Election, now: Instant, wall: Timestamp) {
    candidate.observe(now, server.read());
    if let Intent::Write { record, version } = candidate.intent(now, wall)
        && let Some(version) = server.write(record.clone(), version.as_deref())
    {
        candidate.wrote(now, record, version);
    }
}

#[test]
fn the_first_candidate_makes_the_lease_and_the_second_waits() {
    let (mut server, start) = (Server::default(), Instant::now());
    let mut a = Election::new("a", TIMING);
    let mut b = Election::new("b", TIMING);
    attempt(&mut server, &mut a, start, wall(0));
    attempt(&mut server, &mut b, start, wall(0));
    assert!(a.leads(start) && !b.leads(start));
    assert_eq!(b.holder(), Some("a"));
    assert_eq!(server.read().unwrap().0.transitions, 0);
}

#[test]
fn a_silent_leader_is_succeeded_after_the_duration_and_not_before() {
    let (mut server, start) = (Server::default(), Instant::now());
    let mut a = Election::new("a", TIMING);
    let mut b = Election::new("b", TIMING);
    attempt(&mut server, &mut a, start, wall(0));
    for secs in 1..=16 {
        // b first sees the record at 1 s; wall clocks are an hour apart and do not matter.
        attempt(&mut server, &mut b, start + Duration::from_secs(secs), wall(3600));
        assert!(!b.leads(start + Duration::from_secs(secs)), "at {secs}");
    }
    let now = start + Duration::from_secs(17);
    attempt(&mut server, &mut b, now, wall(3600));
    assert!(b.leads(now) && !a.leads(now));
    let record = server.read().unwrap().0;
    assert_eq!((record.holder.as_str(), record.transitions), ("b", 1));
}

#[test]
fn a_leader_that_cannot_renew_ends_its_term_before_anybody_else_may_begin() {
    let (mut server, start) = (Server::default(), Instant::now());
    let mut a = Election::new("a", TIMING);
    attempt(&mut server, &mut a, start, wall(0));
    assert!(a.leads(start + Duration::from_millis(9_999)));
    assert!(!a.leads(start + Duration::from_secs(10)));
}

#[test]
fn a_released_lease_is_taken_at_once_and_renewals_keep_the_acquire_time() {
    let (mut server, start) = (Server::default(), Instant::now());
    let mut a = Election::new("a", TIMING);
    let mut b = Election::new("b", TIMING);
    attempt(&mut server, &mut a, start, wall(0));
    attempt(&mut server, &mut b, start, wall(0));
    let later = start + Duration::from_secs(2);
    attempt(&mut server, &mut a, later, wall(2));
    let renewed = server.read().unwrap().0;
    assert_eq!((renewed.acquired, renewed.renewed), (Some(wall(0)), Some(wall(2))));
    let (record, version) = a.release(later, wall(2)).unwrap();
    server.write(record, Some(&version)).unwrap();
    attempt(&mut server, &mut b, later, wall(2));
    assert!(b.leads(later));
    assert!(b.release(later + TIMING.renew_deadline, wall(12)).is_none());
}

#[test]
fn a_leader_that_slept_through_its_succession_does_not_lead() {
    let (mut server, start) = (Server::default(), Instant::now());
    let mut a = Election::new("a", TIMING);
    attempt(&mut server, &mut a, start, wall(0));
    let taken = Record { holder: "b".into(), transitions: 1, ..Record::default() };
    server.write(taken, Some("1")).unwrap();
    a.observe(start + Duration::from_secs(1), server.read());
    assert!(!a.leads(start + Duration::from_secs(1)));
}

#[derive(Clone, Debug)]
struct Turn {
    candidate: usize,
    pause_ms: u64,
    reads: bool,
    write_arrives: bool,
    answer_arrives: bool,
    took_ms: u64,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = (0usize..3, 0u64..4_000, any::<[bool; 3]>(), 0u64..6_000).prop_map(
        |(candidate, pause_ms, [reads, write_arrives, answer_arrives], took_ms)| Turn {
            candidate,
            pause_ms,
            reads,
            write_arrives,
            answer_arrives,
            took_ms,
        },
    );
    prop::collection::vec(turn, 0..200)
}

proptest! {
    /// Messages are lost both ways and slow, candidates fall silent, and wall clocks differ
    /// by hours: there is never more than one leader.
    #[test]
    fn there_is_never_more_than_one_leader(turns in turns(), skew in -90_000i64..90_000) {
        let mut server = Server::default();
        let mut now = Instant::now();
        let mut candidates = ["a", "b", "c"].map(|name| Election::new(name, TIMING));
        for turn in turns {
            now += Duration::from_millis(turn.pause_ms);
            let wall = wall(skew * i64::try_from(turn.candidate).unwrap());
            let candidate = &mut candidates[turn.candidate];
            if turn.reads {
                candidate.observe(now, server.read());
            }
            let began = now;
            if let Intent::Write { record, version } = candidate.intent(now, wall) {
                now += Duration::from_millis(turn.took_ms);
                let answer = turn
                    .write_arrives
                    .then(|| server.write(record.clone(), version.as_deref()))
                    .flatten();
                if let Some(version) = answer && turn.answer_arrives {
                    candidate.wrote(began, record, version);
                }
            }
            let leaders = candidates.iter().filter(|candidate| candidate.leads(now)).count();
            prop_assert!(leaders <= 1, "{leaders} leaders");
        }
    }

    /// Once the others are silent, a live candidate leads within the duration and a retry.
    #[test]
    fn a_live_candidate_comes_to_lead(turns in turns()) {
        let mut server = Server::default();
        let mut now = Instant::now();
        let mut candidates = ["a", "b", "c"].map(|name| Election::new(name, TIMING));
        for turn in turns {
            now += Duration::from_millis(turn.pause_ms);
            attempt(&mut server, &mut candidates[turn.candidate], now, wall(0));
        }
        for _ in 0..9 {
            attempt(&mut server, &mut candidates[0], now, wall(0));
            now += TIMING.retry_period;
        }
        attempt(&mut server, &mut candidates[0], now, wall(0));
        prop_assert!(candidates[0].leads(now));
    }
}
