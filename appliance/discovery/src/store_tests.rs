use std::os::unix::fs::PermissionsExt;

use haflinger_core::{Algorithm, NodeSpec};

use super::*;

fn source() -> SourceId {
    SourceId::cluster("c")
}

fn node(name: &str, last: Option<u8>) -> SourceUpdate {
    let spec = last.map(|last| {
        Box::new(NodeSpec { addresses: vec![[10, 0, 0, last].into()], ..NodeSpec::default() })
    });
    SourceUpdate::Node { source: source(), name: name.into(), spec }
}

fn batch(updates: &[SourceUpdate], whole: bool) -> Batch {
    let mut batch = Batch { whole, ..Batch::default() };
    for update in updates {
        batch.add(Key::of(update), serde_json::to_vec(update).unwrap(), is_gone(update));
    }
    batch
}

fn sorted(restored: Restored) -> Vec<SourceUpdate> {
    let mut updates: Vec<_> = restored.updates.into_iter().map(|(update, _)| update).collect();
    updates.sort_by_key(Key::of);
    updates
}

#[test]
fn what_was_written_is_read_back_with_the_last_word_of_each_object() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, restored, error) = Store::open(dir.path(), &source());
    assert!(restored.updates.is_empty() && !restored.whole && error.is_none());
    store.append(&batch(&[node("a", Some(1)), node("b", Some(2))], false)).unwrap();
    store.append(&batch(&[node("a", Some(3)), node("b", None)], true)).unwrap();
    let (_, restored, error) = Store::open(dir.path(), &source());
    assert!(error.is_none());
    assert!(restored.whole);
    assert_eq!(sorted(restored), [node("a", Some(3))]);
}

#[test]
fn only_the_owner_can_read_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, ..) = Store::open(dir.path(), &source());
    store.append(&batch(&[node("a", Some(1))], false)).unwrap();
    let mode = std::fs::metadata(Store::path(dir.path(), &source())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_write_that_a_crash_cut_short_loses_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, ..) = Store::open(dir.path(), &source());
    store.append(&batch(&[node("a", Some(1))], true)).unwrap();
    let good = store.bytes();
    store.append(&batch(&[node("b", Some(2))], true)).unwrap();
    let path = Store::path(dir.path(), &source());
    let content = std::fs::read(&path).unwrap();
    let good = usize::try_from(good).unwrap();
    for cut in good..content.len() {
        std::fs::write(&path, &content[..cut]).unwrap();
        let (_, restored, error) = Store::open(dir.path(), &source());
        assert!(error.is_none(), "cut at {cut}: {error:?}");
        assert_eq!(sorted(restored), [node("a", Some(1))], "cut at {cut}");
    }
    // And the file goes on from there.
    std::fs::write(&path, &content[..content.len() - 1]).unwrap();
    let (mut store, ..) = Store::open(dir.path(), &source());
    store.append(&batch(&[node("c", Some(3))], true)).unwrap();
    let (_, restored, _) = Store::open(dir.path(), &source());
    assert_eq!(sorted(restored), [node("a", Some(1)), node("c", Some(3))]);
}

/// As version 1 wrote them.
const SERVICE_V1: &str = r#"{"Service":{
    "object":{"source":"cluster/c","kind":"Service","namespace":"shop","name":"web"},
    "spec":{"ports":[{"name":"","port":80,"protocol":"tcp"}],
        "exposure":{"families":["ipv4"],"requested":[],"pool":null,"recorded":["192.0.2.7"],
            "mode":"proxy","source_ranges":[],"hostnames":[],"ttl_secs":null},
        "created_secs":1,"families":["ipv4"],"affinity":{"client_ip":{"timeout_secs":600}},
        "publish_not_ready":false,"proxy_protocol":"off","health_check":null,"faults":[]}}}"#;
const SLICE_V1: &str = r#"{"Slice":{
    "service":{"source":"cluster/c","kind":"Service","namespace":"shop","name":"web"},
    "slice":"web-1","content":{"family":"ipv4",
        "ports":[{"name":"","protocol":"tcp","port":8080}],
        "backends":[{"address":"10.0.0.1","name":"pod","node":null,"zone":null,"weight":100,
            "ready":true,"serving":true,"terminating":false}],"faults":[]}}}"#;

