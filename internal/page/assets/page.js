// Refreshes the parts of the page while somebody looks at it. All of it works without this.
"use strict";
(() => {
  const every = 5000;
  const parts = () => document.querySelectorAll("[data-part]");
  if (!parts().length) return;
  let asking = false;

  // A part in which text is selected waits for the next time.
  const selected = (part) => {
    const s = document.getSelection();
    return s && !s.isCollapsed && s.containsNode(part, true);
  };

  // What can be scrolled and used stays where it is, with the focus on it.
  const replace = (old, fresh) => {
    if (old.isEqualNode(fresh) || selected(old)) return;
    const usable = (part) => [...part.querySelectorAll(".scroll, a")];
    const before = usable(old).map((e) => ({ left: e.scrollLeft, top: e.scrollTop, focus: e === document.activeElement }));
    old.replaceWith(fresh);
    usable(fresh).forEach((e, i) => {
      if (!before[i]) return;
      [e.scrollLeft, e.scrollTop] = [before[i].left, before[i].top];
      if (before[i].focus) e.focus({ preventScroll: true });
    });
  };

  // show replaces what has changed. A part that has come or gone, as a transition does, stands
  // where it is in the new page.
  const show = (text) => {
    const page = new DOMParser().parseFromString(text, "text/html");
    if (!page.getElementById("now")) return;
    parts().forEach((old) => {
      if (!page.getElementById(old.id)) old.remove();
    });
    page.querySelectorAll("[data-part]").forEach((fresh) => {
      const old = document.getElementById(fresh.id);
      const before = fresh.previousElementSibling;
      fresh = document.importNode(fresh, true);
      if (old) replace(old, fresh);
      else if (before && before.id) document.getElementById(before.id)?.after(fresh);
    });
    document.title = page.title;
  };

  const refresh = async () => {
    if (document.hidden || asking) return;
    asking = true;
    try {
      const answer = await fetch(location.href, { signal: AbortSignal.timeout(4 * every) });
      if (!answer.ok) throw new Error(answer.statusText);
      show(await answer.text());
      document.body.classList.remove("stale");
    } catch {
      document.body.classList.add("stale"); // what is seen is from before
    } finally {
      asking = false;
    }
  };
  setInterval(refresh, every);
  document.addEventListener("visibilitychange", refresh);
})();
