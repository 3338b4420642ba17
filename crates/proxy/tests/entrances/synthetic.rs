//! Synthetic addresses at the entrances, and the leases that connections hold.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use portcullis_dns::SYNTHETIC_RANGE;
use portcullis_names::{Name, PortSet};
use portcullis_policy::Mode;

use crate::hello::{self, ACCESS_DENIED, UNRECOGNIZED_NAME};
use crate::scenario;
use crate::talk::{End, Talk};
use crate::world::World;

/// Longer than any wait here.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a synthetic answer would do.
fn made_up(world: &World, name: &str) -> IpAddr {
    world.leases.use_synthetic_range(SYNTHETIC_RANGE);
    let name = Name::from_policy(name).unwrap();
    let granted = world.leases.grant_synthetic(&name, &PortSet::ANY);
    granted.unwrap().address.into()
}

scenario!(
    raw_tcp_to_a_synthetic_address_goes_where_its_name_is,
    |world| {
        let server = world.listen("192.0.2.3:22").await;
        let address = made_up(&world, "any.example");
        let mut client = world.connect(&format!("{address}:22")).await;
        let mut upstream = server.accept().await;
        upstream.say("SSH-2.0-x\r\n").await;
        client.hear_text("SSH-2.0-x\r\n").await;
        client.say("SSH-2.0-y\r\n").await;
        upstream.hear_text("SSH-2.0-y\r\n").await;
        drop((client, upstream));
        let records = world.records_after(1).await;
        let open = records.decisions()[0];
        assert_eq!(open["name"], "any.example");
        assert_eq!(open["upstream"], "192.0.2.3:22");
        assert_eq!(open["addresses"][0], "192.0.2.3", "{open:#}");
    }
);

scenario!(
    what_is_shown_on_a_synthetic_address_must_be_its_name,
    |world| {
        let server = world.listen("192.0.2.1:443").await;
        let address = format!("{}:443", made_up(&world, "a.example"));
        let own = hello::hello(Some("a.example"));
        let mut client = world.connect(&address).await;
        let mut upstream = server.accept().await;
        client.say(&own).await;
        assert_eq!(upstream.hear(own.len()).await, own);
        for (sni, alert) in [
            (Some("b.example"), UNRECOGNIZED_NAME),
            (Some("evil.example"), UNRECOGNIZED_NAME),
            (None, ACCESS_DENIED),
        ] {
            let mut client = world.connect(&address).await;
            let mut upstream = server.accept().await;
            client.say(hello::hello(sni)).await;
            assert_eq!(client.hear_all().await, (alert.to_vec(), End::Orderly));
            assert_eq!(upstream.hear_all().await.0, b"", "{sni:?}");
        }
        let web = world.listen("192.0.2.1:80").await;
        let address = format!("{}:80", made_up(&world, "a.example"));
        let mut client = world.connect(&address).await;
        let _upstream = web.accept().await;
        client
            .say("GET / HTTP/1.1\r\nHost: b.example\r\n\r\n")
            .await;
        let head = client.hear_head().await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    }
);

