/** The captions on the page: committed words, which stay, and behind them what may still change. */

/** Silence between two words that makes a new paragraph. */
const PARAGRAPH_S = 2;

const STEPS = { ArrowRight: 1, ArrowLeft: -1 };

export class Transcript {
  #root;
  #tail = document.createElement("span");
  #paragraph = null;
  #scroller = document.scrollingElement;
  words = [];

  /** @param {HTMLElement} root a live region: committed words are read aloud by screen readers, the tail is not */
  constructor(root) {
    this.#root = root;
    this.#tail.className = "partial";
    this.#tail.setAttribute("aria-hidden", "true");
    root.addEventListener("keydown", (event) => this.#moveFocus(event));
    this.clear();
  }

  get isEmpty() {
    return !this.words.length && !this.#tail.textContent;
  }

  clear() {
    this.words = [];
    this.#tail.textContent = "";
    this.#root.replaceChildren();
    this.#paragraph = null;
  }

  /** Words that never change again. */
  commit(words) {
    this.#following(() => {
      this.#takeFromTail(words);
      let phrase = null;
      for (const word of words) {
        if (this.#beginsParagraph(word)) phrase = null;
        if (!phrase) {
          // One element for all that came together, so that it is read aloud in one go.
          phrase = document.createElement("span");
          this.#openParagraph(word).insertBefore(phrase, this.#tail);
        }
        phrase.append(...this.#shown(word));
        this.words.push(word);
      }
    });
  }

  /** What stands behind the committed words now. */
  setTail(text) {
    this.#following(() => {
      if (text && !this.#paragraph) this.#newParagraph();
      this.#tail.textContent = this.words.length ? text : text.trimStart();
    });
  }

  /** As text: a line for each paragraph. */
  text() {
    let text = "";
    this.words.forEach((word, index) => {
      const before = this.words[index - 1];
      text += before && word.start - before.end >= PARAGRAPH_S ? `\n${word.text.trimStart()}` : word.text;
    });
    return text ? `${text.trim()}\n` : "";
  }

  /** Committed words mostly stood in the tail: the rest of it stays until it is replaced, so that nothing flickers. */
  #takeFromTail(words) {
    const tail = this.#tail.textContent.trimStart();
    const said = words.map((word) => word.text).join("").trimStart();
    this.#tail.textContent = tail.startsWith(said) ? tail.slice(said.length) : "";
  }

  #beginsParagraph(word) {
    const last = this.words.at(-1);
    return !last || word.start - last.end >= PARAGRAPH_S;
  }

  #openParagraph(word) {
    if (!this.#paragraph || (this.words.length && this.#beginsParagraph(word))) this.#newParagraph();
    return this.#paragraph;
  }

  #newParagraph() {
    this.#paragraph = document.createElement("p");
    this.#paragraph.dir = "auto";
    this.#paragraph.append(this.#tail);
    this.#root.append(this.#paragraph);
  }

  #shown(word) {
    const shown = document.createElement("span");
    const times = `${clock(word.start)} to ${clock(word.end)}`;
    shown.className = "word";
    shown.textContent = word.text.trim();
    shown.dataset.time = times;
    shown.setAttribute("aria-description", times);
    // One stop of the tab key for all words; the arrow keys go from word to word.
    shown.tabIndex = this.words.length ? -1 : 0;
    return word.text.startsWith(" ") ? [" ", shown] : [shown];
  }

  #moveFocus(event) {
    const shown = [...this.#root.querySelectorAll(".word")];
    const at = shown.indexOf(document.activeElement);
    if (at < 0) return;
    let next = null;
    if (event.key in STEPS) {
      const turned = getComputedStyle(shown[at]).direction === "rtl" ? -1 : 1;
      next = shown[at + STEPS[event.key] * turned];
    } else if (event.key === "Home") next = shown[0];
    else if (event.key === "End") next = shown.at(-1);
    if (!next) return;
    event.preventDefault();
    shown[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  /** Change the text and, if its end was in sight, keep it there. */
  #following(change) {
    const page = this.#scroller;
    const nearEnd = page.scrollHeight - page.scrollTop - page.clientHeight < 80;
    change();
    if (nearEnd) page.scrollTop = page.scrollHeight;
  }
}

/** Seconds as people read them: 1:02.3 */
export function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const minutes = Math.floor(tenths / 600);
  return `${minutes}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}
