//! HTTP/2 without TLS by real programs and servers: each request decided on by its `:authority`, on direct
//! connections and in tunnels.

use std::time::Duration;

use portcullis_testkit::{World, WorldSpec};

use crate::processes::Background;
use crate::support::{Ran, require, sandbox, world_from};

/// Where the tests' own servers are.
const SERVER: &str = "203.0.113.150";
/// Python of the system, which has the Debian package python3-grpcio.
const PYTHON: &str = "/usr/bin/python3";
const LIMIT: Duration = Duration::from_secs(120);

/// What Node serves: it says what it was asked for.
const NODE_SERVER: &str = "
const server = require('http2').createServer((request, response) => {
    let bytes = 0;
    request.on('data', data => bytes += data.length);
    request.on('end', () => response.end(
        `${request.method} ${request.authority}${request.url} ${bytes}\\n`));
});
server.listen(8080, process.argv[2], () => console.log('serving'));
";

const GRPC_SERVER: &str = r#"
import grpc, sys
from concurrent import futures

def unary(request, context):
    context.set_trailing_metadata((('x-trailer', 'there'),))
    return b'echo ' + request

def bidirectional(requests, context):
    for request in requests:
        yield b'got ' + request

server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler('world.Echo', {
    'Unary': grpc.unary_unary_rpc_method_handler(unary),
    'Both': grpc.stream_stream_rpc_method_handler(bidirectional),
}),))
assert server.add_insecure_port(sys.argv[1] + ':50051'), 'cannot listen'
server.start()
print('serving', flush=True)
server.wait_for_termination()
"#;

/// By the environment's proxy, and directly.
const GRPC_CLIENT: &str = r#"
import grpc, queue
for proxy in (0, 1):
    channel = grpc.insecure_channel('h2c.example.com:50051', options=[('grpc.enable_http_proxy', proxy)])
    unary = channel.unary_unary('/world.Echo/Unary')
    answer, call = unary.with_call(b'hello', timeout=60)
    print(answer.decode(), dict(call.trailing_metadata())['x-trailer'])
    waiting = queue.Queue()
    answers = channel.stream_stream('/world.Echo/Both')(iter(waiting.get, None), timeout=60)
    for word in (b'one', b'two'):
        waiting.put(word)
        print(next(answers).decode())
    waiting.put(None)
    print(list(answers), len(unary(b'x' * 3000000, timeout=60)))
    channel.close()
"#;

fn world() -> World {
    world_from(
        WorldSpec::standard()
            .record("h2c.example.com A 203.0.113.150")
            .closed(SERVER),
    )
}

fn serve(world: &World, program: &str, file: &str, text: &str) -> Background {
    require(program);
    let mut command = world.internet_command(program);
    command.arg(world.file(file, text)).arg(SERVER);
    let server = Background::start(&mut command);
    server.wait_line("serving");
    server
}

/// A sandbox under this rule for the server.
fn run(world: &World, rule: &str, script: &str) -> Ran {
    let policy = format!("version = 1\n[network.domains]\n{rule}\n");
    sandbox(world)
        .policy("toml", &policy)
        .limit(LIMIT)
        .sh(script)
}

#[test]
fn slow_grpc_without_tls_calls_directly_and_by_the_proxy() {
    let world = world();
    let _server = serve(&world, PYTHON, "service.py", GRPC_SERVER);
    let client = world.file("client.py", GRPC_CLIENT).display().to_string();
    let rule = r#""h2c.example.com:50051" = "allow""#;
    let ran = run(&world, rule, &format!("{PYTHON} {client}"));
    ran.assert_ok().assert_no_denial();
    let once = "echo hello there\ngot one\ngot two\n[] 3000005\n";
    assert_eq!(ran.out(), once.repeat(2), "{ran}");
    let paths: Vec<String> = (ran.records.decisions().iter())
        .filter(|record| record["layer"] == "http" && record["path"].is_string())
        .map(|record| record["path"].as_str().unwrap_or_default().to_owned())
        .collect();
    let calls = ["/world.Echo/Unary", "/world.Echo/Both", "/world.Echo/Unary"];
    assert_eq!(paths, [calls, calls].concat(), "{ran}");
}

#[test]
fn curl_and_nghttp_and_node_with_prior_knowledge() {
    require("curl");
    require("nghttp");
    let world = world();
    let _server = serve(&world, "node", "server.js", NODE_SERVER);
    let client = world.file(
        "client.js",
        "const client = require('http2').connect('http://h2c.example.com:8080');
         let left = 3;
         for (const path of ['/n1', '/n2', '/n3']) {
             const request = client.request({ ':path': path, ':method': 'POST' });
             request.setEncoding('utf8'); request.on('data', data => process.stdout.write(data));
             request.on('end', () => { if (!--left) client.close(); });
             request.end('x'.repeat(100000));
         }",
    );
    let url = "http://h2c.example.com:8080";
    let ways = [
        "--noproxy '*'",
        "--noproxy '' -p -x http://10.0.2.2:3128",
        "--noproxy '' -x socks5h://10.0.2.2:1080",
    ];
    let mut script = String::new();
    for way in ways {
        script += &format!(
            "curl -sS -m 20 --http2-prior-knowledge {way} -d body {url}/c -w '%{{http_version}}\\n'; "
        );
    }
    script += &format!("nghttp {url}/g; node {}", client.display());
    let ran = run(&world, r#""h2c.example.com:8080" = "allow""#, &script);
    ran.assert_ok().assert_no_denial();
    let out = ran.out();
    let (ours, node) = out.split_once("GET ").expect("nghttp's");
    assert_eq!(
        ours,
        "POST h2c.example.com:8080/c 4\n2\n".repeat(ways.len()),
        "{ran}"
    );
    assert!(node.starts_with("h2c.example.com:8080/g 0\n"), "{ran}");
    for path in ["n1", "n2", "n3"] {
        ran.assert_out(&format!("POST h2c.example.com:8080/{path} 100000\n"));
    }
}

#[test]
fn a_host_that_is_not_listed_and_a_path_that_is_not_allowed_are_refused_on_their_stream() {
    require("curl");
    let world = world();
    let _server = serve(&world, "node", "server.js", NODE_SERVER);
    let url = "http://h2c.example.com:8080";
    let ask =
        "curl -sS -m 20 --noproxy '*' --http2-prior-knowledge -w '%{http_code} %{http_version}\\n'";
    let ran = run(
        &world,
        r#""h2c.example.com:8080" = { verdict = "allow", methods = ["GET"], paths = ["/public/**"] }"#,
        &format!(
            "{ask} {url}/public/a; {ask} -o /dev/null {url}/secret; {ask} -o /dev/null -d x {url}/public/a; \
             {ask} -o /dev/null -H 'Host: evil.example.net' {url}/public/a; {ask} {url}/public/b"
        ),
    );
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "GET h2c.example.com:8080/public/a 0\n200 2\n403 2\n403 2\n403 2\n\
         GET h2c.example.com:8080/public/b 0\n200 2\n",
        "{ran}"
    );
    let mut reasons: Vec<_> = (ran.records.all_denials().iter())
        .map(|record| record["reason"].as_str().unwrap_or_default().to_owned())
        .collect();
    reasons.sort();
    let expected = ["method-not-allowed", "not-in-allowlist", "path-not-allowed"];
    assert_eq!(reasons, expected, "{ran}");
    world.assert_never_asked("evil");
}
