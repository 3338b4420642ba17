//! The standing flows of one sandbox: what each was decided by, so that it can be decided again.
//!
//! Answers *a reload that narrows* (docs/threats.md): when another policy comes into force, every flow that stands is
//! decided on again by the very code that let it in, from the very things it was let in by, and those
//! that are no longer allowed are cut. The others notice nothing.
//!
//! Invariant: a flow is either seen by [`Flows::recheck`] or sees the policy that it was called
//! for. It enters the registry first and then looks which policy is in force; a reload puts the
//! policy in force first and then looks at the registry.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use portcullis_dial::Dialer;
use portcullis_dns::PolicyHandle;
use portcullis_names::Name;
use portcullis_policy::{Asked, ConnectPermit, Destination, Policy, Request};

use crate::connector::Peer;
use crate::http_only;
use crate::request::Change;
use crate::target::{Asks, Ruling, Target};

/// Parts of the registry, each with a lock of its own that a flow takes when it opens and when it
/// closes.
const SHARDS: usize = 16;

/// What runs on a flow, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Carries {
    /// The client has not said enough yet.
    #[default]
    Unknown,
    /// TLS that passes untouched.
    Tls,
    /// A protocol that is not looked into.
    Other,
    /// HTTP, request by request.
    Http,
    /// What a request has changed to.
    Changed(Change),
}

/// What a flow was let in by: enough to decide it again. Kept small, there are thousands.
#[derive(Debug)]
struct Basis {
    to: Destination<'static>,
    port: u16,
    /// See [`Target::ftp_control`].
    ftp_control: Option<u16>,
    carries: Carries,
    /// What the request asks for, where the flow is one.
    request: Option<Box<Requested>>,
    /// It was dialled where the rule sends the name (`to`).
    sent: bool,
    /// Nothing but requests may pass on it.
    only_http: bool,
    /// The other end, where that is the destination's; `None` behind an upstream proxy.
    peer: Option<Endpoint>,
    /// The name that it was dialled by.
    by: Option<Name>,
    /// It ends at a server of the sandbox's own, which no policy is about.
    inside: bool,
}

/// A socket address without what IPv6 may say besides: two thirds of its size.
#[derive(Clone, Copy, Debug)]
struct Endpoint {
    ip: IpAddr,
    port: u16,
}

/// What one request asks for, as [`Asks`].
#[derive(Debug)]
struct Requested {
    method: Box<str>,
    path: Box<str>,
}

impl Basis {
    fn new(target: &Target, asks: Option<Asks<'_>>, ruling: &Ruling, peer: &Peer) -> Basis {
        let request = asks.map(|Asks { method, path }| Requested {
            method: method.into(),
            path: path.into(),
        });
        let mut basis = Basis {
            to: target.asked.clone().unshown(),
            port: target.port,
            ftp_control: target.ftp_control,
            carries: match request {
                Some(_) => Carries::Http,
                None => Carries::Unknown,
            },
            request: request.map(Box::new),
            sent: false,
            only_http: false,
            peer: None,
            by: None,
            inside: false,
        };
        basis.follow(ruling, peer);
        basis
    }

    fn follow(&mut self, ruling: &Ruling, peer: &Peer) {
        let to = ruling.permit.as_ref().and_then(ConnectPermit::to);
        self.to.shown = ruling.shown.clone();
        self.sent = to.is_some();
        self.only_http = http_only::only_http(ruling);
        let endpoint = Endpoint {
            ip: peer.address.ip(),
            port: peer.address.port(),
        };
        self.peer = peer.upstream_proxy.is_none().then_some(endpoint);
        self.by.clone_from(&ruling.name);
        self.inside = peer.inside;
    }

    /// Whether `policy` allows the flow as it stands: the same destination by the same evidence, the
    /// address that it ends at, and what runs on it.
    fn stands(&self, dialer: &Dialer, policy: &Policy) -> bool {
        if self.inside {
            return true;
        }
        let (to, port) = (&self.to, self.port);
        let decision = policy.decide(&match self.request.as_deref() {
            Some(Requested { method, path }) => Request::Http {
                to,
                port,
                method,
                path,
            },
            None => match self.ftp_control {
                Some(control) => Request::FtpData { to, control, port },
                None => Request::Connect { to, port },
            },
        });
        let Some(permit) = decision.connect_permit() else {
            return false;
        };
        let now = decision.name();
        let same_name = self.by.as_ref().map(Name::as_ref) == now;
        self.may_carry(&permit) && self.ends_there(dialer, &permit, same_name)
    }

