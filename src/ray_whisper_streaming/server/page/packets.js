/**
 * Audio on its way: packets with running numbers on one time line of samples, kept until the server is done with them,
 * so that they can be sent again after a lost connection.
 */

/** A connection that stays lost must not fill the memory: ten minutes at 16 kHz are 19 MB. */
const KEPT_S = 600;

export class Packets {
  #kept = [];
  #next = 0;

  /** @param {number} rate samples per second */
  constructor(rate) {
    this.rate = rate;
    /** Samples appended so far. */
    this.end = 0;
  }

  /** The number that the next packet gets. */
  get next() {
    return this.#next;
  }

  /** @param {Int16Array} samples at least one */
  append(samples) {
    const packet = { number: this.#next++, start: this.end, samples };
    this.end += samples.length;
    this.#kept.push(packet);
    this.forgetBefore(this.end - KEPT_S * this.rate);
    return packet;
  }

  /** Forget the packets that end before a sample. */
  forgetBefore(sample) {
    const first = this.#kept.findIndex((packet) => packet.start + packet.samples.length > sample);
    this.#kept.splice(0, first < 0 ? this.#kept.length : first);
  }

  /** The kept packets from a number on. */
  from(number) {
    return this.#kept.filter((packet) => packet.number >= number);
  }

  /** Forget all before a sample exactly, so that the first packet kept begins with it. */
  cutBefore(sample) {
    this.forgetBefore(sample);
    const first = this.#kept[0];
    if (!first || first.start >= sample) return;
    first.samples = first.samples.subarray(sample - first.start);
    first.start = sample;
  }

  /** The first packet kept; none where there is nothing to send again. */
  get first() {
    return this.#kept[0];
  }
}
