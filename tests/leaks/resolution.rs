//! *Resolution as a way out* (docs/threats.md): the tests that hold it, and those of them that look
//! at whole paths. What left is judged by the resolver's own log, byte by byte.

use crate::support::{self, sandbox};
use crate::{assert_nothing_leaked, shared, upstream};
use portcullis_testkit::{Fault, WorldSpec, ip};
use std::path::{Path, PathBuf};

crate::attacks! {
    what_leaves_is_the_canonical_question_on_every_path,
    targets_of_an_answer_do_not_become_listed,
    records_beside_the_answer_are_dropped,
    ech_is_taken_out_of_an_https_answer,
}

/// Each sentence, and the tests that would fail if it were not true.
const SENTENCES: &[(&str, &[&str])] = &[
    (
        "No question leaves before the policy has allowed its name.",
        &[
            "no_denied_name_reaches_a_resolver_by_any_lookup",
            "no_denied_name_reaches_a_resolver_by_any_proxy",
            "without_the_gateway_each_of_these_paths_does_reach_a_resolver",
            "names_that_are_searched_for_stay_inside_and_are_answered_at_once",
            "no_lookup_leaves_before_the_name_is_allowed",
        ],
    ),
    (
        "What leaves is a new message of the canonical name and type: nothing else of the client's.",
        &[
            "what_leaves_is_the_canonical_question_on_every_path",
            "case_id_options_and_flags_of_the_client_are_never_forwarded",
            "hostile_messages_get_their_code_one_record_and_no_way_out",
            "hostile_messages_to_the_restrictive_resolver_get_theirs_too",
            "ten_thousand_datagrams_of_noise_change_nothing",
            "any_bytes_are_answered_or_dropped_and_never_forwarded",
        ],
    ),
    (
        "Extra questions and other opcodes do not leave.",
        &[
            "extra_questions_records_and_opcodes_do_not_leave",
            "bad_frames_end_a_stream_and_pieces_halves_and_a_thousand_at_once_do_not",
            "both_read_whatever_chance_makes_of_them_alike",
        ],
    ),
    (
        "Wildcards have a budget of new names, and are recorded.",
        &[
            "names_made_up_below_a_wildcard_leave_within_a_budget_on_every_path",
            "threats_new_names_below_a_wildcard_have_a_budget",
            "threats_new_names_below_a_wildcard_are_120_a_minute",
        ],
    ),
    (
        "Targets of CNAME, SRV, MX, NS, HTTPS do not become listed.",
        &[
            "targets_of_an_answer_do_not_become_listed",
            "rfc1034_the_alias_itself_can_be_asked_for",
            "threats_srv_and_mx_targets_do_not_become_listed",
        ],
    ),
    (
        "Additional sections are dropped, and whatever else was not asked for.",
        &["records_beside_the_answer_are_dropped"],
    ),
    (
        "No answer carries ECH parameters.",
        &["ech_is_taken_out_of_an_https_answer"],
    ),
    (
        "Answers are taken from the server asked, and for the question asked.",
        &[
            "an_answer_from_another_port_of_the_server_is_not_believed",
            "forged_answers_are_not_believed",
            "answers_under_a_wrong_id_are_not_believed",
            "rfc5452_a_forged_id_is_ignored",
            "rfc5452_a_forged_name_is_ignored",
        ],
    ),
    (
        "Each query has an unpredictable port and id.",
        &[
            "case_id_options_and_flags_of_the_client_are_never_forwarded",
            "a_silent_upstream_is_servfail_after_four_attempts_each_fresh",
        ],
    ),
];

/// All of a folder's Rust files, one after the other, and the names of its scenario files.
fn sources(folder: &Path, text: &mut String) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap_or_default());
        } else if let Some(scenario) = (path.file_name().and_then(|name| name.to_str()))
            .and_then(|name| name.strip_suffix(".scenario"))
        {
            text.push_str(&format!("\nscenario {scenario}\n"));
        }
    }
}

#[test]
fn every_sentence_of_the_threat_has_its_tests() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    for folder in ["tests", "crates/dns/tests", "crates/wire/tests"] {
        sources(&root.join(folder), &mut text);
    }
    for (sentence, tests) in SENTENCES {
        assert!(!tests.is_empty(), "{sentence}");
        for test in *tests {
            assert!(
                text.contains(&format!("fn {test}("))
                    || text.contains(&format!("scenario {test}\n")),
                "{sentence} names {test}: no such test"
            );
        }
    }
}

/// As the program below spells a name.
fn spelled(name: &str) -> String {
    let mixed = name.char_indices().map(|(at, letter)| match at % 2 {
        0 => letter.to_ascii_uppercase(),
        _ => letter,
    });
    mixed.collect()
}

