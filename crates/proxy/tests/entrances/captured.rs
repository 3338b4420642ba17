//! Real clients' ClientHellos (`crates/wire/testdata`) through the entrances, cut into segments at
//! every place: upstream receives exactly these bytes, or none.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::hello::UNRECOGNIZED_NAME;
use crate::scenario;
use crate::talk::Talk;
use crate::world::World;

/// They all ask for a.example.
const CAPTURED: [&[u8]; 6] = [
    include_bytes!("../../../wire/testdata/hello-go.bin"),
    include_bytes!("../../../wire/testdata/hello-openssl.bin"),
    include_bytes!("../../../wire/testdata/hello-node.bin"),
    include_bytes!("../../../wire/testdata/hello-java.bin"),
    include_bytes!("../../../wire/testdata/hello-curl.bin"),
    include_bytes!("../../../wire/testdata/hello-python.bin"),
];

/// Says the hello in two segments, or in what the kernel makes of them.
async fn say_cut(client: &mut TcpStream, hello: &[u8], at: usize) {
    client.set_nodelay(true).unwrap();
    client.say(&hello[..at]).await;
    sleep(Duration::from_millis(1)).await;
    client.say(&hello[at..]).await;
}

/// Every place in the first of them; in the others every seventh, the headers whole.
fn cuts() -> impl Iterator<Item = (&'static [u8], usize)> {
    CAPTURED.iter().enumerate().flat_map(|(place, hello)| {
        let wanted = move |at: &usize| place == 0 || *at < 12 || at.is_multiple_of(7);
        (1..hello.len()).filter(wanted).map(|at| (*hello, at))
    })
}

async fn tunnel(world: &World, name: &str) -> TcpStream {
    let mut client = world.http().await;
    client
        .say(format!(
            "CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n"
        ))
        .await;
    client
        .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
        .await;
    client
}

scenario!(
    a_captured_hello_cut_anywhere_passes_a_tunnel_whole,
    |world| {
        let server = world.listen("192.0.2.1:443").await;
        for (hello, at) in cuts() {
            let mut client = tunnel(&world, "a.example").await;
            let mut upstream = server.accept().await;
            say_cut(&mut client, hello, at).await;
            assert_eq!(upstream.hear(hello.len()).await, hello, "{at}");
        }
    }
);

scenario!(
    a_captured_hello_cut_anywhere_passes_a_direct_connection_whole,
    |world| {
        let server = world.listen("192.0.2.1:443").await;
        world.lease("192.0.2.1", "a.example");
        for (hello, at) in cuts() {
            let mut client = world.connect("192.0.2.1:443").await;
            let mut upstream = server.accept().await;
            say_cut(&mut client, hello, at).await;
            assert_eq!(upstream.hear(hello.len()).await, hello, "{at}");
        }
    }
);

scenario!(
    a_captured_hello_in_a_tunnel_to_another_name_is_refused_wherever_it_is_cut,
    |world| {
        let server = world.listen("192.0.2.2:443").await;
        for (hello, at) in cuts().step_by(9) {
            let mut client = tunnel(&world, "b.example").await;
            let mut upstream = server.accept().await;
            say_cut(&mut client, hello, at).await;
            assert_eq!(client.hear_all().await.0, UNRECOGNIZED_NAME, "{at}");
            assert_eq!(upstream.hear_all().await.0, b"", "{at}");
        }
    }
);
