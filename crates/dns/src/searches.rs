//! Names that no rule lists, told apart: what a program asked for, and what the search list made of it.
//!
//! A stub resolver completes a short name with each domain of `resolv.conf`, and in a cluster (`ndots:5`) nearly
//! every name. Answers *the record* (docs/threats.md): the name that a program meant leaves one denial; its
//! completions are counted and leave one record a minute, so that they bury nothing.
//!
//! Which one a name is shows only by what is asked next. A name that may be a completion is therefore answered at
//! once and its denial held: if the name without the domain follows, it was one; if nothing follows, it was meant.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis_names::{Name, NameRef, RecordType};
use portcullis_policy::Request;
use portcullis_record::{Prepared, Recorder};
use smallvec::SmallVec;
use tokio::time::{Instant, sleep};

use crate::policy_in_force::InForce;
use crate::query::{ClientQuery, Decided, Refusal, Ruling, Source};
use crate::search::SearchList;

/// How long a denial is held: stub resolvers ask for the next name as soon as they have an answer.
const HOLD: Duration = Duration::from_secs(1);

/// How long after a refused name its completions are known for what they are.
const MEANT_FOR: Duration = Duration::from_secs(5);

/// Denials that are held at a time; further ones are recorded at once.
const MAX_HELD: usize = 64;

/// Refused names that are remembered.
const MAX_MEANT: usize = 64;

/// Names that one name may be a completion of.
type Shorter = SmallVec<[Name; 2]>;

/// The searches of one sandbox's programs.
pub(crate) struct Searches {
    pub list: SearchList,
    recorder: Recorder,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Vec<Held>,
    /// The refused names that were meant, oldest first.
    meant: Vec<(Name, Instant)>,
    /// The number of the next one that is held.
    next: u64,
}

/// A denial that is not recorded yet.
struct Held {
    number: u64,
    name: Name,
    qtype: RecordType,
    shorter: Shorter,
    source: Source,
    in_force: InForce,
    ruling: Ruling,
    prepared: Prepared,
}

/// What a name turns out to be.
enum Kind {
    /// It was meant.
    Meant,
    /// The search list made it of another one.
    Completion,
    /// What follows will tell.
    Open(Shorter),
}

impl Searches {
    pub(crate) fn new(list: SearchList, recorder: Recorder) -> Searches {
        Searches {
            list,
            recorder,
            state: Mutex::default(),
        }
    }

    /// Refuses a name that no rule lists. `true` where equal questions may get the same at once.
    pub(crate) fn refuse(
        self: &Arc<Self>,
        query: &ClientQuery<'_>,
        decided: &Decided<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        if self.list.is_empty() {
            query.refuse(decided, Refusal::Absent, out);
            return true;
        }
        match self.kind_of(query, decided) {
            Kind::Meant => {
                // Where a completion is listed already, the program did not search.
                let listed = |name: &Name| is_listed(decided, name, query.qtype());
                let searched = !self.list.completed(query.name).any(|name| listed(&name));
                let full = self.list.full_name(query.name).filter(|_| searched);
                let full = full.as_ref().map(Name::as_ref);
                query.refuse_for(decided, full.unwrap_or(query.name), out);
                // It stays known as meant for longer than an answer is repeated.
                return true;
            }
            Kind::Completion => query.refuse_completion(self.domain_of(query.name), out),
            Kind::Open(shorter) => self.hold(query, decided, shorter, out),
        }
        false
    }

    /// Records what is held, at the end of the sandbox.
    pub(crate) fn record_held(&self) {
        let held = std::mem::take(&mut self.state().held);
        held.into_iter().for_each(|held| self.record(&held));
    }

