/** A recording as a source of audio: at the pace it was spoken, or as fast as it is taken. */

const RATE = 16000;
const FULL_SCALE = 32767;

const TICK_MS = 100;

/** Timers of hidden pages fire once a minute. A gap longer than this is the sleep of a machine: no time to catch up with. */
const LONGEST_GAP_MS = 120_000;

/** As fast as it is taken: sent at a time, and what may be on its way or undecoded meanwhile. */
const PIECE_S = 0.5;
const MAX_WAITING_BYTES = 256 * 1024;
const MAX_LAG_S = 60;

export class Recording {
  #samples;
  #flow;
  #sound;
  #player = null;
  #timer = 0;
  #at = 0;
  rate = RATE;

  /**
   * @param {Int16Array} samples
   * @param {{fast: boolean, sound: boolean}} how
   */
  constructor(samples, { fast, sound }) {
    this.#samples = samples;
    this.#flow = fast ? this.#hurry : this.#pace;
    this.#sound = sound && !fast;
  }

  /** Read any file that the browser can play; throws where it can't. */
  static async open(bytes, how) {
    const buffer = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes);
    const mix = new Int16Array(buffer.length);
    const channels = Array.from({ length: buffer.numberOfChannels }, (_, index) => buffer.getChannelData(index));
    for (let index = 0; index < mix.length; index++) {
      let sum = 0;
      for (const channel of channels) sum += channel[index];
      mix[index] = Math.max(-1, Math.min(1, sum / channels.length)) * FULL_SCALE;
    }
    return new Recording(mix, how);
  }

  /**
   * @param {(samples: Int16Array) => void} give
   * @param {() => void} end called behind the last samples
   * @param {{waitingBytes: number, lagS: number}} taker says how much of what was given still waits
   */
  async start(give, end, taker) {
    if (this.#sound) await this.#play();
    this.#flow(give, end, taker);
  }

  async stop() {
    clearTimeout(this.#timer);
    await this.#player?.close();
    this.#player = null;
  }

  #pace(give, end) {
    let lastAt = performance.now();
    let playedMs = 0;
    const tick = () => {
      // By the clock, not by the tick: timers of hidden pages are slow.
      const now = performance.now();
      playedMs += Math.min(now - lastAt, LONGEST_GAP_MS);
      lastAt = now;
      this.#giveUntil(Math.round((playedMs / 1000) * RATE), give);
      if (this.#at < this.#samples.length) this.#timer = setTimeout(tick, TICK_MS);
      else end();
    };
    tick();
  }

  #hurry(give, end, taker) {
    const tick = () => {
      while (taker.waitingBytes < MAX_WAITING_BYTES && taker.lagS < MAX_LAG_S && this.#at < this.#samples.length) {
        this.#giveUntil(this.#at + PIECE_S * RATE, give);
      }
      if (this.#at < this.#samples.length) this.#timer = setTimeout(tick, TICK_MS);
      else end();
    };
    tick();
  }

  #giveUntil(sample, give) {
    const until = Math.min(sample, this.#samples.length);
    if (until > this.#at) give(this.#samples.subarray(this.#at, until));
    this.#at = Math.max(this.#at, until);
  }

  async #play() {
    const player = new AudioContext();
    this.#player = player;
    const buffer = player.createBuffer(1, Math.max(1, this.#samples.length), RATE);
    buffer.copyToChannel(Float32Array.from(this.#samples, (sample) => sample / FULL_SCALE), 0);
    const source = player.createBufferSource();
    source.buffer = buffer;
    source.connect(player.destination);
    source.start();
  }
}
