#!/usr/bin/env node
// Reads a capture with Wireshark's MS-DO dissector and says in JSON what it could not read.
//
//     node dissect.mjs FILE.pcap [--port 7680] [--frames]
//
// Exit code: 0 every data segment was read and nothing is wrong, 1 something is, 2 bad usage.
//
// Each connection is dissected by itself, so that a capture may be larger than the memory of the dissector.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { capture, inOrder, tcpFrames } from './pcap.mjs';

/** The largest message that Windows accepts, with its length prefix. */
const MESSAGE_BYTES_MAX = 0x1f4000 + 4;
const HANDSHAKE_BYTES = 75;
/** The dissector takes whatever is as long as a handshake with a name of 0 bytes for a handshake. */
const LOOKALIKE_BYTES = 61;
const INFO_COLUMN = 6;

const DATA = 'tcp.len > 0';
// A retransmission is not given to the dissector a second time.
const REPEATED = '(tcp.analysis.retransmission || tcp.analysis.keep_alive)';
// Segments in the middle of a message have no layer of their own: they point to the segment that completes it.
const UNREAD = `${DATA} && !msdo && !tcp.reassembled_in && !${REPEATED}`;
const WRONG = 'msdo.invalid_message_id || msdo.invalid_message_length || _ws.malformed || _ws.expert.severity >= "Error"';

export async function loadDissector() {
  const require = createRequire(import.meta.url);
  const dist = dirname(require.resolve('@goodtools/wiregasm/dist/wiregasm.js'));
  const { default: load } = await import('@goodtools/wiregasm/dist/wiregasm.js');
  const log = [];
  const dissector = await load({
    locateFile: (path) => join(dist, path),
    handleStatus: () => {},
    print: (line) => log.push(line),
    printErr: (line) => log.push(line),
  });
  if (!dissector.init()) throw new Error(`the dissector does not start: ${log.join('\n')}`);
  // Without it a segment that overtook another one ends the reassembly of its connection.
  const set = dissector.setPref('tcp', 'reassemble_out_of_order', 'TRUE');
  if (set.code !== 0) throw new Error(`preference refused: ${set.error}`);
  dissector.applyPreferences();
  return dissector;
}

/** What the dissector makes of all traffic on `port` in a capture (a Buffer). */
export function dissect(dissector, bytes, port) {
  const connections = new Map();
  for (const frame of tcpFrames(bytes)) {
    if (frame.sourcePort !== port && frame.targetPort !== port) continue;
    const list = connections.get(frame.connection);
    if (list) list.push(frame);
    else connections.set(frame.connection, [frame]);
  }
  const report = {
    ok: false,
    connections: connections.size,
    segments: 0,
    read: 0,
    repeated: 0,
    messages: {},
    unread: [],
    wrong: [],
    capture_gaps: [],
    cut_connections: 0,
    lookalikes: 0,
    frames: [],
  };
  for (const frames of connections.values()) dissectConnection(dissector, port, frames, report);
  report.frames.sort((a, b) => a.frame - b.frame);
  report.ok = report.segments > 0 && !report.unread.length && !report.wrong.length && !report.capture_gaps.length;
  return report;
}

function dissectConnection(dissector, port, captured, report) {
  let frames = inOrder(captured);
  let seen = inspect(dissector, port, frames);
  // The same bytes in other segments: a lookalike is the dissector's mistake, not the sender's, and whatever
  // follows it in the stream would be read wrongly.
  while (seen.lookalikes.length) {
    report.lookalikes += seen.lookalikes.length;
    frames = frames.flatMap((frame, i) => {
      return seen.lookalikes.includes(i) ? frame.split(frame.payloadLength - (LOOKALIKE_BYTES >> 1)) : [frame];
    });
    seen = inspect(dissector, port, frames);
  }
  const unread = withoutCutMessage(frames, seen);
  if (unread.length < seen.unread.length) report.cut_connections += 1;
  const data = new Set();
  for (const frame of frames) if (frame.payloadLength) data.add(frame.number);
  report.segments += data.size;
  report.repeated += seen.repeated.length;
  report.read += data.size - unread.length - seen.repeated.length;
  for (const { frame, messages } of seen.messages) {
    report.frames.push({ frame, messages });
    for (const name of messages) report.messages[name] = (report.messages[name] ?? 0) + 1;
  }
  const named = (list) => list.map(({ index, info }) => ({ frame: frames[index].number, info }));
  report.unread.push(...named(unread));
  report.wrong.push(...named(seen.wrong));
  report.capture_gaps.push(...named(seen.gaps));
}