    fn kind_of(&self, query: &ClientQuery<'_>, decided: &Decided<'_>) -> Kind {
        let (name, qtype, now) = (query.name, query.qtype(), Instant::now());
        let shorter: Shorter = self.list.shortened(name).collect();
        let mut state = self.state();
        state.meant.retain(|(_, at)| now - *at < MEANT_FOR);
        let is = |known: &Name| known.as_ref() == name;
        let is_shorter = |known: &Name| shorter.contains(known);
        let completions: Vec<Held> = state
            .held
            .extract_if(.., |held| held.shorter.iter().any(is))
            .collect();
        if !completions.is_empty() {
            state.mean(name, now);
            drop(state);
            for held in &completions {
                query.record_completion(self.domain_of(held.name.as_ref()));
            }
            return Kind::Meant;
        }
        // What is completed further was meant as it was.
        let meant: Vec<Held> = state
            .held
            .extract_if(.., |held| is_shorter(&held.name))
            .collect();
        for held in &meant {
            state.mean(held.name.as_ref(), now);
        }
        let known = state.meant.iter().any(|(name, _)| is_shorter(name));
        let listed = |name: &Name| is_listed(decided, name, qtype);
        let kind = if known
            || shorter.iter().any(|short| {
                self.list
                    .candidates(short.as_ref())
                    .any(|name| listed(&name))
            }) {
            Kind::Completion
        } else if state.held.len() >= MAX_HELD
            || shorter
                .iter()
                .all(|short| self.list.is_tried_first(short.as_ref()))
        {
            state.mean(name, now);
            Kind::Meant
        } else {
            Kind::Open(shorter)
        };
        drop(state);
        meant.iter().for_each(|held| self.record(held));
        kind
    }

    fn hold(
        self: &Arc<Self>,
        query: &ClientQuery<'_>,
        decided: &Decided<'_>,
        shorter: Shorter,
        out: &mut Vec<u8>,
    ) {
        let prepared = query.refuse_for_now(decided, out);
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.held.push(Held {
            number,
            name: query.name.to_name(),
            qtype: query.qtype(),
            shorter,
            source: query.source,
            in_force: decided.in_force.clone(),
            ruling: decided.ruling,
            prepared,
        });
        drop(state);
        let searches = self.clone();
        tokio::spawn(async move {
            sleep(HOLD).await;
            let mut state = searches.state();
            let at = state.held.iter().position(|held| held.number == number);
            let held = at.map(|at| state.held.swap_remove(at));
            drop(state);
            if let Some(held) = held {
                searches.record(&held);
            }
        });
    }

    /// Records a denial that was held: nothing followed, so the name was meant.
    fn record(&self, held: &Held) {
        let (name, qtype) = (held.name.as_ref(), held.qtype);
        let policy = &held.in_force.policy;
        let mut event = held.source.event(held.ruling.verdict, held.ruling.reason);
        event.name = Some(name.as_str());
        event.qtype = Some(qtype);
        event.rule = held.ruling.rule.map(|rule| {
            let info = policy.rule(rule);
            (info.text, info.source)
        });
        event.prepared = Some(&held.prepared);
        let suggest = || policy.suggestion(&Request::Lookup { name, qtype });
        let now = std::time::Instant::now();
        self.recorder.decide(&event, now, &suggest);
    }

    /// The domain that a completion ends with, for the record.
    fn domain_of<'n>(&self, name: NameRef<'n>) -> &'n str {
        let short = self.list.shortened(name).next();
        let at = short.map_or(0, |short| short.as_str().len() + 1);
        name.as_str().get(at..).unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_listed(decided: &Decided<'_>, name: &Name, qtype: RecordType) -> bool {
    // Others than those of a pattern, under which any name would do.
    decided.in_force.policy.lists_exactly(name.as_ref())
        && decided.in_force.decide(name.as_ref(), qtype).permits()
}

impl State {
    /// Remembers that a refused name was meant.
    fn mean(&mut self, name: NameRef<'_>, now: Instant) {
        self.meant.retain(|(known, _)| known.as_ref() != name);
        if self.meant.len() == MAX_MEANT {
            self.meant.remove(0);
        }
        self.meant.push((name.to_name(), now));
    }
}
