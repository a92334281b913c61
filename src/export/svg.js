"use strict";
(function () {
  var margin = 10, charWidth = 6.65;
  var root = document.documentElement;
  var full = root.viewBox.baseVal.width - 2 * margin;
  var frames = Array.prototype.map.call(document.querySelectorAll(".f"), function (g) {
    var rect = g.querySelector("rect"), text = g.querySelector("text");
    return { g: g, rect: rect, text: text, label: text.dataset.label, x: +rect.getAttribute("x"),
             w: +rect.getAttribute("width"), y: +rect.getAttribute("y") };
  });
  var reset = document.getElementById("reset"), found = document.getElementById("found");

  function columns(c) { return c.codePointAt(0) < 0x1100 ? 1 : 2; }

  function fit(label, width) {
    var room = Math.floor((width - 6) / charWidth), used = 0, cut = "", chars = Array.from(label);
    if (chars.reduce(function (sum, c) { return sum + columns(c); }, 0) <= room) return label;
    if (room < 3) return "";
    for (var i = 0; i < chars.length; i++) {
      used += columns(chars[i]);
      if (used > room - 2) break;
      cut += chars[i];
    }
    return cut + "..";
  }

  function zoom(target) {
    var scale = full / target.w, slack = 0.011;
    frames.forEach(function (f) {
      var above = f.y <= target.y;
      var inside = above && f.x >= target.x - slack && f.x + f.w <= target.x + target.w + slack;
      var ancestor = !above && f.x <= target.x + slack && f.x + f.w >= target.x + target.w - slack;
      f.g.style.display = inside || ancestor ? "" : "none";
      f.g.classList.toggle("dim", ancestor);
      var x = ancestor ? margin : margin + (f.x - target.x) * scale;
      var w = ancestor ? full : f.w * scale;
      f.rect.setAttribute("x", x);
      f.rect.setAttribute("width", Math.max(w, 0));
      f.text.setAttribute("x", x + 3);
      f.text.textContent = fit(f.label, w);
    });
    reset.setAttribute("visibility", target.w < full ? "visible" : "hidden");
  }

  // Nested matches count once: the union of their intervals.
  function search(pattern) {
    var expression = null;
    try { expression = pattern ? new RegExp(pattern, "i") : null; } catch (e) { found.textContent = "bad pattern"; return; }
    var hits = frames.filter(function (f) {
      var hit = expression !== null && expression.test(f.g.querySelector("title").textContent.replace(/: [^:]*$/, ""));
      f.g.classList.toggle("hit", hit);
      return hit;
    }).sort(function (a, b) { return a.x - b.x || b.w - a.w; });
    var end = 0, sum = 0;
    hits.forEach(function (f) {
      sum += Math.max(0, f.x + f.w - Math.max(end, f.x));
      end = Math.max(end, f.x + f.w);
    });
    found.textContent = expression ? "matched: " + (100 * sum / full).toFixed(1) + " %" : "";
  }

  function ask() {
    var pattern = prompt("Search function or file (regular expression; empty: clear)");
    if (pattern !== null) search(pattern);
  }

  // The root is at the bottom: a picture taller than the window opens there, not at the tips of its deepest stacks.
  window.scrollTo(0, root.viewBox.baseVal.height);

  var all = frames.reduce(function (a, b) { return b.y > a.y ? b : a; });
  frames.forEach(function (f) { f.g.addEventListener("click", function () { zoom(f); }); });
  reset.addEventListener("click", function () { zoom(all); });
  document.getElementById("search").addEventListener("click", ask);
  window.addEventListener("keydown", function (event) {
    if (event.key === "/" || ((event.ctrlKey || event.metaKey) && event.key === "f")) { event.preventDefault(); ask(); }
    if (event.key === "Escape") { zoom(all); search(""); }
  });
})();
