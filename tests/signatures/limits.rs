//! Limits as programs meet them: 429 with `Retry-After`, SOCKS5 reply 0x02, resets, slower bodies.
//! Times are only asserted to be long enough: how exactly rates are kept is shown in virtual time.

use crate::support::{Ran, require, sandbox};
use crate::{after, shared};

/// A policy with one rule and limits of the sandbox.
fn policy(rule: &str, sandbox: &str) -> String {
    format!(
        "version = 1\n[network.domains]\n\"api.example.com:*\" = {{ verdict = \"allow\"{rule} }}\n\
         \"dual.example.com\" = \"allow\"\n[network.limits]\n{sandbox}\n"
    )
}

/// How often something was denied for this reason.
fn denied(ran: &Ran, reason: &str) -> u64 {
    let denials = ran.records.all_denials();
    let for_it = denials.iter().filter(|record| record["reason"] == reason);
    for_it
        .map(|record| record["count"].as_u64().unwrap_or(1))
        .sum()
}

#[test]
fn a_rate_slows_bodies_down_through_every_entrance() {
    require("curl");
    let world = shared::world();
    let curl = "curl -sS -m 60 -o /dev/null -w '%{size_download} %{time_total}\\n'";
    for way in [
        "https://api.example.com/bytes/600000",
        "http://api.example.com/bytes/600000",
        "--noproxy '*' https://api.example.com/bytes/600000",
        "-x socks5h://10.0.2.2:1080 https://api.example.com/bytes/600000",
    ] {
        let ran = sandbox(&world)
            .policy("toml", &policy(", rate = \"400kB/s\"", ""))
            .sh(&format!("{curl} {way}"));
        ran.assert_ok().assert_no_denial();
        let out = ran.out();
        let (size, seconds) = out.trim().split_once(' ').expect("two numbers");
        assert_eq!(size, "600000", "{way}: {ran}");
        let seconds: f64 = seconds.parse().expect("seconds");
        // A burst, and bytes in the sockets' buffers, come before their time.
        assert!(seconds > 1.2, "{way}: 600 kB at 400 kB/s in {seconds} s");
    }
}

#[test]
fn a_connection_above_the_limit_is_429_or_2_or_a_reset() {
    require("curl");
    let ran = sandbox(&shared::world())
        .policy("toml", &policy(", connections = 1", ""))
        .python(
            "import gate, subprocess\n\
             held = gate.connect('api.example.com:443')\n\
             assert held[1].startswith('HTTP/1.1 200 '), held\n\
             print(gate.connect('api.example.com:443')[1])\n\
             print('socks', gate.socks(b'api.example.com', 443)[1])\n\
             print('direct', gate.direct('api.example.com', 443))\n\
             curl = ['curl', '-sS', '-i', 'http://api.example.com/']\n\
             print(subprocess.run(curl, capture_output=True, text=True).stdout)\n\
             tunnel = ['curl', '-sS', 'https://api.example.com/']\n\
             print('curl', subprocess.run(tunnel, capture_output=True, text=True).stderr)\n\
             print('other', gate.connect('dual.example.com:443')[1])\n",
        );
    ran.assert_ok();
    let out = ran.out();
    assert_eq!(
        out.matches("HTTP/1.1 429 Too Many Requests").count(),
        2,
        "{ran}"
    );
    assert_eq!(after(&out, "retry-after: "), "1", "{ran}");
    assert_eq!(after(&out, "socks "), "2", "{ran}");
    assert_eq!(after(&out, "direct "), "(b'', 'ECONNRESET')", "{ran}");
    assert!(after(&out, "curl ").contains("429"), "{ran}");
    assert!(after(&out, "other ").starts_with("HTTP/1.1 200 "), "{ran}");
    assert_eq!(denied(&ran, "too-many-connections"), 5, "{ran}");
    for record in ran.records.all_denials() {
        assert_eq!(record["rule"], "api.example.com:*", "{ran}");
        assert_eq!(record["detail"], "connections of the rule", "{ran}");
    }
}

#[test]
fn a_sandbox_has_so_many_connections_and_so_many_new_ones_a_second() {
    let world = shared::world();
    for (limit, reason) in [
        ("connections = 1", "too-many-connections"),
        ("connections_per_second = 1", "rate-limited"),
    ] {
        let ran = sandbox(&world)
            .policy("toml", &policy("", limit))
            .python(
                "import gate\n\
                 held = gate.connect('api.example.com:443')\n\
                 answers = []\n\
                 while not any('429' in a for a in answers): answers.append(gate.connect('dual.example.com:443')[1])\n\
                 print(answers[-1])\n",
            );
        ran.assert_ok();
        let out = ran.out();
        assert!(
            out.starts_with("HTTP/1.1 429 Too Many Requests\r\n"),
            "{ran}"
        );
        assert_eq!(after(&out, "retry-after: "), "1", "{ran}");
        assert_eq!(denied(&ran, reason), 1, "{ran}");
        let record = &ran.records.all_denials()[0];
        assert_eq!(record["layer"], "tcp", "{ran}");
        assert!(record["rule"].is_null(), "{ran}");
    }
}

