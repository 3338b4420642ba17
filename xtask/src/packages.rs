//! The one list of what the tests need from the system, and how it gets there.

use crate::shell::{Result, elevated, elevation, has_program, run, succeeds};
use std::process::Command;

/// A Debian package.
pub struct Package {
    /// Its name in Debian and Ubuntu.
    pub name: &'static str,
    /// The program by which it is recognised; without one, dpkg is asked.
    program: Option<&'static str>,
    /// What the tests do with it.
    purpose: &'static str,
    /// Whether only the slow tests need it.
    slow: bool,
}

const fn needs(name: &'static str, program: &'static str, purpose: &'static str) -> Package {
    Package {
        name,
        program: Some(program),
        purpose,
        slow: false,
    }
}

/// One without a program of its own.
const fn package(name: &'static str, purpose: &'static str) -> Package {
    Package {
        name,
        program: None,
        purpose,
        slow: false,
    }
}

const fn slow(name: &'static str, program: &'static str, purpose: &'static str) -> Package {
    Package {
        name,
        program: Some(program),
        purpose,
        slow: true,
    }
}

/// Everything.
pub const PACKAGES: &[Package] = &[
    needs("iproute2", "ip", "the test world's veth and addresses"),
    needs(
        "util-linux",
        "setpriv",
        "running the tests' programs as somebody else; terminals",
    ),
    needs("libc-bin", "getent", "name resolution as libc does it"),
    needs(
        "curl",
        "curl",
        "HTTP, HTTPS, SOCKS5, with and without the proxy variables",
    ),
    needs("bind9-dnsutils", "dig", "DNS answers in detail; nslookup"),
    needs(
        "unbound",
        "unbound",
        "an upstream resolver over TLS and HTTPS",
    ),
    needs("squid", "squid", "an upstream proxy"),
    needs("openssh-server", "sshd", "a server for ssh and git"),
    needs("iputils-ping", "ping", "ping"),
    needs(
        "iputils-tracepath",
        "tracepath",
        "the path to a host, without privileges",
    ),
    needs("fping", "fping", "ping by a raw socket, where there is one"),
    needs(
        "traceroute",
        "traceroute",
        "the path to a host by UDP, ICMP and TCP",
    ),
    needs("apache2-utils", "htpasswd", "the users of that proxy"),
    needs("netcat-openbsd", "nc", "raw TCP and UDP"),
    needs(
        "redis-server",
        "redis-server",
        "a server whose clients show no name in TLS",
    ),
    needs("redis-tools", "redis-cli", "such a client"),
    needs("openssl", "openssl", "TLS handshakes, SNI, alerts"),
    needs(
        "socat",
        "socat",
        "Unix sockets, pseudo-terminals, half-close",
    ),
    needs(
        "openssh-client",
        "ssh",
        "a protocol whose server speaks first",
    ),
    needs("python3", "python3", "getaddrinfo, getfqdn, urllib"),
    package(
        "python3-dnspython",
        "hostile DNS messages, and a stub resolver of its own",
    ),
    needs(
        "nodejs",
        "node",
        "dns.lookup, dns.resolve4, net, tls, fetch, ws",
    ),
    needs("npm", "npm", "fetches the npm package ws"),
    needs(
        "python3-pip",
        "pip3",
        "fetches schemathesis, and libraries of programs",
    ),
    needs("git", "git", "git clone over HTTPS"),
    needs(
        "nftables",
        "nft",
        "flushing the rules inside, as an attacker would",
    ),
    needs("make", "make", "the pipes of its jobserver"),
    needs("procps", "ps", "process trees"),
    needs(
        "bubblewrap",
        "bwrap",
        "the start-up time that run is measured against; sandboxes of others",
    ),
    needs("podman", "podman", "a container that attach serves"),
    needs(
        "runc",
        "runc",
        "the same container's runtime, and a hook of its own",
    ),
    package("containernetworking-plugins", "network plugins before ours"),
    needs("crun", "crun", "a hook of another runtime"),
    needs(
        "krb5-kdc",
        "krb5kdc",
        "Kerberos: the key distribution centre",
    ),
    needs(
        "krb5-admin-server",
        "kadmin.local",
        "Kerberos: the realm's principals and keytabs",
    ),
    needs("krb5-user", "kinit", "Kerberos: kinit, kvno, klist"),
    needs(
        "apache2-bin",
        "apache2",
        "Kerberos: a web server, started by the tests alone",
    ),
    package(
        "libapache2-mod-auth-gssapi",
        "Kerberos: SPNEGO in that web server",
    ),
    package(
        "python3-requests-kerberos",
        "Kerberos: requests with SPNEGO",
    ),
    needs(
        "musl-tools",
        "musl-gcc",
        "a static program with musl's stub resolver",
    ),
    needs("g++", "g++", "libFuzzer, for the fuzz targets"),
    needs(
        "nginx-light",
        "nginx",
        "an upstream that speaks HTTP/2; what it takes for HTTP",
    ),
    needs(
        "nghttp2-client",
        "nghttp",
        "HTTP/2, stream by stream; h2load",
    ),
    package("python3-grpcio", "gRPC with TLS and without, both ends"),
    package("python3-pyftpdlib", "a server of FTP"),
    needs("lftp", "lftp", "FTP in passive mode"),
    package(
        "python3-requests",
        "requests, with a list of authorities of its own",
    ),
    package("python3-httpx", "httpx, which many SDKs are built on"),
    package("python3-aiohttp", "aiohttp with the proxy variables"),
    needs("wget", "wget", "wget with the proxy variables"),
    needs("aria2", "aria2c", "aria2 with the proxy variables"),
    needs("ruby", "ruby", "Ruby with the proxy variables"),
    slow(
        "default-jdk-headless",
        "javac",
        "InetAddress, HttpClient, trust stores",
    ),
    slow("golang-go", "go", "Go's own resolver, without libc"),
    slow(
        "qemu-system-x86",
        "qemu-system-x86_64",
        "a guest behind a TAP",
    ),
    needs("busybox-static", "busybox", "the guest's programs"),
    needs("systemd", "systemd-analyze", "the units of deploy/"),
];

