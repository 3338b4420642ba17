//! `portcullis-demo demo`: the main job in front of a person, without internet and without root.
//!
//! Starts the standard world and runs ordinary programs in a sandbox there, each line explained.
//! Every step knows what it should show; a demo that shows something else ends with 1.

use crate::exec::{self, Finished};
use crate::{World, WorldSpec};
use anyhow::{Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The longest a step may take.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// The most lines of a program's output that are shown.
const MAX_SHOWN_LINES: usize = 14;

const POLICY: &str = r#"version = 1

[network.domains]
"api.example.com"            = "allow"   # a bare name: ports 80 and 443
"internal-data.example.corp" = "allow"
"ssh.example.com:22"         = "allow"
"#;

const CURL_SUMMARY: &str = "HTTP %{http_code}; the proxy's answer to CONNECT: %{http_connect}\n";

struct Step {
    heading: &'static str,
    command: &'static [&'static str],
    /// Text that the program's output must contain, and whether the program must end well.
    expect: (&'static str, bool),
    explanation: &'static str,
}

const STEPS: &[Step] = &[
    Step {
        heading: "An allowed name, through the proxy variables that the sandbox sets",
        command: &[
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            CURL_SUMMARY,
            "https://api.example.com/",
        ],
        expect: ("HTTP 200; the proxy's answer to CONNECT: 200", true),
        explanation: "curl asked the gateway for api.example.com:443. The policy lists it, so the \
                      gateway dialled it and only then said 200.",
    },
    Step {
        heading: "The same with every proxy setting ignored",
        command: &[
            "curl",
            "-sS",
            "--noproxy",
            "*",
            "-o",
            "/dev/null",
            "-w",
            CURL_SUMMARY,
            "https://api.example.com/",
        ],
        expect: ("HTTP 200; the proxy's answer to CONNECT: 000", true),
        explanation: "curl looked the name up by itself and connected directly (000: no CONNECT \
                      was sent). The connection still ends at the gateway, which found that DNS \
                      had given this address out for a listed name and that the TLS handshake \
                      asks for that name.",
    },
    Step {
        heading: "A name that is not listed, through the proxy",
        command: &["curl", "-sSi", "https://evil.example.net/"],
        expect: ("x-proxy-error: blocked-by-allowlist", false),
        explanation: "403 with x-proxy-error: policy said no, the service is not down. The id \
                      leads to the decision's record; the body, which curl keeps to itself \
                      here, names the rule that would allow it.",
    },
    Step {
        heading: "The same name, directly",
        command: &["curl", "-sS", "--noproxy", "*", "https://evil.example.net/"],
        expect: ("Could not resolve host", false),
        explanation: "The lookup ends in NXDOMAIN inside the sandbox. No query left the host.",
    },
    Step {
        heading: "Python resolves an allowed name and its canonical name",
        command: &[
            "python3",
            "-c",
            r#"import socket
host = "internal-data.example.corp"
print(sorted({a[4][0] for a in socket.getaddrinfo(host, 443)}))
print(socket.getfqdn(host))"#,
        ],
        expect: ("backend-canonical-host.example.corp", true),
        explanation: "getaddrinfo gives the real address; getfqdn gives the name that Kerberos \
                      and its like build their service principal from: CNAME and PTR both work.",
    },
    Step {
        heading: "Python asks for a name that is not listed",
        command: &[
            "python3",
            "-c",
            r#"import socket
try:
    print(socket.getaddrinfo("x.tunnel.evil.example.net", 443))
except OSError as e:
    print("refused:", e)"#,
        ],
        expect: ("refused:", true),
        explanation: "A DNS tunnel would send its data as names like this one. It gets no \
                      further than the sandbox's own resolver.",
    },
    Step {
        heading: "A raw TCP connection to an address nobody was given",
        command: &[
            "python3",
            "-c",
            r#"import socket, time
begin = time.monotonic()
try:
    socket.create_connection(("203.0.113.90", 443), 5); print("connected")
except OSError as e:
    print("refused:", e, "after %.1f ms" % ((time.monotonic() - begin) * 1000))"#,
        ],
        expect: ("refused: [Errno 111]", true),
        explanation: "Connection refused, at connect(), at once. There is no route out of the \
                      sandbox that could be found instead.",
    },
    Step {
        heading: "A server that speaks first, on a port the policy lists",
        command: &[
            "python3",
            "-c",
            r#"import socket
s = socket.create_connection(("ssh.example.com", 22), 5)
print(s.recv(100).decode().strip())"#,
        ],
        expect: ("SSH-2.0-portcullis_testkit", true),
        explanation: "No proxy, no TLS, no Host header: the name that gave this address out and \
                      the port decide, and the server's greeting comes through without a wait.",
    },
];

/// Runs the demo. `portcullis` is the program that is both the product (`run …`) and, because it
/// calls this function when its first argument is `demo`, the world's helper.
pub fn run(portcullis: &Path) -> ExitCode {
    if let Some(code) = crate::dispatch() {
        return code;
    }
    let paint = Paint(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    match show(portcullis, &paint) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("The demo cannot go on: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show(portcullis: &Path, paint: &Paint) -> Result<bool> {
    for (program, package) in [("curl", "curl"), ("python3", "python3"), ("ip", "iproute2")] {
        require(program, package)?;
    }
    println!(
        "{}",
        paint.bold("Portcullis: a program gets exactly the network its policy lists.")
    );
    println!();
    println!("This demo makes a small internet of its own in two network namespaces: a DNS server");
    println!(
        "that logs every query, HTTPS servers, an SSH-like server. No root, no real internet."
    );
    let world = World::start(WorldSpec::standard().demo_helper(portcullis))?;
    let policy = world.file("policy.toml", POLICY);
    let mut logs = Vec::new();

    println!();
    println!("{}", paint.bold("The policy (policy.toml)"));
    print_block(POLICY);

    let mut good = 0;
    for (number, step) in STEPS.iter().enumerate() {
        println!();
        println!(
            "{}",
            paint.bold(&format!("{}. {}", number + 1, step.heading))
        );
        println!(
            "  $ portcullis run --policy policy.toml -- {}",
            shown(step.command)
        );
        let mut command = world.command(portcullis);
        let log = world.home().join(format!("decisions-{number}.jsonl"));
        command
            .args(["run", "--policy"])
            .arg(&policy)
            .arg("--log")
            .arg(&log)
            .arg("--");
        logs.push(log);
        command.args(step.command);
        let done = exec::run(&mut command, STEP_LIMIT)?;
        let text = done.out() + &done.err();
        print_block(&text);
        let (wanted, well) = step.expect;
        let expected = text.contains(wanted) && done.ok() == well;
        good += usize::from(expected);
        explain(step, &done, expected, paint);
    }
    println!();
    let leaked = summarise_queries(&world, paint);
    println!();
    summarise_records(&logs, paint);
    println!();
    println!("{good} of {} steps showed what they should.", STEPS.len());
    let complaints = world.complaints();
    if !complaints.is_empty() {
        println!("The world's own processes complained:");
        print_block(&complaints);
    }
    Ok(good == STEPS.len() && !leaked)
}

fn explain(step: &Step, done: &Finished, expected: bool, paint: &Paint) {
    if expected {
        print_wrapped("  = ", step.explanation);
    } else {
        let text = format!(
            "This is NOT what should happen: expected {:?} (ended: {}).",
            step.expect.0, done.status
        );
        println!("  ! {}", paint.red(&text));
    }
}

/// Returns whether a name left the host that no rule lists.
fn summarise_queries(world: &World, paint: &Paint) -> bool {
    println!(
        "{}",
        paint.bold("What the DNS server outside was asked, by its own log")
    );
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for query in world.dns_log() {
        *names.entry(query.name.to_ascii_lowercase()).or_default() += 1;
    }
    for (name, count) in &names {
        println!("  | {count:3}  {name}");
    }
    let leaked = names.keys().any(|name| name.contains("evil"));
    let line = if leaked {
        paint.red("A name that is not listed left the host: this must not happen.")
    } else {
        "Nothing of evil.example.net is among them.".to_owned()
    };
    println!("  = {line}");
    leaked
}

fn summarise_records(logs: &[PathBuf], paint: &Paint) {
    println!(
        "{}",
        paint.bold("What the decision records say (each run had --log FILE)")
    );
    let text: String = logs
        .iter()
        .map(|log| std::fs::read_to_string(log).unwrap_or_default())
        .collect();
    let mut rows: BTreeMap<[String; 4], u64> = BTreeMap::new();
    for record in text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    {
        if record["event"] == "close" || record["protocol"] == "startup" {
            continue;
        }
        let text = |key: &str| record[key].as_str().unwrap_or("-").to_owned();
        let whom = match record["name"].as_str() {
            Some(name) => name.to_owned(),
            None => record["addresses"][0].as_str().unwrap_or("-").to_owned(),
        };
        let port = record["port"]
            .as_u64()
            .map(|p| format!(":{p}"))
            .unwrap_or_default();
        let row = [text("verdict"), text("layer"), text("reason"), whom + &port];
        *rows.entry(row).or_default() += record["count"].as_u64().unwrap_or(1);
    }
    for ([verdict, layer, reason, whom], count) in &rows {
        println!("  | {count:3}  {verdict:6} {layer:5} {reason:22} {whom}");
    }
    println!("  = One line of JSON for each decision, with the rule and its file and line.");
}

fn require(program: &str, package: &str) -> Result<()> {
    let found = crate::inside::namespaces::PATH
        .split(':')
        .any(|folder| Path::new(folder).join(program).is_file());
    if !found {
        bail!("it needs `{program}`: install it with `sudo apt-get install {package}`");
    }
    Ok(())
}

/// The command as a person would type it, its newlines kept out.
fn shown(command: &[&str]) -> String {
    let quote = |word: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=".contains(c);
        match word {
            word if word.contains('\n') && word.starts_with("HTTP") => "'…'".to_owned(),
            word if word.chars().all(plain) => (**word).to_owned(),
            word if word.contains('\n') => {
                format!("'\n{}\n    '", indent(word, "      "))
            }
            word => format!("'{word}'"),
        }
    };
    command.iter().map(quote).collect::<Vec<_>>().join(" ")
}

fn indent(text: &str, by: &str) -> String {
    text.lines()
        .map(|line| format!("{by}{line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn print_block(text: &str) {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    for line in lines.iter().take(MAX_SHOWN_LINES) {
        println!("  | {}", line.trim_end());
    }
    if lines.len() > MAX_SHOWN_LINES {
        println!("  | ({} more lines)", lines.len() - MAX_SHOWN_LINES);
    }
}

fn print_wrapped(start: &str, text: &str) {
    const WIDTH: usize = 92;
    let mut line = start.to_owned();
    for word in text.split_whitespace() {
        if line.len() + word.len() >= WIDTH {
            println!("{}", line.trim_end());
            line = " ".repeat(start.len());
        }
        line.push_str(word);
        line.push(' ');
    }
    println!("{}", line.trim_end());
}

/// Colour on a terminal only; what it says is always in the words too.
struct Paint(bool);

impl Paint {
    fn bold(&self, text: &str) -> String {
        self.with("1", text)
    }

    fn red(&self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn with(&self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_stays_away_from_files() {
        assert_eq!(Paint(false).red("no"), "no");
        assert_eq!(Paint(true).bold("b"), "\x1b[1mb\x1b[0m");
    }

    #[test]
    fn commands_are_shown_as_typed() {
        assert_eq!(shown(&["curl", "--noproxy", "*"]), "curl --noproxy '*'");
        assert_eq!(
            shown(&["sh", "-c", "a\nb"]),
            "sh -c '\n      a\n      b\n    '"
        );
    }

    #[test]
    fn a_missing_program_comes_with_its_command() {
        let text = require("no-such-program", "some-package")
            .unwrap_err()
            .to_string();
        assert!(text.contains("apt-get install some-package"), "{text}");
    }
}