/** One pass of the dissector over one connection; every list has places in `frames`. */
function inspect(dissector, port, frames) {
  const name = `${dissector.getUploadDirectory()}/connection.pcap`;
  dissector.FS.writeFile(name, capture(frames));
  const session = new dissector.DissectSession(name);
  try {
    const loaded = session.load();
    if (loaded.code !== 0) throw new Error(`the dissector does not read the capture: ${loaded.error}`);
    const matching = (filter) => list(session.getFrames(filter, 0, 0).frames).map((meta) => {
      return { index: meta.number - 1, info: meta.columns.get(INFO_COLUMN) };
    });
    const msdo = matching('msdo');
    const handshakes = matching('msdo.Handshake');
    return {
      msdo: msdo.map(({ index }) => index),
      messages: msdo
        .map(({ index, info }) => ({ frame: frames[index].number, messages: messageNames(info) }))
        .filter(({ messages }) => messages.length),
      lookalikes: handshakes.map(({ index }) => index).filter((index) => !isHandshake(frames[index].payload)),
      unread: matching(UNREAD),
      repeated: matching(`${DATA} && ${REPEATED}`),
      wrong: matching(WRONG),
      gaps: matching('tcp.analysis.lost_segment'),
    };
  } finally {
    session.delete();
  }
}

function isHandshake(payload) {
  return payload.length === HANDSHAKE_BYTES && payload[0] === 14 && payload.toString('latin1', 1, 15) === 'Swarm protocol';
}

function messageNames(info) {
  return [...info.matchAll(/(\w+) Message/g)].map((match) => match[1]);
}

/**
 * The unread frames without those at the end of a direction that are the beginning of a message whose rest was never
 * sent (the connection was closed, or the capture ended). Longer than any message, they are unread after all.
 */
function withoutCutMessage(frames, seen) {
  const cut = new Set();
  for (const direction of new Set(seen.unread.map(({ index }) => frames[index].direction))) {
    const lastRead = seen.msdo.findLast((index) => frames[index].direction === direction) ?? -1;
    const tail = seen.unread.filter(({ index }) => index > lastRead && frames[index].direction === direction);
    const bytes = tail.reduce((sum, { index }) => sum + frames[index].payloadLength, 0);
    if (lastRead >= 0 && bytes <= MESSAGE_BYTES_MAX) tail.forEach((entry) => cut.add(entry));
  }
  return seen.unread.filter((entry) => !cut.has(entry));
}

function list(vector) {
  return Array.from({ length: vector.size() }, (_, i) => vector.get(i));
}

async function main(args) {
  const options = { port: 7680, frames: false };
  const files = [];
  for (let i = 0; i < args.length; i += 1) {
    if (args[i] === '--port') options.port = Number(args[(i += 1)]);
    else if (args[i] === '--frames') options.frames = true;
    else files.push(args[i]);
  }
  if (files.length !== 1 || files[0].startsWith('-') || !Number.isInteger(options.port)) {
    console.error('usage: dissect.mjs FILE.pcap [--port 7680] [--frames]');
    return 2;
  }
  const report = dissect(await loadDissector(), readFileSync(files[0]), options.port);
  if (!options.frames) delete report.frames;
  console.log(JSON.stringify(report));
  return report.ok ? 0 : 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main(process.argv.slice(2));
