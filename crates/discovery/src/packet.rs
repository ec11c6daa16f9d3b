//! Reading and building multicast DNS packets. Only names of this service leave this module; what else a packet
//! says is skipped.

use crate::{
    label::Label,
    limits::{
        LABELS_PER_PACKET_MAX, PACKET_BYTES_MAX, QUESTIONS_MAX, RECORDS_MAX, SENT_BYTES_MAX, TTL,
        TTL_LEGACY,
    },
    subject::Subject,
};
use dosvc_content::PeerId;
use hickory_proto::{
    op::{Header, Message, MessageType, OpCode, Query as DnsQuery, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{PTR, SRV, TXT},
    },
    serialize::binary::{BinDecodable as _, BinDecoder, DecodeError},
};
use std::net::IpAddr;

/// A packet that concerns this service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    Query(Query),
    Response(Response),
}

/// Questions, and the answers that the asker has already.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Query {
    /// To be repeated towards resolvers that don't speak multicast DNS.
    pub(crate) id: u16,
    pub(crate) questions: Vec<Question>,
    pub(crate) known: Vec<Holder>,
    /// More known answers follow in another packet.
    pub(crate) truncated: bool,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) subject: Subject,
    pub(crate) record_type: RecordType,
    /// The asker wants the answer for itself, not for the link.
    pub(crate) unicast: bool,
}

/// What a machine says about itself or others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Response {
    pub(crate) holders: Vec<Holder>,
    pub(crate) services: Vec<Service>,
    pub(crate) addresses: Vec<Address>,
}

/// A peer that holds a content; a goodbye when the time to live is 0 seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) label: Label,
    pub(crate) peer: PeerId,
    pub(crate) ttl_s: u32,
}

/// The port of a peer; a goodbye when the time to live is 0 seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) peer: PeerId,
    pub(crate) port: u16,
    pub(crate) ttl_s: u32,
}

/// An address of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) peer: PeerId,
    pub(crate) ip: IpAddr,
}

/// Why a packet was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PacketError {
    #[error("{0} bytes are too many")]
    TooLong(usize),
    #[error("{questions} questions and {records} records are too many")]
    TooMany { questions: usize, records: usize },
    #[error("{0}")]
    Malformed(#[from] DecodeError),
}

/// Whether a packet has, in plain bytes, one of the labels that all names of ours have: those of the service, or
/// the name of our own host. Spares the work of reading
/// the link's other traffic, mistakes included.
pub(crate) fn concerns(bytes: &[u8], host: &str) -> bool {
    let labels: [&[u8]; 3] = [b"\x06_dosvc", b"\x07_dns-sd", host.as_bytes()];
    labels.iter().any(|label| {
        bytes
            .windows(label.len())
            .any(|part| part.eq_ignore_ascii_case(label))
    })
}

/// Reads a packet; `None` when it is neither a query nor a response of multicast DNS.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Packet>, PacketError> {
    if bytes.len() > PACKET_BYTES_MAX {
        return Err(PacketError::TooLong(bytes.len()));
    }
    let mut decoder = BinDecoder::new(bytes);
    let header = Header::read(&mut decoder)?;
    let counts = header.counts;
    let answers = usize::from(counts.answers);
    let records = answers + usize::from(counts.authorities) + usize::from(counts.additionals);
    let questions = usize::from(counts.queries);
    if questions > QUESTIONS_MAX || records > RECORDS_MAX {
        return Err(PacketError::TooMany { questions, records });
    }
    // RFC 6762, sections 18.3 and 18.11: other operations and errors are silently ignored.
    if header.op_code != OpCode::Query || header.response_code != ResponseCode::NoError {
        return Ok(None);
    }
    let questions = read_questions(&mut decoder, questions)?;
    Ok(Some(match header.message_type {
        MessageType::Query => Packet::Query(Query {
            id: header.id,
            questions,
            known: read_records(&mut decoder, answers)?.holders,
            truncated: header.truncation,
        }),
        MessageType::Response => Packet::Response(read_records(&mut decoder, records)?),
    }))
}

