//! The gateway as a sandbox's own process: serves the sockets made inside, until the sandbox is
//! gone, and leaves a report.

use crate::datagram_clients::Clients;
use crate::descriptors::raise_limit;
use crate::host_files::{HostFiles, HostNames};
use crate::inside::{self, InsideSockets};
use crate::kernel_gate::{KernelGate, ranges};
use crate::panics::Panics;
use crate::publish::{self, Publish};
use crate::records::{self, RecordConfig};
use crate::refused::RefusedReader;
use crate::reload::{Rejected, Reload};
use crate::report::{Collector, Report, record_start};
use crate::runtime;
use crate::tickets::CallersTickets;
use crate::trust::Trust;
use crate::unix_refusals;
use crate::unresolved::Unresolved;
use portcullis_dns::hosts_inside;
use portcullis_gateway::{
    BuildError, CancellationToken, Entrances, Gateway, Inside, Inspector, Mode, OwnNames, Policy,
    PortSet, Recorder, Resolve, Serving, StartError, StartupError, TaskTracker,
};
use portcullis_names::{Name, NameBuf, NameRef, RecordType};
use portcullis_policy::{AddressRule, Reason, Request};
use portcullis_record::{FoundProcess, ProcessFinder, Transport};
use portcullis_sandbox::{
    self as sandbox, Addresses, Control, GatewaySide, OpenRule, OpenRules, Processes, Sockets, Spec,
};
use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::info;

/// How long flows may take to close once the sandbox is gone.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long records may take to reach their file at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Destinations that no policy lists by accident: the start-up probe takes the first that the
/// policy refuses. Port 9 is "discard" (RFC 863).
const PROBES: [Ipv4Addr; 3] = [
    Ipv4Addr::new(198, 18, 0, 1),
    Ipv4Addr::new(169, 254, 254, 254),
    Ipv4Addr::new(240, 0, 0, 1),
];
const PROBE_PORT: u16 = 9;

/// What one sandbox's gateway needs besides the sockets.
#[derive(Debug)]
pub struct RunConfig {
    /// The sandbox's name in records.
    pub sandbox: String,
    /// The policy in force.
    pub policy: Policy,
    /// The host's resolvers, asked where the policy names none.
    pub resolvers: Vec<SocketAddr>,
    /// What is recorded, and where.
    pub records: RecordConfig,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// The addresses inside.
    pub addresses: Addresses,
    /// Whether the report lists what was used and what failed, not only what was denied.
    pub collect: bool,
    /// When exact names are resolved, where the policy's own word does not count.
    pub resolve: Option<Resolve>,
    /// Files that the caller's own variables name certificate authorities in; programs inside trust
    /// them too, where the policy inspects anything.
    pub more_roots: Vec<PathBuf>,
    /// The build that serves, for the first record.
    pub build: &'static str,
    /// How the policy's files are followed, where they are.
    pub reload: Option<Reload>,
}

/// What the kernel inside needs to know of a policy.
fn open_rules(policy: &Policy) -> OpenRules {
    let audit = policy.mode() == Mode::Audit;
    let networks = |rules: &[AddressRule], ports: fn(&AddressRule) -> &PortSet| {
        let network = |rule: &AddressRule| OpenRule {
            network: sandbox::Network {
                address: rule.net.addr(),
                prefix: rule.net.prefix_len(),
            },
            ports: ranges(ports(rule)),
        };
        rules.iter().map(network).collect()
    };
    let denied = if audit { &[] } else { policy.denied_networks() };
    OpenRules {
        rules: networks(policy.address_rules(), |rule| &rule.ports),
        closed: networks(denied, |rule| &rule.ports),
        datagrams: networks(policy.address_rules(), |rule| &rule.udp),
        datagram_ports: policy.udp_ports().iter().flatten().collect(),
        audit,
        guarded: if audit {
            crate::guarded_networks::networks()
        } else {
            Vec::new()
        },
    }
}

/// Whether the hosts file inside has an address for a name: the host's own name, and where the policy does
/// not speak of the name but an address rule opens the address, so that it is reached without DNS.
fn keeps(policy: &Policy, address: IpAddr, name: NameRef<'_>) -> bool {
    let own = own_hostname(rustix::system::uname().nodename().to_bytes());
    if own.is_some_and(|own| own.as_ref() == name) {
        return true;
    }
    let qtype = RecordType::A;
    let unlisted = policy.decide(&Request::Lookup { name, qtype }).reason == Reason::NotListed;
    let mut rules = policy.address_rules().iter();
    unlisted && rules.any(|rule| rule.net.contains(&address))
}

