//! `--proxy-env`: with every choice of variables real programs reach what is allowed and the
//! sandbox's own servers, and write nothing that they would not outside.

use crate::shared;
use crate::support::{Ran, require};
use crate::usual;

/// Debian's own Python, which the packages belong to.
const PYTHON: &str = "/usr/bin/python3";

/// A program, and what it runs to print the status of `$url`.
const PROGRAMS: [(&str, &str); 9] = [
    (
        "curl",
        "curl -sS -m 30 -o /dev/null -w '%{http_code}\\n' $url",
    ),
    (
        "wget",
        "wget -T 30 -t 1 -q --ca-certificate=$SSL_CERT_FILE -O /dev/null --server-response $url 2>&1 | sed -n 's/^ *HTTP[^ ]* \\([0-9]*\\).*/\\1/p'",
    ),
    (
        "urllib",
        "$python -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=30).status)' $url",
    ),
    (
        "requests",
        "$python -c 'import sys, requests; print(requests.get(sys.argv[1], timeout=30).status_code)' $url",
    ),
    (
        "httpx",
        "$python -c 'import sys, httpx; print(httpx.get(sys.argv[1], timeout=30).status_code)' $url",
    ),
    (
        "aiohttp",
        "$python -c '\n\
         import sys, asyncio, aiohttp\n\
         async def main():\n\
         \x20async with aiohttp.ClientSession(trust_env=True) as s, s.get(sys.argv[1]) as r: print(r.status)\n\
         asyncio.run(main())' $url",
    ),
    (
        "node",
        "node -e 'fetch(process.argv[1]).then(r => console.log(r.status))' $url",
    ),
    (
        "aria2c",
        "aria2c -q --ca-certificate=$SSL_CERT_FILE --allow-overwrite=true -d $HOME -o aria $url && echo 200",
    ),
    (
        "ruby",
        "ruby -e 'require \"net/http\"; puts Net::HTTP.get_response(URI(ARGV[0])).code' $url",
    ),
];

/// Every program with every address, a line each.
fn every_program(choice: &str, script: &str) -> Ran {
    for program in ["curl", "wget", "node", "aria2c", "ruby"] {
        require(program);
    }
    usual(&shared::world())
        .args(&["--proxy-env", choice])
        .sh(&format!("python={PYTHON}; {script}"))
}

fn each(urls: &str) -> String {
    let mut script = String::new();
    for (name, command) in PROGRAMS {
        script += &format!(
            "for url in {urls}; do printf '%s %s ' {name} $url; {command} || echo failed; done; "
        );
    }
    script
}

fn expected(urls: &[&str]) -> String {
    let lines = PROGRAMS
        .iter()
        .flat_map(|(name, _)| urls.iter().map(move |url| format!("{name} {url} 200\n")));
    lines.collect()
}

#[track_caller]
fn assert_every_program_works(choice: &str) {
    let urls = ["http://api.example.com/a", "https://api.example.com/b"];
    let ran = every_program(choice, &each(&urls.join(" ")));
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), expected(&urls), "{choice}: {ran}");
    assert_eq!(ran.finished.err(), "", "{choice}: {ran}");
    let count = |protocol: &str| {
        let of = ran.records.decisions();
        of.iter().filter(|r| r["protocol"] == protocol).count()
    };
    // Node 20's fetch reads no variables; every other program does.
    let by_proxy = if choice == "none" {
        0
    } else {
        PROGRAMS.len() - 1
    };
    assert_eq!(count("connect"), by_proxy, "{choice}: {ran}");
    assert_eq!(count("http"), by_proxy, "{choice}: {ran}");
}

#[test]
fn every_program_works_with_full_variables() {
    assert_every_program_works("full");
}

#[test]
fn every_program_works_with_basic_variables() {
    assert_every_program_works("basic");
}

#[test]
fn every_program_works_with_no_variables() {
    assert_every_program_works("none");
}

#[test]
fn every_program_reaches_the_sandbox_s_own_servers() {
    let urls = [
        "http://localhost:8000/",
        "http://127.0.0.1:8000/",
        "http://[::1]:8000/",
    ];
    // One server, both families.
    let serve = "rm -f $HOME/serving; $python -c '\n\
                 import http.server, socket\n\
                 class Server(http.server.ThreadingHTTPServer):\n\
                 \x20address_family = socket.AF_INET6\n\
                 class Handler(http.server.BaseHTTPRequestHandler):\n\
                 \x20def log_message(self, *a): pass\n\
                 \x20def do_GET(self): self.send_response(200); self.end_headers()\n\
                 server = Server((\"::\", 8000), Handler)\n\
                 print(\"serving\", flush=True)\n\
                 server.serve_forever()' > $HOME/serving & server=$!; \
                 until grep -qs serving $HOME/serving; do sleep 0.05; done; ";
    let end = "kill $server";
    for choice in ["full", "basic", "none"] {
        let ran = every_program(choice, &format!("{serve}{}{end}", each(&urls.join(" "))));
        ran.assert_ok();
        let mut expected = expected(&urls);
        // This version of httpx asks every proxy for "http://::1:8000/", which has another meaning.
        let failing = "httpx http://[::1]:8000/ ";
        if choice != "none" {
            expected = expected.replace(&format!("{failing}200"), &format!("{failing}400"));
        } else {
            ran.assert_no_denial();
        }
        assert_eq!(ran.out(), expected, "{choice}: {ran}");
        assert_eq!(ran.finished.err(), "", "{choice}: {ran}");
    }
}