fn read_questions(
    decoder: &mut BinDecoder<'_>,
    count: usize,
) -> Result<Vec<Question>, DecodeError> {
    let mut questions = Vec::new();
    for _ in 0..count {
        let query = DnsQuery::read(decoder)?;
        if let Some(subject) = Subject::of(&query.name)
            && matches!(query.query_class, DNSClass::IN | DNSClass::ANY)
            && subject.has(query.query_type)
        {
            questions.push(Question {
                subject,
                record_type: query.query_type,
                unicast: query.mdns_unicast_response,
            });
        }
    }
    Ok(questions)
}

fn read_records(decoder: &mut BinDecoder<'_>, count: usize) -> Result<Response, DecodeError> {
    let mut response = Response::default();
    for _ in 0..count {
        let record = Record::read(decoder)?;
        if record.dns_class != DNSClass::IN {
            continue;
        }
        let ttl_s = record.ttl;
        match (Subject::of(&record.name), &record.data) {
            (Some(Subject::Content(label)), RData::PTR(PTR(target))) => {
                if let Some(Subject::Instance(peer)) = Subject::of(target) {
                    response.holders.push(Holder { label, peer, ttl_s });
                }
            }
            // A service on somebody else's host would let a machine point at another.
            (Some(Subject::Instance(peer)), RData::SRV(srv))
                if srv.port != 0 && Subject::of(&srv.target) == Some(Subject::Host(peer)) =>
            {
                let port = srv.port;
                response.services.push(Service { peer, port, ttl_s });
            }
            (Some(Subject::Host(peer)), RData::A(a)) if ttl_s > 0 => {
                let ip = a.0.into();
                response.addresses.push(Address { peer, ip });
            }
            (Some(Subject::Host(peer)), RData::AAAA(aaaa)) if ttl_s > 0 => {
                let ip = aaaa.0.into();
                response.addresses.push(Address { peer, ip });
            }
            _ => {}
        }
    }
    Ok(response)
}

/// The packets that ask for the holders of a content, and for what is missing of `unresolved` peers. Known
/// answers that don't fit one packet go into the next, all but the last marked as truncated (RFC 6762, 7.2).
pub(crate) fn query(label: Label, unresolved: &[PeerId], known: &[Holder]) -> Vec<Vec<u8>> {
    let mut first = Message::new(0, MessageType::Query, OpCode::Query);
    first.add_query(DnsQuery::query(
        Subject::Content(label).name(),
        RecordType::PTR,
    ));
    for &peer in unresolved {
        for subject in [Subject::Instance(peer), Subject::Host(peer)] {
            first.add_query(DnsQuery::query(subject.name(), RecordType::ANY));
        }
    }
    // A question takes about 60 bytes, two for each unresolved peer about 120, a known answer about 80.
    let mut room = (SENT_BYTES_MAX - 100 - unresolved.len() * 120) / 80;
    let mut messages = vec![first];
    for holder in known {
        if room == 0 {
            room = (SENT_BYTES_MAX - 100) / 80;
            messages.push(Message::new(0, MessageType::Query, OpCode::Query));
        }
        room -= 1;
        if let Some(message) = messages.last_mut() {
            message.add_answer(pointer(holder.label, holder.peer, holder.ttl_s));
        }
    }
    let last = messages.len() - 1;
    for message in &mut messages[..last] {
        message.metadata.truncation = true;
    }
    messages.iter().map(encode).collect()
}

/// What our answers say about us on one link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Us<'a> {
    pub(crate) peer: PeerId,
    pub(crate) port: u16,
    pub(crate) addrs: &'a [IpAddr],
}

/// The answer to questions for these subjects, with all that is needed to connect: pointers as answers, the rest as
/// additional records unless asked for.
pub(crate) fn response(us: Us<'_>, subjects: &[Subject]) -> Vec<u8> {
    encode(&build_response(us, subjects))
}

