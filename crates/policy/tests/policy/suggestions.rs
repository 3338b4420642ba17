//! What is suggested works, is the least that works, and takes nothing away.

use portcullis_names::PortSet;

use super::*;

fn suggest_name(policy: &Policy, target: &str, port: u16) -> Option<String> {
    let target = name(target);
    policy.suggestion(&Request::connect(&Destination::name(target.as_ref()), port))
}

/// The policy with a suggestion added.
fn extended(text: &str, suggestion: &str) -> Policy {
    load(&[
        file("p.toml", text),
        file("more.toml", &format!("version = 1\n{suggestion}\n")),
    ])
    .unwrap_or_else(|errors| panic!("{}", lines(&errors)))
    .policy
}

#[test]
fn a_name_that_is_not_listed() {
    let policy = Policy::deny_all();
    assert_eq!(
        suggest_name(&policy, "api.example.org", 443).unwrap(),
        "[network.domains]\n\"api.example.org\" = \"allow\""
    );
    assert_eq!(
        suggest_name(&policy, "db.example.org", 5432).unwrap(),
        "[network.domains]\n\"db.example.org:5432\" = \"allow\""
    );
    let api = name("api.example.org");
    assert_eq!(
        policy
            .suggestion(&Request::Lookup {
                name: api.as_ref(),
                qtype: 1.into()
            })
            .unwrap(),
        "[network.domains]\n\"api.example.org\" = \"allow\""
    );
    assert_eq!(
        policy.suggestion(&Request::Lookup {
            name: api.as_ref(),
            qtype: 252.into()
        }),
        None
    );
}

#[test]
fn a_port_that_is_not_listed() {
    let policy = domains("\"a.example\" = \"allow\"\n\"*.wild.example\" = \"allow\"");
    assert_eq!(
        suggest_name(&policy, "a.example", 22).unwrap(),
        "[network.domains]\n\"a.example:22\" = \"allow\""
    );
    // a rule for the name alone would replace the ports of the wildcard, so it repeats them
    assert_eq!(
        suggest_name(&policy, "x.wild.example", 22).unwrap(),
        "[network.domains]\n\"x.wild.example\" = \"allow\"\n\"x.wild.example:22\" = \"allow\""
    );
}

#[test]
fn an_address() {
    let policy = Policy::deny_all();
    let suggest = |to: &str| {
        policy
            .suggestion(&Request::connect(&Destination::address(address(to)), 5432))
            .unwrap()
    };
    assert_eq!(
        suggest("10.1.2.3"),
        "[network.addresses]\n\"10.1.2.3:5432\" = \"allow\""
    );
    assert_eq!(
        suggest("2001:db8::7"),
        "[network.addresses]\n\"[2001:db8::7]:5432\" = \"allow\""
    );
}

#[test]
fn what_no_addition_can_allow() {
    let policy = domains("\"a.example\" = \"allow\"\n\"d.example\" = \"deny\"");
    assert_eq!(
        suggest_name(&policy, "a.example", 443),
        None,
        "allowed already"
    );
    assert_eq!(suggest_name(&policy, "d.example", 443), None);
    let (a, b) = (name("a.example"), name("b.example"));
    let to = Destination::name(a.as_ref()).showing(Shown::sni(b.as_ref()));
    assert_eq!(
        policy.suggestion(&Request::Connect { to: &to, port: 443 }),
        None
    );
}

#[test]
fn a_codex_profile_is_extended_in_its_own_table() {
    let text = "default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\n[permissions.w.network.domains]\n\"a.example\" = \"allow\"\n";
    let policy = loaded("config.toml", text).policy;
    assert_eq!(
        suggest_name(&policy, "b.example", 22).unwrap(),
        "[permissions.w.network.domains]\n\"b.example\" = \"allow\""
    );
}

#[test]
fn every_suggestion_allows_its_request_and_keeps_what_was_allowed() {
    let texts = [
        "version = 1",
        "version = 1\n[network.domains]\n\"**.example\" = \"allow\"\n",
        "version = 1\n[network.domains]\n\"a.example:22\" = \"allow\"\n",
        "version = 1\n[network.domains]\n\"*.example:*\" = \"allow\"\n\"a.example:81\" = \"allow\"\n",
        "version = 1\n[network.addresses]\n\"10.0.0.0/8:22\" = \"allow\"\n\"192.0.2.0/24:22\" = \"allow\"\n",
        "version = 1\n[network.addresses]\n\"192.0.2.1:22\" = \"allow\"\n",
    ];
    let owners = names(&["a.example", "b.example"]);
    let a = owners[0].as_ref();
    for text in texts {
        let policy = loaded("p.toml", text).policy;
        let mut requests = vec![Request::Lookup {
            name: a,
            qtype: 1.into(),
        }];
        let mut connections = Vec::new();
        for port in [22, 80, 443] {
            connections.push((Destination::name(a), port));
            for to in ["10.0.0.1", "192.0.2.1", "2001:db8::1"] {
                let address = address(to);
                connections.push((Destination::address(address), port));
                for to in [
                    Destination::leased(address, &owners),
                    Destination::leased(address, &[]),
                    Destination::leased(address, &owners).showing(Shown::Hidden),
                    Destination::leased(address, &owners).showing(Shown::sni(a)),
                    Destination::leased(address, &owners).showing(Shown::host(a)),
                ] {
                    connections.push((to, port));
                }
            }
        }
        requests.extend((connections.iter()).map(|(to, port)| Request::connect(to, *port)));
        for request in &requests {
            let decision = policy.decide(request);
            let suggestion = policy.suggestion(request);
            assert_eq!(
                suggestion.is_none(),
                decision.permits(),
                "{text}\n{request:?}: {decision:?}"
            );
            let Some(suggestion) = suggestion else {
                continue;
            };
            // adding a name may show the next layer's refusal, which has its own suggestion
            let mut policy = extended(text, &suggestion);
            if let Some(next) = policy.suggestion(request) {
                let both = format!("{text}\n");
                policy = load(&[
                    file("p.toml", &both),
                    file("1.toml", &format!("version = 1\n{suggestion}\n")),
                    file("2.toml", &format!("version = 1\n{next}\n")),
                ])
                .unwrap()
                .policy;
            }
            assert!(
                policy.decide(request).permits(),
                "{text}\n{request:?}\n{suggestion}"
            );
            let before = loaded("p.toml", text).policy;
            for kept in &requests {
                assert!(
                    !before.decide(kept).permits() || policy.decide(kept).permits(),
                    "{text}\n{suggestion}\ntakes away {kept:?}"
                );
            }
        }
    }
}

#[test]
fn a_rule_without_sni_is_suggested_for_its_port_alone() {
    let text = "version = 1\n[network.domains]\n\"*.example\" = \"allow\"\n";
    let policy = loaded("p.toml", text).policy;
    let owners = names(&["a.example"]);
    let to = Destination::leased(address("192.0.2.1"), &owners).showing(Shown::Hidden);
    let suggestion = policy
        .suggestion(&Request::Connect { to: &to, port: 443 })
        .unwrap();
    assert_eq!(
        suggestion,
        "[network.domains]\n\"a.example\" = { verdict = \"allow\", allow_no_sni = true }"
    );
    let more = extended(text, &suggestion);
    assert_eq!(more.ports_for(owners[0].as_ref()), PortSet::WEB);
}
