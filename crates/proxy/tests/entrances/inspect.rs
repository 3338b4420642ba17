//! HTTPS that is looked into, in raw bytes inside TLS on both sides: what upstream gets is what was
//! decided on, and nothing is said to it before it has proved itself.

use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::scenario;
use crate::talk::Talk;
use crate::world::{PATIENCE, Records, World};

pub const PLACE: &str = "192.0.2.7:443";

/// The authority of the servers in these tests, PEM; rules name it as `ca.pem`.
pub fn upstream_ca() -> &'static str {
    &authority().0
}

fn authority() -> &'static (String, Issuer<'static, KeyPair>) {
    static MADE: OnceLock<(String, Issuer<'static, KeyPair>)> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        (pem, Issuer::new(params, key))
    })
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Upstream's side of a handshake, with a certificate for `name`.
pub async fn serve(stream: TcpStream, name: &str, alpn: &[&str]) -> server::TlsStream<TcpStream> {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority().1).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|text| text.as_bytes().to_vec()).collect();
    let accept = TlsAcceptor::from(Arc::new(config)).accept(stream);
    timeout(PATIENCE, accept).await.unwrap().unwrap()
}

/// The program's side of a handshake; it trusts the gateway's authority and no other.
pub async fn shake(
    world: &World,
    stream: TcpStream,
    alpn: &[&str],
) -> client::TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let pem = world.inspection_ca();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|text| text.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("look.example").unwrap();
    let connect = TlsConnector::from(Arc::new(config)).connect(name, stream);
    timeout(PATIENCE, connect).await.unwrap().unwrap()
}

/// Both ends of one inspected connection, HTTP/1.1 agreed on.
pub async fn both(world: &World) -> (client::TlsStream<TcpStream>, server::TlsStream<TcpStream>) {
    let outside = world.listen(PLACE).await;
    let program = world.connect(PLACE).await;
    let upstream = outside.accept().await;
    tokio::join!(
        shake(world, program, &["http/1.1"]),
        serve(upstream, "look.example", &["http/1.1"])
    )
}

pub async fn say<S: AsyncWrite + Unpin>(stream: &mut S, text: &str) {
    timeout(PATIENCE, async {
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    })
    .await
    .unwrap();
}

/// Reads up to and with this.
pub async fn hear_until<S: AsyncRead + Unpin>(stream: &mut S, end: &str) -> String {
    let mut heard = Vec::new();
    while !heard.ends_with(end.as_bytes()) {
        let mut byte = [0];
        let read = timeout(PATIENCE, stream.read(&mut byte)).await;
        let read =
            read.unwrap_or_else(|_| panic!("no {end:?}: {:?}", String::from_utf8_lossy(&heard)));
        if read.unwrap_or(0) == 0 {
            panic!(
                "ended before {end:?}: {:?}",
                String::from_utf8_lossy(&heard)
            );
        }
        heard.push(byte[0]);
    }
    String::from_utf8(heard).unwrap()
}

/// Everything until the end, whatever it is.
pub async fn hear_rest<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut heard = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut heard))
        .await
        .expect("an end");
    String::from_utf8_lossy(&heard).into_owned()
}

fn of<'r>(records: &'r Records, layer: &str, reason: &str) -> Vec<&'r serde_json::Value> {
    let decisions = records.decisions().into_iter();
    decisions
        .filter(|r| r["layer"] == layer && r["reason"] == reason)
        .collect()
}

scenario!(the_program_speaks_what_upstream_chose, |world| {
    world.lease("192.0.2.7", "look.example");
    let outside = world.listen(PLACE).await;
    for (theirs, agreed) in [(&["http/1.1"][..], Some("http/1.1")), (&[][..], None)] {
        let program = world.connect(PLACE).await;
        let upstream = outside.accept().await;
        let (mut program, mut upstream) = tokio::join!(
            shake(&world, program, &["h2", "http/1.1"]),
            serve(upstream, "look.example", theirs)
        );
        let alpn = program.get_ref().1.alpn_protocol();
        assert_eq!(alpn, agreed.map(str::as_bytes));
        assert_eq!(upstream.get_ref().1.server_name(), Some("look.example"));
        say(
            &mut program,
            "GET /a?b=c HTTP/1.1\r\nHost: LOOK.example\r\nVia: 1.1 evil\r\n\r\n",
        )
        .await;
        let head = hear_until(&mut upstream, "\r\n\r\n").await;
        assert_eq!(head, "GET /a?b=c HTTP/1.1\r\nHost: look.example\r\n\r\n");
        say(
            &mut upstream,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        )
        .await;
        assert!(
            hear_until(&mut program, "hi")
                .await
                .starts_with("HTTP/1.1 200 OK\r\n")
        );
    }
});

