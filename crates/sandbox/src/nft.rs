//! nf_tables messages: tables, sets, chains, and rules as lists of expressions.
//!
//! Only what the sandbox's rules need. A rule that the kernel does not take fails the whole
//! transaction, so that rules are there in full or not at all.

use crate::netlink::Batch;

const NFPROTO_INET: u8 = 1;
const NFPROTO_NETDEV: u8 = 5;
/// IPv4 in `meta nfproto`.
pub(crate) const NFPROTO_IPV4: u8 = 2;
/// IPv6 in `meta nfproto`.
pub(crate) const NFPROTO_IPV6: u8 = 10;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

/// The nested list item in rules and element lists.
const LIST_ITEM: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// A 16-byte register.
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;
/// The second 4-byte part of [`REGISTER_1`].
const REGISTER_1_SECOND: u32 = 9;
const REGISTER_VERDICT: u32 = 0;
/// The packet's mark.
const META_MARK: u32 = 3;

/// Flags of a set.
const WITH_TIMEOUT: u32 = 0x10;
const FILLED_BY_RULES: u32 = 0x20;

/// Where packets are looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// What happens with a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict<'a> {
    Drop,
    Accept,
    /// Go on there, and come back if it has no last word.
    Jump(&'a str),
    /// Go on there.
    Goto(&'a str),
}

/// A part of the packet, by header, offset and length in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    base: u32,
    offset: u32,
    length: u32,
}

impl Field {
    /// The field's first bytes.
    pub(crate) const fn begin(self, length: u32) -> Field {
        Field { length, ..self }
    }
}

const LINK: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
pub(crate) const ETHER_SOURCE: Field = Field {
    base: LINK,
    offset: 6,
    length: 6,
};
pub(crate) const ETHER_TYPE: Field = Field {
    base: LINK,
    offset: 12,
    length: 2,
};
/// What an ARP message is about: Ethernet and IPv4, with the lengths of their addresses.
pub(crate) const ARP_KINDS: Field = Field {
    base: NETWORK,
    offset: 0,
    length: 6,
};
pub(crate) const ARP_SOURCE: Field = Field {
    base: NETWORK,
    offset: 8,
    length: 6,
};
pub(crate) const ARP_SOURCE4: Field = Field {
    base: NETWORK,
    offset: 14,
    length: 4,
};
pub(crate) const SOURCE4: Field = Field {
    base: NETWORK,
    offset: 12,
    length: 4,
};
pub(crate) const DESTINATION4: Field = Field {
    base: NETWORK,
    offset: 16,
    length: 4,
};
pub(crate) const HOP_LIMIT6: Field = Field {
    base: NETWORK,
    offset: 7,
    length: 1,
};
pub(crate) const SOURCE6: Field = Field {
    base: NETWORK,
    offset: 8,
    length: 16,
};
pub(crate) const DESTINATION6: Field = Field {
    base: NETWORK,
    offset: 24,
    length: 16,
};
pub(crate) const SOURCE_PORT: Field = Field {
    base: TRANSPORT,
    offset: 0,
    length: 2,
};
pub(crate) const DESTINATION_PORT: Field = Field {
    base: TRANSPORT,
    offset: 2,
    length: 2,
};
pub(crate) const TCP_FLAGS: Field = Field {
    base: TRANSPORT,
    offset: 13,
    length: 1,
};
pub(crate) const ICMP_TYPE: Field = Field {
    base: TRANSPORT,
    offset: 0,
    length: 1,
};

/// Comparisons.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Compare {
    Equal = 0,
    NotEqual = 1,
    AtMost = 3,
    AtLeast = 5,
}

/// What a set's key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Address4,
    Address6,
    Address4Port,
    Address6Port,
}

impl Key {
    /// The key's type as `nft list` shows it, and its length in bytes.
    fn shape(self) -> (u32, u32) {
        const IPV4_ADDR: u32 = 7;
        const INET_SERVICE: u32 = 13;
        match self {
            Self::Address4 => (IPV4_ADDR, 4),
            Self::Address6 => (IPV6_ADDR, 16),
            Self::Address4Port => (IPV4_ADDR << 6 | INET_SERVICE, 8),
            Self::Address6Port => (IPV6_ADDR << 6 | INET_SERVICE, 20),
        }
    }
}

