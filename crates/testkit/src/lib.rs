//! Throw-away worlds for tests and the demo: two network namespaces joined by a veth, made
//! without root, gone with the process that made them. Never a dependency of anything shipped.
//!
//! ```text
//!   test process ── World ──▶ portcullis-world serve   (user namespace of its own)
//!        │                     ├─ internet namespace: DNS, HTTPS, SSH-like …, on public-looking
//!        │                     │  and on guarded addresses, all of them logged
//!        │                     │       │ veth 192.0.2.1 ── 192.0.2.2
//!        └─ World::command ───▶└─ host namespace: its own resolv.conf, default route, loopback
//! ```
//!
//! ```no_run
//! use portcullis_testkit::{World, exec};
//! use std::time::Duration;
//! # fn main() -> anyhow::Result<()> {
//! let world = World::standard()?;
//! let done = exec::run(
//!     world.command("curl").args(["-sS", "https://api.example.com/"]),
//!     Duration::from_secs(10),
//! )?;
//! assert!(done.ok(), "{done}");
//! world.assert_never_asked("evil");
//! # Ok(())
//! # }
//! ```
//!
//! A program run by [`World::command`] is an ordinary user there (65534 where the runner is root)
//! with no capability over the host's namespace, and may make user namespaces of its own.
//! [`World::command_as_root`] is the root of the world's user namespace: it has every capability
//! over the host's namespace, and only one uid.
//!
//! # The standard world
//!
//! The host is 192.0.2.2 and 2001:db8:2::2; its resolvers are 203.0.113.53 and 203.0.113.54. Other
//! resolvers that answer, for a sandbox that tries them by itself: 8.8.8.8, 198.51.100.8 and
//! 2001:db8:10::53. All of them serve one zone, log every query, and answer as recursive resolvers
//! do, with whole CNAME chains.
//!
//! | name | is |
//! |---|---|
//! | api.example.com | 203.0.113.10, 2001:db8:10::10; HTTP 80, 8080; HTTPS 443, 8443; TCP echo 9000; UDP echo 443; HTTPS record with h3; PTR |
//! | example.com | 203.0.113.11; MX, TXT, NS, CAA; `_sip._tcp` SRV |
//! | www.example.com | CNAME cdn.example.net (203.0.113.20, 2001:db8:10::20) |
//! | internal-data.example.corp | CNAME backend-canonical-host.example.corp (203.0.113.30, PTR back) |
//! | internal-symbols.example.corp | 203.0.113.31, PTR |
//! | wss-primary.slack.com, wss-backup.slack.com, api.slack.com | 203.0.113.40 to .42 |
//! | github.com, api.github.com, iapi.example.com, www.anthropic.com | 203.0.113.120 to .123 |
//! | registry.internal.company.com, api.internal.company.com | 203.0.113.110, .111 |
//! | v4only., v6only., dual.example.com | 203.0.113.60; 2001:db8:10::61; both on 62 |
//! | brokenv6., refusedv6.example.com | 203.0.113.63, and an IPv6 address that is silent, that refuses |
//! | many.example.com | six addresses, 203.0.113.100 to .105 |
//! | chain1.example.com | CNAME chain2, chain3, chain4.example.net (203.0.113.98) |
//! | loop1., dangling., to-private.example.com | CNAMEs: a loop, to nothing, to private.example.com |
//! | empty.example.com | TXT and no address |
//! | brief.example.com | 203.0.113.97, TTL 1 |
//! | a.shared., b.shared.example.com, evil-shared.example.net | one address, 203.0.113.95 |
//! | private., metadata., loopback., loopback6., zero., mapped., nat64., ula.example.com | guarded addresses only |
//! | hostself.example.com | the host's own address |
//! | mixed.example.com | 203.0.113.70 and 10.20.0.5 |
//! | db.example.corp | 10.20.0.6, TCP echo 5432 |
//! | expired., wrongname., untrusted.example.com | HTTPS with a bad certificate, .71 to .73 |
//! | ssh., smtp., mysql.example.com | servers that speak first: ports 22, 25, 3306 |
//! | git.example.com | `https://git.example.com/repo.git`, as every other web server |
//! | raw.example.com | 203.0.113.96, 2001:db8:10::96: echo 9000 and 443 (v4), sink 9001, source 9002 (1 MiB) |
//! | refused., reset., mute., silent., unreachable.example.com | closed ports; reset after accept; accepts and is silent; no such address; no route |
//! | big., slow., dead., servfail., nxdomain., flaky., wrongid., forged., rebind.example.com | DNS faults: TC; 1.5 s; no answer; SERVFAIL; NXDOMAIN; two queries lost; wrong id; forgery first; 203.0.113.85 then 10.20.0.5 |
//! | evil.example.net, *.tunnel.evil.example.net | 203.0.113.90, listed by nobody; SSH-like on 22 |
//! | proxy.example.corp | 198.51.100.80, upstream proxy on 3128, with `user:secret` on 3129 |
//! | proxy.internal | 10.20.0.80, upstream proxy on 3128 |
//!
//! Every address of [`GUARDED`] has a web server, so that a hole in the guard shows as a visit
//! ([`World::assert_never_reached`]). 198.51.100.123:123 is a UDP echo. On the host's own loopback:
//! HTTP at 127.0.0.1:8080 and [::1]:8080, TCP echo at 127.0.0.1:7777.
//!
//! # What the web servers answer
//!
//! | path | answer |
//! |---|---|
//! | `/bytes/N` | N bytes of [`pattern`] |
//! | `/chunked/N/MS` | N lines in chunks, MS milliseconds apart |
//! | `/cut/N` | promises 2N bytes, sends N, closes |
//! | `/until-close/N` | N bytes without a length |
//! | `/close` | no answer, an end |
//! | `/slow/MS` | an answer after MS milliseconds |
//! | `/status/CODE`, `/redirect/HOST` | that status; 302 to `https://HOST/` |
//! | `/upload`, `/echo` | `received N`; the body itself |
//! | `/negotiate` | 401 with `Negotiate`, 200 once `Authorization: Negotiate …` comes |
//! | `/repo.git/…` | a git repository, dumb protocol |
//! | any, with `Upgrade: websocket` | a WebSocket echo; `/ws/hello` speaks first |
//! | anything else | the request head, byte for byte |
//!
//! Each answer has `X-World-Address`, `X-World-Sni` and `X-World-Service`.
#![forbid(unsafe_code)]

pub mod demo;
pub mod exec;
mod inside;
mod log;
mod servers;
mod spec;
mod standard;
mod world;

pub use log::{DnsQuery, ServerEvent, hex, now_us, unhex};
pub use servers::pattern;
pub use spec::{DnsServer, DnsSpec, Fault, Service, ServiceKind, WorldSpec, ip};
pub use standard::*;
pub use world::{World, dispatch};
