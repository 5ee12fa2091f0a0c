/**
 * A live session with the server over the native protocol, for as long as its user wants: it reconnects and resumes, and
 * where the server's session is gone it begins another with the audio from the last acknowledged sample on. Every word
 * is told once, with its time since the first sample.
 */

import { Packets } from "./packets.js";

const PATH = "/v1/stream";
const SUBPROTOCOL = "ray-whisper";

/** In front of a packet's samples: its number. */
const HEADER_BYTES = 4;
const SAMPLE_BYTES = 2;

/** Waiting before each new attempt; the last one holds from then on. */
const RETRY_S = [0.3, 1, 2, 4, 8];

/** Of refusals that name no time. */
const REFUSED_RETRY_S = 5;

/** A hint further away than this is no use to somebody who waits in front of a page. */
const LONGEST_WAIT_S = 60;

/** Data waits to be sent, and nothing is heard, for so long: the connection is dead, though nobody said so. */
const SILENT_S = 20;

const WATCH_MS = 2000;

/** Keep-alives within the time a session may be idle. */
const PULSES = 3;

/** Refusals that pass by themselves. */
const PASSING = new Set(["overloaded", "too_many_streams", "too_many_sessions", "not_ready", "draining"]);

/** Errors that say that the session can't be gone on with, though another one may be begun. */
const SESSION_GONE = new Set(["not_found", "too_slow"]);

/** Why a server ends a session of a client that may begin another. */
const GO_ON_AFTER = new Set(["draining", "session_limit", "idle"]);

export class Connection {
  #options;
  #credential;
  #listener;
  #packets;
  #socket = null;
  #live = false;
  #over = false;
  #finishing = false;
  #attempts = 0;
  #timer = 0;
  #watch = 0;
  #idleS = 60;
  #sentAt = 0;
  #heardAt = 0;
  /** When data was given to the browser last while none was waiting there. */
  #clearAt = 0;
  /** The server's session: its id, where it begins on our time line, the last event heard, the next word. */
  #session = null;
  #doneSample = 0;
  #committedS = 0;

