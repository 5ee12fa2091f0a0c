/** A small plot of the last minutes, as SVG. */

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 72;

/** Points further apart than this are not joined: nobody looked in between. */
const GAP_S = 5;

/** A scale ends at one of these, times a power of ten. */
const ROUND = [1, 2, 2.5, 5, 10];

export class Plot {
  #svg;
  #top;
  #value;
  #span;
  #facts;

  /**
   * @param {HTMLElement} root filled by the plot
   * @param {{title: string, series: {name: string, label: string}[], show: (value: number) => string,
   *   least: number}} facts `least` is where the scale ends at least
   * @param {number} spanS seconds from the left to the right
   */
  constructor(root, facts, spanS) {
    this.#facts = facts;
    this.#span = spanS;
    const title = document.createElement("h2");
    title.textContent = facts.title;
    this.#value = document.createElement("p");
    this.#value.className = "value";
    this.#svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.#top = document.createElement("p");
    this.#top.className = "scale";
    root.append(title, this.#value, this.#svg, this.#top);
  }

  /** @param {object[]} points oldest first, each with `age_s` and the series' names; null where there is no value */
  draw(points) {
    const { series, show, title, least } = this.#facts;
    const values = series.flatMap(({ name }) => points.map((point) => point[name])).filter((value) => value !== null);
    const top = roundUp(Math.max(least, ...values));
    const last = points.at(-1);
    const current = series.map(({ name, label }) => {
      const value = last?.[name] ?? null;
      return [label, value === null ? "–" : show(value)];
    });
    this.#value.replaceChildren(...current.map(([label, text], index) => labelled(label, text, index)));
    this.#top.textContent = `Last ${Math.round(this.#span / 60)} minutes · 0 to ${show(top)}`;
    const spoken = current.map(([label, text]) => `${label} ${text}`.trim()).join(", ");
    const most = values.length ? `; at most ${show(Math.max(...values))} in that time` : "";
    this.#svg.setAttribute("aria-label", `${title}, last ${Math.round(this.#span / 60)} minutes: now ${spoken}${most}`);
    this.#svg.replaceChildren(
      drawn("path", { class: "axis", d: `M0 ${HEIGHT - 0.5}H${WIDTH}` }),
      ...series.map(({ name }, index) => drawn("path", { class: `line line-${index}`, d: this.#path(points, name, top) })),
    );
  }

  #path(points, name, top) {
    let path = "";
    let joinedAge = Infinity;
    for (const point of points) {
      const value = point[name];
      if (value === null || point.age_s > this.#span) continue;
      const x = WIDTH * (1 - point.age_s / this.#span);
      const y = HEIGHT - 1 - (HEIGHT - 3) * Math.min(1, value / top);
      // A point alone is drawn as a dash too short to be seen as one.
      path += joinedAge - point.age_s <= GAP_S ? `L${x.toFixed(1)} ${y.toFixed(1)}` : `M${x.toFixed(1)} ${y.toFixed(1)}h.1`;
      joinedAge = point.age_s;
    }
    return path;
  }
}

function labelled(label, text, index) {
  const value = document.createElement("strong");
  value.textContent = text;
  if (!label) return value;
  const name = document.createElement("span");
  name.className = `label label-${index}`;
  name.textContent = label;
  // Together, so that no line ends between them.
  const pair = document.createElement("span");
  pair.append(name, value);
  return pair;
}

function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return ROUND.map((step) => step * power).find((step) => step >= value * 0.9999);
}

function drawn(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