/// Elements of a [`SeenSet`]: addresses of Ethernet and of IPv6.
pub(crate) const ETHER_ADDRESSES: (u32, u32) = (9, 6);
pub(crate) const IPV6_ADDRESSES: (u32, u32) = (IPV6_ADDR, 16);
const IPV6_ADDR: u32 = 8;

/// A set that a device's rules fill with what they see, up to its size: an element that is not seen
/// again for a while makes room.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeenSet {
    pub(crate) name: &'static str,
    /// What its elements are, as [`Key`]s are described: the type as `nft list` shows it, and the length
    /// in bytes.
    pub(crate) shape: (u32, u32),
    pub(crate) id: u32,
    /// The most elements.
    pub(crate) size: u32,
    pub(crate) timeout_ms: u64,
}

/// One transaction on one table.
pub(crate) struct Transaction {
    batch: Batch,
    table: &'static str,
    family: u8,
}

impl Transaction {
    pub(crate) fn new(table: &'static str, capacity: usize) -> Self {
        let mut batch = Batch::with_capacity(capacity);
        batch.message(BATCH_BEGIN, 0, &general(0, SUBSYSTEM));
        Self {
            batch,
            table,
            family: NFPROTO_INET,
        }
    }

    /// On a table of frames as a device takes them in.
    pub(crate) fn of_device(table: &'static str, capacity: usize) -> Self {
        Self {
            family: NFPROTO_NETDEV,
            ..Self::new(table, capacity)
        }
    }

    fn message(&mut self, kind: u16, flags: i32) {
        self.batch
            .message(SUBSYSTEM << 8 | kind, flags, &general(self.family, 0));
    }

    pub(crate) fn table(&mut self) {
        self.message(NEW_TABLE, libc::NLM_F_CREATE);
        self.batch.attr_str(1, self.table);
    }

    /// A set whose elements time out; it refuses more than `size` elements.
    pub(crate) fn timeout_set(&mut self, name: &str, key: Key, id: u32, size: u32) {
        self.set(name, key.shape(), id, size);
        self.batch.attr_be32(3, WITH_TIMEOUT);
    }

    /// A set that rules fill by [`Rule::seen_in`].
    pub(crate) fn seen_set(&mut self, set: SeenSet) {
        self.set(set.name, set.shape, set.id, set.size);
        self.batch.attr_be32(3, WITH_TIMEOUT | FILLED_BY_RULES);
        self.batch.attr(11, &set.timeout_ms.to_be_bytes());
    }

    fn set(&mut self, name: &str, (kind, length): (u32, u32), id: u32, size: u32) {
        self.message(NEW_SET, libc::NLM_F_CREATE);
        self.batch.attr_str(1, self.table);
        self.batch.attr_str(2, name);
        self.batch.attr_be32(4, kind);
        self.batch.attr_be32(5, length);
        let description = self.batch.nest(9);
        self.batch.attr_be32(1, size);
        self.batch.end(description);
        self.batch.attr_be32(10, id);
    }

    pub(crate) fn chain(&mut self, name: &str) {
        self.message(NEW_CHAIN, libc::NLM_F_CREATE);
        self.batch.attr_str(1, self.table);
        self.batch.attr_str(3, name);
    }

    /// A chain at a hook; `policy` is its last word.
    pub(crate) fn base_chain(
        &mut self,
        name: &str,
        hook: Hook,
        priority: i32,
        policy: Verdict<'_>,
    ) {
        self.hooked(name, hook, priority, policy, "filter");
    }

    /// A chain for what programs send: packets that it marks are routed again.
    pub(crate) fn route_chain(&mut self, name: &str, priority: i32) {
        self.hooked(name, Hook::Output, priority, Verdict::Accept, "route");
    }

    fn hooked(&mut self, name: &str, hook: Hook, priority: i32, policy: Verdict<'_>, kind: &str) {
        self.chain(name);
        let nest = self.batch.nest(4);
        self.batch.attr_be32(1, hook as u32);
        self.batch.attr(2, &priority.to_be_bytes());
        self.batch.end(nest);
        let policy = u32::from(matches!(policy, Verdict::Accept));
        self.batch.attr_be32(5, policy);
        self.batch.attr_str(7, kind);
    }

    /// A chain of all frames that a device takes in; what no rule accepts is dropped.
    pub(crate) fn ingress_chain(&mut self, name: &str, device: &str) {
        const INGRESS: u32 = 0;
        self.chain(name);
        let nest = self.batch.nest(4);
        self.batch.attr_be32(1, INGRESS);
        self.batch.attr_be32(2, 0);
        self.batch.attr_str(3, device);
        self.batch.end(nest);
        self.batch.attr_be32(5, 0);
        self.batch.attr_str(7, "filter");
    }