    /// Whether what runs on the flow may run on one by this permit: what passes untouched may not
    /// where everything, or TLS, is to be looked into by now. Requests are decided on one by one, and
    /// what has said nothing yet meets the policy in force when it does, unless that is looked at by
    /// the decision that it was opened by.
    fn may_carry(&self, permit: &ConnectPermit) -> bool {
        let inspect = permit.terms().is_some_and(|terms| terms.inspect);
        match self.carries {
            Carries::Http => true,
            Carries::Changed(change) => http_only::may_change(permit, change),
            Carries::Tls => !inspect && !permit.only_http(),
            Carries::Other => !http_only::is_only_http(permit),
            Carries::Unknown => self.only_http || !http_only::is_only_http(permit),
        }
    }

    /// Whether a connection by this permit could end where the flow ends.
    fn ends_there(&self, dialer: &Dialer, permit: &ConnectPermit, same_name: bool) -> bool {
        let Some(Endpoint { ip, port }) = self.peer else {
            // An upstream proxy found the way; a rule that sends the name elsewhere knows none.
            return permit.to().is_none();
        };
        let peer = SocketAddr::new(ip, port);
        // Under another name only the address that was asked for is surely that name's.
        let address = match self.to.asked {
            Asked::Address { address, .. } => Some(address),
            Asked::Name(_) | Asked::Synthetic { .. } => None,
        };
        let there = Some(peer.ip().to_canonical()) == address;
        let known = permit.to().is_some() || same_name || there || address.is_none();
        known && self.sent == permit.to().is_some() && dialer.would_open(permit, peer)
    }
}

/// Who is told that a flow is cut.
#[derive(Debug, Default)]
struct Waiting {
    waker: Option<Waker>,
    /// The flow that it is a part of, which ends with it.
    whole: Option<Arc<Standing>>,
}

/// One flow in the registry, shared by whoever carries it and by the registry.
#[derive(Debug)]
pub(crate) struct Standing {
    cut: AtomicBool,
    /// Its place in its shard.
    place: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    basis: Basis,
    waiting: Waiting,
}

impl Standing {
    /// Whether the policy allows it no longer.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Ends when the policy allows it no longer. One waits at a time.
    pub(crate) fn until_cut(&self) -> UntilCut<'_> {
        UntilCut {
            standing: self,
            registered: false,
        }
    }

    fn trip(&self) {
        self.cut.store(true, Ordering::Release);
        let Waiting { waker, whole } = std::mem::take(&mut lock(&self.state).waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(whole) = whole {
            whole.trip();
        }
    }

    /// The flow is a request on a connection whose bytes nobody can tell apart any more: where it is
    /// no longer allowed, the whole ends.
    pub(crate) fn is_part_of(&self, whole: &Arc<Standing>) {
        lock(&self.state).waiting.whole = Some(whole.clone());
        // It may have been cut before there was anybody to tell.
        if self.is_cut() {
            whole.trip();
        }
    }
}

/// See [`Standing::until_cut`]. After its first turn it only looks at a flag.
pub(crate) struct UntilCut<'a> {
    standing: &'a Standing,
    registered: bool,
}

impl Future for UntilCut<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.registered {
            self.registered = true;
            lock(&self.standing.state).waiting.waker = Some(cx.waker().clone());
        }
        if self.standing.is_cut() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// Ends when the flow, if there is one, is no longer allowed.
pub(crate) async fn until_cut(standing: Option<&Standing>) {
    match standing {
        Some(standing) => standing.until_cut().await,
        None => poll_fn(|_| Poll::Pending).await,
    }
}

/// A place in the registry; dropping it gives it back.
pub(crate) struct Entered {
    flows: Arc<Flows>,
    standing: Arc<Standing>,
}

impl std::ops::Deref for Entered {
    type Target = Arc<Standing>;

    fn deref(&self) -> &Arc<Standing> {
        &self.standing
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.flows.leave(&self.standing);
    }
}

