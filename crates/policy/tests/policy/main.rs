//! The policy as the rest of the gateway meets it: texts in, verdicts out.

mod codex_profiles;
mod decisions;
mod destinations;
mod dns_settings;
mod explaining;
mod files;
mod formats;
mod ftp;
mod lists;
mod messages;
mod narrow;
mod order;
mod proxies;
mod shuffle;
mod size;
mod suggestions;
mod terms;

use std::io;
use std::path::Path;

use portcullis_names::{Name, NameBuf};
use portcullis_policy::{Destination, Diagnostic, Input, Loaded, Policy, Reason, Request, Shown};

/// Nothing is included.
fn no_files(path: &Path) -> io::Result<String> {
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no {}", path.display()),
    ))
}

fn file(path: &str, text: &str) -> Input {
    Input::File {
        path: path.into(),
        text: text.to_owned(),
    }
}

fn load(inputs: &[Input]) -> Result<Loaded, Vec<Diagnostic>> {
    Policy::load(inputs, &mut no_files)
}

fn loaded(path: &str, text: &str) -> Loaded {
    load(&[file(path, text)]).unwrap_or_else(|errors| panic!("{path}: {}", lines(&errors)))
}

fn errors(path: &str, text: &str) -> Vec<Diagnostic> {
    load(&[file(path, text)]).expect_err("the policy should not load")
}

/// One line for each diagnostic.
fn lines(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|d| format!("{d}\n")).collect()
}

/// The policy with these lines in `[network.domains]`.
fn domains(lines: &str) -> Policy {
    loaded(
        "p.toml",
        &format!("version = 1\n[network.domains]\n{lines}\n"),
    )
    .policy
}

/// The policy with these lines in `[network.addresses]` as well.
fn with_addresses(domains: &str, addresses: &str) -> Policy {
    let text =
        format!("version = 1\n[network.domains]\n{domains}\n[network.addresses]\n{addresses}\n");
    loaded("p.toml", &text).policy
}

fn name(text: &str) -> Name {
    Name::from_policy(text).unwrap()
}

fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|text| name(text)).collect()
}

fn address(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

fn asked(policy: &Policy, target: &str, port: u16) -> Reason {
    let target = name(target);
    policy
        .decide(&Request::connect(&Destination::name(target.as_ref()), port))
        .reason
}

fn lookup(policy: &Policy, target: &str, qtype: u16) -> Reason {
    let target = name(target);
    policy
        .decide(&Request::Lookup {
            name: target.as_ref(),
            qtype: qtype.into(),
        })
        .reason
}

fn reached(policy: &Policy, to: &str, port: u16) -> Reason {
    policy
        .decide(&Request::connect(&Destination::address(address(to)), port))
        .reason
}

fn leased(policy: &Policy, to: &str, owners: &[&str], port: u16) -> Reason {
    let owners = names(owners);
    let to = Destination::leased(address(to), &owners);
    policy.decide(&Request::connect(&to, port)).reason
}

fn hidden(policy: &Policy, to: &str, owners: &[&str], port: u16) -> Reason {
    let owners = names(owners);
    let to = Destination::leased(address(to), &owners).showing(Shown::Hidden);
    policy.decide(&Request::Connect { to: &to, port }).reason
}

fn shown(policy: &Policy, (to, owners): (&str, &[&str]), show: &str, port: u16) -> Reason {
    let (owners, show) = (names(owners), name(show));
    let to = Destination::leased(address(to), &owners).showing(Shown::sni(show.as_ref()));
    policy.decide(&Request::Connect { to: &to, port }).reason
}

/// A name as a program writes it.
fn written(text: &str) -> NameBuf {
    NameBuf::from_program(text.as_bytes()).unwrap()
}
