//! Every field of a Service against a real API server and its controllers: discovery, index and
//! report in this process, as the daemon joins them, and nothing of the data path.
//!
//! Topology: this process as one host in the zone `here`, and the cluster of
//! `HAFLINGER_TEST_KUBECONFIG` (an administrator's; everything happens in a namespace and on
//! Nodes of our own). Each claim is a function with a sentence for its name.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail, and says so")]

mod addresses;
mod backends;
mod excess;
mod fields;
#[path = "../fold/mod.rs"]
mod fold;
mod leaving;
mod world;

use std::pin::Pin;

use world::World;

type Claim = for<'a> fn(&'a World) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! claims {
    ($($module:ident::$claim:ident),* $(,)?) => {
        [$((stringify!($claim), (|world| Box::pin($module::$claim(world))) as Claim)),*]
    };
}

#[tokio::test]
async fn the_contract_of_a_service_is_kept() {
    let Some(world) = World::begin("the_contract_of_a_service_is_kept").await else { return };
    let claims = claims![
        fields::a_service_of_our_class_gets_an_address_in_each_family,
        fields::the_class_cannot_be_changed_and_another_one_is_not_ours,
        fields::a_preferred_family_without_a_pool_is_left_out_and_a_required_one_is_told,
        fields::sctp_is_an_error_of_its_port_and_alone_gets_no_address,
        fields::a_port_that_another_service_has_opened_is_not_in_the_way,
        fields::local_gives_a_health_check_port_that_nobody_needs_and_is_told_in_mode_nat,
        fields::node_ports_are_not_needed,
        fields::affinity_ranges_and_unready_pods_follow_their_fields,
        backends::target_ports_are_found_by_name_and_by_number,
        backends::pods_of_the_zone_are_preferred_while_there_are_any,
        backends::the_last_pod_serves_until_it_is_gone,
        addresses::a_pair_is_had_by_annotations_of_every_product,
        addresses::one_key_puts_services_on_one_address_while_their_ports_differ,
        addresses::who_may_not_share_is_told_why,
        addresses::a_pool_chooses_by_labels_of_object_and_namespace,
        addresses::a_service_that_comes_back_finds_its_address,
        addresses::another_pool_moves_the_address_once_the_status_says_so,
        leaving::another_type_leaves_nothing,
        leaving::other_ports_leave_nothing_of_the_old_ones,
        leaving::lost_annotations_leave_nothing_but_the_address,
        leaving::a_deleted_service_leaves_nothing,
        leaving::a_service_that_waits_for_its_deletion_leaves_nothing,
        excess::thousands_of_ports_are_bounded_with_one_reason,
        excess::endpoints_without_end_are_bounded_with_one_reason,
        excess::huge_annotations_are_refused_with_one_reason_each,
        excess::names_instead_of_addresses_are_refused_with_one_reason_each,
        excess::a_port_by_name_without_a_number_is_refused_with_one_reason,
    ];
    for (name, claim) in claims {
        eprintln!("claim {name}");
        claim(&world).await;
    }
    world.end().await;
}
