//! Attaching, restarting, crashing, detaching.

use std::path::PathBuf;
use std::time::Duration;

use haflinger_xdp::{AttachMode, AttachWish, Settings, take_off};

use crate::support::{
    POD, Running, ask, can_compile, connect, echo, foreign_program, in_namespaces, run, service,
    settings, vip,
};

#[test]
fn a_connection_goes_through_and_outlives_the_daemon() {
    in_namespaces(|| async {
        let pod = format!("{POD}:8080").parse().unwrap();
        echo(pod);
        let services = [service(80, &[pod])];
        let (running, fault) = Running::start(settings(), &services).await;
        assert_eq!(fault, None);
        let stream = connect(vip(80)).await.unwrap();
        ask(&stream, "through the program").await;
        running.kill().await;
        ask(&stream, "while nobody is there").await;
        let (running, fault) = Running::start(settings(), &services).await;
        assert_eq!(fault, None);
        ask(&stream, "after a crash").await;
        running.stop().await;
        ask(&stream, "after a stop").await;
        connect(vip(80)).await.unwrap();
    });
}

#[test]
fn a_restart_keeps_the_links_and_puts_the_new_program_into_them() {
    in_namespaces(|| async {
        let (running, fault) = Running::start(settings(), &[]).await;
        assert_eq!(fault, None);
        let modes: Vec<_> = running.attached();
        let expected = ["c0", "p0"].map(|name| (name.to_owned(), AttachMode::Native));
        assert_eq!(modes, expected);
        running.kill().await;
        let (links, programs) = (links(), programs());
        let (running, _) = Running::start(settings(), &[]).await;
        assert_eq!(self::links(), links, "the links are the same");
        assert_ne!(self::programs(), programs, "the program in them is the new one");
        running.stop().await;
    });
}

#[test]
fn a_kernel_without_type_information_is_named() {
    in_namespaces(|| async {
        // As on a kernel that was built without it: seen by this thread alone.
        run("mount -t tmpfs none /sys/kernel/btf");
        let (running, fault) = Running::start(settings(), &[]).await;
        let fault = fault.unwrap();
        assert!(fault.contains("lacks type information of its own"), "{fault}");
        run("umount /sys/kernel/btf");
        running.stop().await;
    });
}

/// Identifiers of the XDP links of this network namespace.
fn links() -> Vec<String> {
    let shown =
        run("for pin in /sys/fs/bpf/haflinger/links/*; do bpftool link show pinned $pin; done");
    let ids = shown.lines().filter(|line| line.contains(": xdp"));
    ids.filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect()
}

/// Identifiers of the programs in them.
fn programs() -> Vec<String> {
    let shown =
        run("for pin in /sys/fs/bpf/haflinger/links/*; do bpftool link show pinned $pin; done");
    let ids = shown.lines().filter_map(|line| Some(line.split_once("prog ")?.1.to_owned()));
    ids.map(|rest| rest.split(' ').next().unwrap_or_default().to_owned()).collect()
}