/// The answer to a resolver that asked from another port (RFC 6762, section 6.7): its id and questions are
/// repeated, times to live are short, no record has the cache-flush bit.
pub(crate) fn legacy_response(us: Us<'_>, id: u16, questions: &[Question]) -> Vec<u8> {
    let subjects: Vec<_> = questions.iter().map(|q| q.subject).collect();
    let mut message = build_response(us, &subjects);
    message.metadata.id = id;
    for question in questions {
        let name = question.subject.name();
        message.add_query(DnsQuery::query(name, question.record_type));
    }
    for record in message.answers.iter_mut().chain(&mut message.additionals) {
        record.mdns_cache_flush = false;
        record.ttl = seconds(TTL_LEGACY);
    }
    encode(&message)
}

/// The packet that takes back our pointers for these contents, and with `leaving` our instance too.
pub(crate) fn goodbye(us: Us<'_>, labels: &[Label], leaving: bool) -> Vec<u8> {
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.authoritative = true;
    for &label in labels {
        message.add_answer(pointer(label, us.peer, 0));
    }
    if leaving {
        message.add_answers(instance_records(us).into_iter().map(|mut record| {
            record.ttl = 0;
            record
        }));
    }
    encode(&message)
}

fn build_response(us: Us<'_>, subjects: &[Subject]) -> Message {
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.authoritative = true;
    let mut instance_asked = false;
    let mut host_asked = false;
    for subject in subjects.iter().take(LABELS_PER_PACKET_MAX) {
        match subject {
            Subject::Content(label) => {
                message.add_answer(pointer(*label, us.peer, seconds(TTL)));
            }
            Subject::Service => {
                let target = Subject::Instance(us.peer).name();
                message.add_answer(record(Subject::Service.name(), RData::PTR(PTR(target))));
            }
            Subject::ServiceTypes => {
                let target = Subject::Service.name();
                message.add_answer(record(
                    Subject::ServiceTypes.name(),
                    RData::PTR(PTR(target)),
                ));
            }
            Subject::Instance(_) => instance_asked = true,
            Subject::Host(_) => host_asked = true,
        }
    }
    let instance = instance_records(us);
    let host = us.addrs.iter().map(|&ip| address(us.peer, ip));
    if instance_asked {
        message.add_answers(instance);
    } else if !host_asked {
        message.add_additionals(instance);
    }
    if host_asked {
        message.add_answers(host);
    } else {
        message.add_additionals(host);
    }
    message
}

/// SRV and TXT of our instance; they are ours alone, so they replace what others remember of them.
fn instance_records(us: Us<'_>) -> [Record; 2] {
    let name = Subject::Instance(us.peer).name();
    let srv = SRV::new(0, 0, us.port, Subject::Host(us.peer).name());
    // Versions of this record and of the swarm protocol (RFC 6763, sections 6.6 and 6.7); the program's own version
    // is not the link's business.
    let txt = TXT::from_bytes(vec![b"txtvers=1", b"protovers=1"]);
    [
        flushing(record(name.clone(), RData::SRV(srv))),
        flushing(record(name, RData::TXT(txt))),
    ]
}

fn address(peer: PeerId, ip: IpAddr) -> Record {
    let data = match ip {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    };
    flushing(record(Subject::Host(peer).name(), data))
}

fn pointer(label: Label, peer: PeerId, ttl_s: u32) -> Record {
    let target = Subject::Instance(peer).name();
    Record::from_rdata(
        Subject::Content(label).name(),
        ttl_s,
        RData::PTR(PTR(target)),
    )
}

fn record(name: Name, data: RData) -> Record {
    Record::from_rdata(name, seconds(TTL), data)
}

fn flushing(mut record: Record) -> Record {
    record.mdns_cache_flush = true;
    record
}

fn seconds(ttl: std::time::Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)
}

fn encode(message: &Message) -> Vec<u8> {
    message
        .to_vec()
        .expect("a few short names and records always encode")
}

#[cfg(test)]
mod tests;
