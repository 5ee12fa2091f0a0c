/** The page of live captions: a source of audio, a connection, and the text that comes of them. */

import { Connection } from "./connection.js";
import { AUTO, Controls } from "./controls.js";
import * as messages from "./messages.js";
import { Microphone, MicrophoneError } from "./microphone.js";
import { Recording } from "./recording.js";
import { toSrt, toVtt } from "./subtitles.js";
import { Transcript } from "./transcript.js";

const LOOK_MS = 250;

/** The meter shows what is louder than this, in decibels below the loudest there is. */
const QUIETEST_DB = -60;

/** A microphone that gives nothing but noughts for so long is muted. */
const MUTED_S = 4;

const find = (id) => document.getElementById(id);
const button = find("start");
const controls = new Controls(find("settings"));
const transcript = new Transcript(find("transcript"));
const languageNames = new Intl.DisplayNames(["en"], { type: "language", fallback: "code" });

let phase = "idle"; // idle, starting, running, finishing
/** Counts the starts: what was begun for one that was cancelled must not go on for the next. */
let starts = 0;
let source = null;
let connection = null;
let looking = 0;
let awake = null;
let mutedS = 0;
/** Where this run begins on the transcript's time line: the microphone goes on behind what is there. */
let baseS = 0;
let untilS = 0;
let lastSource = "";

function setPhase(next) {
  phase = next;
  document.body.dataset.phase = next;
  button.textContent = { idle: "Start", starting: "Cancel", running: "Stop", finishing: "Cancel" }[next];
  controls.disabled = next !== "idle";
  if (next === "idle") showLevel(QUIETEST_DB);
}

function tell(text, kind = "plain") {
  const notice = find("notice");
  notice.textContent = text;
  notice.dataset.kind = kind;
}

async function start() {
  if (!globalThis.WebSocket) return tell(messages.NO_WEBSOCKET, "bad");
  setPhase("starting");
  tell("");
  const number = ++starts;
  let opened;
  try {
    opened = await openSource();
  } catch (error) {
    if (number !== starts) return;
    setPhase("idle");
    return tell(error.message, "bad");
  }
  if (number !== starts) return opened.stop();
  if (lastSource !== controls.source || controls.source !== "microphone") clear();
  lastSource = controls.source;
  baseS = untilS;
  mutedS = 0;
  if (controls.options.language !== AUTO) showLanguage(controls.options.language);
  source = opened;
  tell(messages.CONNECTING);
  connection = new Connection({ ...controls.options, sample_rate: source.rate }, controls.credential, listener);
  connection.open();
  looking = setInterval(look, LOOK_MS);
  stayAwake();
  await source.start(give, sourceEnded, connection);
}

/** Throws an error whose message is for the user. */
async function openSource() {
  try {
    if (controls.source === "microphone") return await Microphone.open();
  } catch (error) {
    throw new Error(messages.microphoneMessage(error instanceof MicrophoneError ? error.reason : "failed"));
  }
  const bytes = await (controls.source === "file" ? readFile() : fetchSample());
  try {
    return await Recording.open(bytes, controls.pace);
  } catch {
    throw new Error(messages.FILE_UNREADABLE);
  }
}

async function readFile() {
  if (!controls.file) throw new Error(messages.NO_FILE);
  return controls.file.arrayBuffer();
}

async function fetchSample() {
  const answer = await fetch(`/samples/${encodeURIComponent(controls.sample)}`).catch(() => null);
  if (!answer?.ok) throw new Error(messages.SAMPLE_MISSING);
  return answer.arrayBuffer();
}

function give(samples) {
  if (!connection) return; // it was refused while the source was still starting
  connection.send(samples);
  let squares = 0;
  for (const sample of samples) squares += sample * sample;
  const loudness = Math.sqrt(squares / samples.length) / 32768;
  showLevel(20 * Math.log10(loudness || 1e-6));
  watchForMute(loudness, samples.length);
}

function watchForMute(loudness, count) {
  if (controls.source !== "microphone") return;
  const before = mutedS;
  mutedS = loudness ? 0 : mutedS + count / source.rate;
  if (mutedS >= MUTED_S && before < MUTED_S) tell(messages.SILENT, "wait");
  if (!mutedS && before >= MUTED_S) tell("");
}

