//! What the sandboxes of a daemon share, and how the gateway of one is started.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use portcullis_control::{AttachTo, Listening, Name, TapDevice};
use portcullis_gateway::{AllowedClients, Inspector, Policy, Recorder, Resolve};
use portcullis_record::WriterThread;
use portcullis_sandbox::{Attachment, Holders, Tap, TapUser};

use super::entry::{Served, causes};
use super::guest_socket::GuestFile;
use super::settings::labels;
use super::store::{Kept, Store};
use super::{foreign, guest_socket, listeners};
use crate::attached::{addresses, detach};
use crate::guest_link::{GuestConfig, GuestSocket};
use crate::host_files::HostFiles;
use crate::plain_gateway::{PlainGateway, PlainGatewayConfig};
use crate::records::{self, Ending, RecordConfig};
use crate::reload::{Rejected, Reload};
use crate::report::record_start;
use crate::sandbox_gateway::{Doors, SandboxConfig, SandboxGateway};

/// Where listeners are that nobody has named.
const FREE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The name of a guest's device, in a namespace where it is the only one.
const DEVICE: &str = "tap0";

/// What the sandboxes share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) log_dir: Option<PathBuf>,
    /// Where the sockets of virtual machines are.
    pub(crate) guests: PathBuf,
    pub(crate) host: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) max_sandboxes: usize,
    pub(crate) max_sandboxes_per_user: usize,
    pub(crate) resolvers: Vec<SocketAddr>,
    pub(crate) host_files: HostFiles,
    /// Descriptors for each of them.
    pub(crate) descriptors: usize,
    /// Writes all their records.
    pub(crate) writer: WriterThread,
    /// Starts the holders of sandboxes.
    pub(crate) holders: Arc<Holders>,
    pub(crate) build: &'static str,
}

/// What a gateway is started with.
pub(crate) struct Start {
    pub(crate) policy: Policy,
    pub(crate) reload: Option<Reload>,
    /// Whether it is the operator's own policy.
    pub(crate) own_tickets: bool,
    /// When its names are resolved, where the policy's own word does not count.
    pub(crate) resolve: Option<Resolve>,
}

/// What doors are put into, and what else that needs.
struct Attach {
    attachment: Attachment,
    guest: GuestConfig,
    file: Option<GuestFile>,
}

impl Attach {
    fn to(attachment: Attachment) -> Attach {
        Attach {
            attachment,
            guest: GuestConfig::default(),
            file: None,
        }
    }

    fn to_device(user: TapUser, mtu: u16, socket: Option<GuestSocket>) -> Attach {
        let device = Tap {
            name: DEVICE.to_owned(),
            mtu,
            user,
        };
        Attach {
            attachment: Attachment::Device(device),
            guest: GuestConfig { mtu, socket },
            file: None,
        }
    }

    /// The device that others open by its name, in a holder's namespace.
    fn device(&self, holder: u32) -> Option<TapDevice> {
        match &self.attachment {
            Attachment::Device(tap) if tap.user != TapUser::Gateway => Some(TapDevice {
                name: tap.name.clone(),
                netns: format!("/proc/{holder}/ns/net").into(),
            }),
            _ => None,
        }
    }
}

impl Shared {
    /// Opens the records of a sandbox.
    pub(crate) fn records(&self, kept: &Kept) -> io::Result<(Recorder, Ending)> {
        let labels = labels(&self.labels, &kept.new.labels).map_err(io::Error::other)?;
        let config = RecordConfig {
            log: self.log(&kept.new.name)?,
            denial_lines: None,
            host: self.host.clone(),
            labels,
        };
        let (recorder, ending) = records::open(config, kept.new.name.as_str());
        Ok((recorder.with_writer_thread(&self.writer), ending))
    }

    pub(crate) fn log_path(&self, name: &Name) -> Option<PathBuf> {
        let folder = self.log_dir.as_ref()?;
        Some(folder.join(format!("{name}.jsonl")))
    }

    fn log(&self, name: &Name) -> io::Result<Option<File>> {
        let Some(path) = self.log_path(name) else {
            return Ok(None);
        };
        let opened = portcullis_gateway::open_records(&path);
        opened.map(Some).map_err(|error| {
            let text = format!("cannot write records to {}: {error}", path.display());
            io::Error::new(error.kind(), text)
        })
    }

