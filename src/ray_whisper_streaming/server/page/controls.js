/** What the user may choose: source, recording, language, model, key. */

const MODELS = "/v1/models";
const CHOICES = "/page/choices.json";
const ENGLISH_ONLY = ".en";

/** The language of those who want it found out. */
export const AUTO = "auto";

export class Controls {
  #form;
  #languages = [];
  #models = [];

  /** @param {HTMLFormElement} form */
  constructor(form) {
    this.#form = form;
    form.addEventListener("change", (event) => this.#changed(event.target));
    this.#showFields();
  }

  /** microphone, file or sample */
  get source() {
    return this.#form.elements.source.value;
  }

  get file() {
    return this.#form.elements.file.files[0];
  }

  get sample() {
    return this.#form.elements.sample.value;
  }

  get credential() {
    return this.#form.elements.key.value.trim();
  }

  get pace() {
    return { fast: this.#form.elements.fast.checked, sound: this.#form.elements.sound.checked };
  }

  /** The options of a session that are the user's to choose. */
  get options() {
    const { language, model } = this.#form.elements;
    const chosen = { language: language.value || AUTO };
    return this.#models.length > 1 ? { ...chosen, model: model.value } : chosen;
  }

  /** Fetch what there is to choose from. */
  async load() {
    const { languages, samples } = await (await fetch(CHOICES)).json();
    this.#languages = languages;
    const { sample } = this.#form.elements;
    sample.replaceChildren(...samples.map(({ file, title, seconds }) => choice(file, `${title} (${Math.round(seconds)} s)`)));
    this.#offerLanguages();
    await this.#loadModels();
  }

  /** Ask for the key: the server let nobody in without one. */
  askForKey() {
    this.#form.querySelector("#key-field").hidden = false;
    this.#form.elements.key.focus();
  }

  /** While captions run, nothing can be chosen. */
  set disabled(disabled) {
    for (const set of this.#form.querySelectorAll("fieldset")) set.disabled = disabled;
  }

  async #loadModels() {
    const { credential } = this;
    const headers = credential ? { Authorization: `Bearer ${credential}` } : {};
    const answer = await fetch(MODELS, { headers });
    if (answer.status === 401) this.#form.querySelector("#key-field").hidden = false;
    if (!answer.ok) return;
    this.#models = (await answer.json()).data.map((model) => model.id);
    this.#form.elements.model.replaceChildren(...this.#models.map((name) => choice(name, name)));
    this.#form.querySelector("#model-field").hidden = this.#models.length < 2;
    this.#offerLanguages();
  }

  #offerLanguages() {
    const { language, model } = this.#form.elements;
    const before = language.value;
    const englishOnly = (model.value || "").endsWith(ENGLISH_ONLY);
    const offered = englishOnly
      ? [choice("en", "English")]
      : [choice(AUTO, "Detect"), ...this.#languages.map(({ code, name }) => choice(code, name))];
    language.replaceChildren(...offered);
    if (offered.some((each) => each.value === before)) language.value = before;
  }

  #changed(element) {
    if (element.name === "source") this.#showFields();
    if (element.name === "model") this.#offerLanguages();
    if (element.name === "key") this.#loadModels();
    if (element.name === "fast") this.#form.elements.sound.disabled = element.checked;
  }

  #showFields() {
    for (const field of this.#form.querySelectorAll("[data-for]")) {
      field.hidden = !field.dataset.for.split(" ").includes(this.source);
    }
  }
}

function choice(value, text) {
  return new Option(text, value);
}
