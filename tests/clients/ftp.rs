//! FTP by real programs and servers: passive mode where the rule says `ftp = true`, and what is told elsewhere.

use std::time::Duration;

use portcullis_testkit::{World, WorldSpec};

use crate::processes::Background;
use crate::support::{Ran, require, sandbox, world_from};

/// Where the test's server is.
const SERVER: &str = "203.0.113.150";
/// Python of the system, which has the Debian package python3-pyftpdlib.
const PYTHON: &str = "/usr/bin/python3";
const LIMIT: Duration = Duration::from_secs(120);

const SERVICE: &str = r#"
import os, sys, tempfile
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
home = tempfile.mkdtemp()
open(os.path.join(home, 'file'), 'w').write('what is in the file\n')
authorizer = DummyAuthorizer()
authorizer.add_anonymous(home, perm='elradfmw', msg_login='hello')
FTPHandler.authorizer = authorizer
server = FTPServer((sys.argv[1], 21), FTPHandler)
print('serving', flush=True)
server.serve_forever()
"#;

/// Both passive modes, a listing, an upload and a download.
const FTPLIB: &str = r#"
import ftplib, io
for mode in ('PASV', 'EPSV'):
    ftp = ftplib.FTP('ftp.example.com', timeout=30)
    ftp.login()
    if mode == 'EPSV': ftp.makepasv = lambda: ftplib.parse229(ftp.sendcmd('EPSV'), ftp.sock.getpeername())
    ftp.storbinary('STOR up', io.BytesIO(b'GET / HTTP/1.1\r\n' + b'x' * 3000000))
    got = io.BytesIO(); ftp.retrbinary('RETR up', got.write)
    print(len(got.getvalue()), sorted(ftp.nlst()))
    ftp.quit()
"#;

fn world() -> World {
    world_from(
        WorldSpec::standard()
            .record("ftp.example.com A 203.0.113.150")
            .closed(SERVER),
    )
}

fn serve(world: &World) -> Background {
    require("python3");
    let mut command = world.internet_command(PYTHON);
    command.arg(world.file("service.py", SERVICE)).arg(SERVER);
    let server = Background::start(&mut command);
    server.wait_line("serving");
    server
}

fn run(world: &World, rule: &str, script: &str) -> Ran {
    let policy = format!("version = 1\n[network.domains]\n\"ftp.example.com:21\" = {rule}\n");
    let sandbox = sandbox(world).policy("toml", &policy).limit(LIMIT);
    sandbox.sh(script)
}

const FTP: &str = "{ verdict = \"allow\", ftp = true }";

#[test]
fn programs_transfer_files_in_passive_mode() {
    require("curl");
    require("wget");
    require("lftp");
    let world = world();
    let _server = serve(&world);
    let client = world.file("client.py", FTPLIB);
    let url = "ftp://ftp.example.com";
    let mut script = String::new();
    for way in [
        "",
        "--disable-epsv",
        "-x socks5h://10.0.2.2:1080",
        "-p -x http://10.0.2.2:3128",
    ] {
        script += &format!("curl -sS -m 30 --noproxy '' {way} {url}/file; ");
    }
    script += &format!(
        "wget -q --no-proxy -O - {url}/file; lftp -c 'set net:max-retries 1; set ftp:proxy \"\"; \
         open {url}; cat file'; {PYTHON} {}",
        client.display()
    );
    let ran = run(&world, FTP, &script);
    ran.assert_ok().assert_no_denial();
    assert_eq!(
        ran.out(),
        "what is in the file\n".repeat(6) + &"3000016 ['file', 'up']\n".repeat(2),
        "{ran}"
    );
}

#[test]
fn a_rule_without_ftp_says_what_is_missing_and_active_mode_that_it_cannot_work() {
    require("curl");
    let world = world();
    let _server = serve(&world);
    let get = "curl -sS -m 10 --noproxy '*' ftp://ftp.example.com/file";
    let ran = run(&world, "\"allow\"", get);
    assert!(!ran.finished.ok(), "{ran}");
    let denials = ran.records.all_denials();
    assert!(!denials.is_empty(), "{ran}");
    for denial in denials {
        assert_eq!(denial["reason"], "port-not-allowed", "{ran}");
        let detail = denial["detail"].as_str().unwrap_or_default();
        assert!(
            detail.contains("add `ftp = true` to the rule for port 21"),
            "{ran}"
        );
    }
    let ran = run(&world, FTP, &format!("{get} -P -"));
    assert!(!ran.finished.ok(), "{ran}");
    ran.assert_one_denial("tcp", "protocol-not-allowed", "ftp.example.com");
    let denials = ran
        .records
        .denials("tcp", "protocol-not-allowed", "ftp.example.com");
    let detail = denials[0]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("active mode"), "{ran}");
}
