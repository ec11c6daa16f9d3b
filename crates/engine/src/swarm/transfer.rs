//! What the scheduler decides is carried out here, and what comes of it is reported back: requests, blocks, disk
//! work, uploads.

use super::{
    Swarm,
    disk::DiskEvent,
    http::{Fetch, FetchKey, HttpEvent},
    sources::HttpSource,
};
use dosvc_content::{Block, PieceIndex};
use dosvc_piece_store::{Accepted, PieceCheck, ServeError, StoreError};
use dosvc_polite::on_wire;
use dosvc_scheduler::{BlockUse, Command, FetchEnd, FetchId, SourceId, SourceKind};
use dosvc_wire::net;
use std::{sync::Arc, time::Instant};

/// Pieces from earlier times that are read back at once.
const CHECKS_AT_ONCE: usize = 3;

impl Swarm {
    /// Carries out everything that the scheduler has decided.
    pub(super) fn carry_out(&mut self) {
        while let Some(command) = self.core.poll_command() {
            match command {
                Command::Interested { source, interested } => {
                    self.tell(source, net::Command::Interested(interested));
                }
                Command::Choke { source } => self.tell(source, net::Command::Choke),
                Command::Unchoke { source } => self.tell(source, net::Command::Unchoke),
                Command::Request { source, block } => {
                    self.tell(source, net::Command::Request(block))
                }
                Command::Cancel { source, block } => self.tell(source, net::Command::Cancel(block)),
                Command::Fetch {
                    source,
                    fetch,
                    first,
                    count,
                } => self.fetch(source, fetch, first, count),
                Command::CancelFetch { source, fetch } => self.cancel_fetch(source, fetch),
                Command::ShowBitfield { source, pieces } => {
                    self.tell(source, net::Command::Bitfield(pieces))
                }
                Command::ShowHave { source, piece } => self.tell(source, net::Command::Have(piece)),
                Command::TellFetching { source, add, drop } => {
                    self.tell_fetching(source, &add, &drop)
                }
                Command::TellLead { source, lead } => self.tell_lead(source, lead),
                Command::Offer {
                    source,
                    pieces,
                    free,
                } => self.offer(source, &pieces, free),
                Command::Serve { source, block } => self.serve(source, block),
                Command::Relay {
                    source,
                    block,
                    from,
                } => self.relay(source, block, from),
                Command::Abandon { source, block } => self.abandon(source, block),
                Command::Ban { source, reason } => self.ban(source, &reason.to_string()),
                Command::Disconnect { source, reason } => {
                    self.disconnect(source, &reason.to_string())
                }
            }
        }
    }

    fn ban(&mut self, source: SourceId, reason: &str) {
        if let Some(peer) = self.peers.get(&source.0) {
            tracing::warn!(route = %peer.route, content = %self.content.key(), reason, "peer banned");
        }
        self.ban_peer(source.0, Instant::now());
    }

    fn disconnect(&mut self, source: SourceId, reason: &str) {
        let now = Instant::now();
        if self.origins.remove(&source.0).is_some() {
            tracing::warn!(content = %self.content.key(), reason, "HTTP source dropped");
            self.core.handle_source_removed(source, now);
        } else {
            self.drop_peer(source.0, now);
        }
    }

    // HTTP

    fn fetch(&mut self, source: SourceId, fetch: FetchId, first: PieceIndex, count: u32) {
        let Some(HttpSource { kind, origin, .. }) = self.origins.get(&source.0) else {
            return;
        };
        let task = Fetch {
            key: FetchKey {
                source: source.0,
                kind: *kind,
                fetch,
            },
            origin: origin.clone(),
            lengths: self.content.lengths(),
            first,
            count,
            pool: self.shared.pool.clone(),
            feeds: self.relays.feeds(),
            priority: self.priority.clone(),
            shared: Arc::clone(&self.shared),
            events: self.http_events.0.clone(),
        };
        let handle = tokio::spawn(task.run());
        self.fetches
            .insert(fetch, (source.0, handle.abort_handle()));
        self.changed = true;
    }

