//! Calls that only certain files may make: the ways out, other programs, other people's output.

use crate::source::{none, shipped};

/// A call, and the path prefixes that may make it.
struct Rule {
    why: &'static str,
    calls: &'static [&'static str],
    /// Crates it holds for; all if empty.
    within: &'static [&'static str],
    except: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        why: "outbound TCP is opened by the dialler, and by the resolver towards its upstreams",
        calls: &[
            "TcpStream::connect",
            "TcpSocket::new",
            ".connect(",
            "connect_timeout(",
        ],
        within: &[],
        except: &[
            "crates/dial/src/",
            // The one sender of upstream queries; needs a permit.
            "crates/dns/src/upstream/network.rs",
            // A TLS handshake on a stream that was opened there.
            "crates/dns/src/upstream/connector.rs",
            // The caller of the connector, which has the operator's permit.
            "crates/dns/src/upstream/connections.rs",
            // Callers of the dialler's own `connect`, which takes a permit.
            "crates/proxy/src/",
            // `diagnose` and the self-proof run inside the sandbox: they have no other way out.
            "crates/cli/src/probe.rs",
            "crates/cli/src/vantage.rs",
            "crates/cli/src/commands/diagnose.rs",
            "crates/sandbox/src/",
            // `--publish` goes inwards, on a socket that was made inside.
            "crates/runner/src/publish.rs",
        ],
    },
    Rule {
        why: "the proxy opens no outbound socket of its own: it asks the dialler",
        calls: &[
            "TcpStream::connect",
            "TcpSocket::new",
            "UdpSocket::bind",
            "Socket::new",
        ],
        within: &["proxy"],
        except: &[],
    },
    Rule {
        why: "datagrams leave the host through the upstream resolver and the dialler alone",
        calls: &["UdpSocket::bind", ".send_to("],
        within: &[],
        except: &[
            "crates/dns/src/",
            // The dialler's one place for a rule's datagrams; needs a permit.
            "crates/dial/src/socket.rs",
            // Listeners that the operator asked for by address.
            "crates/runner/src/plain_gateway.rs",
            // Inside the sandbox, as above.
            "crates/cli/src/probe.rs",
            "crates/cli/src/vantage.rs",
            "crates/cli/src/commands/diagnose.rs",
            "crates/sandbox/src/",
        ],
    },
    Rule {
        why: "no other program is spawned: set-up is by system calls, and CMD is the sandbox's",
        calls: &["Command::new"],
        within: &[],
        except: &[
            "crates/sandbox/src/",
            "crates/cli/src/commands/doctor.rs",
            // The same program again, by exec: nothing is spawned.
            "crates/cli/src/hidden_credentials.rs",
            // The same program again, as the process that enters a sandbox which others have made.
            "crates/cli/src/hold.rs",
        ],
    },
    Rule {
        why: "stdout and stderr are CMD's; only the command line writes there",
        calls: &["println!", "eprintln!", "print!(", "eprint!("],
        within: &[
            "names", "wire", "policy", "record", "dns", "dial", "proxy", "gateway", "runner",
            "sandbox",
        ],
        except: &[],
    },
    Rule {
        why: "the system's own resolver would send names that no policy has seen",
        calls: &[
            "lookup_host",
            "to_socket_addrs",
            "ToSocketAddrs",
            "getaddrinfo",
        ],
        within: &[],
        except: &[
            // The name of the operator's own upstream proxy, which no sandbox can choose.
            "crates/dial/src/system_names.rs",
            // Inside the sandbox, where it is the resolver under test.
            "crates/cli/src/probe.rs",
            "crates/cli/src/vantage.rs",
            "crates/cli/src/commands/diagnose.rs",
        ],
    },
    Rule {
        why: "the embedding program's signal handlers are not ours",
        calls: &["signal::unix", "ctrl_c(", "process::exit", "process::abort"],
        within: &[
            "names", "wire", "policy", "record", "dns", "dial", "proxy", "gateway", "runner",
        ],
        except: &[],
    },
    Rule {
        why: "the ground floor takes bytes and text: no files, no clock, no sockets",
        calls: &[
            "std::fs",
            "SystemTime::now",
            "Instant::now",
            "async fn",
            "std::net::Tcp",
        ],
        within: &["names", "wire", "policy"],
        except: &[],
    },
    Rule {
        why: "an unbounded queue is a way to exhaust the gateway's memory",
        calls: &["unbounded_channel", "mpsc::channel()", "unbounded()"],
        within: &[],
        except: &[],
    },
    Rule {
        why: "nothing unfinished is merged",
        calls: &["todo!(", "unimplemented!(", "dbg!("],
        within: &[],
        except: &[],
    },
];

#[test]
fn each_call_is_made_only_where_it_belongs() {
    let mut broken = Vec::new();
    for (name, file) in shipped().filter(|(_, file)| !file.is_test) {
        let code = file.code();
        for rule in RULES {
            if (!rule.within.is_empty() && !rule.within.contains(&name))
                || rule
                    .except
                    .iter()
                    .any(|prefix| file.path.starts_with(prefix))
            {
                continue;
            }
            for (number, line) in &code {
                if let Some(call) = rule.calls.iter().find(|call| uses(line, call)) {
                    broken.push(format!("{}:{number}: {call}: {}", file.path, rule.why));
                }
            }
        }
    }
    none("calls in the wrong place:", broken);
}

/// `print!(` is not in `eprint!(`: what comes before must not be part of the word.
fn uses(line: &str, call: &str) -> bool {
    line.match_indices(call).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        call.starts_with('.') || !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// Exceptions outlive what they were made for unless somebody looks.
#[test]
fn every_exception_still_has_a_file() {
    let files: Vec<String> = shipped().map(|(_, file)| file.path).collect();
    let stale = RULES
        .iter()
        .flat_map(|rule| rule.except)
        .filter(|prefix| !files.iter().any(|path| path.starts_with(**prefix)))
        .map(|prefix| (*prefix).to_owned())
        .collect();
    none("exceptions for files that are gone:", stale);
}

#[test]
fn a_call_is_found_as_a_whole_word() {
    assert!(uses("  println!(\"x\")", "println!"));
    assert!(!uses("  eprintln!(\"x\")", "println!"));
    assert!(uses("socket.connect(a)", ".connect("));
}
