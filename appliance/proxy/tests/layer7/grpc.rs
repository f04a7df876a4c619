//! gRPC over HTTP/2 without TLS, on both sides.

use std::sync::Arc;

use haflinger_core::{
    HostMatch, HttpRule, RuleAction, RuleBackend, RuleTimeouts, Upstream, UpstreamProtocol,
};

use crate::support::backend::{Backend, dead_address};
use crate::support::client::RawClient;
use crate::support::grpc::{Caller, EchoServer};
use crate::support::{Lab, action, plain_section, route, rule, target, weighted};

fn to(name: &str) -> RuleBackend {
    let to = Upstream { speaks: UpstreamProtocol::Http2, ..Upstream::plain(target(name)) };
    RuleBackend { to: Ok(to), ..weighted(1, name) }
}

fn grpc(path: &str, backend: RuleBackend) -> HttpRule {
    route(path, RuleAction { backends: vec![backend], ..RuleAction::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_stream_both_ways_and_the_status_comes_behind_them() {
    let server = EchoServer::start().await;
    let mut lab = Lab::start();
    lab.backends("echo", &[server.address]);
    lab.listen(vec![grpc("/echo.Echo", to("echo"))]);
    lab.publish().await;
    let mut caller = Caller::connect(lab.address).await;
    let mut calls = Vec::new();
    for _ in 0..30 {
        calls.push(caller.call("shop.example", "/echo.Echo/Talk").await);
    }
    for mut call in calls {
        assert_eq!(call.field("seen-te"), Some("trailers"));
        assert_eq!(call.field("seen-authority"), Some("shop.example"));
        assert_eq!(call.field("seen-path"), Some("/echo.Echo/Talk"));
        // The second is sent after the first has come back: nothing waits for an end.
        assert_eq!(call.echo("one").await, "one");
        assert_eq!(call.echo("two").await, "two");
        assert_eq!(call.end().await.as_deref(), Some("0"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_the_proxy_answers_get_a_status_of_grpc() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.backends("echo", &[]);
    lab.backends("dead", &[dead_address().await]);
    lab.backends("shop", &[shop.address]);
    let missing = RuleBackend { to: Err(500), ..weighted(1, "missing") };
    let mut slow = action("shop", Vec::new());
    slow.timeouts = RuleTimeouts { request_ms: Some(50), backend_ms: None };
    lab.listen(vec![
        grpc("/empty", to("echo")),
        grpc("/missing", missing),
        grpc("/dead", to("dead")),
        route("/gate", slow),
    ]);
    lab.publish().await;
    let mut caller = Caller::connect(lab.address).await;
    for (path, status) in
        [("/none", "12"), ("/empty", "14"), ("/missing", "14"), ("/dead", "14"), ("/gate", "4")]
    {
        let call = caller.call("shop.example", path).await;
        assert_eq!(call.response.status(), 200, "{path}");
        assert_eq!(call.field("grpc-status"), Some(status), "{path}");
        assert_eq!(call.field("content-type"), Some("application/grpc"));
        assert!(call.response.body().is_end_stream(), "{path}: trailers would have to follow");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_without_tls_takes_both_versions_and_sections_hold_for_each_request() {
    let shop = Backend::start("shop").await;
    let server = EchoServer::start().await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.backends("echo", &[server.address]);
    let calls = grpc("/", to("echo"));
    let section =
        |host: &str, rule: HttpRule| plain_section(HostMatch::Exact(host.into()), vec![rule]);
    lab.listen_plain_sections(vec![
        section("shop.example", rule(None, "/", Some("shop"))),
        section("echo.example", HttpRule { action: Arc::clone(&calls.action), ..calls }),
    ]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    assert_eq!(client.get("/").await.unwrap().0, 200);
    let mut caller = Caller::connect(lab.address).await;
    let call = caller.call("echo.example", "/a.B/C").await;
    assert_eq!(call.end().await.as_deref(), Some("0"));
    let call = caller.call("else.example", "/a.B/C").await;
    assert_eq!(call.field("grpc-status"), Some("12"));
}
