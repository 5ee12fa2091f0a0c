/** What the page says, in plain words. */

const MICROPHONE = {
  insecure:
    "Browsers give the microphone only to pages from this machine or over HTTPS. Open the page that way, or choose a file.",
  refused: "The microphone is not allowed for this page. Allow it in the browser's address bar, then start again.",
  absent: "No microphone was found. Plug one in, or choose a file.",
  busy: "The microphone can't be used; another program may hold it. Close that one, then start again.",
  failed: "This browser gives no sound from the microphone. Try another one, or choose a file.",
};

const REFUSED = {
  overloaded: "The server is busy",
  too_many_streams: "All the streams of this key are in use",
  too_many_sessions: "This key has opened many sessions within a minute",
  not_ready: "The server is still loading its model",
  draining: "The server is restarting",
};

const ENDED = {
  unauthorized: "This server wants an API key or a token. Enter it above, then start again.",
  forbidden: "This page, or this token, may not open captions on the server.",
  audio_quota: "The audio that this key may send in an hour is used up.",
  stream_failed: "The server could not go on recognising speech. The words so far are kept; start again in a while.",
  idle: "The server ended the captions, as no sound came for a while.",
};

export const NO_WEBSOCKET = "This browser has no WebSocket, which live captions need. Any browser of the last years will do.";
export const FILE_UNREADABLE = "This file has no sound that the browser can read. Try MP3, M4A, WAV, FLAC or Ogg.";
export const NO_FILE = "Choose a file first.";
export const SAMPLE_MISSING = "The sample could not be fetched from the server.";
export const MICROPHONE_GONE = "The microphone was taken away. The captions end here.";
export const SILENT = "No sound comes from the microphone. Is it muted?";
export const CONNECTING = "Connecting…";
export const FINISHING = "Waiting for the last words…";
export const RECOVERED = "Caught up again.";
export const COPIED = "Copied.";
export const NOT_COPIED = "The browser did not allow copying. Select the text and copy it by hand.";
export const ABANDONED = "Stopped. The last words may be missing.";

export function microphoneMessage(reason) {
  return MICROPHONE[reason] ?? MICROPHONE.failed;
}

export function lostMessage(seconds, keepsSound) {
  const kept = keepsSound ? " What is said meanwhile is kept." : "";
  return `The connection to the server is lost. Trying again ${inSeconds(seconds)}.${kept}`;
}

export function refusedMessage(code, seconds) {
  return `${REFUSED[code] ?? "The server takes nobody in right now"}. Trying again ${inSeconds(seconds)}; what is said meanwhile is kept.`;
}

export function slowedMessage(reason, lag) {
  if (reason === "recovered") return RECOVERED;
  const why = reason === "failure" ? "A worker failed and its work runs again" : "The server is busy";
  return `${why}: the captions are ${Math.round(lag)} s late. Nothing is lost.`;
}

export function drainingMessage(seconds) {
  return `The server goes down within ${Math.ceil(seconds)} s. The captions go on as soon as it, or another one, is back.`;
}

export function endedMessage(code, message, retryAfter) {
  const known = ENDED[code] ?? REFUSED[code];
  if (!known) return `The server ended the captions: ${message || code}.`;
  return retryAfter ? `${known.replace(/\.$/, "")}. Try again ${inSeconds(retryAfter)}.` : known.replace(/([^.])$/, "$1.");
}

function inSeconds(seconds) {
  if (seconds < 1) return "now";
  if (seconds < 90) return `in ${Math.ceil(seconds)} s`;
  return `in ${Math.ceil(seconds / 60)} minutes`;
}
