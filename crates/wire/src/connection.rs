//! The protocol state of one peer connection after the handshakes.
//!
//! No socket, no clock: whoever drives a [`Connection`] tells it what arrived and what time it is, and asks it
//! what to send, what happened and when to come back. Equal inputs give equal outputs.
//!
//! - **Input**: [`Connection::handle_header`] for each header that arrives; it says what to do with the data that
//!   follows ([`Payload`]). [`Connection::handle_received`] and [`Connection::handle_sent`] for bytes that
//!   moved, [`Connection::handle_timeout`] when the time of [`Connection::poll_timeout`] has come.
//! - **Commands**: choke, announce, request, cancel … put messages into the buffer that
//!   [`Connection::poll_transmit`] empties.
//! - **Output**: [`Connection::poll_event`].
//!
//! An error of a `handle_*` method is final: the connection is to be closed.

mod requests;

use crate::codec::{DecodeError, Header, RawBlock};
use crate::extension::{
    CAPABILITY_PARTS, CAPABILITY_RELAYS, CAPABILITY_WAITS, EXTENSION_PREFIX_LEN, Extension, Prefix,
};
use crate::limits::{
    FETCHING_MAX, Limits, METAINFO_REQUESTS_MAX, METAINFO_WANTED_MAX, PIECE_PAYLOAD_MAX,
    PIECES_MAX, REQUESTS_IGNORED_MAX,
};
use dosvc_content::{Bitfield, BitfieldError, Block, HResult, PieceIndex, PieceLengths};
use requests::{Answer, Requests};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Which rule of the protocol the peer broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The bytes are no message.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// A bitfield that is not the first message, or a second one.
    #[error("bitfield after other messages")]
    LateBitfield,
    /// A bitfield that does not fit the content.
    #[error(transparent)]
    BadBitfield(#[from] BitfieldError),
    /// A piece index past the last piece.
    #[error("piece {0} is outside the content")]
    NoSuchPiece(u32),
    /// A range outside its piece, or one too long for an answer.
    #[error("range outside the content: {0:?}")]
    BadRange(RawBlock),
    /// A block that was not asked for.
    #[error("block that was not requested: {0:?}")]
    Unrequested(RawBlock),
    /// Another block, or another part of it, before the rest of one that comes in parts.
    #[error("part of a block out of turn: {0:?}")]
    OutOfTurn(RawBlock),
    /// Hashes that were not asked for.
    #[error("metainfo that was not requested")]
    UnrequestedMetainfo,
    /// Too many requests without patience.
    #[error("more than {REQUESTS_IGNORED_MAX} requests past the limits")]
    RequestFlood,
}

impl Violation {
    /// The code that Windows reports for it.
    pub fn hresult(self) -> HResult {
        match self {
            Self::Malformed(error) => error.hresult(),
            _ => HResult::MESSAGE_INVALID,
        }
    }
}

/// Which side of the connection stood still for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Expired {
    /// Nothing arrived.
    #[error("the peer is silent")]
    Silent,
    /// Nothing could be sent.
    #[error("the peer takes nothing")]
    Stalled,
}

/// What to do with the data that follows a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// There is none.
    None,
    /// The bytes of a block that we asked for, or the next ones of it.
    Block {
        /// What we asked for.
        block: Block,
        /// How many bytes of it follow here.
        part: u32,
    },
    /// Read and drop this many bytes: they answer a withdrawn request.
    Drain(u32),
    /// Collect this many bytes for [`Connection::handle_bitfield`].
    Bitfield(u32),
    /// Collect the first bytes of this many, at most [`EXTENSION_PREFIX_LEN`], for
    /// [`Connection::handle_extension_prefix`].
    Extension(u32),
}

/// What happened at the peer's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEvent {
    /// The pieces that the peer has. At most once.
    Bitfield(Bitfield),
    /// The peer has one more piece (or says so again).
    Have(PieceIndex),
    /// All our requests are void; the peer answers none until [`PeerEvent::Unchoked`].
    Choked,
    /// The peer answers requests.
    Unchoked,
    /// Whether the peer wants anything from us.
    Interested(bool),
    /// The peer asks for a block. Only while we do not choke it.
    Requested(Block),
    /// The peer no longer wants a block that it asked for.
    Cancelled(Block),
    /// The peer will not send this block, or not the rest of it, that we asked for and that was on its way to it.
    Abandoned(Block),
    /// A message of our own kind.
    Extension(Extension),
}