/// Asks for names of its own on every path that resolves, in a spelling of its own.
const EVERY_PATH: &str = "
import gate, socket
spelled = lambda name: ''.join(c.upper() if at % 2 == 0 else c for at, c in enumerate(name))
marker = gate.option(65001, b'SMUGGLED') + gate.option(10, b'SMUGGLED')
def transparent(name):
    address = socket.getaddrinfo(name, 443, socket.AF_INET)[0][4][0]
    return gate.alert(gate.tcp(address, 443), gate.client_hello(name))
paths = {
    'udp': lambda name: gate.rcode(gate.ask(gate.query(name, id=0x4242, options=marker, flags=0x0130))),
    'tcp': lambda name: gate.rcode(gate.ask(gate.query(name, id=0x4242, options=marker), over_tcp=True)),
    'connect': lambda name: gate.status(gate.connect(name + ':443')[1]),
    'absolute': lambda name: gate.status(gate.get('http://' + name + '/')),
    'socks': lambda name: gate.socks(name.encode(), 443)[1],
    'transparent': transparent,
}
for path, ask in paths.items():
    print(path, *[ask(spelled('n%d.%s.paths.example.com' % (n, path))) for n in range(5)])
";

fn what_leaves_is_the_canonical_question_on_every_path() {
    let spec = WorldSpec::standard().record("*.paths.example.com A 203.0.113.10");
    let world = support::world_from(spec);
    world.file("gate.py", shared::GATE);
    let ran = sandbox(&world)
        .allow("*.paths.example.com")
        .python(EVERY_PATH);
    ran.assert_ok().assert_no_denial();
    let paths = [
        ("udp", "0"),
        ("tcp", "0"),
        ("connect", "200"),
        ("absolute", "200"),
        ("socks", "0"),
        ("transparent", "handshake"),
    ];
    let said = paths.map(|(path, word)| format!("{path}{}\n", format!(" {word}").repeat(5)));
    assert_eq!(ran.out(), said.concat(), "{ran}");
    let asked = upstream::assert_all_canonical(&world, "paths.example.com");
    assert_eq!(asked.len(), world.dns_log().len(), "{:?}", world.dns_log());
    for (path, _) in paths {
        let part = format!(".{path}.paths.");
        let mine = asked
            .iter()
            .filter(|query| query.name.to_ascii_lowercase().contains(&part));
        assert!(mine.count() >= 5, "{path}: {asked:?}");
    }
    upstream::assert_case_is_not_the_client_s(&asked, spelled);
    let ids = asked.iter().filter(|query| query.id == 0x4242).count();
    assert!(ids <= 1, "{ids} queries with the client's id");
}

fn targets_of_an_answer_do_not_become_listed() {
    let spec = WorldSpec::standard().record("example.com HTTPS 1 git.example.com alpn=h2");
    let world = support::world_from(spec);
    world.file("gate.py", shared::GATE);
    let ran = sandbox(&world)
        .allow("example.com")
        .allow("_sip._tcp.example.com")
        .allow("www.example.com")
        .python(
            "import gate\n\
             SRV, MX, NS, HTTPS, A = 33, 15, 2, 65, 1\n\
             answers = lambda name, kind: int.from_bytes(gate.ask(gate.query(name, kind))[6:8], 'big')\n\
             for name, kind in ('_sip._tcp.example.com', SRV), ('example.com', MX), ('example.com', NS), ('example.com', HTTPS):\n\
             \x20assert answers(name, kind) == 1, (name, kind)\n\
             assert answers('www.example.com', A) == 2\n\
             for target in 'api', 'smtp', 'ns1', 'git':\n\
             \x20name = target + '.example.com'\n\
             \x20print(gate.rcode(gate.ask(gate.query(name))), gate.rcode(gate.ask(gate.query(name, 28), over_tcp=True)),\n\
             \x20      gate.status(gate.connect(name + ':443')[1]), gate.socks(name.encode(), 443)[1])\n\
             name = 'cdn.example.net'\n\
             print(gate.status(gate.connect(name + ':443')[1]), gate.socks(name.encode(), 443)[1],\n\
             \x20     gate.alert(gate.tcp('203.0.113.20', 443), gate.client_hello(name)))\n\
             print(gate.attempt('203.0.113.10', 443), gate.attempt('203.0.113.25', 25), gate.attempt('203.0.113.80', 443))",
        );
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "3 3 403 2\n".repeat(4) + "403 2 alert 2 112 end\nECONNREFUSED ECONNREFUSED ECONNREFUSED\n",
        "{ran}"
    );
    for target in ["api", "smtp", "ns1", "git"] {
        assert_eq!(
            world.times_asked(&format!("{target}.example.com")),
            0,
            "{target}: {ran}"
        );
    }
}