/// Puts into `spec` what the kernel inside needs to know of the policy.
pub fn prepare(policy: &Policy, spec: &mut Spec) {
    spec.trust = policy.inspected().next().is_some();
    spec.open = open_rules(policy);
    let host = HostNames::read();
    let keeps = |address, name: NameRef<'_>| keeps(policy, address, name);
    spec.name_files.hosts = host.hosts.map(|text| hosts_inside(&text, keeps));
    spec.name_files.resolv_conf = host.search.lines();
    let refused = PROBES
        .into_iter()
        .map(|v4| SocketAddr::new(v4.into(), PROBE_PORT));
    if let Some(probe) = refused
        .into_iter()
        .find(|probe| policy.guard(probe.ip(), probe.port()).is_err())
    {
        spec.probe_refused = probe;
    }
}

/// Serves one sandbox until it is gone; called in the gateway's own process, before any thread.
pub fn run_in_sandbox(mut side: GatewaySide, config: RunConfig) -> Report {
    raise_limit();
    let panics = Panics::take_over();
    let runtime = match runtime::start() {
        Ok(runtime) => runtime,
        Err(error) => {
            let why = format!("cannot start the gateway's threads: {error}");
            return refuse(&side.control, &why, Some(&error));
        }
    };
    // Before the sockets: the sandbox's first process waits for it while it arranges files.
    let inspector = match hand_over_trust(&side.control, &config) {
        Ok(inspector) => inspector,
        Err(error) => return refuse(&side.control, &error, None),
    };
    // Threads start while the sandbox is being built; only then are its sockets waited for.
    let sockets = match side.receive() {
        Ok(sockets) => sockets,
        Err(error) => return refuse(&side.control, &error.to_string(), Some(&error)),
    };
    let report = runtime.block_on(serve(sockets, side.control, config, inspector, panics));
    // The process ends next, and its threads with it: waiting for them would only delay CMD's end.
    std::mem::forget(runtime);
    report
}

fn refuse(control: &Control, why: &str, cause: Option<&(dyn Error + 'static)>) -> Report {
    let causes = std::iter::successors(cause, |&error| error.source());
    let errno = causes
        .filter_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error())
        .last();
    // The sandbox may be gone already: then its own error has been told.
    let _ = control.failed(why, errno.unwrap_or(0));
    Report::default()
}