/// All flows that stand.
pub(crate) struct Flows {
    policy: PolicyHandle,
    dialer: Arc<Dialer>,
    shards: [Mutex<Shard>; SHARDS],
    next: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shard {
    places: Vec<Place>,
    /// The first place that is free; each names the next one.
    free: Option<u32>,
}

#[derive(Debug)]
enum Place {
    Free(Option<u32>),
    Taken(Arc<Standing>),
}

impl Flows {
    fn take_in(self: &Arc<Self>, basis: Basis) -> Entered {
        let shard = self.next.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let standing = Arc::new(Standing {
            cut: AtomicBool::new(false),
            place: AtomicU32::new(0),
            state: Mutex::new(State {
                basis,
                waiting: Waiting::default(),
            }),
        });
        let place = lock(&self.shards[shard]).take(standing.clone());
        // The shard is the low part, so that one number is enough.
        let number = place * SHARDS as u32 + shard as u32;
        standing.place.store(number, Ordering::Release);
        Entered {
            flows: self.clone(),
            standing,
        }
    }

    fn leave(&self, standing: &Standing) {
        let number = standing.place.load(Ordering::Acquire) as usize;
        lock(&self.shards[number % SHARDS]).give_back((number / SHARDS) as u32);
    }

    /// Cuts the flows that `stands` says no of; how many those were. Flows that were cut before and
    /// are still on their way out do not count again.
    fn cut(&self, stands: impl Fn(&Basis) -> bool) -> usize {
        let mut cut = 0;
        for shard in &self.shards {
            // Out of the lock: deciding takes longer than opening a flow may wait.
            let standing = lock(shard).standing();
            for flow in standing {
                if !flow.is_cut() && !stands(&lock(&flow.state).basis) {
                    flow.trip();
                    cut += 1;
                }
            }
        }
        cut
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let of = |shard: &Mutex<Shard>| lock(shard).standing().len();
        self.shards.iter().map(of).sum()
    }
}

impl Shard {
    fn take(&mut self, standing: Arc<Standing>) -> u32 {
        let taken = Place::Taken(standing);
        if let Some(free) = self.free
            && let Some(place) = self.places.get_mut(free as usize)
            && let Place::Free(next) = *place
        {
            self.free = next;
            *place = taken;
            return free;
        }
        self.places.push(taken);
        // A sandbox has thousands of connections at most.
        (self.places.len() - 1) as u32
    }

    fn give_back(&mut self, number: u32) {
        if let Some(place) = self.places.get_mut(number as usize) {
            *place = Place::Free(self.free);
            self.free = Some(number);
        }
    }

    fn standing(&self) -> Vec<Arc<Standing>> {
        let taken = self.places.iter().filter_map(|place| match place {
            Place::Taken(standing) => Some(standing.clone()),
            Place::Free(_) => None,
        });
        taken.collect()
    }
}

// A thread that panicked with one of these leaves it usable: each holds plain values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flows {
    pub(crate) fn new(policy: PolicyHandle, dialer: Arc<Dialer>) -> Flows {
        Flows {
            policy,
            dialer,
            shards: Default::default(),
            next: AtomicUsize::new(0),
        }
    }

    /// Takes a flow into the registry; `asks` where it is one request. It may be cut already when
    /// this returns: the policy can have changed since it was decided on.
    pub(crate) fn enter(
        self: &Arc<Self>,
        target: &Target,
        asks: Option<Asks<'_>>,
        ruling: &Ruling,
        peer: &Peer,
    ) -> Entered {
        let entered = self.take_in(Basis::new(target, asks, ruling, peer));
        self.look_again(&entered, ruling);
        entered
    }

    /// The flow goes on by another decision, perhaps on another connection.
    pub(crate) fn goes_on(&self, standing: &Standing, ruling: &Ruling, peer: &Peer) {
        lock(&standing.state).basis.follow(ruling, peer);
        self.look_again(standing, ruling);
    }

    /// What the flow carries is known now. `ruling` is what it was decided by.
    pub(crate) fn carries(&self, standing: &Standing, carries: Carries, ruling: &Ruling) {
        lock(&standing.state).basis.carries = carries;
        self.look_again(standing, ruling);
    }

    fn look_again(&self, standing: &Standing, ruling: &Ruling) {
        let policy = self.policy.load();
        let changed = !Arc::ptr_eq(&policy, &ruling.policy);
        if changed && !lock(&standing.state).basis.stands(&self.dialer, &policy) {
            standing.trip();
        }
    }

    /// Decides again on every flow that stands and cuts those that `policy`, which must be in force
    /// by now, no longer allows; how many those were.
    pub(crate) fn recheck(&self, policy: &Policy) -> usize {
        self.cut(|basis| basis.stands(&self.dialer, policy))
    }
}

#[cfg(test)]
#[path = "flows_tests.rs"]
mod tests;
