// Renews the sections of the page every few seconds. Only what changed is replaced, so that a reader's
// place, the focus and a screen reader are left alone. Without this script the page reloads itself.
"use strict";
(() => {
  const EVERY = 3000;
  const banner = document.getElementById("offline");
  let failures = 0;
  async function renew() {
    try {
      const answer = await fetch(location.href, { cache: "no-store", credentials: "same-origin", headers: { Accept: "text/html" } });
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of document.querySelectorAll("[data-live]")) {
        const next = fresh.getElementById(old.id);
        if (!next) continue;
        if (old.className !== next.className) old.className = next.className;
        if (old.innerHTML !== next.innerHTML && !old.contains(document.activeElement)) old.innerHTML = next.innerHTML;
      }
      document.title = fresh.title;
      document.body.className = fresh.body.className;
      const words = fresh.getElementById("offline");
      if (words) banner.textContent = words.textContent;
      banner.hidden = true;
      failures = 0;
    } catch (error) {
      failures += 1;
      if (failures > 1) banner.hidden = false;
    }
    setTimeout(renew, document.hidden ? EVERY * 5 : EVERY);
  }
  setTimeout(renew, EVERY);
})();
