//! `ftp = true`: whose data connections pass, and where the key has no meaning.

use std::net::IpAddr;

use portcullis_policy::PermitTarget;

use super::*;

const SERVER: &str = "198.51.100.7";

/// What is said to a data connection to the server, which is leased to these names.
fn data(policy: &Policy, owners: &[&str], control: u16) -> (Reason, Option<(PermitTarget, u16)>) {
    let owners: Vec<Name> = owners
        .iter()
        .map(|own| Name::from_policy(own).unwrap())
        .collect();
    let address: IpAddr = SERVER.parse().unwrap();
    let to = Destination::leased(address, &owners);
    let decision = policy.decide(&Request::FtpData {
        to: &to,
        control,
        port: 50_000,
    });
    let permit = decision.connect_permit();
    let permit = permit.map(|permit| (permit.target().clone(), permit.port()));
    (decision.reason, permit)
}

#[test]
fn the_server_s_own_address_opens_where_its_control_connection_may_go() {
    let policy = domains(
        "\"ftp.example:21\" = { verdict = \"allow\", ftp = true }\n\"plain.example:21\" = \"allow\"\n\
         \"bad.example\" = \"deny\"\n\"*.bad.example:21\" = { verdict = \"allow\", ftp = true }",
    );
    let there = PermitTarget::Address(SERVER.parse().unwrap());
    let (reason, permit) = data(&policy, &["ftp.example"], 21);
    assert_eq!((reason, permit), (Reason::Allowed, Some((there, 50_000))));
    for (owners, control, reason) in [
        (&["ftp.example"][..], 22, Reason::PortNotAllowed),
        (&["plain.example"], 21, Reason::PortNotAllowed),
        (&["bad.example"], 21, Reason::DeniedByRule),
        (&["other.example"], 21, Reason::NotListed),
        (&[], 21, Reason::AddressNotLeased),
    ] {
        let said = data(&policy, owners, control);
        assert_eq!(said, (reason, None), "{owners:?} {control}");
    }
    // By name there is no address that it could be held to.
    let name = Name::from_policy("ftp.example").unwrap();
    let to = Destination::name(name.as_ref());
    let request = Request::FtpData {
        to: &to,
        control: 21,
        port: 50_000,
    };
    assert!(policy.decide(&request).connect_permit().is_none());
    let hint = |owner: &str, port| {
        let owners = [Name::from_policy(owner).unwrap()];
        let to = Destination::leased(SERVER.parse().unwrap(), &owners);
        policy.ftp_hint(&to, port)
    };
    assert!(
        hint("plain.example", 50_000)
            .unwrap()
            .contains("add `ftp = true`")
    );
    assert!(
        hint("ftp.example", 50_000)
            .unwrap()
            .contains("no answer of the FTP server")
    );
    assert_eq!(hint("plain.example", 80), None);
    assert_eq!(hint("other.example", 50_000), None);
}

#[test]
fn where_ftp_has_no_meaning() {
    let said = |text: &str| {
        lines(&errors(
            "p.toml",
            &format!("version = 1\n[network.{text}\n"),
        ))
    };
    for (text, expected) in [
        (
            "domains]\n\"a.example:80\" = { verdict = \"allow\", ftp = true, methods = [\"GET\"] }",
            "`ftp` has no effect in a rule that lets nothing but HTTP pass",
        ),
        (
            "domains]\n\"a.example:21\" = { verdict = \"allow\", ftp = true, to = \":21\" }",
            "`ftp` has no effect with `to`",
        ),
        (
            "domains]\n\"a.example:21\" = { verdict = \"deny\", ftp = true }",
            "`ftp` has no effect in a rule that denies",
        ),
        (
            "domains]\n\"a.example:21/udp\" = { verdict = \"allow\", ftp = true }",
            "`ftp` has no effect on UDP",
        ),
        (
            "domains]\n\"a.example:21\" = { verdict = \"allow\", ftp = \"yes\" }",
            "`ftp` must be true or false",
        ),
        (
            "addresses]\n\"192.0.2.0/24:21\" = { verdict = \"allow\", ftp = true }",
            "unknown key `ftp`",
        ),
    ] {
        let said = said(text);
        assert!(said.contains(expected), "{text}: {said}");
    }
}