#[test]
fn a_total_that_is_used_up_resets_and_refuses() {
    require("curl");
    let world = shared::world();
    for way in ["", "--noproxy '*'"] {
        let url = "https://api.example.com/bytes/1000000";
        let ran = sandbox(&world)
            .policy("toml", &policy(", total_bytes = \"200kB\"", ""))
            .sh(&format!(
                "curl -sS -m 60 -o /dev/null {way} {url}; echo \"exit $?\"\n\
                 curl -sS -m 60 -o /dev/null -w '%{{http_connect}}\\n' {url}; echo \"then $?\""
            ));
        assert_eq!(after(&ran.out(), "exit "), "56", "a reset: {ran}");
        assert_eq!(after(&ran.out(), "then "), "56", "{ran}");
        ran.assert_said("429");
        let [close] = ran.records.closes()[..] else {
            panic!("not one flow: {ran}")
        };
        assert_eq!(close["close_reason"], "limit", "{ran}");
        assert_eq!(close["detail"], "total_bytes of the rule", "{ran}");
        let passed = [&close["bytes_up"], &close["bytes_down"]].map(|v| v.as_u64().unwrap_or(0));
        assert_eq!(passed[0] + passed[1], 200_000, "{ran}");
        assert_eq!(denied(&ran, "total-bytes-used"), 1, "{ran}");
    }
}

#[test]
fn an_idle_connection_ends_where_a_rule_says_so_and_nowhere_else() {
    let ran = sandbox(&shared::world())
        .policy("toml", &policy(", idle_timeout = \"1s\"", ""))
        .python(
            "import gate\n\
             limited = gate.connect('api.example.com:443')[0]\n\
             other = gate.connect('dual.example.com:443')[0]\n\
             print(gate.read_all(limited))\n\
             other.settimeout(3)\n\
             print(gate.read_all(other))\n",
        );
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "(b'', 'ECONNRESET')\n(b'', 'timeout')\n",
        "{ran}"
    );
    let idle = |close: &&&serde_json::Value| close["close_reason"] == "idle-timeout";
    assert_eq!(ran.records.closes().iter().filter(idle).count(), 1, "{ran}");
}

#[test]
fn ten_thousand_half_open_connections_are_bounded_and_recorded() {
    // As many as the program may have descriptors for; the gateway takes 4,096, and none of them
    // ends by itself before the last one is there.
    let world = shared::world();
    let sandbox = sandbox(&world);
    let sandbox = sandbox.policy("toml", &policy("", "header_timeout = \"10m\""));
    let ran = sandbox.python(
        "import gate, resource, socket\n\
         hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
         resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n\
         wanted = min(10_000, hard - 100)\n\
         held = []\n\
         for _ in range(wanted):\n\
         \x20   s = socket.socket()\n\
         \x20   try:\n\
         \x20       s.connect(gate.HTTP)\n\
         \x20       held.append(s)\n\
         \x20   except ConnectionResetError:\n\
         \x20       s.close()\n\
         # They are taken in order: when one more has been told, all of them have.\n\
         try:\n\
         \x20   with gate.tcp(*gate.HTTP) as last: told = gate.read_all(last)\n\
         except ConnectionResetError: told = b'', 'ECONNRESET'\n\
         assert wanted < 5_000 or b' 429 ' in told[0] or told[1] == 'ECONNRESET', told\n\
         print('opened', wanted)\n\
         print('resolves', bool(socket.getaddrinfo('api.example.com', 443)))\n\
         for s in held: s.close()\n\
         import time\n\
         until = time.monotonic() + 60\n\
         while True:\n\
         \x20   try: answer = gate.connect('api.example.com:443')[1]\n\
         \x20   except OSError as error: answer = repr(error)\n\
         \x20   if answer.startswith('HTTP/1.1 200 '): break\n\
         \x20   assert time.monotonic() < until, answer\n\
         \x20   time.sleep(0.2)\n\
         print('serves again')\n",
    );
    ran.assert_ok().assert_said("serves again");
    assert_eq!(after(&ran.out(), "resolves "), "True", "{}", ran.out());
    let opened: u64 = after(&ran.out(), "opened ").parse().expect("a number");
    if opened > 5_000 {
        let refused = denied(&ran, "too-many-connections");
        assert!(
            refused >= opened - 4_096,
            "{refused} of {opened} refused: {}",
            ran.out()
        );
    }
}
