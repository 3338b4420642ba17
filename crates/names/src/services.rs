//! The usual ports of schemes and services, for hints to people who write those where a port belongs.

/// The port of SSH, as git's short addresses (`user@host:path`) mean it.
pub(crate) const SSH: u16 = 22;
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

/// The usual port of a scheme or service.
pub(crate) fn port_of(service: &str) -> Option<u16> {
    let same = |(name, _): &&(&str, u16)| name.eq_ignore_ascii_case(service);
    PORTS.iter().find(same).map(|(_, port)| *port)
}
