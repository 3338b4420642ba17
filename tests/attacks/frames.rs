//! A guest behind a TAP that is not what it says: frames under other addresses, of other types, to
//! everybody, by the thousand.

use crate::support::{Ran, require, require_kernel, sandbox, world};
use portcullis_testkit::World;

const FRAMES: &str = include_str!("../support/frames.py");

/// What a guest does behind `run --tap`, and what it saw, line by line.
fn guest(world: &World, script: &str) -> (Ran, Vec<String>) {
    require("python3");
    require_kernel("/dev/net/tun", "TAP devices for ordinary users");
    let program = format!("{FRAMES}\nguest = Guest(Tap('vm0'))\nguest.settle()\n{script}");
    let ran = sandbox(world)
        .allow("api.example.com")
        .args(&["--tap", "vm0"])
        .python(&program);
    ran.assert_ok();
    let seen = ran.out().lines().map(str::to_owned).collect();
    (ran, seen)
}

/// How many frames were recorded for a reason; equal ones within a second share a record.
fn count(ran: &Ran, reason: &str) -> u64 {
    let of_reason = ran.records.all_denials();
    let of_reason = of_reason.iter().filter(|record| record["reason"] == reason);
    of_reason
        .map(|record| record["count"].as_u64().unwrap_or(1))
        .sum()
}

#[track_caller]
fn assert_recorded(ran: &Ran, reason: &str, detail: &str) {
    let found = ran.records.all_denials();
    let found = found
        .iter()
        .any(|record| record["reason"] == reason && record["detail"].as_str() == Some(detail));
    assert!(found, "{reason}, {detail}: {ran}");
}

/// The control of all others: the same requests under the guest's own addresses.
#[test]
fn an_honest_guest_is_served_by_both_families() {
    let world = world();
    let (ran, seen) = guest(
        &world,
        "
print(guest.dhcp(1)[:2], guest.dhcp(3, b'\\x32\\4' + OWN4)[:2], guest.dhcp(3, b'\\x32\\4' + v4('10.0.2.77'))[0])
router, advertisement = guest.solicit_router()
print(router, v6('fd50:6f72:7463::') in advertisement, GATEWAY6 in advertisement)
print(guest.lookup('10.0.2.3', 'api.example.com'), guest.lookup('fd50:6f72:7463::2', 'api.example.com', kind=28),
      guest.lookup('2001:db8:53::1', 'evil.example.net'))
print(guest.syn('203.0.113.10', 443), guest.syn('2001:db8:10::10', 443), guest.syn('203.0.113.10', 22),
      guest.syn('2001:db8:10::10', 22), guest.syn('fd50:6f72:7463::14', 22), guest.syn('fd50:6f72:7463::2', 22))
",
    );
    assert_eq!(
        seen,
        [
            "(2, '10.0.2.15') (5, '10.0.2.15') 6",
            "fe80::2 True True",
            "0 0 3",
            "open open refused refused refused refused",
        ],
        "{ran}"
    );
    ran.assert_one_denial("dns", "not-in-allowlist", "evil.example.net");
}

#[test]
fn arp_and_neighbour_discovery_answer_for_the_gateway_alone() {
    let world = world();
    let (ran, seen) = guest(
        &world,
        "
same = lambda found: found == guest.gateway
print(same(guest.who_has('10.0.2.2')), same(guest.who_has('10.0.2.3')), same(guest.neighbour('fe80::2')),
      same(guest.neighbour('fd50:6f72:7463::2')))
# Whether anybody has the address that the guest is about to take (RFC 5227, RFC 4862).
print(guest.who_has('10.0.2.15', 2, bytes(4)), guest.neighbour('fd50:6f72:7463::15', 2, bytes(16)))
for host in ('10.0.2.14', '10.0.2.77', '127.0.0.1', '203.0.113.10', '169.254.169.254', '10.0.2.1', '10.0.2.255', '0.0.0.0'):
    print(host, guest.who_has(host, 2))
for host in ('fd50:6f72:7463::14', 'fd50:6f72:7463::77', '::1', '2001:db8:10::10', 'fe80::1', 'ff02::1'):
    print(host, guest.neighbour(host, 2))
",
    );
    assert_eq!(seen[..2], ["True True True True", "None None"], "{ran}");
    for line in &seen[2..] {
        assert!(line.ends_with(" None"), "{line}: {ran}");
    }
    assert_eq!(seen.len(), 2 + 8 + 6, "{ran}");
}

