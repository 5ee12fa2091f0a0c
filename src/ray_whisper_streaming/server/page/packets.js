/**
 * Audio on its way: packets with running numbers on one time line of samples, kept until the server is done with them,
 * so that they can be sent again after a lost connection.
 */

/** A connection that stays lost must not fill the memory: ten minutes at 16 kHz are 19 MB. */
const KEPT_S = 600;

/** The longest packet: what is lost on the way is sent again in whole ones. */
const PACKET_S = 0.5;

export class Packets {
  #kept = [];
  #next = 0;
  #longest;

  /** @param {number} rate samples per second */
  constructor(rate) {
    this.rate = rate;
    /** Samples appended so far. */
    this.end = 0;
    this.#longest = Math.round(PACKET_S * rate);
  }

  /**
   * @param {Int16Array} samples any number
   * @returns the packets that they make
   */
  append(samples) {
    const packets = this.#cut(samples, this.end);
    this.end += samples.length;
    this.#kept.push(...packets);
    this.forgetBefore(this.end - KEPT_S * this.rate);
    return packets;
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

  /**
   * Another session begins: number the packets from 0, the first one beginning with a sample, or with the first that is
   * still kept.
   *
   * @param {number} sample all before it is forgotten
   * @param {number} longest samples of a packet that the server takes
   * @returns the sample that the first packet begins with
   */
  restart(sample, longest) {
    this.forgetBefore(sample);
    this.#longest = Math.min(Math.round(PACKET_S * this.rate), longest);
    this.#next = 0;
    const kept = this.#kept;
    this.#kept = [];
    for (const { start, samples } of kept) {
      const begin = Math.max(start, sample);
      this.#kept.push(...this.#cut(samples.subarray(begin - start), begin));
    }
    return this.#kept[0]?.start ?? this.end;
  }

  #cut(samples, start) {
    const packets = [];
    for (let at = 0; at < samples.length; at += this.#longest) {
      packets.push({ number: this.#next++, start: start + at, samples: samples.subarray(at, at + this.#longest) });
    }
    return packets;
  }
}
