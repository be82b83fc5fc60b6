// The page of `newsletter preview`: what is chosen stands in the URL, what is shown comes from /state, saves from /events.
"use strict";

const form = document.getElementById("choices");
const usual = { width: innerWidth >= 1130 ? "both" : innerWidth >= 740 ? "desktop" : "phone", part: "html", scheme: "light", images: "on", styles: "on" };
const pixels = { phone: 375, desktop: 700 };
let state = JSON.parse(document.getElementById("state").textContent);

const find = (selector) => document.querySelector(selector);
const many = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const asked = () => new URLSearchParams(location.search);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function languageName(code) {
  try {
    const name = new Intl.DisplayNames([code], { type: "language" }).of(code);
    return name[0].toLocaleUpperCase(code) + name.slice(1);
  } catch {
    return code;
  }
}

// --- choices: the form and the URL say the same -------------------------------------------------------------------------

function choices() {
  return Object.fromEntries(new FormData(form));
}

function readUrl() {
  for (const [name, value] of Object.entries(usual)) {
    const wanted = asked().get(name);
    const inputs = [...form.querySelectorAll(`[name=${name}]`)];
    (inputs.find((input) => input.value === wanted) ?? inputs.find((input) => input.value === value)).checked = true;
  }
}

function writeUrl() {
  const query = new URLSearchParams();
  for (const input of form.querySelectorAll("select, input:checked")) {
    if (input.value && usual[input.name] !== input.value) query.set(input.name, input.value);
  }
  history.replaceState(null, "", String(query) ? `?${query}` : location.pathname);
}

// --- showing -------------------------------------------------------------------------------------------------------------

function fillChoices() {
  const select = form.elements.issue;
  if ([...select.options].map((option) => option.value).join() !== state.issues.join()) {
    select.replaceChildren(...state.issues.map((name) => element("option", { value: name, textContent: name })));
  }
  select.value = state.issue;
  select.disabled = !state.issues.length;
  const codes = state.languages.filter((code) => state.editions[code]);
  const shown = codes.length ? codes : state.languages;
  const box = find("#languages");
  const before = form.querySelector("[name=language]:checked")?.value ?? asked().get("language");
  const chosen = shown.includes(before) ? before : shown[0];
  const radios = [...box.querySelectorAll("input")];
  if (radios.map((radio) => radio.value).join() !== shown.join()) {
    box.querySelectorAll("label").forEach((label) => label.remove());
    for (const code of shown) {
      const radio = element("input", { type: "radio", name: "language", value: code });
      box.append(element("label", {}, radio, element("span", { textContent: languageName(code), lang: code })));
    }
  }
  box.hidden = !shown.length;
  for (const radio of box.querySelectorAll("input")) radio.checked = radio.value === chosen;
}

function showFindings() {
  const panel = find("#problems");
  const count = (severity) => state.findings.filter((finding) => finding.severity === severity).length;
  const counts = ["error", "warning", "note"].filter(count).map((severity) => many(count(severity), severity));
  const summary = counts.join(", ");
  const failed = count("error") > 0;
  panel.hidden = !state.findings.length;
  panel.classList.toggle("error", failed);
  if (failed && panel.dataset.failed !== "yes") panel.open = true;
  panel.dataset.failed = failed ? "yes" : "";
  panel.querySelector("h2").textContent = summary;
  panel.querySelector("ul").replaceChildren(...state.findings.map((finding) => {
    const line = element("p", {}, element("b", { textContent: finding.severity }), " ");
    if (finding.place) line.append(element("code", { textContent: finding.place }), " ");
    line.append(finding.message);
    const item = element("li", { className: finding.severity, title: finding.code }, line);
    if (finding.help) item.append(element("p", { className: "next", textContent: `→ ${finding.help}` }));
    return item;
  }));
  find("#sound").hidden = state.findings.length > 0;
  find("#sound").textContent = "No problems found";
  document.title = `${failed ? `⚠ ${summary} · ` : ""}${state.issue || "Preview"} · Preview`;
  return summary || "no problems found";
}

function showInbox(edition, language) {
  find("#inbox").hidden = !edition;
  if (!edition) return;
  find("#inbox .from strong").textContent = edition.sender || edition.address;
  find("#inbox .from span").textContent = edition.sender ? edition.address : "";
  const line = find("#inbox .line");
  line.lang = language;
  line.dir = edition.direction;
  line.title = line.querySelector("strong").textContent = edition.subject;
  line.querySelector("span").textContent = edition.preheader;
  const number = new Intl.NumberFormat("en");
  find("#inbox .size span").textContent = `${number.format(edition.size)} of ${number.format(state.limit)} bytes`;
  find("#inbox .size").title = "Gmail hides what comes after that many bytes of HTML, the unsubscribe link included";
  Object.assign(find("#inbox meter"), { max: state.limit, high: 90000, optimum: 0, value: edition.size });
}

