// Reads and writes captures in the classic pcap format (Ethernet), as far as TCP over IPv4 and IPv6 needs it.

const LITTLE = 0xa1b2c3d4;
const LITTLE_NS = 0xa1b23c4d;
const ETHERNET = 1;

/** One frame that carries TCP: where it stands in the capture and what its headers say. */
export class TcpFrame {
  constructor(number, time, bytes, headerLength, ip) {
    this.number = number;
    this.time = time;
    this.bytes = bytes;
    this.headerLength = headerLength;
    Object.assign(this, ip);
  }

  get payload() {
    return this.bytes.subarray(this.headerLength, this.headerLength + this.payloadLength);
  }

  get sequence() {
    return this.bytes.readUInt32BE(this.tcpAt + 4);
  }

  /** Whether the frame says nothing but how much has arrived. */
  get isBareAck() {
    const ACK = 0x10;
    const PSH = 0x08;
    return !this.payloadLength && (this.bytes[this.tcpAt + 13] & ~PSH) === ACK;
  }

  /** Names the connection, the same for both directions. */
  get connection() {
    return [`${this.source}|${this.sourcePort}`, `${this.target}|${this.targetPort}`].sort().join(' ');
  }

  /** Names the direction of the connection. */
  get direction() {
    return `${this.source}|${this.sourcePort}>${this.target}|${this.targetPort}`;
  }

  /** The same bytes in two frames, cut `at` bytes into the payload. */
  split(at) {
    const first = this.#withPayload(this.payload.subarray(0, at), 0);
    const second = this.#withPayload(this.payload.subarray(at), at);
    return [first, second];
  }

  #withPayload(payload, sequenceOffset) {
    const bytes = Buffer.concat([this.bytes.subarray(0, this.headerLength), payload]);
    const lengthAt = this.version === 4 ? this.ipAt + 2 : this.ipAt + 4;
    const fixed = this.version === 4 ? this.ipAt : this.ipAt + 40;
    bytes.writeUInt16BE(bytes.length - fixed, lengthAt);
    const sequenceAt = this.tcpAt + 4;
    bytes.writeUInt32BE((bytes.readUInt32BE(sequenceAt) + sequenceOffset) >>> 0, sequenceAt);
    return new TcpFrame(this.number, this.time, bytes, this.headerLength, {
      ...this.ipFields(),
      payloadLength: payload.length,
    });
  }

  ipFields() {
    const { version, ipAt, tcpAt, source, target, sourcePort, targetPort, payloadLength } = this;
    return { version, ipAt, tcpAt, source, target, sourcePort, targetPort, payloadLength };
  }
}

/** The TCP frames of a capture, in order; frames of anything else are left out but counted in the numbers. */
export function* tcpFrames(capture) {
  const magic = capture.readUInt32LE(0);
  if (magic !== LITTLE && magic !== LITTLE_NS) throw new Error('not a little-endian pcap file');
  if (capture.readUInt32LE(20) !== ETHERNET) throw new Error('the capture is not of Ethernet frames');
  const fraction = magic === LITTLE ? 1e6 : 1e9;
  let at = 24;
  for (let number = 1; at + 16 <= capture.length; number += 1) {
    const time = capture.readUInt32LE(at) + capture.readUInt32LE(at + 4) / fraction;
    const kept = capture.readUInt32LE(at + 8);
    const bytes = capture.subarray(at + 16, at + 16 + kept);
    if (bytes.length < kept) return; // the last frame was not written whole
    if (kept !== capture.readUInt32LE(at + 12)) throw new Error(`frame ${number} was captured in part`);
    at += 16 + kept;
    const frame = parse(number, time, bytes);
    if (frame) yield frame;
  }
}

/**
 * The frames of a connection with each direction's data in the order of its bytes, and without bare
 * acknowledgements. Frames overtake each other on a link and at the capture; what the peers read does not depend
 * on it. Bytes that are missing stay missing.
 */
export function inOrder(frames) {
  const ordered = frames.filter((frame) => !frame.isBareAck);
  const directions = new Map();
  ordered.forEach((frame, place) => {
    if (!frame.payloadLength) return;
    const direction = directions.get(frame.direction) ?? { places: [], frames: [] };
    directions.set(frame.direction, direction);
    // Sequence numbers wrap: only the distance to the frame before is taken.
    const { last = { frame, offset: 0 } } = direction;
    const offset = last.offset + ((frame.sequence - last.frame.sequence) | 0);
    direction.last = { frame, offset };
    direction.places.push(place);
    direction.frames.push({ frame, offset });
  });
  for (const { places, frames: data } of directions.values()) {
    data.sort((a, b) => a.offset - b.offset);
    places.forEach((place, i) => {
      ordered[place] = data[i].frame;
    });
  }
  return ordered;
}

function parse(number, time, bytes) {
  const ipAt = 14;
  const type = bytes.length >= ipAt + 40 ? bytes.readUInt16BE(12) : 0;
  let version;
  let tcpAt;
  let end;
  let addresses;
  if (type === 0x0800 && bytes[ipAt + 9] === 6) {
    version = 4;
    tcpAt = ipAt + (bytes[ipAt] & 15) * 4;
    end = ipAt + bytes.readUInt16BE(ipAt + 2);
    addresses = [bytes.subarray(ipAt + 12, ipAt + 16), bytes.subarray(ipAt + 16, ipAt + 20)].map((a) => a.join('.'));
  } else if (type === 0x86dd && bytes[ipAt + 6] === 6) {
    version = 6;
    tcpAt = ipAt + 40;
    end = tcpAt + bytes.readUInt16BE(ipAt + 4);
    addresses = [bytes.subarray(ipAt + 8, ipAt + 24), bytes.subarray(ipAt + 24, ipAt + 40)].map((a) => a.toString('hex'));
  } else {
    return null;
  }
  const headerLength = tcpAt + (bytes[tcpAt + 12] >> 4) * 4;
  return new TcpFrame(number, time, bytes, headerLength, {
    version,
    ipAt,
    tcpAt,
    source: addresses[0],
    target: addresses[1],
    sourcePort: bytes.readUInt16BE(tcpAt),
    targetPort: bytes.readUInt16BE(tcpAt + 2),
    payloadLength: Math.max(0, end - headerLength),
  });
}

/** A capture file of these frames; `frames` need `time` (seconds) and `bytes`. */
export function capture(frames) {
  const head = Buffer.alloc(24);
  head.writeUInt32LE(LITTLE, 0);
  head.writeUInt16LE(2, 4);
  head.writeUInt16LE(4, 6);
  head.writeUInt32LE(1 << 18, 16);
  head.writeUInt32LE(ETHERNET, 20);
  const parts = [head];
  for (const { time, bytes } of frames) {
    const record = Buffer.alloc(16);
    record.writeUInt32LE(Math.floor(time), 0);
    record.writeUInt32LE(Math.floor((time % 1) * 1e6), 4);
    record.writeUInt32LE(bytes.length, 8);
    record.writeUInt32LE(bytes.length, 12);
    parts.push(record, bytes);
  }
  return Buffer.concat(parts);
}