    /// Appends a rule to a chain.
    pub(crate) fn rule(&mut self, chain: &str, build: impl FnOnce(&mut Rule<'_>)) {
        self.message(NEW_RULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND);
        self.batch.attr_str(1, self.table);
        self.batch.attr_str(2, chain);
        let list = self.batch.nest(4);
        build(&mut Rule {
            batch: &mut self.batch,
        });
        self.batch.end(list);
    }

    /// Deletes the table with all that is in it; fails with `ENOENT` where there is none.
    pub(crate) fn delete_table(&mut self) {
        self.message(DELETE_TABLE, 0);
        self.batch.attr_str(1, self.table);
    }

    /// Deletes all elements of a set.
    pub(crate) fn flush_set(&mut self, set: &str) {
        self.message(DELETE_ELEMENT, 0);
        self.batch.attr_str(1, self.table);
        self.batch.attr_str(2, set);
    }

    /// Deletes all rules of a chain.
    pub(crate) fn delete_rules(&mut self, chain: &str) {
        self.message(DELETE_RULE, 0);
        self.batch.attr_str(1, self.table);
        self.batch.attr_str(2, chain);
    }

    /// Adds elements to a set, or, with `exclusive`, fails with `EEXIST` where one is there.
    pub(crate) fn add_elements(
        &mut self,
        set: &str,
        keys: &[Vec<u8>],
        timeout_ms: u64,
        exclusive: bool,
    ) {
        let exclusive = if exclusive { libc::NLM_F_EXCL } else { 0 };
        self.message(NEW_ELEMENT, libc::NLM_F_CREATE | exclusive);
        self.elements(set, keys, Some(timeout_ms));
    }

    /// Deletes elements; fails with `ENOENT` where one is missing.
    pub(crate) fn delete_elements(&mut self, set: &str, keys: &[Vec<u8>]) {
        self.message(DELETE_ELEMENT, 0);
        self.elements(set, keys, None);
    }

    fn elements(&mut self, set: &str, keys: &[Vec<u8>], timeout_ms: Option<u64>) {
        self.batch.attr_str(1, self.table);
        self.batch.attr_str(2, set);
        let list = self.batch.nest(3);
        for key in keys {
            let element = self.batch.nest(LIST_ITEM);
            let value = self.batch.nest(1);
            self.batch.attr(DATA_VALUE, key);
            self.batch.end(value);
            if let Some(timeout) = timeout_ms {
                self.batch.attr(4, &timeout.to_be_bytes());
            }
            self.batch.end(element);
        }
        self.batch.end(list);
    }

    /// Ends the transaction; its last message is acknowledged once all of it is in force.
    pub(crate) fn finish(mut self) -> Batch {
        self.batch.acknowledge();
        self.batch.message(BATCH_END, 0, &general(0, SUBSYSTEM));
        self.batch
    }
}

/// `struct nfgenmsg`.
fn general(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// A rule being built, expression by expression; all must match up to the verdict.
pub(crate) struct Rule<'a> {
    batch: &'a mut Batch,
}

impl Rule<'_> {
    fn expression(&mut self, name: &str, build: impl FnOnce(&mut Batch)) -> &mut Self {
        let item = self.batch.nest(LIST_ITEM);
        self.batch.attr_str(1, name);
        let data = self.batch.nest(2);
        build(self.batch);
        self.batch.end(data);
        self.batch.end(item);
        self
    }

    fn load_meta(&mut self, key: u32) -> &mut Self {
        self.expression("meta", |batch| {
            batch.attr_be32(1, REGISTER_1);
            batch.attr_be32(2, key);
        })
    }

    fn load(&mut self, field: Field, register: u32) -> &mut Self {
        self.expression("payload", |batch| {
            batch.attr_be32(1, register);
            batch.attr_be32(2, field.base);
            batch.attr_be32(3, field.offset);
            batch.attr_be32(4, field.length);
        })
    }

    fn compare(&mut self, how: Compare, value: &[u8]) -> &mut Self {
        self.expression("cmp", |batch| {
            batch.attr_be32(1, REGISTER_1);
            batch.attr_be32(2, how as u32);
            data(batch, 3, value);
        })
    }