fn records_beside_the_answer_are_dropped() {
    let evil = Fault::Beside("evil.example.net".to_owned(), ip("203.0.113.90"));
    let world = support::world_from(WorldSpec::standard().fault("dual.example.com", evil));
    world.file("gate.py", shared::GATE);
    let ran = sandbox(&world).allow("dual.example.com").python(
        "import gate\n\
         for over_tcp in False, True:\n\
         \x20reply = gate.ask(gate.query('dual.example.com'), over_tcp=over_tcp)\n\
         \x20print(gate.rcode(reply), reply[6:12].hex(), b'evil' in reply, bytes([203, 0, 113, 90]) in reply)\n\
         print(gate.rcode(gate.ask(gate.query('evil.example.net'))), gate.attempt('203.0.113.90', 443))",
    );
    ran.assert_ok();
    // One answer, no authority, and of additional records the OPT that EDNS needs.
    let reply = "0 000100000001 False False\n";
    assert_eq!(
        ran.out(),
        format!("{reply}{reply}3 ECONNREFUSED\n"),
        "{ran}"
    );
    assert_nothing_leaked(&world);
}

fn ech_is_taken_out_of_an_https_answer() {
    let record = "ech.example.com HTTPS 1 . alpn=h2 ech=THEINNERNAME";
    let world = support::world_from(WorldSpec::standard().record(record));
    world.file("gate.py", shared::GATE);
    let ran = sandbox(&world).allow("ech.example.com").sh(
        "python3 -c 'import gate; reply = gate.ask(gate.query(\"ech.example.com\", 65)); \
         print(gate.rcode(reply), reply[6:8].hex(), b\"THEINNERNAME\" in reply)'; \
         dig +short ech.example.com HTTPS",
    );
    ran.assert_ok().assert_no_denial();
    assert!(
        ran.out().starts_with("0 0001 False\n1 . alpn=\"h2\"\n"),
        "{ran}"
    );
    // Outside it is there: the test would see it.
    let outside = support::finish(
        world
            .command("dig")
            .args(["+short", "ech.example.com", "HTTPS"]),
        support::TIMEOUT,
    );
    assert!(outside.out().contains("ech="), "{outside}");
}

#[test]
fn an_answer_from_another_port_of_the_server_is_not_believed() {
    let forged = Fault::ForgedSource(ip("203.0.113.90"));
    let world = support::world_from(WorldSpec::standard().fault("dual.example.com", forged));
    let ran = sandbox(&world)
        .allow("dual.example.com")
        .sh("dig +short dual.example.com A");
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "203.0.113.62\n", "{ran}");
    assert_nothing_leaked(&world);
}

#[test]
fn names_that_are_searched_for_stay_inside_and_are_answered_at_once() {
    let mut spec = WorldSpec::standard();
    spec.resolv_conf = Some(
        "search corp.evil.example.net evil.example.net\noptions ndots:5\n\
         nameserver 203.0.113.53\nnameserver 203.0.113.54\n"
            .to_owned(),
    );
    let world = support::world_from(spec);
    // The host's list is carried in; what no rule lists of its completions is answered inside.
    let ran = sandbox(&world)
        .allow("api.example.com")
        .sh("cat /etc/resolv.conf; getent ahostsv4 api.example.com >/dev/null && echo found; getent hosts intranet || echo none");
    ran.assert_ok().assert_out("found").assert_out("none");
    ran.assert_out("search corp.evil.example.net evil.example.net")
        .assert_out("ndots:5");
    ran.assert_one_denial("dns", "not-in-allowlist", "intranet");
    // A program that brings one of its own learns nothing and tells nobody.
    let ran = sandbox(&world).allow("api.example.com").sh(
        "export LOCALDOMAIN='a.evil.example.net b.evil.example.net c.evil.example.net' RES_OPTIONS=ndots:5; \
         getent ahostsv4 api.example.com",
    );
    ran.assert_ok().assert_out("203.0.113.10");
    let searched = ran.records.all_denials();
    let names: Vec<_> = searched
        .iter()
        .filter_map(|record| record["name"].as_str())
        .collect();
    assert!(
        names.contains(&"api.example.com.c.evil.example.net"),
        "{ran}"
    );
    assert!(
        names.len() <= 6,
        "three names of one type each, or each asked twice: {ran}"
    );
    assert_nothing_leaked(&world);
    for query in world.dns_log() {
        assert_eq!(
            query.name.to_ascii_lowercase(),
            "api.example.com",
            "{query:?}"
        );
    }
}
