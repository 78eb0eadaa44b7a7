// Measures the page that it is added to, and leaves what it found in the title.
const found = {};
found.dark = matchMedia("(prefers-color-scheme: dark)").matches;
found.overflow = document.documentElement.scrollWidth - innerWidth;
const channels = (text) => text.match(/[\d.]+/g).map(Number);
const luminance = (text) => {
  const [r, g, b] = channels(text).slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const back = (element) => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if ((channels(colour)[3] ?? 1) > 0) return colour;
  }
  return "rgb(255, 255, 255)";
};
const contrast = (a, b) => {
  const [x, y] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (x + 0.05) / (y + 0.05);
};
found.background = luminance(back(document.body));
const shown = (element) => element.checkVisibility();
found.texts = [...document.querySelectorAll("h1, h2, p, li, td, th, a, summary, figcaption, data, code")]
  .filter(shown)
  .map((e) => [contrast(getComputedStyle(e).color, back(e)), e.textContent.trim().slice(0, 40)])
  .sort((a, b) => a[0] - b[0])[0];
found.svgTexts = [...document.querySelectorAll("svg.time text")]
  .map((e) => contrast(getComputedStyle(e).fill, back(e.closest("figure")))).sort((a, b) => a - b)[0];
found.colours = Object.fromEntries([...document.querySelectorAll("svg.key rect")]
  .map((e) => [e.getAttribute("class"), getComputedStyle(e).fill]));
found.faintest = Object.entries(found.colours).filter(([, fill]) => fill.startsWith("rgb"))
  .map(([name, fill]) => [contrast(fill, back(document.querySelector("section"))), name]).sort((a, b) => a[0] - b[0])[0];
const focusable = [...document.querySelectorAll("a[href], summary, [tabindex]")].filter(shown);
found.focusable = focusable.length;
found.unfocused = focusable.filter((e) => (e.focus(), document.activeElement !== e)).length;
found.unreachable = [...document.querySelectorAll("*")]
  .filter((e) => shown(e) && e.scrollWidth > e.clientWidth + 1 && ["auto", "scroll"].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).length;
const details = [...document.querySelectorAll("details")];
found.closed = details.filter((e) => !e.open).length;
details.forEach((e) => e.querySelector("summary").click());
found.opened = details.filter((e) => e.open && shown(e.querySelector("tbody tr, pre"))).length;
found.unnamed = [...document.querySelectorAll("svg[role=img]")].filter((e) => !e.getAttribute("aria-label")).length;
found.targets = [...document.querySelectorAll("nav a")].filter((e) => !document.querySelector(e.getAttribute("href"))).length;
found.flame = document.querySelectorAll(".rsalloc-flame").length;
const bar = document.querySelector("#answer svg.bar");
found.bar = [...bar.querySelectorAll("rect")].reduce((sum, rect) => sum + Number(rect.getAttribute("width")), 0) / bar.viewBox.baseVal.width;
const data = (name) => Number(document.querySelector(`data.${name}`)?.value ?? 0);
found.cells = document.querySelectorAll(".tips rect").length;
found.outlines = [...document.querySelectorAll("path.cell")].reduce((sum, e) => sum + e.getAttribute("d").split("M").length - 1, 0);
// Squares are drawn full but for clean pages, so the painted part of their areas is what is not clean. Clipped by what is
// drawn larger than it is in order to be seen.
const area = (selector) => [...document.querySelectorAll(`figure.heap path${selector}`)].reduce((sum, e) =>
  sum + [...e.getAttribute("d").matchAll(/v([\d.]+)/g)].reduce((sum, m) => sum + 13 * Number(m[1]), 0), 0);
const cell = data("cell_bytes");
found.painted = {};
for (const [name, part] of [["p-free", "FreeInSlabs"], ["p-large", "Large"], ["p-dirty", "Dirty"]])
  found.painted[name] = [area("." + name) / 169 * cell, data("picture_" + part)];
document.title = "FOUND" + JSON.stringify(found) + "END";
