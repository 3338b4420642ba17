//! `portcullis vm-socket PATH`: a Unix socket that is the network of a virtual machine.

use super::attach::{Before, failed};
use super::serve::tell;
use crate::command::Command;
use crate::exit::USAGE;
use crate::hold;
use crate::launch::host_resolvers;
use crate::output::line;
use crate::policy_options::{Followed, PolicyOptions};
use crate::record_options::RecordOptions;
use crate::signals::signals;
use crate::socket_file::SocketFile;
use portcullis_policy::Policy;
use portcullis_runner::{AttachConfig, GuestConfig, GuestSocket, Reload, serve_attached};
use portcullis_sandbox::{Attachment, Tap, TapUser};
use rustix::net::SocketType;
use std::path::PathBuf;
use std::process::ExitCode;

/// The device's name, which nobody sees but in the kernel's own words.
const DEVICE: &str = "guest";

/// The exit codes and an example, as `--help` tells them.
const AFTER: &str = "\
Example: portcullis vm-socket /tmp/vm.sock --allow api.example.com
  qemu-system-x86_64 ... -netdev stream,id=n,addr.type=unix,addr.path=/tmp/vm.sock -device virtio-net,netdev=n

Exit codes: 0 when stopped by Ctrl-C or SIGTERM; 1 if the socket cannot be made or served, or if names
did not resolve at start-up; 2 for bad flags and policies.";

/// Serve a virtual machine's network on a Unix socket
///
/// For runtimes that otherwise use passt, gvproxy or slirp4netns: QEMU, libkrun, vfkit, lima. The guest's
/// frames go to a network device in a namespace of its own, where only the gateway is. The guest comes up
/// by DHCP and router advertisements. One guest at a time; another may follow. Runs in the foreground. Changes
/// to the policy files apply at once; SIGHUP reloads the files.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub struct VmSocket {
    /// Where the socket is made; only its owner may connect
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// How frames stand on the socket
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Framing::Stream)]
    framing: Framing,
    /// Largest packet that the guest is told to use, in bytes
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = GuestConfig::DEFAULT_MTU,
        value_parser = clap::value_parser!(u16).range(i64::from(GuestConfig::MTU.0)..=i64::from(GuestConfig::MTU.1))
    )]
    mtu: u16,
    #[command(flatten)]
    policy: PolicyOptions,
    #[command(flatten)]
    records: RecordOptions,
    /// Append what the gateway does, step by step, to FILE (PORTCULLIS_LOG sets how much)
    #[arg(long, value_name = "FILE")]
    debug_log: Option<PathBuf>,
    /// Record decisions but refuse nothing except private addresses
    #[arg(long)]
    audit: bool,
    /// Write the certificate (PEM) that the guest must trust for inspected names to FILE
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
}

/// The values of `--framing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Framing {
    /// A stream, each frame behind its length in four bytes: QEMU's -netdev stream, passt, libkrun
    Stream,
    /// A datagram each: libkrun, vfkit, lima, QEMU's -netdev dgram
    Datagram,
    /// A message each, on a connection (SOCK_SEQPACKET)
    Seqpacket,
}

impl Framing {
    fn kind(self) -> SocketType {
        match self {
            Self::Stream => SocketType::STREAM,
            Self::Datagram => SocketType::DGRAM,
            Self::Seqpacket => SocketType::SEQPACKET,
        }
    }
}

impl Command for VmSocket {
    fn upstream_proxy(&self) -> Option<&str> {
        self.policy.upstream_proxy.as_deref()
    }

    fn run(self) -> ExitCode {
        run(self)
    }
}

/// Serves guests until SIGINT or SIGTERM.
fn run(args: VmSocket) -> ExitCode {
    let before = Before {
        policy: &args.policy,
        records: &args.records,
        debug_log: args.debug_log.as_deref(),
        audit: args.audit,
        ca_cert: args.ca_cert.is_some(),
    };
    let Ok(Followed { loaded, reload }) = before.check() else {
        return ExitCode::from(USAGE);
    };
    match serve(args, loaded.policy, reload) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            failed(&error);
            ExitCode::FAILURE
        }
    }
}

fn serve(args: VmSocket, policy: Policy, mut reload: Reload) -> anyhow::Result<()> {
    // Before there is a second thread.
    let kind = args.framing.kind();
    let (_file, socket) = SocketFile::bind(&args.path, kind)?;
    let socket = GuestSocket::listening(kind, socket)?;
    let (end, requests) = signals()?;
    reload.requests = Some(requests);
    reload.tell = Some(Box::new(tell));
    let config = AttachConfig {
        attachment: Attachment::Device(Tap {
            name: DEVICE.to_owned(),
            mtu: args.mtu,
            user: TapUser::Gateway,
        }),
        sandbox: format!("vm-{}", std::process::id()),
        resolvers: host_resolvers(&policy)?,
        policy,
        records: args.records.config(args.records.open()?)?,
        publish: Vec::new(),
        resolve: None,
        resolv_conf: None,
        ca_cert: args.ca_cert,
        build: crate::version::BUILD,
        reload,
        guest: GuestConfig {
            mtu: args.mtu,
            socket: Some(socket),
        },
        holder: hold::command(),
    };
    let path = args.path.display();
    let ready = |_: Option<&str>| line(format_args!("portcullis: guests may connect to {path}"));
    Ok(serve_attached(config, ready, end)?)
}
