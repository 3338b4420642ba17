//! Java: `InetAddress` and `HttpClient`, launched from a single source file.

use crate::shared;
use crate::support::{Ran, require, sandbox};
use crate::usual;
use std::time::Duration;

/// A Java runtime on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

const CLIENT: &str = r#"
import java.io.FileInputStream;
import java.net.*;
import java.net.http.*;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.*;

public class Client {
    public static void main(String[] args) throws Exception {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (FileInputStream in = new FileInputStream(System.getenv("SSL_CERT_FILE"))) {
            trusted.setCertificateEntry("world", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        for (String host : args) {
            try {
                System.out.println("address " + InetAddress.getByName(host).getHostAddress());
                System.out.println("canonical " + InetAddress.getByName(host).getCanonicalHostName());
            } catch (UnknownHostException e) {
                System.out.println("unknown " + e.getMessage());
            }
            HttpClient byProxy = HttpClient.newBuilder().sslContext(context).build();
            HttpClient direct = HttpClient.newBuilder().sslContext(context).proxy(HttpClient.Builder.NO_PROXY).build();
            for (HttpClient client : new HttpClient[] { byProxy, direct }) {
                try {
                    HttpRequest request = HttpRequest.newBuilder(URI.create("https://" + host + "/java")).build();
                    HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
                    System.out.println(answer.statusCode() + " " + answer.body().split("\r\n")[0]);
                } catch (Exception e) {
                    System.out.println("failed " + e.getClass().getSimpleName());
                }
            }
        }
    }
}
"#;

/// Says all addresses of each name, in order.
const CACHE: &str = r#"
import java.net.*;

public class Cache {
    public static void main(String[] args) {
        for (String host : args) {
            StringBuilder line = new StringBuilder(host);
            try {
                for (InetAddress address : InetAddress.getAllByName(host)) line.append(' ').append(address.getHostAddress());
            } catch (UnknownHostException e) {
                line.append(" unknown");
            }
            System.out.println(line);
        }
    }
}
"#;

#[test]
fn slow_java_s_cache_keeps_both_families_and_what_is_not_there() {
    require("java");
    let world = shared::world();
    world.file("Cache.java", CACHE);
    let denied = "cached.java.evil.example.net";
    let found = ["api", "v4only", "v6only"].map(|name| format!("{name}.example.com"));
    let mut command = vec![
        "java",
        "-XX:TieredStopAtLevel=1",
        "-Dsun.net.inetaddr.negative.ttl=3600",
        "Cache.java",
    ];
    command.extend(found.iter().map(String::as_str));
    command.extend([denied; 5]);
    let ran = found
        .iter()
        .fold(sandbox(&world), |sandbox, name| sandbox.allow(name))
        .limit(LIMIT)
        .run(&command);
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        format!(
            "api.example.com 203.0.113.10 2001:db8:10:0:0:0:0:10\nv4only.example.com 203.0.113.60\n\
             v6only.example.com 2001:db8:10:0:0:0:0:61\n{}",
            format!("{denied} unknown\n").repeat(5)
        ),
        "{ran}"
    );
    let denials = ran.records.denials("dns", "not-in-allowlist", denied);
    let asked: u64 = denials
        .iter()
        .map(|record| record["count"].as_u64().unwrap_or(1))
        .sum();
    // A and AAAA once, or each a second time where the answer was late; not five times.
    assert!((1..=4).contains(&asked), "{ran}");
    world.assert_never_asked("evil");
}

fn java(host: &str) -> Ran {
    require("java");
    let world = shared::world();
    world.file("Client.java", CLIENT);
    usual(&world).limit(LIMIT).run(&[
        "java",
        "-XX:TieredStopAtLevel=1",
        "-XX:-UsePerfData",
        "-Dhttps.proxyHost=10.0.2.2",
        "-Dhttps.proxyPort=3128",
        "Client.java",
        host,
    ])
}

#[test]
fn slow_java_inet_address_and_http_client() {
    let ran = java("api.example.com");
    ran.assert_ok().assert_no_denial();
    let line = "200 GET /java HTTP/1.1\n";
    assert_eq!(
        ran.out(),
        format!("address 203.0.113.10\ncanonical api.example.com\n{line}{line}"),
        "{ran}"
    );
    ran.records.one("connect", "api.example.com");
    ran.records.one("transparent", "api.example.com");
}

#[test]
fn slow_java_inet_address_and_http_client_refused() {
    let ran = java("java.evil.example.net");
    ran.assert_ok();
    assert!(
        ran.out().starts_with("unknown java.evil.example.net"),
        "{ran}"
    );
    assert_eq!(ran.out().matches("failed ").count(), 2, "{ran}");
    ran.assert_one_denial("http", "not-in-allowlist", "java.evil.example.net");
    shared::world().assert_never_asked("evil");
}
