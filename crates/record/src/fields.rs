//! The fields of a record, in the order in which they are written: the one place that describes
//! them. `RECORDS.md` and the JSON Schema are made from this table and from the closed lists of
//! codes; a test holds both to it, and the table to what is written.

/// A field of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its key.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// When it is there.
    pub presence: Presence,
    /// What it says, for people.
    pub description: &'static str,
}

/// What a field's value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// This text.
    Constant(&'static str),
    /// Any text.
    Text,
    /// RFC 3339 in UTC, with microseconds.
    Time,
    /// A [`crate::DecisionId`].
    Id,
    /// A code of [`crate::Layer`].
    Layer,
    /// A code of [`crate::Protocol`].
    Protocol,
    /// A verdict.
    Verdict,
    /// A code of [`portcullis_policy::Reason`], or `records-lost`.
    Reason,
    /// A code of [`crate::CloseReason`].
    CloseReason,
    /// A whole number from 0 on.
    Number,
    /// A whole number from 1 on.
    Count,
    /// A port.
    Port,
    /// Seconds with six decimals.
    Seconds,
    /// `true`.
    True,
    /// Addresses, as texts.
    Addresses,
    /// `ipv4`, `ipv6`, or both.
    Families,
    /// A [`crate::Process`].
    Process,
    /// A [`crate::Boot`].
    Boot,
    /// An object of texts: the operator's [`crate::Labels`].
    Labels,
    /// A whole number of microseconds for each [`crate::Stage`] that happened.
    Timings,
}

/// When a field is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// In every record of its event.
    Always,
    /// Where it means something.
    WhereItApplies,
    /// Where the gateway can know it.
    WhereKnown,
}

const fn always(name: &'static str, kind: Kind, description: &'static str) -> Field {
    Field {
        name,
        kind,
        presence: Presence::Always,
        description,
    }
}

const fn sometimes(name: &'static str, kind: Kind, description: &'static str) -> Field {
    Field {
        presence: Presence::WhereItApplies,
        ..always(name, kind, description)
    }
}

const fn event(code: &'static str) -> Field {
    always("event", Kind::Constant(code), "What the record is about.")
}

const SCHEMA: Field = always(
    "schema",
    Kind::Constant(crate::line::SCHEMA),
    "The version of this format.",
);
const TIME: Field = always(
    "time",
    Kind::Time,
    "When it happened: RFC 3339, UTC, microseconds. If decisions share a record, the time of the first.",
);
const ID: Field = always(
    "id",
    Kind::Id,
    "The decision's id, as the program was told it. A close carries the id of the decision that opened the flow.",
);
const SANDBOX: Field = always("sandbox", Kind::Text, "The sandbox's name.");
const DETAIL: Field = sometimes(
    "detail",
    Kind::Text,
    "The exact error text or circumstance, for the operator.",
);
const CUT: Field = sometimes(
    "cut",
    Kind::True,
    "Present and true if a value was longer than its share of the line, or if userinfo or a query was removed from the name.",
);

const HOST: Field = sometimes(
    "host",
    Kind::Text,
    "The host that the gateway runs on: its node name, or what the operator set.",
);
const LABELS: Field = sometimes(
    "labels",
    Kind::Labels,
    "What the operator says of this sandbox: tenant, job, repository.",
);
const BOOT: Field = always(
    "boot",
    Kind::Boot,
    "One start of one gateway: 16 hexadecimal digits, drawn at random.",
);
const SEQ: Field = always(
    "seq",
    Kind::Count,
    "The record's number among those of its `boot`, in the order of the file: 1, 2, 3 and so on. A number that is missing is a record that is missing.",
);

/// The fields of a record whose `event` is `decision`, in the order in which they are written.
pub const DECISION_FIELDS: &[Field] = &[
    SCHEMA,
    event("decision"),
    TIME,
    ID,
    SANDBOX,
    always("layer", Kind::Layer, "The layer at which it was decided."),
    always(
        "protocol",
        Kind::Protocol,
        "How the request reached the gateway.",
    ),
    always(
        "verdict",
        Kind::Verdict,
        "What was decided: allowed, denied, allowed but failed (`error`), or allowed in audit mode although it would be denied (`audit`).",
    ),
    always(
        "reason",
        Kind::Reason,
        "Why: one code of the closed list that DNS, HTTP, SOCKS, metrics and documentation share.",
    ),
    sometimes(
        "name",
        Kind::Text,
        "The canonical name that was asked for. If there was none, what stood in its place, without userinfo and query.",
    ),
    sometimes(
        "asked",
        Kind::Text,
        "What a malformed request asked for, as far as it can be read: at most 256 bytes once it is escaped, without userinfo and query.",
    ),
    sometimes(
        "canonical_name",
        Kind::Text,
        "The name at the end of the CNAME chain.",
    ),
    sometimes("port", Kind::Port, "The destination's port."),
    sometimes(
        "qtype",
        Kind::Text,
        "The DNS record type: its mnemonic, or TYPE and its number (RFC 3597).",
    ),
    sometimes(
        "addresses",
        Kind::Addresses,
        "The addresses that were answered, leased or dialled.",
    ),
    sometimes(
        "families",
        Kind::Families,
        "The families of those addresses, `ipv4` and `ipv6`, for a name that is resolved at start-up.",
    ),
    sometimes("rule", Kind::Text, "The text of the rule that decided."),
    sometimes(
        "source",
        Kind::Text,
        "Where that rule stands: file:line, or the flag.",
    ),
    sometimes(
        "upstream",
        Kind::Text,
        "Who answered: the resolver, the hosts file, the upstream proxy, or the address that was connected.",
    ),
    sometimes("method", Kind::Text, "The HTTP method."),
    sometimes(
        "path",
        Kind::Text,
        "The HTTP path, without query, fragment and userinfo.",
    ),
    Field {
        presence: Presence::WhereKnown,
        ..sometimes("process", Kind::Process, "The program that was denied.")
    },
    sometimes(
        "attempts",
        Kind::Number,
        "How many attempts were made upstream.",
    ),
    sometimes(
        "timings",
        Kind::Timings,
        "Microseconds for each stage. Stages that did not happen are absent.",
    ),
    DETAIL,
    CUT,
    always(
        "count",
        Kind::Count,
        "How many equal decisions share this record.",
    ),
    HOST,
    LABELS,
    BOOT,
    SEQ,
];

/// The fields of a record whose `event` is `close`, in the order in which they are written.
pub const CLOSE_FIELDS: &[Field] = &[
    SCHEMA,
    event("close"),
    TIME,
    ID,
    SANDBOX,
    always(
        "bytes_up",
        Kind::Number,
        "Bytes from the program to upstream.",
    ),
    always(
        "bytes_down",
        Kind::Number,
        "Bytes from upstream to the program.",
    ),
    always(
        "duration",
        Kind::Seconds,
        "Seconds from the decision to the end, with microseconds.",
    ),
    always("close_reason", Kind::CloseReason, "Why the flow ended."),
    DETAIL,
    CUT,
    HOST,
    LABELS,
    BOOT,
    SEQ,
];