    fn mask(&mut self, mask: &[u8]) -> &mut Self {
        let zero = [0_u8; 16];
        self.expression("bitwise", |batch| {
            batch.attr_be32(1, REGISTER_1);
            batch.attr_be32(2, REGISTER_1);
            batch.attr_be32(3, mask.len() as u32);
            data(batch, 4, mask);
            data(batch, 5, &zero[..mask.len()]);
        })
    }

    fn immediate(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.expression("immediate", |batch| {
            batch.attr_be32(1, register);
            data(batch, 2, value);
        })
    }

    /// The packet is of this network protocol.
    pub(crate) fn network(&mut self, protocol: u8) -> &mut Self {
        const META_NFPROTO: u32 = 15;
        self.load_meta(META_NFPROTO)
            .compare(Compare::Equal, &[protocol])
    }

    /// The packet is of this transport protocol.
    pub(crate) fn transport(&mut self, protocol: u8) -> &mut Self {
        self.transport_is(Compare::Equal, protocol)
    }

    /// The packet's transport protocol compares so.
    pub(crate) fn transport_is(&mut self, how: Compare, protocol: u8) -> &mut Self {
        const META_L4PROTO: u32 = 16;
        self.load_meta(META_L4PROTO).compare(how, &[protocol])
    }

    /// The packet came in by this device.
    pub(crate) fn input_device(&mut self, device: &str) -> &mut Self {
        const META_IIFNAME: u32 = 6;
        self.load_meta(META_IIFNAME)
            .compare(Compare::Equal, &device_name(device))
    }

    /// The packet came in by another device.
    pub(crate) fn not_input_device(&mut self, device: &str) -> &mut Self {
        const META_IIFNAME: u32 = 6;
        self.load_meta(META_IIFNAME)
            .compare(Compare::NotEqual, &device_name(device))
    }

    /// The packet has this mark.
    pub(crate) fn mark(&mut self, mark: u32) -> &mut Self {
        self.load_meta(META_MARK)
            .compare(Compare::Equal, &mark.to_ne_bytes())
    }

    /// Gives the packet a mark.
    pub(crate) fn set_mark(&mut self, mark: u32) -> &mut Self {
        self.immediate(REGISTER_1, &mark.to_ne_bytes())
            .expression("meta", |batch| {
                batch.attr_be32(2, META_MARK);
                batch.attr_be32(3, REGISTER_1);
            })
    }

    /// The user of the socket that sends the packet compares so; false where there is none.
    pub(crate) fn user(&mut self, how: Compare, user: u32) -> &mut Self {
        const META_SKUID: u32 = 10;
        self.load_meta(META_SKUID).compare(how, &user.to_ne_bytes())
    }

    /// The packet leaves by this device.
    pub(crate) fn output_device(&mut self, device: &str) -> &mut Self {
        const META_OIFNAME: u32 = 7;
        self.load_meta(META_OIFNAME)
            .compare(Compare::Equal, &device_name(device))
    }

    /// A field of the packet compares so.
    pub(crate) fn field(&mut self, field: Field, how: Compare, value: &[u8]) -> &mut Self {
        self.load(field, REGISTER_1).compare(how, value)
    }

    /// A field, masked, compares so.
    pub(crate) fn masked(
        &mut self,
        field: Field,
        mask: &[u8],
        how: Compare,
        value: &[u8],
    ) -> &mut Self {
        self.load(field, REGISTER_1).mask(mask).compare(how, value)
    }

    /// A field lies in a range, both ends included.
    pub(crate) fn between(&mut self, field: Field, from: &[u8], to: &[u8]) -> &mut Self {
        self.load(field, REGISTER_1)
            .compare(Compare::AtLeast, from)
            .compare(Compare::AtMost, to)
    }

    /// The destination is in a set.
    pub(crate) fn destination_in(&mut self, set: &str, id: u32, key: Key) -> &mut Self {
        match key {
            Key::Address4 => self.load(DESTINATION4, REGISTER_1),
            Key::Address6 => self.load(DESTINATION6, REGISTER_1),
            Key::Address4Port => self
                .load(DESTINATION4, REGISTER_1)
                .load(DESTINATION_PORT, REGISTER_1_SECOND),
            Key::Address6Port => self
                .load(DESTINATION6, REGISTER_1)
                .load(DESTINATION_PORT, REGISTER_2),
        };
        self.lookup(set, id)
    }

