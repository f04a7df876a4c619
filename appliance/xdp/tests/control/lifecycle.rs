//! Attaching, restarting, crashing, detaching.

use crate::support::{POD, Running, ask, connect, echo, in_namespaces, service, settings, vip};

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