    fn cancel_fetch(&mut self, source: SourceId, fetch: FetchId) {
        if let Some((_, task)) = self.fetches.remove(&fetch) {
            task.abort();
            self.core
                .handle_fetch_ended(source, fetch, FetchEnd::Cancelled, Instant::now());
            self.changed = true;
        }
    }

    pub(super) fn handle_http_event(&mut self, key: FetchKey, event: HttpEvent) {
        let now = Instant::now();
        let source = SourceId(key.source);
        if !self.fetches.contains_key(&key.fetch) {
            // Cancelled while this was on its way: what it brought is not lost, if it is of use.
            if let HttpEvent::Block { block, data, .. } = event {
                self.handle_block(source, key.kind, block, data, now);
            }
            return;
        }
        match event {
            HttpEvent::NoRanges => self.core.handle_no_ranges(source, now),
            HttpEvent::Progress { block, bytes, here } => {
                self.rate.add(u64::from(bytes), now);
                self.core.handle_progress(source, bytes, now);
                self.note_part(source, block, here, now);
                self.changed = true;
            }
            HttpEvent::Block { block, data, news } => {
                self.rate.add(u64::from(news), now);
                let http = self.origins.get(&key.source);
                if let Some(host) = http.and_then(|s| s.host.as_ref())
                    && self.cache_host.as_ref() != Some(host)
                {
                    self.cache_host = Some(host.clone());
                }
                self.handle_block(source, key.kind, block, data, now);
            }
            HttpEvent::Ended(result) => {
                self.fetches.remove(&key.fetch);
                let end = match result {
                    Ok(()) => FetchEnd::Done,
                    Err(error) => self.fetch_failed(source, &error),
                };
                self.core.handle_fetch_ended(source, key.fetch, end, now);
                self.changed = true;
            }
        }
    }

    // Peers

    pub(super) fn handle_peer_event(&mut self, key: u32, event: net::Event) {
        let now = Instant::now();
        let source = SourceId(key);
        if !self.peers.contains_key(&key) {
            return;
        }
        let is_hello = matches!(&event, net::Event::Extension(_) | net::Event::Closed(_));
        if !is_hello {
            // Somebody who speaks of anything else first knows no extensions.
            self.greeted(key, None, now);
        }
        match event {
            net::Event::Bitfield(field) => self.handle_bitfield(key, field, now),
            net::Event::Have(piece) => self.handle_have(key, piece, now),
            net::Event::Choked => self.core.handle_choked(source, now),
            net::Event::Unchoked => self.core.handle_unchoked(source, now),
            net::Event::Interested(on) => {
                self.core.handle_interested(source, on, now);
                self.review_uploads(now);
            }
            net::Event::Requested(block) => self.handle_request(source, block, now),
            net::Event::Abandoned(block) => self.handle_abandoned(key, block, now),
            net::Event::Cancelled(block) => {
                self.relays.forget(source, block);
                self.not_sent(source, block);
                self.core.handle_cancelled(source, block, now);
            }
            net::Event::Progress { block, bytes } => self.handle_partial(key, block, bytes, now),
            net::Event::Received { block, data } => self.handle_received(key, block, data, now),
            net::Event::Served { block } => self.handle_served(key, block, now),
            net::Event::Extension(extension) => self.handle_extension(key, extension, now),
            net::Event::Closed(reason) => self.peer_closed(key, &reason, now),
        }
    }

