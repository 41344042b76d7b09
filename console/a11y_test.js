// Returns, as JSON, what of a page somebody cannot use: who sees little, uses a keyboard, or hears the page.
(() => {
  const problems = [];
  const shown = (e) => e.checkVisibility({ checkVisibilityCSS: true }) && e.getClientRects().length > 0;
  const say = (e, what) => problems.push(`${what}: <${e.tagName.toLowerCase()}${e.id ? " #" + e.id : ""}> ${e.textContent.trim().slice(0, 40)}`);

  // Language, title, one main heading, headings without gaps, landmarks, the skip link.
  if (document.documentElement.lang !== "en") problems.push("no language");
  if (!document.title) problems.push("no title");
  if (document.querySelectorAll("h1").length !== 1) problems.push(`${document.querySelectorAll("h1").length} h1`);
  let level = 0;
  for (const h of document.querySelectorAll("h1,h2,h3,h4,h5,h6")) {
    const next = Number(h.tagName[1]);
    if (next > level + 1) say(h, "a heading leaves out a level");
    if (!h.textContent.trim()) say(h, "an empty heading");
    level = next;
  }
  if (document.querySelectorAll("main").length !== 1) problems.push("not one main");
  const skip = document.querySelector("a");
  if (!skip.classList.contains("skip") || !document.querySelector(skip.getAttribute("href"))) problems.push("no skip link first");
  if (!document.querySelector("[aria-live]")) problems.push("nothing is announced");

  // Names.
  const nameOf = (e) => (e.getAttribute("aria-label") || "").trim() ||
    (e.getAttribute("aria-labelledby") || "").split(" ").map((id) => document.getElementById(id)?.textContent.trim() || "").join(" ").trim() ||
    [...(e.labels || [])].map((l) => l.textContent.trim()).join(" ") || e.textContent.trim() || e.getAttribute("alt") || "";
  for (const e of document.querySelectorAll("a,button,select,textarea,input:not([type=hidden]),progress,meter,svg,section,nav,form[role]")) {
    const label = e.matches("select,textarea,input,progress,meter,section,nav") ? nameOf(Object.assign(e.cloneNode(false), {})) || [...(e.labels || [])].map((l) => l.textContent.trim()).join(" ") : nameOf(e);
    if (!label) say(e, "no name");
    const by = e.getAttribute("aria-labelledby") || e.getAttribute("aria-describedby");
    if (by && !document.getElementById(by)) say(e, "labeled by nothing");
  }
  for (const img of document.querySelectorAll("img")) if (!img.hasAttribute("alt")) say(img, "no alt");
  const ids = new Set();
  for (const e of document.querySelectorAll("[id]")) {
    if (ids.has(e.id)) say(e, "an id twice");
    ids.add(e.id);
  }
  for (const th of document.querySelectorAll("th")) if (!th.scope) say(th, "no scope");

  // The focus comes in the order of the page, and can be seen.
  const stops = [...document.querySelectorAll("a[href],button,select,textarea,input:not([type=hidden]),[tabindex]")];
  for (const e of stops) if (e.tabIndex > 0) say(e, "a tab order of its own");
  const focused = stops.filter((e) => e.tabIndex === 0 && shown(e)).slice(0, 40);
  const before = document.activeElement;
  for (const e of focused) {
    e.focus({ focusVisible: true, preventScroll: true });
    if (document.activeElement !== e) say(e, "cannot be focused");
    else if (getComputedStyle(e).outlineStyle === "none") say(e, "the focus cannot be seen");
  }
  before?.focus?.();
  if (document.activeElement !== before) document.activeElement.blur();

  // Contrast (WCAG 2.2, 1.4.3): 4.5, or 3 for large text.
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = color;
    paint.fillRect(0, 0, 1, 1);
    const d = paint.getImageData(0, 0, 1, 1).data;
    return [d[0], d[1], d[2], d[3] / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = (c) => {
    const [r, g, b] = c.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  for (let t = texts.nextNode(); t; t = texts.nextNode()) {
    const e = t.parentElement;
    if (!t.textContent.trim() || !shown(e) || e.closest(".unseen,.skip,noscript,[aria-disabled=true]")) continue;
    const style = getComputedStyle(e);
    const key = e.className + style.color + style.fontSize + ground(e);
    if (seen.has(key)) continue;
    seen.add(key);
    const below = ground(e);
    const [a, b] = [light(over(rgba(style.color), below)), light(below)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || size >= 18.66 && Number(style.fontWeight) >= 700;
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) say(e, `contrast ${ratio.toFixed(2)}`);
  }

  // Nothing is cut off or needs scrolling to the side, and targets are large enough (2.5.8).
  if (document.documentElement.scrollWidth > window.innerWidth + 1) problems.push(`wider than the window: ${document.documentElement.scrollWidth}`);
  for (const e of document.querySelectorAll("button,select,input:not([type=hidden])")) {
    const box = e.getBoundingClientRect();
    if (shown(e) && (box.height < 24 || box.width < 24)) say(e, "a small target");
  }
  return JSON.stringify(problems);
})()