#[test]
fn a_spoofed_hardware_address_is_dropped_and_recorded() {
    let world = world();
    let (ran, seen) = guest(
        &world,
        "
other = dict(seconds=0.5, mac=OTHER_MAC)
print(guest.lookup('10.0.2.3', 'api.example.com', **other), guest.lookup('fd50:6f72:7463::2', 'api.example.com', **other),
      guest.syn('203.0.113.10', 443, **other), guest.dhcp(1, **other), guest.who_has('10.0.2.2', 2, mac=OTHER_MAC))
# In ARP's own field, and in a frame from a group.
guest.link.send(arp_frame(1, OTHER_MAC, OWN4, GATEWAY4, mac=MAC))
print(guest.wait(lambda f: 'answered' if f[12:14] == b'\\x08\\x06' and f[20:22] == b'\\0\\2' else None, 0.5))
guest.link.send(arp_frame(1, MAC, OWN4, GATEWAY4, mac=b'\\x01' + MAC[1:]))
print(guest.wait(lambda f: 'answered' if f[12:14] == b'\\x08\\x06' and f[20:22] == b'\\0\\2' else None, 0.5))
print(guest.lookup('10.0.2.3', 'api.example.com'))
",
    );
    assert_eq!(
        seen,
        ["None None None None None", "None", "None", "0"],
        "{ran}"
    );
    assert_recorded(
        &ran,
        "spoofed-source",
        "from fd50:6f72:7463::15 at 52:54:00:aa:bb:cc",
    );
    assert_recorded(&ran, "spoofed-source", "from 0.0.0.0 at 52:54:00:aa:bb:cc");
    assert_recorded(&ran, "spoofed-source", "arp from 52:54:00:aa:bb:cc");
    assert_eq!(count(&ran, "spoofed-source"), 8, "{ran}");
}

#[test]
fn a_spoofed_source_address_is_dropped_and_recorded() {
    let world = world();
    let (ran, seen) = guest(
        &world,
        "
for source in ('10.0.2.77', '10.9.9.9', '203.0.113.10', '10.0.2.2', '10.0.2.3', '10.0.2.14', '127.0.0.1', '255.255.255.255'):
    print(source, guest.lookup('10.0.2.3', 'api.example.com', v4(source), 0.3), guest.syn('203.0.113.10', 443, v4(source), 0.3),
          guest.who_has('10.0.2.2', 1, v4(source)))
for source in ('fd50:6f72:7463::2', 'fd50:6f72:7463::14', 'fe80::2', '2001:db8::1', '::1', '::', 'ff02::1', '::ffff:10.0.2.15'):
    print(source, guest.lookup('fd50:6f72:7463::2', 'api.example.com', v6(source), 0.3), guest.syn('2001:db8:10::10', 443, v6(source), 0.3),
          'x')
print(guest.lookup('10.0.2.3', 'api.example.com'), guest.lookup('fd50:6f72:7463::2', 'api.example.com'))
",
    );
    assert_eq!(seen.len(), 17, "{ran}");
    for line in &seen[..8] {
        assert!(line.ends_with(" None None None"), "{line}: {ran}");
    }
    for line in &seen[8..16] {
        assert!(line.ends_with(" None None x"), "{line}: {ran}");
    }
    assert_eq!(seen[16], "0 0", "{ran}");
    assert_recorded(
        &ran,
        "spoofed-source",
        "from 10.0.2.77 at 52:54:00:12:34:56",
    );
    assert_recorded(
        &ran,
        "spoofed-source",
        "from fd50:6f72:7463::2 at 52:54:00:12:34:56",
    );
    assert_recorded(&ran, "spoofed-source", "arp from 52:54:00:12:34:56");
    assert_eq!(count(&ran, "spoofed-source"), 8 * 3 + 8 * 2, "{ran}");
}

/// Each would have an entry in a table of neighbours that all namespaces of the host share.
#[test]
fn ipv6_addresses_by_the_thousand_fill_no_table_of_the_host() {
    let world = world();
    let (ran, seen) = guest(
        &world,
        "
sources = [v6('fd50:6f72:7463::')[:8] + struct.pack('!Q', 0x1000 + number) for number in range(3000)]
to = GATEWAY6
for source in sources:
    guest.send(source, to, 17, udp(source, to, 53, b'\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\1a\\0\\0\\1\\0\\1'))
asked = set()
def count(frame):
    if frame[12:14] == b'\\x86\\xdd' and frame[20] == 58 and frame[54] == 135: asked.add(frame[62:78])
guest.wait(count, 2.0)
print(0 < len(asked) <= 16)
",
    );
    assert_eq!(seen, ["True"], "{ran}");
    let counted = count(&ran, "spoofed-source") + count(&ran, "protocol-not-allowed");
    assert!(counted > 2_000, "{counted} of 3000 were counted: {ran}");
}