    /// A field is in a set.
    pub(crate) fn field_in(&mut self, field: Field, set: SeenSet) -> &mut Self {
        self.load(field, REGISTER_1).lookup(set.name, set.id)
    }

    fn lookup(&mut self, set: &str, id: u32) -> &mut Self {
        self.expression("lookup", |batch| {
            batch.attr_str(1, set);
            batch.attr_be32(2, REGISTER_1);
            batch.attr_be32(4, id);
        })
    }

    /// A field is in a set, or there is room for it, which it takes.
    pub(crate) fn seen_in(&mut self, field: Field, set: SeenSet) -> &mut Self {
        const UPDATE: u32 = 1;
        self.load(field, REGISTER_1);
        self.expression("dynset", |batch| {
            batch.attr_str(1, set.name);
            batch.attr_be32(2, set.id);
            batch.attr_be32(3, UPDATE);
            batch.attr_be32(4, REGISTER_1);
        })
    }

    /// Hands the packet to the listener at an IPv4 address.
    pub(crate) fn tproxy_to4(&mut self, address: [u8; 4], port: u16) -> &mut Self {
        self.tproxy_to(NFPROTO_IPV4, &address, port)
    }

    /// Hands the packet to the listener at an IPv6 address.
    pub(crate) fn tproxy_to6(&mut self, address: [u8; 16], port: u16) -> &mut Self {
        self.tproxy_to(NFPROTO_IPV6, &address, port)
    }

    fn tproxy_to(&mut self, family: u8, address: &[u8], port: u16) -> &mut Self {
        self.immediate(REGISTER_1, address)
            .immediate(REGISTER_2, &port.to_be_bytes());
        self.expression("tproxy", |batch| {
            batch.attr_be32(1, family.into());
            batch.attr_be32(2, REGISTER_1);
            batch.attr_be32(3, REGISTER_2);
        })
    }

    /// Reports the packet's first bytes to a group's listener, at once.
    pub(crate) fn log(&mut self, group: u16, bytes: u32) -> &mut Self {
        self.expression("log", |batch| {
            batch.attr(1, &group.to_be_bytes());
            batch.attr_be32(3, bytes);
            batch.attr(4, &1_u16.to_be_bytes());
        })
    }

    /// The same for a packet whose type is the reason.
    pub(crate) fn log_type(&mut self, group: u16, bytes: u32) -> &mut Self {
        self.expression("log", |batch| {
            batch.attr(1, &group.to_be_bytes());
            batch.attr_str(2, "type");
            batch.attr_be32(3, bytes);
            batch.attr(4, &1_u16.to_be_bytes());
        })
    }

    /// Ends the rule.
    pub(crate) fn verdict(&mut self, verdict: Verdict<'_>) {
        let (code, chain) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3_i32, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
        };
        self.expression("immediate", |batch| {
            batch.attr_be32(1, REGISTER_VERDICT);
            let outer = batch.nest(2);
            let inner = batch.nest(DATA_VERDICT);
            batch.attr(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                batch.attr_str(2, chain);
            }
            batch.end(inner);
            batch.end(outer);
        });
    }

    /// Lets the packet pass.
    pub(crate) fn accept(&mut self) {
        self.verdict(Verdict::Accept);
    }

    /// Answers a TCP packet with a reset.
    pub(crate) fn reset(&mut self) {
        const TCP_RESET: u32 = 1;
        self.reject(TCP_RESET, 0);
    }

    /// Answers a packet with "administratively prohibited".
    pub(crate) fn prohibit(&mut self) {
        const ICMPX: u32 = 2;
        const ADMIN_PROHIBITED: u8 = 3;
        self.reject(ICMPX, ADMIN_PROHIBITED);
    }

    fn reject(&mut self, kind: u32, code: u8) {
        self.expression("reject", |batch| {
            batch.attr_be32(1, kind);
            batch.attr(2, &[code]);
        });
    }
}

fn data(batch: &mut Batch, kind: u16, value: &[u8]) {
    let nest = batch.nest(kind);
    batch.attr(DATA_VALUE, value);
    batch.end(nest);
}

/// A device's name as the kernel compares it: 16 bytes, NUL padded.
fn device_name(name: &str) -> [u8; libc::IFNAMSIZ] {
    let mut padded = [0; libc::IFNAMSIZ];
    for (to, from) in padded.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from;
    }
    padded
}
