//! What people write for a target that is none: URLs, addresses of git repositories, names with a path,
//! names as other tools' lists have them. Each is refused with the target that was probably meant.
//!
//! Nothing is allowed by guess: which ports, and whether subdomains belong to it, is for the operator to
//! say.

use crate::error::TargetError;
use crate::ports::PortSet;
use crate::target::Target;

/// The port of SSH, as git's short addresses (`user@host:path`) mean it.
const SSH: u16 = 22;
/// The schemes whose ports a bare name means.
const WEB: [&str; 4] = ["http", "https", "ws", "wss"];
/// The ports of other schemes and services, as people write them.
const PORTS: [(&str, u16); 26] = [
    ("ssh", SSH),
    ("sftp", SSH),
    ("git", 9418),
    ("ftp", 21),
    ("ftps", 990),
    ("rsync", 873),
    ("svn", 3690),
    ("postgres", 5432),
    ("postgresql", 5432),
    ("mysql", 3306),
    ("mariadb", 3306),
    ("redis", 6379),
    ("rediss", 6379),
    ("mongodb", 27017),
    ("amqp", 5672),
    ("amqps", 5671),
    ("mqtt", 1883),
    ("mqtts", 8883),
    ("nats", 4222),
    ("ldap", 389),
    ("ldaps", 636),
    ("smtp", 25),
    ("smtps", 465),
    ("imaps", 993),
    ("https", 443),
    ("http", 80),
];

/// What a text is that people take for a target, if it is one of those.
pub(crate) fn recognized(text: &str) -> Option<TargetError> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let instead = of_url(scheme, rest);
        return Some(TargetError::Url { instead });
    }
    if let Some(rest) = text.strip_prefix("//") {
        let instead = of_url("", rest);
        return Some(TargetError::Url { instead });
    }
    if let Some(name) = text.strip_prefix('.') {
        let name = Target::from_policy(name).ok()?.to_string().into();
        return Some(TargetError::LeadingDot { name });
    }
    if let Some((_, host)) = text.split_once('@') {
        return Some(TargetError::User {
            instead: of_user(host),
        });
    }
    let (host, _) = text.split_once('/')?;
    // `github.com:org/repo` is git's too, without a user.
    let (name, short) = match host.split_once(':') {
        Some((name, port)) if port.parse::<u16>().is_err() && port != "*" => (name, Some(SSH)),
        _ => (host, None),
    };
    with_port(name, short).map(|instead| TargetError::Path { instead })
}

/// The usual port of a scheme or service.
pub(crate) fn port_of(service: &str) -> Option<u16> {
    let same = |(name, _): &&(&str, u16)| name.eq_ignore_ascii_case(service);
    PORTS.iter().find(same).map(|(_, port)| *port)
}

/// The target of a URL, if it has a good one: its host, and its port unless that is the web's.
fn of_url(scheme: &str, rest: &str) -> Option<Box<str>> {
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    // `git+ssh` and `svn+ssh` are SSH.
    let scheme = scheme.rsplit('+').next()?;
    let is_web = WEB.iter().any(|web| web.eq_ignore_ascii_case(scheme));
    let port = port_of(scheme).filter(|_| !is_web);
    let host = match authority.rsplit_once('@') {
        // A name that is shown in front of the host is there to deceive.
        Some(_) if is_web => return None,
        Some((_, host)) => host,
        None => authority,
    };
    with_port(host, port).or_else(|| with_port(host.split(':').next()?, port))
}

/// The target of `host` or `host:path` behind a user's name.
fn of_user(host: &str) -> Option<Box<str>> {
    let (name, rest) = host.split_once(':').unwrap_or((host, ""));
    match rest.parse::<u16>() {
        Ok(port) => with_port(name, Some(port)),
        Err(_) => with_port(name, Some(SSH)),
    }
}

/// A target as it is written, with this port where it has none.
fn with_port(text: &str, port: Option<u16>) -> Option<Box<str>> {
    let mut target = Target::from_policy(text).ok()?;
    if let Some(port) = port {
        match &mut target {
            Target::Name {
                ports,
                explicit_ports,
                ..
            } if !*explicit_ports => {
                *explicit_ports = true;
                *ports = PortSet::single(port);
            }
            Target::Net { ports, .. } if ports.is_any() => *ports = PortSet::single(port),
            Target::Name { .. } | Target::Net { .. } => {}
        }
    }
    Some(target.to_string().into())
}