#[test]
fn every_ethertype_but_three_is_dropped_and_recorded() {
    let world = world();
    let (ran, seen) = guest(
        &world,
        "
for kind in range(0, 0x10000, 13):
    if kind not in (IP4, IP6, ARP): guest.ether(guest.gateway, kind, b'\\x45' + bytes(63))
# Tagged: VLAN 5, and a tag in a tag.
inner = struct.pack('!H', IP4) + ip4(v4('10.0.2.3'), 17, udp(OWN4, v4('10.0.2.3'), 53, bytes(20)))
guest.ether(guest.gateway, 0x8100, b'\\0\\5' + inner)
guest.ether(guest.gateway, 0x88a8, b'\\0\\5\\x81\\0\\0\\5' + inner)
print(guest.wait(lambda f: f if f[12:14] not in (b'\\x08\\0', b'\\x86\\xdd', b'\\x08\\x06') else None, 1.0))
print(guest.lookup('10.0.2.3', 'api.example.com'))
time.sleep(1)
",
    );
    assert_eq!(seen, ["None", "0"], "{ran}");
    assert_recorded(
        &ran,
        "protocol-not-allowed",
        "ethertype 0x0004 from 52:54:00:12:34:56",
    );
    assert_eq!(count(&ran, "protocol-not-allowed"), 5041 + 2, "{ran}");
}

#[test]
fn an_arp_flood_costs_nobody_but_the_guest() {
    let world = world();
    let (ran, seen) = guest(
        &world,
        "
for number in range(20000):
    guest.link.send(arp_frame(1, MAC, OWN4, struct.pack('!I', 0x0a000200 + number)))
    if number % 100 == 0:
        while guest.link.receive(0): pass
while guest.link.receive(0): pass
print(guest.lookup('10.0.2.3', 'api.example.com'), guest.dhcp(1)[:2])
",
    );
    assert_eq!(seen, ["0 (2, '10.0.2.15')"], "{ran}");
}

#[test]
fn a_guest_steers_no_route_of_the_sandbox() {
    let world = world();
    let (ran, seen) = guest(
        &world,
        "
# A router's advertisement from the guest, a redirect, a second router's address by ARP, and a message from afar.
all_nodes = v6('ff02::1')
body = struct.pack('!BBHII', 64, 0, 1800, 0, 0) + b'\\3\\4\\x40\\xc0' + b'\\xff' * 8 + bytes(4) + v6('2001:db8:99::')
guest.ether(group_mac(all_nodes), IP6, ip6(all_nodes, 58, icmp6(LINK6, all_nodes, 134, body), LINK6))
guest.send(LINK6, GATEWAY_LINK6, 58, icmp6(LINK6, GATEWAY_LINK6, 137, bytes(4) + LINK6 + v6('2001:db8:10::10')))
redirect = struct.pack('!BBH', 5, 1, 0) + OWN4 + ip4(v4('203.0.113.10'), 17, bytes(8), GATEWAY4)
redirect = redirect[:2] + struct.pack('!H', checksum(redirect)) + redirect[4:]
guest.send(OWN4, GATEWAY4, 1, redirect)
guest.link.send(arp_frame(2, MAC, GATEWAY4, OWN4))
print(guest.solicit_router(seconds=0.5, hops=254))
print(guest.lookup('10.0.2.3', 'api.example.com'), guest.syn('203.0.113.10', 443), guest.who_has('10.0.2.2') == guest.gateway)
import subprocess
print('2001:db8:99' in subprocess.run('ip -6 addr; ip -6 route', shell=True, capture_output=True, text=True).stdout)
",
    );
    assert_eq!(seen, ["None", "0 open True", "False"], "{ran}");
    assert_recorded(&ran, "spoofed-source", "arp from 52:54:00:12:34:56");
}

#[test]
fn malformed_dhcp_is_not_answered_and_a_flood_of_it_ends_nothing() {
    let world = world();
    let (ran, seen) = guest(
        &world,
        "
import random
random.seed(7)
good = struct.pack('!BBBBIHH4s4s4s4s', 1, 1, 6, 0, 77, 0, 0, bytes(4), bytes(4), bytes(4), bytes(4)) + MAC + bytes(202) + b'\\x63\\x82\\x53\\x63'
def throw(body): guest.ether(ALL, IP4, ip4(b'\\xff' * 4, 17, udp(bytes(4), b'\\xff' * 4, 67, body, 68), bytes(4)))
throw(good + b'\\x35\\1\\1\\x5e\\4\\0\\0\\0\\0')     # an option of a wrong length
throw(good + b'\\x35\\2\\1\\1')
throw(good[:2] + b'\\xff' + good[3:] + b'\\x35\\1\\1')  # a hardware address of 255 bytes
throw(b'')
for _ in range(3000): throw(good[:random.randrange(len(good))] + random.randbytes(random.randrange(200)))
answers = []
guest.wait(lambda f: answers.append(f) if f[12:14] == b'\\x08\\0' and f[23] == 17 else None, 1.0)
print(len(answers) <= 64)
time.sleep(2)
print(guest.dhcp(1)[:2])
# Well formed, but as fast as they go: answered at a bounded rate.
before = time.time()
for _ in range(2000): guest.dhcp(1, seconds=0)
answers.clear()
guest.wait(lambda f: answers.append(f) if f[12:14] == b'\\x08\\0' and f[23] == 17 else None, 1.0)
print(0 < len(answers) <= 40 + 20 * (time.time() - before))
",
    );
    assert_eq!(seen, ["True", "(2, '10.0.2.15')", "True"], "{ran}");
}
