//! Pieces that are passed on while they arrive: what the scheduler decides of them is carried out here.

use super::Swarm;
use dosvc_content::{Block, PieceIndex};
use dosvc_scheduler::SourceId;
use dosvc_wire::net::{Body, Command, Feeds};
use std::{collections::HashMap, time::Instant};

/// Who gets what while it arrives.
#[derive(Debug, Default)]
pub(super) struct Relays {
    feeds: Feeds,
    /// Blocks that were begun, by their piece, until it is verified or given up. As many as are sent at once.
    begun: HashMap<PieceIndex, Vec<(SourceId, Block)>>,
}

impl Relays {
    /// Where sources put what arrives.
    pub(super) fn feeds(&self) -> Feeds {
        self.feeds.clone()
    }

    /// The block is not passed on to this peer any more.
    pub(super) fn forget(&mut self, to: SourceId, block: Block) {
        if let Some(begun) = self.begun.get_mut(&block.piece()) {
            begun.retain(|relay| *relay != (to, block));
            if begun.is_empty() {
                self.begun.remove(&block.piece());
            }
        }
    }
}

impl Swarm {
    /// So much of a block is here: its piece may be passed on, unless that is switched off.
    pub(super) fn note_part(&mut self, source: SourceId, block: Block, here: u32, now: Instant) {
        if self.shared.settings().config.pass_on_early {
            self.core.handle_block_part(source, block, here, now);
        }
    }

    /// Sends a block as it arrives from `from`.
    pub(super) fn relay(&mut self, source: SourceId, block: Block, from: SourceId) {
        if !self.may_upload(source, block) {
            return self.refuse(source, block);
        }
        let feed = self.relays.feeds.open(from.0, block);
        let begun = self.relays.begun.entry(block.piece()).or_default();
        begun.push((source, block));
        self.tell(source, Command::Relay { block, feed });
    }

    /// A piece is verified: who got it while it arrived is told so, and gets the end of it.
    pub(super) fn release(&mut self, piece: PieceIndex) {
        let Some(begun) = self.relays.begun.remove(&piece) else {
            return;
        };
        self.carry_out();
        for (source, block) in begun {
            match self.content.file_range(block) {
                Ok(range) => {
                    let body = Body::File {
                        file: range.file,
                        offset: range.offset,
                    };
                    self.tell(source, Command::Release { block, body });
                }
                // Changed or damaged since: whoever asks again hears what it is.
                Err(error) => {
                    tracing::debug!(content = %self.content.key(), %piece, %error, "cannot be passed on");
                    self.abandon(source, block);
                    self.core.handle_served(source, block, Instant::now());
                }
            }
        }
    }

    /// What was promised to the peer will not come, or not the rest of it.
    pub(super) fn abandon(&mut self, source: SourceId, block: Block) {
        self.relays.forget(source, block);
        self.not_sent(source, block);
        self.tell(source, Command::Abandon(block));
    }

    /// A peer does not send the rest of a block that it passed on.
    pub(super) fn handle_abandoned(&mut self, key: u32, block: Block, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&key)
            && peer
                .receiving
                .take_if(|receiving| *receiving == block)
                .is_some()
        {
            self.wasted_bytes += u64::from(std::mem::take(&mut peer.partial));
        }
        self.core.handle_abandoned(SourceId(key), block, now);
        self.changed = true;
    }
}
