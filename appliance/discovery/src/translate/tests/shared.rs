//! Services of several clusters that are one.

use haflinger_core::ClusterShare;

use super::*;

fn read(annotations: Value) -> (Option<ClusterShare>, Vec<String>) {
    let spec = read_service(json!({}), annotations);
    let faults = spec.faults.into_iter().map(|fault| fault.message).collect();
    (spec.exposure.unwrap().share, faults)
}

#[test]
fn a_service_shares_where_it_says_so() {
    assert_eq!(read(json!({})), (None, vec![]));
    assert_eq!(read(json!({"haflinger.dev/shared": "false"})), (None, vec![]));
    let shared = json!({"haflinger.dev/shared": "true"});
    assert_eq!(read(shared), (Some(ClusterShare { weight: 100, priority: 0 }), vec![]));
    let all = json!({
        "haflinger.dev/shared": "true",
        "haflinger.dev/cluster-weight": "256",
        "haflinger.dev/cluster-priority": "65535",
    });
    assert_eq!(read(all), (Some(ClusterShare { weight: 256, priority: 65535 }), vec![]));
}

#[test]
fn what_cannot_be_used_does_not_share_or_is_left_out() {
    let (share, faults) = read(json!({"haflinger.dev/shared": "yes"}));
    assert!(share.is_none() && faults[0].contains("write \"true\" or \"false\""), "{faults:?}");
    for value in ["257", "-1", "+5", "1.5", ""] {
        let annotations =
            json!({"haflinger.dev/shared": "true", "haflinger.dev/cluster-weight": value});
        let (share, faults) = read(annotations);
        assert_eq!(share, Some(ClusterShare::default()), "{value}");
        assert!(faults[0].contains("from 0 to 256"), "{faults:?}");
    }
    let (share, faults) = read(json!({"haflinger.dev/cluster-priority": "1"}));
    assert!(share.is_none() && faults[0].contains("haflinger.dev/shared"), "{faults:?}");
}
