//! Linux sandbox: namespaces, sockets inside, TAP, packet rules, mounts, seccomp.
//!
//! One idea carries everything: a sandbox is a network namespace with no way out, and the
//! gateway's sockets inside it are its only doors. The sandbox's first process makes the
//! listeners inside and hands the descriptors to the gateway, which serves them from the host's
//! namespace. No route, no veth, no NAT, no root.
//!
//! This crate knows nothing of names or policy, and is the only one with `unsafe` code.

pub mod doctor;

mod attachment;
mod caller;
mod capabilities;
mod channel;
mod command;
mod connect;
pub mod daemon_capabilities;
mod error;
mod exit_status;
mod fds;
mod frames;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gateway_side;
mod gssapi;
mod guest;
mod handed_over;
mod ids;
mod init;
mod inside;
mod inside_sockets;
mod kernel_set;
mod landlock;
mod let_in;
mod limits;
mod link;
mod listeners;
mod masks;
mod message;
mod mount_table;
mod mounts;
mod namespace_limits;
mod netlink;
mod nft;
mod notification;
mod orders;

mod parent;
mod peer;
mod probe;
mod process;
mod refused;
mod root_files;
mod rules;
mod seccomp;
mod shared;
mod signals;
mod socket_diag;
mod sockets;
mod spec;
mod streams;
mod sys;
mod tap;
mod terminal;
mod tick;
mod trust;
mod unix_refusals;
mod unix_supervisor;
mod unreachable;

pub use attachment::{
    AttachRequest, Attached, Attachment, Holders, TrustContent, attach, attach_again, hold,
    look_from, network_number, network_owner, process_mark,
};
pub use error::{SandboxError, Step, fix_of_limit};
pub use exit_status::{
    EXIT_FAILED, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_SIGNAL_BASE, EXIT_TIMED_OUT, ExitStatus,
    Killed,
};
pub use gateway_side::{Control, GatewaySide, Sockets};
pub use gssapi::http_token;
pub use guest::{GuestSockets, RouterSocket};
pub use handed_over::handed_over_socket;
pub use inside::Inside;
pub use kernel_set::KernelSet;
pub use mount_table::MountTable;
pub use parent::run;
pub use peer::Peer;
pub use process::{Process, Processes, Transport};
pub use refused::{Refused, RefusedBatch, RefusedLog, RefusedProtocol, begin_refusal_log};
pub use rules::GATEWAY_MARK;
pub use shared::{become_gateway, cut_off};
pub use signals::ignore_file_size_limit;
pub use sockets::{Family, NamedSockets, SocketName};
pub use spec::{
    Addresses, Keyring, MAX_DATAGRAM_PORTS, MAX_OPEN_RULES, NameFiles, Network, OpenRule,
    OpenRules, Spec, Tap, TapUser, UnixSockets,
};
pub use trust::{TRUST_BUNDLE, TRUST_CA, TRUST_JAVA, TrustAddition, TrustFiles};
pub use unix_refusals::{RefusedSocket, UnixRefusal, UnixRefusals};
pub use unreachable::{DatagramErrors, Unreachable};
