/** The microphone as a source of audio. */

/** What Whisper hears; where the browser can't resample to it, its own rate is sent. */
const WANTED_RATE = 16000;

/** How long the audio thread may take to hand over the rest. */
const REST_MS = 500;

/** Why there is no sound from the microphone: `reason` is insecure, refused, absent, busy or failed. */
export class MicrophoneError extends Error {
  constructor(reason, cause) {
    super(reason, { cause });
    this.reason = reason;
  }
}

const REASONS = {
  NotAllowedError: "refused",
  SecurityError: "refused",
  NotFoundError: "absent",
  OverconstrainedError: "absent",
  NotReadableError: "busy",
  AbortError: "busy",
};

export class Microphone {
  #media;
  #context;
  #node;
  #give = () => {};
  #stopped;

  constructor(media, context, node) {
    this.#media = media;
    this.#context = context;
    this.#node = node;
    this.rate = context.sampleRate;
  }

  /** Ask for the microphone. Throws `MicrophoneError`. */
  static async open() {
    if (!navigator.mediaDevices?.getUserMedia || !globalThis.AudioWorkletNode) {
      throw new MicrophoneError(isSecureContext ? "failed" : "insecure");
    }
    let media;
    try {
      // Whisper was trained on sound as it is; what makes speech pleasant for people takes away from it.
      media = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true },
      });
    } catch (error) {
      throw new MicrophoneError(REASONS[error.name] ?? "failed", error);
    }
    try {
      return await Microphone.#listen(media);
    } catch (error) {
      for (const track of media.getTracks()) track.stop();
      throw new MicrophoneError("failed", error);
    }
  }

  static async #listen(media) {
    let context = new AudioContext({ sampleRate: WANTED_RATE });
    let source;
    try {
      source = context.createMediaStreamSource(media);
    } catch {
      await context.close();
      context = new AudioContext();
      source = context.createMediaStreamSource(media);
    }
    await context.audioWorklet.addModule(new URL("./capture.js", import.meta.url));
    const node = new AudioWorkletNode(context, "capture", {
      numberOfOutputs: 0,
      channelCount: 1,
      channelCountMode: "explicit",
    });
    source.connect(node);
    return new Microphone(media, context, node);
  }

  /**
   * @param {(samples: Int16Array) => void} give
   * @param {() => void} end called when the microphone is taken away
   */
  async start(give, end) {
    this.#give = give;
    this.#node.port.onmessage = ({ data }) => data && this.#give(data);
    this.#media.getAudioTracks()[0].onended = end;
    // Phones interrupt the sound for a call, and say so only by the state.
    this.#context.onstatechange = () => {
      if (this.#context.state !== "running" && this.#context.state !== "closed") this.#context.resume();
    };
    await this.#context.resume();
  }

  /** Give what was heard up to now, and stop. May be said again. */
  stop() {
    return (this.#stopped ??= this.#stop());
  }

  async #stop() {
    this.#context.onstatechange = null;
    await new Promise((resolve) => {
      this.#node.port.onmessage = ({ data }) => (data ? this.#give(data) : resolve());
      this.#node.port.postMessage("stop");
      setTimeout(resolve, REST_MS);
    });
    for (const track of this.#media.getTracks()) track.stop();
    await this.#context.close();
  }
}
