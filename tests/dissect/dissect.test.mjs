// The reader itself is tested on captures made here: what it says of right and of wrong traffic must be known first.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { dissect, loadDissector } from './dissect.mjs';
import { capture } from './pcap.mjs';

const dissector = await loadDissector();
const PORT = 7680;

function handshake() {
  const bytes = Buffer.alloc(75);
  bytes[0] = 14;
  bytes.write('Swarm protocol', 1, 'latin1');
  bytes[18] = 1;
  bytes.fill(0xab, 23, 55);
  bytes.fill(0xcd, 55, 71);
  return bytes;
}

function message(id, ...parts) {
  const payload = Buffer.concat(parts.map((part) => (Buffer.isBuffer(part) ? part : u32(part))));
  return Buffer.concat([u32(1 + payload.length), Buffer.from([id]), payload]);
}

function u32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

const unchoke = message(1);
const have = (piece) => message(4, piece);
const request = (piece, length) => message(6, piece, 0, length);
const piece = (index, length) => message(7, index, 0, Buffer.alloc(length, 0x5a));

/** Two machines on one link; each `send` is one or more segments of one direction. */
class Talk {
  constructor(segmentBytes = 1448) {
    this.segmentBytes = segmentBytes;
    this.frames = [];
    this.sequence = { client: 1000, server: 5000 };
    this.push('client', Buffer.alloc(0), 0x02);
    this.push('server', Buffer.alloc(0), 0x12);
    this.push('client', Buffer.alloc(0), 0x10);
  }

  send(from, bytes) {
    for (let at = 0; at < bytes.length; at += this.segmentBytes) {
      this.push(from, bytes.subarray(at, at + this.segmentBytes), 0x18);
    }
    return this;
  }

  push(from, payload, flags) {
    const to = from === 'client' ? 'server' : 'client';
    const address = { client: [10, 77, 0, 11], server: [10, 77, 0, 10] };
    const port = { client: 40000, server: PORT };
    const bytes = Buffer.alloc(54 + payload.length);
    bytes.writeUInt16BE(0x0800, 12);
    bytes[14] = 0x45;
    bytes.writeUInt16BE(40 + payload.length, 16);
    bytes[22] = 64;
    bytes[23] = 6;
    bytes.set(address[from], 26);
    bytes.set(address[to], 30);
    bytes.writeUInt16BE(port[from], 34);
    bytes.writeUInt16BE(port[to], 36);
    bytes.writeUInt32BE(this.sequence[from], 38);
    bytes.writeUInt32BE(flags === 0x02 ? 0 : this.sequence[to], 42);
    bytes[46] = 0x50;
    bytes[47] = flags;
    bytes.writeUInt16BE(65535, 48);
    bytes.set(payload, 54);
    this.sequence[from] += payload.length + (flags & 0x02 ? 1 : 0);
    this.frames.push({ time: 1 + this.frames.length / 1000, bytes });
  }

  shaken() {
    return this.send('client', handshake()).send('server', handshake());
  }

  report() {
    return dissect(dissector, capture(this.frames), PORT);
  }
}

test('right traffic is read whole, pieces of many segments too', () => {
  const talk = new Talk().shaken();
  talk.send('server', Buffer.concat([message(5, Buffer.from([0xc0])), unchoke]));
  talk.send('client', Buffer.concat([message(2), request(0, 1 << 20), request(1, 9)]));
  talk.send('server', Buffer.concat([piece(0, 1 << 20), piece(1, 9)]));
  const report = talk.report();
  assert.equal(report.ok, true, JSON.stringify(report));
  assert.deepEqual(report.messages, { Handshake: 2, BitField: 1, Unchoke: 1, Interested: 1, Request: 2, Piece: 2 });
  assert.equal(report.read, report.segments);
  assert.equal(report.cut_connections, 0);
});

test('an unknown message is seen', () => {
  const report = new Talk().shaken().send('client', message(99, 1)).report();
  assert.equal(report.ok, false);
  assert.equal(report.wrong.length, 1);
  assert.equal(report.wrong[0].frame, 6);
});

test('a message whose length does not fit its id is seen', () => {
  const report = new Talk().shaken().send('client', message(4, 1, 2)).report();
  assert.equal(report.ok, false);
  assert.equal(report.wrong.length, 1);
});

test('a handshake with something behind it in its segment is seen', () => {
  const talk = new Talk().send('client', Buffer.concat([handshake(), unchoke])).send('client', have(0));
  assert.equal(talk.report().ok, false);
});

test('an extension message is read under the name that the dissector gives it', () => {
  const report = new Talk().shaken().send('client', message(20, 0x01020304)).report();
  assert.equal(report.ok, true, JSON.stringify(report));
  assert.equal(report.messages.HeapSpraying, 1);
});

test('messages that are as long as a handshake together are no mistake of the sender', () => {
  const talk = new Talk().shaken();
  talk.send('client', Buffer.concat([request(0, 1), request(1, 1), have(0), have(1), have(2)]));
  talk.send('client', have(3));
  const report = talk.report();
  assert.equal(report.lookalikes, 1);
  assert.equal(report.ok, true, JSON.stringify(report));
  assert.equal(report.messages.Have, 4);
});

test('a message that begins in the last bytes of a segment and looks like a handshake there is read', () => {
  const talk = new Talk().shaken();
  const stream = Buffer.concat([piece(0, 5000), piece(1, 5000)]);
  const first = 13 + 5000 + 61;
  talk.send('server', stream.subarray(0, first - 700));
  talk.send('server', stream.subarray(first - 700, first));
  talk.send('server', stream.subarray(first));
  const report = talk.report();
  assert.equal(report.ok, true, JSON.stringify(report));
  assert.equal(report.lookalikes, 1);
  assert.equal(report.messages.Piece, 2);
});

test('segments that arrive in another order are put in order', () => {
  const talk = new Talk().shaken().send('server', piece(0, 20_000)).send('server', have(1));
  const from = 8;
  [talk.frames[from].bytes, talk.frames[from + 1].bytes] = [talk.frames[from + 1].bytes, talk.frames[from].bytes];
  const report = talk.report();
  assert.deepEqual(report.unread, []);
  assert.deepEqual(report.wrong, []);
  assert.equal(report.messages.Piece, 1);
});

test('a connection that is cut within a message is no mistake, a stream that is lost is one', () => {
  const cut = new Talk().shaken().send('server', piece(0, 20_000).subarray(0, 15_000)).report();
  assert.equal(cut.ok, true, JSON.stringify(cut));
  assert.equal(cut.cut_connections, 1);
  const lost = new Talk(60_000).shaken().send('server', Buffer.concat([u32(0x7fffffff), Buffer.alloc(3_000_000, 7)])).report();
  assert.equal(lost.ok, false);
});
