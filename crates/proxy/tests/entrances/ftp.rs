//! FTP in passive mode: what a server names is opened once, at its own address, and nothing else is.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::scenario;
use crate::talk::{End, Talk};
use crate::world::{Server, World};

const POLICY: &str = "version = 1\n[network.domains]\n\
    \"a.example:22\" = { verdict = \"allow\", ftp = true }\n\"b.example:22\" = \"allow\"\n";

/// A world with a control connection to a.example, which stands on port 22 here.
async fn control(world: &World) -> (TcpStream, TcpStream) {
    let server = world.listen("192.0.2.1:22").await;
    world.lease("192.0.2.1", "a.example");
    let mut client = world.connect("192.0.2.1:22").await;
    let mut upstream = server.accept().await;
    upstream.say("220 ready\r\n").await;
    client.hear_text("220 ready\r\n").await;
    (client, upstream)
}

/// A question for a port, and the server's answer to it.
async fn ask(pair: &mut (TcpStream, TcpStream), question: &str, answer: &str) {
    let (client, upstream) = pair;
    let question = format!("{question}\r\n");
    client.say(&question).await;
    upstream.hear_text(&question).await;
    let answer = format!("{answer}\r\n");
    upstream.say(&answer).await;
    client.hear_text(&answer).await;
}

/// Both ends of a data connection.
async fn data(world: &World, server: &Server) -> (TcpStream, TcpStream) {
    let client = world.connect("192.0.2.1:9000").await;
    (client, server.accept().await)
}

const PASV: &str = "227 Entering Passive Mode (192,0,2,1,35,40)."; // port 9000
const EPSV: &str = "229 Entering Extended Passive Mode (|||9000|)";

scenario!(a_data_connection_passes_once_for_each_answer, |_usual| {
    let world = World::by(POLICY).await;
    let server = world.listen("192.0.2.1:9000").await;
    world.lease("192.0.2.1", "a.example");
    world.connect_and_be_reset("192.0.2.1:9000").await;
    let mut control = control(&world).await;
    world.connect_and_be_reset("192.0.2.1:9000").await;
    for (question, answer) in [("PASV", PASV), ("EPSV", EPSV)] {
        ask(&mut control, question, answer).await;
        let (mut client, mut upstream) = data(&world, &server).await;
        // An upload that looks like a request, and an answer in the other direction.
        let upload = "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
        client.say(upload).await;
        upstream.hear_text(upload).await;
        upstream.say("download").await;
        client.hear_text("download").await;
        world.connect_and_be_reset("192.0.2.1:9000").await;
        client.shutdown().await.unwrap();
        assert_eq!(upstream.hear_all().await, (vec![], End::Orderly));
    }
    // An answer that is not used is void with the control connection, and with the next answer.
    ask(&mut control, "EPSV", EPSV).await;
    ask(&mut control, "EPSV", "229 (|||9999|)").await;
    world.connect_and_be_reset("192.0.2.1:9000").await;
    drop(control);
    world.records_after(3).await;
    world.connect_and_be_reset("192.0.2.1:9999").await;
    let records = world.records().await;
    let data = |v: &&&serde_json::Value| v["verdict"] == "allow" && v["port"] == 9000;
    let decisions = records.decisions();
    let data: Vec<_> = decisions.iter().filter(data).collect();
    assert_eq!(data.len(), 2, "{:#?}", records.0);
    assert!(
        data.iter()
            .all(|v| v["name"] == "a.example" && v["rule"] == "a.example:22")
    );
    let refused = decisions.iter().filter(|v| v["verdict"] == "deny");
    assert!(refused.clone().count() >= 2);
    assert!(refused.clone().all(|v| v["reason"] == "port-not-allowed"));
});

