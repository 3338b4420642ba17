//! Tests of HTTP heads and bodies: *HTTP framing* and odd authorities (*names*), docs/threats.md.

use proptest::prelude::*;

use super::*;
use crate::prefixes::{Reading, check_every_prefix};

#[track_caller]
fn head(text: &str) -> RequestHead {
    match read_head(text.as_bytes()) {
        HeadParse::Head(head) => head,
        other => panic!("{text:?}: {other:?}"),
    }
}

#[track_caller]
fn malformed(text: impl AsRef<[u8]>) -> &'static str {
    match read_head(text.as_ref()) {
        HeadParse::Malformed(why) => why,
        other => panic!("{:?}: {other:?}", String::from_utf8_lossy(text.as_ref())),
    }
}

/// A GET with these further header lines.
fn get(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n")
}

fn every_prefix(stream: &[u8]) -> Option<usize> {
    let first = check_every_prefix(stream, |prefix| match read_head(prefix) {
        HeadParse::NeedMore => Reading::NeedMore,
        verdict => Reading::Verdict(verdict),
    });
    // A scanner that keeps its place says the same as one that starts afresh.
    let mut scanner = HeadScanner::new();
    let kept = (0..=stream.len()).find(|len| {
        let kept = scanner.scan(&stream[..*len]);
        if let Scan::Malformed(why) = kept {
            assert_eq!(HeadParse::Malformed(why), read_head(&stream[..*len]));
        }
        kept != Scan::NeedMore
    });
    assert_eq!(first, kept);
    check_every_prefix(stream, |prefix| match sniff(prefix) {
        Sniff::NeedMore | Sniff::Watch => Reading::NeedMore,
        verdict => Reading::Verdict(verdict),
    });
    first
}