/// What counts changed neighbours for the program, as the kernel numbers it.
fn watchers() -> Vec<String> {
    let shown = run("for pin in /sys/fs/bpf/haflinger/v*/neighbour_*; do
             [ ! -e $pin ] || bpftool link show pinned $pin
         done");
    let ids = shown.lines().filter(|line| line.contains(": raw_tracepoint"));
    ids.filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect()
}

/// What they have counted.
fn counted() -> u32 {
    let shown = run("bpftool -j map dump pinned /sys/fs/bpf/haflinger/v*/generation");
    let bytes = shown.split_once("\"value\":[").unwrap().1.split(']').next().unwrap();
    let hex = |byte: &str| u8::from_str_radix(byte.trim_matches('"').trim_start_matches("0x"), 16);
    let bytes: Vec<u8> = bytes.split(',').take(4).map(|byte| hex(byte).unwrap()).collect();
    u32::from_ne_bytes(bytes.try_into().unwrap())
}

#[test]
fn changed_neighbours_are_counted_while_the_daemon_is_away() {
    in_namespaces(|| async {
        let neighbour =
            |last| run(&format!("ip neigh replace {POD} lladdr 2:0:0:0:0:{last} dev p0"));
        neighbour(1);
        let (running, _) = Running::start(settings(), &[]).await;
        let not_remembered = running.handle.status().ways_not_remembered;
        running.kill().await;
        if let Some(reason) = not_remembered {
            assert!(reason.contains("6.2"), "{reason}");
            assert_eq!((watchers().len(), counted()), (0, 0));
            return;
        }
        let first = watchers();
        assert_eq!(first.len(), 3);
        for last in 2..5 {
            let before = counted();
            assert_ne!(before, 0);
            neighbour(last);
            assert_ne!(counted(), before);
        }
        let before = counted();
        let (running, _) = Running::start(settings(), &[]).await;
        assert!(counted() > before, "what was remembered meanwhile is asked for again");
        running.stop().await;
        let second = watchers();
        assert_eq!(second.len(), 3);
        assert!(second.iter().all(|id| !first.contains(id)), "{first:?} {second:?}");
        take_off(&settings().pin_dir).unwrap();
        assert_eq!(watchers().len(), 0);
    });
}

#[test]
fn taking_it_off_leaves_nothing_behind() {
    in_namespaces(|| async {
        let (running, _) = Running::start(settings(), &[]).await;
        running.stop().await;
        let removed = take_off(&settings().pin_dir).unwrap();
        assert_eq!((removed.interfaces, removed.layouts), (2, 1));
        assert!(!run("ip link show").contains("xdp"));
        assert_eq!(take_off(&settings().pin_dir).unwrap(), Default::default());
        assert_eq!(take_off(&PathBuf::from("/sys/fs/bpf/never")).unwrap(), Default::default());
    });
}

#[test]
fn switched_off_it_is_taken_off_and_switched_on_it_comes_back() {
    in_namespaces(|| async {
        let (mut running, _) = Running::start(settings(), &[]).await;
        running.handle.reconfigure(Settings { enabled: false, ..settings() }).unwrap();
        assert_eq!(running.next_fault().await.as_deref(), Some("switched off"));
        assert!(!run("ip link show").contains("xdp"));
        running.handle.reconfigure(settings()).unwrap();
        assert_eq!(running.next_fault().await, None);
        assert_eq!(run("ip link show").matches("prog/xdp").count(), 2);
        running.stop().await;
    });
}

#[test]
fn the_stack_attaches_where_it_is_asked_to() {
    in_namespaces(|| async {
        let pod = format!("{POD}:8080").parse().unwrap();
        echo(pod);
        let generic = Settings { attach: AttachWish::Generic, ..settings() };
        let (running, fault) = Running::start(generic, &[service(80, &[pod])]).await;
        assert_eq!(fault, None);
        assert!(running.attached().iter().all(|(_, mode)| *mode == AttachMode::Generic));
        ask(&connect(vip(80)).await.unwrap(), "by the stack").await;
        running.stop().await;
    });
}

#[test]
fn a_driver_that_cannot_transmit_decides_for_the_stack() {
    in_namespaces(|| async {
        // A veth transmits redirected frames only while its other end can take them.
        run("ip netns exec client ethtool -K eth0 gro off >/dev/null
             ip netns exec pod ethtool -K eth0 gro off >/dev/null");
        let pod = format!("{POD}:8080").parse().unwrap();
        echo(pod);
        let (running, fault) = Running::start(settings(), &[service(80, &[pod])]).await;
        assert_eq!(fault, None);
        assert!(running.attached().iter().all(|(_, mode)| *mode == AttachMode::Generic));
        ask(&connect(vip(80)).await.unwrap(), "by the stack").await;
        running.stop().await;
    });
}

#[test]
fn another_owner_s_program_is_named_and_left_alone() {
    if !can_compile("lifecycle::another_owner_s_program_is_named_and_left_alone") {
        return;
    }
    in_namespaces(|| async {
        foreign_program("c0");
        let only = Settings { interfaces: vec!["c0".into()], ..settings() };
        let (running, fault) = Running::start(only, &[]).await;
        let fault = fault.unwrap();
        assert!(fault.contains("c0: the XDP program stranger (id "), "{fault}");
        running.stop().await;
        let both = settings();
        let (mut running, fault) = Running::start(both, &[]).await;
        assert_eq!(fault, None, "the other interface forwards");
        assert_eq!(running.attached(), [("p0".to_owned(), AttachMode::Native)]);
        run("ip link set dev c0 xdp off");
        running.until_attached("c0").await;
        running.stop().await;
    });
}

#[test]
fn a_guessed_interface_is_touched_once_a_service_asks_for_it() {
    in_namespaces(|| async {
        run("ip route add default dev c0");
        let pod = format!("{POD}:8080").parse().unwrap();
        let guessed = Settings { interfaces: Vec::new(), ..settings() };
        let mut running = Running::begin(guessed, &[]);
        while running.handle.status().layout.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Long enough for the routine of a second to have looked.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        run("ip link add event type dummy 2>/dev/null || ip link add event type bridge");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(running.attached(), []);
        running.publish(&[service(80, &[pod])]);
        assert_eq!(running.next_fault().await, None);
        // How it attaches depends on what the kernel says of the way out to the pod.
        let attached: Vec<String> = running.attached().into_iter().map(|(name, _)| name).collect();
        assert_eq!(attached, ["c0"]);
        running.stop().await;
    });
}

#[test]
fn an_interface_may_come_later_and_go_again() {
    in_namespaces(|| async {
        let later = Settings { interfaces: vec!["late.7".into()], ..settings() };
        let (mut running, fault) = Running::start(later, &[]).await;
        assert_eq!(fault.as_deref(), Some("late.7: there is no such interface"));
        run("ip link add late.7 type veth peer name other; ip link set late.7 up");
        assert_eq!(running.next_fault().await, None);
        run("ip link del late.7");
        assert_eq!(
            running.next_fault().await.as_deref(),
            Some("late.7: there is no such interface")
        );
        run("ip link add late.7 type veth peer name other; ip link set late.7 up");
        assert_eq!(running.next_fault().await, None);
        running.stop().await;
    });
}

#[test]
fn without_a_bpf_file_system_the_remedy_is_said() {
    in_namespaces(|| async {
        let elsewhere = Settings { pin_dir: PathBuf::from("/run/netns/maps"), ..settings() };
        let (running, fault) = Running::start(elsewhere, &[]).await;
        assert!(fault.unwrap().contains("mount -t bpf bpf /sys/fs/bpf"));
        running.stop().await;
    });
}

#[test]
fn connections_end_when_they_are_idle_for_too_long() {
    in_namespaces(|| async {
        let pod = format!("{POD}:8080").parse().unwrap();
        echo(pod);
        let mut web = service(80, &[pod]);
        web.timeouts.established_secs = 1;
        let (running, _) = Running::start(settings(), &[web]).await;
        let stream = connect(vip(80)).await.unwrap();
        ask(&stream, "once").await;
        while running.connections(80) != Some(0) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        running.stop().await;
    });
}
