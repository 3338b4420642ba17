//! DNS behaviour as files: a sentence of intent, steps in virtual time, expected replies, what the
//! resolvers heard and what the record says. One for each clause of an RFC, threat or bug. `tests/scenarios/README.md` says how they are written; each file is a test of its name.

mod ask;
mod driver;
mod logs;
mod resolver;
mod rr;
mod tree;

/// A test for each file.
macro_rules! scenarios {
    ($($name:ident)*) => {
        /// The files that are run.
        const FILES: &[&str] = &[$(stringify!($name),)*];

        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*
    };
}

scenarios! {
    answers_an_absent_name_is_no_denial
    audit_refuses_nothing_but_private_addresses
    cache_a_failed_refresh_keeps_the_answer_that_still_holds
    cache_a_hot_name_is_fetched_before_it_runs_out
    clients_a_and_aaaa_at_once_both_get_answers
    clients_search_domains_neither_leak_nor_stall
    families_a_server_that_does_not_know_aaaa_costs_no_wait
    families_an_error_is_no_empty_family
    families_an_ipv6_only_name_is_a_success
    families_one_server_does_not_speak_for_the_others
    flood_lookups_under_way_do_not_take_known_names_away
    flood_one_name_asked_by_many_is_asked_once
    flood_queries_per_second_are_limited
    flood_what_is_no_query_counts_too
    guard_an_address_rule_lifts_it
    guard_no_address_is_ever_0_0_0_0
    guard_private_addresses_only_are_an_absent_name
    host_equal_resolvers_change_nothing
    hosts_a_chain_into_special_names_is_not_followed
    hosts_special_names_stay_inside_whatever_the_type
    retries_a_dead_server_is_passed_over_at_once
    retries_a_slow_answer_is_an_answer
    retries_silence_is_an_error_within_four_seconds
    retries_the_next_server_is_asked_after_300_ms
    retries_three_lost_queries_do_not_lose_the_name
    rfc1034_a_chain_of_seventeen_is_a_failure
    rfc1034_a_chain_that_stops_short_is_asked_to_its_end
    rfc1034_a_cname_loop_is_a_failure
    rfc1034_canonical_name_resolves_while_its_chain_is_known
    rfc1034_the_alias_itself_can_be_asked_for
    rfc1035_a_compressed_question_is_a_format_error
    rfc1035_a_long_answer_is_truncated_at_512_bytes
    rfc1035_a_name_too_long_is_a_format_error
    rfc1035_a_response_is_never_answered
    rfc1035_an_answer_of_any_size_is_cut_not_failed
    rfc1035_classes_other_than_in_are_refused
    rfc1035_opcodes_other_than_query_are_not_implemented
    rfc1035_records_in_a_query_are_a_format_error
    rfc1035_ttls_count_down_in_the_cache
    rfc1035_two_questions_are_a_format_error
    rfc1995_5936_zone_transfers_are_refused
    rfc2181_a_set_has_one_ttl
    rfc2181_ttls_have_a_floor_and_a_ceiling
    rfc2308_a_negative_answer_without_soa_is_kept_briefly
    rfc2308_an_absent_end_of_a_chain_keeps_its_aliases
    rfc2308_an_absent_name_is_cached_for_the_soa_minimum
    rfc2308_an_soa_of_another_zone_is_not_believed
    rfc2308_negative_answers_have_a_ceiling
    rfc2308_no_data_is_cached_for_its_type_alone
    rfc4343_case_does_not_matter
    rfc5452_a_forged_id_is_ignored
    rfc5452_a_forged_name_is_ignored
    rfc5452_a_forged_no_question_is_ignored
    rfc5452_a_forged_opcode_is_ignored
    rfc5452_a_forged_query_is_ignored
    rfc5452_a_forged_type_is_ignored
    rfc5452_an_alias_with_strangers_addresses_is_asked_again
    rfc5452_garbage_is_not_an_answer
    rfc5452_records_of_other_names_are_dropped
    rfc6761_invalid_never_leaves
    rfc6761_localhost_is_the_sandboxes_own
    rfc6891_a_large_payload_size_is_not_used
    rfc6891_a_server_without_edns_is_asked_without
    rfc6891_an_unknown_version_is_badvers
    rfc7686_onion_never_leaves
    rfc7766_a_truncated_answer_is_asked_for_over_tcp
    rfc8020_a_private_ipv4_family_leaves_the_ipv6_one
    rfc8020_a_private_ipv6_family_leaves_the_ipv4_one
    rfc8020_an_unknown_family_is_not_denied
    rfc8482_any_is_answered_with_one_small_record
    rfc8767_a_slow_upstream_still_fills_the_cache
    rfc8767_after_a_failure_upstreams_are_left_in_peace_for_30_s
    rfc8767_an_absent_name_replaces_the_earlier_answer
    rfc8767_an_answer_is_given_out_again_while_upstreams_are_silent
    rfc8767_no_answer_crosses_a_policy_change
    rfc8767_no_answer_is_older_than_a_day
    rfc8767_no_data_is_given_out_again_too
    rfc8767_servfail_upstream_is_a_reason_to_use_the_earlier_answer
    rfc8914_errors_say_what_refused
    rfc9460_a_record_that_needs_ech_is_dropped
    rfc9460_a_target_is_not_listed_and_its_hints_are_not_ours
    rfc9460_ech_is_taken_out_and_hints_are_leased
    rfc9460_ipv6_hints_go_where_the_host_has_no_route
    rfc9476_alt_never_leaves
    rfc9520_failures_are_remembered_longer_when_they_come_again
    search_a_full_name_in_a_listed_domain_is_denied_as_itself
    search_a_short_name_leaves_one_denial
    search_completions_of_listed_names_are_counted
    search_the_last_name_of_a_cluster_is_denied
    threats_a_policy_change_takes_a_name_back_in_mid_lookup
    threats_a_reverse_answer_is_believed_only_for_known_names
    threats_addresses_are_not_names
    threats_every_type_below_a_wildcard_has_the_budget
    threats_mixed_public_and_private_answers_lose_the_private_part
    threats_names_that_are_no_names_stay_inside
    threats_new_names_below_a_wildcard_are_120_a_minute
    threats_new_names_below_a_wildcard_have_a_budget
    threats_no_lookup_leaves_before_the_name_is_allowed
    threats_ptr_of_a_name_that_is_no_address_stays_inside
    threats_rebinding_is_judged_at_every_answer
    threats_reverse_lookups_carry_nothing_out
    threats_srv_and_mx_targets_do_not_become_listed
    threats_the_hosts_own_addresses_are_guarded
    threats_what_leaves_is_a_new_message
    types_a_policy_may_list_its_own
    types_what_is_not_served_is_no_data
    types_without_cname_addresses_stand_under_the_asked_name
    types_without_ptr_reverse_lookups_are_no_data
}

/// Where the files are.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios");

fn run(name: &str) {
    let path = format!("{FOLDER}/{name}.scenario");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    driver::run(name, &text);
}

#[test]
fn every_scenario_file_is_run() {
    let mut files: Vec<String> = std::fs::read_dir(FOLDER)
        .expect("the folder of scenarios")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".scenario")?.to_owned()))
        .collect();
    files.sort();
    assert_eq!(files, FILES, "each file of the folder, in order");
}