scenario!(
    a_synthetic_address_as_the_host_is_sent_as_its_name,
    |world| {
        let server = world.listen("192.0.2.1:80").await;
        let address = made_up(&world, "a.example");
        let request = format!("GET /p HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let mut client = world.connect(&format!("{address}:80")).await;
        let mut upstream = server.accept().await;
        client.say(&request).await;
        let head = upstream.hear_head().await;
        assert!(
            head.starts_with("GET /p HTTP/1.1\r\nHost: a.example\r\n"),
            "{head}"
        );
        assert!(!head.contains(&address.to_string()), "{head}");
        // To the proxy, in absolute form.
        let mut client = world.http().await;
        client
            .say(format!(
                "GET http://{address}/q HTTP/1.1\r\nHost: {address}\r\n\r\n"
            ))
            .await;
        let head = server.accept().await.hear_head().await;
        assert!(
            head.starts_with("GET /q HTTP/1.1\r\nHost: a.example\r\n"),
            "{head}"
        );
    }
);

scenario!(
    connect_and_socks_to_a_synthetic_address_go_by_its_name,
    |world| {
        let server = world.listen("192.0.2.3:22").await;
        let address = made_up(&world, "any.example");
        let mut client = world.http().await;
        client
            .say(format!(
                "CONNECT {address}:22 HTTP/1.1\r\nHost: {address}:22\r\n\r\n"
            ))
            .await;
        client
            .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
            .await;
        server.accept().await;
        let IpAddr::V4(v4) = address else { panic!() };
        let mut client = world.socks().await;
        client.say([5, 1, 0]).await;
        assert_eq!(client.hear(2).await, [5, 0]);
        let to = [&[5, 1, 0, 1][..], &v4.octets(), &22_u16.to_be_bytes()].concat();
        client.say(to).await;
        assert_eq!(client.hear(10).await[..2], [5, 0]);
        server.accept().await;
    }
);

scenario!(
    a_synthetic_address_that_stands_for_nothing_is_refused_everywhere,
    |_usual| {
        // Also where the policy only watches, and where a rule allows the whole network.
        let rule = "\"198.18.0.0/15\" = \"allow\"\n";
        let world = World::with(Mode::Audit, 64, rule).await;
        made_up(&world, "a.example");
        let nobody = "198.18.77.77:443";
        world.connect_and_be_reset(nobody).await;
        let mut client = world.http().await;
        client
            .say(format!(
                "CONNECT {nobody} HTTP/1.1\r\nHost: {nobody}\r\n\r\n"
            ))
            .await;
        let head = client.hear_head().await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        let records = world.records().await;
        for decision in records.decisions() {
            assert_eq!(
                (&decision["verdict"], &decision["reason"]),
                (&"deny".into(), &"address-not-leased".into()),
                "{decision:#}"
            );
        }
    }
);

scenario!(
    a_name_that_only_the_upstream_proxy_knows_is_reached_by_raw_tcp,
    |_usual| {
        let proxies = "\n[network.proxy]\nhttp = \"http://192.0.2.50:3128\"\n\
                       https = \"http://192.0.2.50:3128\"\n";
        let world = World::with(Mode::Enforce, 64, proxies).await;
        let upstream_proxy = world.listen("192.0.2.50:3128").await;
        // The world's resolver says NXDOMAIN.
        let address = made_up(&world, "nowhere.example");
        let mut client = world.connect(&format!("{address}:443")).await;
        let mut proxy = upstream_proxy.accept().await;
        let head = proxy.hear_head().await;
        assert!(
            head.starts_with("CONNECT nowhere.example:443 HTTP/1.1\r\n"),
            "{head}"
        );
        proxy.say("HTTP/1.1 200 OK\r\n\r\n").await;
        let own = hello::hello(Some("nowhere.example"));
        client.say(&own).await;
        assert_eq!(proxy.hear(own.len()).await, own);
    }
);

scenario!(
    a_long_connection_keeps_its_lease_and_a_closed_one_lets_it_go,
    |_usual| {
        let grace = Duration::from_secs(2);
        let world = World::with_grace(grace).await;
        let keeping = world.leases.clone();
        let token = world.token.clone();
        tokio::spawn(async move { keeping.keep_held(token).await });
        let server = world.listen("192.0.2.3:22").await;
        let address: IpAddr = "192.0.2.3".parse().unwrap();
        let name = Name::from_policy("any.example").unwrap();
        let granted = world
            .leases
            .grant(address, &name, &PortSet::ANY, Duration::from_millis(100));
        granted.unwrap();
        let mut first = world.connect("192.0.2.3:22").await;
        let mut upstream = server.accept().await;
        upstream.say("hello").await;
        first.hear_text("hello").await;
        // Several times as long as TTL and grace together: without the connection it would be over.
        tokio::time::sleep(grace * 4).await;
        let mut second = world.connect("192.0.2.3:22").await;
        let mut other = server.accept().await;
        other.say("again").await;
        second.hear_text("again").await;
        first.say("SSH-2.0-y\r\n").await;
        upstream.hear_text("SSH-2.0-y\r\n").await;
        drop((first, upstream, second, other));
        let until = Instant::now() + DEADLINE;
        while world.leases.is_leased(address) {
            assert!(Instant::now() < until, "the lease outlives its connections");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        world.connect_and_be_reset("192.0.2.3:22").await;
    }
);
