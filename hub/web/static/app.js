// flotilla's pages work without this file. With it they are live:
// one event stream per browser (not per tab) tells which clusters changed,
// and the live part of the page is fetched again and morphed, so that focus and scroll stay.
"use strict";
(() => {
  const $ = (sel) => document.querySelector(sel);
  const live = () => $("#live");
  const page = document.body.dataset.page;

  // Times tick by the hub's clock, not this computer's.
  let skew = 0;
  const readClock = () => {
    const now = live()?.dataset.now;
    if (now) skew = Date.parse(now) - Date.now();
  };
  const span = (s) => s < 60 ? `${s | 0} s` : s < 3600 ? `${(s / 60) | 0} m` : s < 86400 ? `${(s / 3600) | 0} h` : `${(s / 86400) | 0} d`;
  const pad = (n) => String(n | 0).padStart(2, "0");
  const left = (s) => s <= 0 ? "over" : s < 60 ? `${s | 0} s` : s < 3600 ? `${(s / 60) | 0} m ${pad(s % 60)} s`
    : s < 86400 ? `${(s / 3600) | 0} h ${pad((s % 3600) / 60)} m` : `${(s / 86400) | 0} d ${((s % 86400) / 3600) | 0} h`;
  const tick = () => {
    const now = Date.now() + skew;
    for (const t of document.querySelectorAll("time[data-ago], time[data-left]")) {
      const at = Date.parse(t.dateTime);
      const text = "left" in t.dataset ? left((at - now) / 1000)
        : now - at < 2000 ? "just now" : span((now - at) / 1000) + " ago";
      if (t.textContent !== text) t.textContent = text;
    }
  };
  readClock();
  setInterval(tick, 1000);

  // What the page shows and what the stream has told of, as the hub's mark: its instance, and how many changes.
  const marks = (m) => { const [instance, n] = (m ?? "").split("."); return { instance, n: Number(n) || 0 }; };
  let told = marks(live()?.dataset.mark), greeted = false;
  // missed reports whether something changed that neither the page shows nor a message told of.
  const missed = (m) => m.instance !== told.instance || m.n > told.n;
  const note = (m) => { if (missed(m)) told = m; };

  // Refresh: one request at a time, at most one waiting, no more often than the page can bear.
  let busy = false, again = false, dirty = false, pause = 0;
  const refresh = async () => {
    if (page === "login" || page === "problem" || !window.htmx) return;
    if (document.hidden) { dirty = true; return; }
    if (busy) { again = true; return; }
    busy = true; dirty = false;
    const begin = performance.now();
    const known = new Set([...document.querySelectorAll("[id]")].map((e) => e.id));
    const on = $("tr.on")?.id;
    try {
      await htmx.ajax("GET", location.pathname + location.search, { target: "#live", swap: "outerMorph" });
    } catch { /* the stale banner tells */ }
    told = marks(live()?.dataset.mark); // what is really there: where the request failed, the next pulse tries again
    readClock(); tick();
    if (on) document.getElementById(on)?.classList.add("on");
    for (const e of document.querySelectorAll("tr[id], .tile[id]")) if (!known.has(e.id)) e.classList.add("fresh");
    const open = $("#open-drift"), n = live()?.dataset.open;
    if (open && n !== undefined) { open.textContent = n; open.hidden = n === "0"; }
    pause = Math.min(3000, Math.max(150, 3 * (performance.now() - begin)));
    setTimeout(() => { busy = false; if (again) { again = false; refresh(); } }, pause);
  };
  const concerns = (names) => {
    const mine = live()?.dataset.cluster;
    return !mine || names.includes(mine);
  };
  document.addEventListener("visibilitychange", () => { if (!document.hidden && dirty) refresh(); });

  // The stream. Browsers allow six connections to one HTTP/1.1 site, so tabs share one:
  // whoever holds the lock listens and tells the others.
  const sign = $("#stream"), stale = $("#stale");
  let heard = Date.now(), broken = false;
  const show = (ok) => {
    if (!sign) return;
    sign.hidden = false;
    sign.classList.toggle("off", !ok);
    sign.lastElementChild.textContent = ok ? "live" : "not live";
    stale.hidden = ok;
    if (!ok && !broken) $("#stale-since").textContent = new Date(heard).toLocaleTimeString();
    if (ok && broken) refresh();
    broken = !ok;
  };
  const hear = (m) => {
    heard = Date.now();
    show(true);
    const mark = marks(m.mark);
    // A pulse tells of nothing itself, and before the first message nobody listened.
    if (missed(mark) && (m.kind === "pulse" || !greeted) || m.kind === "changed" && concerns(m.data)) refresh();
    note(mark);
    greeted = true;
  };
  const channel = window.BroadcastChannel ? new BroadcastChannel("flotilla") : null;
  if (channel) channel.onmessage = (e) => hear(e.data);
  const listen = () => {
    const es = new EventSource("/events");
    for (const kind of ["pulse", "changed"]) {
      es.addEventListener(kind, (e) => {
        const m = { kind, data: JSON.parse(e.data), mark: e.lastEventId };
        channel?.postMessage(m);
        hear(m);
      });
    }
    es.onerror = () => {
      if (Date.now() - heard > 2000) show(false);
      if (es.readyState !== EventSource.CLOSED) return;
      refresh(); // where the session has ended, the hub answers with the login form
      // A refused stream is not tried again by the browser.
      setTimeout(() => { es.close(); stream = listen(); }, 3000);
    };
    return es;
  };
  let stream = null;
  if (sign) {
    if (navigator.locks && channel) navigator.locks.request("flotilla-events", () => { stream = listen(); return new Promise(() => {}); });
    else {
      const turn = () => { if (document.hidden) { stream?.close(); stream = null; } else if (!stream) { stream = listen(); refresh(); } };
      document.addEventListener("visibilitychange", turn);
      turn();
    }
    setInterval(() => { if (Date.now() - heard > 13000) show(false); }, 1000);
  }

  // Filtering while typing, on the fleet's page.
  const find = $("#find");
  if (find) {
    const here = new URL(location.href);
    if (page === "fleet") find.value = here.searchParams.get("q") ?? "";
    let wait;
    find.addEventListener("input", () => {
      if (page !== "fleet") return;
      clearTimeout(wait);
      wait = setTimeout(() => {
        const u = new URL(location.href);
        if (find.value.trim()) u.searchParams.set("q", find.value.trim()); else u.searchParams.delete("q");
        u.searchParams.delete("page");
        history.replaceState(null, "", u);
        refresh();
      }, 180);
    });
  }
  document.addEventListener("change", (e) => { if (e.target.closest("form.group")) e.target.form.submit(); });

  // Rows lead somewhere; command lines copy themselves.
  document.addEventListener("click", (e) => {
    const code = e.target.closest("code.copy");
    if (code) { copy(code); return; }
    const row = e.target.closest("tr[data-href]");
    if (row && !e.target.closest("a, button, summary") && !String(getSelection())) location.href = row.dataset.href;
  });
  const copy = async (code) => {
    await navigator.clipboard?.writeText(code.textContent);
    code.classList.add("copied");
    setTimeout(() => code.classList.remove("copied"), 1200);
  };

  // Theme: as the system, then light, then dark.
  const theme = $("#theme");
  const set = (t) => {
    if (t) document.documentElement.dataset.theme = t; else delete document.documentElement.dataset.theme;
  };
  set(localStorage.getItem("theme"));
  if (theme) {
    theme.hidden = false;
    theme.addEventListener("click", () => {
      const t = { "": "dark", dark: "light", light: "" }[localStorage.getItem("theme") ?? ""];
      if (t) localStorage.setItem("theme", t); else localStorage.removeItem("theme");
      set(t);
    });
  }

  // Keyboard.
  const help = $("#help"), helpOpen = $("#help-open");
  if (helpOpen) { helpOpen.hidden = false; helpOpen.addEventListener("click", () => help.showModal()); }
  let prefix = "";
  const move = (by) => {
    const rows = [...document.querySelectorAll("tr[data-href]")];
    if (!rows.length) return;
    const at = rows.findIndex((r) => r.classList.contains("on"));
    const to = rows[Math.min(rows.length - 1, Math.max(0, at + by))];
    rows[at]?.classList.remove("on");
    to.classList.add("on");
    to.scrollIntoView({ block: "nearest" });
  };
  document.addEventListener("keydown", (e) => {
    if (e.target.closest("input, select, textarea")) { if (e.key === "Escape") e.target.blur(); return; }
    if (e.key === "Enter" && e.target.matches("code.copy")) { copy(e.target); return; }
    if (e.ctrlKey || e.metaKey || e.altKey || help?.open) return;
    const key = prefix + e.key;
    prefix = "";
    switch (key) {
      case "/": find?.focus(); find?.select(); e.preventDefault(); break;
      case "?": help?.showModal(); break;
      case "g": prefix = "g"; setTimeout(() => { prefix = ""; }, 1000); break;
      case "gf": location.href = "/"; break;
      case "gd": location.href = "/drift"; break;
      case "j": move(1); break;
      case "k": move(-1); break;
      case "Enter": { const row = $("tr.on"); if (row && !e.target.closest("a, button")) location.href = row.dataset.href; break; }
    }
  });
})();
