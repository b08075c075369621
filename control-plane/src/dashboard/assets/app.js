// Keeps the page as the server has it: a tick tells that something changed, the page is fetched anew
// and what differs is put in place (idiomorph), so that focus, selection and scrolling stay.
"use strict";

(() => {
  const SILENCE = 5000; // ticks come every 2 s
  const away = document.getElementById("away");
  const live = () => document.getElementById("live");

  let shown = Number(live().dataset.version);
  let wanted = shown;
  let offset = Number(live().dataset.now) - Date.now(); // the server's clock less ours
  let heard = Date.now();
  let trueAt = Date.now(); // when what is shown was fetched
  let busy = false;
  let timer = 0;
  let source = null;

  // ---- fetching and putting in place

  const isTyped = (node) => node.nodeType === 1 && node.matches("input, select, textarea");

  function place(text) {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const next = fresh.getElementById("live");
    if (!next) return;
    document.title = fresh.title;
    Idiomorph.morph(live(), next, {
      morphStyle: "outerHTML",
      restoreFocus: true,
      callbacks: {
        beforeNodeMorphed: (old) => !(isTyped(old) || old.id === "theme" || old.id === "cross" || old.id === "readout"),
        beforeNodeRemoved: (old) => old.id !== "theme",
      },
    });
    shown = Number(next.dataset.version);
    offset = Number(next.dataset.now) - Date.now();
    trueAt = Date.now();
    dress();
  }

  async function renew() {
    if (busy || document.hidden) return;
    busy = true;
    clearTimeout(timer);
    timer = 0;
    const began = Date.now();
    const address = location.href;
    try {
      const answer = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(10000) });
      const text = await answer.text();
      if ((answer.ok || answer.status === 404) && address === location.href) place(text);
    } catch {
      // The ticks tell whether the server is away.
    }
    busy = false;
    // Slow browsers and slow ways are given time.
    const pace = Math.max(Number(live().dataset.pace), 2 * (Date.now() - began));
    if (wanted > shown || address !== location.href) timer = setTimeout(renew, pace);
  }

  function hear(event) {
    const tick = JSON.parse(event.data);
    heard = Date.now();
    offset = tick.now - heard;
    // A server that was started anew counts anew.
    if (tick.version < shown) shown = 0;
    wanted = tick.version;
    if (wanted > shown && !timer) renew();
    tell();
  }

  // Hidden pages do not listen: a browser has few connections to one server, for all its pages.
  function listen() {
    source?.close();
    source = null;
    if (document.hidden) return;
    source = new EventSource("/live");
    source.onmessage = hear;
    source.onerror = () => {
      heard = Math.min(heard, Date.now() - SILENCE);
      tell();
      // Refused for good, unless it is asked again.
      if (source?.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
    };
  }

  // ---- what is said while the server does not answer

  function tell() {
    if (document.hidden) return;
    const isAway = Date.now() - heard >= SILENCE;
    document.documentElement.classList.toggle("is-away", isAway);
    if (!isAway) {
      if (!away.hidden) {
        away.hidden = true;
        away.textContent = "";
      }
      return;
    }
    if (away.hidden) {
      away.textContent = "The dashboard's server does not answer. What you see is ";
      const old = document.createElement("span");
      old.setAttribute("aria-live", "off");
      away.append(old, " old.");
      away.hidden = false;
    }
    away.querySelector("span").textContent = age((Date.now() - trueAt) / 1000);
  }

  function age(seconds) {
    const whole = Math.max(0, Math.floor(seconds));
    if (whole < 120) return `${whole} s`;
    if (whole < 7200) return `${Math.floor(whole / 60)} min`;
    if (whole < 172800) return `${Math.floor(whole / 3600)} h`;
    return `${Math.floor(whole / 86400)} d`;
  }

  function ages() {
    const now = Date.now() + offset;
    for (const time of document.querySelectorAll("[data-since]")) {
      const text = age((now - Number(time.dataset.since)) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
  }

  // ---- theme: as the system has it, light, dark

  const THEMES = ["auto", "light", "dark"];

  function theme() {
    try {
      const kept = localStorage.getItem("theme");
      return THEMES.includes(kept) ? kept : "auto";
    } catch {
      return "auto";
    }
  }

  function dress() {
    const chosen = theme();
    document.documentElement.dataset.theme = chosen;
    const button = document.getElementById("theme");
    button.hidden = false;
    button.textContent = { auto: "◐", light: "☀", dark: "☾" }[chosen];
    button.setAttribute("aria-label", `Theme: ${chosen}`);
    button.title = `Theme: ${chosen}`;
    describe();
  }

  // ---- the matrix

  let at = null; // row and column

  function matrix() {
    const picture = document.getElementById("matrix");
    if (!picture) return null;
    const { room, cell, names, ids, cells, legend } = picture.dataset;
    return {
      picture,
      room: Number(room),
      cell: Number(cell),
      names: names.split("\n"),
      ids: ids.split(" "),
      cells,
      legend: Object.fromEntries(legend.split(";").map((entry) => [entry[0], entry.slice(2)])),
    };
  }

  function describe() {
    const it = matrix();
    const cross = document.getElementById("cross");
    if (!it || !cross) return;
    const count = it.names.length;
    if (!at || at.row >= count || at.column >= count) {
      cross.setAttribute("d", "");
      return;
    }
    const { room, cell } = it;
    const [x, y, end] = [room + at.column * cell, room + at.row * cell, room + count * cell];
    cross.setAttribute("d", `M${room} ${y}H${end}M${room} ${y + cell}H${end}M${x} ${room}V${end}M${x + cell} ${room}V${end}`);
    const says =
      at.row === at.column
        ? `${it.names[at.row]} itself`
        : `${it.names[at.row]} → ${it.names[at.column]}: ${it.legend[it.cells[at.row * count + at.column]]}`;
    const readout = document.getElementById("readout");
    if (readout.textContent !== says) readout.textContent = says;
  }

  function pointed(event) {
    const it = matrix();
    if (!it || !it.picture.contains(event.target)) return false;
    const box = it.picture.getBoundingClientRect();
    const scale = it.picture.viewBox.baseVal.width / box.width;
    const column = Math.floor(((event.clientX - box.left) * scale - it.room) / it.cell);
    const row = Math.floor(((event.clientY - box.top) * scale - it.room) / it.cell);
    const isInside = row >= 0 && column >= 0 && row < it.names.length && column < it.names.length;
    if (isInside) at = { row, column };
    describe();
    return isInside;
  }

  function follow() {
    const it = matrix();
    if (it && at && at.row !== at.column) location.href = `/tunnels/${it.ids[at.row]}/${it.ids[at.column]}`;
  }

  const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  function step(event) {
    const it = matrix();
    if (!it || event.target.id !== "grid" || event.ctrlKey || event.metaKey || event.altKey) return;
    const move = STEPS[event.key];
    if (move) {
      event.preventDefault();
      const bound = (value) => Math.min(it.names.length - 1, Math.max(0, value));
      at = at ? { row: bound(at.row + move[0]), column: bound(at.column + move[1]) } : { row: 0, column: 0 };
      describe();
      const grid = event.target;
      const [x, y] = [it.room + at.column * it.cell, it.room + at.row * it.cell];
      if (x < grid.scrollLeft || x + it.cell > grid.scrollLeft + grid.clientWidth) grid.scrollLeft = x - grid.clientWidth / 2;
      if (y < grid.scrollTop || y + it.cell > grid.scrollTop + grid.clientHeight) grid.scrollTop = y - grid.clientHeight / 2;
    } else if (event.key === "Enter") {
      follow();
    }
  }

  // ---- what people do; on the document, since the page is put in place anew

  let typing = 0;

  document.addEventListener("input", (event) => {
    const field = event.target;
    if (!field.matches("input[data-live]")) return;
    clearTimeout(typing);
    typing = setTimeout(() => {
      const query = new URLSearchParams(location.search);
      query.delete("page");
      if (field.value.trim()) query.set("q", field.value);
      else query.delete("q");
      const text = query.toString();
      history.replaceState(null, "", text ? `${location.pathname}?${text}` : location.pathname);
      renew();
    }, 150);
  });

  document.addEventListener("submit", (event) => {
    // It is filtered already.
    if (event.target.querySelector("input[data-live]")) event.preventDefault();
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest("#theme")) {
      const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
      try {
        localStorage.setItem("theme", next);
      } catch {
        // It stays as it is.
      }
      dress();
      return;
    }
    const target = event.target.closest("[data-href]");
    if (target) location.href = target.dataset.href;
    else if (pointed(event)) follow();
  });

  document.addEventListener("pointermove", pointed, { passive: true });

  document.addEventListener("keydown", (event) => {
    step(event);
    const isTyping = event.target.matches("input, select, textarea");
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      document.getElementById("find").focus();
    }
  });

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) heard = Date.now();
    listen();
    tell();
  });

  document.documentElement.classList.add("has-script");
  dress();
  ages();
  listen();
  setInterval(() => {
    ages();
    tell();
  }, 1000);
})();