/// Those of `cargo xtask programs` alone.
const LARGE: &[Package] = &[
    needs("chromium", "chromium", "a browser"),
    needs("firefox-esr", "firefox-esr", "another browser"),
    needs("ffmpeg", "ffmpeg", "a program that names the proxy as Host"),
    needs("redis-server", "redis-server", "Redis, both ends"),
    needs("postgresql", "psql", "PostgreSQL, both ends"),
    needs("mariadb-server", "mariadb", "MariaDB, both ends"),
    needs("swaks", "swaks", "mail"),
    needs("kubernetes-client", "kubectl", "a client of Kubernetes"),
    needs("php-cli", "php", "PHP with the proxy variables"),
];

fn missing<'p>(of: impl Iterator<Item = &'p Package>) -> Vec<&'static str> {
    of.filter(|package| match package.program {
        Some(program) => !has_program(program),
        None => !succeeds(Command::new("dpkg").args(["-s", package.name])),
    })
    .map(|package| package.name)
    .collect()
}

/// Prints the list.
pub fn list() {
    let missing = missing(PACKAGES.iter());
    for package in PACKAGES {
        let state = if missing.contains(&package.name) {
            "MISSING"
        } else {
            "there"
        };
        println!("{state:8} {:22} {}", package.name, package.purpose);
    }
}

/// Installs what is missing, or says how.
pub fn install(fast: bool) -> Result<()> {
    let of = PACKAGES.iter().filter(|package| !(fast && package.slow));
    let names = missing(of.clone());
    get(&names)?;
    installed(&missing(of))
}

/// The same for what only `cargo xtask programs` needs.
pub fn install_large() -> Result<()> {
    get(&missing(LARGE.iter()))?;
    installed(&missing(LARGE.iter()))
}

fn installed(still: &[&str]) -> Result<()> {
    if still.is_empty() {
        Ok(())
    } else {
        Err(format!("still missing: {}", still.join(", ")))
    }
}

fn get(names: &[&str]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let by_hand = format!(
        "the tests need packages that are missing; install them with\n\n    sudo apt-get update && \
         sudo apt-get install --no-install-recommends -y {}\n",
        names.join(" ")
    );
    let Some(root) = elevation().filter(|_| has_program("apt-get")) else {
        return Err(by_hand);
    };
    let apt = |words: &[&str]| {
        let mut command = elevated(&root, "env");
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .args(words);
        run(&mut command)
    };
    let mut install = vec!["install", "--no-install-recommends", "-y"];
    install.extend(names);
    apt(&["update"])
        .and_then(|()| apt(&install))
        .map_err(|error| format!("{error}\n{by_hand}"))
}