/// What has moved so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// All bytes that arrived.
    pub bytes_received: u64,
    /// All bytes sent.
    pub bytes_sent: u64,
    /// Bytes of blocks that arrived and were asked for.
    pub payload_received: u64,
    /// Bytes of blocks that arrived after they were withdrawn.
    pub payload_wasted: u64,
    /// Bytes of blocks sent in full.
    pub payload_sent: u64,
    /// Requests of the peer that were ignored.
    pub requests_ignored: u64,
}

/// What is known of the peer's pieces before the content's dimensions are.
#[derive(Debug, Default)]
struct EarlyPieces {
    bits: Vec<u8>,
    /// The bits came in a bitfield message, so their number of bytes must fit the content.
    bitfield: bool,
}

/// A block that comes in parts.
#[derive(Debug, Clone, Copy)]
struct Arriving {
    block: Block,
    /// Bytes of it that were announced so far.
    done: u32,
    answer: Answer,
}

impl Arriving {
    /// With the part that must come next.
    fn next(self, part: Block) -> Option<Self> {
        let in_turn = part.piece() == self.block.piece()
            && part.offset() == self.block.offset() + self.done
            && part.len() <= self.block.len() - self.done;
        in_turn.then(|| Self {
            done: self.done + part.len(),
            ..self
        })
    }
}

/// Bytes of memory for messages that a connection keeps; a long one takes its own away.
const TRANSMIT_KEPT: usize = 4 << 10;

/// The protocol state of one established connection. What each message changes lies first, and together: who has many
/// connections finds none of them in the processor's cache.
#[derive(Debug)]
#[repr(C)]
pub struct Connection {
    received_at: Instant,
    sent_at: Instant,
    keep_alive_at: Instant,
    stats: Stats,
    limits: Limits,
    choking: bool,
    interested: bool,
    peer_choking: bool,
    peer_interested: bool,
    /// The peer sent something other than extensions and keep-alives: no bitfield any more.
    peer_began: bool,
    /// The same for our side.
    began: bool,
    /// We said that we take blocks in parts.
    parts_in: bool,
    /// The peer said so.
    parts_out: bool,
    /// Somebody waits for what the peer fetches.
    peer_waits: bool,
    /// We said that we take pieces while they arrive.
    relays_in: bool,
    receive_held: bool,
    send_held: bool,
    /// Requests of the peer whose answers have not gone out yet, those in `transmit` included.
    metainfo_owed: u32,
    /// Answers in `transmit`.
    metainfo_queued: u32,
    transmit: Vec<u8>,
    events: VecDeque<PeerEvent>,
    /// The block of which a part is here, and the rest is to follow.
    arriving: Option<Arriving>,
    lengths: Option<PieceLengths>,
    requests: Requests,
    /// Requests of the peer; true once an answer is queued.
    peer_requests: BTreeMap<Block, bool>,
    ignored_in_a_row: u32,
    metainfo_wanted: VecDeque<(u32, u32)>,
    early: EarlyPieces,
}

impl Connection {
    /// A connection whose handshakes were exchanged at `now`. Without `lengths`, what the peer says about its
    /// pieces is kept until [`Self::set_lengths`].
    pub fn new(lengths: Option<PieceLengths>, limits: Limits, now: Instant) -> Self {
        Self {
            lengths,
            limits,
            choking: true,
            interested: false,
            peer_choking: true,
            peer_interested: false,
            peer_began: false,
            began: false,
            early: EarlyPieces::default(),
            requests: Requests::default(),
            arriving: None,
            parts_in: false,
            parts_out: false,
            peer_waits: false,
            relays_in: false,
            peer_requests: BTreeMap::new(),
            ignored_in_a_row: 0,
            metainfo_wanted: VecDeque::new(),
            metainfo_owed: 0,
            metainfo_queued: 0,
            transmit: Vec::new(),
            events: VecDeque::new(),
            received_at: now,
            sent_at: now,
            keep_alive_at: now + limits.keep_alive_interval,
            receive_held: false,
            send_held: false,
            stats: Stats::default(),
        }
    }

