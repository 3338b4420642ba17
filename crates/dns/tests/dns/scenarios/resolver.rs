//! A resolver of a scenario: its records, and what it does wrong.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};

use super::rr;
use super::tree::{Line, duration};
use crate::memory::MemoryNetwork;
use crate::world::{Act, Heard, Zone, fqdn, response};

/// How long after a forgery the true answer comes.
const FORGERY_LEAD: Duration = Duration::from_millis(20);

/// The address in forged answers, which no program may ever see.
const FORGED: &str = "198.51.100.66";

/// What a resolver does about a query besides answering it.
#[derive(Clone, Debug)]
enum Way {
    Answers,
    Silent,
    /// The next so many are lost.
    Loses(usize),
    Takes(Duration),
    Code(ResponseCode),
    /// UDP answers have no room for anything.
    Truncates,
    /// Something else comes first.
    Forges(Forgery),
    /// What comes is no answer.
    Garbage,
}

#[derive(Clone, Copy, Debug)]
enum Forgery {
    Id,
    Name,
    Type,
    Query,
    Opcode,
    NoQuestion,
}

/// An answer written out for one question.
#[derive(Clone, Debug)]
struct Written {
    question: String,
    message: Message,
}

struct State {
    zone: Zone,
    way: Way,
    written: Vec<Written>,
}

/// A resolver at an address of the network in memory.
#[derive(Clone)]
pub struct Resolver {
    pub at: SocketAddr,
    network: MemoryNetwork,
    state: Arc<Mutex<State>>,
    /// Up to where what it heard was looked at.
    pub seen: usize,
}

impl Resolver {
    /// The `index`-th resolver of a scenario.
    pub fn new(network: &MemoryNetwork, index: u8) -> Resolver {
        let resolver = Resolver {
            at: SocketAddr::from(([192, 0, 2, 53 + index], 53)),
            network: network.clone(),
            state: Arc::new(Mutex::new(State {
                zone: Zone::default(),
                way: Way::Answers,
                written: Vec::new(),
            })),
            seen: 0,
        };
        resolver.open();
        resolver
    }

    fn open(&self) {
        let state = self.state.clone();
        self.network
            .serve(self.at, move |heard, _| state.lock().unwrap().acts(heard));
    }

    /// Everything that came in.
    pub fn all_heard(&self) -> Vec<Heard> {
        self.network.heard(self.at)
    }

    /// Does what a line `resolver A ...` says.
    pub fn become_(&self, line: &Line, words: &[&str]) {
        let mut state = self.state.lock().unwrap();
        state.way = match words {
            [] | ["has"] => {
                state.zone = zone(&line.below);
                return;
            }
            ["answers", kind, name, "with"] => {
                let question = format!("{}. {kind}", name.trim_end_matches('.'));
                let message = written(line);
                state.written.retain(|other| other.question != question);
                state.written.push(Written { question, message });
                return;
            }
            ["is", "back"] => {
                state.written.clear();
                drop(state);
                self.open();
                self.state.lock().unwrap().way = Way::Answers;
                return;
            }
            ["is", "closed"] => {
                self.network.close(self.at);
                return;
            }
            ["is", "silent"] => Way::Silent,
            ["loses", number] => match number.parse() {
                Ok(number) => Way::Loses(number),
                Err(_) => line.wrong("how many?"),
            },
            ["takes", time @ ..] => Way::Takes(duration(line, time)),
            ["truncates"] => Way::Truncates,
            ["sends", "garbage"] => Way::Garbage,
            ["forges", what] => Way::Forges(match *what {
                "id" => Forgery::Id,
                "name" => Forgery::Name,
                "type" => Forgery::Type,
                "query" => Forgery::Query,
                "opcode" => Forgery::Opcode,
                "no-question" => Forgery::NoQuestion,
                _ => line.wrong("forges id, name, type, query, opcode or no-question"),
            }),
            ["answers", code] => Way::Code(code_of(line, code)),
            _ => line.wrong("no such thing is known of resolvers"),
        };
    }
}

