//! One page about a lab that is up: what runs where, and what to try.

use super::control::ControlPlane;
use super::demo::{HOST, NAME};
use super::topology::{CONTROL, DNS, EDGES, NODES, ROUTER, SHARED_HTTP};
use super::{Lab, haflinger_binary};

/// The page. `vip` is the address of the sample service, if it has one yet.
pub fn page(lab: &Lab, vip: Option<&str>) -> String {
    let vip = vip.unwrap_or("(none yet)");
    let prefix = lab.place.namespace_prefix();
    let client = format!("ip netns exec {prefix}client");
    let haflinger =
        haflinger_binary().map_or_else(|_| "haflinger".into(), |path| path.display().to_string());
    let mut text = format!(
        " \
client ───── router ──┬── edge1 {e1:<12} Haflinger: XDP on eth0, BGP to the router
 10.10.0.2    BIRD 2   ├── edge2 {e2:<12} Haflinger: XDP on eth0, BGP to the router
              {r:<9}├── node1 {n1:<12} pods in 10.244.1.0/24, fd00:244:0:1::/64
              ECMP     ├── node2 {n2:<12} pods in 10.244.2.0/24, fd00:244:0:2::/64
                       ├── dns   {d:<12} BIND 9, zone lab.example
                       └── control {c:<10} {control}
 Everything has an IPv6 address in fd00:20::/64 too, ending alike.
 Network namespaces: {prefix}client, {prefix}router, {prefix}edge1, …

 The sample: four pods that answer with their name, behind the VIP {vip}
 and, by HTTPS, behind https://{HOST} on {shared}.

 Try:
   {client} curl -s http://{vip}/
   {client} bash -c 'for i in {{1..8}}; do head -1 </dev/tcp/{vip}/7000; done'
   {client} curl -s --cacert {ca} --resolve {HOST}:443:{shared} https://{HOST}/
   {client} dig +short @{d} {HOST}
   ip netns exec {prefix}router birdc -s {bird} show route
   ip netns exec {prefix}router ip route show proto bird
   {haflinger} status --config {config1}
   {haflinger} flows --config {config1}
   ip netns exec {prefix}edge1 curl -s http://127.0.0.1:9410/metrics
",
        e1 = EDGES[0].v4(),
        e2 = EDGES[1].v4(),
        r = ROUTER.v4(),
        n1 = NODES[0].v4(),
        n2 = NODES[1].v4(),
        d = DNS.v4(),
        c = CONTROL.v4(),
        control = match lab.cluster {
            Some(_) => "Kubernetes API, port 6443",
            None => "nothing: Go is missing",
        },
        shared = SHARED_HTTP.0,
        ca = lab.authority.file().display(),
        bird = lab.router.socket(),
        config1 = lab.edges[0].config().display(),
    );
    text += &match lab.cluster {
        Some(_) => cluster_part(lab, &prefix),
        None => format!(
            "\n The services come from an inventory file; change it and watch the status:\n   {}\n",
            lab.place.path("inventory.toml").display()
        ),
    };
    text + &format!("\n Logs: {}\n To end it: make lab-down\n", lab.place.path("logs").display())
}

fn cluster_part(lab: &Lab, prefix: &str) -> String {
    let kubeconfig = ControlPlane::admin_kubeconfig(&lab.place);
    let kubectl =
        format!("ip netns exec {prefix}control kubectl --kubeconfig {}", kubeconfig.display());
    format!(
        "\n With kubectl:\n   {kubectl} get services,pods -o wide\n   \
         {kubectl} scale deployment {NAME} --replicas=6\n   \
         {kubectl} rollout restart deployment {NAME}\n\
         \n Without kubectl, the API by path:\n   \
         cargo run -p haflinger-tests --bin lab -- api GET /api/v1/services\n"
    )
}