scenario!(bytes_of_inspected_requests_are_counted_once, |world| {
    world.lease("192.0.2.7", "look.example");
    let (mut program, mut upstream) = both(&world).await;
    for _ in 0..2 {
        say(&mut program, "GET / HTTP/1.1\r\nHost: look.example\r\n\r\n").await;
        hear_until(&mut upstream, "\r\n\r\n").await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        say(&mut upstream, answer).await;
        hear_until(&mut program, "hi").await;
    }
    drop((program, upstream));
    let records = world.records_after(3).await;
    let counters = world.recorder.counters();
    for (counted, field) in [
        (counters.bytes_up(), "bytes_up"),
        (counters.bytes_down(), "bytes_down"),
    ] {
        let closes = records.closes();
        let bytes = closes.iter().map(|close| close[field].as_u64().unwrap());
        // The connection's own close, in which the requests' bytes are.
        assert_eq!(Some(counted), bytes.max(), "{field}: {closes:#?}");
    }
    assert_eq!(counters.closes().map(|(_, flows)| flows).sum::<u64>(), 3);
});

scenario!(a_request_behind_a_refused_one_is_never_read, |world| {
    world.lease("192.0.2.7", "look.example");
    let (mut program, mut upstream) = both(&world).await;
    let refused = "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    let behind = "GET /behind HTTP/1.1\r\nHost: look.example\r\n\r\n";
    say(&mut program, &format!("{refused}{behind}")).await;
    let heard = hear_rest(&mut program).await;
    assert_eq!(heard.matches("HTTP/1.1 ").count(), 1, "{heard}");
    assert!(heard.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{heard}");
    assert_eq!(hear_rest(&mut upstream).await, "");
    let records = world.records_after(1).await;
    assert_eq!(of(&records, "http", "host-mismatch").len(), 1);
});

scenario!(
    what_two_readers_could_frame_differently_reaches_nobody,
    |world| {
        world.lease("192.0.2.7", "look.example");
        let (mut program, mut upstream) = both(&world).await;
        say(
            &mut program,
            "POST /a HTTP/1.1\r\nHost: look.example\r\nContent-Length: 3\r\n\
         Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        )
        .await;
        let heard = hear_rest(&mut program).await;
        assert!(heard.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{heard}");
        assert_eq!(hear_rest(&mut upstream).await, "");
    }
);

scenario!(heads_that_nobody_should_believe_are_refused, |world| {
    world.lease("192.0.2.7", "look.example");
    let outside = world.listen(PLACE).await;
    let mut count = 0;
    for head in [
        "GET / HTTP/1.1\r\nHost: look.example\r\nHost: look.example\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET http://look.example/ HTTP/1.1\r\nHost: look.example\r\n\r\n",
        "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: look.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: look.example\r\nTransfer-Encoding: gzip\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : look.example\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n\r\n",
    ] {
        let program = world.connect(PLACE).await;
        let upstream = outside.accept().await;
        let (mut program, mut upstream) = tokio::join!(
            shake(&world, program, &["http/1.1"]),
            serve(upstream, "look.example", &["http/1.1"])
        );
        say(&mut program, head).await;
        let heard = hear_rest(&mut program).await;
        assert!(heard.starts_with("HTTP/1.1 40"), "{head}: {heard}");
        assert_eq!(hear_rest(&mut upstream).await, "", "{head}");
        count += 1;
        let records = world.records_after(count).await;
        let denied = records
            .decisions()
            .into_iter()
            .filter(|r| r["verdict"] == "deny");
        let denied: u64 = denied.filter_map(|r| r["count"].as_u64()).sum();
        assert_eq!(denied, count as u64, "one each: {head} {:#?}", records.0);
    }
});

scenario!(a_change_to_another_protocol_is_not_passed_on, |world| {
    world.lease("192.0.2.7", "look.example");
    let (mut program, mut upstream) = both(&world).await;
    say(
        &mut program,
        "GET /a HTTP/1.1\r\nHost: look.example\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n\r\n",
    )
    .await;
    let head = hear_until(&mut upstream, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    assert!(
        !head.contains("upgrade") && !head.contains("http2"),
        "{head}"
    );
    // Upstream changes all the same: its failure.
    say(
        &mut upstream,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    )
    .await;
    let heard = hear_until(&mut program, "\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 502 "), "{heard}");
});

scenario!(
    an_idle_connection_that_upstream_closed_is_opened_again,
    |world| {
        world.lease("192.0.2.7", "look.example");
        let outside = world.listen(PLACE).await;
        let program = world.connect(PLACE).await;
        let upstream = outside.accept().await;
        let (mut program, mut upstream) = tokio::join!(
            shake(&world, program, &["http/1.1"]),
            serve(upstream, "look.example", &["http/1.1"])
        );
        let request = "GET /again HTTP/1.1\r\nHost: look.example\r\n\r\n";
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
        say(&mut program, request).await;
        hear_until(&mut upstream, "\r\n\r\n").await;
        say(&mut upstream, answer).await;
        timeout(PATIENCE, upstream.shutdown())
            .await
            .unwrap()
            .unwrap();
        hear_until(&mut program, "hi").await;
        drop(upstream);
        say(&mut program, request).await;
        let mut upstream = serve(outside.accept().await, "look.example", &["http/1.1"]).await;
        hear_until(&mut upstream, "\r\n\r\n").await;
        say(&mut upstream, answer).await;
        hear_until(&mut program, "hi").await;
    }
);

scenario!(an_impostor_is_told_nothing, |world| {
    world.lease("192.0.2.7", "look.example");
    let outside = world.listen(PLACE).await;
    let program = world.connect(PLACE).await;
    let upstream = outside.accept().await;
    let (mut program, impostor) = tokio::join!(
        shake(&world, program, &["http/1.1"]),
        timeout(PATIENCE, refused_handshake(upstream))
    );
    impostor.unwrap();
    say(
        &mut program,
        "GET /secret HTTP/1.1\r\nHost: look.example\r\nAuthorization: x\r\n\r\n",
    )
    .await;
    let heard = hear_rest(&mut program).await;
    assert!(heard.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{heard}");
    assert!(heard.contains("error=tls_certificate_error"), "{heard}");
    let records = world.records().await;
    assert_eq!(
        of(&records, "tls", "certificate-invalid").len(),
        1,
        "{:#?}",
        records.0
    );
    assert_eq!(records.decisions().len(), 1, "once: {:#?}", records.0);
});

/// A server with a certificate for another name; the handshake must fail.
async fn refused_handshake(stream: TcpStream) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority().1).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let accepted = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
    assert!(accepted.is_err(), "an impostor was believed");
}

scenario!(a_policy_that_drops_the_name_cuts_the_connection, |world| {
    world.lease("192.0.2.7", "look.example");
    let (mut program, mut upstream) = both(&world).await;
    say(
        &mut program,
        "GET /a HTTP/1.1\r\nHost: look.example\r\n\r\n",
    )
    .await;
    hear_until(&mut upstream, "\r\n\r\n").await;
    say(
        &mut upstream,
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbeginning",
    )
    .await;
    hear_until(&mut program, "beginning").await;
    world.change("version = 1\n[network.domains]\n\"a.example\" = \"allow\"\n");
    hear_rest(&mut program).await;
    let records = world.records_after(2).await;
    for close in records.closes() {
        assert_eq!(close["close_reason"], "policy-changed", "{:#?}", records.0);
    }
});

scenario!(
    an_inspected_upload_and_websocket_that_would_outlive_their_rule_s_methods,
    |_usual| {
        let upload = (
            "POST /up HTTP/1.1\r\nHost: look.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        );
        let websocket = (
            "GET /ws HTTP/1.1\r\nHost: look.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        for (asked, answered) in [upload, websocket] {
            let world = World::new(portcullis_policy::Mode::Enforce, 64).await;
            world.lease("192.0.2.7", "look.example");
            let (mut program, mut upstream) = both(&world).await;
            say(&mut program, asked).await;
            hear_until(&mut upstream, "\r\n\r\n").await;
            say(&mut upstream, answered).await;
            hear_until(&mut program, "\r\n\r\n").await;
            let rule = |more: &str| {
                format!(
                    "version = 1\n[network.domains]\n\"look.example\" = \
                     {{ verdict = \"allow\", inspect = true, ca_file = \"ca.pem\", {more} }}\n"
                )
            };
            assert_eq!(world.change(&rule("paths = [\"/up\", \"/ws\"]")), 0);
            say(&mut upstream, "still").await;
            hear_until(&mut program, "still").await;
            assert_eq!(world.change(&rule("methods = [\"GET\"]")), 1, "{asked}");
            hear_rest(&mut program).await;
            let records = world.records_after(2).await;
            for close in records.closes() {
                assert_eq!(close["close_reason"], "policy-changed", "{:#?}", records.0);
            }
        }
    }
);

scenario!(
    a_field_by_which_servers_take_another_method_or_path,
    |_usual| {
        let narrow = "[network.domains.\"look.example:8080\"]\nverdict = \"allow\"\n\
                      methods = [\"POST\", \"PATCH\"]\npaths = [\"/public\"]\n";
        let world = World::with(portcullis_policy::Mode::Enforce, 64, narrow).await;
        world.change(&format!(
            "version = 1\n[network.domains]\n\"look.example\" = {{ verdict = \"allow\", \
             inspect = true, ca_file = \"ca.pem\", methods = [\"POST\", \"PATCH\"], \
             paths = [\"/public\"] }}\n{narrow}"
        ));
        world.lease("192.0.2.7", "look.example");
        for (field, code) in [
            ("X-HTTP-Method-Override: DELETE", "blocked-by-method-policy"),
            ("x_http_method: delete", "blocked-by-method-policy"),
            ("X-Original-URL: /secret", "blocked-by-path-policy"),
            ("X-Rewrite-URL: /public", "blocked-by-path-policy"),
            ("Destination: /secret", "blocked-by-path-policy"),
            ("X_Replaced_Path: /secret", "blocked-by-path-policy"),
            ("x-envoy-original-path: /secret", "blocked-by-path-policy"),
            ("Http-Method-Override: DELETE", "blocked-by-method-policy"),
        ] {
            let request = format!(
                "POST /public HTTP/1.1\r\nHost: look.example\r\nContent-Length: 0\r\n{field}\r\n\r\n"
            );
            let (mut program, upstream) = both(&world).await;
            say(&mut program, &request).await;
            let heard = hear_until(&mut program, "\r\n\r\n").await;
            assert!(heard.starts_with("HTTP/1.1 403 "), "{heard}");
            assert!(
                heard.contains(&format!("x-proxy-error: {code}\r\n")),
                "{heard}"
            );
            drop(upstream);
            let outside = world.listen("192.0.2.7:8080").await;
            let mut plain = world.connect("192.0.2.7:8080").await;
            plain
                .say(request.replace("look.example", "look.example:8080"))
                .await;
            let heard = plain.hear_head().await;
            assert!(heard.starts_with("HTTP/1.1 403 "), "{heard}");
            assert!(
                heard.contains(&format!("x-proxy-error: {code}\r\n")),
                "{heard}"
            );
            drop(outside);
        }
        // One that the rule allows passes.
        let (mut program, mut upstream) = both(&world).await;
        say(
            &mut program,
            "POST /public HTTP/1.1\r\nHost: look.example\r\nContent-Length: 0\r\n\
             X-HTTP-Method-Override: PATCH\r\n\r\n",
        )
        .await;
        let head = hear_until(&mut upstream, "\r\n\r\n").await;
        assert!(head.contains(": PATCH\r\n"), "{head}");
    }
);

scenario!(a_name_without_certificates_is_refused_not_passed, |world| {
    world.lease("192.0.2.7", "look.example");
    let rule = "version = 1\n[network.domains]\n\"new.example\" = { verdict = \"allow\", inspect = true }\n";
    world.change(rule);
    world.lease("192.0.2.7", "new.example");
    let outside = world.listen(PLACE).await;
    let mut program = world.connect(PLACE).await;
    let mut upstream = outside.accept().await;
    program.say(crate::hello::hello(Some("new.example"))).await;
    let (heard, _) = program.hear_all().await;
    assert_eq!(heard, [21, 3, 3, 0, 2, 2, 49], "access_denied");
    assert_eq!(upstream.hear_all().await.0, b"");
    let records = world.records().await;
    records.denied("tls", "transparent", "protocol-not-allowed");
});

scenario!(
    what_is_not_tls_does_not_pass_on_an_inspected_name,
    |world| {
        world.lease("192.0.2.7", "look.example");
        let outside = world.listen(PLACE).await;
        let mut program = world.connect(PLACE).await;
        let mut upstream = outside.accept().await;
        program.say("SSH-2.0-OpenSSH_9.9\r\n").await;
        assert_eq!(program.hear_all().await.0, b"");
        assert_eq!(upstream.hear_all().await.0, b"");
        let records = world.records().await;
        records.denied("tcp", "transparent", "protocol-not-allowed");
    }
);