/// Records, one a line.
fn zone(lines: &[Line]) -> Zone {
    let mut zone = Zone::default();
    for line in lines {
        zone.push(rr::parse(line, &line.words()));
    }
    zone
}

/// A message written out section by section; id and question come from the query.
fn written(line: &Line) -> Message {
    let mut message = Message::query();
    for part in &line.below {
        match part.words().as_slice() {
            ["answer", record @ ..] => message.answers.push(rr::parse(part, record)),
            ["authority", record @ ..] => message.authorities.push(rr::parse(part, record)),
            ["additional", record @ ..] => message.additionals.push(rr::parse(part, record)),
            [code] => message.metadata.response_code = code_of(part, code),
            _ => part.wrong("an answer has a code, answer, authority and additional"),
        }
    }
    message
}

/// A response code by its mnemonic.
pub fn code_of(line: &Line, text: &str) -> ResponseCode {
    match text {
        "NOERROR" => ResponseCode::NoError,
        "FORMERR" => ResponseCode::FormErr,
        "SERVFAIL" => ResponseCode::ServFail,
        "NXDOMAIN" => ResponseCode::NXDomain,
        "NOTIMP" => ResponseCode::NotImp,
        "REFUSED" => ResponseCode::Refused,
        "BADVERS" => ResponseCode::BADVERS,
        _ => line.wrong("no such response code"),
    }
}

impl State {
    fn acts(&mut self, heard: &Heard) -> Vec<Act> {
        let query = heard.message();
        let truth = Act::Send(self.truth(&query, &heard.question()));
        match &mut self.way {
            Way::Silent => Vec::new(),
            Way::Loses(0) | Way::Answers => vec![truth],
            Way::Loses(left) => {
                *left -= 1;
                Vec::new()
            }
            Way::Takes(time) => vec![Act::Wait(*time), truth],
            Way::Code(code) => {
                let mut reply = response(&query);
                reply.metadata.response_code = *code;
                vec![Act::Send(reply.to_vec().unwrap())]
            }
            Way::Truncates if !heard.tcp => {
                let mut reply = response(&query);
                reply.metadata.truncation = true;
                vec![Act::Send(reply.to_vec().unwrap())]
            }
            Way::Truncates => vec![truth],
            Way::Garbage => vec![Act::Send(b"\x00\x01garbage".to_vec())],
            Way::Forges(how) => {
                let forged = Act::Send(forge(&query, *how));
                vec![forged, Act::Wait(FORGERY_LEAD), truth]
            }
        }
    }

    fn truth(&self, query: &Message, question: &str) -> Vec<u8> {
        let lower = question.to_lowercase();
        let written = self.written.iter();
        let Some(one) = written
            .rev()
            .find(|one| one.question.to_lowercase() == lower)
        else {
            return self.zone.answer(query);
        };
        let mut reply = response(query);
        reply.metadata.response_code = one.message.metadata.response_code;
        reply.answers.clone_from(&one.message.answers);
        reply.authorities.clone_from(&one.message.authorities);
        reply.additionals.clone_from(&one.message.additionals);
        reply.to_vec().unwrap()
    }
}

/// What an attacker would send who guesses all but one thing right.
fn forge(query: &Message, how: Forgery) -> Vec<u8> {
    let mut reply = response(query);
    let asked = query.queries[0].name().clone();
    let data = RData::A(hickory_proto::rr::rdata::A(FORGED.parse().unwrap()));
    reply.answers.push(Record::from_rdata(asked, 86_400, data));
    match how {
        Forgery::Name => {
            for question in &mut reply.queries {
                question.set_name(fqdn("other.example"));
            }
        }
        Forgery::Type => {
            for question in &mut reply.queries {
                question.set_query_type(RecordType::TXT);
            }
        }
        Forgery::NoQuestion => reply.queries.clear(),
        Forgery::Id | Forgery::Query | Forgery::Opcode => {}
    }
    let mut bytes = reply.to_vec().unwrap();
    match how {
        Forgery::Id => bytes[1] ^= 1,
        Forgery::Query => bytes[2] &= 0x7f,
        Forgery::Opcode => bytes[2] |= 0x20,
        _ => {}
    }
    bytes
}