/// Why a sandbox is not served. Each cause is a source of its own, whose number names the limit to raise.
#[derive(Debug, thiserror::Error)]
enum NotServed {
    #[error("{0}")]
    Build(#[from] BuildError),
    #[error("{0}")]
    Start(#[from] StartError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Tells the sandbox that it ends before its command started; names that were the cause go into the
/// report, since there may be many.
fn not_started(control: &Control, error: &NotServed) -> Report {
    let unresolved = match error {
        NotServed::Start(StartError::Names(error)) => Unresolved::of(error),
        _ => None,
    };
    let mut report = match &unresolved {
        Some(unresolved) => {
            let (failed, of) = (unresolved.names.len(), unresolved.of);
            let why = format!("{failed} of {of} names did not resolve");
            refuse(control, &why, None)
        }
        None => {
            let why = format!("cannot serve the sandbox: {error}");
            refuse(control, &why, Some(error))
        }
    };
    report.unresolved = unresolved;
    report
}

/// Makes the authority of this run, where the policy inspects anything, and gives its certificate to
/// the sandbox. Its key stays here.
fn hand_over_trust(
    control: &Control,
    config: &RunConfig,
) -> Result<Option<Arc<Inspector>>, String> {
    let made = Inspector::new(&config.policy).map_err(|error| error.to_string())?;
    let Some(inspector) = made else {
        return Ok(None);
    };
    let trust = Trust::with(inspector.ca_pem(), &config.more_roots);
    let handed = control.trust(&trust.files());
    handed.map_err(|error| format!("cannot hand over certificates: {error}"))?;
    Ok(Some(Arc::new(inspector)))
}

async fn serve(
    sockets: Sockets,
    control: Control,
    config: RunConfig,
    inspector: Option<Arc<Inspector>>,
    panics: Panics,
) -> Report {
    let (recorder, ending) = records::open(config.records, &config.sandbox);
    record_start(&recorder, config.build);
    tokio::spawn(panics.record(recorder.clone()));
    let collector = config.collect.then(|| Collector::new(&recorder));
    let rejected = Rejected::default();
    let control = Arc::new(control);
    let token = CancellationToken::new();
    let tracker = TaskTracker::new();
    let starting = start(
        Parts {
            sockets,
            control: &control,
            recorder: &recorder,
            tracker: &tracker,
            token: &token,
        },
        Wanted {
            policy: config.policy,
            resolvers: config.resolvers,
            publish: config.publish,
            addresses: config.addresses,
            resolve: config.resolve,
            inspector,
            reload: config.reload,
            rejected: rejected.clone(),
        },
    );
    let started = tokio::select! {
        started = starting => started,
        // Nobody waits for names any more: the person at the terminal has ended it.
        () = gone(&control) => Err(StartError::from(StartupError::Cancelled).into()),
    };
    let started = started.and_then(|serving| Ok(control.ready().map(|()| serving)?));
    let serving = match started {
        Ok(serving) => serving,
        Err(error) => {
            token.cancel();
            // Why is in the records too, before anybody is told.
            recorder.flush(FLUSH_TIMEOUT);
            return not_started(&control, &error);
        }
    };
    // Flows that end now are still recorded: collecting goes on until they are.
    let drained = CancellationToken::new();
    serving.keep(records::PART, &tracker, ending.wait(token.clone()));
    let collecting = collector.map(|collector| tokio::spawn(collector.run(drained.clone())));
    let failed = tokio::select! {
        () = gone(&control) => None,
        ended = serving.ended() => ended.err().map(ToString::to_string),
    };
    info!(?failed, "sandbox ended");
    token.cancel();
    tracker.close();
    // What does not end in time (a dial in the middle of a handshake) ends with the process.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, tracker.wait()).await;
    drained.cancel();
    let mut report = match collecting {
        Some(task) => task.await.unwrap_or_default(),
        None => Report::default(),
    };
    report.add_denied(&recorder.denied_summary());
    report.rejected = rejected.take();
    report.failed = failed;
    report.record_error = records::finish(&recorder, FLUSH_TIMEOUT);
    report
}

/// Finds the program behind a denial among the sandbox's processes.
fn finder(processes: Arc<Processes>) -> ProcessFinder {
    Arc::new(move |client| {
        let transport = match client.transport {
            Transport::Tcp => sandbox::Transport::Tcp,
            Transport::Udp => sandbox::Transport::Udp,
        };
        let found = processes.find(transport, client.address, client.server)?;
        Some(FoundProcess {
            pid: found.pid,
            command: found.command,
        })
    })
}

struct Parts<'a> {
    sockets: Sockets,
    control: &'a Arc<Control>,
    recorder: &'a Recorder,
    tracker: &'a TaskTracker,
    token: &'a CancellationToken,
}

struct Wanted {
    policy: Policy,
    resolvers: Vec<SocketAddr>,
    publish: Vec<Publish>,
    addresses: Addresses,
    resolve: Option<Resolve>,
    inspector: Option<Arc<Inspector>>,
    reload: Option<Reload>,
    rejected: Rejected,
}

async fn start(parts: Parts<'_>, wanted: Wanted) -> Result<Serving, NotServed> {
    let Parts {
        sockets,
        control,
        recorder,
        tracker,
        token,
    } = parts;
    let addresses = wanted.addresses;
    let processes = Arc::new(sockets.processes);
    let recorder = &recorder
        .clone()
        .with_process_finder(finder(processes.clone()));
    let resolve = wanted
        .resolve
        .unwrap_or(wanted.policy.settings().dns.resolve);
    let mut host_files = HostFiles::open();
    let kernel = Arc::new(sockets.kernel);
    let networks = kernel.clone();
    let datagrams = wanted.policy.udp_ports();
    let inside: Arc<dyn Inside> = Arc::new(InsideSockets(control.clone()));
    let names = own_names(&addresses);
    let hosts = Arc::new(host_files.hosts());
    let mut builder = Gateway::builder().tickets(Arc::new(CallersTickets));
    if let Some(own) = inside::own(&addresses, names.hostname.clone(), hosts.clone()) {
        builder = builder.inside(own, inside.clone());
    }
    let gateway = builder
        .resolve(resolve)
        .policy(wanted.policy)
        .resolvers(wanted.resolvers)
        .hosts(hosts)
        .search(host_files.search())
        .recorder(recorder.clone())
        .gate(Box::new(KernelGate {
            set: kernel,
            datagrams,
        }))
        .networks(Box::new(move |policy| {
            let open = open_rules(policy);
            networks.replace_networks(&open.rules, &open.closed)
        }))
        .own(names)
        .datagram_clients(Arc::new(Clients::new(
            processes,
            sockets.datagram_errors,
            &addresses,
        )))
        .inspector(wanted.inspector)
        .listeners(vec![
            addresses.http(),
            addresses.socks(),
            // The resolver is at every address.
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 53),
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 53),
            SocketAddr::new(addresses.gateway4.into(), 53),
            SocketAddr::new(addresses.resolver4.into(), 53),
        ])
        .build()?;
    let listener = |fd: OwnedFd| std::net::TcpListener::from(fd);
    let entrances = Entrances {
        dns_udp: vec![sockets.dns_udp4.into(), sockets.dns_udp6.into()],
        dns_tcp: vec![listener(sockets.dns_tcp4), listener(sockets.dns_tcp6)],
        http: vec![listener(sockets.http)],
        socks5: vec![listener(sockets.socks)],
        transparent: vec![listener(sockets.catch_all4), listener(sockets.catch_all6)],
        datagrams: sockets.datagrams.into_iter().map(Into::into).collect(),
    };
    let serving = gateway.start(entrances, tracker, token).await?;
    let gateway = Arc::new(gateway);
    let following = host_files.follow(gateway.clone(), Box::new(|_| Ok(())), token.clone());
    serving.keep("the host's files about names", tracker, following);
    if let Some(reload) = wanted.reload {
        reload.follow(gateway.clone(), &serving, wanted.rejected, tracker, token)?;
    }
    let reader = RefusedReader {
        policy: gateway.policy().clone(),
        leases: gateway.leases().clone(),
        recorder: recorder.clone(),
    };
    // Without this log refusals would go unrecorded: the sandbox ends instead.
    let reading = reader.run(sockets.refused, token.clone());
    serving.keep("the kernel's log of refusals", tracker, reading);
    if let Some(refusals) = sockets.unix_refusals {
        let recording = unix_refusals::record(refusals, recorder.clone(), token.clone());
        serving.keep("the record of Unix sockets", tracker, recording);
    }
    for Publish { listener, port } in wanted.publish {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (inside, recorder, token) = (inside.clone(), recorder.clone(), token.clone());
        let part = format!("the published port {port}");
        let publishing = publish::serve(listener, port, inside, recorder, token);
        serving.keep(part, tracker, publishing);
    }
    Ok(serving)
}

/// Nobody outside could answer for these.
fn own_names(addresses: &Addresses) -> OwnNames {
    // Behind a TAP the usual own address is the guest's.
    let guest4 = Addresses::new().own4;
    OwnNames {
        host: addresses.gateway4,
        addresses: vec![
            addresses.own4.into(),
            guest4.into(),
            addresses.gateway4.into(),
            addresses.resolver4.into(),
            addresses.own6.into(),
            addresses.gateway6.into(),
        ],
        // The sandbox keeps the host's.
        hostname: own_hostname(rustix::system::uname().nodename().to_bytes()),
    }
}

/// A host name in DNS's form; one that DNS could not hold is never asked for there.
fn own_hostname(nodename: &[u8]) -> Option<Name> {
    let name = NameBuf::from_program(nodename).ok()?;
    Some(name.as_ref().to_name())
}

/// Waits until the sandbox is gone.
async fn gone(control: &Control) {
    #[expect(
        deprecated,
        reason = "the borrowed descriptor lives as long as the control it is borrowed from"
    )]
    if let Ok(lifeline) = AsyncFd::with_interest(control.lifeline(), Interest::READABLE) {
        let _ = lifeline.readable().await;
    }
}