  /**
   * @param {object} options of the protocol; `sample_rate` is needed
   * @param {string} credential an API key or client token, or nothing
   * @param {object} listener committed(words), partial(text), language(code, probability), connected(), lost(seconds),
   *   refused(code, seconds), slowed(reason, lag), draining(seconds), ended(code, message): code is "client" where all
   *   went well
   */
  constructor(options, credential, listener) {
    this.#options = options;
    this.#credential = credential;
    this.#listener = listener;
    this.#packets = new Packets(options.sample_rate);
    this.#watch = setInterval(() => this.#look(), WATCH_MS);
    addEventListener("offline", this.#wentOffline);
    addEventListener("online", this.#cameOnline);
  }

  /** Seconds of audio given so far. */
  get givenS() {
    return this.#packets.end / this.#packets.rate;
  }

  /** Seconds given that the server has not finished with. */
  get lagS() {
    const doneS = Math.max(this.#doneSample / this.#packets.rate, this.#committedS);
    return Math.max(0, this.givenS - doneS);
  }

  /** Bytes that wait in the browser; for sources that are faster than speech. */
  get waitingBytes() {
    return this.#live ? this.#socket.bufferedAmount : Infinity;
  }

  open() {
    clearTimeout(this.#timer);
    const address = new URL(PATH, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const protocols = this.#credential ? [SUBPROTOCOL, "token", this.#credential] : [SUBPROTOCOL];
    const socket = new WebSocket(address, protocols);
    this.#socket = socket;
    this.#heardAt = performance.now();
    socket.onopen = () => this.#say(this.#greeting());
    socket.onmessage = (message) => this.#receive(JSON.parse(message.data));
    socket.onclose = () => this.#lost();
  }

  /** @param {Int16Array} samples mono, at the rate agreed */
  send(samples) {
    if (this.#over || this.#finishing) return;
    const packets = this.#packets.append(samples);
    if (this.#live) for (const packet of packets) this.#sendPacket(packet);
  }

  /** No more audio will come: the last words, and then `ended`, follow. */
  finish() {
    if (this.#finishing || this.#over) return;
    this.#finishing = true;
    if (this.#live) this.#say({ type: "close" });
  }

  /** End at once; what was not told yet is lost. */
  abandon() {
    if (this.#over) return;
    const socket = this.#detach();
    this.#stop();
    socket?.close(1000);
  }

  // ---------------------------------------------------------------- what is said

  #greeting() {
    if (this.#session) return { type: "resume", session_id: this.#session.id, after: this.#session.heard };
    return { type: "options", ...this.#options };
  }

  #say(message) {
    this.#socket.send(JSON.stringify(message));
    this.#sentAt = performance.now();
  }

  #sendPacket(packet) {
    const message = new Uint8Array(HEADER_BYTES + packet.samples.byteLength);
    new DataView(message.buffer).setUint32(0, packet.number, true);
    const { buffer, byteOffset, byteLength } = packet.samples;
    message.set(new Uint8Array(buffer, byteOffset, byteLength), HEADER_BYTES);
    if (!this.#socket.bufferedAmount) this.#clearAt = performance.now();
    this.#socket.send(message);
    this.#sentAt = performance.now();
  }

  // ---------------------------------------------------------------- what is heard

  #receive(message) {
    this.#heardAt = performance.now();
    if (message.type === "ready") return this.#ready(message);
    if (message.type === "error" && message.fatal) return this.#refused(message);
    const session = this.#session;
    if (!session || message.n <= session.heard) return;
    session.heard = message.n;
    switch (message.type) {
      case "committed":
        return this.#committed(message);
      case "partial":
        return this.#listener.partial(message.text);
      case "final":
        return this.#listener.partial("");
      case "acknowledged":
        this.#doneSample = session.base + message.sample;
        return this.#packets.forgetBefore(this.#doneSample);
      case "language":
        return this.#listener.language(message.language, message.probability);
      case "slowed":
        return this.#listener.slowed(message.reason, message.lag);
      case "draining":
        return this.#listener.draining(message.within);
      case "closed":
        return this.#closed(message);
    }
  }

  #ready(message) {
    if (!message.resumed) {
      const longest = Math.floor((message.limits.message_bytes - HEADER_BYTES) / SAMPLE_BYTES);
      this.#session = {
        id: message.session_id,
        base: this.#packets.restart(this.#doneSample, longest),
        heard: -1,
        nextWord: 0,
        repeatedUntilS: this.#committedS,
      };
    }
    const unsent = this.#packets.from(message.next_audio);
    if (unsent.length && unsent[0].number > message.next_audio) {
      // Away for so long that audio had to be forgotten: this session can't have it any more.
      this.#detach().close(1000);
      return this.#beginAgain(this.#doneSample);
    }
    this.#idleS = message.limits.idle;
    this.#attempts = 0;
    this.#live = true;
    for (const packet of unsent) this.#sendPacket(packet);
    if (this.#finishing) this.#say({ type: "close" });
    this.#listener.connected();
  }

  #committed(message) {
    const session = this.#session;
    const baseS = session.base / this.#packets.rate;
    const words = [];
    for (const word of message.words) {
      if (word.id < session.nextWord) continue;
      session.nextWord = word.id + 1;
      const start = word.start + baseS;
      // A session that was begun anew hears again what was committed behind the last acknowledged sample.
      if (start < session.repeatedUntilS) continue;
      words.push({ text: word.text, start, end: word.end + baseS });
    }
    if (!words.length) return;
    this.#committedS = Math.max(this.#committedS, words.at(-1).end);
    this.#listener.committed(words);
  }

  #refused({ code, message, retry_after: hint }) {
    this.#detach()?.close();
    if (SESSION_GONE.has(code) && this.#session) return this.#beginAgain(this.#doneSample);
    const seconds = hint ?? REFUSED_RETRY_S;
    if (PASSING.has(code) && seconds <= LONGEST_WAIT_S) {
      this.#listener.refused(code, seconds);
      return this.#openIn(seconds);
    }
    this.#end(code, message, hint);
  }

  #closed({ reason, audio }) {
    this.#detach()?.close();
    if (this.#finishing && (reason === "client" || !this.#missing(audio))) return this.#end("client", "");
    if (!GO_ON_AFTER.has(reason)) return this.#end(reason, "");
    this.#beginAgain(this.#session.base + Math.round(audio * this.#packets.rate));
  }

  /** Whether audio was given that the session, with so many seconds of it, did not take. */
  #missing(audioS) {
    const taken = this.#session.base + Math.round(audioS * this.#packets.rate);
    return this.#packets.end > taken + this.#packets.rate / 1000;
  }

  // ---------------------------------------------------------------- coming and going

  #beginAgain(sample) {
    this.#session = null;
    this.#doneSample = sample;
    this.#openIn(RETRY_S[0]);
  }

  #lost() {
    this.#detach();
    const seconds = RETRY_S[Math.min(this.#attempts++, RETRY_S.length - 1)];
    this.#listener.lost(seconds);
    this.#openIn(seconds);
  }

  #openIn(seconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.open(), seconds * 1000);
  }

  /** Hear nothing more from the present socket, which may go on dying for a while. */
  #detach() {
    const socket = this.#socket;
    this.#socket = null;
    this.#live = false;
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    return socket;
  }

  #look() {
    if (!this.#live) return;
    const now = performance.now();
    const silentMs = now - Math.max(this.#heardAt, this.#clearAt);
    if (this.#socket.bufferedAmount && silentMs > SILENT_S * 1000) this.#cut();
    else if (now - this.#sentAt > (this.#idleS * 1000) / PULSES) this.#say({ type: "keep_alive" });
  }

  /** Take the connection for lost. Closed without a code, so that the server keeps the session. */
  #cut() {
    this.#detach()?.close();
    this.#lost();
  }

  #wentOffline = () => {
    if (!this.#over && this.#socket) this.#cut();
  };

  #cameOnline = () => {
    if (!this.#over && !this.#socket) this.open();
  };

  #end(code, message, hint) {
    this.#stop();
    this.#listener.ended(code, message, hint);
  }

  #stop() {
    this.#over = true;
    clearTimeout(this.#timer);
    clearInterval(this.#watch);
    removeEventListener("offline", this.#wentOffline);
    removeEventListener("online", this.#cameOnline);
  }
}