function sourceEnded() {
  if (phase !== "starting" && phase !== "running") return;
  const taken = controls.source === "microphone";
  finish();
  if (taken) tell(messages.MICROPHONE_GONE, "wait");
}

/** The source is over: the words that are not here yet follow. */
async function finish() {
  setPhase("finishing");
  tell(messages.FINISHING);
  const ending = connection;
  await source.stop();
  ending.finish();
}

async function cancel() {
  starts++;
  const stopped = source;
  connection?.abandon();
  if (stopped) settle(messages.ABANDONED);
  else setPhase("idle");
  await stopped?.stop();
}

function settle(text, kind) {
  clearInterval(looking);
  awake?.release();
  untilS = baseS + connection.givenS;
  source = connection = null;
  transcript.setTail("");
  find("lag").textContent = "–";
  setPhase("idle");
  tell(text, kind);
  showActions();
}

const listener = {
  connected() {
    if (phase === "starting") setPhase("running");
    tell(phase === "finishing" ? messages.FINISHING : "");
  },
  committed(words) {
    transcript.commit(words.map(({ text, start, end }) => ({ text, start: start + baseS, end: end + baseS })));
    showActions();
  },
  partial(text) {
    transcript.setTail(text);
    showActions();
  },
  language: showLanguage,
  lost(seconds) {
    tell(messages.lostMessage(seconds, phase !== "finishing"), "wait");
  },
  refused(code, seconds) {
    tell(messages.refusedMessage(code, seconds), "wait");
  },
  slowed(reason, lag) {
    tell(messages.slowedMessage(reason, lag), reason === "recovered" ? "plain" : "wait");
  },
  draining(seconds) {
    tell(messages.drainingMessage(seconds), "wait");
  },
  ended(code, message, retryAfter) {
    const stopped = source;
    if (code === "client") settle("");
    else settle(messages.endedMessage(code, message, retryAfter), "bad");
    if (code === "unauthorized") controls.askForKey();
    stopped.stop();
  },
};

/** A phone that darkens its screen stops listening as well. Browsers may refuse, and then it is the user's to see to. */
async function stayAwake() {
  try {
    awake = await navigator.wakeLock?.request("screen");
  } catch {
    awake = null;
  }
}

// ---------------------------------------------------------------- what is shown

function look() {
  const seconds = Math.floor(baseS + connection.givenS);
  find("time").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  find("lag").textContent = `${connection.lagS.toFixed(1)} s`;
}

function showLanguage(code) {
  find("language-heard").textContent = languageNames.of(code) ?? code;
  find("transcript").lang = code;
}

function showLevel(decibels) {
  const share = Math.max(0, Math.min(1, 1 - decibels / QUIETEST_DB));
  const meter = find("level");
  meter.setAttribute("aria-valuenow", Math.round(share * 100));
  meter.firstElementChild.style.transform = `scaleX(${share.toFixed(3)})`;
}

function showActions() {
  find("hint").hidden = !transcript.isEmpty;
  find("actions").hidden = !transcript.words.length;
}

function clear() {
  transcript.clear();
  showActions();
  if (connection) return; // it goes on, in the time and the language that it has
  untilS = 0;
  find("time").textContent = "0:00";
  find("language-heard").textContent = "–";
}

// ---------------------------------------------------------------- what is taken along

async function copy() {
  try {
    await navigator.clipboard.writeText(transcript.text());
    tell(messages.COPIED);
  } catch {
    tell(messages.NOT_COPIED, "bad");
  }
}

function download(text, type, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  link.download = `captions.${ending}`;
  link.click();
  // The browser reads it after this turn.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const ACTIONS = {
  copy,
  text: () => download(transcript.text(), "text/plain", "txt"),
  srt: () => download(toSrt(transcript.words), "application/x-subrip", "srt"),
  vtt: () => download(toVtt(transcript.words), "text/vtt", "vtt"),
  clear,
};

find("actions").addEventListener("click", ({ target }) => ACTIONS[target.dataset.action]?.());
find("settings").addEventListener("submit", (event) => {
  event.preventDefault();
  if (phase !== "idle") return;
  button.focus();
  start();
});
button.addEventListener("click", () => {
  if (phase === "idle") start();
  else if (phase === "running") finish();
  else cancel();
});

setPhase("idle");
showActions();
controls.load().catch(() => tell("The server does not answer. Reload the page in a while.", "bad"));