#[test]
fn a_file_of_version_1_is_read_and_goes_on_under_the_present_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = Store::path(dir.path(), &source());
    let mut old = MAGIC.to_vec();
    old.extend(1_u32.to_le_bytes());
    push_frame(&mut old, SOURCE_TAG, b"cluster/c").unwrap();
    push_frame(&mut old, UPDATE_TAG, SERVICE_V1.as_bytes()).unwrap();
    push_frame(&mut old, UPDATE_TAG, SLICE_V1.as_bytes()).unwrap();
    push_frame(&mut old, WHOLE_TAG, &[]).unwrap();
    std::fs::write(&path, &old).unwrap();

    let (mut store, restored, error) = Store::open(dir.path(), &source());
    assert!(error.is_none() && restored.whole, "{error:?}");
    let restored = sorted(restored);
    let SourceUpdate::Service { spec: Some(spec), .. } = &restored[0] else { panic!("no service") };
    assert_eq!(spec.algorithm, Algorithm::Source { timeout_secs: 600 });
    assert_eq!((spec.limits, spec.timeouts), Default::default());
    // The only mode that there was: nobody had asked for it.
    assert_eq!(spec.exposure.as_ref().unwrap().mode, None);
    let SourceUpdate::Slice { content: Some(slice), .. } = &restored[1] else { panic!("no slice") };
    assert!(!slice.backends[0].backup);

    // Reading alone leaves the file to the release that wrote it.
    assert_eq!(std::fs::read(&path).unwrap(), old);
    store.append(&batch(&[node("a", Some(1))], true)).unwrap();
    assert_eq!(std::fs::read(&path).unwrap()[8..12], VERSION.to_le_bytes());
    let (_, again, error) = Store::open(dir.path(), &source());
    assert!(error.is_none());
    let expected: Vec<_> = restored.into_iter().chain([node("a", Some(1))]).collect();
    assert_eq!(sorted(again), expected);
}

#[test]
fn a_damaged_or_foreign_file_is_refused_and_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = Store::path(dir.path(), &source());
    let (mut store, ..) = Store::open(dir.path(), &source());
    store.append(&batch(&[node("a", Some(1)), node("b", Some(2))], true)).unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut flipped = good.clone();
    let at = good.len() / 2;
    flipped[at] ^= 1;
    let mut newer = good.clone();
    newer[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let other = good.iter().map(|b| if *b == b'c' { b'd' } else { *b }).collect::<Vec<_>>();
    for bad in [flipped, newer, other, b"what is this".to_vec(), b"HFLSTATE".to_vec()] {
        std::fs::write(&path, &bad).unwrap();
        let (mut store, restored, error) = Store::open(dir.path(), &source());
        assert!(error.is_some() && restored.updates.is_empty() && !restored.whole);
        assert_eq!(std::fs::read(path.with_extension("refused")).unwrap(), bad);
        store.append(&batch(&[node("n", Some(9))], false)).unwrap();
        let (_, restored, error) = Store::open(dir.path(), &source());
        assert!(error.is_none());
        assert_eq!(sorted(restored), [node("n", Some(9))]);
    }
}

#[test]
fn any_flipped_bit_is_noticed_or_costs_the_last_frame_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = Store::path(dir.path(), &source());
    let (mut store, ..) = Store::open(dir.path(), &source());
    for update in [node("a", Some(1)), node("b", Some(2)), node("c", Some(3))] {
        store.append(&batch(&[update], true)).unwrap();
    }
    let good = std::fs::read(&path).unwrap();
    let all = [node("a", Some(1)), node("b", Some(2)), node("c", Some(3))];
    for bit in 0..good.len() * 8 {
        let mut flipped = good.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &flipped).unwrap();
        let (_, restored, error) = Store::open(dir.path(), &source());
        if error.is_some() {
            assert!(restored.updates.is_empty() && !restored.whole, "bit {bit}");
        } else {
            // The last frame's length is flipped, and it looks as if a crash had cut it off; or the
            // version is now an older one, which is read as well.
            let restored = sorted(restored);
            assert!(restored == all[..2] || restored == all, "bit {bit}: {restored:?}");
        }
    }
}

#[test]
fn a_file_that_is_mostly_outdated_is_rewritten_and_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, ..) = Store::open(dir.path(), &source());
    let long = "x".repeat(20_000);
    store.append(&batch(&[node("kept", Some(7))], true)).unwrap();
    let mut largest = 0;
    for round in 0..200_u32 {
        let last = u8::try_from(round % 200).unwrap();
        store.append(&batch(&[node(&long, Some(last))], true)).unwrap();
        largest = largest.max(store.bytes());
    }
    assert!(largest < 2 * COMPACTION_FLOOR_BYTES, "{largest}");
    let (_, restored, error) = Store::open(dir.path(), &source());
    assert!(error.is_none() && restored.whole);
    assert_eq!(sorted(restored), [node("kept", Some(7)), node(&long, Some(199))]);
}