#[test]
fn the_three_forms() {
    let connect = head("CONNECT A.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n");
    let RequestForm::Connect { host, port } = &connect.form else {
        panic!("{connect:?}")
    };
    assert_eq!((host.to_string().as_str(), *port), ("a.example", 443));
    assert!(connect.names_host_port(host, *port));

    let absolute =
        head("GET http://A.example:8080/x?secret=1 HTTP/1.1\r\nHost: a.example:8080\r\n\r\n");
    let RequestForm::Absolute {
        scheme,
        host,
        port,
        path,
    } = &absolute.form
    else {
        panic!()
    };
    assert_eq!(
        (*scheme, host.to_string().as_str(), *port),
        (Scheme::Http, "a.example", 8080)
    );
    assert_eq!((path.path(), path.with_query()), ("/x", "/x?secret=1"));

    let origin = head("GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert!(matches!(&origin.form, RequestForm::Origin { path } if path.path() == "/x"));
    assert_eq!(origin.host.as_ref().unwrap().0.to_string(), "a.example");
    assert!(matches!(
        head("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n").form,
        RequestForm::Asterisk
    ));
}

#[test]
fn absolute_form_defaults() {
    for (target, port, path) in [
        ("http://a.example", 80, "/"),
        ("HTTPS://a.example/", 443, "/"),
        ("http://a.example?q", 80, "/?q"),
        ("http://192.0.2.7/", 80, "/"),
        ("http://[2001:db8::1]:81/", 81, "/"),
    ] {
        let head = head(&format!("GET {target} HTTP/1.1\r\n\r\n"));
        let RequestForm::Absolute {
            port: p, path: q, ..
        } = head.form
        else {
            panic!()
        };
        assert_eq!((p, q.with_query()), (port, path), "{target}");
    }
}

#[test]
fn queries_are_never_printed() {
    let head = head("GET /x?secret=1 HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert!(!format!("{head:?}").contains("secret"));
    let RequestForm::Origin { path } = head.form else {
        panic!()
    };
    assert_eq!(path.to_string(), "/x");
}

#[test]
fn userinfo_backslash_and_percent_in_an_authority_are_refused() {
    for (target, word) in [
        ("http://allowed.com@evil.com/", "user name"),
        ("http://allowed.com:80@evil.com/", "user name"),
        ("http://evil.com\\@allowed.com/", "user name"),
        ("http://evil.com\\.allowed.com/", "backslash"),
        ("http://%65vil.com/", "percent"),
        ("http://[::1%25eth0]/", "percent"),
        ("http://evil.com#@allowed.com/", "fragment"),
        ("http://[evil.com]/", "host"),
        ("http://127.1/", "host"),
        ("http://0x7f.1/", "host"),
        ("http://2130706433/", "host"),
        ("http:///", "host"),
        ("http://:80/", "host"),
        ("http://a.example:/", "host"),
        ("http://a.example:0/", "host"),
        ("http://a.example:99999/", "host"),
        ("ftp://a.example/", "scheme"),
        ("http:/a.example/", "form"),
        ("a.example/", "form"),
        ("*", "OPTIONS"),
    ] {
        let why = malformed(format!(
            "GET {target} HTTP/1.1\r\nHost: allowed.com\r\n\r\n"
        ));
        assert!(why.contains(word), "{target}: {why}");
    }
    // Behind the authority these are the server's business.
    head("GET http://a.example/\\@b?x=%00@c HTTP/1.1\r\n\r\n");
}

#[test]
fn connect_takes_an_authority_with_port_and_nothing_else() {
    for target in [
        "a.example",
        "a.example:",
        "http://a.example:443",
        "a.example:443/",
        "u@a.example:443",
        "/",
        "*",
    ] {
        malformed(format!(
            "CONNECT {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"
        ));
    }
    malformed("connect a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n");
    malformed("CONNECT a.example:443 HTTP/1.1\r\nContent-Length: 1\r\n\r\n");
    malformed("CONNECT a.example:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(head("CONNECT a.example:443 HTTP/1.0\r\n\r\n").host, None);
}

#[test]
fn duplicate_host_is_refused() {
    assert_eq!(malformed(get("Host: a.example\r\n")), "two Host fields");
    assert_eq!(malformed(get("hOST: evil.example\r\n")), "two Host fields");
}

#[test]
fn missing_or_odd_host_is_refused() {
    assert_eq!(malformed("GET / HTTP/1.1\r\n\r\n"), "no Host field");
    assert_eq!(head("GET / HTTP/1.0\r\n\r\n").host, None);
    for host in [
        "",
        "a.example, evil.example",
        "u@a.example",
        "a.example/x",
        "a b",
        "127.1",
        "a.example:x",
        "a\\b",
        "%61",
    ] {
        malformed(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
    malformed(b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n");
}

#[test]
fn host_unlike_the_target_is_noticed() {
    let agrees = |field: &str| {
        let connect = head(&format!(
            "CONNECT a.example:443 HTTP/1.1\r\nHost: {field}\r\n\r\n"
        ));
        let RequestForm::Connect { host, port } = &connect.form else {
            panic!("{connect:?}")
        };
        connect.names_host_port(host, *port)
    };
    assert!(agrees("A.EXAMPLE"));
    assert!(agrees("a.example:443"));
    assert!(!agrees("evil.example:443"));
    assert!(!agrees("a.example:22"));
}

#[test]
fn bare_line_feeds_and_returns_are_refused() {
    assert!(malformed("GET / HTTP/1.1\nHost: a.example\r\n\r\n").contains("line feed"));
    assert!(malformed("GET / HTTP/1.1\r\nHost: a.example\n\n").contains("line feed"));
    assert!(malformed(get("X: a\nHost: evil.example\r\n")).contains("line feed"));
    assert!(malformed(get("X: a\rb\r\n")).contains("carriage return"));
    assert!(malformed("\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n").contains("empty line"));
    assert!(malformed("\nGET / HTTP/1.1\r\n\r\n").contains("line feed"));
}

#[test]
fn obs_fold_and_spaces_before_colons_are_refused() {
    assert!(malformed(get("X: a\r\n b\r\n")).contains("white space"));
    assert!(malformed(get("X: a\r\n\tb\r\n")).contains("white space"));
    assert!(malformed("GET / HTTP/1.1\r\n Host: a.example\r\n\r\n").contains("white space"));
    malformed(get("X : a\r\n"));
    malformed("GET / HTTP/1.1\r\nHost : a.example\r\n\r\n");
    malformed(get("no colon\r\n"));
    malformed(get(": empty\r\n"));
}

#[test]
fn request_lines_have_one_form() {
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET /",
        "GET / HTTP/2.0",
        "GET / HTTP/1.2",
        "GET / http/1.1",
        "GET / HTTP/1.10",
        "G@T / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /\u{fc} HTTP/1.1",
        "/ HTTP/1.1",
        "GET HTTP/1.1",
    ] {
        malformed(format!("{line}\r\nHost: a.example\r\n\r\n"));
    }
    malformed(format!(
        "{} / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "A".repeat(33)
    ));
    for byte in (0..32u8).chain([127]).filter(|b| !b"\t\r\n".contains(b)) {
        malformed(
            [
                b"GET / HTTP/1.1\r\nHost: a.example\r\nX: ".as_slice(),
                &[byte],
                b"\r\n\r\n",
            ]
            .concat(),
        );
    }
}

#[test]
fn content_length_with_transfer_encoding_is_refused() {
    assert_eq!(
        malformed(get("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n")),
        "Content-Length beside Transfer-Encoding"
    );
    assert_eq!(
        malformed(get("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n")),
        "Content-Length beside Transfer-Encoding"
    );
}

#[test]
fn odd_content_lengths_are_refused() {
    for value in [
        "",
        "+5",
        "-1",
        "5, 5",
        "5,6",
        "0x5",
        "5 5",
        "99999999999999999999",
        "5a",
        "\u{665}",
    ] {
        assert_eq!(
            malformed(get(&format!("Content-Length: {value}\r\n"))),
            "a bad Content-Length"
        );
    }
    malformed(get("Content-Length: 5\r\nContent-Length: 6\r\n"));
    malformed(get("Content-Length: 5\r\ncontent-length: 5\r\n"));
    assert_eq!(
        head(&get("Content-Length: 5\r\n")).body,
        BodyLength::Length(5)
    );
    assert_eq!(head(&get("")).body, BodyLength::None);
}

#[test]
fn odd_transfer_encodings_are_refused() {
    for value in [
        "gzip, chunked",
        "identity",
        "chunked, chunked",
        "xchunked",
        "",
        "chunked;a=b",
        "\"chunked\"",
    ] {
        malformed(get(&format!("Transfer-Encoding: {value}\r\n")));
    }
    malformed(get(
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ));
    malformed("POST / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(
        head(&get("Transfer-Encoding: Chunked\r\n")).body,
        BodyLength::Chunked
    );
}

#[test]
fn connection_cannot_take_away_what_decides() {
    for field in ["Host", "content-length", "close, transfer-encoding"] {
        malformed(get(&format!("Connection: {field}\r\n")));
    }
}

#[test]
fn keep_alive_and_upgrade() {
    assert!(head(&get("")).keep_alive);
    assert!(!head(&get("Connection: Close\r\n")).keep_alive);
    assert!(!head("GET / HTTP/1.0\r\nHost: a\r\n\r\n").keep_alive);
    assert!(head("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keep_alive);
    assert_eq!(
        head(&get("Connection: Upgrade\r\nUpgrade: websocket\r\n")).upgrade,
        Upgrade::WebSocket
    );
    assert_eq!(
        head(&get("Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n")).upgrade,
        Upgrade::Http
    );
    assert_eq!(
        head(&get("Connection: Upgrade\r\nUpgrade: irc\r\n")).upgrade,
        Upgrade::Other
    );
    assert_eq!(head(&get("Upgrade: websocket\r\n")).upgrade, Upgrade::None);
    assert!(head(&get("Expect: 100-Continue\r\n")).expect_continue);
}

#[test]
fn headers_stand_in_the_buffer() {
    let text = get("X-A:  1 \r\nX-B:\r\n");
    let head = head(&text);
    let all: Vec<_> = head.headers(text.as_bytes()).collect();
    assert_eq!(
        all,
        [
            ("Host", b"a.example".as_slice()),
            ("X-A", b"1"),
            ("X-B", b"")
        ]
    );
    assert_eq!(head.head_len, text.len());
}

#[test]
fn oversized_heads_are_refused() {
    let long = get(&format!("X: {}\r\n", "a".repeat(MAX_HEAD_BYTES)));
    assert!(malformed(&long).contains("64 KiB"));
    assert_eq!(
        read_head(&long.as_bytes()[..MAX_HEAD_BYTES - 1]),
        HeadParse::NeedMore
    );
    let fits = get(&format!(
        "X: {}\r\n",
        "a".repeat(MAX_HEAD_BYTES - get("X: \r\n").len())
    ));
    assert_eq!(head(&fits).head_len, MAX_HEAD_BYTES);
    assert_eq!(
        head(&get(&"X: a\r\n".repeat(MAX_HEADERS - 1)))
            .headers(b"")
            .count(),
        0
    );
    assert!(malformed(get(&"X: a\r\n".repeat(MAX_HEADERS))).contains("100"));
}

#[test]
fn every_prefix_of_a_head_asks_for_more() {
    for text in [
        get("Accept: */*\r\n"),
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n".into(),
        "POST http://a.example/ HTTP/1.1\r\nContent-Length: 4\r\n\r\n".into(),
    ] {
        assert_eq!(every_prefix(text.as_bytes()), Some(text.len()));
        // A pipelined request behind it is not part of it.
        let two = text.clone() + &get("Host: evil.example\r\n");
        assert_eq!(head(&two), head(&text));
    }
    every_prefix(get("X: a\nb: c\r\n").as_bytes());
    every_prefix(get("Host: a\r\n").as_bytes());
}

#[test]
fn sniffing() {
    for http in [
        "GET / HTTP/1.1\r\n",
        "POST /",
        "CONNECT a.example:443 HTTP/1.1",
        "  GET /",
        "PROPFIND /x",
        "GET http://a.example/",
        "OPTIONS * HTTP/1.1\r\n",
        "get / HTTP/1.1\r\n",
        "\r\n\r\nGET /",
        "\nGET /",
        "GET\t/",
        "GET  /",
        "GET a.example/ HTTP/1.0\n",
        "Get x http/1.1\n",
        "X-ODD /x",
        "GET HTTP://a.example",
    ] {
        assert_eq!(sniff(http.as_bytes()), Sniff::Http, "{http:?}");
        every_prefix(http.as_bytes());
    }
    for other in [
        "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        "EHLO mail.example\r\n",
        "USER anonymous\r\n",
        "PING\r\n",
        "NICK someone\r\n",
        "*2\r\n$4\r\nPING\r\n",
        "set key 0 0 5\r\n",
        "HELLO \0\n",
        "a001 LOGIN x y\r\n",
    ] {
        assert_eq!(sniff(other.as_bytes()), Sniff::Other, "{other:?}");
        every_prefix(other.as_bytes());
    }
    // Blank lines that are kept with a short line do not end what is watched.
    for (kept, more) in [("\r\nXX", "X / HTTP/1.1\r\n"), ("\nab / ", "HTTP/1.1\r\n")] {
        assert_eq!(sniff(kept.as_bytes()), Sniff::Watch);
        assert_eq!(watch(format!("{kept}{more}").as_bytes()), Sniff::Http);
    }
    // A field counts also where the stream ends in it, and behind what a reader ends at a lone CR.
    for field in [
        "Host: x",
        " \rHost: x",
        "From \rHost: x",
        " \nHost: x\r\n",
        "A\rHost:",
    ] {
        let request = format!("GET x\r\n{field}");
        assert_eq!(sniff(request.as_bytes()), Sniff::Http, "{request:?}");
    }
    assert_eq!(sniff(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Sniff::Http2);
    for more in [
        "",
        "G",
        "GET",
        "GET ",
        "PRI",
        "PRI * HTTP/2.0\r",
        "GET x",
        "get /x",
        "PROXY",
        "GET x\r\n",
        "GET x\r\n folded",
    ] {
        assert_eq!(sniff(more.as_bytes()), Sniff::NeedMore, "{more:?}");
    }
    for part in [
        "",
        "G",
        "GET",
        "PRI",
        "\r\n",
        "\n\nGE",
        "GET x\r",
        "GET x\r\n",
    ] {
        assert_ne!(hold(part.as_bytes()), Hold::Firm, "{part:?}");
    }
    for start in ["GET ", "GET htt", "GE\r", "PRI *", "PRI * HTTP/2.0\r"] {
        assert_eq!(hold(start.as_bytes()), Hold::Firm, "{start:?}");
    }
    for blank in ["\r\n", "\n", " "] {
        assert_eq!(sniff(blank.repeat(MAX_SNIFF_BYTES).as_bytes()), Sniff::Http);
    }
}

#[test]
fn what_some_server_takes_for_a_request_is_one() {
    let long = format!("{} / HTTP/1.1\r\n", "A".repeat(MAX_SNIFF_BYTES - 20));
    for http in [
        // Python's str.split, at the front, between the words, and within a word's neighbours
        b"\x0bGET / HTTP/1.1\r\n".as_slice(),
        b"\xa0GET\x85/\x1fHTTP/1.1\r\n",
        b"GET\x0c/ HTTP/1.1\r\n",
        b"get\x1c/ HTTP/1.1\r\n",
        b" \t GET / HTTP/1.1\r\n",
        // WSGI: any word is a method
        b"G(T / HTTP/1.1\r\n",
        b"\0 / HTTP/1.1\n",
        b"GET /\0 HTTP/1.1\n",
        long.as_bytes(),
        // Node
        b"SOURCE /x ICE/1.0\r\n",
        b"DESCRIBE rtsp://a RTSP/1.0\r\n",
        b"GET x\r\nHost: evil.example\r\n",
        b"DELETE x\nX-Forwarded-Host : evil.example\n",
        b"GET x\r\n folded\r\nHost: evil.example\r\n",
        b"OPTIONS *\r\n",
        b"GET /x\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n",
    ] {
        assert_eq!(
            sniff(http),
            Sniff::Http,
            "{:?}",
            http.escape_ascii().to_string()
        );
        every_prefix(http);
    }
    for other in [
        b"GET key\r\nSET other http://x\r\n".as_slice(),
        b"GET key\r\n\r\n",
        b"AUTH secret\r\nx: y",
        b"CONNECT {\"verbose\":false}\r\n\r\n",
        b"CONNECT\naccept-version:1.2\n\n\0",
        b"INVITE sip:bob@b.example SIP/2.0\r\nVia: x\r\n",
        b"tree /http/2\r\n",
    ] {
        assert_eq!(
            sniff(other),
            Sniff::Other,
            "{:?}",
            other.escape_ascii().to_string()
        );
        every_prefix(other);
    }
}

#[test]
fn a_line_that_is_no_request_yet_is_watched_to_its_end() {
    let word = vec![b'A'; MAX_SNIFF_BYTES];
    for start in [
        b"\0\0\0\x08\x04\xd2\x16\x2f".as_slice(),
        b"@RSYNCD",
        b"{\"id\":1}",
        b"<stream:stream",
        b"\x05\x01\0",
        // No method's beginning: it could only become a request by naming its protocol.
        b"x",
        b"ruok",
        b"12345",
        b"EHLO m",
        &word,
    ] {
        assert_eq!(sniff(start), Sniff::Watch, "{start:?}");
        for (rest, verdict) in [
            (b" x HTTP/1.1".as_slice(), Sniff::Http),
            (b" x\n / HTTP/1.1", Sniff::Other),
            (b" x HTTP", Sniff::Watch),
        ] {
            assert_eq!(
                watch(&[start, rest].concat()),
                verdict,
                "{start:?} {rest:?}"
            );
        }
    }
    assert_eq!(watch(b"\xa0rtsp/1.0"), Sniff::Http);
    // However the line is cut, its tail is enough.
    let line = b"\0 /x HTTP/1.1";
    for cut in 1..line.len() - 1 {
        let (came, more) = line.split_at(cut);
        let tail = &came[came.len().saturating_sub(WATCHED_TAIL_BYTES)..];
        let found = watch(came) == Sniff::Http || watch(&[tail, more].concat()) == Sniff::Http;
        assert!(found, "{cut}");
    }
}

fn any_head() -> impl Strategy<Value = Vec<u8>> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..150);
    let texty = "[A-Za-z]{0,7} [/a-z:@.*\\\\%#?\\[\\]0-9]{0,20} HTTP/1\\.[0-2]\r?\n((Host|X|Content-Length|Transfer-Encoding|Connection|Upgrade): ?[ -~]{0,12}\r?\n[ \t]?){0,4}\r?\n?[a-z]{0,4}"
        .prop_map(String::into_bytes);
    prop_oneof![bytes, texty]
}

proptest! {
    /// What may be let through undecided is never a request line, nor the end of one.
    #[test]
    fn what_may_pass_undecided_is_no_request(stream in "[\r\n]{0,3}[A-Za-z0-9 :/.\r\n]{0,12}") {
        if sniff(stream.as_bytes()) == Sniff::NeedMore && hold(stream.as_bytes()) != Hold::Firm {
            let line = stream.trim_start_matches(['\r', '\n', ' ']);
            let fields = line.split_once('\n').map_or("", |(_, fields)| fields);
            prop_assert!(!line.contains("HTTP/") && !fields.contains(':'), "{:?}", line);
        }
    }

    #[test]
    fn any_stream_is_judged_once_and_for_all(stream in any_head()) {
        every_prefix(&stream);
    }

    /// What this reader takes, hyper and any other strict reader of RFC 9112 must be able to take.
    #[test]
    fn accepted_heads_have_no_second_reading(stream in any_head()) {
        if let HeadParse::Head(head) = read_head(&stream) {
            let text = &stream[..head.head_len];
            prop_assert!(text.ends_with(b"\r\n\r\n"));
            let feeds = text.iter().filter(|b| **b == b'\n').count();
            prop_assert_eq!(feeds, text.windows(2).filter(|w| w == b"\r\n").count());
            let hosts = head.headers(&stream).filter(|(n, _)| n.eq_ignore_ascii_case("host")).count();
            prop_assert!(hosts <= 1);
            prop_assert_eq!(hosts == 1, head.host.is_some());
            prop_assert_ne!(sniff(&stream), Sniff::Other);
        }
    }
}

#[test]
fn only_a_target_is_written_in_ascii() {
    let repaired = |head: &str| {
        let latin1 = head.chars().map(|c| c as u8).collect();
        with_ascii_target(latin1)
    };
    let good = repaired("GET /\u{e9}?q=\u{ff} HTTP/1.1\r\nHost: a.example\r\nX: \u{e9}\r\n\r\n");
    assert!(good.starts_with(b"GET /%E9?q=%FF HTTP/1.1\r\nHost: a.example\r\nX: \xe9\r\n"));
    assert!(matches!(read_head(&good), HeadParse::Head(_)));
    for line in [
        "\u{d0}OST / HTTP/1.1",
        "G\u{c9}T /a HTTP/1.1",
        "GET / HTTP/1.\u{b1}",
        "GET /\u{e9}",
        "\u{e9}",
    ] {
        let head = repaired(&format!("{line}\r\nHost: a.example\r\n\r\n"));
        assert!(
            matches!(read_head(&head), HeadParse::Malformed(_)),
            "{line}"
        );
    }
}
