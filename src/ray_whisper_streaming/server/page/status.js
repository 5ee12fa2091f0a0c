/** The page of the pools' state: asks once a second for what is new. */

import { Plot } from "./plot.js";

const ASK_MS = 1000;
const SPAN_S = 300;

const STATES = {
  ready: "Ready",
  starting: "Starting: no worker is ready",
  draining: "Going down: nobody new is let in",
};

const whole = (value) => String(Math.round(value));
const seconds = (value) => (value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 1 : 0)} s`);
const one = (name) => [{ name, label: "" }];

const PLOTS = [
  { title: "Open streams", series: one("streams"), show: whole, least: 4 },
  {
    title: "Behind the speaker",
    series: [
      { name: "lag_p50_s", label: "median" },
      { name: "lag_p90_s", label: "90 %" },
      { name: "lag_p99_s", label: "99 %" },
    ],
    show: seconds,
    least: 2,
  },
  { title: "Jobs waiting", series: one("queued"), show: whole, least: 4 },
  { title: "Wait for a worker", series: one("queue_wait_s"), show: seconds, least: 0.1 },
  { title: "Jobs in a batch", series: one("batch_size"), show: (value) => value.toFixed(1), least: 4 },
  { title: "Real-time factor", series: one("real_time_factor"), show: (value) => value.toPrecision(2), least: 0.1 },
  { title: "Workers busy", series: one("busy"), show: (value) => `${Math.round(value * 100)} %`, least: 1 },
  { title: "Workers", series: one("workers"), show: whole, least: 2 },
];

const find = (id) => document.getElementById(id);
const plots = PLOTS.map((facts) => {
  const root = document.createElement("section");
  root.className = "plot";
  find("plots").append(root);
  return new Plot(root, facts, SPAN_S);
});

let points = [];
let names = [];
let chosen;
let askedAt = performance.now();

async function ask() {
  try {
    const last = points.at(-1)?.n ?? -1;
    const answer = await fetch(`/status.json?after=${last < 0 ? "" : last}`);
    if (!answer.ok) throw new Error(String(answer.status));
    show(await answer.json());
  } catch {
    setState("The server does not answer", "lost");
    age();
    draw();
  }
  setTimeout(ask, ASK_MS);
}

/** The points that are here already grow older by this page's clock. */
function age() {
  const now = performance.now();
  const passedS = (now - askedAt) / 1000;
  askedAt = now;
  for (const point of points) point.age_s += passedS;
  points = points.filter((point) => point.age_s <= SPAN_S);
}

function show({ state, models, points: fresh }) {
  age();
  // A server that was started anew counts from 0 again.
  const again = fresh.length && points.length && fresh[0].n <= points.at(-1).n;
  points = again ? fresh : [...points, ...fresh];
  setState(STATES[state] ?? state, state);
  offer(models);
  draw();
}

/** Each model has workers of its own: the figures are of one of them. */
function draw() {
  const mine = points.filter((point) => point.model === chosen);
  find("sessions").textContent = mine.at(-1)?.sessions ?? "–";
  for (const plot of plots) plot.draw(mine);
}

/** Let one of several models be chosen; a single one is just named. */
function offer(models) {
  if (models.join("\n") === names.join("\n")) return;
  names = models;
  if (!names.includes(chosen)) chosen = names[0];
  if (names.length < 2) {
    find("model").textContent = chosen;
    return;
  }
  const select = document.createElement("select");
  select.ariaLabel = "Model";
  select.append(...names.map((name) => new Option(name, name, false, name === chosen)));
  select.addEventListener("change", () => {
    chosen = select.value;
    draw();
  });
  find("model").replaceChildren(select);
}

/** Only what changes is written: screen readers read it aloud. */
function setState(text, kind) {
  const state = find("state");
  if (state.textContent === text) return;
  state.textContent = text;
  state.dataset.kind = kind;
}

ask();
