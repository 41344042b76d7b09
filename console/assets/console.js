// Keeps a page fresh: fetches it again and replaces the parts that have data-live. Pages work without
// this script; they only stay as they are then.
"use strict";
(() => {
  const announce = document.getElementById("announce");
  const stale = document.getElementById("stale");
  let every = Number(document.body.dataset.every);
  let said = text(document);
  let failures = 0;
  let timer;

  // text is what a screen reader is told when it changes.
  function text(of) {
    const parts = [...of.querySelectorAll("[data-announce]")].map((e) => e.textContent.replace(/\s+/g, " ").trim());
    return parts.join(" ");
  }

  // replace keeps the part in which the focus or a selection is.
  function replace(part, next) {
    const selected = window.getSelection();
    const used = part.contains(document.activeElement) ||
      (selected && !selected.isCollapsed && part.contains(selected.anchorNode));
    if (next && !used && part.innerHTML !== next.innerHTML) {
      part.replaceChildren(...next.childNodes);
    }
  }

  async function renew() {
    try {
      const answer = await fetch(location.href, { headers: { "X-Console-Live": "1" }, cache: "no-store", redirect: "error" });
      if (answer.status === 401) {
        stale.textContent = "The session has ended; this page is not renewed any more.";
        return;
      }
      if (!answer.ok) {
        throw new Error(String(answer.status));
      }
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const now = text(page);
      for (const part of document.querySelectorAll("[data-live]")) {
        replace(part, page.getElementById(part.id));
      }
      for (const part of page.querySelectorAll("[data-live]")) { // a part that was not there
        if (!document.getElementById(part.id)) {
          const before = part.previousElementSibling && document.getElementById(part.previousElementSibling.id);
          if (before) {
            before.after(part);
          }
        }
      }
      if (now !== said) {
        said = now;
        announce.textContent = now;
      }
      every = Number(page.body.dataset.every);
      failures = 0;
      stale.textContent = "";
    } catch {
      failures++;
      stale.textContent = "Not fresh: the console does not answer.";
    }
    plan();
  }

  function plan() {
    clearTimeout(timer);
    if (every > 0) {
      timer = setTimeout(() => (document.hidden ? plan() : renew()), 1000 * every * Math.min(1 + failures, 6));
    }
  }

  plan();
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && every > 0) {
      clearTimeout(timer);
      renew();
    }
  });

  // A button that confirms can be used when the right thing is typed. The server checks it as well.
  const typed = document.querySelector("input[data-wanted]");
  if (typed) {
    const button = typed.form.querySelector("button");
    const check = () => button.setAttribute("aria-disabled", String(typed.value.trim() !== typed.dataset.wanted));
    typed.addEventListener("input", check);
    check();
    typed.form.addEventListener("submit", (e) => {
      if (button.getAttribute("aria-disabled") === "true") {
        e.preventDefault();
        typed.setAttribute("aria-invalid", "true");
        announce.textContent = "What you typed is not what the preview asks for.";
        typed.focus();
      }
    });
  }
})();