    /// Takes its traffic.
    pub(crate) async fn serve(
        &self,
        kept: &Kept,
        start: Start,
        recorder: &Recorder,
    ) -> Result<Served, String> {
        let new = &kept.new;
        match &new.attach {
            AttachTo::Listeners { dns, http, socks5 } => {
                let free = (dns.or(*http).or(*socks5).is_none()).then_some(FREE);
                let wanted = Listening {
                    dns: dns.or(free),
                    http: http.or(free),
                    socks5: socks5.or(free),
                    ..Listening::default()
                };
                let (listeners, listening) = listeners::bind(&wanted)?;
                record_start(recorder, self.build);
                let config = PlainGatewayConfig {
                    policy: start.policy,
                    resolvers: self.resolvers.clone(),
                    listeners,
                    allowed_clients: AllowedClients::default(),
                    reload: start.reload,
                    own_tickets: start.own_tickets,
                    resolve: start.resolve,
                    descriptors: Some(self.descriptors),
                    host_files: self.host_files.clone(),
                };
                let started = PlainGateway::start(config, recorder, |_| Ok(())).await;
                let gateway = started.map_err(|error| causes(&error))?;
                Ok(Served::listeners(gateway, listening))
            }
            AttachTo::Pid { pid, root } => {
                let attach = Attach::to(Attachment::Process {
                    pid: *pid,
                    root: root.clone(),
                });
                self.attach(kept, attach, start, recorder).await
            }
            AttachTo::Netns { path } => {
                let attach = Attach::to(Attachment::Namespace(path.clone()));
                self.attach(kept, attach, start, recorder).await
            }
            AttachTo::VmSocket { framing, mtu } => {
                let mtu = mtu.unwrap_or(GuestConfig::DEFAULT_MTU);
                let folder = &self.guests;
                let made = guest_socket::make(folder, &new.name, *framing, kept.owner);
                let (file, socket) =
                    made.map_err(|error| format!("cannot make the socket of its guest: {error}"))?;
                let attach = Attach {
                    file: Some(file),
                    ..Attach::to_device(TapUser::Gateway, mtu, Some(socket))
                };
                self.attach(kept, attach, start, recorder).await
            }
            AttachTo::Tap { user, mtu } => {
                let mtu = mtu.unwrap_or(GuestConfig::DEFAULT_MTU);
                let user = TapUser::User(user.unwrap_or(kept.owner));
                let attach = Attach::to_device(user, mtu, None);
                self.attach(kept, attach, start, recorder).await
            }
        }
    }

    /// Puts doors into a namespace that somebody else has made, and serves them.
    async fn attach(
        &self,
        kept: &Kept,
        attach: Attach,
        start: Start,
        recorder: &Recorder,
    ) -> Result<Served, String> {
        let inspector = Inspector::new(&start.policy).map_err(|error| causes(&error))?;
        let inspector = inspector.map(Arc::new);
        let addresses = addresses(&attach.attachment);
        let wanted = foreign::Wanted {
            attachment: attach.attachment.clone(),
            policy: start.policy.clone(),
            inspector: inspector.clone(),
            holders: self.holders.clone(),
        };
        let listen = self.store.holder(&kept.mark);
        let attaching = tokio::task::spawn_blocking(move || foreign::doors(wanted, &listen));
        let attached = attaching.await.map_err(|error| error.to_string())??;
        // Only now: what is not there may be looked for many times.
        record_start(recorder, self.build);
        let listening = Listening {
            guest: attach.file.as_ref().map(|file| file.path().to_owned()),
            tap: attach.device(attached.holder),
            ..Listening::default()
        };
        let control = Arc::new(attached.control);
        let doors = Doors {
            sockets: attached.sockets,
            control: control.clone(),
        };
        let config = SandboxConfig {
            policy: start.policy,
            resolvers: self.resolvers.clone(),
            publish: Vec::new(),
            addresses,
            resolve: start.resolve,
            inspector,
            reload: start.reload,
            rejected: Rejected::default(),
            guest: attach.guest,
            own_tickets: start.own_tickets,
            descriptors: Some(self.descriptors),
            host_files: self.host_files.clone(),
            mark: None,
        };
        match SandboxGateway::start(doors, config, recorder).await {
            Ok(gateway) => {
                let note = attached.unbound;
                Ok(Served::doors(gateway, note, listening, attach.file))
            }
            Err(error) => {
                detach(&control).await;
                Err(causes(&error))
            }
        }
    }
}
