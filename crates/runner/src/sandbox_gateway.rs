//! One sandbox served from its sockets, whoever made them: by a process for one sandbox or for many.
//!
//! Nothing here is the process's own: no limit, no thread, no handler. Each sandbox has its policy,
//! leases, limits and records for itself.

use crate::datagram_clients::Clients;
use crate::guest_link::{GuestConfig, GuestLink};
use crate::host_files::HostFiles;
use crate::inside::{self, InsideSockets};
use crate::inside_of::{open_rules, own_hostname};
use crate::kernel_gate::KernelGate;
use crate::publish::{self, Publish};
use crate::refused::RefusedReader;
use crate::reload::{Rejected, Reload};
use crate::tickets::CallersTickets;
use crate::unix_refusals;
use portcullis_gateway::{
    BuildError, CancellationToken, Entrances, Gateway, Inside, Inspector, OwnNames, Policy,
    Recorder, Resolve, Serving, StartError, StartupError, StatusPage, TaskTracker,
};
use portcullis_record::{FoundProcess, ProcessFinder, Transport};
use portcullis_sandbox::{self as sandbox, Addresses, Control, Processes, Sockets};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Why a sandbox is not served. Each cause is a source of its own, whose number names the limit to raise.
#[derive(Debug, thiserror::Error)]
pub enum NotServed {
    /// The policy cannot be served here.
    #[error("{0}")]
    Build(#[from] BuildError),
    /// A socket that cannot be served, or names that did not resolve.
    #[error("{0}")]
    Start(#[from] StartError),
    /// No thread or descriptor was left, or the sandbox is gone.
    #[error("{0}")]
    Io(#[from] io::Error),
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

/// A sandbox's doors: the sockets made inside, and the process that made them.
#[derive(Debug)]
pub struct Doors {
    /// The sockets.
    pub sockets: Sockets,
    /// Makes further ones, and says when the sandbox is gone.
    pub control: Arc<Control>,
}

/// How one sandbox is served.
pub struct SandboxConfig {
    /// The policy in force.
    pub policy: Policy,
    /// The host's resolvers, asked where the policy names none.
    pub resolvers: Vec<SocketAddr>,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// The addresses inside.
    pub addresses: Addresses,
    /// When exact names are resolved, where the policy's own word does not count.
    pub resolve: Option<Resolve>,
    /// The authority whose certificates programs inside are shown, where the policy inspects anything.
    pub inspector: Option<Arc<Inspector>>,
    /// How the policy's files are followed, where they are.
    pub reload: Option<Reload>,
    /// Holds why the latest change of those was not taken over.
    pub rejected: Rejected,
    /// The guest behind a TAP, where there is one.
    pub guest: GuestConfig,
    /// Whether the tickets of this process's user may be used for upstream proxies: not for a policy that is somebody
    /// else's.
    pub own_tickets: bool,
    /// How many descriptors it may hold, where other sandboxes share the process; all that are free otherwise.
    pub descriptors: Option<usize>,
    /// The host's files about names. Somebody else runs the watch over them.
    pub host_files: HostFiles,
    /// The mark of every socket outwards, where the namespace's rules let out no others.
    pub mark: Option<u32>,
}

/// The gateway of one sandbox, on the runtime that it was started on.
pub struct SandboxGateway {
    gateway: Arc<Gateway>,
    serving: Serving,
    control: Arc<Control>,
    tracker: TaskTracker,
    token: CancellationToken,
}

/// Nothing of it runs on by itself.
impl Drop for SandboxGateway {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

impl SandboxGateway {
    /// Serves a sandbox, and tells the process that made its sockets.
    ///
    /// # Errors
    /// It cannot be served, or was gone before. Then nothing of it runs on.
    pub async fn start(
        doors: Doors,
        mut config: SandboxConfig,
        recorder: &Recorder,
    ) -> Result<SandboxGateway, NotServed> {
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        // Whatever keeps it from starting ends what has started.
        let unfinished = token.clone().drop_guard();
        let control = doors.control.clone();
        let published = std::mem::take(&mut config.publish);
        let parts = Parts {
            recorder,
            tracker: &tracker,
            token: &token,
        };
        let (gateway, serving) = tokio::select! {
            started = start(doors, config, parts) => started?,
            // Nobody waits for names any more.
            () = gone(&control) => return Err(StartError::from(StartupError::Cancelled).into()),
        };
        control.ready()?;
        let served = SandboxGateway {
            gateway,
            serving,
            control,
            tracker,
            token,
        };
        // Only now: a client that comes early asks for a socket inside, and until the other side is told
        // that the gateway serves, it expects to hear nothing else.
        for published in published {
            served.publish(published, recorder)?;
        }
        unfinished.disarm();
        Ok(served)
    }

    fn publish(&self, published: Publish, recorder: &Recorder) -> io::Result<()> {
        let Publish { listener, port } = published;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let inside = Arc::new(InsideSockets(self.control.clone()));
        let (recorder, token) = (recorder.clone(), self.token.clone());
        let publishing = publish::serve(listener, port, inside, recorder, token);
        self.keep(format!("the published port {port}"), publishing);
        Ok(())
    }

    /// The gateway.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// The channel to the process that made the sockets.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Ends the gateway when it is cancelled.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Runs a part that this gateway cannot go on without, as [`Serving::keep`] does.
    pub fn keep(
        &self,
        part: impl Into<String>,
        running: impl Future<Output = io::Result<()>> + Send + 'static,
    ) {
        self.serving.keep(part, &self.tracker, running);
    }

    /// Waits until the sandbox is gone, or until the gateway has ended before; then why, if a part
    /// failed.
    pub async fn ended(&self) -> Option<String> {
        tokio::select! {
            () = gone(&self.control) => None,
            ended = self.serving.ended() => ended.err().map(ToString::to_string),
        }
    }

    /// Ends all flows, and waits at most `at_most` until they are on record. What does not end in time
    /// (a dial in the middle of a handshake) ends by itself.
    pub async fn stop(&self, at_most: Duration) {
        self.token.cancel();
        self.tracker.close();
        let _ = tokio::time::timeout(at_most, self.tracker.wait()).await;
    }
}

/// Where the parts of a gateway run.
struct Parts<'a> {
    recorder: &'a Recorder,
    tracker: &'a TaskTracker,
    token: &'a CancellationToken,
}

async fn start(
    doors: Doors,
    config: SandboxConfig,
    parts: Parts<'_>,
) -> Result<(Arc<Gateway>, Serving), NotServed> {
    let Parts {
        recorder,
        tracker,
        token,
    } = parts;
    let sockets = doors.sockets;
    let addresses = config.addresses;
    let processes = Arc::new(sockets.processes);
    let recorder = &recorder
        .clone()
        .with_process_finder(finder(processes.clone()));
    let resolve = config
        .resolve
        .unwrap_or(config.policy.settings().dns.resolve);
    let kernel = Arc::new(sockets.kernel);
    let (networks, guest_kernel) = (kernel.clone(), kernel.clone());
    let datagrams = config.policy.udp_ports();
    let inside: Arc<dyn Inside> = Arc::new(InsideSockets(doors.control.clone()));
    let names = own_names(&addresses);
    let search = config.host_files.search();
    let hosts = config.host_files.hosts();
    let mut builder = Gateway::builder();
    if config.own_tickets {
        builder = builder.tickets(Arc::new(CallersTickets));
    }
    if let Some(descriptors) = config.descriptors {
        builder = builder.descriptors(descriptors);
    }
    if let Some(own) = inside::own(&addresses, names.hostname.clone(), hosts.clone()) {
        builder = builder.inside(own, inside.clone());
    }
    let gateway = builder
        .resolve(resolve)
        .mark(config.mark)
        .policy(config.policy)
        .resolvers(config.resolvers)
        .hosts(hosts)
        .host_network(config.host_files.network())
        .search(search.clone())
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
        .status_page(status_page(&addresses))
        .datagram_clients(Arc::new(Clients::new(
            processes,
            sockets.datagram_errors,
            &addresses,
        )))
        .inspector(config.inspector)
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
    let following = config
        .host_files
        .follow(gateway.clone(), Box::new(|_| Ok(())), token.clone());
    serving.keep("the host's files about names", tracker, following);
    if let Some(reload) = config.reload {
        reload.follow(gateway.clone(), &serving, config.rejected, tracker, token)?;
    }
    let reader = RefusedReader {
        policy: gateway.policy().clone(),
        leases: gateway.leases().clone(),
        recorder: recorder.clone(),
    };
    // Without this log refusals would go unrecorded: the sandbox ends instead.
    let reading = reader.run(sockets.refused, token.clone());
    serving.keep("the kernel's log of refusals", tracker, reading);
    if let Some(mut guest) = sockets.guest {
        if let (Some(socket), Some(device)) = (config.guest.socket, guest.device.take()) {
            let link = GuestLink::new(device, guest_kernel, recorder.clone())?;
            serving.keep(
                "the guest's socket",
                tracker,
                link.serve(socket, token.clone()),
            );
        }
        let search = search.domains().cloned().collect();
        let network = crate::guest::network(&addresses, config.guest.mtu, search);
        let serving_guest = crate::guest::serve(guest, network, token.clone());
        serving.keep("the guest's set-up", tracker, serving_guest);
    }
    if let Some(refusals) = sockets.unix_refusals {
        let recording = unix_refusals::record(refusals, recorder.clone(), token.clone());
        serving.keep("the record of Unix sockets", tracker, recording);
    }
    Ok((gateway, serving))
}

/// What programs inside are told of this network. The gateway adds the authority.
fn status_page(addresses: &Addresses) -> StatusPage {
    StatusPage {
        addresses: vec![addresses.gateway4.into(), addresses.gateway6.into()],
        http: addresses.http(),
        socks5: addresses.socks(),
        resolver: addresses.resolver4.into(),
        resolver6: addresses.gateway6,
        ca_pem: None,
    }
}

/// Nobody outside could answer for these.
fn own_names(addresses: &Addresses) -> OwnNames {
    // Behind a TAP the usual own addresses are the guest's.
    let guest = Addresses::new();
    OwnNames {
        host: addresses.gateway4,
        addresses: vec![
            addresses.own4.into(),
            guest.own4.into(),
            guest.own6.into(),
            addresses.gateway4.into(),
            addresses.resolver4.into(),
            addresses.own6.into(),
            addresses.gateway6.into(),
        ],
        // The sandbox keeps the host's.
        hostname: own_hostname(rustix::system::uname().nodename().to_bytes()),
        status: Vec::new(),
    }
}

/// Waits until the sandbox is gone.
pub(crate) async fn gone(control: &Control) {
    #[expect(
        deprecated,
        reason = "the borrowed descriptor lives as long as the control it is borrowed from"
    )]
    if let Ok(lifeline) = AsyncFd::with_interest(control.lifeline(), Interest::READABLE) {
        let _ = lifeline.readable().await;
    }
}
