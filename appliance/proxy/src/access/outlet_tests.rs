use super::*;

fn lines(lines: &[&str]) -> Vec<Vec<u8>> {
    lines.iter().map(|line| line.as_bytes().to_vec()).collect()
}

fn write(outlet: &mut Outlet, text: &[&str], now: Instant) {
    let written = outlet.write(&lines(text), now);
    assert!(written.fault.is_none(), "{written:?}");
    assert_eq!(written.lines, text.len());
}

#[test]
fn a_file_is_appended_to_and_followed_when_it_is_moved_away() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
    std::fs::write(&path, "before\n").unwrap();
    let mut outlet = Outlet::new(AccessDestination::File(path.clone()));
    let start = Instant::now();
    write(&mut outlet, &["one", "two"], start);
    outlet.follow(start, false);
    std::fs::rename(&path, &moved).unwrap();
    outlet.follow(start, false);
    write(&mut outlet, &["three"], start);
    assert!(!path.exists(), "it is not looked at with every batch");
    outlet.follow(start + LOOK_INTERVAL, false);
    write(&mut outlet, &["four"], start + LOOK_INTERVAL);
    assert_eq!(std::fs::read_to_string(&moved).unwrap(), "before\none\ntwo\nthree\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "four\n");
    std::fs::rename(&path, &moved).unwrap();
    outlet.follow(start + LOOK_INTERVAL, true);
    write(&mut outlet, &["five"], start + LOOK_INTERVAL);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "five\n", "it is when that is asked for");
}

#[test]
fn a_destination_that_cannot_be_opened_is_tried_again_after_a_pause() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing").join("log");
    let mut outlet = Outlet::new(AccessDestination::File(path.clone()));
    let start = Instant::now();
    let written = outlet.write(&lines(&["one"]), start);
    assert_eq!((written.lines, written.fault.unwrap().kind()), (0, io::ErrorKind::NotFound));
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let written = outlet.write(&lines(&["two"]), start);
    assert_eq!((written.lines, written.fault.unwrap().kind()), (0, io::ErrorKind::NotConnected));
    write(&mut outlet, &["three"], start + LOOK_INTERVAL);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
}

#[test]
fn a_line_that_was_torn_does_not_run_into_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut outlet = Outlet::new(AccessDestination::File(path.clone()));
    let now = Instant::now();
    write(&mut outlet, &["whole"], now);
    let Some(Open::Stream(stream)) = &mut outlet.open else { panic!("not open") };
    stream.sink.write(b"hal").unwrap();
    stream.torn = true;
    write(&mut outlet, &["next"], now);
    write(&mut outlet, &["last"], now);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\nhal\nnext\nlast\n");
}

#[test]
fn a_full_disk_loses_lines_and_counts_them() {
    let mut outlet = Outlet::new(AccessDestination::File("/dev/full".into()));
    let written = outlet.write(&lines(&["one", "two"]), Instant::now());
    assert_eq!((written.lines, written.fault.unwrap().kind()), (0, io::ErrorKind::StorageFull));
}

#[test]
fn a_pipe_that_nobody_reads_does_not_hold_the_writer_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let mut outlet = Outlet::new(AccessDestination::File(path));
    let written = outlet.write(&lines(&["one"]), Instant::now());
    assert_eq!(written.lines, 0);
    assert!(written.fault.is_some());
}

#[test]
fn syslog_is_sent_a_datagram_a_line_and_found_again_after_its_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let daemon = UnixDatagram::bind(&path).unwrap();
    let mut outlet = Outlet::new(AccessDestination::Syslog(path.clone()));
    let start = Instant::now();
    write(&mut outlet, &["one", "two"], start);
    let mut buffer = [0; 1_024];
    let mut received = |daemon: &UnixDatagram| {
        let bytes = daemon.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..bytes].to_vec()).unwrap()
    };
    let first = received(&daemon);
    let parts: Vec<&str> = first.splitn(8, ' ').collect();
    assert_eq!(parts[0], "<134>1");
    assert!(parts[1].parse::<jiff::Timestamp>().is_ok(), "{first}");
    let process = std::process::id().to_string();
    assert_eq!(parts[3..], ["haflinger", &process, "access", "-", "one"], "{first}");
    assert!(received(&daemon).ends_with(" two"));
    drop(daemon);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(outlet.write(&lines(&["lost"]), start).lines, 0);
    let daemon = UnixDatagram::bind(&path).unwrap();
    write(&mut outlet, &["three"], start + LOOK_INTERVAL);
    assert!(received(&daemon).ends_with(" three"));
}

#[test]
fn a_host_name_is_fit_for_syslog() {
    assert_eq!(syslog_name("edge-1"), "edge-1");
    assert_eq!(syslog_name("ed ge\n1ä"), "edge1");
    assert_eq!(syslog_name(""), "-");
}
