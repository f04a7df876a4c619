//! Host names of listeners and routes (`Hostname`): exact, or `*.` for one label or more.

use std::sync::Arc;

use crate::HostMatch;

/// What a host name stands for; `None`: every one.
pub(super) fn host_match(host: Option<&Arc<str>>) -> HostMatch {
    match host {
        None => HostMatch::Any,
        Some(host) => match host.strip_prefix("*.") {
            Some(suffix) => HostMatch::Suffix(suffix.into()),
            None => HostMatch::Exact(host.clone()),
        },
    }
}

/// What two host names both stand for.
fn intersection<'a>(one: &'a Arc<str>, other: &'a Arc<str>) -> Option<&'a Arc<str>> {
    // Whether `name`, exact or not, lies under the wildcard before `suffix`.
    let under = |name: &str, suffix: &str| {
        let name = name.strip_prefix('*').unwrap_or(name);
        name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
    };
    match (one.strip_prefix("*."), other.strip_prefix("*.")) {
        _ if one == other => Some(one),
        (Some(suffix), _) if under(other, suffix) => Some(other),
        (_, Some(suffix)) if under(one, suffix) => Some(one),
        _ => None,
    }
}

/// The hosts for which a route with these names counts on a listener, in the order of the route;
/// nothing: for none.
pub(super) fn common_hosts(
    listener: Option<&Arc<str>>,
    route: &[Arc<str>],
) -> Vec<Option<Arc<str>>> {
    let Some(listener) = listener else {
        let own = route.iter().cloned().map(Some);
        return if route.is_empty() { vec![None] } else { own.collect() };
    };
    if route.is_empty() {
        return vec![Some(listener.clone())];
    }
    let common = route.iter().filter_map(|host| intersection(listener, host));
    let mut hosts: Vec<Option<Arc<str>>> = Vec::new();
    for host in common {
        // A wildcard and a name under it may have the same in common with the listener.
        if !hosts.iter().any(|known| known.as_ref() == Some(host)) {
            hosts.push(Some(host.clone()));
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(listener: Option<&str>, route: &[&str]) -> Vec<String> {
        let route: Vec<Arc<str>> = route.iter().map(|host| (*host).into()).collect();
        let listener: Option<Arc<str>> = listener.map(Into::into);
        let hosts = common_hosts(listener.as_ref(), &route).into_iter();
        hosts.map(|host| host.as_deref().unwrap_or("").to_owned()).collect()
    }

    #[test]
    fn a_route_counts_for_what_its_names_and_the_listener_have_in_common() {
        assert_eq!(common(None, &[]), [""]);
        assert_eq!(common(None, &["a.example"]), ["a.example"]);
        assert_eq!(common(Some("a.example"), &[]), ["a.example"]);
        assert_eq!(common(Some("a.example"), &["b.example", "a.example"]), ["a.example"]);
        assert_eq!(common(Some("*.example"), &["b.example", "a.b.example"]).len(), 2);
        assert_eq!(common(Some("a.b.example"), &["*.example", "*.b.example"]), ["a.b.example"]);
        assert_eq!(common(Some("*.example"), &["*.b.example"]), ["*.b.example"]);
        assert_eq!(common(Some("*.b.example"), &["*.example"]), ["*.b.example"]);
    }

    #[test]
    fn a_wildcard_stands_for_a_label_at_least() {
        assert_eq!(common(Some("*.example"), &["example"]), Vec::<String>::new());
        assert_eq!(common(Some("*.example"), &["myexample"]), Vec::<String>::new());
        assert_eq!(common(Some("*.b.example"), &["*.c.example"]), Vec::<String>::new());
        assert_eq!(common(Some("a.example"), &["*.a.example"]), Vec::<String>::new());
    }
}