    // ---- what arrives ----

    /// A header arrived; the answer says what to do with the data behind it.
    ///
    /// # Errors
    /// [`Violation`] names the rule that the peer broke.
    pub fn handle_header(&mut self, now: Instant, header: Header) -> Result<Payload, Violation> {
        let bitfield_allowed = !self.peer_began;
        self.peer_began |= !matches!(header, Header::KeepAlive | Header::Extension { .. });
        match header {
            Header::KeepAlive => {}
            Header::Choke => self.handle_choke(now),
            Header::Unchoke => {
                if std::mem::replace(&mut self.peer_choking, false) {
                    self.events.push_back(PeerEvent::Unchoked);
                }
            }
            Header::Interested => self.handle_interest(true),
            Header::NotInterested => self.handle_interest(false),
            Header::Have(piece) => self.handle_have(piece)?,
            Header::Bitfield { length } => {
                if !bitfield_allowed {
                    return Err(Violation::LateBitfield);
                }
                self.check_bitfield_len(length)?;
                return Ok(Payload::Bitfield(length));
            }
            Header::Request(raw) => self.handle_request(raw)?,
            Header::Cancel(raw) => self.handle_cancel(raw)?,
            Header::Piece(raw) => return self.handle_piece(now, raw),
            Header::Extension { length } => return Ok(Payload::Extension(length)),
        }
        Ok(Payload::None)
    }

