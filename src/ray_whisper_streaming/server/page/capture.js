/** In the audio thread: the microphone's samples as 16-bit packets, posted to the page. */

const PACKET_S = 0.08;
const FULL_SCALE = 32767;

class Capture extends AudioWorkletProcessor {
  #packet = new Int16Array(Math.round(sampleRate * PACKET_S));
  #filled = 0;
  #ended = false;

  constructor() {
    super();
    // Any message asks for the rest, which is followed by a null.
    this.port.onmessage = () => {
      if (this.#filled) this.port.postMessage(this.#packet.slice(0, this.#filled));
      this.port.postMessage(null);
      this.#ended = true;
    };
  }

  process([input]) {
    const samples = input[0];
    if (samples && !this.#ended) for (const sample of samples) this.#add(sample);
    return !this.#ended;
  }

  #add(sample) {
    this.#packet[this.#filled++] = Math.round(Math.max(-1, Math.min(1, sample)) * FULL_SCALE);
    if (this.#filled === this.#packet.length) {
      this.port.postMessage(this.#packet.slice());
      this.#filled = 0;
    }
  }
}

registerProcessor("capture", Capture);
