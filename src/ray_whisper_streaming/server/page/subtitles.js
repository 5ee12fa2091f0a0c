/**
 * Words as subtitles, cut as the package's Python does it (`subtitles.py`, which says where the figures are from): at
 * sentences and pauses and, where one is too long for a cue, into parts of like length.
 */

const LINE_LENGTH = 42;
const MAX_CUE_S = 7;
const MIN_CUE_S = 5 / 6;
const LETTERS_PER_S = 20;
const PAUSE_S = 1;
const CLAUSE_BONUS = 16;
const SENTENCE_END = /[.?!。？！…।؟۔։]$/u;
const CLAUSE_END = /[,;:–—،、，；：]$/u;
const MARK = /\p{Mn}/u;
const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\u33ff\u3400-\u4dbf\u4e00-\ua4cf\ua960-\ua97f\uac00-\ud7a3\uf900-\ufaff\ufe10-\ufe19\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6\u{20000}-\u{3fffd}]/u;

/** @param {{text: string, start: number, end: number}[]} words in order */
export function makeCues(words) {
  const groups = sentences(words).flatMap(fitting);
  return groups.map((group, index) => {
    const start = group[0].start;
    const readingS = width(join(group)) / LETTERS_PER_S;
    let end = Math.min(Math.max(group.at(-1).end, start + MIN_CUE_S, start + readingS), start + MAX_CUE_S);
    const following = groups[index + 1]?.[0].start ?? -1;
    if (following > start) end = Math.min(end, following);
    return { start, end, lines: lines(group) };
  });
}

export function toSrt(words) {
  const cue = ({ start, end, lines }, index) =>
    `${index + 1}\n${clock(start, ",")} --> ${clock(end, ",")}\n${lines.join("\n")}\n`;
  return makeCues(words).map(cue).join("\n");
}

export function toVtt(words) {
  const cue = ({ start, end, lines }) =>
    `${clock(start, ".")} --> ${clock(end, ".")}\n${lines.map(escape).join("\n")}\n`;
  return ["WEBVTT\n", ...makeCues(words).map(cue)].join("\n");
}

function sentences(words) {
  const found = [];
  let open = false;
  for (const word of words) {
    if (open && word.start - found.at(-1).at(-1).end > PAUSE_S) open = false;
    if (!open) found.push([]);
    found.at(-1).push(word);
    open = !SENTENCE_END.test(word.text.trimEnd());
  }
  return found;
}

function fitting(words) {
  const short = words.at(-1).end - words[0].start <= MAX_CUE_S;
  if (words.length === 1 || (short && lines(words).every((line) => width(line) <= LINE_LENGTH))) return [words];
  const middle = bestBreak(words);
  return [...fitting(words.slice(0, middle)), ...fitting(words.slice(middle))];
}

function lines(words) {
  const text = join(words);
  if (words.length === 1 || width(text) <= LINE_LENGTH) return [text];
  const middle = bestBreak(words);
  return [join(words.slice(0, middle)), join(words.slice(middle))];
}

function bestBreak(words) {
  const widths = words.map((word) => width(word.text));
  const total = widths.reduce((sum, each) => sum + each, 0);
  let before = 0;
  let best = 1;
  let bestCost = Infinity;
  for (let index = 1; index < words.length; index++) {
    before += widths[index - 1];
    const clause = CLAUSE_END.test(words[index - 1].text.trimEnd());
    const cost = Math.abs(total - 2 * before) - (clause ? CLAUSE_BONUS : 0);
    if (cost < bestCost) [best, bestCost] = [index, cost];
  }
  return best;
}

function join(words) {
  return words.map((word) => word.text).join("").trim();
}

/** The room a text takes, in Latin letters. */
function width(text) {
  let sum = 0;
  for (const char of text) sum += MARK.test(char) ? 0 : WIDE.test(char) ? 2 : 1;
  return sum;
}

function escape(line) {
  return line.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function clock(seconds, point) {
  const milliseconds = Math.round(seconds * 1000);
  const part = (unit, size, digits) => String(Math.floor(milliseconds / unit) % size).padStart(digits, "0");
  const hours = String(Math.floor(milliseconds / 3_600_000)).padStart(2, "0");
  return `${hours}:${part(60_000, 60, 2)}:${part(1000, 60, 2)}${point}${part(1, 1000, 3)}`;
}