scenario!(what_a_hostile_server_names_is_not_opened, |_usual| {
    let world = World::by(POLICY).await;
    let _other = world.listen("192.0.2.2:9000").await;
    let _low = world.listen("192.0.2.1:80").await;
    let _named = world.listen("192.0.2.1:9000").await;
    world.lease("192.0.2.2", "b.example");
    let mut control = control(&world).await;
    // Another server's address: the port is this one's, if anybody's.
    ask(&mut control, "PASV", "227 (192,0,2,2,35,40)").await;
    world.connect_and_be_reset("192.0.2.2:9000").await;
    // A service of its own, below 1024.
    ask(&mut control, "EPSV", "229 (|||80|)").await;
    world.connect_and_be_reset("192.0.2.1:80").await;
    // Text of the program's that a server repeats; and an answer that nobody asked for.
    let file = "213-listing\r\n227 Entering Passive Mode (192,0,2,1,35,40)\r\n213 end";
    ask(&mut control, "STAT x", file).await;
    world.connect_and_be_reset("192.0.2.1:9000").await;
    ask(&mut control, "NOOP", EPSV).await;
    world.connect_and_be_reset("192.0.2.1:9000").await;
    // What stands in TLS is not read.
    ask(&mut control, "AUTH TLS", "234 go on").await;
    ask(&mut control, "EPSV", EPSV).await;
    world.connect_and_be_reset("192.0.2.1:9000").await;
});

scenario!(active_mode_and_a_rule_without_ftp_are_told_of, |_usual| {
    let world = World::by(POLICY).await;
    let mut control = control(&world).await;
    ask(&mut control, "PORT 10,0,2,15,35,40", "200 ok").await;
    let records = world.records().await;
    let denial = records.denied("tcp", "transparent", "protocol-not-allowed");
    let detail = denial["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("active mode"), "{detail}");
    let plain = "version = 1\n[network.domains]\n\"a.example:21\" = \"allow\"\n";
    let world = World::by(plain).await;
    world.lease("192.0.2.1", "a.example");
    world.connect_and_be_reset("192.0.2.1:9000").await;
    let mut client = world.http().await;
    client
        .say("CONNECT a.example:9000 HTTP/1.1\r\nHost: a.example:9000\r\n\r\n")
        .await;
    let answer = String::from_utf8(client.hear_all().await.0).unwrap();
    let hint = "add `ftp = true` to the rule for port 21";
    assert!(
        answer.contains("HTTP/1.1 403 ") && answer.contains(hint),
        "{answer}"
    );
    let records = world.records().await;
    let told = |v: &&serde_json::Value| v["detail"].as_str().is_some_and(|d| d.contains(hint));
    let decisions = records.decisions().into_iter();
    assert_eq!(decisions.filter(told).count(), 2, "{:#?}", records.0);
});

scenario!(
    a_tunnel_s_data_connection_goes_where_the_tunnel_goes,
    |_usual| {
        let world = World::by(POLICY).await;
        let control = world.listen("192.0.2.1:22").await;
        let server = world.listen("192.0.2.1:9000").await;
        let connect = async |port: u16| {
            let mut client = world.http().await;
            let target = format!("a.example:{port}");
            client
                .say(format!(
                    "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
                ))
                .await;
            let head = client.hear_head().await;
            (client, head.starts_with("HTTP/1.1 200 "))
        };
        let (mut client, stands) = connect(22).await;
        assert!(stands);
        let mut upstream = control.accept().await;
        upstream.say("220 ready\r\n").await;
        client.hear_text("220 ready\r\n").await;
        assert!(!connect(9000).await.1);
        let mut pair = (client, upstream);
        ask(&mut pair, "EPSV", EPSV).await;
        let (mut client, stands) = connect(9000).await;
        assert!(stands);
        let mut upstream = server.accept().await;
        upstream.say("data").await;
        client.hear_text("data").await;
        assert!(!connect(9000).await.1);
        // A rule that loses `ftp` ends its data connections, and no others.
        let less = "version = 1\n[network.domains]\n\"a.example:22\" = \"allow\"\n";
        assert_eq!(world.change(less), 1);
        assert_eq!(client.hear_all().await, (vec![], End::Reset));
    }
);