    fn handle_partial(&mut self, key: u32, block: Block, bytes: u32, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&key) {
            let source = SourceId(key);
            if peer.receiving.replace(block) != Some(block) {
                self.core.handle_block_begun(source, block, now);
            }
            peer.partial += bytes;
            let here = peer.partial;
            peer.rate_in.add(u64::from(bytes), now);
            if is_beyond_lan(peer.kind) {
                self.shared
                    .bandwidth
                    .count_from_peer(&self.priority, on_wire(bytes.into()));
            }
            self.note_part(source, block, here, now);
        }
        self.rate.add(u64::from(bytes), now);
        self.core.handle_progress(SourceId(key), bytes, now);
        self.changed = true;
    }

    fn handle_received(&mut self, key: u32, block: Block, data: net::BlockBuf, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        let news = u64::from(block.len().saturating_sub(peer.partial));
        peer.partial = 0;
        peer.receiving = None;
        peer.bytes_in += u64::from(block.len());
        peer.rate_in.add(news, now);
        if is_beyond_lan(peer.kind) {
            let bytes = on_wire(news);
            self.shared.bandwidth.count_from_peer(&self.priority, bytes);
        }
        self.rate.add(news, now);
        let kind = peer.kind;
        self.handle_block(SourceId(key), kind, block, data, now);
    }

    fn handle_block(
        &mut self,
        source: SourceId,
        kind: SourceKind,
        block: Block,
        data: net::BlockBuf,
        now: Instant,
    ) {
        self.changed = true;
        if self.core.handle_block(source, block, now) == BlockUse::Duplicate {
            self.wasted_bytes += u64::from(block.len());
            return;
        }
        let credit = (kind, u64::from(block.len()));
        self.unverified
            .entry(block.piece())
            .or_default()
            .push(credit);
        if self.content.lengths().block_count(block.piece()) == 1 {
            self.disk.accept_piece(block.piece(), data);
        } else {
            self.disk.write_block(block, data);
        }
    }

    // Disk

    /// Takes what else has been done by now, too: what was hashed together is told to each peer in one go.
    pub(super) fn handle_disk_events(&mut self, first: DiskEvent) {
        let mut next = Some(first);
        while let Some(event) = next {
            self.handle_disk_event(event);
            next = match &self.error {
                Some(_) => None,
                None => self.disk_events.try_recv().ok(),
            };
        }
    }

    fn handle_disk_event(&mut self, event: DiskEvent) {
        let now = Instant::now();
        self.changed = true;
        match event {
            DiskEvent::Piece(piece, Ok(Accepted::BadHash)) => self.piece_corrupt(piece, now),
            DiskEvent::Piece(piece, Ok(Accepted::Stored | Accepted::Duplicate)) => {
                self.piece_verified(piece, now);
            }
            DiskEvent::BlockWritten(block, Ok(())) => self.block_written(block),
            DiskEvent::Recovered(piece, result) => self.piece_recovered(piece, result, now),
            DiskEvent::Scrubbed(piece, result) => self.piece_scrubbed(piece, result, now),
            DiskEvent::Checked(piece, Ok(check)) => self.piece_checked(piece, &check, now),
            DiskEvent::Piece(_, Err(error)) | DiskEvent::BlockWritten(_, Err(error)) => {
                self.storage_failed(&error)
            }
            DiskEvent::Checked(piece, Err(error)) => self.check_failed(piece, &error, now),
        }
    }

    fn piece_verified(&mut self, piece: PieceIndex, now: Instant) {
        for (kind, bytes) in self.unverified.remove(&piece).unwrap_or_default() {
            *self.downloaded.of(kind) += bytes;
            self.shared.totals.add_downloaded(kind, bytes);
        }
        self.piece_is_here(piece, now);
    }

    /// One more piece is had, from a source or from the file.
    fn piece_is_here(&mut self, piece: PieceIndex, now: Instant) {
        self.core.handle_piece_verified(piece, now);
        self.release(piece);
        self.shared.store_is_dirty();
        if self.core.is_complete() {
            self.http_error = None;
            self.end_repair(now);
            self.carry_out();
            // Who gave what is known while they are here.
            if !self.jobs.is_empty() {
                self.last_sources = Some(self.sources_to_keep(now));
            }
            self.part_from_seeds(now);
        }
    }

    fn piece_corrupt(&mut self, piece: PieceIndex, now: Instant) {
        tracing::warn!(content = %self.content.key(), %piece, "piece failed its hash check; dropped");
        for (_, bytes) in self.unverified.remove(&piece).unwrap_or_default() {
            self.wasted_bytes += bytes;
        }
        self.core.handle_piece_corrupt(piece, now);
    }

    fn block_written(&mut self, block: Block) {
        let written = self.blocks_written.entry(block.piece()).or_default();
        *written += 1;
        if *written == self.content.lengths().block_count(block.piece()) {
            self.blocks_written.remove(&block.piece());
            self.disk.finish_piece(block.piece());
        }
    }

    // Uploads

    fn handle_request(&mut self, source: SourceId, block: Block, now: Instant) {
        if let Err(refusal) = self.core.handle_request(source, block, now) {
            tracing::debug!(source = source.0, ?block, ?refusal, "request refused");
            self.tell(source, net::Command::Refuse(block));
        }
    }

    fn serve(&mut self, source: SourceId, block: Block) {
        match self.content.file_range(block) {
            Ok(range) => {
                if !self.may_upload(source, block) {
                    return self.refuse(source, block);
                }
                let body = net::Body::File {
                    file: range.file,
                    offset: range.offset,
                };
                self.tell(source, net::Command::Serve { block, body });
            }
            // Changed by its owner: what is still right is served again, once it was read back.
            Err(ServeError::Unchecked | ServeError::Changed) => {
                let waiting = self.unchecked_uploads.entry(block.piece()).or_default();
                waiting.push((source, block));
                if waiting.len() == 1 {
                    self.disk.check(block.piece());
                }
            }
            Err(ServeError::Missing) => {
                self.refuse(source, block);
                self.piece_lost(block.piece(), Instant::now());
            }
            Err(error) => {
                tracing::error!(content = %self.content.key(), %error, "cannot serve; peer let go");
                self.refuse(source, block);
                self.drop_peer(source.0, Instant::now());
            }
        }
    }

    /// Counts the block for the month; false: the monthly cap does not permit it.
    pub(super) fn may_upload(&mut self, source: SourceId, block: Block) -> bool {
        let cap = self.monthly_cap();
        let Some(peer) = self.peers.get_mut(&source.0) else {
            return true;
        };
        let bytes = u64::from(block.len());
        let taken = self.shared.ledger.take(peer.class, bytes, cap);
        let Some(taken) = taken else {
            self.review_month();
            return false;
        };
        peer.promised.insert(block, taken);
        true
    }

    /// What was promised to the peer and withdrawn before it began does not count for the month.
    pub(super) fn not_sent(&mut self, source: SourceId, block: Block) {
        let peer = self.peers.get_mut(&source.0);
        if let Some(taken) = peer.and_then(|peer| peer.promised.remove(&block)) {
            taken.give_back();
        }
    }

    /// Something that the month counts is not under way any more.
    pub(super) fn review_month(&self) {
        if self.giving.internet && self.shared.ledger.is_reached(self.monthly_cap()) {
            tracing::info!(
                "monthly_upload_data_cap is reached: no more for Internet peers until the month ends"
            );
            self.shared.tell_swarms();
        }
    }

    fn monthly_cap(&self) -> Option<u64> {
        let settings = self.shared.settings();
        settings.config.policies.monthly_upload_data_cap()
    }

    pub(super) fn refuse(&mut self, source: SourceId, block: Block) {
        self.tell(source, net::Command::Refuse(block));
        self.core.handle_served(source, block, Instant::now());
    }

    /// Pieces from before this process are read back while the rest is downloaded: first those that a crash may have
    /// left unclaimed, for until then nobody is asked for them.
    pub(super) fn start_checking(&mut self, mut unclaimed: Vec<PieceIndex>) {
        // What came in since the file was looked at, or is on its way, needs no second look.
        unclaimed.retain(|piece| self.core.is_missing(*piece));
        if !unclaimed.is_empty() {
            let (content, pieces) = (self.content.key(), unclaimed.len());
            tracing::info!(%content, pieces, "looking at what the file has beyond what was claimed");
        }
        self.core.handle_pieces_found(&unclaimed);
        self.to_recover.extend(unclaimed);
        self.to_check = self.content.unchecked();
        self.check_more();
    }

    fn check_more(&mut self) {
        while self.checking < CHECKS_AT_ONCE {
            if let Some(piece) = self.to_recover.pop() {
                self.disk.recover(piece);
            } else if let Some(piece) = self.to_check.pop() {
                self.disk.scrub(piece);
            } else {
                return;
            }
            self.checking += 1;
        }
    }

    fn piece_recovered(
        &mut self,
        piece: PieceIndex,
        result: Result<bool, StoreError>,
        now: Instant,
    ) {
        self.checking -= 1;
        match result {
            Ok(true) => {
                self.recovered_bytes += u64::from(self.content.lengths().len(piece));
                self.piece_is_here(piece, now);
            }
            Ok(false) => self.core.handle_piece_corrupt(piece, now),
            Err(error) => return self.storage_failed(&error),
        }
        self.check_more();
    }

    fn piece_scrubbed(
        &mut self,
        piece: PieceIndex,
        result: Result<PieceCheck, StoreError>,
        now: Instant,
    ) {
        self.checking -= 1;
        match result {
            Ok(PieceCheck::Good) => {}
            Ok(PieceCheck::Lost) => self.piece_lost(piece, now),
            Err(error) => return self.storage_failed(&error),
        }
        self.check_more();
    }

    fn piece_checked(&mut self, piece: PieceIndex, check: &PieceCheck, now: Instant) {
        let waiting = self.unchecked_uploads.remove(&piece).unwrap_or_default();
        match check {
            PieceCheck::Good => {
                for (source, block) in waiting {
                    self.serve(source, block);
                }
            }
            PieceCheck::Lost => {
                for (source, block) in waiting {
                    self.refuse(source, block);
                }
                self.piece_lost(piece, now);
            }
        }
    }

    /// Reading failed: nobody is served from here, but what we have is not given up for that.
    fn check_failed(&mut self, piece: PieceIndex, error: &StoreError, now: Instant) {
        tracing::error!(content = %self.content.key(), %piece, %error, "piece cannot be read");
        for (source, block) in self.unchecked_uploads.remove(&piece).unwrap_or_default() {
            self.tell(source, net::Command::Refuse(block));
            self.core.handle_served(source, block, now);
            self.drop_peer(source.0, now);
        }
    }

    /// A piece that was had is bad on disk. Content that was complete is mended from its sources.
    pub(super) fn piece_lost(&mut self, piece: PieceIndex, now: Instant) {
        tracing::warn!(content = %self.content.key(), %piece, "piece is damaged on disk; fetching it again");
        let was_complete = self.core.is_complete();
        self.core.handle_piece_lost(piece, now);
        if was_complete && self.jobs.is_empty() {
            self.start_repair(now);
        }
    }

    fn handle_served(&mut self, key: u32, block: Block, now: Instant) {
        let bytes = u64::from(block.len());
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.bytes_out += bytes;
            peer.rate_out.add(bytes, now);
            *self.uploaded.of(peer.kind) += bytes;
            self.shared.totals.add_uploaded(peer.kind, bytes);
            if peer.promised.remove(&block).is_none() {
                // Withdrawn, asked for again and answered to the first request: it is sent, whatever the cap says.
                drop(self.shared.ledger.take(peer.class, bytes, None));
            }
        }
        self.review_month();
        self.core.handle_served(SourceId(key), block, now);
        self.changed = true;
    }
}

/// Whether limits hold for a peer of this kind.
fn is_beyond_lan(kind: SourceKind) -> bool {
    !matches!(kind, SourceKind::LanPeer | SourceKind::LinkLocalPeer)
}