function showMessage() {
  const chosen = choices();
  const language = chosen.language;
  const edition = state.editions[language];
  const stage = find("#stage");
  form.querySelectorAll("[data-part=html]").forEach((group) => { group.disabled = chosen.part === "text"; });
  showInbox(edition, language);
  find("#stale").hidden = !edition?.stale;
  find("#nothing").hidden = Boolean(edition);
  find("#nothing").textContent = state.findings.some((finding) => finding.severity === "error")
    ? "The message can be shown as soon as the errors above are mended. Save, and this page follows by itself."
    : "There is no message to show yet.";
  stage.hidden = !edition;
  stage.classList.toggle("stale", Boolean(edition?.stale));
  if (!edition) {
    stage.replaceChildren();
    return;
  }
  const widths = chosen.width === "both" ? ["phone", "desktop"] : [chosen.width];
  stage.querySelectorAll("figure").forEach((figure) => {
    if (!widths.includes(figure.dataset.width)) figure.remove();
  });
  for (const width of widths) {
    const figure = stage.querySelector(`[data-width=${width}]`) ?? newFigure(stage, width);
    const paper = figure.querySelector(".paper");
    const label = `${languageName(language)}, ${width}, ${chosen.part === "text" ? "plain text" : chosen.scheme}`;
    paper.classList.toggle("dark", chosen.scheme === "dark");
    if (chosen.part === "text") showText(paper, edition, language, label);
    else showFrame(paper, edition, chosen, label);
  }
}

function newFigure(stage, width) {
  const name = width === "phone" ? "Phone" : "Desktop";
  const caption = element("figcaption", { textContent: `${name}, ${pixels[width]} pixels` });
  const figure = element("figure", {}, caption, element("div", { className: "paper" }));
  figure.dataset.width = width;
  figure.style.width = `${pixels[width] + 2 + scrollbar()}px`;
  if (width === "phone") stage.prepend(figure);
  else stage.append(figure);
  return figure;
}

// The width of a scroll bar: a phone lays it over the message, so the frame gets that much more.
function scrollbar() {
  const box = element("div", { className: "scrolling" });
  document.body.append(box);
  const width = box.offsetWidth - box.clientWidth;
  box.remove();
  return width;
}

function showText(paper, edition, language, label) {
  const old = paper.querySelector("pre");
  const pre = old ?? element("pre", { tabIndex: 0 });
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", label);
  pre.lang = language;
  pre.dir = edition.direction;
  if (pre.textContent !== edition.text) pre.textContent = edition.text;
  if (!old) paper.replaceChildren(pre);
}

// The next frame loads behind the one in sight and then takes its place, so that nothing flickers.
function showFrame(paper, edition, chosen, label) {
  const query = new URLSearchParams({ issue: state.issue, language: chosen.language, scheme: chosen.scheme, images: chosen.images, styles: chosen.styles, version: edition.digest });
  const address = `/message?${query}#${state.changed}`;
  const newest = paper.lastElementChild;
  if (newest?.dataset.address === address) return;
  const frame = element("iframe", { className: "coming", title: label });
  frame.sandbox = "allow-popups allow-popups-to-escape-sandbox";
  frame.referrerPolicy = "no-referrer";
  frame.dataset.address = address;
  frame.style.colorScheme = chosen.scheme;
  frame.addEventListener("load", () => {
    if (frame !== paper.lastElementChild) return;
    frame.className = "";
    while (paper.firstElementChild !== frame) paper.firstElementChild.remove(); // to move the frame would load it again
  }, { once: true });
  frame.src = address;
  paper.append(frame);
}

// `unseen` is for those who hear the page instead of seeing it.
function say(text, unseen = "") {
  find("#status").replaceChildren(text, element("span", { className: "unseen", textContent: ` ${unseen}` }));
  find("#lost").hidden = true;
}

function show() {
  fillChoices();
  const summary = showFindings();
  showMessage();
  writeUrl();
  say(`Checked at ${new Date().toLocaleTimeString("en-GB")}`, summary);
}

// --- following -----------------------------------------------------------------------------------------------------------

let latest = 0;

async function update() {
  const mine = ++latest;
  try {
    const answer = await fetch(`/state?${new URLSearchParams({ issue: form.elements.issue.value })}`);
    if (!answer.ok) throw new Error(await answer.text());
    const next = await answer.json();
    if (mine !== latest) return; // a later question has been asked
    state = next;
    show();
  } catch {
    if (mine === latest) lose();
  }
}

function lose() {
  find("#status").textContent = "Not connected";
  find("#lost").hidden = false;
}

// A browser opens few connections to one place, so a tab that nobody sees gives its own back.
let events = null;

function listen() {
  events?.close();
  events = null;
  if (document.hidden) return;
  events = new EventSource("/events");
  events.onmessage = (event) => {
    if (event.data !== state.revision || !find("#lost").hidden) update();
  };
  events.onerror = () => {
    lose();
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 1000);
  };
}

form.addEventListener("change", (event) => {
  if (event.target.name === "issue") update();
  else {
    showMessage();
    writeUrl();
  }
});
form.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("visibilitychange", listen);
readUrl();
show();
listen();
