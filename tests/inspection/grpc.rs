//! gRPC through an inspected connection: unary calls, streams in both directions at once, trailers,
//! and paths as rules.

use crate::processes::Background;
use crate::support::require;
use crate::{SERVER, rules, world};
use portcullis_testkit::World;
use std::time::Duration;

/// Python of the system, which has the Debian package python3-grpcio.
const PYTHON: &str = "/usr/bin/python3";
const LIMIT: Duration = Duration::from_secs(120);

const SERVICE: &str = r#"
import grpc, sys
from concurrent import futures
address, certificate, key = sys.argv[1:]

def unary(request, context):
    context.set_trailing_metadata((('x-trailer', 'there'),))
    return b'echo ' + request

def bidirectional(requests, context):
    for request in requests:
        yield b'got ' + request

def failing(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, 'as asked')

handler = grpc.method_handlers_generic_handler('world.Echo', {
    'Unary': grpc.unary_unary_rpc_method_handler(unary),
    'Both': grpc.stream_stream_rpc_method_handler(bidirectional),
    'Fail': grpc.unary_unary_rpc_method_handler(failing),
})
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((handler,))
read = lambda path: open(path, 'rb').read()
credentials = grpc.ssl_server_credentials([(read(key), read(certificate))])
assert server.add_secure_port(address, credentials), 'cannot listen'
server.start()
print('serving', flush=True)
server.wait_for_termination()
"#;

/// Trusts what the sandbox gives it to trust, and nothing of its own.
const CLIENT: &str = r#"
import grpc, os, queue
roots = open(os.environ['SSL_CERT_FILE'], 'rb').read()
channel = grpc.secure_channel('grpc.example.com:8443', grpc.ssl_channel_credentials(roots),
                              options=[('grpc.enable_http_proxy', 0)])
unary = channel.unary_unary('/world.Echo/Unary')
answer, call = unary.with_call(b'hello', timeout=60)
print(answer.decode(), dict(call.trailing_metadata())['x-trailer'])
# Each message is sent only once the answer to the one before is there.
waiting = queue.Queue()
answers = channel.stream_stream('/world.Echo/Both')(iter(waiting.get, None), timeout=60)
for word in (b'one', b'two', b'three'):
    waiting.put(word)
    print(next(answers).decode())
waiting.put(None)
print(list(answers))
big = b'x' * 3000000
print(len(unary(big, timeout=60)))
for method in ('Fail', 'Shut'):
    try:
        channel.unary_unary('/world.Echo/' + method)(b'', timeout=60)
    except grpc.RpcError as error:
        print(error.code().name)
"#;

fn server(world: &World) -> Background {
    require("python3");
    let (certificate, key) = world.certificate(&["grpc.example.com"]);
    let service = world.file("service.py", SERVICE);
    let mut command = world.internet_command(PYTHON);
    command
        .arg(service)
        .arg(format!("{SERVER}:8443"))
        .arg(certificate)
        .arg(key);
    let server = Background::start(&mut command);
    server.wait_line("serving");
    server
}

#[test]
fn slow_grpc_unary_and_bidirectional_with_its_methods_as_paths() {
    let world = world();
    let _server = server(&world);
    let client = world.file("client.py", CLIENT).display().to_string();
    let ran = rules(
        &world,
        r#""grpc.example.com:8443" = { verdict = "allow", inspect = true, methods = ["POST"], paths = ["/world.Echo/Unary", "/world.Echo/Both", "/world.Echo/Fail"] }"#,
    )
    .limit(LIMIT)
    .run(&[PYTHON, &client]);
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "echo hello there\ngot one\ngot two\ngot three\n[]\n3000005\nFAILED_PRECONDITION\n\
         PERMISSION_DENIED\n",
        "a 403 is PERMISSION_DENIED: {ran}"
    );
    ran.assert_one_denial("http", "path-not-allowed", "grpc.example.com");
}
