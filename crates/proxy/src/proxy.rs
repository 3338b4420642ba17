//! One sandbox's proxy: the parts that its entrances are served with.

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_dial::Dialer;
use portcullis_dns::{Leases, PolicyHandle};
use portcullis_guest::StatusPage;
use portcullis_names::AllowedClients;
use portcullis_policy::Policy;
use portcullis_record::Recorder;

use crate::admission::{Admission, OpenFlows, Room};
use crate::connector::Connector;
use crate::datagram_flows::DatagramClients;
use crate::decider::{Decider, Own};
use crate::flows::Flows;
#[cfg(feature = "inspect")]
use crate::inspect::Inspector;
use crate::meter::Limiter;
use crate::records::Records;
#[cfg(not(feature = "inspect"))]
use crate::uninspected::Inspector;

/// The proxy of one sandbox. Its entrances share it, whatever they are
/// ([`serve_http`](crate::serve_http) and the others).
pub struct Proxy {
    pub(crate) decider: Decider,
    pub(crate) admission: Admission,
    pub(crate) connector: Connector,
    pub(crate) records: Records,
    pub(crate) flows: Arc<Flows>,
    pub(crate) inspector: Option<Arc<Inspector>>,
}

impl Proxy {
    /// A proxy without listeners to protect; see [`Proxy::with_listeners`].
    pub fn new(
        policy: PolicyHandle,
        dialer: Arc<Dialer>,
        leases: Arc<Leases>,
        recorder: Recorder,
    ) -> Proxy {
        let limiter = Arc::new(Limiter::new(&policy.load()));
        let flows = Arc::new(Flows::new(policy.clone(), dialer.clone()));
        let proxy = Proxy {
            decider: Decider::new(
                policy,
                leases.clone(),
                recorder.clone(),
                dialer.search().clone(),
            ),
            admission: Admission::new(limiter.clone()),
            connector: Connector { dialer, limiter },
            records: Records::new(recorder, leases, flows.clone()),
            flows,
            inspector: None,
        };
        proxy.follow_limits(&proxy.decider.policy());
        proxy
    }

    /// Names the gateway's listeners as programs reach them: a request for one of these addresses
    /// would come back to the gateway and is refused with `gateway-loop`.
    #[must_use]
    pub fn with_listeners(mut self, listeners: Vec<SocketAddr>) -> Proxy {
        self.decider.listeners = listeners;
        self
    }

    /// Names the gateway's listeners in the namespace that it dials from (plain listeners of
    /// `serve`): a connection that ends at one of them is refused with `gateway-loop`, by whatever
    /// name it got there.
    #[must_use]
    pub fn with_host_listeners(mut self, listeners: Vec<SocketAddr>) -> Proxy {
        self.decider.host_listeners = listeners;
        self
    }

    /// Says what means the sandbox itself: a request for that is connected inside, whatever the policy
    /// says. The dialler must have been given a way there.
    #[must_use]
    pub fn with_own(mut self, own: Option<Own>) -> Proxy {
        self.decider.own = own;
        self
    }

    /// The page that tells programs inside about this network, at its own addresses and by its own name.
    /// Without one, that name is one that no policy lists.
    #[must_use]
    pub fn with_status_page(mut self, page: Option<StatusPage>) -> Proxy {
        self.decider.status_page = page;
        self
    }

    /// What HTTPS is inspected with. Without it, names that a rule inspects are refused.
    #[must_use]
    pub fn with_inspector(mut self, inspector: Option<Arc<Inspector>>) -> Proxy {
        self.inspector = inspector;
        self
    }

    /// What knows the sockets from which datagrams come. Without it, flows of datagrams end when
    /// nothing passes, and what is refused of them is refused silently.
    #[must_use]
    pub fn with_datagram_clients(mut self, clients: Option<Arc<dyn DatagramClients>>) -> Proxy {
        self.admission.set_datagram_clients(clients);
        self
    }

    /// Sets how much it may hold at once; by default as much as is ever used.
    #[must_use]
    pub fn with_room(mut self, room: Room) -> Proxy {
        self.admission.set_room(room);
        self.follow_limits(&self.decider.policy());
        self
    }

    /// Names the clients that its listeners serve; everybody by default. Others are reset.
    #[must_use]
    pub fn with_allowed_clients(mut self, clients: AllowedClients) -> Proxy {
        self.admission.allowed_clients = clients;
        self
    }

    /// What is open now.
    pub fn open_flows(&self) -> OpenFlows {
        self.admission.open()
    }

    /// Takes over the limits of a policy that came into force. What was used stays used.
    pub fn follow_limits(&self, policy: &Policy) {
        self.admission.follow(policy);
    }

    /// Decides again on every flow that stands and cuts those that `policy`, which must be in force
    /// by now, no longer allows; how many those were. Published ports are not among them.
    pub fn recheck(&self, policy: &Policy) -> usize {
        self.flows.recheck(policy)
    }
}