    fn handle_choke(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.peer_choking, true) {
            // What was on its way when the peer choked may still arrive.
            self.requests.withdraw_all(now);
            self.events.push_back(PeerEvent::Choked);
        }
    }

    fn handle_interest(&mut self, interested: bool) {
        if std::mem::replace(&mut self.peer_interested, interested) != interested {
            self.events.push_back(PeerEvent::Interested(interested));
        }
    }

    fn handle_have(&mut self, index: u32) -> Result<(), Violation> {
        if let Some(lengths) = &self.lengths {
            let piece = lengths.piece(index).ok_or(Violation::NoSuchPiece(index))?;
            self.events.push_back(PeerEvent::Have(piece));
            return Ok(());
        }
        let at = index as usize / 8;
        if self.early.bitfield && at >= self.early.bits.len() || index >= PIECES_MAX {
            return Err(Violation::NoSuchPiece(index));
        }
        if at >= self.early.bits.len() {
            self.early.bits.resize(at + 1, 0);
        }
        self.early.bits[at] |= 0x80 >> (index % 8);
        Ok(())
    }

    fn check_bitfield_len(&self, length: u32) -> Result<(), Violation> {
        let got = length as usize;
        match &self.lengths {
            Some(lengths) => {
                let want = Bitfield::wire_len(lengths.piece_count());
                if got != want {
                    return Err(BitfieldError::WrongLength { got, want }.into());
                }
            }
            // Any length that a message can have is possible for some content.
            None => debug_assert!(got <= Bitfield::wire_len(PIECES_MAX)),
        }
        Ok(())
    }

    /// The data that [`Payload::Bitfield`] asked for.
    ///
    /// # Errors
    /// [`Violation`] when the bits do not fit the content.
    pub fn handle_bitfield(&mut self, bits: Vec<u8>) -> Result<(), Violation> {
        match &self.lengths {
            Some(lengths) => {
                let field = Bitfield::from_wire(lengths.piece_count(), &bits)?;
                self.events.push_back(PeerEvent::Bitfield(field));
            }
            None => {
                self.early = EarlyPieces {
                    bits,
                    bitfield: true,
                };
            }
        }
        Ok(())
    }

    fn handle_request(&mut self, raw: RawBlock) -> Result<(), Violation> {
        let Some(lengths) = &self.lengths else {
            return self.ignore_request();
        };
        let block = lengths
            .block(raw.piece, raw.offset, raw.length)
            .filter(|block| block.len() <= PIECE_PAYLOAD_MAX)
            .ok_or(Violation::BadRange(raw))?;
        if self.choking
            || self.peer_requests.len() >= self.limits.requests_max
            || self.peer_requests.contains_key(&block)
        {
            return self.ignore_request();
        }
        self.peer_requests.insert(block, false);
        self.events.push_back(PeerEvent::Requested(block));
        Ok(())
    }

    fn ignore_request(&mut self) -> Result<(), Violation> {
        self.stats.requests_ignored += 1;
        self.ignored_in_a_row += 1;
        if self.ignored_in_a_row > REQUESTS_IGNORED_MAX {
            return Err(Violation::RequestFlood);
        }
        Ok(())
    }

    fn handle_cancel(&mut self, raw: RawBlock) -> Result<(), Violation> {
        let Some(lengths) = &self.lengths else {
            return Ok(());
        };
        let block = lengths
            .block(raw.piece, raw.offset, raw.length)
            .ok_or(Violation::BadRange(raw))?;
        if self.peer_requests.remove(&block).is_some() {
            self.events.push_back(PeerEvent::Cancelled(block));
        }
        Ok(())
    }

    fn handle_piece(&mut self, now: Instant, raw: RawBlock) -> Result<Payload, Violation> {
        let part = self
            .lengths
            .as_ref()
            .ok_or(Violation::Unrequested(raw))?
            .block(raw.piece, raw.offset, raw.length)
            .ok_or(Violation::BadRange(raw))?;
        let Arriving {
            block,
            done,
            answer,
        } = match self.arriving.take() {
            Some(arriving) => arriving.next(part).ok_or(Violation::OutOfTurn(raw))?,
            None => self
                .first_part(now, part)
                .ok_or(Violation::Unrequested(raw))?,
        };
        if done < block.len() {
            self.arriving = Some(Arriving {
                block,
                done,
                answer,
            });
        }
        let part = part.len();
        match answer {
            Answer::Wanted => {
                self.stats.payload_received += u64::from(part);
                Ok(Payload::Block { block, part })
            }
            Answer::Withdrawn => {
                self.stats.payload_wasted += u64::from(part);
                Ok(Payload::Drain(part))
            }
        }
    }

    /// Which of our requests these bytes answer, or begin to answer.
    fn first_part(&mut self, now: Instant, part: Block) -> Option<Arriving> {
        let whole = self.requests.answer(now, part).map(|answer| (part, answer));
        let found = whole.or_else(|| {
            let begun = |block: &Block| {
                (block.piece(), block.offset()) == (part.piece(), part.offset())
                    && part.len() < block.len()
            };
            let block = self.requests.find(begun).filter(|_| self.parts_in)?;
            Some((block, self.requests.answer(now, block)?))
        });
        found.map(|(block, answer)| Arriving {
            block,
            done: part.len(),
            answer,
        })
    }

    /// The first bytes of an extension's payload of `length` bytes, at most [`EXTENSION_PREFIX_LEN`]: true to
    /// collect all of it for [`Self::handle_extension`], false to drop the rest.
    ///
    /// # Errors
    /// [`Violation`] when it is one of our own messages and cannot have this length.
    pub fn handle_extension_prefix(
        &mut self,
        prefix: &[u8],
        length: u32,
    ) -> Result<bool, Violation> {
        debug_assert!(prefix.len() <= EXTENSION_PREFIX_LEN as usize);
        let known = Extension::check_prefix(prefix, length)? == Prefix::Known;
        if known && Extension::is_metainfo(prefix) && self.metainfo_wanted.is_empty() {
            // Before a megabyte of it is collected.
            return Err(Violation::UnrequestedMetainfo);
        }
        Ok(known)
    }

    /// A whole extension payload.
    ///
    /// # Errors
    /// [`Violation`] when the message is garbled, or answers nothing.
    pub fn handle_extension(&mut self, payload: &[u8]) -> Result<(), Violation> {
        let Some(extension) = Extension::decode(payload)? else {
            return Ok(());
        };
        match &extension {
            Extension::MetainfoRequest { .. } => {
                if self.metainfo_owed >= METAINFO_REQUESTS_MAX {
                    return self.ignore_request();
                }
                self.metainfo_owed += 1;
            }
            Extension::Metainfo { first, hashes, .. } => {
                let answered = self
                    .metainfo_wanted
                    .iter()
                    .position(|(from, count)| from == first && hashes.len() <= *count as usize)
                    .ok_or(Violation::UnrequestedMetainfo)?;
                self.metainfo_wanted.remove(answered);
            }
            Extension::Abandon(raw) => return self.handle_abandon(*raw),
            Extension::Hello { capabilities, .. } => {
                self.parts_out |= capabilities & CAPABILITY_PARTS != 0;
                self.peer_waits = capabilities & CAPABILITY_WAITS != 0;
            }
            _ => {}
        }
        self.events.push_back(PeerEvent::Extension(extension));
        Ok(())
    }

    /// A block that we asked for will not come, or not the rest of it. One of which nothing is here yet may have been
    /// withdrawn and asked for again meanwhile: then the first request is meant.
    fn handle_abandon(&mut self, raw: RawBlock) -> Result<(), Violation> {
        if !self.relays_in {
            return Ok(());
        }
        let lengths = self.lengths.as_ref();
        let block = lengths
            .and_then(|lengths| lengths.block(raw.piece, raw.offset, raw.length))
            .ok_or(Violation::BadRange(raw))?;
        let waited = match self.arriving.take_if(|a| a.block == block) {
            Some(arriving) => arriving.answer == Answer::Wanted,
            None => self.requests.abandon(block),
        };
        if waited {
            self.events.push_back(PeerEvent::Abandoned(block));
        }
        Ok(())
    }

    /// Bytes arrived.
    pub fn handle_received(&mut self, now: Instant, bytes: usize) {
        self.received_at = now;
        self.stats.bytes_received += bytes as u64;
    }

    /// The content's dimensions became known: what the peer said before is judged and told now. A second call
    /// does nothing.
    ///
    /// # Errors
    /// [`Violation`] when the peer named pieces that the content does not have.
    pub fn set_lengths(&mut self, lengths: PieceLengths) -> Result<(), Violation> {
        if self.lengths.is_some() {
            return Ok(());
        }
        self.lengths = Some(lengths);
        let mut early = std::mem::take(&mut self.early);
        let want = Bitfield::wire_len(lengths.piece_count());
        if early.bits.is_empty() && !early.bitfield {
            return Ok(());
        }
        if !early.bitfield && early.bits.len() <= want {
            early.bits.resize(want, 0);
        }
        let field = Bitfield::from_wire(lengths.piece_count(), &early.bits)?;
        self.events.push_back(PeerEvent::Bitfield(field));
        Ok(())
    }

    // ---- commands ----

    /// Stops answering; requests that no answer was begun for are forgotten, as the peer will take it.
    pub fn choke(&mut self) {
        if !std::mem::replace(&mut self.choking, true) {
            self.peer_requests.clear();
            self.put(Header::Choke);
        }
    }

    /// Answers requests from now on.
    pub fn unchoke(&mut self) {
        if std::mem::replace(&mut self.choking, false) {
            self.ignored_in_a_row = 0;
            self.put(Header::Unchoke);
        }
    }

    /// Tells the peer whether it has something that we want.
    pub fn set_interested(&mut self, interested: bool) {
        if std::mem::replace(&mut self.interested, interested) != interested {
            self.put(if interested {
                Header::Interested
            } else {
                Header::NotInterested
            });
        }
    }

    /// Tells the peer of a verified piece.
    pub fn have(&mut self, piece: PieceIndex) {
        self.put(Header::Have(piece.get()));
    }

    /// Tells the peer what we have: a bitfield if it is the first thing that we say, else piece by piece. Of
    /// content with more than [`BITFIELD_PIECES_MAX`](crate::BITFIELD_PIECES_MAX) pieces nothing is told: its
    /// bitfield fits no message and its announcements would weigh 100 MiB.
    pub fn bitfield(&mut self, field: &Bitfield) {
        let length = Bitfield::wire_len(field.piece_count());
        let Ok(length) = u32::try_from(length) else {
            return;
        };
        if field.is_empty() || field.piece_count() > crate::BITFIELD_PIECES_MAX {
            return;
        }
        if self.began {
            field.ones().for_each(|piece| self.have(piece));
        } else {
            self.put(Header::Bitfield { length });
            self.transmit.extend(field.to_wire());
        }
    }

    /// Asks for a block; false when nothing was sent because the peer chokes us, the block is already asked
    /// for or no message could carry it.
    pub fn request(&mut self, block: Block) -> bool {
        let send =
            !self.peer_choking && block.len() <= PIECE_PAYLOAD_MAX && self.requests.insert(block);
        if send {
            self.put(Header::Request(block.into()));
        }
        send
    }

    /// Withdraws a request; false when it is not open (any more): the block's bytes may be arriving already,
    /// and are delivered then.
    pub fn cancel(&mut self, now: Instant, block: Block) -> bool {
        let open = self.requests.withdraw(now, block);
        if open {
            self.put(Header::Cancel(block.into()));
        }
        open
    }

    /// Whether the peer still waits for this block and no answer is queued; if so, one is from now on.
    pub fn accept_answer(&mut self, block: Block) -> bool {
        match self.peer_requests.get_mut(&block) {
            Some(queued @ false) => {
                *queued = true;
                true
            }
            _ => false,
        }
    }

    /// Drops a request of the peer without an answer.
    pub fn refuse(&mut self, block: Block) {
        self.peer_requests.remove(&block);
    }

    /// Tells the peer that it will not get a block that it asked for, or not the rest of it. Only for a peer that said
    /// [`CAPABILITY_RELAYS`]; a part that has begun must go out whole.
    pub fn abandon(&mut self, block: Block) {
        self.peer_requests.remove(&block);
        self.extension(&Extension::Abandon(block.into()));
    }

    /// Whether the peer waits for this block.
    pub fn is_requested(&self, block: Block) -> bool {
        self.peer_requests.contains_key(&block)
    }

    /// An answer begins now: its parts follow, all of them before those of another. False when the peer no longer
    /// waits for it.
    pub fn begin_answer(&mut self, block: Block) -> bool {
        let wanted = self.peer_requests.remove(&block).is_some();
        if wanted {
            self.began = true;
            self.ignored_in_a_row = 0;
        }
        wanted
    }

    /// Whether somebody waits for what the peer fetches, as its last Hello says ([`CAPABILITY_WAITS`]).
    pub fn is_waited_for(&self) -> bool {
        self.peer_waits
    }

    /// Whether an answer may go out in several messages, with others between them.
    pub fn may_part_answers(&self) -> bool {
        self.parts_out
    }

    /// Puts the header of `len` bytes of the block from `from` on into `out`, behind messages that wait.
    pub fn answer_part(&mut self, block: Block, from: u32, len: u32, out: &mut Vec<u8>) {
        self.poll_transmit(out);
        let part = RawBlock {
            piece: block.piece().get(),
            offset: block.offset() + from,
            length: len,
        };
        Header::Piece(part).encode(out);
    }

    /// The last byte of an answer is sent.
    pub fn end_answer(&mut self, block: Block) {
        self.stats.payload_sent += u64::from(block.len());
    }

    /// Sends a message of our own kind. A long [`Extension::Fetching`] goes in several messages.
    pub fn extension(&mut self, extension: &Extension) {
        match extension {
            Extension::MetainfoRequest { first, count } => {
                if self.metainfo_wanted.len() >= METAINFO_WANTED_MAX {
                    self.metainfo_wanted.pop_front();
                }
                self.metainfo_wanted.push_back((*first, *count));
            }
            Extension::Metainfo { .. } => {
                self.metainfo_queued += 1;
            }
            Extension::Hello { capabilities, .. } => {
                self.parts_in |= capabilities & CAPABILITY_PARTS != 0;
                self.relays_in |= capabilities & CAPABILITY_RELAYS != 0;
            }
            Extension::Fetching { add, drop }
                if add.len() > FETCHING_MAX || drop.len() > FETCHING_MAX =>
            {
                for add in add.chunks(FETCHING_MAX) {
                    self.put_extension(&Extension::Fetching {
                        add: add.to_vec(),
                        drop: Vec::new(),
                    });
                }
                for drop in drop.chunks(FETCHING_MAX) {
                    self.put_extension(&Extension::Fetching {
                        add: Vec::new(),
                        drop: drop.to_vec(),
                    });
                }
                return;
            }
            _ => {}
        }
        self.put_extension(extension);
    }

    fn put_extension(&mut self, extension: &Extension) {
        let length =
            u32::try_from(extension.encoded_len()).expect("the lists of an extension are capped");
        self.put(Header::Extension { length });
        extension.encode(&mut self.transmit);
    }

    fn put(&mut self, header: Header) {
        self.began |= !matches!(header, Header::KeepAlive | Header::Extension { .. });
        header.encode(&mut self.transmit);
    }

    // ---- output ----

    /// Appends all messages that wait to be sent, blocks excepted, to `out`.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) {
        if out.capacity() == 0 {
            std::mem::swap(out, &mut self.transmit);
        } else {
            out.append(&mut self.transmit);
            if self.transmit.capacity() > TRANSMIT_KEPT {
                self.transmit = Vec::new();
            }
        }
        // Only a peer that reads is owed more.
        self.metainfo_owed = self.metainfo_owed.saturating_sub(self.metainfo_queued);
        self.metainfo_queued = 0;
    }

    /// Bytes that [`Self::poll_transmit`] would give.
    pub fn transmit_len(&self) -> usize {
        self.transmit.len()
    }

    /// Bytes went out.
    pub fn handle_sent(&mut self, now: Instant, bytes: usize) {
        self.sent_at = now;
        self.keep_alive_at = now + self.limits.keep_alive_interval;
        self.stats.bytes_sent += bytes as u64;
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        let event = self.events.pop_front();
        if self.events.is_empty() {
            // The next one stands where this one stood, which is in the processor's cache.
            self.events.clear();
        }
        event
    }

    // ---- time ----

    /// While held, what is not received is our own doing (a rate limit, no free buffer) and no silence of the
    /// peer.
    pub fn hold_receive(&mut self, now: Instant, held: bool) {
        self.receive_held = held;
        self.received_at = now;
    }

    /// While held, what is not sent is our own doing.
    pub fn hold_send(&mut self, now: Instant, held: bool) {
        self.send_held = held;
        self.sent_at = now;
    }

    /// When [`Self::handle_timeout`] wants to be called. Later is possible after other calls, earlier is not.
    pub fn poll_timeout(&self) -> Instant {
        let idle = self.limits.idle_timeout;
        self.keep_alive_at
            .min(self.received_at + idle)
            .min(self.stalled_at(idle))
    }

    /// Nothing to send for a while is no stall; a keep-alive at the latest is something.
    fn stalled_at(&self, idle: Duration) -> Instant {
        self.sent_at + idle + self.limits.keep_alive_interval
    }

    /// The time of [`Self::poll_timeout`] may have come: queues a keep-alive if one is due.
    ///
    /// # Errors
    /// [`Expired`] when the connection has stood still for too long.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Expired> {
        let idle = self.limits.idle_timeout;
        if self.receive_held {
            self.received_at = now;
        }
        if self.send_held {
            self.sent_at = now;
        }
        if now >= self.received_at + idle {
            return Err(Expired::Silent);
        }
        if now >= self.stalled_at(idle) {
            return Err(Expired::Stalled);
        }
        if now >= self.keep_alive_at {
            self.keep_alive_at = now + self.limits.keep_alive_interval;
            if self.transmit.is_empty() {
                self.put(Header::KeepAlive);
            }
        }
        Ok(())
    }

    // ---- getters ----

    /// The content's dimensions, once known.
    pub fn lengths(&self) -> Option<&PieceLengths> {
        self.lengths.as_ref()
    }

    /// Whether the peer chokes us.
    pub fn is_choked(&self) -> bool {
        self.peer_choking
    }

    /// Whether we choke the peer.
    pub fn is_choking(&self) -> bool {
        self.choking
    }

    /// Whether the peer wants something of ours.
    pub fn is_peer_interested(&self) -> bool {
        self.peer_interested
    }

    /// Our requests that are open.
    pub fn requests_open(&self) -> usize {
        self.requests.len()
    }

    /// The block of which a part is here and the rest is to follow, in parts.
    pub fn arriving(&self) -> Option<Block> {
        self.arriving.map(|arriving| arriving.block)
    }

    /// What has moved so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }
}

#[cfg(test)]
mod tests;
